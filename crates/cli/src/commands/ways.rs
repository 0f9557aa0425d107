//! The ways of isolating steps, each with what it lacks here and how to get it.

use longshore_runner::{Check, Isolation, Probe, SubordinateIds};

/// One way of isolating steps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) isolation: Isolation,
    pub(crate) works: bool,
    /// What it gives here, or what is missing.
    pub(crate) says: String,
    /// What would make it work, or work better.
    pub(crate) advice: Vec<String>,
}

/// `linux/capability.h`
const CAP_SYS_ADMIN: u32 = 21;

const ON_A_VOLUME: &str = "layers are copied, which is slower: keep the state root (--root) on a \
    file system that overlay can use; in a container, on a volume";
const PRIVILEGED: &str = "a container: docker run --privileged, or in Kubernetes \
    securityContext.privileged: true";
const UNMASKED: &str = "a container: docker run --security-opt systempaths=unconfined, or in \
    Kubernetes hostUsers: false with procMount: Unmasked";

/// All of them, the strongest first.
pub(crate) fn ways(probe: &Probe) -> Vec<Way> {
    vec![
        full(probe),
        userns(probe),
        chroot(probe),
        in_place(probe),
        none(),
    ]
}

/// What `auto` takes.
pub(crate) fn best(ways: &[Way]) -> Isolation {
    // Nobody's files are removed without having been asked for it.
    let works = (ways.iter()).find(|way| way.works && way.isolation != Isolation::InPlace);
    works.map_or(Isolation::None, |way| way.isolation)
}

fn missing(isolation: Isolation, says: impl Into<String>, advice: &[&str]) -> Way {
    Way {
        isolation,
        works: false,
        says: says.into(),
        advice: advice.iter().map(|it| (*it).to_owned()).collect(),
    }
}

/// The first of these that fails: its name and why.
fn first_failure<'a>(checks: &[(&'a str, &'a Check)]) -> Option<(&'a str, &'a str)> {
    checks.iter().find_map(|(name, check)| match check {
        Check::Works => None,
        Check::Fails(why) => Some((*name, why.as_str())),
    })
}

fn full(probe: &Probe) -> Way {
    let isolation = Isolation::Full;
    if !probe.initial_user_namespace {
        return missing(
            isolation,
            "needs root of the machine; this is a user namespace",
            &[],
        );
    }
    if probe.uid != 0 {
        return missing(isolation, "needs root", &["run as root: sudo longshore …"]);
    }
    let checks = [
        ("namespaces", &probe.namespaces),
        ("mounts", &probe.mount_api),
        ("a fresh /proc", &probe.proc_mount),
    ];
    if let Some((name, why)) = first_failure(&checks) {
        return missing(isolation, format!("{name}: {why}"), &[PRIVILEGED]);
    }
    let mut advice = Vec::new();
    if !probe.overlay.works() {
        advice.push(ON_A_VOLUME.to_owned());
    }
    Way {
        isolation,
        works: true,
        says: "namespaces, capabilities, system call filter, device filter and limits".to_owned(),
        advice,
    }
}

fn userns(probe: &Probe) -> Way {
    let isolation = Isolation::Userns;
    let administers = probe.capabilities & (1 << CAP_SYS_ADMIN) != 0;
    if probe.uid == 0 && probe.initial_user_namespace && administers {
        return missing(
            isolation,
            "not for root of the machine, who has full isolation",
            &[],
        );
    }
    if let Check::Fails(why) = &probe.user_namespace {
        let hint = probe.user_namespace_hint.as_deref();
        let advice = hint.unwrap_or(
            "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 and \
             user.max_user_namespaces=10000; AppArmor: a profile with `userns,`",
        );
        return missing(isolation, format!("user namespaces: {why}"), &[advice]);
    }
    let mut advice = Vec::new();
    let mut says = ids(probe, &mut advice);
    if !probe.proc_mount_in_user_namespace.works() {
        says.push_str("; steps share /proc and the processes of this container");
        advice.push(UNMASKED.to_owned());
    }
    if !probe.overlay_in_user_namespace.works() {
        advice.push(ON_A_VOLUME.to_owned());
    }
    Way {
        isolation,
        works: true,
        says,
        advice,
    }
}

/// Which ids there are, and what would give more.
fn ids(probe: &Probe, advice: &mut Vec<String>) -> String {
    let SubordinateIds {
        uids,
        gids,
        newuidmap,
        newgidmap,
    } = &probe.subordinate_ids;
    if probe.maps_all_ids {
        return "with all ids of this container".to_owned();
    }
    if *uids == 0 || *gids == 0 {
        advice.push(
            "for other owners and users: usermod --add-subuids 100000-165535 \
             --add-subgids 100000-165535 USER"
                .to_owned(),
        );
    }
    if newuidmap.is_none() || newgidmap.is_none() {
        advice.push(
            "for other owners and users: newuidmap and newgidmap (package uidmap or shadow-utils)"
                .to_owned(),
        );
    }
    if let (Check::Fails(why), true) = (&probe.id_mapping, advice.is_empty()) {
        advice.push(format!("for other owners and users: {why}"));
    }
    match advice.is_empty() {
        true => format!("with {uids} subordinate user ids and {gids} group ids"),
        false => "with this user's own id alone: no other owners and users in steps".to_owned(),
    }
}

fn chroot(probe: &Probe) -> Way {
    let isolation = Isolation::Chroot;
    if let Check::Fails(why) = &probe.chroot {
        let advice = "root with CAP_SYS_CHROOT: Docker gives it; in Kubernetes \
            runAsUser: 0 with capabilities.add: [SYS_CHROOT]";
        return missing(isolation, why.as_str(), &[advice]);
    }
    let mut advice = Vec::new();
    if let Check::Fails(why) = &probe.device_nodes {
        advice.push(format!(
            "for more in /dev than a file as /dev/null: CAP_MKNOD (device nodes: {why})"
        ));
    }
    Way {
        isolation,
        works: true,
        says: "a root directory on copies of the layers; no namespaces, no /proc: steps can do \
               what this container can"
            .to_owned(),
        advice,
    }
}

fn in_place(probe: &Probe) -> Way {
    let isolation = Isolation::InPlace;
    if let Check::Fails(why) = &probe.in_place {
        return missing(isolation, why.as_str(), &[]);
    }
    Way {
        isolation,
        works: true,
        says: "only when asked for: steps have this container's own root directory, and all files \
               in it are removed"
            .to_owned(),
        advice: Vec::new(),
    }
}

fn none() -> Way {
    Way {
        isolation: Isolation::None,
        works: true,
        says: "everything but RUN".to_owned(),
        advice: Vec::new(),
    }
}
