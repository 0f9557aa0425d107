//! What a process finds in its sandbox, and what it does not.

mod support;

use std::fs;
use std::os::fd::OwnedFd;

use longshore_runner::{
    BindSource, ExtraHost, HostAddress, Limits, Mount, MountSource, Network, ProcessSpec, Refused,
    Resolver, ResolverConfig, Resource, Rlimit, Rootfs, RunError, Secret, Security,
};
use support::{Image, can_run};

fn bind(target: &str, source: impl Into<std::path::PathBuf>, readonly: bool) -> Mount {
    Mount {
        target: target.to_owned(),
        source: MountSource::Bind {
            source: BindSource::Path(source.into()),
            subpath: None,
            readonly,
            recursive: true,
        },
    }
}

#[test]
fn privileged_capabilities_are_docker_s_fourteen_and_none_is_inherited() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let status = image
        .sh("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t'")
        .ok();
    assert_eq!(
        status,
        "CapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\n\
         CapBnd:00000000a80425fb\nCapAmb:0000000000000000\nNoNewPrivs:0\nSeccomp:2\n"
    );
    let mut spec = image.spec("grep -E '^Cap' /proc/self/status | tr -d '\\t'");
    spec.user = "app".to_owned();
    assert_eq!(
        image.run(spec).ok(),
        "CapInh:0000000000000000\nCapPrm:0000000000000000\nCapEff:0000000000000000\n\
         CapBnd:00000000a80425fb\nCapAmb:0000000000000000\n"
    );
}

#[test]
fn privileged_cve_2024_21626_nothing_of_ours_is_open_in_the_process() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let script = "i=0; while [ $i -lt 200 ]; do \
        [ -L /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done; true";
    assert_eq!(image.sh(script).ok(), "0\n1\n2\n");
    for n in 3..20 {
        let mut spec = image.spec("pwd; readlink /proc/self/cwd");
        spec.cwd = format!("/proc/self/fd/{n}");
        let outcome = image.run(spec);
        if let Ok(status) = &outcome.status {
            assert!(status.success());
            assert!(
                outcome.stdout.lines().all(|line| line.starts_with('/')),
                "{}",
                outcome.stdout
            );
            assert!(!outcome.stdout.contains(&*image.root().to_string_lossy()));
        }
    }
    let mut spec = image.spec("pwd");
    spec.cwd = "/proc/1/cwd/../../../..".to_owned();
    if let Ok(status) = image.run(spec).status {
        assert!(status.success());
    }
}

#[test]
fn privileged_only_the_sandbox_s_own_mounts_are_there() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let mut spec = image.spec("cut -d ' ' -f 5 /proc/self/mountinfo | sort");
    spec.readonly_rootfs = true;
    for spec in [
        image.spec("cut -d ' ' -f 5 /proc/self/mountinfo | sort"),
        spec,
    ] {
        let mounts = image.run(spec).ok();
        let allowed = [
            "/",
            "/dev",
            "/dev/mqueue",
            "/dev/pts",
            "/dev/shm",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/proc",
            "/sys",
        ];
        for mount in mounts.lines() {
            let below = ["/proc/", "/sys/"].iter().any(|it| mount.starts_with(it));
            assert!(below || allowed.contains(&mount), "{mount} in\n{mounts}");
        }
        assert_eq!(
            mounts.lines().filter(|it| *it == "/").count(),
            1,
            "{mounts}"
        );
    }
    let parent = image.sh("stat -c %d:%i / /..").ok();
    let lines: Vec<_> = parent.lines().collect();
    assert_eq!(lines[0], lines[1], "nothing lies on the root directory");
}

#[test]
fn privileged_namespaces_are_the_sandbox_s_own() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let theirs = image
        .sh("for n in pid mnt ipc uts net; do readlink /proc/self/ns/$n; done; echo $$; hostname");
    let theirs = theirs.ok();
    let theirs: Vec<_> = theirs.lines().collect();
    for (n, name) in ["pid", "mnt", "ipc", "uts"].iter().enumerate() {
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(theirs[n], ours.to_str().unwrap());
    }
    assert_eq!(
        theirs[4],
        fs::read_link("/proc/self/ns/net")
            .unwrap()
            .to_str()
            .unwrap()
    );
    assert_eq!(theirs[5..], ["1", "buildkitsandbox"]);
}

