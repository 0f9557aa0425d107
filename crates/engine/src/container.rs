//! Runs a command in a container made from an image: in the foreground, gone afterwards.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use longshore_content::Lease;
use longshore_graph::Ulimit;
use longshore_oci::{Descriptor, LayerId, Platform};
use longshore_runner::{
    BindSource, Cancel, Capabilities, ExitStatus, Isolation, Limits, Mount, MountSource, Network,
    PATH_DEFAULT, ProcessIo, ProcessSpec, Refused, Rootfs, Security,
};
use longshore_snapshot::{RootFs, SnapshotId, Snapshotter as _};
use tokio::task::spawn_blocking;

use crate::build::{extra_hosts, rlimit};
use crate::image::{PlatformImage, StoredImage};
use crate::layer::RemoteBlob;
use crate::named_volume::{self, VolumeName};
use crate::volume::CopiedVolume;
use crate::{Engine, EngineError};

/// How long the image's layers are kept for a container that is about to start.
const LEASE: Duration = Duration::from_secs(3600);

/// Something that a container sees besides its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerMount {
    /// In the container, absolute.
    pub target: String,
    /// Writes are refused.
    pub readonly: bool,
    /// What is there.
    pub mounted: ContainerMounted,
}

/// What a [`ContainerMount`] shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerMounted {
    /// A directory or file of this machine.
    Path {
        /// Where it is.
        source: PathBuf,
        /// It is made as a directory where it does not exist.
        make: bool,
    },
    /// A volume that stays.
    Volume(VolumeName),
    /// What the image has there, gone with the container.
    Anonymous,
    /// Memory.
    Memory {
        /// Its limit.
        size_bytes: Option<u64>,
        /// Mode of its root directory.
        mode: u32,
        /// What is not done in it.
        refused: Refused,
    },
}

/// A directory or file of this machine that a container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) readonly: bool,
}

/// What to run and around what.
#[derive(Clone, Debug, Default)]
pub struct ContainerRequest {
    /// In place of the image's command.
    pub command: Vec<String>,
    /// In place of the image's entry point; empty clears it.
    pub entrypoint: Option<Vec<String>>,
    /// On top of the image's environment.
    pub env: Vec<(String, String)>,
    /// In place of the image's working directory.
    pub workdir: Option<String>,
    /// In place of the image's user.
    pub user: Option<String>,
    /// What it sees besides the image's files; of equal targets the last wins.
    pub mounts: Vec<ContainerMount>,
    /// The network; the engine's default when absent.
    pub network: Option<Network>,
    /// The host's name inside; empty for a made one.
    pub hostname: String,
    /// Lines of the hosts file.
    pub extra_hosts: Vec<(String, String)>,
    /// Limits on what it may use.
    pub limits: Limits,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of `/dev/shm`.
    pub shm_bytes: Option<u64>,
    /// The image's files cannot be changed.
    pub readonly: bool,
    /// All privileges.
    pub privileged: bool,
    /// What it may do as root, without all privileges.
    pub capabilities: Capabilities,
    /// Reap processes.
    pub init: bool,
    /// With a terminal.
    pub terminal: bool,
    /// How long it may run.
    pub timeout: Option<Duration>,
}

impl Engine {
    /// Runs a command in a container of `image`, until it ends.
    ///
    /// # Errors
    /// When the image is not here whole, or the process cannot be started.
    pub async fn run(
        &self,
        image: &StoredImage,
        platform: &Platform,
        mut request: ContainerRequest,
        io: ProcessIo,
        cancel: Cancel,
    ) -> Result<ExitStatus, EngineError> {
        let runner = self.runner()?;
        request
            .network
            .get_or_insert_with(|| self.default_network());
        let (isolation, _) = self.isolation()?;
        if isolation == Isolation::InPlace {
            return Err(EngineError::Invalid(
                "inplace isolation is for builds: a container would take the place of this one"
                    .to_owned(),
            ));
        }
        let found = self.read_image(image, platform)?;
        let lease = self.root().leases().start("run", LEASE);
        let parents = self.directories_of(image, &found, &lease).await?;
        let engine = self.clone();
        spawn_blocking(move || {
            let mut request = request;
            let mut active = engine.layers().snapshots().prepare(&parents)?;
            // From here on the mount holds what is below it.
            drop(lease);
            let rootfs = match active.rootfs()? {
                RootFs::Path(path) => Rootfs::Path(path),
                RootFs::Mount(mount) => Rootfs::Mount(mount),
            };
            let mut copied = Vec::new();
            let mounts = all_mounts(&found, &mut request);
            let mut placed = Vec::new();
            for mount in mounts {
                let mount = match engine.placed(mount, &rootfs)? {
                    Placed::Mount(mount) => mount,
                    Placed::Volume(volume) if isolation == Isolation::Chroot => {
                        let copy = CopiedVolume::make(volume, engine.root().tmp_dir())?;
                        let mount = copy.mount();
                        copied.push(copy);
                        mount
                    }
                    Placed::Volume(volume) => bind(volume),
                };
                placed.push(mount);
            }
            let mut spec = specification(&found, request, rootfs)?;
            spec.mounts = placed;
            let ended = runner.run(spec, io, &cancel);
            drop(active);
            // Whatever became of it: what it wrote is its user's.
            let brought = copied.into_iter().try_for_each(CopiedVolume::bring_back);
            let ended = ended?;
            brought?;
            Ok(ended)
        })
        .await?
    }

