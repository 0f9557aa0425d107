//! Finding the command inside the sandbox and becoming it.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use crate::plan::Failure;
use crate::sys;

/// As much of a script's first line as the kernel reads (`BINPRM_BUF_SIZE`).
const SHEBANG_BYTES_MAX: usize = 256;

/// Executes the command. Returns only if that is not possible.
pub(crate) fn execute(args: &[String], env: &[String]) -> Failure {
    match try_execute(args, env) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

/// Executes a program that is not the command but makes its surroundings, with any name as the first
/// argument. Returns only if that is not possible, which is no fault of the command's.
pub(crate) fn execute_tool(file: &str, args: &[String], env: &[String], action: &str) -> Failure {
    let error = match replace(file, args, env) {
        Ok(error) => error,
        Err(failure) => return failure,
    };
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let interpreter = (errno == libc::ENOENT).then(|| interpreter_of(file));
    Failure::Setup {
        action: action.to_owned(),
        path: args.first().map(Into::into),
        hint: (interpreter.flatten()).map(|it| format!("its interpreter is `{it}`")),
        errno,
    }
}

fn try_execute(args: &[String], env: &[String]) -> Result<std::convert::Infallible, Failure> {
    let command = args.first().map_or("", String::as_str);
    let program = find(command, path_of(env))?;
    try_execute_file(&program, args, env)
}

fn try_execute_file(
    program: &str,
    args: &[String],
    env: &[String],
) -> Result<std::convert::Infallible, Failure> {
    let command = args.first().map_or("", String::as_str);
    let error = replace(program, args, env)?;
    Err(explain(command, program, &error))
}

/// Why the program did not take this process's place.
fn replace(program: &str, args: &[String], env: &[String]) -> Result<io::Error, Failure> {
    let strings = |list: &[String]| -> Result<Vec<CString>, Failure> {
        let strings = list.iter().map(|it| CString::new(it.as_str()));
        strings
            .collect::<Result<_, _>>()
            .map_err(|_| Failure::Spec {
                field: "args".to_owned(),
                reason: "a NUL byte in an argument or variable".to_owned(),
            })
    };
    let path = strings(&[program.to_owned()])?;
    Ok(sys::execve(&path[0], &strings(args)?, &strings(env)?))
}

fn path_of(env: &[String]) -> &str {
    env.iter()
        .rev()
        .find_map(|it| it.strip_prefix("PATH="))
        .unwrap_or_default()
}

/// A name without a slash is looked for in `PATH`; what is found first and can be executed counts.
fn find(command: &str, path: &str) -> Result<String, Failure> {
    if command.contains('/') || command.is_empty() {
        return check(command)
            .map(|()| command.to_owned())
            .map_err(|errno| {
                let reason = format!("exec: \"{command}\": {}", text_of(errno));
                failure(command, reason, is_absence(errno))
            });
    }
    let mut refused = None;
    for directory in path.split(':').filter(|it| it.starts_with('/')) {
        let candidate = format!("{directory}/{command}");
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(errno) if is_absence(errno) => {}
            Err(errno) => refused = refused.or(Some((candidate, errno))),
        }
    }
    match refused {
        Some((candidate, errno)) => {
            let reason = format!("exec: \"{candidate}\": {}", text_of(errno));
            Err(failure(command, reason, false))
        }
        None => {
            let reason = format!("exec: \"{command}\": executable file not found in $PATH");
            Err(failure(command, reason, true))
        }
    }
}

fn check(program: &str) -> Result<(), Errno> {
    if program.is_empty() {
        return Err(Errno::NOENT);
    }
    accessat(CWD, program, Access::EXISTS, AtFlags::EACCESS)?;
    if fs::metadata(program).is_ok_and(|it| it.is_dir()) {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS)
}

fn is_absence(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR)
}

/// The kernel says "no such file" of a program that is there when its interpreter is not.
fn explain(command: &str, program: &str, error: &io::Error) -> Failure {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    if errno == Errno::NOENT
        && let Some(interpreter) = interpreter_of(program)
    {
        let reason =
            format!("exec: \"{program}\": its interpreter \"{interpreter}\" is not in the image");
        return failure(command, reason, true);
    }
    let mut reason = format!("exec: \"{program}\": {}", text_of(errno));
    if errno == Errno::NOEXEC
        && let Some(machine) = foreign_machine(program)
    {
        reason.push_str(&format!(
            " (built for {machine}, this machine is {}, and binfmt_misc has no handler for it: \
             the package qemu-user-static brings one)",
            std::env::consts::ARCH
        ));
    }
    failure(command, reason, is_absence(errno))
}

fn failure(command: &str, reason: String, not_found: bool) -> Failure {
    let command = command.to_owned();
    match not_found {
        true => Failure::NotFound { command, reason },
        false => Failure::NotExecutable { command, reason },
    }
}