#[test]
fn privileged_network_none_has_a_working_loopback_and_nothing_else() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let mut spec =
        image.spec("ip -o link | wc -l; ping -c 1 -w 2 127.0.0.1 >/dev/null && echo alive");
    spec.network = Network::None;
    assert_eq!(image.run(spec).ok(), "1\nalive\n");
}

#[test]
fn privileged_cve_2025_31133_masks_are_real_whatever_the_image_brings() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    fs::create_dir(image.path("dev")).unwrap();
    std::os::unix::fs::symlink("/proc/kcore", image.path("dev/null")).unwrap();
    image.write("dev/zero", "not a device", 0o644);
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug; do \
            if [ -e $f ]; then stat -c '%F %t:%T' $f; head -c 1 $f | wc -c; fi; done; \
        for d in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do \
            if [ -d $d ]; then ls $d | wc -l; touch $d/x && echo writable; fi; done; \
        for p in sys irq bus fs; do \
            if [ -d /proc/$p ]; then grep -q \" /proc/$p ro,\" /proc/self/mountinfo || echo $p rw; fi; done; \
        echo 1 > /proc/sys/vm/drop_caches; echo b > /proc/sysrq-trigger; touch /sys/x; true";
    let outcome = image.sh(script);
    for line in outcome.stdout.lines() {
        assert!(
            ["character special file 1:3", "0"].contains(&line),
            "{}",
            outcome.stdout
        );
    }
    assert!(!outcome.ok().is_empty());
    assert!(
        fs::symlink_metadata(image.path("dev/null"))
            .unwrap()
            .is_symlink(),
        "untouched"
    );
}

#[test]
fn privileged_cve_2019_19921_links_in_place_of_system_directories_fail_closed() {
    if !can_run() {
        return;
    }
    let canary = ["proc", "sys", "dev"];
    for (name, target) in [
        ("proc", "/tmp"),
        ("sys", "/proc"),
        ("dev", "/canary"),
        ("proc", ".."),
    ] {
        let image = Image::new();
        let outside = image.beside("canary");
        fs::create_dir(image.path("canary")).unwrap();
        std::os::unix::fs::symlink(target, image.path(name)).unwrap();
        let error = image.sh("true").error();
        assert!(
            matches!(&error, RunError::Setup { path: Some(path), .. } if path.ends_with(name)),
            "{error:?}"
        );
        for directory in [outside, image.path("canary")] {
            assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
        }
        for other in canary {
            assert!(
                other == name || !image.path(other).exists(),
                "{other} was left behind"
            );
        }
    }
    let image = Image::new();
    image.write("proc", "a file", 0o644);
    assert!(matches!(image.sh("true").error(), RunError::Setup { .. }));
}

#[test]
fn privileged_cve_2023_25809_control_groups_cannot_be_changed() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let script = "find /sys/fs/cgroup -type f \\( -name cgroup.procs -o -name tasks -o -name release_agent \
        -o -name devices.allow -o -name 'memory.*limit*' \\) | while read file; do \
            (echo 0 > $file) 2>/dev/null && echo wrote $file; done; \
        for group in /sys/fs/cgroup /sys/fs/cgroup/*; do \
            mkdir $group/new 2>/dev/null && echo made $group; \
            mount -o remount,rw $group 2>/dev/null && echo remounted $group; done; echo end";
    assert_eq!(image.sh(script).ok(), "end\n");
}

#[test]
fn privileged_cve_2025_52565_what_an_image_has_in_dev_is_not_followed() {
    if !can_run() {
        return;
    }
    // Also CVE-2026-41579: the other names in there.
    for (name, target) in [
        ("console", "/tmp/canary"),
        ("console", "/proc/sysrq-trigger"),
        ("pts", ".."),
        ("ptmx", "/tmp/canary"),
        ("null", "/tmp/canary"),
    ] {
        let image = Image::new();
        fs::create_dir(image.path("dev")).unwrap();
        image.write("tmp/canary", "unchanged", 0o644);
        std::os::unix::fs::symlink(target, image.path("dev").join(name)).unwrap();
        let mut spec = image.spec(
            "test -c /dev/console && test -c /dev/pts/0 && test -c /dev/null && cat /tmp/canary; \
             cut -d' ' -f5 /proc/self/mountinfo | grep -v '^/\\(dev\\|proc\\|sys\\|etc\\)'",
        );
        spec.terminal = true;
        assert_eq!(image.run(spec).stdout, "unchanged/\r\n", "{name}");
        let link = fs::read_link(image.path("dev").join(name)).unwrap();
        assert_eq!(link, std::path::Path::new(target), "the image is as it was");
        assert_eq!(fs::read(image.path("tmp/canary")).unwrap(), b"unchanged");
    }
}