    /// Unpacks an image's layers, so that its next container has them.
    pub(crate) async fn unpack(
        &self,
        descriptor: &Descriptor,
        platform: &Platform,
    ) -> Result<(), EngineError> {
        let image = StoredImage {
            reference: None,
            descriptor: descriptor.clone(),
            tagged: std::time::SystemTime::now(),
        };
        let found = self.read_image(&image, platform)?;
        let lease = self.root().leases().start("unpack", LEASE);
        self.directories_of(&image, &found, &lease)
            .await
            .map(|_| ())
    }

    async fn directories_of(
        &self,
        image: &StoredImage,
        found: &PlatformImage,
        lease: &Lease,
    ) -> Result<Vec<SnapshotId>, EngineError> {
        let repository = image.reference.clone().unwrap_or_else(|| {
            crate::layout::REFERENCE
                .parse()
                .expect("a constant reference")
        });
        let layers = found.manifest.layers.iter();
        let remotes =
            layers.map(|descriptor| RemoteBlob::of_image(repository.clone(), descriptor.clone()));
        let layers = self.layers().image_layers(
            &found.config.rootfs.diff_ids,
            Timestamp::UNIX_EPOCH,
            remotes,
        );
        let held: Vec<LayerId> = layers.iter().map(|layer| layer.key.record_id()).collect();
        lease.add_layers(&held)?;
        self.layers().directories(&layers).await
    }
}

fn specification(
    image: &PlatformImage,
    request: ContainerRequest,
    rootfs: Rootfs,
) -> Result<ProcessSpec, EngineError> {
    let config = &image.config.config;
    let args = arguments(image, &request)?;
    let mut spec = ProcessSpec::new(rootfs, args);
    spec.env = environment(&config.env, &request.env, request.terminal);
    spec.cwd = request
        .workdir
        .unwrap_or_else(|| config.working_dir.clone());
    if spec.cwd.is_empty() {
        "/".clone_into(&mut spec.cwd);
    }
    spec.user = request.user.unwrap_or_else(|| config.user.clone());
    spec.hostname = if request.hostname.is_empty() {
        image.id().short()
    } else {
        request.hostname
    };
    spec.extra_hosts = extra_hosts(&request.extra_hosts)
        .map_err(|error| EngineError::Invalid(error.to_string()))?;
    spec.network = request.network.unwrap_or_default();
    spec.timeout = request.timeout;
    spec.security = if request.privileged {
        Security::Insecure
    } else {
        Security::Sandbox
    };
    spec.readonly_rootfs = request.readonly;
    spec.terminal = request.terminal;
    spec.init = request.init;
    spec.limits = request.limits;
    if let Some(bytes) = request.shm_bytes {
        spec.shm_bytes = bytes;
    }
    let invalid = |error: longshore_solver::BoxError| EngineError::Invalid(error.to_string());
    spec.rlimits = request
        .ulimits
        .iter()
        .map(rlimit)
        .collect::<Result<_, _>>()
        .map_err(invalid)?;
    spec.capabilities = request.capabilities;
    Ok(spec)
}

