//! Stopping the server.

use std::time::Duration;

use longshore_oci::Digest;
use longshore_registry_server::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::TestRegistry;

async fn registry(shutdown_grace: Duration) -> TestRegistry {
    let options = Options {
        shutdown_grace,
        ..Options::open_to_all()
    };
    TestRegistry::start_with(tempfile::tempdir().unwrap(), options).await
}

/// A connection that has sent the first half of a chunk of ten bytes.
async fn half_sent(registry: &TestRegistry, location: &str) -> TcpStream {
    let mut stream = TcpStream::connect(registry.0).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n01234");
    stream.write_all(head.as_bytes()).await.unwrap();
    while registry.get(location).await.expect(204).header("range") != "0-4" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stream
}

#[tokio::test]
async fn open_requests_are_finished_and_idle_connections_closed() {
    let registry = registry(Duration::from_secs(30)).await;
    let location = registry.start("a").await;
    let mut idle = TcpStream::connect(registry.0).await.unwrap();
    let mut busy = half_sent(&registry, &location).await;
    let stopping = tokio::spawn(registry.stop());
    let mut nothing = Vec::new();
    idle.read_to_end(&mut nothing).await.unwrap();
    assert!(nothing.is_empty());
    busy.write_all(b"56789").await.unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert!(answer.contains("range: 0-9"), "{answer}");
    stopping.await.unwrap();
}

#[tokio::test]
async fn what_takes_longer_than_the_grace_period_is_cut_off_and_can_be_resumed() {
    let registry = registry(Duration::from_millis(200)).await;
    let location = registry.start("a").await;
    let mut busy = half_sent(&registry, &location).await;
    // It would never end if it waited for the other half of the chunk.
    let dir = registry.stop().await;
    let mut answer = Vec::new();
    // Closed or reset: in any case no answer.
    drop(busy.read_to_end(&mut answer).await);
    assert!(answer.is_empty());
    let registry = TestRegistry::start_with(dir, Options::open_to_all()).await;
    let status = registry.get(&location).await.expect(204);
    assert_eq!(status.header("range"), "0-4");
    registry.patch(&location, "5-9", b"56789").await.expect(202);
    let digest = Digest::sha256_of(b"0123456789");
    registry.finish(&location, &digest, b"").await.expect(201);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let options = Options {
        connections_max: 1,
        ..Options::open_to_all()
    };
    let registry = TestRegistry::start_with(tempfile::tempdir().unwrap(), options).await;
    let mut first = TcpStream::connect(registry.0).await.unwrap();
    ask(&mut first).await;
    let mut second = TcpStream::connect(registry.0).await.unwrap();
    second.write_all(REQUEST).await.unwrap();
    // Asked later, and answered, while the second is still to be accepted.
    ask(&mut first).await;
    let mut nothing = [0; 1];
    let early = second.try_read(&mut nothing).unwrap_err();
    assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
    drop(first);
    answer(&mut second).await;
}

const REQUEST: &[u8] = b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n";

async fn ask(stream: &mut TcpStream) {
    stream.write_all(REQUEST).await.unwrap();
    answer(stream).await;
}

/// Reads the beginning of an answer and what has come with it.
async fn answer(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..count].starts_with(b"HTTP/1.1 200"));
}
