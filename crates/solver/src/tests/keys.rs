//! What is in a key, what is not, and that it stays what it is.

use longshore_graph::{
    CacheSharing, Copy, Exec, FileAction, FileActionKind, FileInput, FileOp, Input, Mkdir, Mkfile,
    ModeSpec, MountKind, NetworkMode, Op, Owner, Principal, Remove, SecretMount, SecurityMode,
    Selection, SshMount, Ulimit, Vertex, VertexId,
};

use super::support::*;
use crate::key::{InputDefinition, content_key, definition_key, step_fields};
use crate::{CacheKey, ContentDigest};

fn vertex(op: Op) -> Vertex {
    let inputs = vec![Input::first(VertexId(0)), Input::first(VertexId(1))];
    Vertex::new("step", op, inputs)
}

fn content_of(vertex: &Vertex) -> CacheKey {
    let digests = [1, 2].map(|n: u8| ContentDigest([n; 32]));
    let inputs: Vec<_> = (0..2)
        .map(|index| (vertex.selection(index), digests[index]))
        .collect();
    content_key(&step_fields(vertex, &[]), &inputs).0
}

fn definition_of(vertex: &Vertex) -> CacheKey {
    let inputs = [
        InputDefinition::Step {
            key: CacheKey([1; 32]),
            output: 0,
        },
        InputDefinition::Pinned(ContentDigest([2; 32])),
    ];
    definition_key(&step_fields(vertex, &[]), vertex, &inputs)
}

/// A process with everything that a RUN can have.
fn full_exec() -> Exec {
    let mut exec = exec(&["sh", "-c", "make"]);
    exec.env.push(("CC".to_owned(), "clang".to_owned()));
    exec.extra_hosts = vec![("db".to_owned(), "10.0.0.1".to_owned())];
    exec.ulimits = vec![Ulimit {
        name: "nofile".to_owned(),
        soft: 1,
        hard: 2,
    }];
    exec.shm_size_bytes = Some(64);
    let kinds = [
        MountKind::Cache {
            id: "go".to_owned(),
            sharing: CacheSharing::Shared,
            mode: 0o755,
            owner: (0, 0),
        },
        MountKind::Tmpfs {
            size_bytes: Some(9),
        },
        MountKind::Secret(SecretMount {
            id: "token".to_owned(),
            env: None,
            file: true,
            required: true,
            mode: 0o400,
            owner: (0, 0),
        }),
        MountKind::Ssh(SshMount {
            id: "default".to_owned(),
            required: true,
            mode: 0o600,
            owner: (0, 0),
        }),
    ];
    exec.mounts.push(bind_mount(1, "/src", "app"));
    exec.mounts.extend(kinds.map(|kind| {
        let mut mount = bind_mount(0, "/m", "");
        mount.input = None;
        mount.kind = kind;
        mount
    }));
    exec
}

fn full_copy() -> Copy {
    let mut copy = copy_op("app/src", "/app/");
    copy.owner = Some(Owner {
        user: Some(Principal::Name("www".to_owned())),
        group: Some(Principal::Id(7)),
    });
    copy.mode = Some(ModeSpec::Octal(0o640));
    copy.include = vec!["*.c".to_owned()];
    copy.exclude = vec!["x.c".to_owned()];
    copy.timestamp = Some(-1);
    copy
}

fn files() -> Vertex {
    let first = |kind| FileAction {
        input: FileInput::Vertex(0),
        kind,
    };
    let next = |kind| FileAction {
        input: FileInput::Action(0),
        kind,
    };
    let mkfile = Mkfile {
        path: "/f".to_owned(),
        mode: 0o644,
        content: b"text".to_vec(),
        owner: None,
        timestamp: None,
    };
    let remove = Remove {
        path: "/g".to_owned(),
        allow_missing: true,
        wildcard: false,
    };
    let actions = vec![
        first(FileActionKind::Mkdir(Mkdir::new("/d"))),
        next(FileActionKind::Mkfile(mkfile)),
        next(FileActionKind::Remove(remove)),
    ];
    vertex(Op::File(FileOp { actions }))
}

