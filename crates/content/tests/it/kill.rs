//! Processes that are killed at any moment: what they acknowledged is there, and nothing else
//! of them stays.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use longshore_content::{ContentStore as _, NoDirectories, Soundness, StateRoot, UploadId};
use longshore_oci::{Algorithm, Descriptor, Digest};

const ROUNDS: u64 = 12;
const ROOT: &str = "LONGSHORE_KILL_TEST_ROOT";

fn spawn(test: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            test,
            "--exact",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROOT, root)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets the child run for a while, kills it, and returns what it had acknowledged.
fn run_and_kill(test: &str, root: &Path, lifetime: Duration) -> Vec<String> {
    let mut child = spawn(test, root);
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        let acknowledged = lines.filter_map(|line| Some(line.split_once("ack ")?.1.to_owned()));
        acknowledged.collect::<Vec<_>>()
    });
    std::thread::sleep(lifetime);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

fn content(number: u64) -> Vec<u8> {
    let size = usize::try_from(number * 7919 % 200_000).unwrap();
    let mut content = number.to_le_bytes().repeat(size / 8 + 1);
    content.truncate(size.max(8));
    content
}

#[test]
#[ignore = "runs as the child of the test below"]
fn child_commits_until_it_is_killed() {
    let root = StateRoot::open(std::env::var(ROOT).unwrap()).unwrap();
    let start = u64::from(std::process::id()) << 20;
    for number in start.. {
        let mut writer = root.blobs().writer().unwrap();
        writer.write_all(&content(number)).unwrap();
        let (digest, size) = writer.commit(None).unwrap();
        let descriptor = Descriptor::new("application/octet-stream", digest, size);
        root.images()
            .set(&format!("kill.test/{number}:latest"), &descriptor)
            .unwrap();
        println!("\nack {digest}");
    }
}

#[test]
fn acknowledged_commits_survive_kill_9_and_nothing_else_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let lifetime = Duration::from_millis(40 + round * 23);
        let test = "kill::child_commits_until_it_is_killed";
        let digests = run_and_kill(test, dir.path(), lifetime);
        acknowledged += digests.len();
        let root = StateRoot::open(dir.path()).unwrap();
        for digest in digests {
            let digest: Digest = digest.parse().unwrap();
            assert_eq!(
                root.blobs().verify(&digest).unwrap(),
                Some(Soundness::Sound)
            );
            assert_eq!(root.images().by_digest(&digest).unwrap().len(), 1);
        }
        let tmp = std::fs::read_dir(dir.path().join("tmp")).unwrap().count();
        assert_eq!(tmp, 2, "only this process's lock and directory");
        assert!(root.leases().list().unwrap().is_empty());
        let options = longshore_content::GcOptions::blobs_only(Duration::ZERO);
        root.collect_garbage(&Default::default(), &options, &NoDirectories)
            .unwrap();
        assert_files_match_rows(&root);
    }
    assert!(
        acknowledged > 20,
        "only {acknowledged} commits in all rounds"
    );
}

/// Every file among the blobs has a row, and its content.
fn assert_files_match_rows(root: &StateRoot) {
    for shard in std::fs::read_dir(root.path().join("blobs/sha256")).unwrap() {
        for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let digest: Digest = format!("sha256:{name}").parse().unwrap();
            assert_eq!(
                root.blobs().verify(&digest).unwrap(),
                Some(Soundness::Sound)
            );
        }
    }
}

#[test]
#[ignore = "runs as the child of the test below"]
fn child_uploads_until_it_is_killed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let root = StateRoot::open(std::env::var(ROOT).unwrap()).unwrap();
    let id: UploadId = "the-upload".parse().unwrap();
    runtime.block_on(async {
        let mut ingest = root.blobs().ingest(&id, Algorithm::Sha256).await.unwrap();
        loop {
            let at = ingest.offset();
            ingest.write(piece(at)).await.unwrap();
            ingest.flush().await.unwrap();
            println!("\nack {}", ingest.offset());
        }
    });
}

/// The piece of the endless upload at an offset: 10 000 bytes that say where they are.
fn piece(at: u64) -> Bytes {
    let size = 10_000 - usize::try_from(at % 10_000).unwrap();
    (at..)
        .take(size)
        .map(|at| at.to_le_bytes()[usize::from(at % 2 == 0)])
        .collect()
}

#[test]
fn an_upload_resumes_where_kill_9_stopped_it() {
    let dir = tempfile::tempdir().unwrap();
    let id: UploadId = "the-upload".parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut got_somewhere = false;
    for round in 0..40 {
        if round >= 4 && got_somewhere {
            break;
        }
        let lifetime = Duration::from_millis(60 + round * 31);
        let test = "kill::child_uploads_until_it_is_killed";
        let flushed = run_and_kill(test, dir.path(), lifetime);
        let Some(flushed) = flushed.last() else {
            continue;
        };
        got_somewhere = true;
        let root = StateRoot::open(dir.path()).unwrap();
        runtime.block_on(async {
            let opened = root.blobs().ingest(&id, Algorithm::Sha256).await;
            let offset = opened.unwrap().offset();
            assert!(offset >= flushed.parse::<u64>().unwrap());
        });
    }
    let root = StateRoot::open(dir.path()).unwrap();
    runtime.block_on(async {
        let mut ingest = root.blobs().ingest(&id, Algorithm::Sha256).await.unwrap();
        let size = ingest.offset();
        assert!(size > 0, "no child got anywhere");
        ingest.write(piece(size)).await.unwrap();
        let size = ingest.offset();
        let whole: Vec<u8> = (0..size)
            .map(|at| at.to_le_bytes()[usize::from(at % 2 == 0)])
            .collect();
        ingest
            .commit(Some(&Digest::sha256_of(&whole)))
            .await
            .unwrap();
    });
}
