//! Our graph in the form of the corpus: BuildKit's operations, inputs first.

use base64_lite::encode;
use longshore_frontend::{FollowPaths, Lowered};
use longshore_graph::{
    CacheSharing, Copy, Exec, FileActionKind, FileInput, GitSource, Graph, ModeSpec, Mount,
    MountKind, NetworkMode, Op, Owner, Principal, SecurityMode, Source, VertexId,
};
use serde_json::{Map, Value, json};

/// The operations that the first platform's target needs, each once.
pub(crate) fn operations(lowered: &Lowered) -> Vec<Value> {
    let mut order = Vec::new();
    visit(&lowered.graph, lowered.platforms[0].target, &mut order);
    order
        .into_iter()
        .flat_map(|id| vertex(lowered, id))
        .collect()
}

fn visit(graph: &Graph, id: VertexId, order: &mut Vec<VertexId>) {
    if order.contains(&id) {
        return;
    }
    let vertex = graph.vertex(id);
    let mut inputs: Vec<VertexId> = vertex.inputs.iter().map(|input| input.vertex).collect();
    if let Op::File(file) = &vertex.op {
        // LLB's client goes from the last action to the first.
        let base = usize::from(matches!(file.actions[0].input, FileInput::Vertex(_)));
        inputs[base..].reverse();
    }
    for input in inputs {
        visit(graph, input, order);
    }
    order.push(id);
}

fn vertex(lowered: &Lowered, id: VertexId) -> Vec<Value> {
    let vertex = lowered.graph.vertex(id);
    match &vertex.op {
        Op::Source(source) => source_op(lowered, source).into_iter().collect(),
        Op::Exec(exec) => exec_ops(exec),
        Op::File(file) => {
            let action = |kind| json!({"op": "file", "action": file_action(kind)});
            file.actions.iter().map(|file| action(&file.kind)).collect()
        }
        Op::Merge => vec![json!({"op": "merge", "n": vertex.inputs.len()})],
        Op::Diff => panic!("a Dockerfile has no differences"),
    }
}

fn source_op(lowered: &Lowered, source: &Source) -> Option<Value> {
    let mut attributes = Map::new();
    let id = match source {
        Source::Scratch => return None,
        Source::Image(image) => format!("docker-image://{}", image.reference),
        Source::Local(local) => {
            if let Some(FollowPaths::Paths(paths)) = lowered.local_paths.get(&local.name) {
                let paths = json!(paths).to_string();
                attributes.insert("local.followpaths".to_owned(), json!(paths));
            }
            format!("local://{}", local.name)
        }
        Source::Http(http) => {
            attributes.insert("http.filename".to_owned(), json!(http.filename));
            if let Some(checksum) = &http.checksum {
                attributes.insert("http.checksum".to_owned(), json!(checksum.to_string()));
            }
            http.url.clone()
        }
        Source::Git(git) => git_op(git, &mut attributes),
        Source::OciLayout(_) => panic!("no case has a layout"),
    };
    let mut op = json!({"op": "source", "id": id});
    if !attributes.is_empty() {
        op["attrs"] = Value::Object(attributes);
    }
    Some(op)
}

fn git_op(git: &GitSource, attributes: &mut Map<String, Value>) -> String {
    attributes.insert("git.fullurl".to_owned(), json!(git.remote));
    attributes.insert("git.authheadersecret".to_owned(), json!("GIT_AUTH_HEADER"));
    attributes.insert("git.authtokensecret".to_owned(), json!("GIT_AUTH_TOKEN"));
    if git.keep_git_dir {
        attributes.insert("git.keepgitdir".to_owned(), json!("true"));
    }
    if let Some(checksum) = &git.checksum {
        attributes.insert("git.checksum".to_owned(), json!(checksum));
    }
    if !git.submodules {
        attributes.insert("git.skipsubmodules".to_owned(), json!("true"));
    }
    let place = git
        .remote
        .split_once("://")
        .map_or(git.remote.as_str(), |(_, place)| place);
    let place = place
        .split_once('@')
        .map_or(place, |(_, place)| place)
        .replacen(':', "/", 1);
    let mut id = format!("git://{place}");
    if !git.reference.is_empty() || !git.subdir.is_empty() {
        id += &format!("#{}", git.reference);
    }
    if !git.subdir.is_empty() {
        id += &format!(":{}", git.subdir);
    }
    id
}

/// A process; before it what BuildKit makes a cache's owner of.
fn exec_ops(exec: &Exec) -> Vec<Value> {
    let mut ops = Vec::new();
    let env: Vec<String> = exec
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut op = json!({"op": "exec", "args": exec.args, "cwd": exec.cwd, "env": env});
    if !exec.user.is_empty() {
        op["user"] = json!(exec.user);
    }
    match exec.network {
        NetworkMode::Default => {}
        NetworkMode::Host => op["network"] = json!("HOST"),
        NetworkMode::None => op["network"] = json!("NONE"),
    }
    if exec.security == SecurityMode::Insecure {
        op["security"] = json!("INSECURE");
    }
    let mut mounts = Vec::new();
    let mut variables = Vec::new();
    for mount in &exec.mounts[1..] {
        if let MountKind::Secret(secret) = &mount.kind
            && let Some(name) = &secret.env
        {
            variables.push(json!({"id": secret.id, "name": name, "optional": !secret.required}));
            if !secret.file {
                continue;
            }
        }
        mounts.push(mount_value(mount, &mut ops));
    }
    if !mounts.is_empty() {
        op["mounts"] = Value::Array(mounts);
    }
    if !variables.is_empty() {
        op["secret_env"] = Value::Array(variables);
    }
    ops.push(op);
    ops
}