/// A change here makes every cache in the world miss: it takes a new
/// [`KEY_VERSION`](crate::key::KEY_VERSION) and a line in the changelog.
#[test]
fn keys_stay_what_they_are() {
    let samples = [
        ("exec", vertex(Op::Exec(full_exec()))),
        ("copy", vertex(copy_vertex(full_copy()))),
        ("files", files()),
        ("merge", vertex(Op::Merge)),
        ("diff", vertex(Op::Diff)),
    ];
    let found: Vec<_> = samples
        .iter()
        .flat_map(|(name, vertex)| {
            let content = format!("{name} content {}", content_of(vertex));
            [
                content,
                format!("{name} definition {}", definition_of(vertex)),
            ]
        })
        .collect();
    let expected = include_str!("golden_keys.txt");
    assert_eq!(found.join("\n"), expected.trim_end());
}

type Change<T> = (&'static str, fn(&mut T));

fn assert_changes<T: Clone>(sample: &T, op: fn(T) -> Op, in_key: bool, changes: &[Change<T>]) {
    let before = vertex(op(sample.clone()));
    for (name, change) in changes {
        let mut changed = sample.clone();
        change(&mut changed);
        let after = vertex(op(changed));
        assert_ne!(before, after, "{name} changes nothing");
        assert_eq!(content_of(&before) != content_of(&after), in_key, "{name}");
        let definitions = (definition_of(&before), definition_of(&after));
        assert_eq!(definitions.0 != definitions.1, in_key, "{name}");
    }
}

macro_rules! with_kind {
    ($exec:expr, $index:expr, $pattern:pat => $change:expr) => {
        match &mut $exec.mounts[$index].kind {
            $pattern => $change,
            other => panic!("{other:?}"),
        }
    };
}

#[test]
fn what_a_process_sees_is_in_the_key() {
    let changes: &[Change<Exec>] = &[
        ("argv", |e| e.args[2] = "make all".to_owned()),
        ("argv cut elsewhere", |e| {
            e.args = ["s", "h-c", "make"].map(String::from).into();
        }),
        ("env value", |e| e.env[1].1 = "gcc".to_owned()),
        ("env name", |e| e.env[1].0 = "CXX".to_owned()),
        ("env cut elsewhere", |e| {
            e.env[1] = ("CCclang".to_owned(), String::new());
        }),
        ("env order", |e| e.env.swap(0, 1)),
        ("cwd", |e| e.cwd = "/src".to_owned()),
        ("user", |e| e.user = "www".to_owned()),
        ("hostname", |e| e.hostname = "box".to_owned()),
        ("extra host name", |e| {
            e.extra_hosts[0].0 = "mail".to_owned();
        }),
        ("network", |e| e.network = NetworkMode::None),
        ("security", |e| e.security = SecurityMode::Insecure),
        ("shm size", |e| e.shm_size_bytes = None),
        ("ulimit name", |e| e.ulimits[0].name = "nproc".to_owned()),
        ("ulimit soft", |e| e.ulimits[0].soft = 2),
        ("ulimit hard", |e| e.ulimits[0].hard = -1),
        ("mount target", |e| e.mounts[1].target = "/other".to_owned()),
        ("mount read-only", |e| e.mounts[1].readonly = false),
        ("mount input", |e| e.mounts[2].input = Some(1)),
        ("mount order", |e| e.mounts.swap(2, 3)),
        ("mount gone", |e| drop(e.mounts.pop())),
        ("mount kind", |e| e.mounts[2].kind = MountKind::Bind),
        (
            "cache id",
            |e| with_kind!(e, 2, MountKind::Cache { id, .. } => id.push('2')),
        ),
        (
            "cache mode",
            |e| with_kind!(e, 2, MountKind::Cache { mode, .. } => *mode = 0o700),
        ),
        (
            "cache owner",
            |e| with_kind!(e, 2, MountKind::Cache { owner, .. } => owner.1 = 5),
        ),
        (
            "tmpfs size",
            |e| with_kind!(e, 3, MountKind::Tmpfs { size_bytes } => *size_bytes = None),
        ),
        (
            "secret id",
            |e| with_kind!(e, 4, MountKind::Secret(s) => s.id.push('2')),
        ),
        (
            "secret variable",
            |e| with_kind!(e, 4, MountKind::Secret(s) => s.env = Some("T".to_owned())),
        ),
        (
            "secret file",
            |e| with_kind!(e, 4, MountKind::Secret(s) => s.file = false),
        ),
        (
            "secret required",
            |e| with_kind!(e, 4, MountKind::Secret(s) => s.required = false),
        ),
        (
            "secret mode",
            |e| with_kind!(e, 4, MountKind::Secret(s) => s.mode = 0o444),
        ),
        (
            "secret owner",
            |e| with_kind!(e, 4, MountKind::Secret(s) => s.owner.0 = 9),
        ),
        (
            "ssh id",
            |e| with_kind!(e, 5, MountKind::Ssh(s) => s.id.push('2')),
        ),
        (
            "ssh required",
            |e| with_kind!(e, 5, MountKind::Ssh(s) => s.required = false),
        ),
        (
            "ssh mode",
            |e| with_kind!(e, 5, MountKind::Ssh(s) => s.mode = 0o666),
        ),
        (
            "ssh owner",
            |e| with_kind!(e, 5, MountKind::Ssh(s) => s.owner.1 = 9),
        ),
    ];
    assert_changes(&full_exec(), Op::Exec, true, changes);
}

#[test]
fn what_a_process_does_not_see_is_not_in_the_key() {
    let changes: &[Change<Exec>] = &[
        ("extra host address", |e| {
            e.extra_hosts[0].1 = "10.0.0.2".to_owned();
        }),
        ("proxy", |e| {
            e.proxy_env.insert("HTTP_PROXY".to_owned(), "p".to_owned());
        }),
        ("memory", |e| e.resources.memory_bytes = Some(1)),
        ("processors", |e| e.resources.cpuset_cpus = "0".to_owned()),
        ("cgroup parent", |e| e.cgroup_parent = "ci".to_owned()),
        (
            "cache sharing",
            |e| with_kind!(e, 2, MountKind::Cache { sharing, .. } => *sharing = CacheSharing::Locked),
        ),
    ];
    assert_changes(&full_exec(), Op::Exec, false, changes);
}

#[test]
fn what_a_copy_makes_is_in_the_key() {
    let changes: &[Change<Copy>] = &[
        ("base name", |c| c.source = "app/lib".to_owned()),
        ("destination", |c| c.dest = "/app".to_owned()),
        ("no owner", |c| c.owner = None),
        ("owner", |c| c.owner.as_mut().unwrap().user = None),
        ("owner kind", |c| {
            c.owner.as_mut().unwrap().group = Some(Principal::Name("7".to_owned()));
        }),
        ("mode", |c| c.mode = Some(ModeSpec::Octal(0o600))),
        ("mode kind", |c| {
            c.mode = Some(ModeSpec::Symbolic("0640".to_owned()));
        }),
        ("follow link", |c| c.follow_link = true),
        ("contents only", |c| c.directory_contents_only = true),
        ("unpack", |c| c.unpack = true),
        ("wildcard", |c| c.wildcard = true),
        ("allow empty", |c| c.allow_empty_wildcard = true),
        ("create parents", |c| c.create_dest_path = false),
        ("replace", |c| c.always_replace = true),
        ("include", |c| c.include.clear()),
        ("exclude", |c| c.exclude.push("y".to_owned())),
        ("include for exclude", |c| {
            std::mem::swap(&mut c.include, &mut c.exclude);
        }),
        ("required", |c| c.required.push("z".to_owned())),
        ("time", |c| c.timestamp = None),
        ("from", |c| c.from = FileInput::Scratch),
    ];
    assert_changes(&full_copy(), copy_vertex, true, changes);
}

#[test]
fn other_file_changes_are_in_the_key() {
    let Op::File(sample) = files().op else {
        unreachable!()
    };
    macro_rules! action {
        ($file:expr, $index:expr, $kind:ident) => {
            match &mut $file.actions[$index].kind {
                FileActionKind::$kind(action) => action,
                other => panic!("{other:?}"),
            }
        };
    }
    let changes: &[Change<FileOp>] = &[
        ("mkdir path", |f| action!(f, 0, Mkdir).path.push('x')),
        ("mkdir mode", |f| action!(f, 0, Mkdir).mode = 0o700),
        ("mkdir parents", |f| action!(f, 0, Mkdir).parents = false),
        ("mkdir time", |f| action!(f, 0, Mkdir).timestamp = Some(0)),
        ("mkfile path", |f| action!(f, 1, Mkfile).path.push('x')),
        ("mkfile mode", |f| action!(f, 1, Mkfile).mode = 0o600),
        ("mkfile content", |f| action!(f, 1, Mkfile).content.push(0)),
        ("mkfile time", |f| action!(f, 1, Mkfile).timestamp = Some(0)),
        ("remove path", |f| action!(f, 2, Remove).path.push('x')),
        ("remove missing", |f| {
            action!(f, 2, Remove).allow_missing = false;
        }),
        ("remove wildcard", |f| action!(f, 2, Remove).wildcard = true),
        ("action input", |f| {
            f.actions[2].input = FileInput::Action(1);
        }),
        ("action order", |f| f.actions.swap(1, 2)),
        ("action gone", |f| drop(f.actions.pop())),
        ("owner", |f| {
            action!(f, 0, Mkdir).owner = Some(Owner {
                user: Some(Principal::Id(1)),
                group: None,
            });
        }),
    ];
    assert_changes(&sample, Op::File, true, changes);
}

#[test]
fn the_folder_of_a_source_is_in_the_definition_alone() {
    let before = vertex(copy_vertex(copy_op("a/file", "/x")));
    let after = vertex(copy_vertex(copy_op("b/file", "/x")));
    assert_eq!(content_of(&before), content_of(&after));
    assert_ne!(definition_of(&before), definition_of(&after));
    let bind = |selector: &str| {
        let mut exec = exec(&["make"]);
        exec.mounts.push(bind_mount(1, "/src", selector));
        vertex(Op::Exec(exec))
    };
    assert_eq!(content_of(&bind("a")), content_of(&bind("b")));
    assert_ne!(definition_of(&bind("a")), definition_of(&bind("b")));
}

/// The identity of a whole tree does not say which part of it is taken.
#[test]
fn the_path_within_an_input_that_counts_whole_is_in_both_keys() {
    let bind = |selector: &str| {
        let mut exec = exec(&["make"]);
        exec.mounts.push(bind_mount(0, "/src", selector));
        vertex(Op::Exec(exec))
    };
    assert_ne!(content_of(&bind("a")), content_of(&bind("b")));
    assert_ne!(definition_of(&bind("a")), definition_of(&bind("b")));
    let copy = |source: &str| {
        let mut copy = copy_op(source, "/x");
        copy.from = FileInput::Vertex(0);
        vertex(copy_vertex(copy))
    };
    assert_eq!(copy("a/f").selection(0), Selection::Identity);
    assert_ne!(content_of(&copy("a/f")), content_of(&copy("b/f")));
}

#[test]
fn every_input_is_in_the_key() {
    let step = step_fields(&vertex(Op::Merge), &[]);
    let key = |digests: &[u8]| {
        let input = |n: &u8| (Selection::Identity, ContentDigest([*n; 32]));
        content_key(&step, &digests.iter().map(input).collect::<Vec<_>>()).0
    };
    assert_ne!(key(&[1, 2]), key(&[2, 1]));
    assert_ne!(key(&[1, 2]), key(&[1]));
    let content = (Selection::Content(vec![]), ContentDigest([1; 32]));
    assert_ne!(content_key(&step, &[content]).0, key(&[1]));
    let output = |output: u32| {
        let key = CacheKey([1; 32]);
        let vertex = vertex(Op::Merge);
        definition_key(&step, &vertex, &[InputDefinition::Step { key, output }])
    };
    assert_ne!(output(0), output(1));
}

#[test]
fn names_stages_and_lines_are_in_no_key() {
    let plain = vertex(Op::Merge);
    let mut decorated = plain.clone();
    decorated.meta.name = "[build 2/5] MERGE".to_owned();
    decorated.meta.stage = Some("build".to_owned());
    decorated.meta.lines = Some((3, 4));
    decorated.meta.ignore_cache = true;
    assert_eq!(content_of(&plain), content_of(&decorated));
    assert_eq!(definition_of(&plain), definition_of(&decorated));
}

#[test]
fn settings_of_the_executor_are_in_the_key() {
    let vertex = vertex(Op::Merge);
    let key = |value: &str| {
        let extras = [("platform".to_owned(), value.to_owned())];
        content_key(&step_fields(&vertex, &extras), &[]).0
    };
    assert_ne!(key("linux/amd64"), key("linux/arm64"));
    assert_ne!(key(""), content_key(&step_fields(&vertex, &[]), &[]).0);
}
