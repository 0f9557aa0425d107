//! A server that is killed at any moment.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use longshore_content::{Soundness, StateRoot};
use longshore_oci::Digest;
use longshore_registry_server::{Options, RegistryServer};

use crate::harness::Client;

const ROOT: &str = "LONGSHORE_KILL_TEST_ROOT";

#[test]
#[ignore = "runs as the child of the tests below"]
fn child_serves_until_it_is_killed() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let root = StateRoot::open(std::env::var(ROOT).unwrap()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("\nserving {}", listener.local_addr().unwrap());
        let server = RegistryServer::new(&root, Options::open_to_all());
        server.serve(listener, std::future::pending()).await;
    });
}

struct Server {
    child: Child,
    client: Client,
}

impl Server {
    fn spawn(root: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "kill::child_serves_until_it_is_killed",
                "--exact",
                "--ignored",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env(ROOT, root)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = output.lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.strip_prefix("serving ")?.to_owned()));
        let client = Client(address.unwrap().parse().unwrap());
        Self { child, client }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn an_upload_goes_on_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..200_u8).collect();
    let server = Server::spawn(dir.path());
    let location = server.client.start("a").await;
    server
        .client
        .patch(&location, "0-99", &content[..100])
        .await
        .expect(202);
    server.kill();
    let server = Server::spawn(dir.path());
    let status = server.client.get(&location).await.expect(204);
    assert_eq!(status.header("range"), "0-99");
    server
        .client
        .patch(&location, "100-199", &content[100..])
        .await
        .expect(202);
    let digest = Digest::sha256_of(&content);
    server
        .client
        .finish(&location, &digest, b"")
        .await
        .expect(201);
    server.kill();
    let server = Server::spawn(dir.path());
    let blob = server
        .client
        .get(&format!("/v2/a/blobs/{digest}"))
        .await
        .expect(200);
    assert_eq!(blob.body, content);
    server.kill();
}

/// Pushes images until the server is killed; the names of those that were acknowledged.
async fn push_until_killed(server: Server, round: u64) -> Vec<String> {
    let client = server.client;
    let pushing = tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for number in 0.. {
            let name = format!("image {round} {number}");
            let pushed = tokio::spawn(async move {
                let tag = format!("t{round}-{number}");
                client
                    .push_image("app", &tag, &name, &serde_json::json!({}))
                    .await;
                tag
            });
            // A push that the kill broke off panics in its own task.
            let Ok(tag) = pushed.await else {
                break;
            };
            acknowledged.push(tag);
        }
        acknowledged
    });
    tokio::time::sleep(Duration::from_millis(60 + round * 37)).await;
    server.kill();
    pushing.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_pushes_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut total = 0;
    for round in 0..6 {
        let acknowledged = push_until_killed(Server::spawn(dir.path()), round).await;
        let server = Server::spawn(dir.path());
        for tag in &acknowledged {
            let path = format!("/v2/app/manifests/{tag}");
            let manifest = server.client.get(&path).await.expect(200).json();
            for needed in [&manifest["config"], &manifest["layers"][0]] {
                let digest: Digest = needed["digest"].as_str().unwrap().parse().unwrap();
                let path = format!("/v2/app/blobs/{digest}");
                let blob = server.client.get(&path).await.expect(200);
                assert_eq!(Digest::sha256_of(&blob.body), digest);
            }
        }
        total += acknowledged.len();
        server.kill();
    }
    assert!(total > 10, "only {total} pushes were acknowledged");
    let root = StateRoot::open(dir.path()).unwrap();
    for shard in std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap() {
        for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let digest: Digest = format!("sha256:{name}").parse().unwrap();
            let verdict = root.blobs().verify(&digest).unwrap();
            assert_ne!(verdict, Some(Soundness::Removed));
        }
    }
}
