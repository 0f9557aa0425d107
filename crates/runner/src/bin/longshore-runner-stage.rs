//! The stage alone: what tests of this crate, whose own `main` is not theirs, run as the program
//! that builds the sandbox.

fn main() -> std::process::ExitCode {
    longshore_runner::init_if_requested();
    // Nobody starts this by hand.
    std::process::ExitCode::from(2)
}
