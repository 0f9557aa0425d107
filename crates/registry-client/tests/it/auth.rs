//! Challenges, tokens, and where credentials must not go.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use longshore_oci::media_type;
use longshore_registry_client::{
    Client, Credentials, Error, ErrorClass, LoginCheck, MANIFEST_ACCEPT, Secret, StaticCredentials,
    UploadOptions, Uploaded,
};

use crate::fake::{Auth, Fake, Fault};
use crate::{client, client_as, noise};

const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

fn me(fake: &Fake) -> Client {
    let credentials = Credentials::password("me", "pw");
    client_as(StaticCredentials::new().with(fake.host(), credentials))
}

async fn with_tokens(anonymous_pull: bool) -> Fake {
    let fake = Fake::start().await;
    let realm = format!("{}/token", fake.url());
    fake.state().auth = Auth::Bearer {
        realm,
        anonymous_pull,
    };
    fake
}

#[tokio::test]
async fn answers_a_basic_challenge_and_remembers_it() {
    let fake = Fake::start().await;
    fake.put_manifest("a", "t", MANIFEST);
    fake.state().auth = Auth::Basic("me", "pw");
    let client = me(&fake);
    for _ in 0..3 {
        client.resolve(&fake.reference("a:t")).await.unwrap();
    }
    // One refusal, and then the password goes along.
    assert_eq!(fake.seen(&Method::HEAD, "/manifests/").len(), 4);
}

#[tokio::test]
async fn without_credentials_a_basic_challenge_is_an_error() {
    let fake = Fake::start().await;
    fake.state().auth = Auth::Basic("me", "pw");
    let error = client().resolve(&fake.reference("a:t")).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized(_)) && error.is_access());
    assert_eq!(error.class(), ErrorClass::User);
}

#[tokio::test]
async fn a_wrong_password_is_tried_once() {
    let fake = Fake::start().await;
    fake.state().auth = Auth::Basic("me", "other");
    let client = me(&fake);
    for expected in [2, 3] {
        let error = client.resolve(&fake.reference("a:t")).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized(_)));
        assert!(!format!("{error} {error:?}").contains("pw"), "{error:?}");
        assert_eq!(fake.seen(&Method::HEAD, "/manifests/").len(), expected);
    }
}

#[tokio::test]
async fn pulls_with_an_anonymous_token() {
    let fake = with_tokens(true).await;
    fake.put_manifest("a", "t", MANIFEST);
    let client = client();
    client.resolve(&fake.reference("a:t")).await.unwrap();
    client
        .fetch_manifest(&fake.reference("a:t"), MANIFEST_ACCEPT)
        .await
        .unwrap();
    let tokens = fake.seen(&Method::GET, "/token");
    assert_eq!(tokens.len(), 1, "the token was not kept");
    assert_eq!(tokens[0].query, "service=fake&scope=repository%3Aa%3Apull");
    assert_eq!(tokens[0].header("authorization"), None);
}

#[tokio::test]
async fn one_token_serves_a_whole_push() {
    let fake = with_tokens(false).await;
    let client = me(&fake);
    let content = noise(1, 1000);
    let descriptor = fake.put_blob("base", &content);
    let options = UploadOptions {
        mount_from: Some(fake.repository("base")),
        ..UploadOptions::default()
    };
    let repository = fake.repository("a");
    let mounted = client
        .upload_blob(&repository, &descriptor, Arc::new(content), &options)
        .await;
    assert_eq!(mounted.unwrap(), Uploaded::Mounted);
    client
        .push_manifest(
            &fake.reference("a:t"),
            media_type::OCI_MANIFEST,
            Bytes::from(MANIFEST),
        )
        .await
        .unwrap();
    client.resolve(&fake.reference("a:t")).await.unwrap();
    let tokens = fake.seen(&Method::GET, "/token");
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    assert!(
        tokens[0]
            .query
            .contains("scope=repository%3Aa%3Apull%2Cpush")
    );
    assert!(tokens[0].query.contains("scope=repository%3Abase%3Apull"));
}

#[tokio::test]
async fn many_at_once_ask_for_one_token() {
    let fake = with_tokens(true).await;
    fake.put_manifest("a", "t", MANIFEST);
    let client = client();
    client.ping(&fake.host()).await.unwrap();
    let reference = fake.reference("a:t");
    let asked = (0..16).map(|_| client.resolve(&reference));
    futures_util::future::try_join_all(asked).await.unwrap();
    let tokens = fake.seen(&Method::GET, "/token");
    assert_eq!(tokens.len(), 2, "one for the ping, one for the manifest");
}

#[tokio::test]
async fn a_token_that_ended_is_replaced_in_the_middle() {
    let fake = with_tokens(true).await;
    fake.put_manifest("a", "t", MANIFEST);
    let client = client();
    client.resolve(&fake.reference("a:t")).await.unwrap();
    fake.state().tokens.clear();
    client.resolve(&fake.reference("a:t")).await.unwrap();
    assert_eq!(fake.seen(&Method::GET, "/token").len(), 2);
}

