//! What `RUN --mount` shows, and to whom at the same time; and programs that need more of the kernel
//! than usual ones.

use std::fs;
use std::process::Command;

use crate::harness::Sandbox;
use crate::skip::skip;

/// Two steps that run at once if they may, each with a cache that they have in common to meet in.
fn two_steps(name: &str, mount: &str, script: impl Fn(&str, &str) -> String) -> String {
    let step = |me: &str, other: &str| {
        let meeting = format!("--mount=type=cache,id=meeting-{name},target=/meeting");
        let script = script(me, other);
        format!("FROM busybox AS {me}\nRUN {meeting} {mount} {script}\n")
    };
    format!(
        "{}{}FROM busybox\nCOPY --from=one /said /one\nCOPY --from=two /said /two\n",
        step("one", "two"),
        step("two", "one")
    )
}

#[test]
fn a_shared_cache_is_several_steps_at_once_and_a_private_one_is_not() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    // Each waits for the other inside its cache: whoever had to wait for its turn would never come.
    let meet = |me: &str, other: &str| {
        format!(
            "touch /c/{me} /meeting/{me} && until test -e /meeting/{other}; do sleep 0.02; done; \
             ls /c > /said"
        )
    };
    for (sharing, one, two) in [
        ("private", "one\n", "two\n"),
        ("shared", "one\ntwo\n", "one\ntwo\n"),
    ] {
        let mount = format!("--mount=type=cache,id={sharing},sharing={sharing},target=/c");
        let context = sandbox.fresh_context(&[("Dockerfile", &two_steps(sharing, &mount, meet))]);
        let root = sandbox.exported_from(&context, &["--no-cache"]);
        let said = (root.text("one"), root.text("two"));
        if sharing == "private" {
            assert_eq!(said, (one, two));
        } else {
            // The one that looks first may see itself alone.
            assert!(said.0 == one || said.1 == two, "{said:?}");
        }
    }
}

#[test]
fn a_locked_cache_is_one_step_s_at_a_time() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let mount = "--mount=type=cache,id=locked,sharing=locked,target=/c";
    // Gives the other one time to come in, which finds the room taken.
    let alone = |me: &str, other: &str| {
        format!(
            "mkdir /c/busy && touch /meeting/{me} && i=0 && \
             while test ! -e /meeting/{other} && test $i -lt 50; do sleep 0.02; i=$((i+1)); done; \
             rmdir /c/busy && echo alone > /said"
        )
    };
    let context = sandbox.fresh_context(&[("Dockerfile", &two_steps("locked", mount, alone))]);
    let root = sandbox.exported_from(&context, &[]);
    assert_eq!((root.text("one"), root.text("two")), ("alone\n", "alone\n"));
}

#[test]
fn a_cache_begins_as_what_it_is_from_and_can_be_read_only() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let mount = "--mount=type=cache,target=/c,from=seed,source=/seed";
    let dockerfile = format!(
        "FROM busybox AS seed\nRUN mkdir /seed && echo seed > /seed/f\n\
         FROM busybox\n\
         RUN {mount} cat /c/f > /first && echo more >> /c/f\n\
         RUN {mount},ro cat /c/f > /second; touch /c/x 2> /third; true\n"
    );
    let root = sandbox.exported(&[("Dockerfile", &dockerfile)]);
    assert_eq!(root.text("first"), "seed\n");
    assert_eq!(root.text("second"), "seed\nmore\n");
    assert!(
        root.text("third").contains("Read-only"),
        "{}",
        root.text("third")
    );
}

#[test]
fn secrets_are_written_in_many_ways() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let file = sandbox.path("word");
    fs::write(&file, "of a file").unwrap();
    let dockerfile = "FROM busybox\n\
        RUN --mount=type=secret,id=a stat -c '%a %u:%g' /run/secrets/a > /a && cat /run/secrets/a >> /a\n\
        RUN --mount=type=secret,id=b,target=/s/b,uid=33,gid=50,mode=0440 stat -c '%a %u:%g' /s/b > /b && cat /s/b >> /b\n\
        RUN --mount=type=secret,id=c,dst=/s/c,mode=0777 stat -c %a /s/c > /c && cat /s/c >> /c\n\
        RUN --mount=type=secret,id=d,destination=/s/d cat /s/d > /d\n\
        WORKDIR /w\n\
        RUN --mount=type=secret,id=d,target=here cat here > /e\n\
        RUN --mount=type=secret,id=c,env=WORD echo -n $WORD > /f && test ! -e /run/secrets/c\n\
        RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    let archive = sandbox.path("out.tar");
    let path = file.display();
    let flags = [
        format!("--secret=id=a,src={path}"),
        format!("--secret=type=file,id=b,source={path}"),
        "--secret=id=c,env=OF_THE_ENVIRONMENT".to_owned(),
        "--secret=type=env,id=d,env=OF_THE_ENVIRONMENT".to_owned(),
        format!("--output=type=tar,dest={}", archive.display()),
    ];
    let args = flags.iter().map(String::as_str);
    let args = ["build", context.to_str().unwrap()].into_iter().chain(args);
    let mut command = sandbox.command(args);
    command.env("OF_THE_ENVIRONMENT", "of the environment");
    crate::harness::Outcome::of(command).success();
    let root = crate::harness::Exported::read(&archive);
    for (name, expected) in [
        ("a", "400 0:0\nof a file"),
        ("b", "440 33:50\nof a file"),
        ("c", "777\nof the environment"),
        ("d", "of the environment"),
        ("e", "of the environment"),
        ("f", "of the environment"),
    ] {
        assert_eq!(root.text(name), expected, "{name}");
    }
    assert!(!root.has("s") && !root.has("w/here") && !root.has("run/secrets"));
}