#[test]
fn privileged_cve_2022_36109_groups_are_the_user_s_own_and_no_others() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    for (user, expected) in [
        ("app", "1000 10\n"),
        ("1000", "1000 10\n"),
        ("app:staff", "50\n"),
        ("1000:1000", "1000\n"),
        ("7", "0\n"),
    ] {
        let mut spec = image.spec("id -G");
        user.clone_into(&mut spec.user);
        assert_eq!(image.run(spec).ok(), expected, "{user}");
    }
}

#[test]
fn privileged_cve_2021_30465_a_mount_target_that_becomes_a_link_meanwhile_stays_inside() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::sync::atomic::{AtomicBool, Ordering};
    const RUNS: usize = 60;
    if !can_run() {
        return;
    }
    let image = Image::new();
    let (shared, canary) = (image.beside("shared"), image.beside("canary"));
    fs::create_dir(shared.join("target")).unwrap();
    std::os::unix::fs::symlink(&canary, shared.join("other")).unwrap();
    let over = AtomicBool::new(false);
    let mounted = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(canary.to_str().unwrap())
    };
    let worked = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let (target, other) = (shared.join("target"), shared.join("other"));
                renameat_with(CWD, target, CWD, other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let mut worked = 0;
        for _ in 0..RUNS {
            let mut spec = image.spec("touch /cache/target/file; ls -d /cache");
            let tmpfs = MountSource::Tmpfs {
                size_bytes: None,
                mode: 0o777,
                readonly: false,
                refused: Refused::SUID,
            };
            spec.mounts = vec![
                bind("/cache", &shared, false),
                Mount {
                    target: "/cache/target".to_owned(),
                    source: tmpfs,
                },
            ];
            // Whether it is refused or runs is a matter of luck.
            worked += usize::from(image.run(spec).status.is_ok());
            assert!(!mounted());
            assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
        }
        over.store(true, Ordering::Relaxed);
        worked
    });
    assert!(worked > 0, "not one was mounted");
}

#[test]
fn privileged_devices_are_made_but_only_harmless_ones_opened() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let script = "mknod /tmp/disk b 254 0 && mknod /tmp/mem c 1 1 && mknod /tmp/null c 1 3 && echo made; \
        head -c 1 /tmp/disk; head -c 1 /tmp/mem; echo x > /tmp/null && echo null works; \
        head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; ls /dev | grep -v core";
    let outcome = image.sh(script);
    assert_eq!(
        outcome.stdout,
        "made\nnull works\n4\n4\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\n\
         stdin\nstdout\ntty\nurandom\nzero\n"
    );
    let refused = outcome.stderr.matches("Operation not permitted").count();
    assert_eq!(refused, 2, "{}", outcome.stderr);
    let core = image.sh("readlink /dev/core").stdout;
    let has_kcore = std::path::Path::new("/proc/kcore").exists();
    assert_eq!(core, if has_kcore { "/proc/kcore\n" } else { "" });
}

#[test]
fn privileged_no_signal_is_ignored_or_blocked() {
    if !can_run() {
        return;
    }
    // Those that the C library keeps to itself are ignored by what it starts processes with.
    let image = Image::new();
    let mut spec = image.spec("");
    spec.args = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
        .map(str::to_owned)
        .to_vec();
    let signals = image.run(spec).ok();
    assert_eq!(
        signals,
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    );
}

