//! A container's `config.json`: the same sandbox as ours, said in the runtime specification's words.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxDevice,
    LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, Mount,
    MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::profile;
use crate::capabilities;
use crate::devices;
use crate::plan::Plan;
use crate::sandbox::{MASKED_PROC, MASKED_SYS, READONLY_PROC};
use crate::spec::{Rlimit, Security};
use crate::user::Identity;
use crate::userns;

const HARDENED: [&str; 3] = ["nosuid", "noexec", "nodev"];

/// A mount from a path that only the runtime's mount namespace has.
pub(super) struct BoundMount {
    pub(super) target: String,
    pub(super) source: String,
}

/// What the file is made of.
pub(super) struct Container<'a> {
    pub(super) plan: &'a Plan,
    /// None above what the runtime may set.
    pub(super) rlimits: Vec<Rlimit>,
    pub(super) env: Vec<String>,
    pub(super) identity: &'a Identity,
    pub(super) bound: Vec<BoundMount>,
    /// The host's `/sys`, where none can be mounted.
    pub(super) sys: Option<String>,
    /// The path of the container's control group, which is in one that has the limits.
    pub(super) group: String,
    pub(super) cgroup_namespace: bool,
}

impl Container<'_> {
    /// Every field whose default in the library is not ours is set: its defaults are those of a
    /// container that nobody described.
    pub(super) fn to_spec(&self) -> Result<Spec, OciSpecError> {
        let root = RootBuilder::default()
            .path("rootfs")
            .readonly(self.plan.readonly_rootfs)
            .build()?;
        let mut spec = SpecBuilder::default()
            .version("1.0.2")
            .process(self.process()?)
            .root(root)
            .hostname(self.plan.hostname.clone())
            .mounts(self.mounts()?)
            .linux(self.linux()?)
            .build()?;
        spec.set_annotations(None);
        Ok(spec)
    }

    fn is_insecure(&self) -> bool {
        self.plan.security == Security::Insecure
    }

    fn process(&self) -> Result<Process, OciSpecError> {
        let groups = match userns::groups_are_fixed() {
            true => Vec::new(),
            false => self.identity.groups.clone(),
        };
        let user = UserBuilder::default()
            .uid(self.identity.uid)
            .gid(self.identity.gid)
            .umask(self.plan.umask)
            .additional_gids(groups)
            .build()?;
        let rlimits: Result<Vec<_>, _> = self.rlimits.iter().map(rlimit).collect();
        ProcessBuilder::default()
            .terminal(self.plan.terminal.is_some())
            .user(user)
            .args(self.plan.args.clone())
            .env(self.env.clone())
            .cwd(self.plan.cwd.clone())
            .capabilities(self.capabilities()?)
            .rlimits(rlimits?)
            .no_new_privileges(false)
            .build()
    }

    /// None is inheritable or ambient (CVE-2022-24769), except that `insecure` gives all of them.
    fn capabilities(&self) -> Result<LinuxCapabilities, OciSpecError> {
        let own = capabilities::effective();
        let (held, inherited): (Capabilities, Capabilities) = match self.plan.security {
            Security::Sandbox => (
                named(own & self.plan.capabilities.set()),
                Capabilities::new(),
            ),
            Security::Insecure => (named(own), named(own)),
        };
        LinuxCapabilitiesBuilder::default()
            .bounding(held.clone())
            .effective(held.clone())
            .permitted(held)
            .inheritable(inherited.clone())
            .ambient(inherited)
            .build()
    }

    fn mounts(&self) -> Result<Vec<Mount>, OciSpecError> {
        let shm_size = format!("size={}", self.plan.shm_bytes);
        let mut terminals = vec![
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
        ];
        if !userns::groups_are_fixed() {
            terminals.push("gid=5");
        }
        let dev = ["nosuid", "strictatime", "mode=755", "size=65536k"];
        let mut mounts = vec![
            mount("/proc", "proc", &HARDENED)?,
            mount("/dev", "tmpfs", &dev)?,
            mount("/dev/pts", "devpts", &terminals)?,
            mount(
                "/dev/shm",
                "tmpfs",
                &[&HARDENED[..], &["mode=1777", &shm_size]].concat(),
            )?,
            mount("/dev/mqueue", "mqueue", &HARDENED)?,
        ];
        mounts.extend(self.system_mounts()?);
        for it in &self.bound {
            mounts.push(bind(&it.target, &it.source)?);
        }
        Ok(mounts)
    }

    fn system_mounts(&self) -> Result<Vec<Mount>, OciSpecError> {
        if let Some(source) = &self.sys {
            return Ok(vec![bind("/sys", source)?]);
        }
        let access = if self.is_insecure() { "rw" } else { "ro" };
        let options = [&HARDENED[..], &[access]].concat();
        let groups = [&options[..], &["relatime"]].concat();
        Ok(vec![
            mount("/sys", "sysfs", &options)?,
            mount("/sys/fs/cgroup", "cgroup", &groups)?,
        ])
    }

    fn linux(&self) -> Result<Linux, OciSpecError> {
        let (masked, readonly) = match self.plan.security {
            Security::Sandbox => (
                [below("/proc", &MASKED_PROC), below("/sys", &MASKED_SYS)].concat(),
                below("/proc", &READONLY_PROC),
            ),
            Security::Insecure => (Vec::new(), Vec::new()),
        };
        let mut linux = LinuxBuilder::default()
            .namespaces(self.namespaces()?)
            .masked_paths(masked)
            .readonly_paths(readonly)
            .build()?;
        if self.is_insecure() && userns::is_initial() {
            linux.set_devices(Some(insecure_nodes()?));
        }
        if userns::is_initial() {
            let rules = device_rules(self.is_insecure())?;
            let resources = LinuxResourcesBuilder::default().devices(rules).build()?;
            linux.set_resources(Some(resources));
            linux.set_cgroups_path(Some(self.group.clone().into()));
        } else {
            linux.set_resources(None);
        }
        if !self.is_insecure() {
            linux.set_seccomp(profile::seccomp(self.plan.capabilities.set())?);
        }
        Ok(linux)
    }

    /// The network is the runtime's own: it is started in the one that the process gets.
    fn namespaces(&self) -> Result<Vec<LinuxNamespace>, OciSpecError> {
        let mut kinds = vec![
            LinuxNamespaceType::Pid,
            LinuxNamespaceType::Ipc,
            LinuxNamespaceType::Uts,
            LinuxNamespaceType::Mount,
        ];
        if self.cgroup_namespace {
            kinds.push(LinuxNamespaceType::Cgroup);
        }
        let build = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
        kinds.into_iter().map(build).collect()
    }
}

