//! Shows what this machine can do: `probe [DIRECTORY]`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a terminal"
)]

use std::path::PathBuf;

use longshore_runner::{RunnerOptions, SandboxRunner};

fn main() -> std::process::ExitCode {
    longshore_runner::init_if_requested();
    let directory = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let probe = SandboxRunner::new(&RunnerOptions::default()).and_then(|it| it.probe(&directory));
    match probe {
        Ok(probe) => println!("{probe:#?}"),
        Err(error) => {
            eprintln!("probe: {error}");
            return std::process::ExitCode::FAILURE;
        }
    }
    std::process::ExitCode::SUCCESS
}
