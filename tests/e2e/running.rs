//! `longshore run`: the image's configuration, what flags change of it, and exit codes.

use std::fs;
use std::process::Stdio;

use crate::harness::{Outcome, Sandbox};

const DOCKERFILE: &str = "\
FROM busybox
RUN mkdir /work && chown 33:33 /work
ENV GREETING=hello NAME=world
WORKDIR /work
USER www
ENTRYPOINT [\"sh\", \"-c\"]
CMD [\"echo $GREETING $NAME; pwd; id -u; id -g\"]
";

fn sandbox() -> Option<Sandbox> {
    let sandbox = Sandbox::with_busybox()?;
    sandbox.build("app", &[("Dockerfile", DOCKERFILE)]);
    Some(sandbox)
}

#[test]
fn the_images_configuration_is_honoured() {
    let Some(sandbox) = sandbox() else { return };
    assert_eq!(
        sandbox.ok(["run", "--rm", "app"]).stdout,
        "hello world\n/work\n33\n33\n"
    );
}

#[test]
fn flags_replace_the_images_configuration() {
    let Some(sandbox) = sandbox() else { return };
    let run = |args: &[&str]| sandbox.ok(["run", "--rm"].iter().chain(args)).stdout;
    assert_eq!(
        run(&["-e", "NAME=sea", "app"]),
        "hello sea\n/work\n33\n33\n"
    );
    assert_eq!(
        run(&["-w", "/tmp", "-u", "0:50", "app"]),
        "hello world\n/tmp\n0\n50\n"
    );
    assert_eq!(run(&["app", "echo other"]), "other\n");
    assert_eq!(
        run(&["--entrypoint", "/bin/echo", "app", "a", "b"]),
        "a b\n"
    );
    // An entry point of the command line drops the image's command.
    assert_eq!(run(&["--entrypoint", "/bin/echo", "app"]), "\n");
    assert_eq!(run(&["--hostname", "pier", "app", "hostname"]), "pier\n");
    assert_eq!(
        run(&[
            "--add-host",
            "crane:10.1.2.3",
            "app",
            "grep crane /etc/hosts"
        ])
        .split_whitespace()
        .next(),
        Some("10.1.2.3")
    );
}

#[test]
fn variables_come_from_the_environment_and_from_files() {
    let Some(sandbox) = sandbox() else { return };
    let file = sandbox.path("variables");
    fs::write(&file, "# harbours\nNAME=file\nEMPTY=\n").unwrap();
    let mut command = sandbox.command([
        "run",
        "--env-file",
        file.to_str().unwrap(),
        "-e",
        "GREETING",
        "app",
        "echo $GREETING $NAME",
    ]);
    command.env("GREETING", "ahoy");
    assert_eq!(Outcome::of(command).success().stdout, "ahoy file\n");
}

#[test]
fn volumes_are_shared_with_the_host_and_can_be_read_only() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let folder = sandbox.context("shared", &[("in.txt", "from the host\n")]);
    let volume = format!("{}:/shared", folder.display());
    let script = "cat /shared/in.txt; echo from inside > /shared/out.txt";
    assert_eq!(
        sandbox
            .ok(["run", "-v", &volume, "busybox", "sh", "-c", script])
            .stdout,
        "from the host\n"
    );
    assert_eq!(
        fs::read_to_string(folder.join("out.txt")).unwrap(),
        "from inside\n"
    );

    let read_only = format!("{volume}:ro");
    let outcome = sandbox.run([
        "run",
        "-v",
        &read_only,
        "busybox",
        "sh",
        "-c",
        "echo x > /shared/out.txt",
    ]);
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("Read-only"), "{}", outcome.stderr);

    let single = format!("{}:/etc/motd:ro", folder.join("in.txt").display());
    assert_eq!(
        sandbox
            .ok(["run", "-v", &single, "busybox", "cat", "/etc/motd"])
            .stdout,
        "from the host\n"
    );
}

#[test]
fn what_a_container_writes_is_gone_with_it() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    sandbox.output_of("busybox", &["sh", "-c", "echo x > /left; rm /bin/ls"]);
    assert_eq!(
        sandbox.output_of(
            "busybox",
            &["sh", "-c", "[ ! -e /left ] && [ -e /bin/ls ] && echo clean"]
        ),
        "clean\n"
    );
}

