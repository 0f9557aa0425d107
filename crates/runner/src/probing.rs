//! The trying-out of [`Probe`], in the stage: it has one thread, so it may fork.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, openat};
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    mount_change,
};
use rustix::process::WaitOptions;

use crate::capabilities;
use crate::devices;
use crate::mountfd::{NOSUID_NODEV_NOEXEC, attach, clone_tree, new_file_system};
use crate::probe::{Check, ControlGroups, Probe, SubordinateIds, network_helpers};
use crate::seccomp;
use crate::sys::{self, Cloned};
use crate::userns;

const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET;

/// Tries everything; `scratch` is a directory made for it.
pub(crate) fn probe(scratch: &Path) -> Probe {
    let capabilities = rustix::thread::capabilities(None).map_or(0, |it| it.effective.bits());
    let probe = Probe {
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        uid: rustix::process::geteuid().as_raw(),
        initial_user_namespace: userns::is_initial(),
        capabilities,
        // Without a mount in it, it is no use.
        user_namespace: attempt(|| {
            userns::enter_with_own_id()?;
            try_mount_api()
        }),
        user_namespace_hint: None,
        maps_all_ids: userns::may_map_all(),
        id_mapping: userns::try_mapping(),
        namespaces: attempt(|| sys::unshare(NAMESPACES)),
        mount_api: attempt(try_mount_api),
        mount_attributes: attempt(try_mount_attributes),
        proc_mount: attempt(try_proc),
        proc_mount_in_user_namespace: attempt(|| {
            userns::enter_with_own_id()?;
            try_proc()
        }),
        overlay: attempt(|| try_overlay(scratch, false)),
        overlay_in_user_namespace: attempt(|| {
            userns::enter_with_own_id()?;
            own_mounts()?;
            try_overlay(scratch, true)
        }),
        device_nodes: attempt(|| try_device(scratch)),
        chroot: attempt(|| Ok(rustix::process::chroot(scratch)?)),
        in_place: Check::Fails("it was not looked at".to_owned()),
        seccomp: attempt(try_seccomp),
        device_filter: attempt(|| sys::load_device_program(&devices::program()).map(drop)),
        control_groups: ControlGroups::probe(),
        subordinate_ids: SubordinateIds::probe(),
        network_helpers: network_helpers(),
    };
    // Overlay leaves a directory of mode 0, which only root can look into to delete it.
    for name in ["work/work", "work-user/work"] {
        let _absent = fs::set_permissions(scratch.join(name), PermissionsExt::from_mode(0o700));
    }
    probe
}

/// Tries to mount a fresh `/proc`, which the kernel refuses a user namespace while the one it sees is
/// covered in parts.
pub(crate) fn fresh_proc() -> Check {
    attempt(try_proc)
}

/// Whether this process may make namespaces and mount in them, by doing what a sandbox does. In a
/// thread of its own, whose namespaces nobody else sees and which end with it.
pub(crate) fn can_mount() -> bool {
    let tried = std::thread::Builder::new().spawn(|| {
        sys::unshare(libc::CLONE_FS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS)?;
        try_mount_api()
    });
    tried.is_ok_and(|thread| matches!(thread.join(), Ok(Ok(()))))
}

/// Tries something in a process of its own, which the kernel clears up after.
fn attempt(what: impl FnOnce() -> io::Result<()>) -> Check {
    match sys::fork() {
        Ok(Cloned::Child) => sys::exit_now(match what() {
            Ok(()) => 0,
            // Error numbers fit: the largest is 133.
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        }),
        Ok(Cloned::Parent(child)) => {
            match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
                Ok(Some((_, status))) => outcome(status.exit_status()),
                _ => Check::Fails("its process was lost".to_owned()),
            }
        }
        Err(error) => Check::Fails(error.to_string()),
    }
}

fn outcome(status: Option<i32>) -> Check {
    match status {
        Some(0) => Check::Works,
        Some(errno) => Check::Fails(io::Error::from_raw_os_error(errno).to_string()),
        None => Check::Fails("its process was killed".to_owned()),
    }
}

fn own_mounts() -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWNS)?;
    Ok(mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?)
}

fn try_mount_api() -> io::Result<()> {
    own_mounts()?;
    let tmpfs = new_file_system("tmpfs", &[], NOSUID_NODEV_NOEXEC)?;
    let root = openat(CWD, "/", OFlags::PATH, Mode::empty())?;
    attach(tmpfs.as_fd(), root.as_fd())
}

fn try_mount_attributes() -> io::Result<()> {
    own_mounts()?;
    let root = openat(CWD, "/", OFlags::PATH, Mode::empty())?;
    clone_tree(root.as_fd(), true).map(drop)
}

/// The process namespace is that of the next child.
fn try_proc() -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWPID)?;
    let mounted = attempt(|| new_file_system("proc", &[], NOSUID_NODEV_NOEXEC).map(drop));
    if mounted.works() {
        Ok(())
    } else {
        Err(rustix::io::Errno::PERM.into())
    }
}

/// With a deleted directory and an opaque one: without them, a mount that loses deletions passes.
fn try_overlay(scratch: &Path, in_user_namespace: bool) -> io::Result<()> {
    let part = |name: &str| {
        let suffix = if in_user_namespace { "-user" } else { "" };
        scratch.join(format!("{name}{suffix}"))
    };
    for name in ["lower/dir/file", "upper", "work"] {
        fs::create_dir_all(part(name.split('/').next().unwrap_or(name)))?;
    }
    fs::create_dir_all(part("lower").join("dir/inner"))?;
    let context = rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    for (key, name) in [
        ("lowerdir", "lower"),
        ("upperdir", "upper"),
        ("workdir", "work"),
    ] {
        fsconfig_set_string(context, key, part(name))?;
    }
    for key in ["index", "metacopy", "xino"] {
        fsconfig_set_string(context, key, "off")?;
    }
    fsconfig_set_string(context, "redirect_dir", "nofollow")?;
    if in_user_namespace {
        fsconfig_set_flag(context, "userxattr")?;
    }
    fsconfig_create(context)?;
    let flags = rustix::mount::FsMountFlags::FSMOUNT_CLOEXEC;
    let mounted = rustix::mount::fsmount(context, flags, MountAttrFlags::empty())?;
    use_overlay(&format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&mounted)
    ))
}

fn use_overlay(root: &str) -> io::Result<()> {
    let directory = format!("{root}/dir");
    fs::remove_dir_all(&directory)?;
    fs::create_dir(&directory)?;
    if fs::read_dir(&directory)?.next().is_some() {
        return Err(rustix::io::Errno::NOTEMPTY.into());
    }
    Ok(())
}

fn try_device(scratch: &Path) -> io::Result<()> {
    let node = scratch.join("null");
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, &node, FileType::CharacterDevice, mode, makedev(1, 3))?;
    File::options().write(true).open(&node).map(drop)
}

fn try_seccomp() -> io::Result<()> {
    let program = seccomp::default_profile(capabilities::SANDBOX);
    let program = program.ok_or_else(|| io::Error::from(rustix::io::Errno::NOSYS))?;
    rustix::thread::set_no_new_privs(true)?;
    sys::load_seccomp(&program)
}
