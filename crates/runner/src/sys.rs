//! The system calls that have no safe wrapper. Nothing else in this crate is `unsafe`.
//!
//! JUSTIFICATION, for the module: rustix, which everything else uses, has no `clone3`, `execve`,
//! `mount_setattr`, `seccomp`, `bpf`, `keyctl`, `close_range` or `getrusage`, marks `unshare`
//! unsafe, and does not reset signal dispositions. Each function here is one such call.
#![expect(
    unsafe_code,
    reason = "raw system calls; see the module's documentation"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use rustix::mount::MountAttrFlags;
use rustix::process::Pid;

use crate::seccomp::Instruction;
use crate::status::Usage;

/// The highest signal (`_NSIG`) and the size of a set of them, as the kernel has them.
const SIGNAL_MAX: c_long = 64;
const SIGNAL_SET_BYTES: usize = 8;

/// The two sides of [`clone_process`].
#[derive(Debug)]
pub(crate) enum Cloned {
    Child,
    Parent(Pid),
}

/// Forks into new namespaces (`CLONE_NEW*`) and, where the kernel can, straight into a control
/// group. The second value says whether the child is in that group.
///
/// Only for single-threaded processes: the stage, never the caller's.
pub(crate) fn clone_process(
    namespaces: c_int,
    group: Option<BorrowedFd<'_>>,
) -> io::Result<(Cloned, bool)> {
    if let Some(group) = group {
        match clone3(namespaces, Some(group)) {
            Err(error) if is_refused(&error) => {}
            other => return Ok((other?, true)),
        }
    }
    Ok((legacy_clone(namespaces)?, false))
}

fn is_refused(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EINVAL | libc::E2BIG | libc::EBUSY | libc::EOPNOTSUPP)
    )
}

fn clone3(namespaces: c_int, group: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    // SAFETY: `clone_args` is plain integers, for which zero means "not used".
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = u64::from(namespaces.cast_unsigned());
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(group) = group {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(group.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM the child has a copy of this single-threaded process's memory and
    // continues here, as after fork(2); the size is that of the struct passed.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            mem::size_of_val(&arguments),
        )
    };
    cloned(pid)
}

/// linux/sched.h
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn legacy_clone(namespaces: c_int) -> io::Result<Cloned> {
    let flags = c_long::from(namespaces | libc::SIGCHLD);
    // SAFETY: as in `clone3`; a null stack means the same stack address in the child's copy.
    cloned(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })
}

fn cloned(pid: c_long) -> io::Result<Cloned> {
    match pid {
        0 => Ok(Cloned::Child),
        -1 => Err(io::Error::last_os_error()),
        _ => {
            let pid = c_int::try_from(pid).ok().and_then(Pid::from_raw);
            pid.map(Cloned::Parent)
                .ok_or_else(|| io::Error::other("clone gave no process id"))
        }
    }
}

/// Moves this thread (`CLONE_NEWPID`: its next children) into new namespaces. Only for
/// single-threaded processes, but for `CLONE_NEWNET`, which concerns the thread alone.
pub(crate) fn unshare(namespaces: c_int) -> io::Result<()> {
    // SAFETY: what is shared by CLONE_FILES or CLONE_VM is not touched by these flags.
    checked(c_long::from(unsafe { libc::unshare(namespaces) })).map(drop)
}

/// Sends a signal, one of the real-time ones too, which have no names.
pub(crate) fn signal(process: Pid, signal: c_int) -> io::Result<()> {
    // SAFETY: `kill` has no preconditions.
    checked(c_long::from(unsafe {
        libc::kill(process.as_raw_nonzero().get(), signal)
    }))
    .map(drop)
}

/// The same, to the process that a descriptor stands for.
pub(crate) fn signal_by_descriptor(process: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    // SAFETY: without a `siginfo_t` the kernel reads nothing of this process's memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            ptr::null::<c_void>(),
            0,
        )
    };
    checked(result).map(drop)
}

/// Forks within the sandbox, for the reaper. Only for single-threaded processes.
pub(crate) fn fork() -> io::Result<Cloned> {
    legacy_clone(0)
}

