//! Manifests that refer to others.

use longshore_oci::{Digest, media_type};
use serde_json::{Value, json};

use crate::harness::{Reply, TestRegistry, descriptor};

fn digests(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.header("content-type"), media_type::OCI_INDEX);
    let index = reply.json();
    assert_eq!(index["schemaVersion"], 2);
    assert_eq!(index["mediaType"], media_type::OCI_INDEX);
    let manifests = index["manifests"].as_array().unwrap();
    let digest = |entry: &Value| entry["digest"].as_str().unwrap().to_owned();
    manifests.iter().map(digest).collect()
}

#[tokio::test]
async fn nothing_is_never_not_found() {
    let registry = TestRegistry::start().await;
    let subject = Digest::sha256_of(b"unknown");
    let path = format!("/v2/unknown/referrers/{subject}");
    assert!(digests(&registry.get(&path).await.expect(200)).is_empty());
    registry.head(&path).await.expect(200);
    registry
        .get("/v2/unknown/referrers/latest")
        .await
        .refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn referrers_are_listed_with_type_and_annotations() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "v1", "image", &json!({})).await;
    let subject = descriptor(
        media_type::OCI_MANIFEST,
        &image.digest,
        image.document.len(),
    );
    let signature = json!({
        "subject": subject, "artifactType": "x/signature", "annotations": { "k": "ü\"" },
    });
    let signature = registry.push_image("a", "", "signature", &signature).await;
    assert_eq!(
        signature.reply.header("oci-subject"),
        image.digest.to_string()
    );
    let plain = registry
        .push_image("a", "", "plain", &json!({ "subject": subject }))
        .await;
    let index = json!({
        "schemaVersion": 2, "manifests": [], "subject": subject, "annotations": { "a": "b" },
    });
    let index_digest = Digest::sha256_of(index.to_string().as_bytes());
    let put = registry
        .put_manifest("a", "index", media_type::OCI_INDEX, &index.to_string())
        .await;
    assert_eq!(
        put.expect(201).header("oci-subject"),
        image.digest.to_string()
    );

    let path = format!("/v2/a/referrers/{}", image.digest);
    let reply = registry.get(&path).await.expect(200);
    assert!(!reply.has("oci-filters-applied"));
    let entries = reply.json()["manifests"].as_array().unwrap().clone();
    let entry = |digest: &Digest| {
        let found = entries
            .iter()
            .find(|entry| entry["digest"] == digest.to_string());
        found.unwrap().clone()
    };
    assert_eq!(entries.len(), 3);
    let expected = json!({
        "mediaType": media_type::OCI_MANIFEST,
        "digest": signature.digest,
        "size": signature.document.len(),
        "artifactType": "x/signature",
        "annotations": { "k": "ü\"" },
    });
    assert_eq!(entry(&signature.digest), expected);
    assert_eq!(entry(&plain.digest)["artifactType"], media_type::OCI_CONFIG);
    assert_eq!(entry(&index_digest).get("artifactType"), None);
    assert_eq!(entry(&index_digest)["annotations"], json!({ "a": "b" }));

    let filtered = registry
        .get(&format!("{path}?artifactType=x%2Fsignature"))
        .await
        .expect(200);
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    assert_eq!(digests(&filtered), [signature.digest.to_string()]);
    let none = registry
        .get(&format!("{path}?artifactType=x/none"))
        .await
        .expect(200);
    assert!(digests(&none).is_empty());

    registry
        .delete(&format!("/v2/a/manifests/{}", signature.digest))
        .await
        .expect(202);
    assert_eq!(digests(&registry.get(&path).await.expect(200)).len(), 2);
    registry
        .delete(&format!("/v2/a/manifests/{}", image.digest))
        .await
        .expect(202);
    assert_eq!(
        digests(&registry.get(&path).await.expect(200)).len(),
        2,
        "they outlive it"
    );
    let elsewhere = format!("/v2/b/referrers/{}", image.digest);
    assert!(digests(&registry.get(&elsewhere).await.expect(200)).is_empty());
}

