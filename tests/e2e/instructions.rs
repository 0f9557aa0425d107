//! Every Dockerfile instruction, through the image's configuration, what runs in it, and
//! its exported files.

use serde_json::json;

use crate::harness::{Exported, Sandbox};

#[test]
fn stages_are_named_numbered_and_built_on_one_another() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "\
ARG BASE=busybox
FROM ${BASE} AS one
RUN echo one > /one
FROM one
RUN echo two > /two
FROM scratch
COPY --from=one /one /by-name
COPY --from=1 /one /two /by-number/
COPY --from=busybox /etc/group /by-image
";
    let root = sandbox.exported(&[("Dockerfile", dockerfile)]);
    assert_eq!(root.text("by-name"), "one\n");
    assert_eq!(
        (root.text("by-number/one"), root.text("by-number/two")),
        ("one\n", "two\n")
    );
    assert!(root.text("by-image").starts_with("root:"));
}

#[test]
fn run_has_a_shell_form_an_exec_form_and_heredocs() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = r#"
FROM busybox
ENV A=from-env
RUN echo "$A" | tr a-z A-Z > /shell && \
    # a comment between lines
    pwd >> /shell
RUN ["/bin/sh", "-c", "echo '$HOME' $0 > /exec", "zero"]
RUN <<EOF
set -e
echo heredoc > /heredoc
echo second >> /heredoc
EOF
RUN <<script cat > /fed
into cat
script
"#;
    let root = sandbox.exported(&[("Dockerfile", dockerfile)]);
    assert_eq!(root.text("shell"), "FROM-ENV\n/\n");
    assert_eq!(root.text("exec"), "$HOME zero\n");
    assert_eq!(root.text("heredoc"), "heredoc\nsecond\n");
    assert_eq!(root.text("fed"), "into cat\n");
}

