//! `RUN --mount`.

use longshore_dockerfile::expand::ExpandError;
use longshore_dockerfile::instruction::RunInstruction;
use longshore_dockerfile::mount::{Mount as Written, MountKind as WrittenKind, Sharing};
use longshore_graph::{
    CacheSharing, FileAction, FileInput, FileOp, Input, Mkdir, Mount, MountKind, Op, Owner,
    Principal, SecretMount, SshMount, VertexMeta,
};

use super::input_place;
use crate::error::{LowerError, Problem};
use crate::lowering::Lowering;
use crate::paths::{base, clean, join, rooted};
use crate::stage::{Command, StageId};

const CACHE_MODE: u32 = 0o755;
const SECRET_MODE: u32 = 0o400;
const SSH_MODE: u32 = 0o600;

/// The directory that a cache with an owner starts from.
const CACHE_BASE: &str = "/cache";

/// The mounts of a step besides its root, and the inputs they are of.
#[derive(Default)]
pub(super) struct Mounts {
    /// Of files, caches and memory; sorted by target, so that what is within another is behind it.
    pub(super) files: Vec<Mount>,
    /// Of secrets; behind the files, in the order of the instruction.
    pub(super) secrets: Vec<Mount>,
    /// Of agents; last.
    pub(super) agents: Vec<Mount>,
}

impl Mounts {
    pub(super) fn into_list(mut self) -> Vec<Mount> {
        self.files.sort_by(|a, b| a.target.cmp(&b.target));
        self.files
            .into_iter()
            .chain(self.secrets)
            .chain(self.agents)
            .collect()
    }

    /// Where the first agent listens.
    pub(super) fn agent_socket(&self) -> Option<&str> {
        self.agents.first().map(|mount| mount.target.as_str())
    }
}

impl Lowering<'_, '_> {
    /// The mounts with their variables expanded.
    pub(super) fn expand_mounts(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        run: &RunInstruction,
    ) -> Result<Vec<Written>, LowerError> {
        let mut mounts = Vec::with_capacity(run.mounts.len());
        for flag in &run.mounts {
            let mount = flag.resolve(|value| -> Result<String, ExpandError> {
                self.expand_with(self.lexer, id, command, value, flag.span)
            });
            mounts.push(mount.map_err(Problem::Mount)?);
        }
        Ok(mounts)
    }

    pub(super) fn mounts(
        &mut self,
        id: StageId,
        command: &Command<'_>,
        written: &[Written],
        inputs: &mut Vec<Input>,
    ) -> Result<Mounts, LowerError> {
        let line = *command.location.lines.start();
        let mut mounts = Mounts::default();
        for (index, mount) in written.iter().enumerate() {
            let source = command.sources.get(index).copied();
            match mount.kind {
                WrittenKind::Secret => mounts.secrets.push(self.secret(id, mount, line)?),
                WrittenKind::Ssh => {
                    let agent = self.agent(id, mount, mounts.agents.len(), line)?;
                    mounts.agents.push(agent);
                }
                WrittenKind::Bind | WrittenKind::Cache | WrittenKind::Tmpfs => {
                    let mount = self.file_mount(id, mount, source, inputs)?;
                    mounts.files.push(mount);
                }
            }
        }
        Ok(mounts)
    }

    fn file_mount(
        &mut self,
        id: StageId,
        mount: &Written,
        source: Option<StageId>,
        inputs: &mut Vec<Input>,
    ) -> Result<Mount, LowerError> {
        let files = self.mounted_files(mount, source)?;
        let target = self.absolute(id, &mount.target);
        if target == "/" {
            return Err(Problem::MountTarget { target }.into());
        }
        let mut selector = Some(rooted(&mount.source))
            .filter(|path| path != "/")
            .unwrap_or_default();
        let (mut owner, mut mode) = ((0, 0), CACHE_MODE);
        let mut files = files;
        let has_attributes = mount.uid.or(mount.gid).or(mount.mode).is_some();
        if selector.is_empty() && has_attributes {
            owner = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
            mode = mount.mode.unwrap_or(CACHE_MODE);
            if let Some(base) = files {
                files = Some(self.cache_base(base, owner, mode)?);
                CACHE_BASE.clone_into(&mut selector);
            }
        }
        self.note_mounted_path(id, mount, source);
        let kind = match mount.kind {
            WrittenKind::Cache => MountKind::Cache {
                id: self.cache_id(mount),
                sharing: cache_sharing(mount.sharing),
                mode,
                owner,
            },
            WrittenKind::Tmpfs => MountKind::Tmpfs {
                size_bytes: Some(mount.size_bytes).filter(|size| *size > 0),
            },
            WrittenKind::Bind | WrittenKind::Secret | WrittenKind::Ssh => MountKind::Bind,
        };
        let input = files.map(|files| input_place(inputs, files));
        Ok(Mount {
            target,
            input,
            selector,
            readonly: mount.read_only,
            output: None,
            kind,
        })
    }