#[tokio::test]
async fn a_subject_may_come_after_its_referrers() {
    let registry = TestRegistry::start().await;
    let subject = Digest::sha256_of(b"not there yet");
    let extra = json!({ "subject": descriptor(media_type::OCI_MANIFEST, &subject, 3) });
    let image = registry.push_image("a", "", "early", &extra).await;
    assert_eq!(image.reply.header("oci-subject"), subject.to_string());
    let list = registry
        .get(&format!("/v2/a/referrers/{subject}"))
        .await
        .expect(200);
    assert_eq!(digests(&list), [image.digest.to_string()]);
}

#[tokio::test]
async fn many_referrers_come_by_pages_that_keep_the_filter() {
    let registry = TestRegistry::start().await;
    let subject = Digest::sha256_of(b"popular");
    let mut expected = Vec::new();
    for number in 0..7 {
        let kind = if number == 3 { "x/other" } else { "x/y" };
        let extra = json!({
            "subject": descriptor(media_type::OCI_MANIFEST, &subject, 7), "artifactType": kind,
        });
        let image = registry
            .push_image("a", "", &format!("r{number}"), &extra)
            .await;
        if number != 3 {
            expected.push(image.digest.to_string());
        }
    }
    expected.sort();
    let mut path = format!("/v2/a/referrers/{subject}?artifactType=x/y&n=2");
    let mut seen = Vec::new();
    for last_page in [false, false, true] {
        let page = registry.get(&path).await.expect(200);
        assert_eq!(page.header("oci-filters-applied"), "artifactType");
        let found = digests(&page);
        assert_eq!(found.len(), 2);
        seen.extend(found);
        assert_eq!(page.has("link"), !last_page);
        if !last_page {
            let link = page.header("link");
            path = link[1..link.find('>').unwrap()].to_owned();
        }
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn an_index_under_the_fallback_tag_is_listed_too() {
    let registry = TestRegistry::start().await;
    let image = registry.push_image("a", "v1", "image", &json!({})).await;
    let subject = descriptor(
        media_type::OCI_MANIFEST,
        &image.digest,
        image.document.len(),
    );
    let stored = json!({ "subject": subject, "artifactType": "x/stored" });
    let stored = registry.push_image("a", "", "stored", &stored).await;
    let old = registry.push_image("a", "", "old", &json!({})).await;
    let mut entry = descriptor(media_type::OCI_MANIFEST, &old.digest, old.document.len());
    entry["artifactType"] = json!("x/old");
    entry["annotations"] = json!({ "from": "the tag" });
    let again = descriptor(
        media_type::OCI_MANIFEST,
        &stored.digest,
        stored.document.len(),
    );
    let index = json!({ "schemaVersion": 2, "manifests": [again, entry] });
    let tag = image.digest.to_string().replace(':', "-");
    let put = registry
        .put_manifest("a", &tag, media_type::OCI_INDEX, &index.to_string())
        .await;
    put.expect(201);

    let path = format!("/v2/a/referrers/{}", image.digest);
    let list = registry.get(&path).await.expect(200);
    let mut expected = [stored.digest.to_string(), old.digest.to_string()];
    expected.sort();
    assert_eq!(digests(&list), expected);
    let old_only = registry
        .get(&format!("{path}?artifactType=x/old"))
        .await
        .expect(200);
    assert_eq!(digests(&old_only), [old.digest.to_string()]);
    assert_eq!(old_only.json()["manifests"][0], entry);
    let stored_only = registry
        .get(&format!("{path}?artifactType=x/stored"))
        .await
        .expect(200);
    assert_eq!(digests(&stored_only), [stored.digest.to_string()]);
    let first = registry.get(&format!("{path}?n=1")).await.expect(200);
    assert_eq!(digests(&first), expected[..1]);
    let last = registry
        .get(&format!("{path}?last={}", expected[0]))
        .await
        .expect(200);
    assert_eq!(digests(&last), expected[1..]);
}
