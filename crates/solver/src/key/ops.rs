//! The fields of each operation. Every struct is taken apart in full: see the table in
//! the parent.

use longshore_graph::{
    Copy, Exec, FileAction, FileActionKind, FileInput, FileOp, Mkdir, Mkfile, ModeSpec, Mount,
    MountKind, NetworkMode, Op, Owner, PathSelector, Principal, Remove, SecretMount, SecurityMode,
    Selection, Source, SshMount, Ulimit, Vertex,
};

use super::{KeyFields, Value};

pub(super) fn fields(vertex: &Vertex) -> KeyFields {
    let mut fields = KeyFields::default();
    fields.push("operation", Value::text(operation(&vertex.op)));
    match &vertex.op {
        Op::Exec(exec) => exec_fields(&mut fields, exec, vertex),
        Op::File(file) => file_fields(&mut fields, file, vertex),
        // A source counts by what is pinned of it, which enters as its users' input.
        Op::Source(_) | Op::Merge | Op::Diff => {}
    }
    fields
}

/// The operation's name, in keys and groups.
pub(crate) fn operation(op: &Op) -> &'static str {
    match op {
        Op::Source(Source::Scratch) => "scratch",
        Op::Source(Source::Image(_)) => "image",
        Op::Source(Source::Local(_)) => "local",
        Op::Source(Source::Git(_)) => "git",
        Op::Source(Source::Http(_)) => "http",
        Op::Source(Source::OciLayout(_)) => "oci layout",
        Op::Exec(_) => "exec",
        Op::File(_) => "file",
        Op::Merge => "merge",
        Op::Diff => "diff",
    }
}

/// Whether input `index` enters the content key by what is selected of it alone, so that
/// the path that selects it need not.
fn by_content(vertex: &Vertex, index: usize) -> bool {
    matches!(vertex.selection(index), Selection::Content(_))
}

fn exec_fields(fields: &mut KeyFields, exec: &Exec, vertex: &Vertex) {
    let Exec {
        args,
        env,
        cwd,
        user,
        hostname,
        extra_hosts,
        proxy_env: _,
        mounts,
        network,
        security,
        shm_size_bytes,
        ulimits,
        cgroup_parent: _,
        resources: _,
    } = exec;
    fields.push("argv", Value::texts(args.iter().map(String::as_str)));
    for (name, value) in env {
        fields.push(format!("env {name}"), Value::text(value));
    }
    fields.push(
        super::ENV_ORDER,
        Value::texts(env.iter().map(|(name, _)| name.as_str())),
    );
    fields.push("cwd", Value::text(cwd));
    fields.push("user", Value::text(user));
    fields.push("hostname", Value::text(hostname));
    let names = extra_hosts.iter().map(|(name, _)| name.as_str());
    fields.push("extra hosts", Value::texts(names));
    fields.push("network", Value::text(network_name(*network)));
    fields.push("security", Value::text(security_name(*security)));
    fields.push("shm size", optional_number(*shm_size_bytes));
    for ulimit in ulimits {
        fields.push(format!("ulimit {}", ulimit.name), ulimit_value(ulimit));
    }
    for mount in mounts {
        fields.push(
            format!("mount {}", mount.target),
            mount_value(mount, vertex),
        );
    }
}

fn network_name(network: NetworkMode) -> &'static str {
    match network {
        NetworkMode::Default => "default",
        NetworkMode::Host => "host",
        NetworkMode::None => "none",
    }
}

fn security_name(security: SecurityMode) -> &'static str {
    match security {
        SecurityMode::Sandbox => "sandbox",
        SecurityMode::Insecure => "insecure",
    }
}

fn optional_number(number: Option<u64>) -> Value {
    let mut value = Value::new();
    value.optional(number, Value::number);
    value.show(&number.map_or_else(|| "default".to_owned(), |number| number.to_string()));
    value
}

fn ulimit_value(ulimit: &Ulimit) -> Value {
    let Ulimit {
        name: _, // the field's name
        soft,
        hard,
    } = ulimit;
    let mut value = Value::new();
    value.signed(*soft).signed(*hard);
    value.show(&format!("{soft}:{hard}"));
    value
}

fn mount_value(mount: &Mount, vertex: &Vertex) -> Value {
    let Mount {
        target: _, // the field's name
        input,
        selector,
        readonly,
        output,
        kind,
    } = mount;
    let mut value = Value::new();
    value.optional(*input, Value::length);
    let selector = Some(selector).filter(|_| !input.is_some_and(|input| by_content(vertex, input)));
    value.optional(selector, |value, selector| value.text_part(selector));
    value.flag(*readonly);
    value.optional(*output, |value, output| value.number(output.into()));
    let kind = mount_kind(&mut value, kind);
    let access = if *readonly { "read-only" } else { "writable" };
    value.show(&format!("{kind}, {access}"));
    value
}

