//! The sandbox runner against the contract of all runners.

mod support;

use longshore_runner::conformance;

#[test]
fn privileged_the_sandbox_runner_conforms() {
    if !support::can_run() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance::run(&support::new_runner(), &|| {
        count.set(count.get() + 1);
        let root = temp.path().join(count.get().to_string());
        support::fill(&root);
        root
    });
}