#[test]
fn privileged_system_calls_that_the_filter_refuses() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let source = r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <sched.h>
        #include <stdio.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static void say(const char *name, long result) { printf("%s %d\n", name, result < 0 ? errno : 0); }
        int main() {
            say("alg", syscall(SYS_socket, 38, 5, 0));
            say("vsock", syscall(SYS_socket, 40, 1, 0));
            say("unix", syscall(SYS_socket, 1, 1, 0));
            say("keyctl", syscall(SYS_keyctl, 0, -3, 0));
            say("mount", syscall(SYS_mount, "x", "/tmp", "tmpfs", 0, 0));
            say("unshare", unshare(CLONE_NEWUSER));
            say("clone3", syscall(SYS_clone3, 0, 0));
            say("bpf", syscall(SYS_bpf, 0, 0, 0));
            say("newer", syscall(5000));
            say("hole", syscall(SYS_add_key, 0, 0, 0, 0, 0));
            return 0;
        }"#;
    if !image.compile("calls", source) {
        return;
    }
    assert_eq!(
        image.sh("/calls").ok(),
        "alg 1\nvsock 1\nunix 0\nkeyctl 1\nmount 1\nunshare 1\nclone3 38\nbpf 1\nnewer 38\nhole 1\n"
    );
    let mut spec = image.spec("/calls | grep -E '^(unshare|mount) '");
    spec.security = Security::Insecure;
    assert_eq!(image.run(spec).ok(), "mount 0\nunshare 0\n");
}

#[test]
fn privileged_cve_2019_5736_the_runner_s_program_cannot_be_overwritten() {
    if !can_run() {
        return;
    }
    let program = env!("CARGO_BIN_EXE_longshore-runner-stage");
    let before = fs::read(program).unwrap();
    let image = Image::new();
    // With `init`, number 1 is the runner's program.
    let mut spec =
        image.spec("echo overwritten > /proc/1/exe; cat /proc/1/exe | head -c 4; kill -9 $$");
    spec.init = true;
    let outcome = image.run(spec);
    assert_eq!(outcome.code(), 137, "{}", outcome.stderr);
    assert!(fs::read(program).unwrap() == before);
    // Asking for itself: whatever it is, it must not hang or harm.
    let spec = ProcessSpec::new(Rootfs::Path(image.root()), ["/proc/self/exe", "-c", "true"]);
    drop(image.run(spec));
    assert!(fs::read(program).unwrap() == before);
}

#[test]
fn privileged_insecure_gives_everything_to_any_user() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let script = "set -e; mount -t tmpfs x /tmp; echo 1 > /proc/sys/vm/drop_caches; \
        mknod /tmp/disk b 254 0; grep Seccomp: /proc/self/status | tr -d '\\t'; ls /dev/kmsg /dev/net/tun /dev/loop7";
    let mut spec = image.spec(script);
    spec.security = Security::Insecure;
    assert_eq!(
        image.run(spec).ok(),
        "Seccomp:0\n/dev/kmsg\n/dev/loop7\n/dev/net/tun\n"
    );
    let mut spec = image.spec(
        "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f 2 | sort -u | wc -l; id -u",
    );
    spec.security = Security::Insecure;
    spec.user = "app".to_owned();
    assert_eq!(
        image.run(spec).ok(),
        "1\n1000\n",
        "all five sets are the same"
    );
}

#[test]
fn privileged_users_resolve_by_the_image_s_files_and_their_traps() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    fs::write(
        image.path("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\n1000:x:0:0::/root:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n\
         app:x:1000:1000::/home/app:/bin/sh\n",
    )
    .unwrap();
    let id = |user: &str| {
        let mut spec = image.spec("echo $(id -u):$(id -g) $(id -G | tr ' ' '\\n' | sort -n)");
        spec.user = user.to_owned();
        image.run(spec)
    };
    assert_eq!(id("app").ok(), "1000:1000 10 1000\n");
    assert_eq!(id("app:staff").ok(), "1000:50 50\n");
    assert_eq!(
        id("1000").ok(),
        "1000:1000 1000\n".replace("1000:1000 1000", "1000:1000 10 1000")
    );
    assert_eq!(id("4242").ok(), "4242:0 0\n");
    assert_eq!(id("0:0").ok(), "0:0 0\n");
    assert_eq!(id("root").ok(), "0:0 0 10\n");
    for user in [
        "4294967295",
        "4294967296",
        "2147483648",
        "-1",
        "0x0",
        "nobody",
        "app:nogroup",
    ] {
        assert!(matches!(id(user).error(), RunError::User { .. }), "{user}");
    }
}

