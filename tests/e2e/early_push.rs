//! What a build sends to a registry, and in which order: layers while later steps still run, the
//! manifest last, nothing twice.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::harness::{Outcome, Sandbox, Server, http_get};

/// How long a step waits for what should happen beside it, before the test has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// What happened, in order: requests to a registry as `METHOD /path`, and questions of steps.
#[derive(Clone, Default)]
struct Events(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Events {
    fn add(&self, event: String) {
        self.0.0.lock().unwrap().push(event);
        self.0.1.notify_all();
    }

    /// All so far, which is then forgotten.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.0.lock().unwrap())
    }

    /// Waits for an event; whether it came.
    fn wait_for(&self, is_it: impl Fn(&str) -> bool) -> bool {
        let seen = |events: &mut Vec<String>| !events.iter().any(|event| is_it(event));
        let events = self.0.0.lock().unwrap();
        let (_events, timeout) = self.0.1.wait_timeout_while(events, PATIENCE, seen).unwrap();
        !timeout.timed_out()
    }
}

fn is_blob_asked(event: &str) -> bool {
    event.starts_with("HEAD ") && event.contains("/blobs/")
}

fn is_blob_sent(event: &str) -> bool {
    event.starts_with("PUT ") && event.contains("digest=sha256")
}

/// Passes connections on to a registry and notes the requests. It ends with the test program.
fn proxy(to: &str, events: &Events) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (to, events) = (to.to_owned(), events.clone());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
            let (client_too, server_too) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            let events = events.clone();
            std::thread::spawn(move || pass(client, server, Some(&events)));
            std::thread::spawn(move || pass(server_too, client_too, None));
        }
    });
    address
}

fn pass(mut from: TcpStream, mut to: TcpStream, events: Option<&Events>) {
    let mut buffer = vec![0; 64 << 10];
    let mut unread = Vec::new();
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if let Some(events) = events {
            unread.extend_from_slice(&buffer[..count]);
            note_requests(&mut unread, events);
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Notes the request lines in what a client sent; what may be the start of one is left.
fn note_requests(unread: &mut Vec<u8>, events: &Events) {
    const END: &[u8] = b" HTTP/1.1\r\n";
    while let Some(end) = unread.windows(END.len()).position(|bytes| bytes == END) {
        let before = String::from_utf8_lossy(&unread[..end]).into_owned();
        let methods = [
            "HEAD /v2",
            "GET /v2",
            "POST /v2",
            "PUT /v2",
            "PATCH /v2",
            "DELETE /v2",
        ];
        let start = methods
            .iter()
            .filter_map(|method| before.rfind(method))
            .max();
        if let Some(start) = start {
            events.add(before[start..].to_owned());
        }
        unread.drain(..end + END.len());
    }
    let keep = unread.len().min(4096);
    unread.drain(..unread.len() - keep);
}

/// Answers each step that asks, once a blob was sent; `GET` of anything.
fn gate(events: &Events) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let events = events.clone();
    std::thread::spawn(move || {
        for step in listener.incoming() {
            let mut step = step.unwrap();
            let _ = step.read(&mut [0; 4096]);
            let status = match events.wait_for(is_blob_sent) {
                true => "200 OK",
                false => "504 Nothing was sent",
            };
            events.add("step".to_owned());
            let _ = step
                .write_all(format!("HTTP/1.0 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        }
    });
    address
}

/// A build whose second step ends only when the first one's layer was sent, then runs `then`.
fn context(sandbox: &Sandbox, gate: &str, then: &str) -> PathBuf {
    let dockerfile = format!(
        "FROM busybox\nCOPY file /file\n\
         RUN --network=host wget -q -O /answer http://{gate}/ && {then}\n"
    );
    sandbox.fresh_context(&[("Dockerfile", &dockerfile), ("file", "text\n")])
}

fn build(sandbox: &Sandbox, context: &std::path::Path, flags: &[&str]) -> Outcome {
    let base = ["build", "--allow", "network.host"];
    let args = base.iter().chain(flags).copied();
    sandbox.run(args.chain([context.to_str().unwrap()]))
}

fn count(events: &[String], is_it: impl Fn(&str) -> bool) -> usize {
    events.iter().filter(|event| is_it(event)).count()
}

fn check_order(server: &Server) {
    let Some(sandbox) = Sandbox::with_busybox() else {
        return;
    };
    let events = Events::default();
    let (registry, gate) = (proxy(&server.address, &events), gate(&events));
    let (one, two) = (format!("{registry}/app:1"), format!("{registry}/app:2"));
    let other = format!("{registry}/other/app:1");

    let failing = context(&sandbox, &gate, "false");
    build(&sandbox, &failing, &["-t", &one, "--push"]).failure(1, &["false"]);
    let seen = events.take();
    assert!(count(&seen, is_blob_sent) > 0, "{seen:?}");
    assert_eq!(
        count(&seen, |event| event.contains("/manifests/")),
        0,
        "{seen:?}"
    );
    assert_ne!(
        http_get(&server.address, "/v2/app/manifests/1").unwrap().0,
        200
    );

    let context = context(&sandbox, &gate, "echo done > /done");
    std::fs::write(context.join("file"), "other text\n").unwrap();
    build(&sandbox, &context, &["-t", &one, "-t", &two, "--push"]).success();
    let seen = events.take();
    let at = |part: &str| seen.iter().position(|event| event.contains(part));
    let (step, manifest) = (at("step").unwrap(), at("PUT /v2/app/manifests/").unwrap());
    let sent_before = seen[..step].iter().any(|event| is_blob_sent(event));
    assert!(sent_before && step < manifest, "{seen:?}");
    let last_blob = seen.iter().rposition(|event| event.contains("/blobs/"));
    assert!(last_blob.unwrap() < manifest, "{seen:?}");
    // Base, file, the step's layer, configuration: each once, for two tags.
    assert_eq!(count(&seen, is_blob_asked), 4, "{seen:?}");
    assert!(count(&seen, is_blob_sent) <= 4, "{seen:?}");

    // All is there: one question a blob, and nothing is sent.
    build(&sandbox, &context, &["-t", &one, "--push"]).success();
    let seen = events.take();
    assert_eq!(count(&seen, is_blob_asked), 4, "{seen:?}");
    assert_eq!(
        count(&seen, |event| event.starts_with("POST ")),
        0,
        "{seen:?}"
    );

    // Another repository of the registry takes the blobs over.
    build(&sandbox, &context, &["-t", &other, "--push"]).success();
    let seen = events.take();
    let is_mounted = |event: &str| event.contains("/other/app/") && event.contains("mount=sha256");
    assert_eq!(count(&seen, is_mounted), 4, "{seen:?}");
    assert_eq!(count(&seen, is_blob_sent), 0, "{seen:?}");
    for name in [&one, &two, &other] {
        Sandbox::new().ok(["pull", name]);
    }
}

#[test]
fn layers_are_sent_to_our_registry_while_steps_still_run() {
    check_order(&Server::start());
}

#[test]
fn layers_are_sent_to_debians_registry_while_steps_still_run() {
    match Server::start_docker_registry() {
        Some(server) => check_order(&server),
        None => crate::skip::skip("docker-registry is not installed"),
    }
}
