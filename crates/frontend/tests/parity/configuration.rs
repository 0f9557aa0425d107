//! Image configuration, history and operations.

use longshore_dockerfile::parse;
use longshore_frontend::{Lowered, lower};
use serde_json::{Value, json};

use crate::cases::{OneImage, assert_none, cases, now, options};
use crate::render::operations;

/// Where we differ on purpose: a case, the start of our error, and why.
pub(crate) const DIFFERENT: [(&str, &str, &str); 2] = [
    (
        "buildkit:frontend/dockerfile/dockerfile_rundevice_test.go#testDeviceRunEnv.1",
        "RUN --device=vendor1.com/device=foo is not supported",
        "there are no labs to go to",
    ),
    (
        "buildah:tests/bud/multiarch/Containerfile.reset-platform@target=foreign",
        "failed to parse platform linux/$FOREIGNARCH: invalid platform `linux/`",
        "says what a platform looks like, instead of a regular expression",
    ),
];

pub(crate) fn is_different_on_purpose(name: &str, ours: &str) -> bool {
    DIFFERENT
        .iter()
        .any(|(case, start, _)| *case == name && ours.starts_with(start))
}

#[test]
fn agrees_with_the_reference_implementation() {
    let Some(cases) = cases("dockerfile_config.json.gz") else {
        return;
    };
    let resolver = OneImage::new();
    let mut wrong = Vec::new();
    for case in &cases {
        let parsed = parse(case["dockerfile"].as_str().unwrap());
        let ours = now(lower(&parsed, &options(case), &resolver));
        wrong.extend(compare(case, ours.map_err(|error| error.to_string())));
    }
    assert!(cases.len() > 1500);
    assert_none(&wrong, cases.len());
}

fn compare(case: &Value, ours: Result<Lowered, String>) -> Vec<String> {
    let name = case["name"].as_str().unwrap();
    let error = case["error"]
        .as_str()
        .or_else(|| case["llb_error"].as_str());
    let mut wrong = Vec::new();
    match (ours, error) {
        (Err(ours), Some(theirs)) if same_error(&ours, theirs) => {}
        (Err(ours), Some(_)) if is_different_on_purpose(name, &ours) => {}
        (Err(ours), theirs) => wrong.push(format!("{name}: ours {ours}, theirs {theirs:?}")),
        (Ok(_), Some(theirs)) => wrong.push(format!("{name}: ours fine, theirs {theirs}")),
        (Ok(lowered), None) => {
            let mut image = serde_json::to_value(&lowered.platforms[0].config).unwrap();
            let history = image.get_mut("history").and_then(Value::as_array_mut);
            for entry in history.into_iter().flatten() {
                entry.as_object_mut().unwrap().remove("created");
            }
            let mut theirs = case["image"].clone();
            if theirs["rootfs"]["diff_ids"].is_null() {
                // Go's nil; the exporter fills it in.
                theirs["rootfs"]["diff_ids"] = json!([]);
            }
            difference(name, "image", &image, &theirs, &mut wrong);
            let ours = Value::Array(operations(&lowered));
            let (mut ours, mut theirs) = (ours, normal_operations(case));
            if uses_memory(case) {
                forget_paths(&mut ours);
                forget_paths(&mut theirs);
            }
            difference(name, "operations", &ours, &theirs, &mut wrong);
        }
    }
    wrong
}

/// Theirs is any of several faulty names, or of equally near words; rules come in any order.
pub(crate) fn same_error(ours: &str, theirs: &str) -> bool {
    let rules = |text: &str| {
        let list = text.strip_prefix("lint violation found for rules: ")?;
        let mut rules: Vec<String> = list.split(", ").map(str::to_owned).collect();
        rules.sort();
        Some(rules)
    };
    let plain = |text: &str| text.split(" (did you mean ").next().map(str::to_owned);
    let both_start = |with: &str| ours.starts_with(with) && theirs.starts_with(with);
    let both_suggest = ours.ends_with("?)") && theirs.ends_with("?)");
    ours == theirs
        || both_start("failed to parse stage name ")
        || (both_suggest && plain(ours) == plain(theirs))
        || (rules(ours).is_some() && rules(ours) == rules(theirs))
}

/// Their operations, but for what means the same: a mount of all is one without selector, and the
/// agent without a name is the default one.
fn normal_operations(case: &Value) -> Value {
    let mut ops = case["ops"].clone();
    for op in ops.as_array_mut().into_iter().flatten() {
        for mount in op["mounts"].as_array_mut().into_iter().flatten() {
            if mount["selector"] == "/" {
                mount.as_object_mut().unwrap().remove("selector");
            }
            if mount["ssh"]["id"] == "" {
                mount["ssh"]["id"] = json!("default");
            }
        }
        op.as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
    }
    ops
}

/// A `tmpfs` mount makes BuildKit transfer the whole context. Ours shows nothing of it.
fn uses_memory(case: &Value) -> bool {
    case["dockerfile"].as_str().unwrap().contains("type=tmpfs")
}

fn forget_paths(ops: &mut Value) {
    for op in ops.as_array_mut().into_iter().flatten() {
        if op["id"] == "local://context" {
            op.as_object_mut().unwrap().remove("attrs");
        }
    }
}

fn difference(name: &str, what: &str, ours: &Value, theirs: &Value, wrong: &mut Vec<String>) {
    if ours == theirs {
        return;
    }
    let lines = |value: &Value| -> Vec<String> {
        match value {
            Value::Array(items) => items.iter().map(Value::to_string).collect(),
            Value::Object(items) => items
                .iter()
                .map(|(key, value)| format!("{key}: {value}"))
                .collect(),
            other => vec![other.to_string()],
        }
    };
    let (ours, theirs) = (lines(ours), lines(theirs));
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        a.iter().filter(|line| !b.contains(line)).cloned().collect()
    };
    wrong.push(format!(
        "{name} {what}:\n  ours   {}\n  theirs {}",
        only(&ours, &theirs).join("\n         "),
        only(&theirs, &ours).join("\n         ")
    ));
}