#[test]
fn a_here_document_is_run_by_the_program_that_its_first_line_names() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let dockerfile = "FROM busybox\n\
        RUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"by awk\" > \"/said\" }\nEOF\n\
        RUN <<EOF\necho by the shell >> /said\nEOF\n";
    let root = sandbox.exported(&[("Dockerfile", dockerfile)]);
    assert_eq!(root.text("said"), "by awk\nby the shell\n");
    assert!(root.below("dev").is_empty(), "{:?}", root.below("dev"));
}

/// An ELF file of one segment at an address that both kinds of program have.
fn elf(wide: bool, code: &[u8]) -> Vec<u8> {
    const AT: u64 = 0x0040_0000;
    let (header, entry): (u64, u64) = if wide { (64, 56) } else { (52, 32) };
    let mut file = b"\x7fELF".to_vec();
    file.extend([if wide { 2 } else { 1 }, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let word = |file: &mut Vec<u8>, value: u64| {
        let bytes = value.to_le_bytes();
        file.extend(&bytes[..if wide { 8 } else { 4 }]);
    };
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let number = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
    half(&mut file, 2);
    half(&mut file, if wide { 62 } else { 3 });
    number(&mut file, 1);
    word(&mut file, AT + header + entry);
    word(&mut file, header);
    word(&mut file, 0);
    number(&mut file, 0);
    for value in [header, entry, 1, 0, 0, 0] {
        half(&mut file, u16::try_from(value).unwrap());
    }
    let size = header + entry + code.len() as u64;
    number(&mut file, 1);
    if wide {
        number(&mut file, 5);
    }
    for value in [0, AT, AT, size, size] {
        word(&mut file, value);
    }
    if !wide {
        number(&mut file, 5);
    }
    word(&mut file, 0x1000);
    file.extend(code);
    file
}

/// Ends with 42, by the system call of 32-bit programs.
const END_32: [u8; 12] = [0xb8, 1, 0, 0, 0, 0xbb, 42, 0, 0, 0, 0xcd, 0x80];
/// Ends with the effective user's number.
pub(crate) const WHO: [u8; 16] = [
    0xb8, 107, 0, 0, 0, 0x0f, 0x05, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05,
];

/// A program for this machine that ends with the effective user's number; `None` where none is known.
pub(crate) fn who() -> Option<Vec<u8>> {
    if !cfg!(target_arch = "x86_64") {
        skip("no program is known for this architecture");
        return None;
    }
    Some(elf(true, &WHO))
}

#[test]
fn programs_of_32_bits_run_where_the_kernel_runs_them() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let context = sandbox.fresh_context(&[(
        "Dockerfile",
        "FROM busybox\nCOPY --chmod=755 program /\nRUN /program; echo $? > /said\n",
    )]);
    let program = context.join("program");
    fs::write(&program, elf(false, &END_32)).unwrap();
    let made = Command::new("chmod").arg("755").arg(&program).status();
    assert!(made.unwrap().success());
    let here = Command::new(&program).status();
    if here.ok().and_then(|it| it.code()) != Some(42) {
        skip("this kernel runs no programs of 32 bits");
        return;
    }
    let root = sandbox.exported_from(&context, &[]);
    assert_eq!(root.text("said"), "42\n");
}

/// Whose set-user-id bit makes it root: what `sudo` needs of a sandbox.
#[test]
fn a_program_with_the_set_user_id_bit_is_its_owner_s() {
    let (Some(sandbox), Some(who)) = (Sandbox::with_busybox(), who()) else {
        return;
    };
    let dockerfile = "FROM busybox\nCOPY --chmod=755 who /plain\nCOPY --chmod=4755 who /sudo\n\
        RUN mkdir -m 777 /out\nUSER www\nRUN /plain; echo $? > /out/plain; /sudo; echo $? > /out/sudo\n";
    let context = sandbox.fresh_context(&[("Dockerfile", dockerfile)]);
    fs::write(context.join("who"), who).unwrap();
    let root = sandbox.exported_from(&context, &[]);
    assert_eq!(
        (root.text("out/plain"), root.text("out/sudo")),
        ("33\n", "0\n")
    );
}

/// There is no handler for it on any machine that these tests are run on but one that has all.
#[test]
fn a_program_of_another_architecture_says_what_is_missing() {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let mut foreign = elf(true, &[]);
    // s390x, by a number that its own programs would have the other way round.
    foreign[18] = 22;
    let context = sandbox.fresh_context(&[(
        "Dockerfile",
        "FROM busybox\nCOPY --chmod=755 program /\nRUN [\"/program\"]\n",
    )]);
    fs::write(context.join("program"), foreign).unwrap();
    let built = sandbox.run(["build", context.to_str().unwrap()]);
    let says = ["built for s390x", "binfmt_misc", "qemu-user-static"];
    built.failure(1, &says);
}