#[test]
fn a_read_only_image_cannot_be_written_and_tmpfs_can() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let script = "touch /x 2>/dev/null && echo written; touch /scratch/x && echo kept in memory";
    let outcome = sandbox.ok([
        "run",
        "--read-only",
        "--tmpfs",
        "/scratch",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(outcome.stdout, "kept in memory\n");
}

#[test]
fn exit_codes_are_passed_on() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("sh -c 'kill -9 $$'; exit $?", 137),
        ("sh -c 'kill -15 $$'; exit $?", 143),
    ] {
        let outcome = sandbox.run(["run", "--rm", "busybox", "sh", "-c", script]);
        assert_eq!(outcome.code, code, "{script}: {}", outcome.stderr);
    }
}

#[test]
fn what_cannot_be_run_has_dockers_codes() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    sandbox
        .run(["run", "busybox", "/no/such/program"])
        .failure(127, &["/no/such/program"]);
    sandbox
        .run(["run", "busybox", "no-such-program"])
        .failure(127, &["no-such-program"]);
    sandbox
        .run(["run", "busybox", "/etc/passwd"])
        .failure(126, &["/etc/passwd"]);
    sandbox
        .run(["run", "busybox", "/etc"])
        .failure(126, &["/etc"]);
    sandbox
        .run(["run", "--user", "no-such-user", "busybox", "true"])
        .failure(125, &["no-such-user"]);
    sandbox
        .run(["run", "--pull", "never", "no-such-image", "true"])
        .failure(125, &["no-such-image"]);
    sandbox
        .run(["run", "-v", "relative", "busybox", "true"])
        .failure(125, &["relative"]);
}

#[test]
fn detached_containers_names_and_ports_are_refused_by_name() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    for (flag, value) in [
        ("--detach", None),
        ("--publish", Some("80:80")),
        ("--name", Some("x")),
    ] {
        let args = ["run", flag]
            .into_iter()
            .chain(value)
            .chain(["busybox", "true"]);
        let outcome = sandbox.run(args);
        assert!([2, 125].contains(&outcome.code), "{flag}: {}", outcome.code);
        assert!(outcome.stderr.contains(flag), "{flag}: {}", outcome.stderr);
    }
}

#[test]
fn standard_input_reaches_the_process() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let file = sandbox.path("input");
    fs::write(&file, "one\ntwo\n").unwrap();
    let mut command = sandbox.command(["run", "-i", "busybox", "wc", "-l"]);
    command.stdin(Stdio::from(fs::File::open(&file).unwrap()));
    assert_eq!(Outcome::of(command).success().stdout.trim(), "2");
}

#[test]
fn without_a_network_there_is_loopback_alone() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let links = sandbox
        .ok([
            "run",
            "--network",
            "none",
            "busybox",
            "ls",
            "/sys/class/net",
        ])
        .stdout;
    assert_eq!(links.split_whitespace().collect::<Vec<_>>(), ["lo"]);
    sandbox
        .run(["run", "--network", "bridge", "busybox", "true"])
        .failure(125, &["bridge"]);
}

#[test]
fn the_process_is_the_first_of_its_own_and_sees_no_other() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let out = sandbox.output_of(
        "busybox",
        &["sh", "-c", "echo $$; ls -d /proc/[0-9]* | wc -l"],
    );
    let lines: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(lines[0], "1");
    assert!(lines[1].parse::<u32>().unwrap() <= 3, "{out}");
}

#[test]
fn limits_hold() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let outcome = sandbox.ok([
        "run",
        "--ulimit",
        "nofile=99:100",
        "busybox",
        "sh",
        "-c",
        "ulimit -n; ulimit -Hn",
    ]);
    assert_eq!(outcome.stdout, "99\n100\n");
    let shm = sandbox
        .ok(["run", "--shm-size", "1m", "busybox", "df", "-k", "/dev/shm"])
        .stdout;
    assert!(shm.contains(" 1024 "), "{shm}");
}

#[test]
fn an_option_that_is_none_is_named_and_is_no_image() {
    let sandbox = Sandbox::new();
    sandbox
        .run(["run", "--link", "other", "busybox", "true"])
        .failure(125, &["`--link` is no option"]);
}
