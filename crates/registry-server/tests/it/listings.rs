//! Lists of tags and repositories, by pages.

use longshore_oci::media_type;
use serde_json::json;

use crate::harness::{Reply, TestRegistry};

/// The path of a `Link` to the next page.
fn next(reply: &Reply) -> Option<String> {
    if !reply.has("link") {
        return None;
    }
    let link = reply.header("link").to_owned();
    let (path, relation) = link.split_once(">; ").unwrap();
    assert_eq!(relation, "rel=\"next\"");
    Some(path.strip_prefix('<').unwrap().to_owned())
}

async fn registry_with_tags(tags: &[&str]) -> TestRegistry {
    let registry = TestRegistry::start().await;
    let image = registry
        .push_image("a/b", tags[0], "image", &json!({}))
        .await;
    for tag in &tags[1..] {
        let put = registry.put_manifest("a/b", tag, media_type::OCI_MANIFEST, &image.document);
        put.await.expect(201);
    }
    registry
}

#[tokio::test]
async fn tags_come_sorted_and_by_pages() {
    let registry = registry_with_tags(&["v10", "v1", "latest", "V2", "v1.0", "_x"]).await;
    let sorted = json!(["V2", "_x", "latest", "v1", "v1.0", "v10"]);
    let all = registry.get("/v2/a/b/tags/list").await.expect(200);
    assert_eq!(all.json(), json!({ "name": "a/b", "tags": sorted }));
    assert_eq!(next(&all), None);
    assert_eq!(all.header("content-type"), "application/json");

    let mut path = "/v2/a/b/tags/list?n=4".to_owned();
    let mut seen = Vec::new();
    for size in [4, 2] {
        let page = registry.get(&path).await.expect(200);
        let tags = page.json()["tags"].as_array().unwrap().clone();
        assert_eq!(tags.len(), size);
        seen.extend(tags);
        path = next(&page).unwrap_or_default();
    }
    assert_eq!(path, "");
    assert_eq!(json!(seen), sorted);
}

#[tokio::test]
async fn edges_of_tag_pages() {
    let registry = registry_with_tags(&["a", "b", "ba"]).await;
    let list = |query: &'static str| {
        let client = registry.client;
        async move {
            client
                .get(&format!("/v2/a/b/tags/list?{query}"))
                .await
                .expect(200)
        }
    };
    assert_eq!(list("last=b").await.json()["tags"], json!(["ba"]));
    assert_eq!(list("last=zz").await.json()["tags"], json!([]));
    assert_eq!(list("last=aa&n=1").await.json()["tags"], json!(["b"]));
    let exact = list("n=3").await;
    assert_eq!(next(&exact), None);
    let none = list("n=0").await;
    assert_eq!(none.json()["tags"], json!([]));
    assert_eq!(next(&none), None);
    let path = "/v2/a/b/tags/list?n=many";
    registry
        .get(path)
        .await
        .refused(400, "PAGINATION_NUMBER_INVALID");
    registry
        .get("/v2/unknown/tags/list")
        .await
        .refused(404, "NAME_UNKNOWN");
}

#[tokio::test]
async fn a_repository_without_tags_has_an_empty_list() {
    let registry = TestRegistry::start().await;
    registry.push("a", b"x").await;
    let reply = registry.get("/v2/a/tags/list").await.expect(200);
    assert_eq!(reply.json(), json!({ "name": "a", "tags": [] }));
}

#[tokio::test]
async fn the_catalog_lists_repositories_with_manifests_by_pages() {
    let registry = TestRegistry::start().await;
    let empty = registry.get("/v2/_catalog").await.expect(200);
    assert_eq!(empty.json(), json!({ "repositories": [] }));
    for name in ["b/c", "a", "b"] {
        registry.push_image(name, "t", "image", &json!({})).await;
    }
    registry.push("only-a-blob", b"x").await;
    let all = registry.get("/v2/_catalog").await.expect(200);
    assert_eq!(all.json(), json!({ "repositories": ["a", "b", "b/c"] }));
    let mut path = "/v2/_catalog?n=1".to_owned();
    let mut seen = Vec::new();
    while !path.is_empty() {
        let page = registry.get(&path).await.expect(200);
        seen.extend(page.json()["repositories"].as_array().unwrap().clone());
        path = next(&page).unwrap_or_default();
    }
    assert_eq!(json!(seen), json!(["a", "b", "b/c"]));
    let image = registry.head("/v2/a/manifests/t").await.expect(200);
    let digest = image.header("docker-content-digest").to_owned();
    registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .await
        .expect(202);
    let rest = registry.get("/v2/_catalog").await.expect(200);
    assert_eq!(rest.json(), json!({ "repositories": ["b", "b/c"] }));
}
