//! Mirrors: asked first, for pulls only, and never needed.

use bytes::Bytes;
use http::Method;
use longshore_oci::media_type;
use longshore_registry_client::{Error, MANIFEST_ACCEPT, RegistriesConfig};

use crate::fake::{Fake, Fault};
use crate::{client_with, noise};

const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

fn mirrored(registry: &Fake, mirrors: &[String]) -> RegistriesConfig {
    let text = format!("[registry.\"{}\"]\nmirrors = {mirrors:?}", registry.host());
    RegistriesConfig::parse(&text).unwrap()
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_told_for_whom() {
    let (registry, mirror) = (Fake::start().await, Fake::start().await);
    let expected = mirror.put_manifest("hub/a", "t", MANIFEST);
    let blob = mirror.put_blob("hub/a", &noise(1, 1000));
    let client = client_with(mirrored(&registry, &[format!("{}/hub", mirror.host())]));
    let resolved = client.resolve(&registry.reference("a:t")).await.unwrap();
    assert_eq!(resolved.descriptor, expected);
    assert_eq!(resolved.from, mirror.host());
    let bytes = client
        .fetch_blob_bytes(&registry.repository("a"), &blob, 1000)
        .await;
    assert_eq!(bytes.unwrap(), noise(1, 1000));
    assert!(registry.state().seen.is_empty());
    let asked = &mirror.seen(&Method::HEAD, "/manifests/")[0];
    let ns: String = url::form_urlencoded::byte_serialize(registry.host().as_bytes()).collect();
    assert_eq!(asked.query, format!("ns={ns}"));
}

#[tokio::test]
async fn a_mirror_that_fails_is_passed_over() {
    let (registry, mirror) = (Fake::start().await, Fake::start().await);
    let expected = registry.put_manifest("a", "t", MANIFEST);
    let client = client_with(mirrored(&registry, &[mirror.host()]));
    for fault in [
        Fault::Status(404, vec![]),
        Fault::Status(500, vec![]),
        Fault::Status(401, vec![]),
        Fault::Status(429, vec![("retry-after", "60".to_owned())]),
        Fault::Close,
    ] {
        mirror.fault(Method::GET, "/manifests/", 2, fault.clone());
        let fetched = client
            .fetch_manifest(&registry.reference("a:t"), MANIFEST_ACCEPT)
            .await;
        assert_eq!(fetched.unwrap().0, expected, "{fault:?}");
        mirror.state().seen.clear();
    }
}

#[tokio::test]
async fn a_mirror_with_other_content_is_passed_over() {
    let (registry, mirror) = (Fake::start().await, Fake::start().await);
    let expected = registry.put_manifest("a", "t", MANIFEST);
    mirror.put_manifest("a", "t", MANIFEST);
    mirror.fault(Method::GET, "/manifests/", 1, Fault::Corrupt);
    let client = client_with(mirrored(&registry, &[mirror.host()]));
    let reference = registry.reference("a").with_digest(expected.digest);
    let fetched = client.fetch_manifest(&reference, MANIFEST_ACCEPT).await;
    assert_eq!(fetched.unwrap().1, MANIFEST);
}

#[tokio::test]
async fn a_dead_mirror_is_asked_once_in_a_while() {
    let registry = Fake::start().await;
    registry.put_manifest("a", "t", MANIFEST);
    let dead = Fake::start().await.stop().await.to_string();
    let client = client_with(mirrored(&registry, std::slice::from_ref(&dead)));
    let resolved = client.resolve(&registry.reference("a:t")).await.unwrap();
    assert_eq!(resolved.from, registry.host());
    let missing = client
        .resolve(&registry.reference("a:no"))
        .await
        .unwrap_err();
    assert!(
        matches!(missing, Error::NotFound(_)),
        "the mirror was asked again: {missing}"
    );
}

#[tokio::test]
async fn a_download_goes_on_at_the_registry_when_the_mirror_breaks() {
    let (registry, mirror) = (Fake::start().await, Fake::start().await);
    let content = noise(2, 300_000);
    let descriptor = registry.put_blob("a", &content);
    mirror.put_blob("a", &content);
    mirror.fault(Method::GET, "/blobs/", 1, Fault::CutBody(100_000));
    mirror.fault(Method::GET, "/blobs/", 99, Fault::Status(503, vec![]));
    let client = client_with(mirrored(&registry, &[mirror.host()]));
    let bytes = client
        .fetch_blob_bytes(&registry.repository("a"), &descriptor, 300_000)
        .await;
    assert_eq!(bytes.unwrap(), content);
    let asked = &registry.seen(&Method::GET, "/blobs/")[0];
    assert_eq!(asked.header("range"), Some("bytes=100000-"));
}

#[tokio::test]
async fn both_failures_are_told() {
    let (registry, mirror) = (Fake::start().await, Fake::start().await);
    mirror.fault(Method::HEAD, "/manifests/", 9, Fault::Status(403, vec![]));
    let client = client_with(mirrored(&registry, &[mirror.host()]));
    let error = client
        .resolve(&registry.reference("a:t"))
        .await
        .unwrap_err();
    assert!(error.is_not_found());
    let told = error.to_string();
    assert!(
        told.contains(&format!("; mirror `{}`: registry", mirror.host())),
        "{told}"
    );
    assert!(told.contains("403"), "{told}");
}

#[tokio::test]
async fn pushes_go_past_the_mirror() {
    let (registry, mirror) = (Fake::start().await, Fake::start().await);
    let client = client_with(mirrored(&registry, &[mirror.host()]));
    client
        .push_manifest(
            &registry.reference("a:t"),
            media_type::OCI_MANIFEST,
            Bytes::from(MANIFEST),
        )
        .await
        .unwrap();
    assert!(mirror.state().seen.is_empty());
}

#[tokio::test]
async fn containers_rules_rewrite_and_block() {
    let registry = Fake::start().await;
    registry.put_manifest("real/app", "t", MANIFEST);
    let text = format!(
        "[[registry]]\nprefix = \"docker.io/corp\"\nlocation = \"{}/real\"\ninsecure = true\n\
         [[registry]]\nprefix = \"docker.io/bad\"\nblocked = true\n",
        registry.host()
    );
    let client = client_with(RegistriesConfig::parse_containers(&text).unwrap());
    let resolved = client
        .resolve(&"corp/app:t".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(resolved.from, registry.host());
    let blocked = client
        .resolve(&"bad/app:t".parse().unwrap())
        .await
        .unwrap_err();
    assert_eq!(
        blocked.to_string(),
        "`docker.io/bad/app` is blocked by the registries configuration"
    );
}
