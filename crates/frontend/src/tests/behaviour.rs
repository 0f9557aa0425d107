//! What the corpora do not hold: names, laziness, triggers of images, options, places of errors.

use longshore_dockerfile::check::Rule;
use longshore_dockerfile::ignore::Matcher;
use longshore_dockerfile::parse;
use longshore_graph::{FileActionKind, MountKind, NetworkMode, Op, Ulimit};

use super::{Images, error, execs, files, finish, linux, lowered, names, try_lower};
use crate::{FollowPaths, NoCache, Problem, check, outline, targets};

const MULTI_STAGE: &str = "\
FROM base AS one
RUN make \"$HOME\"
FROM other
WORKDIR /w
COPY --from=one /a /b
RUN x
";

#[test]
fn vertices_are_called_as_buildkit_calls_them() {
    let lowered = lowered(MULTI_STAGE, &linux());
    let expected = [
        "[one 1/2] FROM docker.io/library/base:latest",
        "[stage-1 1/4] FROM docker.io/library/other:latest",
        "[one 2/2] RUN make \"$HOME\"",
        "[stage-1 2/4] WORKDIR /w",
        "[stage-1 3/4] COPY --from=one /a /b",
        "[stage-1 4/4] RUN x",
    ];
    assert_eq!(names(&lowered), expected);
    let (_, run) = lowered.graph.iter().last().unwrap();
    assert_eq!(run.meta.lines, Some((6, 6)));
    assert_eq!(run.meta.stage.as_deref(), Some("stage-1"));
}

#[test]
fn steps_are_numbered_to_the_width_of_their_count() {
    let text = format!(
        "FROM base\n{}",
        "RUN x$RANDOM\n".repeat(3) + &"RUN y\nRUN z\n".repeat(4)
    );
    let lowered = lowered(&text, &linux());
    let names = names(&lowered);
    assert_eq!(names[1], "[ 2/12] RUN x$RANDOM");
    assert_eq!(names[11], "[12/12] RUN z");
}

#[test]
fn names_carry_platforms_where_there_are_several() {
    let mut options = linux();
    options.platforms = vec![
        "linux/amd64".parse().unwrap(),
        "linux/arm64".parse().unwrap(),
    ];
    let text = "FROM --platform=$BUILDPLATFORM base AS b\nARG TARGETARCH\nRUN x\nFROM other\nCOPY --from=b / /\n";
    let lowered = lowered(text, &options);
    assert!(lowered.multi_platform);
    assert_eq!(lowered.platforms.len(), 2);
    let names: Vec<&str> = lowered
        .graph
        .iter()
        .map(|(_, v)| v.meta.name.as_str())
        .collect();
    assert!(names.contains(&"[linux/amd64 b 2/2] RUN x"), "{names:?}");
    assert!(
        names.contains(&"[linux/amd64->arm64 b 2/2] RUN x"),
        "{names:?}"
    );
    assert!(
        names
            .iter()
            .any(|name| name.starts_with("[linux/arm64 stage-1 1/2] FROM"))
    );
    // The stage of the build platform starts from one image for both.
    let bases = names.iter().filter(|name| name.contains("b 1/2] FROM"));
    assert_eq!(bases.count(), 1);
    assert_eq!(lowered.platforms[1].config.architecture, "arm64");
}

#[test]
fn secrets_are_masked_in_names() {
    let text = "FROM base\nENV TOKEN=x\nRUN --mount=type=secret,id=a,env=TOKEN echo $TOKEN\n";
    let lowered = lowered(text, &linux());
    assert!(names(&lowered)[1].ends_with("echo ****"));
}

#[test]
fn stages_that_nothing_needs_are_not_looked_at() {
    let images = Images::new(&["base"]);
    let text = "FROM missing AS unused\nRUN x\nFROM base\nRUN y\n";
    try_lower(text, &linux(), &images).unwrap();
    assert_eq!(images.asked(), ["base:latest linux/amd64"]);
}

