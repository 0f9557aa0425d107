//! Whatever a Dockerfile says, lowering answers.

use std::fmt::Write as _;

use longshore_dockerfile::parse;
use proptest::prelude::*;

use super::{Images, finish, linux};
use crate::{INSTRUCTIONS_MAX, NamedContext, check, lower, outline};

fn image() -> Images {
    Images::new(&["base", "a", "b"]).with("base", |config| {
        config.config.on_build = vec!["COPY --from=a / /".to_owned(), "RUN x".to_owned()];
    })
}

/// Lowers, checks and outlines; only that it answers matters.
fn answers(text: &str) {
    let parsed = parse(text);
    let mut options = linux();
    options.platforms = vec![
        "linux/amd64".parse().unwrap(),
        "linux/arm64".parse().unwrap(),
    ];
    options.named_contexts = vec![("b".to_owned(), NamedContext::Local("dir".to_owned()))];
    let _ = finish(lower(&parsed, &options, &image()));
    let _ = finish(outline(&parsed, &options, &image()));
    let report = finish(check(&parsed, &options, &image()));
    for found in &report.diagnostics {
        assert!(text.get(found.span.range()).is_some(), "{found:?}");
    }
    for location in report.error.iter().flat_map(|error| &error.locations) {
        assert!(text.get(location.span.range()).is_some(), "{location:?}");
    }
}

/// Texts made of what Dockerfiles are made of.
fn dockerfile() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("base".to_owned()),
        Just("scratch".to_owned()),
        Just("a".to_owned()),
        Just("b".to_owned()),
        Just("$X".to_owned()),
        Just("${X:-a}".to_owned()),
        Just("${X/a/b}".to_owned()),
        Just("/".to_owned()),
        Just("../..".to_owned()),
        Just("X=a".to_owned()),
        Just("80-90/tcp".to_owned()),
        Just("[\"a\", \"b\"]".to_owned()),
        Just("<<EOF".to_owned()),
        Just("\nEOF\n".to_owned()),
        Just("AS b".to_owned()),
        Just("--from=a".to_owned()),
        Just("--from=0".to_owned()),
        Just("--link".to_owned()),
        Just("--parents".to_owned()),
        Just("--chown=a:0".to_owned()),
        Just("--chmod=u+x".to_owned()),
        Just("--platform=$TARGETPLATFORM".to_owned()),
        Just("--mount=type=cache,target=c,uid=1,from=a".to_owned()),
        Just("--mount=type=secret,id=s,env=X".to_owned()),
        Just("--mount=type=ssh".to_owned()),
        Just("--mount=type=$X,source=a,target=/m".to_owned()),
        Just("https://h/r.git#a".to_owned()),
        Just("https://h/f".to_owned()),
        "\\PC{0,6}",
    ];
    let keyword = prop_oneof![
        Just("FROM"),
        Just("RUN"),
        Just("COPY"),
        Just("ADD"),
        Just("ENV"),
        Just("ARG"),
        Just("LABEL"),
        Just("WORKDIR"),
        Just("USER"),
        Just("CMD"),
        Just("ENTRYPOINT"),
        Just("EXPOSE"),
        Just("VOLUME"),
        Just("SHELL"),
        Just("STOPSIGNAL"),
        Just("HEALTHCHECK"),
        Just("ONBUILD"),
        Just("ONBUILD COPY"),
        Just("ONBUILD RUN"),
        Just("MAINTAINER"),
    ];
    let line = (keyword, prop::collection::vec(word, 0..4))
        .prop_map(|(keyword, words)| format!("{keyword} {}", words.join(" ")));
    prop::collection::vec(line, 1..12)
        .prop_map(|lines| format!("FROM base AS a\n{}", lines.join("\n")))
}

proptest! {
    #[test]
    fn every_dockerfile_has_an_answer(text in dockerfile()) {
        answers(&text);
    }

    #[test]
    fn every_text_has_an_answer(text in "\\PC{0,200}") {
        answers(&text);
    }
}

#[test]
fn long_chains_of_stages_do_not_overflow() {
    let mut text = "FROM base AS s0\n".to_owned();
    for stage in 1..3000 {
        write!(
            text,
            "FROM s{} AS s{stage}\nCOPY --from=s{} / /\n",
            stage - 1,
            stage - 1
        )
        .unwrap();
    }
    answers(&text);
}

#[test]
fn what_grows_without_end_is_refused() {
    let fails = |text: &str| {
        finish(lower(&parse(text), &linux(), &image()))
            .unwrap_err()
            .to_string()
    };
    let doubling = "ENV A=$A$A\n".repeat(60);
    assert!(
        fails(&format!("FROM a\nENV A=0123456789\n{doubling}")).contains("longer than written")
    );
    let many = "RUN x\n".repeat(INSTRUCTIONS_MAX);
    assert!(fails(&format!("FROM a\n{many}")).contains("more than 20000 instructions"));
    let ports = "EXPOSE 0-65535\n".repeat(100);
    assert!(fails(&format!("FROM a\n{ports}")).contains("history"));
    let mut environment = "FROM a\n".to_owned();
    for name in 0..5 {
        writeln!(environment, "ENV V{name}={}", "x".repeat(60_000)).unwrap();
        writeln!(
            environment,
            "ENV W{name}=${{V{name}}}{}",
            format!("${{V{name}}}").repeat(10)
        )
        .unwrap();
    }
    assert!(fails(&format!("{environment}RUN x\n")).contains("environment"));
}

#[test]
fn the_future_may_move_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let (parsed, options, images) = (parse("FROM a\n"), linux(), image());
    is_send(&lower(&parsed, &options, &images));
}
