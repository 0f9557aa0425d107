//! The seam for authorisation.

use std::sync::Arc;

use async_trait::async_trait;
use longshore_oci::Digest;
use longshore_registry_server::{Access, AccessRequest, Action, Decision, Options, Scope};

use crate::harness::TestRegistry;

/// `open` is everyone's to pull; a known caller may do everything but delete.
#[derive(Debug)]
struct Guard;

#[async_trait]
impl Access for Guard {
    async fn decide(&self, request: &AccessRequest<'_>) -> Decision {
        let known = request.authorization == Some("Basic a25vd24=");
        let open = matches!(request.scope, Scope::Repository(name) if name.as_str() == "open");
        let secret = matches!(request.scope, Scope::Repository(name) if name.as_str() == "secret");
        match request.action {
            Action::Pull if open => Decision::Allow,
            _ if !known => Decision::Challenge("Basic realm=\"test\"".to_owned()),
            Action::Delete => Decision::Deny,
            Action::Pull if secret => Decision::Deny,
            Action::Pull | Action::Push => Decision::Allow,
        }
    }
}

async fn guarded() -> TestRegistry {
    let options = Options {
        access: Arc::new(Guard),
        ..Options::open_to_all()
    };
    TestRegistry::start_with(tempfile::tempdir().unwrap(), options).await
}

const KNOWN: [(&str, &str); 1] = [("authorization", "Basic a25vd24=")];

async fn push(registry: &TestRegistry, repository: &str, content: &'static [u8]) -> Digest {
    let digest = Digest::sha256_of(content);
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    registry
        .send("POST", &path, &KNOWN, content)
        .await
        .expect(201);
    digest
}

#[tokio::test]
async fn strangers_are_challenged_and_callers_may_be_denied() {
    let registry = guarded().await;
    let reply = registry.get("/v2/").await.refused(401, "UNAUTHORIZED");
    assert_eq!(reply.header("www-authenticate"), "Basic realm=\"test\"");
    registry
        .get("/v2/A/tags/list")
        .await
        .refused(401, "UNAUTHORIZED");
    registry
        .get("/v2/_catalog")
        .await
        .refused(401, "UNAUTHORIZED");
    registry.send("GET", "/v2/", &KNOWN, "").await.expect(200);
    let digest = push(&registry, "open", b"content").await;
    let blob = format!("/v2/open/blobs/{digest}");
    registry.get(&blob).await.expect(200);
    registry
        .post("/v2/open/blobs/uploads/")
        .await
        .refused(401, "UNAUTHORIZED");
    registry
        .send("DELETE", &blob, &KNOWN, "")
        .await
        .refused(403, "DENIED");
    registry.get(&blob).await.expect(200);
}

#[tokio::test]
async fn a_mount_needs_the_right_to_read_the_source() {
    let registry = guarded().await;
    let digest = push(&registry, "secret", b"secret content").await;
    for from in ["", "&from=secret"] {
        let mount = format!("/v2/mine/blobs/uploads/?mount={digest}{from}");
        registry.send("POST", &mount, &KNOWN, "").await.expect(202);
        let blob = format!("/v2/mine/blobs/{digest}");
        registry.send("GET", &blob, &KNOWN, "").await.expect(404);
    }
    push(&registry, "open", b"secret content").await;
    let mount = format!("/v2/mine/blobs/uploads/?mount={digest}");
    registry.send("POST", &mount, &KNOWN, "").await.expect(201);
}
