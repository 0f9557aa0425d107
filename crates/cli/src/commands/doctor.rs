//! `longshore doctor`: what this machine can do, and what to change for more.

use anyhow::Result;
use longshore_runner::{Check, Probe, RunnerOptions, SandboxRunner};
use serde_json::{Value, json};

use crate::args::{DoctorArgs, Global};
use crate::config;
use crate::exit::Exit;
use crate::report::Usage;
use crate::table::out;

/// One question, its answer, and what helps where the answer is no.
struct Finding<'a> {
    name: &'static str,
    check: &'a Check,
    needed_for: &'static str,
    advice: &'static str,
    required: bool,
}

pub(crate) fn run(global: &Global, args: &DoctorArgs) -> Result<Exit> {
    let root = config::state_root(global)?;
    std::fs::create_dir_all(&root)?;
    let probe = SandboxRunner::new(&RunnerOptions::default())?.probe(&root)?;
    let findings = findings(&probe);
    let can_run = probe.uid == 0
        && findings
            .iter()
            .all(|finding| finding.check.works() || !finding.required);
    match args.format.as_str() {
        "json" => out(&serde_json::to_string_pretty(&as_json(
            &probe, &findings, can_run,
        ))?),
        "text" => show(&probe, &findings, can_run),
        other => return Err(Usage(format!("--format `{other}`: text and json are known")).into()),
    }
    Ok(if can_run {
        Exit::Done
    } else {
        Exit::Environment
    })
}

fn findings(probe: &Probe) -> Vec<Finding<'_>> {
    let finding = |name, check, needed_for, advice, required| Finding {
        name,
        check,
        needed_for,
        advice,
        required,
    };
    vec![
        finding(
            "namespaces",
            &probe.namespaces,
            "RUN steps and run",
            "run as root with CAP_SYS_ADMIN (a container: --privileged)",
            true,
        ),
        finding(
            "mount API",
            &probe.mount_api,
            "root file systems that nobody else sees",
            "Linux 5.2 or newer; a container: allow fsopen and move_mount in its seccomp profile",
            true,
        ),
        finding(
            "fresh /proc",
            &probe.proc_mount,
            "process isolation",
            "a container: --security-opt systempaths=unconfined",
            true,
        ),
        finding(
            "overlay",
            &probe.overlay,
            "stacking layers",
            "keep the state root on a file system that overlay can use, not on another overlay",
            true,
        ),
        finding(
            "seccomp",
            &probe.seccomp,
            "the system call filter",
            "a kernel with CONFIG_SECCOMP_FILTER",
            false,
        ),
        finding(
            "device filter",
            &probe.device_filter,
            "device nodes made in steps have no power",
            "a cgroup2 hierarchy that can be written to",
            false,
        ),
        finding(
            "device nodes",
            &probe.device_nodes,
            "/dev in steps",
            "CAP_MKNOD",
            false,
        ),
        finding(
            "mount_setattr",
            &probe.mount_attributes,
            "read-only recursive binds",
            "Linux 5.12 or newer",
            false,
        ),
        finding(
            "EROFS files",
            &probe.erofs_file,
            "nothing yet",
            "Linux 6.12 or newer with EROFS",
            false,
        ),
        finding(
            "user namespaces",
            &probe.user_namespace,
            "nothing yet: builds without root",
            "sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile that allows userns",
            false,
        ),
        finding(
            "overlay for users",
            &probe.overlay_in_user_namespace,
            "nothing yet: builds without root",
            "Linux 5.11 or newer",
            false,
        ),
        finding(
            "chroot",
            &probe.chroot,
            "nothing yet",
            "CAP_SYS_CHROOT",
            false,
        ),
    ]
}

fn show(probe: &Probe, findings: &[Finding<'_>], can_run: bool) {
    out(&format!("kernel      {}", probe.kernel));
    out(&format!(
        "user        {}{}",
        probe.uid,
        if probe.initial_user_namespace {
            ""
        } else {
            " (in a user namespace)"
        }
    ));
    let groups = &probe.control_groups;
    out(&format!(
        "cgroups     {:?}, {}, limits: {}",
        groups.layout,
        if groups.writable {
            "writable"
        } else {
            "read-only"
        },
        list(&groups.controllers)
    ));
    out(&format!(
        "subordinate {} uids, {} gids",
        probe.subordinate_ids.uids, probe.subordinate_ids.gids
    ));
    out("");
    for finding in findings {
        match finding.check {
            Check::Works => out(&format!("ok    {}", finding.name)),
            Check::Fails(why) => {
                out(&format!("no    {}: {why}", finding.name));
                out(&format!(
                    "      for {}; {}",
                    finding.needed_for, finding.advice
                ));
            }
        }
    }
    out("");
    match (can_run, probe.uid) {
        (true, _) => out("RUN steps work here, in namespaces of their own (isolation: full)."),
        (false, 0) => out("RUN steps do not work here; builds without RUN do."),
        (false, _) => {
            out("RUN steps need root here; builds without RUN, and registries, work as this user.");
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}

fn as_json(probe: &Probe, findings: &[Finding<'_>], can_run: bool) -> Value {
    let checks: serde_json::Map<String, Value> = findings
        .iter()
        .map(|finding| {
            let why = match finding.check {
                Check::Works => Value::Null,
                Check::Fails(why) => json!(why.to_string()),
            };
            (
                finding.name.to_owned(),
                json!({ "works": finding.check.works(), "why_not": why, "advice": finding.advice }),
            )
        })
        .collect();
    json!({
        "kernel": probe.kernel,
        "uid": probe.uid,
        "checks": checks,
        "cgroups": { "layout": format!("{:?}", probe.control_groups.layout), "controllers": probe.control_groups.controllers },
        "run_steps": can_run,
    })
}