fn text_of(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "no such file or directory",
        Errno::NOTDIR => "not a directory",
        Errno::ISDIR => "is a directory",
        Errno::ACCESS => "permission denied",
        Errno::NOEXEC => "exec format error",
        Errno::TOOBIG => "argument list too long",
        Errno::LOOP => "too many levels of symbolic links",
        Errno::NAMETOOLONG => "file name too long",
        Errno::TXTBSY => "text file busy",
        Errno::NOMEM => "cannot allocate memory",
        Errno::PERM => "operation not permitted",
        _ => "cannot be executed",
    }
}

/// The interpreter of a script, or the loader of a dynamically linked program.
fn interpreter_of(program: &str) -> Option<String> {
    let file = File::open(program).ok()?;
    let mut start = Vec::new();
    (&file)
        .take(SHEBANG_BYTES_MAX as u64)
        .read_to_end(&mut start)
        .ok()?;
    match start.strip_prefix(b"#!") {
        Some(line) => shebang(line),
        None => elf_loader(&file, &start),
    }
}

fn shebang(line: &[u8]) -> Option<String> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    // `bash\r` is what a script with Windows line ends asks for: show it.
    let name = text
        .trim_matches([' ', '\t'])
        .split([' ', '\t'])
        .next()?
        .escape_debug()
        .to_string();
    (!name.is_empty()).then_some(name)
}

/// `PT_INTERP` of a 64-bit little-endian ELF file.
fn elf_loader(file: &File, start: &[u8]) -> Option<String> {
    const PROGRAM_HEADERS_MAX: u64 = 64;
    const PT_INTERP: u64 = 3;
    const ENTRY_BYTES: usize = 56;
    if !start.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = number(start, 32, 8)?;
    let count = number(start, 56, 2)?.min(PROGRAM_HEADERS_MAX);
    for entry in 0..count {
        let mut header = [0; ENTRY_BYTES];
        file.read_exact_at(&mut header, table.checked_add(entry * ENTRY_BYTES as u64)?)
            .ok()?;
        if number(&header, 0, 4)? == PT_INTERP {
            let mut name = [0; SHEBANG_BYTES_MAX];
            let got = file.read_at(&mut name, number(&header, 8, 8)?).ok()?;
            let end = name[..got].iter().position(|byte| *byte == 0)?;
            return Some(String::from_utf8_lossy(&name[..end]).into_owned());
        }
    }
    None
}

/// The architecture of an ELF file that is not for this machine.
fn foreign_machine(program: &str) -> Option<&'static str> {
    let mut start = Vec::new();
    File::open(program)
        .ok()?
        .take(20)
        .read_to_end(&mut start)
        .ok()?;
    if !start.starts_with(b"\x7fELF") {
        return None;
    }
    // elf.h: e_machine
    let machine = match number(&start, 18, 2)? {
        3 => "x86",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        21 => "powerpc64",
        22 => "s390x",
        _ => "another architecture",
    };
    (machine != std::env::consts::ARCH).then_some(machine)
}

fn number(bytes: &[u8], offset: usize, length: usize) -> Option<u64> {
    let field = bytes.get(offset..offset + length)?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn put(path: &Path, content: &[u8], mode: u32) -> String {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn try_it(program: &str) -> Failure {
        execute(&[program.to_owned()], &["PATH=/usr/bin".to_owned()])
    }

    #[test]
    fn what_cannot_be_executed_says_why() {
        let temp = tempfile::tempdir().unwrap();
        let script = put(&temp.path().join("script"), b"#!/no/such/bash\r\n", 0o755);
        let text = put(&temp.path().join("text"), b"echo hello\n", 0o755);
        let plain = put(&temp.path().join("plain"), b"#!/bin/sh\n", 0o644);
        let mut elf = vec![0u8; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 243;
        let foreign = put(&temp.path().join("foreign"), &elf, 0o755);
        let below = format!("{text}/below");
        let directory = temp.path().to_str().unwrap();
        for (program, not_found, expected) in [
            (
                script.as_str(),
                true,
                "interpreter \"/no/such/bash\\r\" is not in the image",
            ),
            (&text, false, "exec format error"),
            (&plain, false, "permission denied"),
            (&foreign, false, "built for riscv64"),
            (directory, false, "is a directory"),
            (&below, true, "not a directory"),
            ("/no/such/file", true, "no such file or directory"),
            (
                "no-such-command",
                true,
                "executable file not found in $PATH",
            ),
            ("", true, "no such file or directory"),
        ] {
            let (reason, is_not_found) = match try_it(program) {
                Failure::NotFound { reason, .. } => (reason, true),
                Failure::NotExecutable { reason, .. } => (reason, false),
                other => panic!("{other:?}"),
            };
            assert!(reason.contains(expected), "{program}: {reason}");
            assert_eq!(is_not_found, not_found, "{program}: {reason}");
        }
    }

    #[test]
    fn the_loader_of_a_dynamic_program_is_known() {
        let me = std::env::current_exe().unwrap();
        let loader = interpreter_of(me.to_str().unwrap());
        assert!(loader.is_none_or(|it| it.starts_with('/')));
    }
}