/// Adds the kind's fields and returns what is shown of it.
fn mount_kind(value: &mut Value, kind: &MountKind) -> String {
    match kind {
        MountKind::Bind => {
            value.tag("bind");
            "bind".to_owned()
        }
        MountKind::Cache {
            id,
            sharing: _,
            mode,
            owner,
        } => {
            value.tag("cache").text_part(id);
            mode_and_owner(value, *mode, *owner);
            format!("cache {id} {mode:04o} {}:{}", owner.0, owner.1)
        }
        MountKind::Tmpfs { size_bytes } => {
            value.tag("tmpfs").optional(*size_bytes, Value::number);
            size_bytes.map_or_else(|| "tmpfs".to_owned(), |size| format!("tmpfs {size}"))
        }
        MountKind::Secret(secret) => secret_mount(value, secret),
        MountKind::Ssh(ssh) => ssh_mount(value, ssh),
    }
}

fn secret_mount(value: &mut Value, secret: &SecretMount) -> String {
    let SecretMount {
        id,
        env,
        file,
        required,
        mode,
        owner,
    } = secret;
    value.tag("secret").text_part(id);
    value.optional(env.as_deref(), Value::text_part);
    value.flag(*file).flag(*required);
    mode_and_owner(value, *mode, *owner);
    format!("secret {id} {mode:04o} {}:{}", owner.0, owner.1)
}

fn ssh_mount(value: &mut Value, ssh: &SshMount) -> String {
    let SshMount {
        id,
        required,
        mode,
        owner,
    } = ssh;
    value.tag("ssh").text_part(id).flag(*required);
    mode_and_owner(value, *mode, *owner);
    format!("ssh {id} {mode:04o} {}:{}", owner.0, owner.1)
}

fn mode_and_owner(value: &mut Value, mode: u32, owner: (u32, u32)) {
    value.number(mode.into());
    value.number(owner.0.into()).number(owner.1.into());
}

fn file_fields(fields: &mut KeyFields, file: &FileOp, vertex: &Vertex) {
    let FileOp { actions } = file;
    for action in actions {
        let FileAction { input, kind } = action;
        let mut value = Value::new();
        file_input(&mut value, *input);
        let name = match kind {
            FileActionKind::Copy(copy) => copy_value(&mut value, copy, vertex),
            FileActionKind::Mkdir(mkdir) => mkdir_value(&mut value, mkdir),
            FileActionKind::Mkfile(mkfile) => mkfile_value(&mut value, mkfile),
            FileActionKind::Remove(remove) => remove_value(&mut value, remove),
        };
        fields.push(name, value);
    }
}

fn file_input(value: &mut Value, input: FileInput) {
    match input {
        FileInput::Scratch => value.tag("scratch"),
        FileInput::Vertex(index) => value.tag("input").length(index),
        FileInput::Action(index) => value.tag("action").length(index),
    };
}

fn copy_value(value: &mut Value, copy: &Copy, vertex: &Vertex) -> String {
    let Copy {
        from,
        source,
        dest,
        owner,
        mode,
        follow_link,
        directory_contents_only,
        unpack,
        wildcard,
        allow_empty_wildcard,
        create_dest_path,
        always_replace,
        include,
        exclude,
        required,
        timestamp,
    } = copy;
    value.tag("copy");
    file_input(value, *from);
    match from {
        FileInput::Vertex(index) if by_content(vertex, *index) => {
            value.tag("name").text_part(base_name(source));
        }
        FileInput::Vertex(_) | FileInput::Action(_) | FileInput::Scratch => {
            value.tag("path").text_part(source);
        }
    }
    value.text_part(dest);
    owner_value(value, owner.as_ref());
    value.optional(mode.as_ref(), mode_value);
    for flag in [
        follow_link,
        directory_contents_only,
        unpack,
        wildcard,
        allow_empty_wildcard,
        create_dest_path,
        always_replace,
    ] {
        value.flag(*flag);
    }
    for patterns in [include, exclude, required] {
        value.text_list(patterns.iter().map(String::as_str));
    }
    value.optional(*timestamp, Value::signed);
    value.show(&shown_copy(copy));
    format!("copy {dest}")
}