/// Ends the process at once, without running what was registered for its end.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Replaces the process. Returns only on failure.
pub(crate) fn execve(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let arguments = null_terminated(arguments);
    let environment = null_terminated(environment);
    // SAFETY: both vectors end in a null pointer and point to strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

fn null_terminated(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}

/// linux/mount.h: `struct mount_attr`
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes the attributes of the mount whose root `mount` is, and makes it private, so that nothing
/// mounted below it shows up elsewhere.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: MountAttrFlags,
    clear: MountAttrFlags,
) -> io::Result<()> {
    let attributes = MountAttr {
        set: u64::from(set.bits()),
        clear: u64::from(clear.bits()),
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and the size is that of the struct passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            mem::size_of_val(&attributes),
        )
    };
    checked(result).map(drop)
}

/// linux/fcntl.h
const AT_RECURSIVE: c_int = 0x8000;

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: c_long = 4;
    // SAFETY: changes descriptor flags only; no descriptor is closed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            c_int::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    };
    checked(result).map(drop)
}

/// Closes every descriptor but the standard streams and `kept`. Only for a process that does nothing
/// else with descriptors any more.
pub(crate) fn close_all_from_3_but(kept: RawFd) {
    for (first, last) in [(3, kept - 1), (kept + 1, c_int::MAX)] {
        if first <= last {
            // SAFETY: the caller uses none of these again. Nothing open in a range is no error.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// Gives the process an empty session keyring of its own.
pub(crate) fn join_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            ptr::null::<c_char>(),
        )
    };
    checked(result).map(drop)
}

/// Sets every signal back to its default and unblocks all of them: both survive `execve`, and the
/// caller may have been started by `nohup`.
pub(crate) fn reset_signals() {
    // The kernel's `struct sigaction`: all zeros is the default handler, no flags and no mask. The
    // C library's own call refuses the two signals that it keeps to itself, which its `posix_spawn`
    // has set to be ignored.
    let default = [0u64; 4];
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: no handler is installed, and the structure outlives the call. What cannot be set
        // (KILL, STOP) is refused, and stays at its default.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<u64>(),
                SIGNAL_SET_BYTES,
            )
        };
    }
    // SAFETY: `sigset_t` is plain memory that sigemptyset initialises.
    unsafe {
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Blocks every signal and returns a descriptor they can be read from.
pub(crate) fn signals_as_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: `sigset_t` is plain memory that sigfillset initialises; the descriptor is new.
    unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const all, libc::SFD_CLOEXEC);
        checked(c_long::from(fd))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Loads a system call filter for this process and its children.
pub(crate) fn load_seccomp(program: &[Instruction]) -> io::Result<()> {
    let filters: Vec<libc::sock_filter> = program.iter().map(sock_filter).collect();
    let length =
        u16::try_from(filters.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog {
        len: length,
        filter: filters.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `length` instructions and does not keep the pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    checked(result).map(drop)
}

fn sock_filter(it: &Instruction) -> libc::sock_filter {
    libc::sock_filter {
        code: it.code,
        jt: it.jump_true,
        jf: it.jump_false,
        k: it.constant,
    }
}

/// linux/bpf.h: the part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[repr(C)]
struct BpfLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// linux/bpf.h: the part of `union bpf_attr` that `BPF_PROG_ATTACH` needs.
#[repr(C)]
struct BpfAttach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program of 8-byte instructions.
pub(crate) fn load_device_program(program: &[u64]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let load = BpfLoad {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).unwrap_or(u32::MAX),
        instructions: address(program.as_ptr().cast()),
        license: address(c"Apache-2.0".as_ptr().cast()),
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    let fd = bpf(
        BPF_PROG_LOAD,
        (&raw const load).cast(),
        mem::size_of_val(&load),
    )?;
    // SAFETY: BPF_PROG_LOAD returns a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device program to a control group; it goes with the group.
pub(crate) fn attach_device_program(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    const BPF_PROG_ATTACH: c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attach = BpfAttach {
        target: group.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(
        BPF_PROG_ATTACH,
        (&raw const attach).cast(),
        mem::size_of_val(&attach),
    )
    .map(drop)
}

fn address(pointer: *const c_void) -> u64 {
    pointer.expose_provenance() as u64
}

fn bpf(command: c_int, attributes: *const c_void, size: usize) -> io::Result<c_int> {
    // SAFETY: both callers pass a struct of `size` bytes whose pointers outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    Ok(c_int::try_from(checked(result)?).unwrap_or(-1))
}

/// What the children that were waited for have used.
pub(crate) fn usage_of_children() -> Usage {
    // SAFETY: `rusage` is plain integers, which getrusage fills in.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    Usage {
        user_time: duration(usage.ru_utime),
        system_time: duration(usage.ru_stime),
        max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or_default() * 1024,
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds)
        + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or_default())
}

fn checked(result: c_long) -> io::Result<c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