#[test]
fn images_are_asked_for_once_and_all_at_the_same_time() {
    let images = Images {
        together: 2,
        ..Images::new(&["base", "other"])
    };
    let text = "FROM base AS a\nFROM other\nCOPY --from=a / /\nCOPY --from=base / /\n";
    try_lower(text, &linux(), &images).unwrap();
    assert_eq!(
        images.asked(),
        ["base:latest linux/amd64", "other:latest linux/amd64"]
    );
}

#[test]
fn triggers_of_an_image_run_first_and_bring_what_they_need() {
    let trigger = "COPY --from=helper /x /y";
    let images = Images::new(&["helper"]).with("base", |config| {
        config.config.on_build = vec![trigger.to_owned(), "RUN prepare".to_owned()];
    });
    let lowered = try_lower("FROM base\nRUN own\n", &linux(), &images).unwrap();
    let expected = [
        // Named before its triggers are known.
        "[1/2] FROM docker.io/library/base:latest",
        "FROM docker.io/library/helper:latest",
        "[2/4] ONBUILD COPY --from=helper /x /y",
        "[3/4] ONBUILD RUN prepare",
        "[4/4] RUN own",
    ];
    assert_eq!(names(&lowered), expected);
    assert!(lowered.platforms[0].config.config.on_build.is_empty());
    let history = &lowered.platforms[0].config.history;
    assert_eq!(history[1].created_by, "RUN /bin/sh -c prepare # buildkit");
}

#[test]
fn what_is_only_copied_from_fires_no_triggers() {
    let images = Images::new(&[]).with("base", |config| {
        config.config.on_build = vec!["COPY --from=missing / /".to_owned()];
    });
    try_lower("FROM scratch\nCOPY --from=base / /\n", &linux(), &images).unwrap();
    assert_eq!(images.asked(), ["base:latest linux/amd64"]);
}

#[test]
fn triggers_of_a_stage_fire_in_the_next_one_alone() {
    let text = "FROM base AS a\nONBUILD RUN t\nFROM a AS b\nFROM b\nRUN c\n";
    let lowered = lowered(text, &linux());
    let shown = names(&lowered);
    assert_eq!(
        shown.iter().filter(|name| name.contains("ONBUILD")).count(),
        1,
        "{shown:?}"
    );
}

#[test]
fn a_faulty_trigger_is_told_at_the_from() {
    let images = Images::new(&[]).with("base", |config| {
        config.config.on_build = vec!["FROM other".to_owned()];
    });
    let error = try_lower("ARG A\nFROM base\n", &linux(), &images).unwrap_err();
    assert_eq!(*error.locations[0].lines.start(), 2);
    assert!(matches!(*error.problem, Problem::Trigger(_)));
}

#[test]
fn errors_know_their_place_and_what_was_meant() {
    let options = crate::BuildOptions {
        target: Some("biuld".to_owned()),
        ..linux()
    };
    let unknown = error("FROM base AS build\n", &options);
    assert_eq!(
        unknown.to_string(),
        "target stage \"biuld\" could not be found (did you mean build?)"
    );

    let missing = error("FROM base AS tools\nFROM tolos\n", &linux());
    assert_eq!(
        missing.to_string(),
        "tolos: no such image (did you mean tools?)"
    );
    assert_eq!(*missing.locations[0].lines.start(), 2);
    let common = error("FROM alpin\n", &linux());
    assert_eq!(
        common.to_string(),
        "alpin: no such image (did you mean alpine?)"
    );

    let later = error(
        "FROM base AS a\nCOPY --from=b / /\nFROM a AS b\n",
        &linux_target("b"),
    );
    let text = "cannot copy from stage \"b\", it needs to be defined before current stage \"a\"";
    assert_eq!(later.to_string(), text);
    assert_eq!(*later.locations[0].lines.start(), 2);

    let text = "FROM base\nRUN x\nCOPY a ${X";
    let faulty = error(text, &linux());
    assert_eq!(&text[faulty.locations[0].span.range()], "${X");
    assert_eq!(faulty.locations[1].lines, 3..=3);

    let circle = error(
        "FROM base AS a\nCOPY --from=b / /\nFROM base AS b\nCOPY --from=a / /\n",
        &linux(),
    );
    assert_eq!(
        circle.to_string(),
        "circular dependency detected on stage: a"
    );
    assert_eq!(circle.locations.len(), 2);
}