#[test]
fn privileged_cve_2026_47262_hostile_account_files_do_not_hang_or_fill_memory() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let passwd = image.path("etc/passwd");
    let replace = |make: &dyn Fn()| {
        fs::remove_file(&passwd).unwrap();
        make();
        let mut spec = image.spec("id -u");
        spec.user = "app".to_owned();
        image.run(spec)
    };
    let link = |target: &'static str| {
        let passwd = passwd.clone();
        move || std::os::unix::fs::symlink(target, &passwd).unwrap()
    };
    fs::create_dir_all(image.path("dev")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let device = rustix::fs::makedev(1, 5);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, image.path("zero"), kind, mode, device).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, image.path("fifo"), fifo, mode, 0).unwrap();
    for target in ["/zero", "/fifo", "/etc", "passwd"] {
        let error = replace(&link(target)).error();
        assert!(
            matches!(error, RunError::User { .. }),
            "{target}: {error:?}"
        );
    }
    let big = || {
        fs::File::create(&passwd)
            .unwrap()
            .set_len(20 << 30)
            .unwrap();
    };
    assert!(
        matches!(replace(&big).error(), RunError::User { .. }),
        "20 GiB"
    );
    fs::write(image.path("real"), "app:x:77:77::/:/bin/sh\n").unwrap();
    assert_eq!(
        replace(&link("/../../real")).ok(),
        "77\n",
        "links stay inside"
    );
    fs::remove_file(&passwd).unwrap();
    assert_eq!(image.sh("id -u").ok(), "0\n", "no file is no users");
}

#[test]
fn privileged_mounts_of_every_kind() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let cache = image.beside("cache");
    fs::create_dir_all(cache.join("sub/deep")).unwrap();
    fs::write(cache.join("sub/file"), "cached").unwrap();
    fs::write(cache.join("single"), "one file").unwrap();
    let script = "cat /ro/sub/file; touch /ro/x; touch /rw/new; cat /part/file; cat /single; \
        touch /single; stat -c '%a %u:%g' /secret; cat /secret; echo > /secret; \
        stat -c %a /mem; df -k /mem | tail -1 | awk '{print $2}'; grep -c ' /mem/inner ' /proc/self/mountinfo; \
        /script";
    let mut spec = image.spec(script);
    let file = |target: &str, contents: &str, mode, uid| Mount {
        target: target.to_owned(),
        source: MountSource::File {
            contents: Secret(contents.into()),
            mode,
            uid,
            gid: 5,
        },
    };
    spec.mounts = vec![
        bind("/mem/inner", &cache, true),
        bind("/ro", &cache, true),
        bind("/rw/../rw", &cache, false),
        Mount {
            target: "/part".to_owned(),
            source: MountSource::Bind {
                source: BindSource::Path(cache.clone()),
                subpath: Some("sub".into()),
                readonly: true,
                recursive: false,
            },
        },
        bind("/single", cache.join("single"), true),
        file("/secret", "hush\n", 0o400, 7),
        file("/script", "#!/bin/sh\necho from a script\n", 0o755, 0),
        Mount {
            target: "/mem".to_owned(),
            source: MountSource::Tmpfs {
                size_bytes: Some(1 << 20),
                mode: 0o711,
                readonly: false,
                refused: Refused::SUID,
            },
        },
    ];
    let outcome = image.run(spec);
    assert_eq!(
        outcome.stdout, "cachedcachedone file400 7:5\nhush\n711\n1024\n1\nfrom a script\n",
        "{}",
        outcome.stderr
    );
    assert_eq!(
        outcome.stderr.matches("Read-only file system").count(),
        3,
        "{}",
        outcome.stderr
    );
    assert!(cache.join("new").exists());
    let mut names: Vec<_> = fs::read_dir(image.root())
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["bin", "etc", "home", "root", "tmp"],
        "no mount point is left"
    );
    assert!(!image.path("etc/hosts").exists() && !image.path("etc/resolv.conf").exists());
}

