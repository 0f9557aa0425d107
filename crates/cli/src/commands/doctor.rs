//! `longshore doctor`: what this machine can do, and what to change for more.

use anyhow::Result;
use longshore_engine::{EngineError, try_layer_images};
use longshore_runner::{Check, Isolation, Probe, RunnerOptions, SandboxRunner};
use serde_json::{Value, json};

use super::helpers::{self, Helper};
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
    let beside = Beside::look(&root)?;
    let best = best(&ways);
    match args.format.as_str() {
        "json" => out(&serde_json::to_string_pretty(&as_json(
            &probe, &findings, &ways, &beside,
        ))?),
        "text" => show(&probe, &findings, &ways, &beside),
        other => return Err(Usage(format!("--format `{other}`: text and json are known")).into()),
    }
    Ok(match best {
        Isolation::None => Exit::Environment,
        _ => Exit::Done,
    })
}

/// What there is beside our own program.
struct Beside {
    runtimes: Vec<Helper>,
    networks: Vec<Helper>,
    emulators: Vec<(String, bool)>,
}

impl Beside {
    fn look(root: &std::path::Path) -> Result<Self> {
        let (runtimes, networks) = helpers::all(root)?;
        Ok(Self {
            runtimes,
            networks,
            emulators: helpers::emulators(),
        })
    }

    fn show(&self) {
        for (title, found) in [
            ("OCI runtimes (--oci-runtime)", &self.runtimes),
            (
                "Programs that connect networks (--default-network)",
                &self.networks,
            ),
        ] {
            out(&format!("{title}:"));
            if found.is_empty() {
                out("no    none is installed");
            }
            for it in found {
                match &it.check {
                    Check::Works => out(&format!("ok    {}", it.name)),
                    Check::Fails(why) => out(&format!("no    {}: {why}", it.name)),
                }
            }
            out("");
        }
        out("Emulators of other architectures (binfmt_misc):");
        if self.emulators.is_empty() {
            out(
                "no    none: RUN steps for other architectures fail; the package qemu-user-static brings some",
            );
        }
        for (name, anywhere) in &self.emulators {
            match anywhere {
                true => out(&format!("ok    {name}")),
                false => out(&format!(
                    "no    {name}: is not there in other root file systems (without the flag F)"
                )),
            }
        }
        out("");
    }

    fn as_json(&self) -> Value {
        let helpers = |found: &[Helper]| -> Value {
            let each = found.iter().map(|it| {
                let why = match &it.check {
                    Check::Works => Value::Null,
                    Check::Fails(why) => json!(why),
                };
                json!({ "name": it.name, "works": it.check.works(), "why_not": why })
            });
            each.collect()
        };
        let emulators = self.emulators.iter();
        let emulators: Vec<_> = emulators
            .map(|(name, works)| json!({ "name": name, "works": works }))
            .collect();
        json!({
            "oci_runtimes": helpers(&self.runtimes),
            "networks": helpers(&self.networks),
            "emulators": emulators,
        })
    }
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
            "subordinate ids",
            &probe.id_mapping,
            "other owners and users in steps without root",
            "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER, and newuidmap and newgidmap (package uidmap) on a file system without nosuid",
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

fn show(probe: &Probe, findings: &[Finding<'_>], ways: &[Way], beside: &Beside) {
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
    for refused in &groups.refused {
        out(&format!("            not held: {refused}"));
    }
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
    beside.show();
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

fn as_json(probe: &Probe, findings: &[Finding<'_>], ways: &[Way], beside: &Beside) -> Value {
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
        "cgroups": { "layout": format!("{:?}", probe.control_groups.layout), "controllers": probe.control_groups.controllers, "refused": probe.control_groups.refused },
        "beside": beside.as_json(),
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