#[test]
fn copy_takes_files_directories_and_wildcards() {
    let sandbox = Sandbox::new();
    let dockerfile = r#"
FROM scratch
COPY a.txt /file
COPY a.txt /folder/
COPY a.txt b.txt /both/
COPY dir /dir
COPY *.txt /wild/
COPY dir/*/?.md /deep/
COPY ["with space.txt", "/target with space.txt"]
WORKDIR /here
COPY a.txt relative/
COPY . /all
"#;
    let files = [
        ("Dockerfile", dockerfile),
        ("a.txt", "a\n"),
        ("b.txt", "b\n"),
        ("with space.txt", "s\n"),
        ("dir/x/1.md", "1\n"),
        ("dir/y/2.md", "2\n"),
        ("dir/y/no.txt", ""),
    ];
    let root = sandbox.exported(&files);
    assert_eq!(root.line("file"), "file 644 0:0 a");
    assert_eq!(root.line("folder/a.txt"), "file 644 0:0 a");
    assert_eq!(root.below("both"), ["a.txt", "b.txt"]);
    assert_eq!(
        root.below("dir"),
        ["x", "x/1.md", "y", "y/2.md", "y/no.txt"]
    );
    assert_eq!(root.below("wild"), ["a.txt", "b.txt", "with space.txt"]);
    assert_eq!(root.below("deep"), ["1.md", "2.md"]);
    assert_eq!(root.text("target with space.txt"), "s\n");
    assert_eq!(root.text("here/relative/a.txt"), "a\n");
    assert!(root.has("all/dir/y/no.txt") && root.has("all/Dockerfile"));
}

#[test]
fn copy_sets_owner_and_mode() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "\
FROM busybox
COPY --chown=1:2 f /numbers
COPY --chown=www f /name
COPY --chown=www:staff --chmod=4750 f /both
COPY --chmod=u=rwX,go=rX d /symbolic
COPY --chown=7 d /tree
";
    let root = sandbox.exported(&[("Dockerfile", dockerfile), ("f", "f\n"), ("d/e", "e\n")]);
    assert_eq!(root.line("numbers"), "file 644 1:2 f");
    assert_eq!(root.line("name"), "file 644 33:33 f");
    assert_eq!(root.line("both"), "file 4750 33:50 f");
    assert_eq!(root.line("symbolic"), "dir 755 0:0");
    assert_eq!(root.line("symbolic/e"), "file 644 0:0 e");
    assert_eq!(
        (root.line("tree"), root.line("tree/e")),
        ("dir 755 7:7".into(), "file 644 7:7 e".into())
    );
}

#[test]
fn copy_keeps_links_parents_and_leaves_out_what_it_is_told() {
    let sandbox = Sandbox::new();
    let dockerfile = "\
# syntax=docker/dockerfile:1
FROM scratch
COPY links /links
COPY --parents deep/er/f deep/./er/f /p/
COPY --exclude=*.log --exclude=tmp mixed /kept
COPY --link mixed/a /linked/
";
    let context = sandbox.fresh_context(&[
        ("Dockerfile", dockerfile),
        ("links/target", "t\n"),
        ("deep/er/f", "f\n"),
        ("mixed/a", "a\n"),
        ("mixed/b.log", ""),
        ("mixed/tmp/c", ""),
    ]);
    std::os::unix::fs::symlink("target", context.join("links/to")).unwrap();
    std::os::unix::fs::symlink("/dangling", context.join("links/broken")).unwrap();
    let root = sandbox.exported_from(&context, &[]);
    assert_eq!(
        (root.line("links/to"), root.line("links/broken")),
        ("link target".into(), "link /dangling".into())
    );
    assert_eq!(
        root.below("p"),
        ["deep", "deep/er", "deep/er/f", "er", "er/f"]
    );
    assert_eq!(root.below("kept"), ["a"]);
    assert_eq!(root.text("linked/a"), "a\n");
}

#[test]
fn add_unpacks_archives_and_copies_the_rest() {
    let sandbox = Sandbox::new();
    let dockerfile = "\
FROM scratch
ADD bundle.tar.gz /unpacked/
ADD --chown=4:5 bundle.tar.gz /owned/
ADD --unpack=false bundle.tar.gz /whole/
COPY bundle.tar.gz /copied/
ADD plain.txt /plain.txt
ADD heads tails /coins/
";
    let context = sandbox.fresh_context(&[
        ("Dockerfile", dockerfile),
        ("plain.txt", "p\n"),
        ("heads", "h\n"),
        ("tails", "t\n"),
        ("src/in/side", "s\n"),
    ]);
    crate::harness::peer(
        "tar",
        [
            "-C",
            context.join("src").to_str().unwrap(),
            "-czf",
            context.join("bundle.tar.gz").to_str().unwrap(),
            "in",
        ],
    );
    let root = sandbox.exported_from(&context, &[]);
    assert_eq!(root.text("unpacked/in/side"), "s\n");
    assert_eq!(root.line("owned/in/side"), "file 644 4:5 s");
    assert_eq!(
        (root.below("whole"), root.below("copied")),
        (vec!["bundle.tar.gz"], vec!["bundle.tar.gz"])
    );
    assert_eq!(root.text("plain.txt"), "p\n");
    assert_eq!(root.below("coins"), ["heads", "tails"]);
}

#[test]
fn add_fetches_over_http_and_checks_the_sum() {
    let server = FileServer::start("fetched\n");
    let sandbox = Sandbox::new();
    let sum = "sha256:46a53f8ffbef67fcfe83fcd2bf66f8e17a7f9d16dba5f72b4338b8fa2a1c9de8";
    let url = format!("http://{}/file.txt", server.0);
    let dockerfile = |sum: &str| {
        format!("FROM scratch\nADD --checksum={sum} --chmod=640 {url} /f/\nADD {url} /named\n")
    };
    let outcome = sandbox.fail_to_build(&[("Dockerfile", &dockerfile(sum))], 1, &[sum]);
    // The right one is in the message.
    let right = outcome
        .stderr
        .split(|c: char| !c.is_ascii_alphanumeric() && c != ':')
        .find(|word| word.len() == sum.len() && word.starts_with("sha256:") && *word != sum);
    let right = right
        .unwrap_or_else(|| panic!("{}", outcome.stderr))
        .to_owned();
    let root = sandbox.exported(&[("Dockerfile", &dockerfile(&right))]);
    assert_eq!(root.line("f/file.txt"), "file 640 0:0 fetched");
    assert_eq!(root.line("named"), "file 600 0:0 fetched");
}

/// Answers every request with one text.
struct FileServer(String);

impl FileServer {
    fn start(text: &'static str) -> Self {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let read = stream.read(&mut request).unwrap_or(0);
                let body = if request[..read].starts_with(b"HEAD") {
                    ""
                } else {
                    text
                };
                let length = text.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
            }
        });
        Self(address)
    }
}

#[test]
fn the_configuration_is_what_the_instructions_say() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = r#"
FROM busybox
MAINTAINER someone@example.org
ENV A=1 B="two words"
ENV A=2 C=$A-${A:+set}
ENV LEGACY the rest of the line
LABEL one=1 "two words"="a b"
EXPOSE 80 53/udp 7000-7002
VOLUME ["/data", "/more data"]
VOLUME /logs
WORKDIR /srv
WORKDIR app
USER www:staff
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --timeout=2s --start-period=1m --retries=4 CMD curl -f localhost
SHELL ["/bin/ash", "-ec"]
CMD echo shell form
ONBUILD RUN echo later
"#;
    sandbox.build("app", &[("Dockerfile", dockerfile)]);
    let image = sandbox.inspect("app");
    let config = &image["Config"];
    let variables: Vec<&str> = config["Env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_str().unwrap())
        .collect();
    for variable in [
        "A=2",
        "B=two words",
        "C=1-set",
        "LEGACY=the rest of the line",
    ] {
        assert!(variables.contains(&variable), "{variables:?}");
    }
    assert_eq!(image["Author"], "someone@example.org");
    assert_eq!(config["Labels"], json!({"one": "1", "two words": "a b"}));
    assert_eq!(
        config["ExposedPorts"],
        json!({"53/udp": {}, "80/tcp": {}, "7000/tcp": {}, "7001/tcp": {}, "7002/tcp": {}})
    );
    assert_eq!(
        config["Volumes"],
        json!({"/data": {}, "/more data": {}, "/logs": {}})
    );
    assert_eq!(config["WorkingDir"], "/srv/app");
    assert_eq!(config["User"], "www:staff");
    assert_eq!(config["StopSignal"], "SIGQUIT");
    let health = &config["Healthcheck"];
    assert_eq!(health["Test"], json!(["CMD-SHELL", "curl -f localhost"]));
    assert_eq!(
        (health["Interval"].as_u64(), health["Retries"].as_u64()),
        (Some(5_000_000_000), Some(4))
    );
    assert_eq!(health["StartPeriod"].as_u64(), Some(60_000_000_000));
    assert_eq!(config["Shell"], json!(["/bin/ash", "-ec"]));
    assert_eq!(config["Cmd"], json!(["/bin/ash", "-ec", "echo shell form"]));
    assert_eq!(config["OnBuild"], json!(["RUN echo later"]));
}

#[test]
fn entrypoint_and_cmd_work_together() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let base = "FROM busybox AS base\nENTRYPOINT [\"echo\", \"entry\"]\nCMD [\"default\"]\n";
    sandbox.build("both", &[("Dockerfile", base)]);
    assert_eq!(sandbox.output_of("both", &[]), "entry default\n");
    assert_eq!(sandbox.output_of("both", &["given"]), "entry given\n");
    // A new entry point drops the base's command.
    sandbox.build(
        "child",
        &[(
            "Dockerfile",
            "FROM both\nENTRYPOINT [\"echo\", \"child\"]\n",
        )],
    );
    assert_eq!(sandbox.output_of("child", &[]), "child\n");
    sandbox.build(
        "shell",
        &[(
            "Dockerfile",
            "FROM busybox\nENTRYPOINT exec echo $0 in a shell\n",
        )],
    );
    assert_eq!(sandbox.output_of("shell", &[]), "/bin/sh in a shell\n");
}

#[test]
fn workdir_user_and_env_hold_for_the_steps_that_follow() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "\
FROM busybox
RUN mkdir -m 777 /open
ENV WHERE=/srv
WORKDIR $WHERE/deep
RUN pwd > /open/where
USER www
RUN id -u > /open/who && echo $HOME > /open/home
USER 1234:5678
RUN id -u > /open/numbers && id -g >> /open/numbers
";
    let root = sandbox.exported(&[("Dockerfile", dockerfile)]);
    assert_eq!(root.text("open/where"), "/srv/deep\n");
    assert_eq!(root.line("open/who"), "file 644 33:33 33");
    assert_eq!(root.text("open/home"), "/var/www\n");
    assert_eq!(root.text("open/numbers"), "1234\n5678\n");
    assert_eq!(root.line("srv/deep"), "dir 755 0:0");
}

#[test]
fn arguments_have_scopes_defaults_and_values() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "\
ARG GLOBAL=global
FROM busybox AS build
ARG GLOBAL
ARG OWN=own
ARG GIVEN=default
ARG TARGETARCH
RUN echo \"$GLOBAL $OWN $GIVEN ${TARGETARCH:+arch}\" > /args
FROM busybox
COPY --from=build /args /args
RUN echo \"[$GLOBAL$OWN]\" > /none
";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let root = sandbox.exported_from(&context, &["--build-arg", "GIVEN=given"]);
    assert_eq!(root.text("args"), "global own given arch\n");
    assert_eq!(root.text("none"), "[]\n");
    // An argument is not in the image's environment.
    sandbox.ok([
        "build",
        "-t",
        "app",
        "--target",
        "build",
        context.to_str().unwrap(),
    ]);
    assert!(!sandbox.format("app", "{{.Config.Env}}").contains("OWN"));
}

#[test]
fn shell_decides_how_the_shell_form_runs() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-e\", \"-u\", \"-c\"]\nRUN echo $- > /flags\n";
    let root = sandbox.exported(&[("Dockerfile", dockerfile)]);
    let flags = root.text("flags");
    assert!(flags.contains('e') && flags.contains('u'), "{flags}");
}

#[test]
fn onbuild_runs_in_the_image_built_on_this_one_and_only_there() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let parent = "FROM busybox\nONBUILD COPY greeting /greeting\nONBUILD RUN tr a-z A-Z < /greeting > /loud\nONBUILD ENV SET=on\n";
    sandbox.build("parent", &[("Dockerfile", parent)]);
    sandbox.build(
        "child",
        &[("Dockerfile", "FROM parent\n"), ("greeting", "ahoy\n")],
    );
    assert_eq!(sandbox.output_of("child", &["cat", "/loud"]), "AHOY\n");
    assert!(
        sandbox
            .format("child", "{{.Config.Env}}")
            .contains("SET=on")
    );
    assert_eq!(sandbox.format("child", "{{json .Config.OnBuild}}"), "null");
    sandbox.build(
        "grandchild",
        &[("Dockerfile", "FROM child\nRUN test -e /loud\n")],
    );
}

#[test]
fn a_volume_keeps_what_the_image_put_there() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN mkdir /data && echo before > /data/f\nVOLUME /data\n";
    sandbox.build("app", &[("Dockerfile", dockerfile)]);
    assert_eq!(sandbox.output_of("app", &["cat", "/data/f"]), "before\n");
}

#[test]
fn heredocs_make_files() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "\
FROM busybox
ENV NAME=expanded
COPY <<EOF <<'RAW' <<-TABS /files/
name: $NAME
EOF
name: $NAME
RAW
\tno tab in front
\tTABS
COPY --chmod=750 --chown=3:4 <<EOF /script
#!/bin/sh
EOF
";
    let root = sandbox.exported(&[("Dockerfile", dockerfile)]);
    assert_eq!(root.text("files/EOF"), "name: expanded\n");
    assert_eq!(root.text("files/RAW"), "name: $NAME\n");
    assert_eq!(root.text("files/TABS"), "no tab in front\n");
    assert_eq!(root.line("script"), "file 750 3:4 #!/bin/sh");
}

#[test]
fn bind_mounts_show_the_context_and_other_stages_and_leave_no_trace() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "\
FROM busybox AS made
RUN mkdir /out && echo made > /out/m
FROM busybox
RUN --mount=type=bind,target=/ctx cat /ctx/f > /from-context && ! touch /ctx/x 2>/dev/null
RUN --mount=type=bind,from=made,source=/out,target=/m cat /m/m > /from-stage
RUN --mount=type=bind,target=/w,rw echo changed > /w/f && cat /w/f > /written
RUN --mount=target=/again cat /again/f > /unchanged
";
    let root = sandbox.exported(&[("Dockerfile", dockerfile), ("f", "context\n")]);
    assert_eq!(root.text("from-context"), "context\n");
    assert_eq!(root.text("from-stage"), "made\n");
    assert_eq!(root.text("written"), "changed\n");
    assert_eq!(root.text("unchanged"), "context\n");
    assert_eq!(root.below("ctx"), Vec::<&str>::new());
}

#[test]
fn cache_mounts_last_between_builds_and_are_not_in_the_image() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let build = |number: u32| {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=cache,target=/c,uid=33,gid=50,mode=0750 \
             echo {number} >> /c/log && cp /c/log /log && stat -c '%u:%g %a' /c > /stat\n"
        );
        sandbox.exported(&[("Dockerfile", &dockerfile)])
    };
    assert_eq!(build(1).text("log"), "1\n");
    let second = build(2);
    assert_eq!(second.text("log"), "1\n2\n");
    assert_eq!(second.text("stat"), "33:50 750\n");
    assert_eq!(second.below("c"), Vec::<&str>::new());
}

/// The inner mount's place is made in the outer cache, which all the steps see: none takes it
/// away from another.
#[test]
fn a_cache_mount_within_another_serves_many_steps_at_once() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    const STEPS: usize = 12;
    let mut dockerfile = String::new();
    for step in 0..STEPS {
        dockerfile += &format!(
            "FROM busybox AS s{step}\n\
             RUN --mount=type=cache,id=outer,target=/c --mount=type=cache,id=inner,target=/c/d \
             touch /c/d/{step} && echo {step} > /made{step}\n"
        );
    }
    dockerfile += "FROM scratch\n";
    for step in 0..STEPS {
        dockerfile += &format!("COPY --from=s{step} /made{step} /\n");
    }
    let context = sandbox.context("nested", &[("Dockerfile", &dockerfile)]);
    for _ in 0..3 {
        sandbox.ok(["build", "--no-cache", context.to_str().unwrap()]);
    }
}

#[test]
fn tmpfs_mounts_are_memory_and_are_not_in_the_image() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN --mount=type=tmpfs,target=/t,size=1m echo x > /t/x && grep ' /t ' /proc/mounts > /mounted\n";
    let root = sandbox.exported(&[("Dockerfile", dockerfile)]);
    assert!(
        root.text("mounted").contains("tmpfs") && root.text("mounted").contains("size=1024k"),
        "{}",
        root.text("mounted")
    );
    assert_eq!(root.below("t"), Vec::<&str>::new());
}

#[test]
fn a_cache_that_a_step_mounts_twice_is_one_directory() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for sharing in ["shared", "private", "locked"] {
        let mount = |target| format!("--mount=type=cache,id=c,sharing={sharing},target={target}");
        let dockerfile = format!(
            "FROM busybox\nRUN {} {} echo {sharing} > /a/f && cp /b/f /seen\n",
            mount("/a"),
            mount("/b")
        );
        let root = sandbox.exported(&[("Dockerfile", &dockerfile)]);
        assert_eq!(root.text("seen").trim(), sharing);
    }
}

#[test]
fn a_tmpfs_mount_that_is_read_only_takes_no_files() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile =
        "FROM busybox\nRUN --mount=type=tmpfs,target=/t,ro ! touch /t/x && echo refused > /r\n";
    let root = sandbox.exported(&[("Dockerfile", dockerfile)]);
    assert_eq!(root.text("r"), "refused\n");
}

#[test]
fn targets_of_secrets_may_be_below_the_working_directory() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "\
FROM busybox
WORKDIR /srv/app
RUN --mount=type=secret,id=token,target=conf/token cat /srv/app/conf/token | wc -c > /length
";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let file = sandbox.path("token");
    std::fs::write(&file, "sesame").unwrap();
    let secret = format!("id=token,src={}", file.display());
    let root = sandbox.exported_from(&context, &["--secret", &secret]);
    assert_eq!(root.text("length").trim(), "6");
}

#[test]
fn a_proxy_of_the_build_goes_before_the_images() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nENV http_proxy=http://image\nRUN echo $http_proxy > /seen\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let seen = |flags: &[&str]| {
        sandbox
            .exported_from(&context, flags)
            .text("seen")
            .to_owned()
    };
    assert_eq!(seen(&[]), "http://image\n");
    let given = ["--no-cache", "--build-arg", "http_proxy=http://build"];
    assert_eq!(seen(&given), "http://build\n");
}

#[test]
fn users_are_found_as_docker_finds_them() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "\
FROM busybox
RUN rm -f /etc/passwd /etc/group
USER root:root
RUN id -u > /bare && id -G >> /bare
RUN printf '#ghost:x:1500:10::/:/bin/sh\\napp:x:7:8::/:/bin/sh\\n' > /etc/passwd \\
 && printf '#wheel:x:10:app\\nstaff:x:11:app\\n' > /etc/group && mkdir -m 777 /o
USER app
RUN id -u > /o/app && id -G >> /o/app
USER 1500
RUN id -u > /o/ghost && id -G >> /o/ghost
";
    let root = sandbox.exported(&[("Dockerfile", dockerfile)]);
    assert_eq!(root.text("bare"), "0\n0\n");
    assert_eq!(root.text("o/app"), "7\n8 11\n");
    assert_eq!(root.text("o/ghost"), "1500\n0\n");
}

#[test]
fn secrets_are_seen_by_the_step_that_asks_and_by_nothing_else() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "\
FROM busybox
RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /length
RUN --mount=type=secret,id=token,target=/elsewhere,uid=33,mode=0440 stat -c '%u %a' /elsewhere > /stat
RUN --mount=type=secret,id=token,env=TOKEN echo ${#TOKEN} > /env
RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent
RUN test ! -e /run/secrets/token && test -z \"$TOKEN\"
";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let file = sandbox.path("token");
    std::fs::write(&file, "sesame-opens").unwrap();
    let secret = format!("id=token,src={}", file.display());
    let root = sandbox.exported_from(&context, &["--secret", &secret]);
    assert_eq!(root.text("length").trim(), "12");
    assert_eq!(root.text("stat"), "33 440\n");
    assert_eq!(root.text("env"), "12\n");
    assert!(!root.has("elsewhere") || root.text("elsewhere").is_empty());
    // Nowhere in the state either: not in a layer, a log, a cache record.
    let found = crate::harness::Outcome::of({
        let mut grep = std::process::Command::new("grep");
        grep.args(["-rl", "sesame-opens", sandbox.root().to_str().unwrap()]);
        grep
    });
    assert_eq!((found.code, found.stdout.as_str()), (1, ""));
    // From the environment, and asked for where there is none.
    let mut command = sandbox.command([
        "build",
        "--secret",
        "id=token,env=MY_TOKEN",
        context.to_str().unwrap(),
    ]);
    command.env("MY_TOKEN", "sesame-opens");
    crate::harness::Outcome::of(command).success();
    let required =
        "FROM busybox\nRUN --mount=type=secret,id=needed,required cat /run/secrets/needed\n";
    sandbox.fail_to_build(&[("Dockerfile", required)], 1, &["needed", "not found"]);
}

#[test]
fn dockerignore_hides_files_and_exceptions_bring_them_back() {
    let sandbox = Sandbox::new();
    let ignore =
        "# not this\n*.log\n**/tmp\n/node_modules\nsecret*\n!secret.example\ndocs\n!docs/keep.md\n";
    let files = [
        (".dockerignore", ignore),
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("a.txt", ""),
        ("b.log", ""),
        ("sub/c.log", ""),
        ("sub/tmp/x", ""),
        ("node_modules/m", ""),
        ("sub/node_modules/m", ""),
        ("secret.key", ""),
        ("secret.example", ""),
        ("docs/drop.md", ""),
        ("docs/keep.md", ""),
    ];
    let root = sandbox.exported(&files);
    let there = |paths: &[&str]| paths.iter().map(|path| root.has(path)).collect::<Vec<_>>();
    assert_eq!(
        there(&[
            "a.txt",
            "sub/c.log",
            "sub/node_modules/m",
            "secret.example",
            "docs/keep.md"
        ]),
        [true; 5]
    );
    assert_eq!(
        there(&[
            "b.log",
            "sub/tmp",
            "sub/tmp/x",
            "node_modules",
            "secret.key",
            "docs/drop.md"
        ]),
        [false; 6]
    );
}