fn mount_value(mount: &Mount, ops: &mut Vec<Value>) -> Value {
    let mut value = json!({"dest": mount.target});
    let mut selector = mount.selector.clone();
    match &mount.kind {
        MountKind::Bind => value["type"] = json!("BIND"),
        MountKind::Cache {
            id,
            sharing,
            mode,
            owner,
        } => {
            value["type"] = json!("CACHE");
            let sharing = match sharing {
                CacheSharing::Shared => "SHARED",
                CacheSharing::Private => "PRIVATE",
                CacheSharing::Locked => "LOCKED",
            };
            value["cache"] = json!({"id": id, "sharing": sharing});
            if (*mode, *owner) != (0o755, (0, 0)) && mount.input.is_none() {
                let owner = Owner {
                    user: Some(Principal::Id(owner.0)),
                    group: Some(Principal::Id(owner.1)),
                };
                ops.push(json!({"op": "file", "action": {"Mkdir": {
                    "path": "/cache", "mode": mode & 0o777, "timestamp": -1,
                    "owner": owner_value(&owner),
                }}}));
                "/cache".clone_into(&mut selector);
            }
        }
        MountKind::Tmpfs { size_bytes } => {
            value["type"] = json!("TMPFS");
            value["tmpfs_size"] = json!(size_bytes.unwrap_or(0));
        }
        MountKind::Secret(secret) => {
            value["type"] = json!("SECRET");
            value["secret"] = json!({
                "id": secret.id, "mode": secret.mode, "optional": !secret.required,
                "uid": secret.owner.0, "gid": secret.owner.1,
            });
        }
        MountKind::Ssh(agent) => {
            value["type"] = json!("SSH");
            value["ssh"] = json!({"id": agent.id, "mode": agent.mode, "optional": !agent.required});
        }
    }
    let is_file = !matches!(mount.kind, MountKind::Secret(_) | MountKind::Ssh(_));
    if mount.readonly && is_file {
        value["readonly"] = json!(true);
    }
    if !selector.is_empty() {
        value["selector"] = json!(selector);
    }
    value
}

fn file_action(kind: &FileActionKind) -> Value {
    match kind {
        FileActionKind::Copy(copy) => json!({"Copy": copy_value(copy)}),
        FileActionKind::Mkdir(mkdir) => {
            let timestamp = mkdir
                .timestamp
                .map_or(-1, |seconds| seconds * 1_000_000_000);
            let mut value = json!({"path": mkdir.path, "mode": mkdir.mode, "timestamp": timestamp});
            if mkdir.parents {
                value["makeParents"] = json!(true);
            }
            if let Some(owner) = &mkdir.owner {
                value["owner"] = owner_value(owner);
            }
            json!({"Mkdir": value})
        }
        FileActionKind::Mkfile(file) => json!({"Mkfile": {
            "path": file.path, "mode": file.mode, "timestamp": -1, "data": encode(&file.content),
        }}),
        FileActionKind::Remove(_) => panic!("a Dockerfile removes nothing"),
    }
}

fn copy_value(copy: &Copy) -> Value {
    let mut value = json!({"src": copy.source, "dest": copy.dest, "timestamp": -1});
    for (name, set) in [
        ("followSymlink", copy.follow_link),
        ("dirCopyContents", copy.directory_contents_only),
        ("attemptUnpackDockerCompatibility", copy.unpack),
        ("createDestPath", copy.create_dest_path),
        ("allowWildcard", copy.wildcard),
        ("allowEmptyWildcard", copy.allow_empty_wildcard),
    ] {
        if set {
            value[name] = json!(true);
        }
    }
    for (name, patterns) in [
        ("include_patterns", &copy.include),
        ("exclude_patterns", &copy.exclude),
        ("required_paths", &copy.required),
    ] {
        if !patterns.is_empty() {
            value[name] = json!(patterns);
        }
    }
    match &copy.mode {
        None => value["mode"] = json!(-1),
        // Protobuf leaves zero out.
        Some(ModeSpec::Octal(0)) => {}
        Some(ModeSpec::Octal(mode)) => value["mode"] = json!(mode),
        Some(ModeSpec::Symbolic(mode)) => value["modeStr"] = json!(mode),
    }
    if let Some(owner) = &copy.owner {
        value["owner"] = owner_value(owner);
    }
    value
}

fn owner_value(owner: &Owner) -> Value {
    let principal = |principal: &Principal| match principal {
        // Protobuf leaves zero out.
        Principal::Id(0) => json!({"User": {}}),
        Principal::Id(id) => json!({"User": {"byId": id}}),
        Principal::Name(name) => json!({"User": {"byName": {"name": name}}}),
    };
    let mut value = json!({});
    if let Some(user) = &owner.user {
        value["user"] = principal(user);
    }
    if let Some(group) = &owner.group {
        value["group"] = principal(group);
    }
    value
}

mod base64_lite {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    /// Standard base64 with padding, as Go writes bytes in JSON.
    pub(super) fn encode(bytes: &[u8]) -> String {
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let mut word = [0; 4];
            word[1..=chunk.len()].copy_from_slice(chunk);
            let word = u32::from_be_bytes(word);
            for digit in 0..4_usize {
                let place = (word >> (18 - 6 * digit)) & 63;
                let used = digit <= chunk.len();
                text.push(if used {
                    ALPHABET[place as usize] as char
                } else {
                    '='
                });
            }
        }
        text
    }
}