/// What is asked for, and the image's own volumes where they are the only places to write to.
fn all_mounts(image: &PlatformImage, request: &mut ContainerRequest) -> Vec<ContainerMount> {
    let asked = std::mem::take(&mut request.mounts);
    let declared = image.config.config.volumes.keys();
    let declared = declared.filter(|_| request.readonly);
    let declared = declared.filter(|target| asked.iter().all(|it| it.target != **target));
    let mut mounts: Vec<ContainerMount> = declared
        .map(|target| ContainerMount {
            target: target.clone(),
            readonly: false,
            mounted: ContainerMounted::Anonymous,
        })
        .collect();
    mounts.extend(asked);
    mounts
}

/// A mount whose source is known.
enum Placed {
    Mount(Mount),
    Volume(Volume),
}

impl Engine {
    fn placed(&self, mount: ContainerMount, rootfs: &Rootfs) -> Result<Placed, EngineError> {
        let ContainerMount {
            target,
            readonly,
            mounted,
        } = mount;
        let source = match mounted {
            ContainerMounted::Path { source, make } => existing(source, make)?,
            ContainerMounted::Volume(name) => {
                let opened = opened(rootfs);
                let opened = opened.map_err(EngineError::io("open the image's files", "/"))?;
                named_volume::directory(self.root().path(), &name, &opened, &target)?
            }
            ContainerMounted::Anonymous => {
                let source = MountSource::Own { readonly };
                return Ok(Placed::Mount(Mount { target, source }));
            }
            ContainerMounted::Memory {
                size_bytes,
                mode,
                refused,
            } => {
                let source = MountSource::Tmpfs {
                    size_bytes,
                    mode,
                    readonly,
                    refused,
                };
                return Ok(Placed::Mount(Mount { target, source }));
            }
        };
        Ok(Placed::Volume(Volume {
            source,
            target,
            readonly,
        }))
    }
}

/// The root file system's directory.
fn opened(rootfs: &Rootfs) -> std::io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rootfs {
        Rootfs::Path(path) => File::open(path).map(OwnedFd::from),
        Rootfs::Mount(mount) => Ok(openat(mount, ".", flags, Mode::empty())?),
    }
}

/// Entry point and command; one that is given drops the image's command.
fn arguments(
    image: &PlatformImage,
    request: &ContainerRequest,
) -> Result<Vec<String>, EngineError> {
    let config = &image.config.config;
    let entrypoint = request
        .entrypoint
        .clone()
        .or_else(|| config.entrypoint.clone())
        .unwrap_or_default();
    let command = match (request.command.is_empty(), &request.entrypoint) {
        (false, _) => request.command.clone(),
        (true, Some(_)) => Vec::new(),
        (true, None) => config.cmd.clone().unwrap_or_default(),
    };
    let args = [entrypoint, command].concat();
    if args.is_empty() {
        return Err(EngineError::Invalid(
            "no command specified, and the image has none".to_owned(),
        ));
    }
    Ok(args)
}

fn environment(image: &[String], given: &[(String, String)], terminal: bool) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        if values.insert(name.to_owned(), value.to_owned()).is_none() {
            order.push(name.to_owned());
        }
    };
    set("PATH", PATH_DEFAULT);
    if terminal {
        set("TERM", "xterm");
    }
    for pair in image {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(name, value);
    }
    for (name, value) in given {
        set(name, value);
    }
    order
        .iter()
        .map(|name| format!("{name}={}", values[name]))
        .collect()
}

/// As Docker does it: `--volume` makes what does not exist, `--mount` does not.
fn existing(source: PathBuf, make: bool) -> Result<PathBuf, EngineError> {
    match (source.exists(), make) {
        (true, _) => Ok(source),
        (false, true) => {
            std::fs::create_dir_all(&source).map_err(EngineError::io("make", &source))?;
            Ok(source)
        }
        (false, false) => Err(EngineError::Invalid(format!(
            "the source of a mount, `{}`, does not exist",
            source.display()
        ))),
    }
}

fn bind(volume: Volume) -> Mount {
    Mount {
        target: volume.target,
        source: MountSource::Bind {
            source: BindSource::Path(volume.source),
            subpath: None,
            readonly: volume.readonly,
            recursive: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_variables_win_and_keep_their_place() {
        let image = ["PATH=/x".to_owned(), "A=1".to_owned()];
        let given = [
            ("A".to_owned(), "2".to_owned()),
            ("B".to_owned(), "3".to_owned()),
        ];
        assert_eq!(
            environment(&image, &given, false),
            ["PATH=/x", "A=2", "B=3"]
        );
    }
}