#[test]
fn a_dockerfile_has_an_ignore_file_of_its_own() {
    let sandbox = Sandbox::new();
    let context = sandbox.fresh_context(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        (".dockerignore", "a\n"),
        ("other.Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("other.Dockerfile.dockerignore", "b\n"),
        ("a", ""),
        ("b", ""),
    ]);
    let root = sandbox.exported_from(
        &context,
        &["-f", context.join("other.Dockerfile").to_str().unwrap()],
    );
    assert_eq!((root.has("a"), root.has("b")), (true, false));
}

#[test]
fn the_context_can_be_an_archive_standard_input_or_several_places() {
    let sandbox = Sandbox::new();
    let context = sandbox.fresh_context(&[
        (
            "Dockerfile",
            "FROM scratch\nCOPY f /\nCOPY --from=further g /\n",
        ),
        ("f", "f\n"),
    ]);
    let further = sandbox.fresh_context(&[("g", "g\n")]);
    let named = format!("further={}", further.display());
    let root = sandbox.exported_from(&context, &["--build-context", &named]);
    assert_eq!((root.text("f"), root.text("g")), ("f\n", "g\n"));

    let archive = sandbox.path("context.tar.gz");
    crate::harness::peer(
        "tar",
        [
            "-C",
            context.to_str().unwrap(),
            "-czf",
            archive.to_str().unwrap(),
            ".",
        ],
    );
    let mut command = sandbox.command(["build", "-o", "-", "--build-context", &named, "-"]);
    command.stdin(std::process::Stdio::from(
        std::fs::File::open(&archive).unwrap(),
    ));
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        Exported::from_reader(output.stdout.as_slice()).text("f"),
        "f\n"
    );

    let dockerfile = sandbox.path("alone.Dockerfile");
    std::fs::write(&dockerfile, "FROM scratch\nCOPY f /from-stdin\n").unwrap();
    let mut command = sandbox.command(["build", "-o", "-", "-f", "-", context.to_str().unwrap()]);
    command.stdin(std::process::Stdio::from(
        std::fs::File::open(&dockerfile).unwrap(),
    ));
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        Exported::from_reader(output.stdout.as_slice()).text("from-stdin"),
        "f\n"
    );
}

