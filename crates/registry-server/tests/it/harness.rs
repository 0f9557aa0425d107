//! A registry on a port of its own, and a client that shows every byte of an exchange.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use longshore_content::StateRoot;
use longshore_oci::{Algorithm, Digest, media_type};
use longshore_registry_server::{Options, RegistryServer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        let value = value.unwrap_or_else(|| panic!("no `{name}` in {self:?}"));
        value.to_str().unwrap()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.headers.contains_key(name)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The first error's code; also checks the errors' form.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json");
        let json = self.json();
        let errors = json["errors"].as_array().unwrap();
        assert!(errors.iter().all(|error| error["message"].is_string()));
        errors[0]["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let reply = self.expect(status);
        assert_eq!(reply.code(), code);
        reply
    }
}

pub(crate) type Headers<'a> = &'a [(&'a str, &'a str)];

/// Where requests go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client(pub(crate) SocketAddr);

impl Client {
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: Headers<'_>,
        body: impl Into<Bytes>,
    ) -> Reply {
        let stream = TcpStream::connect(self.0).await.unwrap();
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        let driver = tokio::spawn(connection);
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.0.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        driver.abort();
        assert_eq!(
            head.headers["docker-distribution-api-version"],
            "registry/2.0"
        );
        Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn head(&self, path: &str) -> Reply {
        let reply = self.send("HEAD", path, &[], "").await;
        assert!(reply.body.is_empty());
        reply
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str) -> Reply {
        self.send("POST", path, &[("content-length", "0")], "")
            .await
    }

    /// Starts an upload; its location.
    pub(crate) async fn start(&self, repository: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let reply = self.post(&path).await.expect(202);
        assert_eq!(reply.header("range"), "0-0");
        reply.header("location").to_owned()
    }

    pub(crate) async fn patch(&self, location: &str, range: &str, chunk: &[u8]) -> Reply {
        let headers = [
            ("content-range", range),
            ("content-type", "application/octet-stream"),
        ];
        let headers = if range.is_empty() {
            &headers[1..]
        } else {
            &headers
        };
        self.send("PATCH", location, headers, chunk.to_vec()).await
    }

    pub(crate) async fn finish(&self, location: &str, digest: &Digest, chunk: &[u8]) -> Reply {
        let path = format!("{location}?digest={digest}");
        self.send("PUT", &path, &[], chunk.to_vec()).await
    }

    pub(crate) async fn push(&self, repository: &str, content: &[u8]) -> Digest {
        self.push_by(Algorithm::Sha256, repository, content).await
    }

    pub(crate) async fn push_by(
        &self,
        algorithm: Algorithm,
        repository: &str,
        content: &[u8],
    ) -> Digest {
        let digest = Digest::of(algorithm, content);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let reply = self.send("POST", &path, &[], content.to_vec()).await;
        let reply = reply.expect(201);
        let blob = format!("/v2/{repository}/blobs/{digest}");
        assert_eq!(reply.header("location"), blob);
        assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        digest
    }

    pub(crate) async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        document: &str,
    ) -> Reply {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let headers = [("content-type", media_type)];
        self.send("PUT", &path, &headers, document.to_owned()).await
    }

    /// Pushes an image of one layer and its manifest; what is in `extra` goes into it.
    pub(crate) async fn push_image(
        &self,
        repository: &str,
        tag: &str,
        name: &str,
        extra: &Value,
    ) -> Image {
        let config = format!(r#"{{"config":"{name}"}}"#);
        let layer = format!("the layer of {name}");
        let config_digest = self.push(repository, config.as_bytes()).await;
        let layer_digest = self.push(repository, layer.as_bytes()).await;
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": descriptor(media_type::OCI_CONFIG, &config_digest, config.len()),
            "layers": [descriptor(media_type::OCI_LAYER_GZIP, &layer_digest, layer.len())],
        });
        for (key, value) in extra.as_object().into_iter().flatten() {
            manifest[key] = value.clone();
        }
        let document = manifest.to_string();
        let digest = Digest::sha256_of(document.as_bytes());
        let reference = if tag.is_empty() {
            digest.to_string()
        } else {
            tag.to_owned()
        };
        let reply = self
            .put_manifest(repository, &reference, media_type::OCI_MANIFEST, &document)
            .await
            .expect(201);
        Image {
            digest,
            layer: layer_digest,
            document,
            reply,
        }
    }
}

/// A pushed image.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) digest: Digest,
    pub(crate) layer: Digest,
    pub(crate) document: String,
    pub(crate) reply: Reply,
}

pub(crate) fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size })
}

/// A running registry with a state root of its own.
#[derive(Debug)]
pub(crate) struct TestRegistry {
    pub(crate) client: Client,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) root: StateRoot,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
}

impl std::ops::Deref for TestRegistry {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl TestRegistry {
    pub(crate) async fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), Options::open_to_all()).await
    }

    pub(crate) async fn start_with(dir: tempfile::TempDir, options: Options) -> Self {
        let root = StateRoot::open(dir.path()).unwrap();
        let server = RegistryServer::new(&root, options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client(listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(server.serve(listener, async move {
            drop(stopped.await);
        }));
        Self {
            client,
            dir,
            root,
            stop: Some(stop),
            served: Some(served),
        }
    }

    /// Stops the server, and gives its directory back.
    pub(crate) async fn stop(mut self) -> tempfile::TempDir {
        drop(self.stop.take());
        self.served.take().unwrap().await.unwrap();
        self.dir
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> std::path::PathBuf {
        self.root.blobs().blob_path(digest)
    }
}