/// The options of a copy that are set, as a reader of a Dockerfile would write them.
fn shown_copy(copy: &Copy) -> String {
    let mut shown = vec![base_name(&copy.source).to_owned()];
    if let Some(owner) = &copy.owner {
        shown.push(format!("chown={}", shown_owner(owner)));
    }
    match &copy.mode {
        Some(ModeSpec::Octal(mode)) => shown.push(format!("chmod={mode:o}")),
        Some(ModeSpec::Symbolic(mode)) => shown.push(format!("chmod={mode}")),
        None => {}
    }
    let flags = [
        (copy.follow_link, "follow-link"),
        (copy.directory_contents_only, "contents-only"),
        (copy.unpack, "unpack"),
        (copy.wildcard, "wildcard"),
        (copy.allow_empty_wildcard, "allow-empty"),
        (copy.create_dest_path, "create-parents"),
        (copy.always_replace, "replace"),
    ];
    let set = flags.iter().filter(|(set, _)| *set);
    shown.extend(set.map(|(_, name)| (*name).to_owned()));
    let lists = [
        ("include", &copy.include),
        ("exclude", &copy.exclude),
        ("required", &copy.required),
    ];
    for (name, patterns) in lists.iter().filter(|(_, patterns)| !patterns.is_empty()) {
        shown.push(format!("{name}={}", patterns.join(",")));
    }
    shown.extend(copy.timestamp.map(|time| format!("time={time}")));
    shown.join(" ")
}

fn mkdir_value(value: &mut Value, mkdir: &Mkdir) -> String {
    let Mkdir {
        path,
        mode,
        parents,
        owner,
        timestamp,
    } = mkdir;
    value.tag("mkdir").text_part(path).number((*mode).into());
    value.flag(*parents);
    owner_value(value, owner.as_ref());
    value.optional(*timestamp, Value::signed);
    let owner = owner
        .as_ref()
        .map(|owner| format!(" {}", shown_owner(owner)));
    let time = timestamp.map(|time| format!(" time={time}"));
    let parents = if *parents { " parents" } else { "" };
    let (owner, time) = (owner.unwrap_or_default(), time.unwrap_or_default());
    value.show(&format!("{mode:04o}{owner}{parents}{time}"));
    format!("mkdir {path}")
}

fn mkfile_value(value: &mut Value, mkfile: &Mkfile) -> String {
    let Mkfile {
        path,
        mode,
        content,
        owner,
        timestamp,
    } = mkfile;
    value.tag("mkfile").text_part(path).number((*mode).into());
    value.bytes(content);
    owner_value(value, owner.as_ref());
    value.optional(*timestamp, Value::signed);
    let owner = owner
        .as_ref()
        .map(|owner| format!(" {}", shown_owner(owner)));
    let time = timestamp.map(|time| format!(" time={time}"));
    let (owner, time) = (owner.unwrap_or_default(), time.unwrap_or_default());
    let mark = crate::ContentDigest::from(blake3::hash(content)).short();
    value.show(&format!(
        "{mode:04o}{owner} {} bytes #{mark}{time}",
        content.len()
    ));
    format!("mkfile {path}")
}

fn remove_value(value: &mut Value, remove: &Remove) -> String {
    let Remove {
        path,
        allow_missing,
        wildcard,
    } = remove;
    value.tag("remove").text_part(path);
    value.flag(*allow_missing).flag(*wildcard);
    value.show(&format!(
        "allow-missing={allow_missing} wildcard={wildcard}"
    ));
    format!("remove {path}")
}

fn owner_value(value: &mut Value, owner: Option<&Owner>) {
    value.optional(owner, |value, Owner { user, group }| {
        value.optional(user.as_ref(), principal_value);
        value.optional(group.as_ref(), principal_value)
    });
}

fn principal_value<'a>(value: &'a mut Value, principal: &Principal) -> &'a mut Value {
    match principal {
        Principal::Id(id) => value.tag("id").number((*id).into()),
        Principal::Name(name) => value.tag("name").text_part(name),
    }
}

fn shown_owner(owner: &Owner) -> String {
    let part = |principal: &Option<Principal>| match principal {
        Some(Principal::Id(id)) => id.to_string(),
        Some(Principal::Name(name)) => name.clone(),
        None => String::new(),
    };
    format!("{}:{}", part(&owner.user), part(&owner.group))
}

fn mode_value<'a>(value: &'a mut Value, mode: &ModeSpec) -> &'a mut Value {
    match mode {
        ModeSpec::Octal(mode) => value.tag("octal").number((*mode).into()),
        ModeSpec::Symbolic(mode) => value.tag("symbolic").text_part(mode),
    }
}

/// What is selected of an input, as far as the definition key tells selections apart.
pub(super) fn selection(value: &mut Value, selection: &Selection) {
    match selection {
        Selection::Identity => {
            value.tag("identity");
        }
        Selection::Content(selectors) => {
            value.tag("content").length(selectors.len());
            for selector in selectors {
                path_selector(value, selector);
            }
        }
    }
}

fn path_selector(value: &mut Value, selector: &PathSelector) {
    let PathSelector {
        path,
        wildcard,
        follow_links,
        // A copy's own field of this name is in its key.
        directory_contents_only: _,
        include,
        exclude,
    } = selector;
    value.text_part(path).flag(*wildcard).flag(*follow_links);
    value.text_list(include.iter().map(String::as_str));
    value.text_list(exclude.iter().map(String::as_str));
}

/// The last component of a path; empty for the root.
fn base_name(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}
