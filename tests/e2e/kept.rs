//! What a step and an output keep of files: attributes, capabilities, names; and how many layers.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use crate::harness::{Sandbox, is_root, write_file};
use crate::outputs::Layout;

/// `cap_net_raw+ep`, as the kernel keeps it (linux/capability.h, revision 2).
const CAPABILITY: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];
const ATTRIBUTES: [(&str, &[u8]); 2] =
    [("security.capability", &CAPABILITY), ("user.note", b"kept")];

/// The attributes of an entry in an archive, by name.
fn attributes_in(archive: impl Read, path: &str) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let mut found = entries
        .into_iter()
        .find(|entry| entry.path().unwrap() == Path::new(path));
    let entry = found.as_mut().unwrap();
    let mut attributes = BTreeMap::new();
    for extension in entry.pax_extensions().unwrap().into_iter().flatten() {
        let extension = extension.unwrap();
        let name = extension.key().unwrap().strip_prefix("SCHILY.xattr.");
        if let Some(name) = name {
            attributes.insert(name.to_owned(), extension.value_bytes().to_vec());
        }
    }
    attributes
}

fn expected() -> BTreeMap<String, Vec<u8>> {
    let each = ATTRIBUTES.iter();
    each.map(|(name, value)| ((*name).to_owned(), value.to_vec()))
        .collect()
}

#[test]
fn privileged_capabilities_and_attributes_pass_a_run_and_every_output() {
    let Some(sandbox) = Sandbox::with_busybox().filter(|_| is_root()) else {
        return;
    };
    let dockerfile = "FROM busybox\nCOPY capped /copied\nRUN chmod 711 /copied\n";
    let context = sandbox.context("app", &[("Dockerfile", dockerfile), ("capped", "x")]);
    for (name, value) in ATTRIBUTES {
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(context.join("capped"), name, value, flags).is_err() {
            crate::skip::skip("this file system has no attributes");
            return;
        }
    }
    let to = |kind: &str, name: &str| {
        let dest = sandbox.path(name);
        let output = format!("{kind},dest={}", dest.display());
        sandbox.ok(["build", "-o", &output, context.to_str().unwrap()]);
        dest
    };
    let tar = fs::File::open(to("type=tar", "out.tar")).unwrap();
    assert_eq!(attributes_in(tar, "copied"), expected());
    let layout = to("type=oci,tar=false,compression=uncompressed", "layout");
    let layout = Layout::open(&layout);
    for descriptor in layout.manifest().layers().iter().rev().take(2) {
        let layer = fs::File::open(layout.blob(descriptor)).unwrap();
        assert_eq!(attributes_in(layer, "copied"), expected());
    }
    let local = to("type=local", "local").join("copied");
    for (name, value) in ATTRIBUTES {
        let mut found = [0; 100];
        let length = rustix::fs::getxattr(&local, name, &mut found[..]).unwrap();
        assert_eq!(&found[..length], value, "{name}");
    }
}

#[test]
fn privileged_a_step_runs_on_more_layers_than_docker_has() {
    const LAYERS: usize = 140;
    let Some(sandbox) = Sandbox::with_busybox().filter(|_| is_root()) else {
        return;
    };
    let copies: String = (0..LAYERS)
        .map(|number| format!("COPY f /dir/{number}\n"))
        .collect();
    let dockerfile = format!(
        "FROM busybox\n{copies}RUN test $(ls /dir | wc -l) = {LAYERS} && rm /dir/7 && echo 1 > /dir/run\n\
         RUN test ! -e /dir/7 && cat /dir/139 /dir/run > /last\n"
    );
    let context = sandbox.context("app", &[("f", "f")]);
    write_file(&context.join("Dockerfile"), &dockerfile);
    let exported = sandbox.exported_from(&context, &[]);
    assert_eq!(exported.text("last"), "f1\n");
    assert_eq!(exported.below("dir").len(), LAYERS);
    let layers = {
        let dest = sandbox.path("layout");
        let output = format!("type=oci,tar=false,dest={}", dest.display());
        sandbox.ok(["build", "-o", &output, context.to_str().unwrap()]);
        Layout::open(&dest).layers().len()
    };
    assert_eq!(layers, 1 + LAYERS + 2);
}