#[test]
fn steps_run_without_a_network_where_that_is_asked_for() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN --network=none ls /sys/class/net > /links\n";
    assert_eq!(
        sandbox
            .exported(&[("Dockerfile", dockerfile)])
            .text("links"),
        "lo\n"
    );
}

#[test]
fn removed_files_are_gone_and_removed_directories_are_new_again() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "\
FROM busybox
RUN mkdir /d && touch /d/old /gone
RUN rm /gone && rm -r /d && mkdir /d && touch /d/new
";
    sandbox.build("app", &[("Dockerfile", dockerfile)]);
    assert_eq!(
        sandbox.output_of("app", &["sh", "-c", "ls /d; test ! -e /gone"]),
        "new\n"
    );
    let root = sandbox.exported(&[("Dockerfile", dockerfile)]);
    assert_eq!((root.below("d"), root.has("gone")), (vec!["new"], false));
}

#[test]
fn a_secret_that_is_not_given_is_an_empty_variable() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let run = "RUN --mount=type=secret,id=absent,env=ABSENT env | grep ^ABSENT > /env";
    let dockerfile = format!("FROM busybox\n{run}\n");
    let root = sandbox.exported(&[("Dockerfile", &dockerfile)]);
    assert_eq!(root.text("env"), "ABSENT=\n");
}