    /// The files that a mount shows; nothing is an empty tree.
    fn mounted_files(
        &mut self,
        mount: &Written,
        source: Option<StageId>,
    ) -> Result<Option<Input>, LowerError> {
        match (&mount.from, mount.kind, source) {
            (Some(from), kind, Some(source)) => {
                let stage = self.stage(source);
                if !stage.is_dispatched {
                    let (from, target) = (from.clone(), mount.target.clone());
                    return Err(Problem::MountFromLater { from, target }.into());
                }
                Ok(stage.state.output.filter(|_| kind != WrittenKind::Tmpfs))
            }
            (_, WrittenKind::Bind, _) => Ok(self.context_input()?),
            _ => Ok(None),
        }
    }

    fn note_mounted_path(&mut self, id: StageId, mount: &Written, source: Option<StageId>) {
        let path = rooted(&mount.source);
        match (&mount.from, mount.kind, source) {
            (Some(_), _, Some(source)) => self.use_path(source, &path),
            (None, WrittenKind::Bind, _) => {
                self.stage_mut(id).context_paths.insert(path);
            }
            _ => {}
        }
    }

    /// A directory with an owner and mode of its own, in the files that a cache starts from.
    fn cache_base(&mut self, base: Input, owner: (u32, u32), mode: u32) -> Result<Input, Problem> {
        let mkdir = Mkdir {
            mode,
            parents: false,
            owner: Some(Owner {
                user: Some(Principal::Id(owner.0)),
                group: Some(Principal::Id(owner.1)),
            }),
            ..Mkdir::new(CACHE_BASE)
        };
        let op = Op::File(FileOp {
            actions: vec![FileAction::mkdir(FileInput::Vertex(0), mkdir)],
        });
        let name = "[internal] setting cache mount permissions".to_owned();
        self.shared.graph.add(
            op,
            vec![base],
            VertexMeta {
                name,
                ..VertexMeta::default()
            },
        )
    }

    /// A mount's target, which may be below the working directory.
    fn absolute(&self, id: StageId, target: &str) -> String {
        if clean(target).starts_with('/') {
            target.to_owned()
        } else {
            rooted(&join(&self.stage(id).state.directory, target))
        }
    }

    fn cache_id(&self, mount: &Written) -> String {
        let namespace = self
            .arguments
            .given("BUILDKIT_CACHE_MOUNT_NS")
            .unwrap_or_default();
        let id = if mount.id.is_empty() {
            clean(&mount.target)
        } else {
            mount.id.clone()
        };
        format!("{namespace}/{id}")
    }

    fn secret(&mut self, id: StageId, mount: &Written, line: u32) -> Result<Mount, LowerError> {
        let name = match (
            mount.source.as_str(),
            mount.id.as_str(),
            mount.target.as_str(),
        ) {
            ("", "", "") => return Err(Problem::SecretUnnamed.into()),
            ("", "", target) => base(target),
            ("", id, _) => id,
            (source, _, _) => source,
        };
        let name = name.to_owned();
        let captured = &mut self.stage_mut(id).outline.secrets;
        captured
            .entry(name.clone())
            .or_insert((mount.required, line));
        let target = match mount.target.as_str() {
            "" => format!("/run/secrets/{}", base(&name)),
            target => target.to_owned(),
        };
        let secret = SecretMount {
            id: name,
            env: mount.env.clone(),
            file: mount.env.is_none() || !mount.target.is_empty(),
            required: mount.required,
            mode: mount.mode.unwrap_or(SECRET_MODE),
            owner: (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0)),
        };
        Ok(special_mount(target, MountKind::Secret(secret)))
    }

    fn agent(
        &mut self,
        id: StageId,
        mount: &Written,
        index: usize,
        line: u32,
    ) -> Result<Mount, LowerError> {
        if !mount.source.is_empty() {
            return Err(Problem::SshSource.into());
        }
        let name = if mount.id.is_empty() {
            "default"
        } else {
            &mount.id
        }
        .to_owned();
        let captured = &mut self.stage_mut(id).outline.ssh;
        captured
            .entry(name.clone())
            .or_insert((mount.required, line));
        let target = match mount.target.as_str() {
            "" => format!("/run/buildkit/ssh_agent.{index}"),
            target => target.to_owned(),
        };
        let agent = SshMount {
            id: name,
            required: mount.required,
            mode: mount.mode.unwrap_or(SSH_MODE),
            owner: (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0)),
        };
        Ok(special_mount(target, MountKind::Ssh(agent)))
    }
}

fn special_mount(target: String, kind: MountKind) -> Mount {
    Mount {
        target,
        input: None,
        selector: String::new(),
        readonly: true,
        output: None,
        kind,
    }
}

fn cache_sharing(sharing: Option<Sharing>) -> CacheSharing {
    match sharing {
        None | Some(Sharing::Shared) => CacheSharing::Shared,
        Some(Sharing::Private) => CacheSharing::Private,
        Some(Sharing::Locked) => CacheSharing::Locked,
    }
}