#[test]
fn privileged_later_mounts_win_and_parents_come_first() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let (one, two) = (image.beside("one"), image.beside("two"));
    fs::write(one.join("which"), "one").unwrap();
    fs::write(two.join("which"), "two").unwrap();
    let mut spec = image.spec("cat /a/which /a/b/which; cat /etc/hosts");
    spec.mounts = vec![
        bind("/a/b", &one, true),
        bind("/a", &one, false),
        bind("/a", &two, false),
        bind("/etc/hosts", two.join("which"), true),
    ];
    assert_eq!(image.run(spec).ok(), "twoonetwo");
    assert!(
        two.join("b").is_dir(),
        "a mount point in a mount stays, as with BuildKit"
    );
}

#[test]
fn privileged_cve_2024_23651_a_subpath_cannot_lead_out_of_its_source() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let cache = image.beside("cache");
    fs::write(image.beside("outside").join("canary"), "").unwrap();
    std::os::unix::fs::symlink("/", cache.join("root")).unwrap();
    std::os::unix::fs::symlink("../outside", cache.join("up")).unwrap();
    for (subpath, exists) in [
        ("root", true),
        ("up", false),
        ("../outside", false),
        ("gone", false),
    ] {
        let mut spec = image.spec("ls /x");
        spec.mounts = vec![Mount {
            target: "/x".to_owned(),
            source: MountSource::Bind {
                source: BindSource::Path(cache.clone()),
                subpath: Some(subpath.into()),
                readonly: true,
                recursive: true,
            },
        }];
        let outcome = image.run(spec);
        match exists {
            true => assert_eq!(
                outcome.ok(),
                "root\nup\n",
                "a link to / is the source's root"
            ),
            false => assert!(
                matches!(outcome.error(), RunError::Setup { .. }),
                "{subpath}"
            ),
        }
    }
}

#[test]
fn privileged_mount_targets_stay_inside_and_out_of_proc() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let source = image.beside("source");
    let canary = image.beside("canary");
    std::os::unix::fs::symlink(&canary, image.path("out")).unwrap();
    std::os::unix::fs::symlink("/proc/self", image.path("sly")).unwrap();
    let mut spec = image.spec("ls -d /out/made");
    spec.mounts = vec![bind("/out/made", &source, true)];
    assert_eq!(image.run(spec).ok(), "/out/made\n");
    assert_eq!(
        fs::read_dir(&canary).unwrap().count(),
        0,
        "the link was followed inside"
    );
    assert!(
        !image
            .path(canary.strip_prefix("/").unwrap().to_str().unwrap())
            .exists()
    );
    for target in ["/proc", "/proc/self/attr", "/sly/attr"] {
        let mut spec = image.spec("true");
        spec.mounts = vec![bind(target, &source, true)];
        assert!(
            matches!(image.run(spec).error(), RunError::Spec { .. }),
            "{target}"
        );
    }
    let mut spec = image.spec("true");
    spec.mounts = vec![bind("/etc/passwd", &source, true)];
    let error = image.run(spec).error();
    assert!(
        matches!(error, RunError::Setup { .. }),
        "a directory on a file: {error:?}"
    );
}

#[test]
fn privileged_cve_2024_23652_stub_removal_cannot_be_led_astray() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let canary = image.beside("canary");
    fs::create_dir(canary.join("stub")).unwrap();
    let script = format!(
        "cd /; mv /dir /moved; ln -s {} /dir; ls /moved",
        canary.display()
    );
    let mut spec = image.spec(&script);
    spec.mounts = vec![bind("/dir/stub", image.beside("source"), true)];
    let outcome = image.run(spec);
    assert!(canary.join("stub").is_dir(), "{}", outcome.stderr);
    assert!(
        !image.path("moved/stub").exists(),
        "the stub itself went, where it had been moved"
    );
}

#[test]
fn privileged_a_read_only_root_is_one_and_leaves_no_stub_either() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let mut spec = image.spec("touch /x || echo refused; touch /cache/x && echo written; pwd");
    spec.readonly_rootfs = true;
    spec.cwd = "/tmp".to_owned();
    spec.mounts = vec![bind("/cache", image.beside("cache"), false)];
    assert_eq!(image.run(spec).ok(), "refused\nwritten\n/tmp\n");
    assert!(!image.path("cache").exists() && !image.path("proc").exists());
}

