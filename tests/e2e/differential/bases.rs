//! The base images of the cases, in one Docker archive that both builders load.
//!
//! All have the same single layer, a busybox; what differs is the configuration:
//! `base:1` has what images usually have, `bare:1` nothing, `rich:1` every field there is,
//! `triggers:1` has `ONBUILD` triggers.

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

use longshore_oci::Digest;
use serde_json::{Value, json};

use crate::harness::{Sandbox, busybox_tar};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Writes the archive, where there is a busybox.
pub(crate) fn write(sandbox: &Sandbox) -> Option<PathBuf> {
    let layer = fs::read(busybox_tar(&sandbox.path("layer.tar"))?).unwrap();
    let diff_id = Digest::sha256_of(&layer);
    let path = sandbox.path("bases.tar");
    let mut archive = tar::Builder::new(fs::File::create(&path).unwrap());
    let layer_name = format!("{}/layer.tar", diff_id.hex());
    append(&mut archive, &layer_name, &layer);
    let mut manifest = Vec::new();
    for (name, config) in configurations() {
        let text = image(&config, &diff_id).to_string();
        let config_name = format!("{}.json", Digest::sha256_of(text.as_bytes()).hex());
        append(&mut archive, &config_name, text.as_bytes());
        manifest.push(json!({"Config": config_name, "RepoTags": [name], "Layers": [&layer_name]}));
    }
    append(
        &mut archive,
        "manifest.json",
        json!(manifest).to_string().as_bytes(),
    );
    archive.finish().unwrap();
    Some(path)
}

fn configurations() -> [(&'static str, Value); 4] {
    let rich = json!({
        "Env": [PATH, "rich=yes", "list=a:b"],
        "User": "www",
        "WorkingDir": "/srv/rich",
        "Entrypoint": ["/bin/entry"],
        "Cmd": ["one", "two"],
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}},
        "Labels": {"from": "rich", "version": "1"},
        "StopSignal": "SIGQUIT",
        "Shell": ["/bin/busybox", "sh", "-c"],
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30_000_000_000_u64, "Retries": 3},
    });
    let triggers = json!({
        "Env": [PATH],
        "OnBuild": [
            "ENV from_trigger=yes",
            "COPY file /from/trigger",
            "RUN echo $from_trigger > /fired",
        ],
    });
    [
        (
            "base:1",
            json!({"Env": [PATH], "Cmd": ["sh"], "Labels": {"from": "base"}}),
        ),
        ("bare:1", json!({})),
        ("rich:1", rich),
        ("triggers:1", triggers),
    ]
}

fn image(config: &Value, diff_id: &Digest) -> Value {
    json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
        "history": [
            {"created": "2020-01-01T00:00:00Z", "created_by": "ADD busybox /"},
            {"created": "2020-01-01T00:00:00Z", "created_by": "CMD [\"sh\"]", "comment": "by hand", "empty_layer": true},
        ],
    })
}

fn append(archive: &mut tar::Builder<fs::File>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    archive
        .append_data(&mut header, name, Cursor::new(content))
        .unwrap();
}