fn linux_target(target: &str) -> crate::BuildOptions {
    crate::BuildOptions {
        target: Some(target.to_owned()),
        ..linux()
    }
}

#[test]
fn options_reach_the_process() {
    let mut options = linux();
    options.network = NetworkMode::None;
    options.add_hosts = vec![("h".to_owned(), "10.0.0.1".to_owned())];
    options.shm_size_bytes = Some(1 << 20);
    options.ulimits = vec![Ulimit {
        name: "nofile".to_owned(),
        soft: 1,
        hard: 2,
    }];
    options.resources.memory_bytes = Some(5);
    options.cgroup_parent = "p".to_owned();
    options.hostname = "n".to_owned();
    options.build_args = [
        ("http_proxy", "http://p"),
        ("BUILDKIT_CACHE_MOUNT_NS", "ns"),
        ("SECOND", "2"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    options.labels = vec![("l".to_owned(), "v".to_owned())];
    let text = "FROM base\nARG SECOND=1\nLABEL l=other\nRUN --mount=type=cache,target=/c x\nRUN --network=host y\n";
    let lowered = lowered(text, &options);
    let [first, second] = execs(&lowered)[..] else {
        panic!("two processes")
    };
    assert_eq!(
        (first.network, second.network),
        (NetworkMode::None, NetworkMode::Host)
    );
    assert_eq!(first.extra_hosts, options.add_hosts);
    assert_eq!(first.shm_size_bytes, Some(1 << 20));
    assert_eq!(
        (&first.ulimits, &first.resources),
        (&options.ulimits, &options.resources)
    );
    assert_eq!(
        (first.cgroup_parent.as_str(), first.hostname.as_str()),
        ("p", "n")
    );
    assert_eq!(
        first.proxy_env.get("HTTP_PROXY").map(String::as_str),
        Some("http://p")
    );
    assert!(first.env.iter().all(|(name, _)| name != "http_proxy"));
    assert!(first.env.contains(&("SECOND".to_owned(), "2".to_owned())));
    let MountKind::Cache { id, .. } = &first.mounts[1].kind else {
        panic!("a cache")
    };
    assert_eq!(id, "ns//c");
    let platform = &lowered.platforms[0];
    assert_eq!(platform.config.config.labels["l"], "v");
    assert_eq!(
        platform.config.history[2].created_by,
        "RUN |1 SECOND=2 /bin/sh -c x # buildkit"
    );
}

#[test]
fn no_cache_concerns_the_named_stages() {
    let mut options = linux();
    options.no_cache = NoCache::Stages(vec!["ONE".to_owned()]);
    let text = "FROM base AS one\nRUN a\nFROM one AS two\nRUN b\n";
    let lowered = lowered(text, &options);
    let ignored = lowered
        .graph
        .iter()
        .filter(|(_, vertex)| vertex.meta.ignore_cache);
    let ignored: Vec<&str> = ignored
        .map(|(_, vertex)| vertex.meta.name.as_str())
        .collect();
    assert_eq!(ignored, ["[one 2/2] RUN a"]);
}

#[test]
fn links_are_merged_over_what_there_is() {
    let text = "FROM base\nCOPY --link a /a\nCOPY --link --chmod=600 b /b\n";
    let lowered = lowered(text, &linux());
    let merges = lowered
        .graph
        .iter()
        .filter(|(_, vertex)| vertex.op == Op::Merge);
    let merges: Vec<_> = merges.collect();
    assert_eq!(merges.len(), 1);
    assert_eq!(merges[0].1.meta.name, "[2/3] LINK COPY --link a /a");
    // Over nothing there is nothing to merge.
    let scratch = super::lowered("FROM scratch\nCOPY --link a /a\n", &linux());
    assert!(
        scratch
            .graph
            .iter()
            .all(|(_, vertex)| vertex.op != Op::Merge)
    );
}

#[test]
fn what_is_used_of_the_context() {
    let text = "FROM base\nCOPY b/../a/ *.txt /x/\nADD https://h/f /\nRUN --mount=target=/m,source=sub x\n";
    let used = lowered(text, &linux()).local_paths;
    let paths = ["*.txt", "a", "sub"].map(str::to_owned).to_vec();
    assert_eq!(used["context"], FollowPaths::Paths(paths));
    let all = lowered("FROM base\nCOPY a .\nRUN --mount=target=/m x\n", &linux()).local_paths;
    assert_eq!(all["context"], FollowPaths::All);
    assert!(
        lowered("FROM base\nRUN x\n", &linux())
            .local_paths
            .is_empty()
    );
}

#[test]
fn equal_steps_are_one_vertex() {
    let text = "FROM base AS a\nRUN x\nFROM base AS b\nRUN x\nFROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n";
    let lowered = lowered(text, &linux());
    assert_eq!(execs(&lowered).len(), 1);
}

#[test]
fn scripts_with_an_interpreter_are_files() {
    let text = "FROM base\nRUN <<EOF\n#!/usr/bin/env python\nprint(1)\nEOF\n";
    let lowered = lowered(text, &linux());
    let exec = execs(&lowered)[0];
    assert_eq!(exec.args, ["/bin/sh", "-c", "/dev/pipes/EOF"]);
    assert!(exec.mounts[1].readonly && exec.mounts[1].target == "/dev/pipes/");
    let FileActionKind::Mkfile(file) = &files(&lowered)[0].actions[0].kind else {
        panic!("a file")
    };
    assert_eq!(file.mode, 0o755);
    assert_eq!(
        names(&lowered).last().unwrap(),
        "[2/2] RUN <<EOF (#!/usr/bin/env python...)"
    );
}

#[test]
fn ignored_files_are_found() {
    let mut options = linux();
    options.ignore = Some(Matcher::new(&["secret", "*.o"]).unwrap());
    let text = "FROM base\nCOPY secret/a x.o ok /x/\nADD . /\nCOPY --from=other secret /\n";
    let found = lowered(text, &options).diagnostics;
    let found: Vec<&str> = found.iter().map(|found| found.message.as_str()).collect();
    let expected = [
        "Attempting to Copy file \"secret/a\" that is excluded by .dockerignore",
        "Attempting to Copy file \"x.o\" that is excluded by .dockerignore",
    ];
    assert_eq!(found, expected);
}

#[test]
fn findings_point_at_the_word() {
    let text = "FROM base\nCOPY a $DEST\n";
    let found = lowered(text, &linux()).diagnostics;
    assert_eq!(found[0].rule(), Some(Rule::UndefinedVar));
    assert_eq!(&text[found[0].span.range()], "$DEST");
}

#[test]
fn checks_look_at_all_stages_and_go_on_to_the_error() {
    let text = "FROM base AS a\nWORKDIR rel\nFROM base AS b\nCMD x\nSTOPSIGNAL nope\n";
    let report = finish(check(&parse(text), &linux(), &Images::new(&["base"])));
    let rules: Vec<_> = report
        .diagnostics
        .iter()
        .filter_map(|found| found.rule())
        .collect();
    assert_eq!(
        rules,
        [Rule::WorkdirRelativePath, Rule::JsonArgsRecommended]
    );
    assert_eq!(report.error.unwrap().to_string(), "invalid signal: nope");
}

#[test]
fn findings_fail_the_build_where_asked_to() {
    let mut options = linux();
    options.build_args = vec![(
        "BUILDKIT_DOCKERFILE_CHECK".to_owned(),
        "error=true".to_owned(),
    )];
    let failed = error("FROM base\nCMD x\n", &options);
    assert_eq!(
        failed.to_string(),
        "lint violation found for rules: JSONArgsRecommended"
    );
    assert_eq!(failed.diagnostics.len(), 1);
}

#[test]
fn outlines_tell_what_a_target_can_be_given() {
    let text = "\
# VERSION which one
ARG VERSION=1
ARG UNUSED=2
FROM base AS dep
ARG DEPTH=3
RUN --mount=type=secret,id=key,required x
# app the application
FROM base AS app
ARG VERSION
COPY --from=dep / /
RUN --mount=type=ssh y
";
    let found = finish(outline(&parse(text), &linux(), &Images::new(&["base"]))).unwrap();
    assert_eq!(
        (found.name.as_str(), found.description.as_str()),
        ("app", "the application")
    );
    let args: Vec<_> = found
        .args
        .iter()
        .map(|a| (a.name.as_str(), a.value.as_str(), a.line))
        .collect();
    assert_eq!(args, [("VERSION", "1", 2), ("DEPTH", "3", 5)]);
    assert_eq!(found.args[0].description, "which one");
    assert!(found.secrets[0].required && found.secrets[0].name == "key");
    assert_eq!(found.ssh[0].name, "default");

    let list = targets(&parse(text)).unwrap().targets;
    assert_eq!(list.len(), 2);
    assert!(list[1].default && list[1].description == "the application" && list[1].line == 8);
}

#[test]
fn epochs_date_the_history() {
    let mut options = linux();
    options.source_date_epoch = Some("1577836800".to_owned());
    let lowered = lowered(
        "FROM scratch\nARG SOURCE_DATE_EPOCH\nWORKDIR /w\n",
        &options,
    );
    let platform = &lowered.platforms[0];
    assert_eq!(platform.epoch, Some(1_577_836_800));
    assert_eq!(
        platform.config.history[1].created.as_deref(),
        Some("2020-01-01T00:00:00Z")
    );
    let FileActionKind::Mkdir(mkdir) = &files(&lowered)[0].actions[0].kind else {
        panic!()
    };
    assert_eq!(mkdir.timestamp, Some(1_577_836_800));

    let images = Images {
        time: Some(7),
        ..Images::new(&[])
    };
    options.source_date_epoch = Some("src".to_owned());
    let text = "FROM scratch AS src\nADD https://h/f.tar /\nFROM scratch\nCOPY a /\n";
    let lowered = try_lower(text, &options, &images).unwrap();
    assert_eq!(lowered.platforms[0].epoch, Some(7));
    options.source_date_epoch = Some("nowhere".to_owned());
    assert_eq!(
        error(text, &options).to_string(),
        "invalid SOURCE_DATE_EPOCH: nowhere"
    );
}

#[test]
fn an_image_for_another_platform_is_questionable() {
    let images = Images::new(&[]).with("base", |config| {
        "arm64".clone_into(&mut config.architecture);
    });
    let lowered = try_lower("FROM base\n", &linux(), &images).unwrap();
    assert_eq!(
        lowered.diagnostics[0].message,
        "Base image base was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build"
    );
    // Without a platform asked for, the result is what the image is.
    assert_eq!(lowered.platforms[0].config.architecture, "arm64");
}

#[test]
fn the_sbom_may_cover_more_than_the_target() {
    let text = "ARG BUILDKIT_SBOM_SCAN_STAGE=tool\nFROM base AS tool\nRUN x\nFROM base\nCOPY --from=tool / /\n";
    let scan = &lowered(text, &linux()).platforms[0].scan;
    assert_eq!(scan.keys().collect::<Vec<_>>(), ["tool"]);
}

#[test]
fn windows_images_have_their_own_paths() {
    let mut options = linux();
    options.platforms = vec!["windows/amd64".parse().unwrap()];
    let text = "FROM scratch\nWORKDIR C:\\\\app\nWORKDIR sub\nCOPY a\\\\b D/\n";
    let lowered = lowered(text, &options);
    let config = &lowered.platforms[0].config;
    assert_eq!(config.config.working_dir, "\\app\\sub");
    assert!(config.config.env.is_empty());
    assert_eq!(config.history[1].created_by, "WORKDIR /app/sub");
    let FileActionKind::Copy(copy) = &files(&lowered)[2].actions[0].kind else {
        panic!("a copy")
    };
    assert_eq!(
        (copy.source.as_str(), copy.dest.as_str()),
        ("/a/b", "/app/sub/D/")
    );
}
