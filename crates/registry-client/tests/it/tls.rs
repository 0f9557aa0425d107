//! Certificates, and where plain HTTP is allowed.

use std::path::PathBuf;
use std::sync::Arc;

use http::Method;
use longshore_registry_client::{
    Client, ClientOptions, ConfigError, Error, HostConfig, RegistriesConfig, TransportFailure,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::fake::{Fake, Fault};
use crate::{client, client_with, noise, options};

const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

/// A registry with a certificate of its own making, and that certificate.
async fn with_certificate() -> (Fake, String) {
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (Fake::start_tls(config).await, made.cert.pem())
}

fn trusting(fake: &Fake, pem: &str) -> (RegistriesConfig, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let config = with_ca(fake, file.path().to_owned());
    (config, file)
}

fn with_ca(fake: &Fake, path: PathBuf) -> RegistriesConfig {
    let mut config = RegistriesConfig::default();
    let settings = HostConfig {
        ca_files: vec![path],
        ..HostConfig::default()
    };
    config.hosts.insert(fake.host(), settings);
    config
}

#[tokio::test]
async fn this_machine_may_have_any_certificate_or_none() {
    let (fake, _) = with_certificate().await;
    fake.put_manifest("a", "t", MANIFEST);
    client().resolve(&fake.reference("a:t")).await.unwrap();
    let plain = Fake::start().await;
    plain.put_manifest("a", "t", MANIFEST);
    let client = client();
    for _ in 0..2 {
        client.resolve(&plain.reference("a:t")).await.unwrap();
    }
    assert_eq!(
        plain.seen(&Method::GET, "/v2/").len(),
        1,
        "asked more than once"
    );
}

#[tokio::test]
async fn a_configured_authority_is_trusted_and_held_to() {
    let (fake, pem) = with_certificate().await;
    fake.put_manifest("a", "t", MANIFEST);
    let (config, _file) = trusting(&fake, &pem);
    let client = client_with(config);
    client.resolve(&fake.reference("a:t")).await.unwrap();
    let content = noise(1, 100_000);
    let descriptor = fake.put_blob("a", &content);
    let bytes = client
        .fetch_blob_bytes(&fake.repository("a"), &descriptor, 100_000)
        .await;
    assert_eq!(bytes.unwrap(), content);

    let streamed = fake.seen(&Method::GET, "/blobs/");
    assert_eq!(streamed[0].version, http::Version::HTTP_11);
    let asked = fake.seen(&Method::HEAD, "/manifests/");
    assert_eq!(asked[0].version, http::Version::HTTP_2);

    let (other, _) = with_certificate().await;
    let (config, _file) = trusting(&other, &pem);
    let error = client_with(config)
        .resolve(&other.reference("a:t"))
        .await
        .unwrap_err();
    let Error::Unreachable { failure, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(failure.kind(), TransportFailure::Tls);
    assert!(
        error.to_string().contains("certificate is not trusted"),
        "{error}"
    );
}

#[tokio::test]
async fn a_host_with_an_authority_is_not_spoken_to_in_the_clear() {
    let (_, pem) = with_certificate().await;
    let plain = Fake::start().await;
    plain.put_manifest("a", "t", MANIFEST);
    let (config, _file) = trusting(&plain, &pem);
    let error = client_with(config)
        .resolve(&plain.reference("a:t"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    assert!(plain.state().seen.is_empty());
}

#[tokio::test]
async fn a_secure_registry_does_not_lead_into_the_clear() {
    let (fake, pem) = with_certificate().await;
    let plain = Fake::start().await;
    let content = noise(2, 1000);
    let descriptor = fake.put_blob("a", &content);
    plain.put_blob("a", &content);
    fake.state().redirect_blobs_to = Some(plain.url());
    let (config, _file) = trusting(&fake, &pem);
    let client = client_with(config);
    let error = client
        .fetch_blob(&fake.repository("a"), &descriptor, 0)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("from https to http"), "{error}");

    // Nor does its token service.
    let challenge = format!(r#"Bearer realm="{}/token""#, plain.url());
    let wants = Fault::Status(401, vec![("www-authenticate", challenge)]);
    fake.fault(Method::HEAD, "/manifests/", 1, wants);
    let error = client.resolve(&fake.reference("a:t")).await.unwrap_err();
    assert!(error.to_string().contains("not on https"), "{error}");
    assert!(plain.state().seen.is_empty());
}

#[tokio::test]
async fn a_location_with_the_wrong_scheme_on_the_same_host_is_corrected() {
    let (fake, pem) = with_certificate().await;
    let plain = format!("http://{}", fake.host());
    fake.state().location_prefix = plain;
    let (config, _file) = trusting(&fake, &pem);
    let content = noise(3, 1000);
    let descriptor = longshore_oci::Descriptor::of("x", &content);
    client_with(config)
        .upload_blob(
            &fake.repository("a"),
            &descriptor,
            Arc::new(content.clone()),
            &longshore_registry_client::UploadOptions::default(),
        )
        .await
        .unwrap();
    assert_eq!(fake.blob("a", &descriptor.digest).unwrap(), content);
}

#[tokio::test]
async fn unusable_authority_files_are_named() {
    let fake = Fake::start().await;
    let missing = with_ca(&fake, "/nonexistent/ca.pem".into());
    let error = client_with(missing)
        .resolve(&fake.reference("a:t"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Config(ConfigError::CaFile { .. })),
        "{error}"
    );
    let (empty, _file) = trusting(&fake, "no certificate\n");
    let error = client_with(empty)
        .resolve(&fake.reference("a:t"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Config(ConfigError::CaContent { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_told_plainly() {
    let client = Client::new(ClientOptions { ..options() });
    let reference = "no-such-host.invalid/a:t".parse().unwrap();
    let error = client.resolve(&reference).await.unwrap_err();
    let Error::Unreachable { failure, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(failure.kind(), TransportFailure::Dns, "{error}");
}

#[tokio::test]
async fn a_plain_server_that_waits_for_a_line_is_found_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let mut start = [0; 4];
                stream.read_exact(&mut start).await.unwrap();
                if &start != b"GET " {
                    // TLS: this server still waits for its first line.
                    std::future::pending::<()>().await;
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            });
        }
    });
    client().ping(&address.to_string()).await.unwrap();
    serving.abort();
}

#[tokio::test]
async fn a_server_that_wants_other_tls_is_not_taken_for_a_plain_one() {
    let (fake, _) = with_certificate().await;
    let address = fake.stop().await;
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut start = [0; 4];
            stream.read_exact(&mut start).await.unwrap();
            let answer: &[u8] = match &start {
                b"GET " => b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
                // A fatal handshake failure.
                _ => &[21, 3, 3, 0, 2, 2, 40],
            };
            stream.write_all(answer).await.unwrap();
            let mut rest = [0; 2048];
            let _ = stream.read(&mut rest).await;
        }
    });
    let error = client().ping(&address.to_string()).await.unwrap_err();
    assert!(error.to_string().contains("TLS failed"), "{error}");
    serving.abort();
}
