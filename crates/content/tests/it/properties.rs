//! Any sequence of operations leaves a local store in the state that a map would have.

use std::collections::HashMap;
use std::io::Write as _;

use longshore_content::{ByteRange, StateRoot, UploadId};
use longshore_oci::{Algorithm, Digest};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    PutCached(u8),
    Write(u8, Vec<usize>),
    WriteWrongly(u8),
    Drop(u8),
    Remove(u8),
    Damage(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..5_u8;
    prop_oneof![
        name.clone().prop_map(Step::Put),
        name.clone().prop_map(Step::PutCached),
        (name.clone(), prop::collection::vec(0..5000_usize, 0..4))
            .prop_map(|(name, cuts)| Step::Write(name, cuts)),
        name.clone().prop_map(Step::WriteWrongly),
        name.clone().prop_map(Step::Drop),
        name.clone().prop_map(Step::Remove),
        name.prop_map(Step::Damage),
        Just(Step::Reopen),
    ]
}

fn content(name: u8) -> Vec<u8> {
    vec![name; usize::from(name) * 1000]
}

fn write(root: &StateRoot, content: &[u8], cuts: &[usize], expected: Option<&Digest>) -> bool {
    let mut writer = root.blobs().writer().unwrap();
    let mut rest = content;
    for cut in cuts {
        let (head, tail) = rest.split_at((*cut).min(rest.len()));
        writer.write_all(head).unwrap();
        rest = tail;
    }
    writer.write_all(rest).unwrap();
    writer.commit(expected).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_local_store_is_a_map(steps in prop::collection::vec(step(), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let mut root = StateRoot::open(dir.path()).unwrap();
        let mut model: HashMap<Digest, Vec<u8>> = HashMap::new();
        for step in steps {
            match step {
                Step::Put(name) => {
                    model.insert(root.blobs().put(&content(name)).unwrap(), content(name));
                }
                Step::PutCached(name) => {
                    model.insert(root.cache_blobs().put(&content(name)).unwrap(), content(name));
                }
                Step::Write(name, cuts) => {
                    let digest = Digest::sha256_of(&content(name));
                    prop_assert!(write(&root, &content(name), &cuts, Some(&digest)));
                    model.insert(digest, content(name));
                }
                Step::WriteWrongly(name) => {
                    let wrong = Digest::of(Algorithm::Sha512, b"wrong");
                    prop_assert!(!write(&root, &content(name), &[], Some(&wrong)));
                }
                Step::Drop(name) => {
                    let mut writer = root.blobs().writer().unwrap();
                    writer.write_all(&content(name)).unwrap();
                }
                Step::Remove(name) => {
                    let digest = Digest::sha256_of(&content(name));
                    let known = model.remove(&digest).is_some();
                    prop_assert_eq!(root.blobs().remove(&digest).unwrap(), known);
                }
                Step::Damage(name) => {
                    let digest = Digest::sha256_of(&content(name));
                    if model.remove(&digest).is_some() {
                        std::fs::write(root.blobs().blob_path(&digest), b"damaged").unwrap();
                    }
                }
                Step::Reopen => root = StateRoot::open(dir.path()).unwrap(),
            }
            for name in 0..5 {
                let digest = Digest::sha256_of(&content(name));
                let held = root.blobs().read_all(&digest, 1 << 20).unwrap();
                prop_assert_eq!(held.as_ref(), model.get(&digest));
            }
        }
    }

    #[test]
    fn a_range_never_leaves_the_content(start: u64, end: Option<u64>, size: u64) {
        let (first, last) = ByteRange { start, end }.within(size);
        prop_assert!(first <= last && last <= size);
        if start < size && end.is_none_or(|end| end > start) {
            prop_assert_eq!(first, start);
            prop_assert_eq!(last, end.unwrap_or(size).min(size));
        } else {
            prop_assert_eq!(first, last);
        }
    }

    #[test]
    fn an_upload_id_is_a_plain_file_name(text in "\\PC{0,80}") {
        if let Ok(id) = text.parse::<UploadId>() {
            prop_assert_eq!(id.as_str(), &text);
            prop_assert!(!text.is_empty() && text.len() <= 64);
            prop_assert!(!text.contains(['/', '.', '\0']));
        }
    }
}
