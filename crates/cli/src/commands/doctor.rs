//! `longshore doctor`: what this machine can do, and what to change for more.

use anyhow::Result;
use longshore_engine::{EngineError, try_layer_images};
use longshore_runner::{Check, Isolation, Probe, RunnerOptions, SandboxRunner};
use serde_json::{Value, json};

use super::ways::{Way, best, ways};

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
}

pub(crate) fn run(global: &Global, args: &DoctorArgs) -> Result<Exit> {
    let root = config::state_root(global)?;
    std::fs::create_dir_all(&root)?;
    let probe = SandboxRunner::new(&RunnerOptions::default())?.probe(&root)?;
    let images = match try_layer_images(&root) {
        Ok(()) => Check::Works,
        Err(EngineError::NoLayerImages(why)) => Check::Fails(why),
        Err(error) => Check::Fails(error.to_string()),
    };
    let (findings, ways) = (findings(&probe, &images), ways(&probe));
    let best = best(&ways);
    match args.format.as_str() {
        "json" => out(&serde_json::to_string_pretty(&as_json(
            &probe, &findings, &ways,
        ))?),
        "text" => show(&probe, &findings, &ways),
        other => return Err(Usage(format!("--format `{other}`: text and json are known")).into()),
    }
    Ok(match best {
        Isolation::None => Exit::Environment,
        _ => Exit::Done,
    })
}

fn findings<'a>(probe: &'a Probe, images: &'a Check) -> Vec<Finding<'a>> {
    let finding = |name, check, needed_for, advice| Finding {
        name,
        check,
        needed_for,
        advice,
    };
    vec![
        finding(
            "namespaces",
            &probe.namespaces,
            "full isolation",
            "run as root with CAP_SYS_ADMIN (a container: --privileged)",
        ),
        finding(
            "mount API",
            &probe.mount_api,
            "root file systems that nobody else sees",
            "Linux 5.2 or newer; a container: allow fsopen and move_mount in its seccomp profile",
        ),
        finding(
            "fresh /proc",
            &probe.proc_mount,
            "process isolation",
            "a container: --security-opt systempaths=unconfined",
        ),
        finding(
            "overlay",
            &probe.overlay,
            "stacking layers without copying them",
            "keep the state root on a file system that overlay can use, not on another overlay",
        ),
        finding(
            "seccomp",
            &probe.seccomp,
            "the system call filter",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
        finding(
            "device filter",
            &probe.device_filter,
            "device nodes made in steps have no power",
            "a cgroup2 hierarchy that can be written to",
        ),
        finding(
            "device nodes",
            &probe.device_nodes,
            "/dev in steps",
            "CAP_MKNOD",
        ),
        finding(
            "mount_setattr",
            &probe.mount_attributes,
            "read-only recursive binds",
            "Linux 5.12 or newer",
        ),
        finding(
            "EROFS files",
            images,
            "layers as images, which are made faster than directories",
            "root, Linux 6.12 or newer with EROFS, and a state root on no overlay",
        ),
        finding(
            "user namespaces",
            &probe.user_namespace,
            "isolation without root",
            "sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile that allows userns",
        ),
        finding(
            "fresh /proc for users",
            &probe.proc_mount_in_user_namespace,
            "process isolation without root",
            "a container: --security-opt systempaths=unconfined",
        ),
        finding(
            "overlay for users",
            &probe.overlay_in_user_namespace,
            "stacking layers without root and without copying them",
            "Linux 5.11 or newer",
        ),
        finding(
            "chroot",
            &probe.chroot,
            "isolation where neither mounts nor user namespaces are allowed",
            "root with CAP_SYS_CHROOT",
        ),
    ]
}

fn show(probe: &Probe, findings: &[Finding<'_>], ways: &[Way]) {
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
    out("Ways of isolating RUN steps (--isolation):");
    for way in ways {
        let answer = if way.works { "ok" } else { "no" };
        out(&format!("{answer}    {}: {}", way.isolation, way.says));
        for advice in &way.advice {
            out(&format!("      {advice}"));
        }
    }
    out("");
    let in_place = |way: &Way| way.isolation == Isolation::InPlace && way.works;
    match best(ways) {
        Isolation::None if ways.iter().any(in_place) => {
            out(
                "RUN steps work here with --isolation=inplace alone, which removes all files of this container.",
            );
        }
        Isolation::None => {
            out("RUN steps do not work here; builds without RUN, and registries, do.");
        }
        best => out(&format!("RUN steps work here; auto takes {best}.")),
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}

fn as_json(probe: &Probe, findings: &[Finding<'_>], ways: &[Way]) -> Value {
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
        "isolation": ways
            .iter()
            .map(|way| {
                json!({
                    "name": way.isolation.to_string(),
                    "works": way.works,
                    "says": way.says,
                    "advice": way.advice,
                })
            })
            .collect::<Vec<_>>(),
        "auto": best(ways).to_string(),
        "run_steps": best(ways) != Isolation::None,
    })
}