fn named(set: rustix::thread::CapabilitySet) -> Capabilities {
    let known = set.iter_names();
    // One that the library does not know is one the process goes without.
    known.filter_map(|(name, _)| name.parse().ok()).collect()
}

fn below(root: &str, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("{root}/{name}")).collect()
}

fn mount(target: &str, kind: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|it| (*it).to_owned()).collect();
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(kind)
        .options(options)
        .build()
}

/// Whether it may be written to and so on is a matter of the source's own mount.
fn bind(target: &str, source: &str) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(target)
        .typ("bind")
        .source(source)
        .options(["rbind".to_owned()])
        .build()
}

fn rlimit(limit: &Rlimit) -> Result<PosixRlimit, OciSpecError> {
    let name = format!("RLIMIT_{}", limit.resource.name().to_ascii_uppercase());
    let kind: PosixRlimitType = name
        .parse()
        .map_err(|_| OciSpecError::Other(format!("{name} is not known")))?;
    PosixRlimitBuilder::default()
        .typ(kind)
        .soft(limit.soft.unwrap_or(u64::MAX))
        .hard(limit.hard.unwrap_or(u64::MAX))
        .build()
}

/// The runtime makes those that every container has itself.
fn insecure_nodes() -> Result<Vec<LinuxDevice>, OciSpecError> {
    let node = |name: &str, kind, (major, minor): (u32, u32), mode: u32| {
        LinuxDeviceBuilder::default()
            .path(format!("/dev/{name}"))
            .typ(kind)
            .major(major)
            .minor(minor)
            .file_mode(mode)
            .build()
    };
    let characters = devices::NODES_INSECURE.iter();
    let characters = characters
        .map(|(name, major, minor)| node(name, LinuxDeviceType::C, (*major, *minor), 0o666));
    let loops = (0..devices::LOOPS_INSECURE).map(|minor| {
        node(
            &format!("loop{minor}"),
            LinuxDeviceType::B,
            (devices::LOOP, minor),
            0o660,
        )
    });
    characters.chain(loops).collect()
}

/// Any node may be made, few may be opened.
fn device_rules(insecure: bool) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let rule = |allow: bool, kind: LinuxDeviceType, access: &str| {
        LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .typ(kind)
            .access(access)
    };
    if insecure {
        return Ok(vec![rule(true, LinuxDeviceType::A, "rwm").build()?]);
    }
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, "rwm").build()?,
        rule(true, LinuxDeviceType::C, "m").build()?,
        rule(true, LinuxDeviceType::B, "m").build()?,
        rule(true, LinuxDeviceType::C, "rwm")
            .major(devices::PTS_MAJOR)
            .build()?,
    ];
    let nodes = devices::NODES
        .iter()
        .map(|(_, major, minor)| (*major, *minor));
    for (major, minor) in nodes.chain([devices::PTMX]) {
        let node = rule(true, LinuxDeviceType::C, "rwm");
        rules.push(node.major(major).minor(minor).build()?);
    }
    Ok(rules)
}