#[test]
fn privileged_hosts_and_resolver() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    image.write("etc/resolv.conf", "nameserver 9.9.9.9\n", 0o644);
    let mut spec = image.spec("cat /etc/hosts /etc/resolv.conf; hostname; touch /etc/hosts");
    spec.hostname = "box".to_owned();
    spec.extra_hosts = vec![ExtraHost {
        name: "db".to_owned(),
        address: "10.1.2.3".parse().unwrap(),
    }];
    spec.resolver = Resolver::Custom(ResolverConfig {
        nameservers: vec!["1.2.3.4".to_owned()],
        search: vec!["example.org".to_owned()],
        options: vec!["ndots:1".to_owned()],
    });
    let outcome = image.run(spec);
    assert_eq!(
        outcome.stdout,
        "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\n\
         search example.org\nnameserver 1.2.3.4\noptions ndots:1\nbox\n"
    );
    assert!(outcome.stderr.contains("Read-only"), "{}", outcome.stderr);
    let mut spec = image.spec("cat /etc/resolv.conf");
    spec.resolver = Resolver::Image;
    assert_eq!(image.run(spec).ok(), "nameserver 9.9.9.9\n");
}

#[test]
fn privileged_limits_hold_or_are_warned_about() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let mut spec = image.spec("ulimit -n; ulimit -c");
    spec.rlimits = vec![
        Rlimit {
            resource: Resource::Nofile,
            soft: Some(100),
            hard: Some(200),
        },
        Rlimit {
            resource: Resource::Core,
            soft: Some(0),
            hard: Some(0),
        },
    ];
    assert_eq!(image.run(spec).ok(), "100\n0\n");

    // There is no kernel that has no limit of descriptors.
    let mut spec = image.spec("ulimit -n; ulimit -Hn");
    spec.rlimits = vec![Rlimit {
        resource: Resource::Nofile,
        soft: None,
        hard: None,
    }];
    let outcome = image.run(spec);
    let status = outcome.status.as_ref().unwrap();
    let what: Vec<_> = status.warnings.iter().map(|it| it.what.as_str()).collect();
    assert_eq!(what, ["rlimit nofile"]);
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let hard = hard.unwrap();
    assert_eq!(outcome.ok(), format!("{hard}\n{hard}\n"));

    let mut spec = image.spec(
        "umask; touch /tmp/x; stat -c %a /tmp/x; df -k /dev/shm | tail -1 | awk '{print $2}'",
    );
    spec.umask = 0o077;
    spec.shm_bytes = 1 << 20;
    assert_eq!(image.run(spec).ok(), "0077\n600\n1024\n");
}

#[test]
fn privileged_memory_and_process_limits_stop_a_bomb() {
    if !can_run() || !support::are_controlled("memory") || !support::are_controlled("pids") {
        return;
    }
    let image = Image::new();
    let mut spec = image.spec("head -c 200m /dev/zero | tail -c 200m | wc -c; echo survived");
    spec.limits = Limits {
        memory_bytes: Some(32 << 20),
        ..Limits::default()
    };
    let outcome = image.run(spec);
    let status = outcome.status.unwrap();
    assert_eq!(status.warnings, []);
    assert!(status.oom, "{status:?} {}", outcome.stdout);

    let mut spec = image.spec("i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i+1)); done; echo all");
    spec.limits = Limits {
        pids_max: Some(20),
        ..Limits::default()
    };
    let outcome = image.run(spec);
    let status = outcome.status.unwrap();
    assert_eq!(status.warnings, []);
    assert_eq!(outcome.stdout, "", "{}", outcome.stderr);
    support::assert_nothing_is_left("head -c 200m");
}

#[test]
fn privileged_standard_streams_can_be_opened_again_by_the_user() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let mut spec = image.spec("echo out > /dev/stdout; echo err > /dev/stderr; cat < /dev/stdin");
    spec.user = "app".to_owned();
    let outcome = image.run(spec);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\n", "err\n")
    );
}

