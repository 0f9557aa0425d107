//! What a test says that cannot run where it is: part of every test program that has such tests, by
//! `#[path]`, so that all of them mean the same.

/// Says that a test is skipped, and why. With `LONGSHORE_TEST_STRICT=1`, for machines that are meant
/// to lack nothing, the test fails instead: a skipped test counts as passed.
#[track_caller]
#[allow(
    clippy::print_stdout,
    reason = "what a test prints is for whoever runs it"
)]
pub(crate) fn skip(why: impl std::fmt::Display) {
    let strict = std::env::var_os("LONGSHORE_TEST_STRICT").is_some_and(|it| it == "1");
    assert!(!strict, "would be skipped: {why}");
    println!("skipped: {why}");
}