#[tokio::test]
async fn an_upload_is_sent_again_when_its_token_ended() {
    let fake = with_tokens(false).await;
    let client = me(&fake);
    let content = noise(2, 300_000);
    let challenge = format!(r#"Bearer realm="{}/token",service="fake""#, fake.url());
    let ended = Fault::Status(401, vec![("www-authenticate", challenge)]);
    fake.fault(Method::PUT, "/uploads/", 1, ended);
    let descriptor = longshore_oci::Descriptor::of("x", &content);
    let sent = client
        .upload_blob(
            &fake.repository("a"),
            &descriptor,
            Arc::new(content.clone()),
            &UploadOptions::default(),
        )
        .await;
    assert_eq!(sent.unwrap(), Uploaded::Sent);
    assert_eq!(fake.blob("a", &descriptor.digest).unwrap(), content);
}

#[tokio::test]
async fn the_token_service_is_retried_and_its_refusal_told() {
    let fake = with_tokens(true).await;
    fake.put_manifest("a", "t", MANIFEST);
    fake.fault(Method::GET, "/token", 2, Fault::Status(503, vec![]));
    client().resolve(&fake.reference("a:t")).await.unwrap();

    let wrong = StaticCredentials::new().with(fake.host(), Credentials::password("me", "no"));
    let error = client_as(wrong)
        .resolve(&fake.reference("a:t"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TokenRefused { .. }) && error.is_access());
    assert_eq!(error.class(), ErrorClass::User);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let fake = with_tokens(false).await;
    fake.put_manifest("a", "t", MANIFEST);
    let token = Credentials::IdentityToken(Secret::new("identity"));
    let client = client_as(StaticCredentials::new().with(fake.host(), token));
    client.resolve(&fake.reference("a:t")).await.unwrap();
    assert_eq!(fake.seen(&Method::POST, "/token").len(), 1);
}

#[tokio::test]
async fn a_token_service_without_get_is_asked_by_post() {
    let fake = with_tokens(false).await;
    fake.put_manifest("a", "t", MANIFEST);
    fake.fault(Method::GET, "/token", 1, Fault::Status(405, vec![]));
    me(&fake).resolve(&fake.reference("a:t")).await.unwrap();
    assert_eq!(fake.seen(&Method::POST, "/token").len(), 1);
}

#[tokio::test]
async fn a_partial_grant_ends_in_the_registrys_refusal() {
    let fake = with_tokens(true).await;
    let pushed = client()
        .push_manifest(
            &fake.reference("a:t"),
            media_type::OCI_MANIFEST,
            Bytes::from(MANIFEST),
        )
        .await;
    assert!(matches!(pushed, Err(Error::Unauthorized(_))));
}

#[tokio::test]
async fn credentials_stay_at_home() {
    let (registry, storage) = (Fake::start().await, Fake::start().await);
    let content = noise(3, 1000);
    let descriptor = registry.put_blob("a", &content);
    storage.put_blob("a", &content);
    registry.state().auth = Auth::Basic("me", "pw");
    registry.state().redirect_blobs_to = Some(storage.url());
    let client = me(&registry);
    let blob = client
        .fetch_blob_bytes(&registry.repository("a"), &descriptor, 1000)
        .await;
    assert_eq!(blob.unwrap(), content);
    let abroad = &storage.seen(&Method::GET, "/blobs/")[0];
    assert_eq!(abroad.header("authorization"), None);

    // Also when the other host asks for them.
    storage.state().auth = Auth::Basic("me", "pw");
    let blob = client
        .fetch_blob_bytes(&registry.repository("a"), &descriptor, 1000)
        .await;
    assert!(matches!(blob, Err(Error::Unauthorized(_))));
    let asked = storage.seen(&Method::GET, "/blobs/");
    assert!(
        asked
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn an_upload_elsewhere_gets_no_credentials() {
    let (registry, storage) = (Fake::start().await, Fake::start().await);
    registry.state().auth = Auth::Basic("me", "pw");
    registry.state().location_prefix = storage.url();
    let content = noise(4, 1000);
    let descriptor = longshore_oci::Descriptor::of("x", &content);
    let sent = me(&registry)
        .upload_blob(
            &registry.repository("a"),
            &descriptor,
            Arc::new(content),
            &UploadOptions::default(),
        )
        .await;
    assert!(sent.unwrap_err().is_not_found());
    let state = storage.state();
    assert!(!state.seen.is_empty());
    assert!(
        state
            .seen
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn logins_are_checked() {
    let fake = Fake::start().await;
    let good = || Credentials::password("me", "pw");
    let check = |credentials| {
        let (client, host) = (client(), fake.host());
        async move { client.check_login(&host, credentials).await }
    };
    assert_eq!(check(good()).await.unwrap(), LoginCheck::NotRequired);
    fake.state().auth = Auth::Basic("me", "pw");
    assert_eq!(check(good()).await.unwrap(), LoginCheck::Accepted);
    let refused = check(Credentials::password("me", "no")).await.unwrap_err();
    assert!(refused.is_access(), "{refused}");
    let realm = format!("{}/token", fake.url());
    fake.state().auth = Auth::Bearer {
        realm,
        anonymous_pull: true,
    };
    let refused = check(Credentials::password("me", "no")).await.unwrap_err();
    assert!(refused.is_access(), "{refused}");
    client().ping(&fake.host()).await.unwrap();
}

#[tokio::test]
async fn nothing_secret_is_told() {
    let fake = with_tokens(false).await;
    let client = me(&fake);
    fake.fault(
        Method::GET,
        "/token",
        1,
        Fault::StatusBody(200, r#"{"token":"a\nb"}"#),
    );
    let error = client.resolve(&fake.reference("a:t")).await.unwrap_err();
    let told = format!("{error} {error:?} {client:?}");
    assert!(matches!(error, Error::Protocol { .. }), "{told}");
    for secret in ["pw", "bWU6cHc="] {
        assert!(!told.contains(secret), "{told}");
    }
}