#[test]
fn privileged_a_detached_mount_can_be_root_and_source() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let clone = |path: &std::path::Path| -> OwnedFd {
        use rustix::mount::{OpenTreeFlags, open_tree};
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(rustix::fs::CWD, path, flags).unwrap()
    };
    let cache = image.beside("cache");
    fs::create_dir_all(cache.join("sub")).unwrap();
    fs::write(cache.join("sub/file"), "inside").unwrap();
    for (subpath, script) in [
        (None, "cat /c/sub/file"),
        (Some("sub".into()), "cat /c/file"),
    ] {
        let mut spec = ProcessSpec::new(Rootfs::Mount(clone(&image.root())), ["sh", "-c", script]);
        spec.mounts = vec![Mount {
            target: "/c".to_owned(),
            source: MountSource::Bind {
                source: BindSource::Mount(clone(&cache)),
                subpath,
                readonly: true,
                recursive: true,
            },
        }];
        assert_eq!(image.run(spec).ok(), "inside");
    }
    assert!(!image.path("c").exists());
}

#[test]
fn privileged_an_init_reaps_and_passes_on_the_exit_code() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let mut spec = image.spec("echo $$; (sleep 0.1 &); sleep 0.3; ps | grep -c 'Z' ; exit 3");
    spec.init = true;
    let outcome = image.run(spec);
    assert_eq!(outcome.code(), 3, "{}", outcome.stderr);
    let first = outcome.stdout.lines().next().unwrap();
    assert_ne!(first, "1", "the command is not number 1");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_started() {
    let runner = support::new_runner();
    let cancel = longshore_runner::Cancel::new().unwrap();
    let refused = |change: &dyn Fn(&mut ProcessSpec)| {
        let mut spec = ProcessSpec::new(Rootfs::Path("/".into()), ["true"]);
        change(&mut spec);
        let io = longshore_runner::ProcessIo::to_sink(|_, _| {});
        let result = longshore_runner::Runner::run(&runner, spec, io, &cancel);
        assert!(matches!(result, Err(RunError::Spec { .. })), "{result:?}");
    };
    refused(&|spec| spec.args.clear());
    refused(&|spec| spec.args = vec!["a\0b".to_owned()]);
    refused(&|spec| spec.env = vec!["A=\0".to_owned()]);
    refused(&|spec| spec.cwd = "relative".to_owned());
    refused(&|spec| spec.hostname = "x".repeat(65));
    refused(&|spec| spec.mounts = vec![bind("/", "/tmp", true)]);
    refused(&|spec| spec.mounts = vec![bind("/../proc/x", "/tmp", true)]);
    refused(&|spec| {
        spec.extra_hosts = vec![ExtraHost {
            name: "a\n6.6.6.6 b".to_owned(),
            address: HostAddress::Ip([1, 1, 1, 1].into()),
        }];
    });
}

#[test]
fn a_probe_answers_everything_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let probe = support::new_runner().probe(temp.path()).unwrap();
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
    assert_eq!(probe.uid, rustix::process::geteuid().as_raw());
    assert!(!probe.kernel.is_empty());
    // What the other tests here have to do anyway must not be said to fail.
    if can_run() {
        for check in [
            &probe.namespaces,
            &probe.mount_api,
            &probe.mount_attributes,
            &probe.overlay,
        ] {
            assert!(check.works(), "{probe:#?}");
        }
    }
}

#[test]
fn privileged_setuid_programs_still_become_root() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let source = "#include <stdio.h>\n#include <unistd.h>\n\
        int main() { printf(\"%d %d\\n\", getuid(), geteuid()); return 0; }";
    if !image.compile("who", source) {
        return;
    }
    fs::set_permissions(
        image.path("who"),
        std::os::unix::fs::PermissionsExt::from_mode(0o4755),
    )
    .unwrap();
    let mut spec = image.spec("/who");
    spec.user = "app".to_owned();
    assert_eq!(image.run(spec).ok(), "1000 0\n");
}

#[test]
fn privileged_a_program_that_is_no_stage_is_an_error_and_not_a_hang() {
    if !can_run() {
        return;
    }
    let image = Image::new();
    let options = longshore_runner::RunnerOptions {
        stage: Some("/bin/false".into()),
        ..longshore_runner::RunnerOptions::default()
    };
    let runner = longshore_runner::SandboxRunner::new(&options).unwrap();
    let io = longshore_runner::ProcessIo::to_sink(|_, _| {});
    let cancel = longshore_runner::Cancel::new().unwrap();
    let result = longshore_runner::Runner::run(&runner, image.spec("true"), io, &cancel);
    assert!(
        matches!(result, Err(RunError::Lost { .. } | RunError::Setup { .. })),
        "{result:?}"
    );
}
