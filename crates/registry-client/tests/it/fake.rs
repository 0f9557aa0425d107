//! A registry in this process, as strict as the specification allows and with faults
//! on demand. Every request it gets is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use longshore_oci::{Descriptor, Digest, Reference, media_type};
use longshore_registry_client::Repository;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, io::Error>;

/// What goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answers with this status instead, and these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Answers with this status and body instead.
    StatusBody(u16, &'static str),
    /// Closes the connection without an answer; the request's effect does not happen.
    Close,
    /// The request takes effect, and then the connection closes without an answer.
    LoseAnswer,
    /// The answer's body ends after so many bytes, though its head promised more.
    CutBody(usize),
    /// The answer's body stops after so many bytes, and the connection stays open.
    StallBody(usize),
    /// So many bytes of the request's body are taken, then the connection closes.
    CutUpload(usize),
    /// The first byte of the answer's body is another.
    Corrupt,
    /// The answer comes late.
    Delay(Duration),
    /// `Range` is ignored.
    NoRange,
}

struct Rule {
    method: Method,
    path: String,
    left: usize,
    fault: Fault,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) version: http::Version,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// How the registry asks who is there.
#[derive(Clone, Debug, Default)]
pub(crate) enum Auth {
    #[default]
    Open,
    Basic(&'static str, &'static str),
    /// Tokens from `/token` at this URL's origin; with `true`, pulling needs no user.
    Bearer {
        realm: String,
        anonymous_pull: bool,
    },
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) blobs: BTreeMap<(String, String), Bytes>,
    pub(crate) manifests: BTreeMap<(String, String), (String, Bytes)>,
    pub(crate) uploads: BTreeMap<String, Vec<u8>>,
    rules: Vec<Rule>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) auth: Auth,
    /// Tokens given out and the scopes that they carry.
    pub(crate) tokens: BTreeMap<String, String>,
    pub(crate) token_lifetime: Option<u64>,
    /// Blobs are served by redirects to this base URL.
    pub(crate) redirect_blobs_to: Option<String>,
    pub(crate) no_digest_headers: bool,
    pub(crate) no_mounts: bool,
    pub(crate) lists_referrers: bool,
    pub(crate) chunk_min: Option<usize>,
    pub(crate) chunk_max: Option<usize>,
    /// Upload locations are absolute, with this prefix.
    pub(crate) location_prefix: String,
    pub(crate) cancelled: BTreeSet<String>,
    next_id: usize,
}

/// A running registry; stops when dropped.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self::serve(|stream| async move { Some(stream) }).await
    }

    /// Ends; nobody listens at the address that is returned any more.
    pub(crate) async fn stop(mut self) -> std::net::SocketAddr {
        self.task.abort();
        // Cancelled: its listener and connections are gone with it.
        let _cancelled = (&mut self.task).await;
        self.address
    }

    /// Serves over TLS with the given configuration.
    pub(crate) async fn start_tls(config: tokio_rustls::rustls::ServerConfig) -> Self {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        Self::serve(move |stream| {
            let acceptor = acceptor.clone();
            async move { acceptor.accept(stream).await.ok() }
        })
        .await
    }

    async fn serve<S, F>(
        accept: impl Fn(tokio::net::TcpStream) -> F + Send + Sync + 'static,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (accepting, state) = (accept(stream), Arc::clone(&shared));
                connections.spawn(async move {
                    if let Some(stream) = accepting.await {
                        converse(stream, state).await;
                    }
                });
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// `127.0.0.1:<port>`, as references name it.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn repository(&self, path: &str) -> Repository {
        format!("{}/{path}", self.host()).parse().unwrap()
    }

    pub(crate) fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host()).parse().unwrap()
    }

    pub(crate) fn put_blob(&self, repository: &str, content: &Bytes) -> Descriptor {
        let descriptor = Descriptor::of("application/octet-stream", content);
        let key = (repository.to_owned(), descriptor.digest.to_string());
        self.state().blobs.insert(key, content.clone());
        descriptor
    }

    pub(crate) fn put_manifest(&self, repository: &str, tag: &str, text: &str) -> Descriptor {
        let content = Bytes::from(text.to_owned());
        let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &content);
        let entry = (descriptor.media_type.clone(), content);
        let mut state = self.state();
        for name in [tag.to_owned(), descriptor.digest.to_string()] {
            state
                .manifests
                .insert((repository.to_owned(), name), entry.clone());
        }
        descriptor
    }

    pub(crate) fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        let key = (repository.to_owned(), digest.to_string());
        self.state().blobs.get(&key).cloned()
    }

    /// The next `times` requests of this method whose path contains `path` go wrong.
    pub(crate) fn fault(&self, method: Method, path: &str, times: usize, fault: Fault) {
        self.state().rules.push(Rule {
            method,
            path: path.to_owned(),
            left: times,
            fault,
        });
    }

    pub(crate) fn seen(&self, method: &Method, path: &str) -> Vec<Seen> {
        let state = self.state();
        let matching = |seen: &&Seen| seen.method == *method && seen.path.contains(path);
        state.seen.iter().filter(matching).cloned().collect()
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    state: Arc<Mutex<State>>,
) {
    let service = hyper::service::service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { answer(&state, request).await }
    });
    // A client that hangs up is no failure of this side.
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    state: &Mutex<State>,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let (head, body) = request.into_parts();
    let seen = Seen {
        method: head.method.clone(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers.clone(),
        version: head.version,
    };
    let fault = {
        let mut state = state.lock().unwrap();
        state.seen.push(seen.clone());
        state.take_fault(&seen)
    };
    match &fault {
        Some(Fault::Close) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::Status(status, headers)) => {
            let mut builder = Response::builder().status(*status);
            for (name, value) in headers {
                builder = builder.header(*name, value);
            }
            return Ok(builder.body(full(Bytes::new())).unwrap());
        }
        Some(Fault::StatusBody(status, text)) => {
            let builder = Response::builder().status(*status);
            return Ok(builder
                .body(full(Bytes::from_static(text.as_bytes())))
                .unwrap());
        }
        Some(Fault::Delay(wait)) => tokio::time::sleep(*wait).await,
        _ => {}
    }
    let (body, cut) = match &fault {
        Some(Fault::CutUpload(at)) => (take(body, *at).await, true),
        _ => (
            body.collect().await.map_err(io::Error::other)?.to_bytes(),
            false,
        ),
    };
    let no_range = matches!(fault, Some(Fault::NoRange));
    let response = state.lock().unwrap().handle(&seen, &body, cut, no_range);
    if cut || matches!(fault, Some(Fault::LoseAnswer)) {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let is_head = seen.method == Method::HEAD;
    Ok(response.map(|content| match fault {
        _ if is_head => full(Bytes::new()),
        Some(Fault::CutBody(at)) => ending(content, at, true),
        Some(Fault::StallBody(at)) => ending(content, at, false),
        Some(Fault::Corrupt) => {
            let mut bytes = content.to_vec();
            bytes[0] ^= 1;
            full(bytes.into())
        }
        _ => full(content),
    }))
}

fn full(content: Bytes) -> Body {
    Full::new(content)
        .map_err(|never: Infallible| match never {})
        .boxed()
}

/// So much of the content, and then a broken connection or silence.
fn ending(content: Bytes, at: usize, breaks: bool) -> Body {
    let start = stream::iter([Ok(Frame::data(content.slice(..at)))]);
    let end = stream::once(async move {
        if !breaks {
            std::future::pending::<()>().await;
        }
        // The part before must be on its way first.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    });
    BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(
        start.chain(end).boxed(),
    ))))
}

/// Makes a stream `Sync`, which a boxed body has to be.
struct SyncStream(Mutex<stream::BoxStream<'static, Result<Frame<Bytes>, io::Error>>>);

impl futures_util::Stream for SyncStream {
    type Item = Result<Frame<Bytes>, io::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.get_mut().unwrap().poll_next_unpin(context)
    }
}

async fn take(mut body: Incoming, at: usize) -> Bytes {
    let mut taken = Vec::new();
    while taken.len() < at {
        match body.frame().await {
            Some(Ok(frame)) => taken.extend_from_slice(&frame.into_data().unwrap_or_default()),
            _ => break,
        }
    }
    taken.truncate(at);
    taken.into()
}

fn respond(status: u16) -> http::response::Builder {
    Response::builder().status(status)
}

fn error(status: u16, code: &str) -> Response<Bytes> {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"told by the fake"}}]}}"#);
    respond(status)
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .body(body.into())
        .unwrap()
}

fn query(seen: &Seen) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(seen.query.as_bytes())
        .into_owned()
        .collect()
}

impl State {
    fn take_fault(&mut self, seen: &Seen) -> Option<Fault> {
        let matching = |rule: &&mut Rule| {
            rule.left > 0 && rule.method == seen.method && seen.path.contains(&rule.path)
        };
        let rule = self.rules.iter_mut().find(matching)?;
        rule.left -= 1;
        Some(rule.fault.clone())
    }

    fn handle(&mut self, seen: &Seen, body: &Bytes, cut: bool, no_range: bool) -> Response<Bytes> {
        if seen.path == "/token" {
            return self.token(seen, body);
        }
        if let Some(refusal) = self.refuse_access(seen) {
            return refusal;
        }
        let path = seen.path.trim_start_matches("/v2/").to_owned();
        if path.is_empty() {
            return respond(200).body("{}".into()).unwrap();
        }
        if path == "_catalog" {
            let names: BTreeSet<&String> = self.manifests.keys().map(|(name, _)| name).collect();
            let body = serde_json::json!({ "repositories": names }).to_string();
            return respond(200).body(body.into()).unwrap();
        }
        for (marker, handler) in [
            ("/blobs/uploads/", Self::upload as Handler),
            ("/blobs/", Self::blob),
            ("/manifests/", Self::manifest),
            ("/tags/", Self::tags),
            ("/referrers/", Self::referrers),
        ] {
            if let Some((repository, name)) = path.split_once(marker) {
                let call = Call {
                    seen,
                    body,
                    cut,
                    no_range,
                };
                return handler(self, repository, name, &call);
            }
        }
        error(404, "NAME_UNKNOWN")
    }

    fn refuse_access(&self, seen: &Seen) -> Option<Response<Bytes>> {
        let sent = seen.header("authorization");
        let challenge = match &self.auth {
            Auth::Open => return None,
            Auth::Basic(user, password) => {
                let expected = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
                if sent == Some(&expected) {
                    return None;
                }
                r#"Basic realm="fake""#.to_owned()
            }
            Auth::Bearer { realm, .. } => {
                let wanted = wanted_scope(seen);
                let held = sent
                    .and_then(|text| text.strip_prefix("Bearer "))
                    .and_then(|token| self.tokens.get(token));
                if held.is_some_and(|held| covers(held, &wanted)) {
                    return None;
                }
                format!(r#"Bearer realm="{realm}",service="fake",scope="{wanted}""#)
            }
        };
        let mut refusal = error(401, "UNAUTHORIZED");
        refusal
            .headers_mut()
            .insert("www-authenticate", challenge.parse().unwrap());
        Some(refusal)
    }

    /// The user is `me` with the password `pw`, or the refresh token `identity`.
    fn token(&mut self, seen: &Seen, body: &Bytes) -> Response<Bytes> {
        let fields: Vec<(String, String)> = match seen.method {
            Method::POST => url::form_urlencoded::parse(body).into_owned().collect(),
            _ => url::form_urlencoded::parse(seen.query.as_bytes())
                .into_owned()
                .collect(),
        };
        let field = |name: &str| {
            let found = fields.iter().filter(|(key, _)| key == name);
            found
                .map(|(_, value)| value.as_str())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let basic = format!("Basic {}", STANDARD.encode("me:pw"));
        let known = match seen.method {
            Method::POST => {
                field("refresh_token") == "identity"
                    || (field("username") == "me" && field("password") == "pw")
            }
            _ => seen.header("authorization") == Some(&basic),
        };
        let tried = seen.method == Method::POST || seen.header("authorization").is_some();
        let anonymous_pull = matches!(
            self.auth,
            Auth::Bearer {
                anonymous_pull: true,
                ..
            }
        );
        let scope = match (known, tried) {
            (true, _) => field("scope"),
            (false, false) if anonymous_pull => pull_only(&field("scope")),
            _ => return error(401, "UNAUTHORIZED"),
        };
        self.next_id += 1;
        let token = format!("token-{}", self.next_id);
        self.tokens.insert(token.clone(), scope);
        let mut answer = serde_json::json!({ "token": token });
        if let Some(lifetime) = self.token_lifetime {
            answer["expires_in"] = lifetime.into();
        }
        respond(200).body(answer.to_string().into()).unwrap()
    }

    fn blob(&mut self, repository: &str, name: &str, call: &Call<'_>) -> Response<Bytes> {
        let key = (repository.to_owned(), name.to_owned());
        let Some(content) = self.blobs.get(&key).cloned() else {
            return error(404, "BLOB_UNKNOWN");
        };
        if let Some(base) = &self.redirect_blobs_to
            && call.seen.method == Method::GET
        {
            let location = format!("{base}/v2/{repository}/blobs/{name}?signature=secret");
            let builder = respond(307).header("location", location);
            return builder.body(Bytes::new()).unwrap();
        }
        let start = call
            .seen
            .header("range")
            .filter(|_| !call.no_range)
            .map(|range| {
                let text = range.strip_prefix("bytes=").unwrap().strip_suffix('-');
                text.unwrap().parse::<usize>().unwrap()
            });
        let builder = match start {
            None => respond(200).header("content-length", content.len()),
            Some(start) => respond(206)
                .header("content-length", content.len() - start)
                .header(
                    "content-range",
                    format!("bytes {start}-{}/{}", content.len() - 1, content.len()),
                ),
        };
        builder.body(content.slice(start.unwrap_or(0)..)).unwrap()
    }

    fn manifest(&mut self, repository: &str, name: &str, call: &Call<'_>) -> Response<Bytes> {
        match call.seen.method {
            Method::PUT => return self.put_manifest(repository, name, call),
            Method::DELETE => {
                let gone = self
                    .manifests
                    .remove(&(repository.to_owned(), name.to_owned()));
                return match gone {
                    Some(_) => respond(202).body(Bytes::new()).unwrap(),
                    None => error(404, "MANIFEST_UNKNOWN"),
                };
            }
            _ => {}
        }
        let key = (repository.to_owned(), name.to_owned());
        let Some((kind, content)) = self.manifests.get(&key).cloned() else {
            return error(404, "MANIFEST_UNKNOWN");
        };
        let digest = Digest::sha256_of(&content).to_string();
        let mut builder = respond(200)
            .header("content-type", kind)
            .header("etag", format!("\"{digest}\""))
            .header("content-length", content.len());
        if !self.no_digest_headers {
            builder = builder.header("docker-content-digest", digest);
        }
        builder.body(content).unwrap()
    }

    fn put_manifest(&mut self, repository: &str, name: &str, call: &Call<'_>) -> Response<Bytes> {
        let digest = Digest::sha256_of(call.body).to_string();
        let kind = call.seen.header("content-type").unwrap().to_owned();
        let current = self
            .manifests
            .get(&(repository.to_owned(), name.to_owned()))
            .map(|(_, content)| format!("\"{}\"", Digest::sha256_of(content)));
        let if_match = call.seen.header("if-match");
        let if_none = call.seen.header("if-none-match");
        if (if_match.is_some() && if_match != current.as_deref())
            || (if_none == Some("*") && current.is_some())
        {
            return error(412, "PRECONDITION_FAILED");
        }
        for key in [name, digest.as_str()] {
            self.manifests.insert(
                (repository.to_owned(), key.to_owned()),
                (kind.clone(), call.body.clone()),
            );
        }
        let parsed: serde_json::Value = serde_json::from_slice(call.body).unwrap();
        let mut builder = respond(201).header("docker-content-digest", digest);
        if let (true, Some(subject)) = (self.lists_referrers, parsed["subject"]["digest"].as_str())
        {
            builder = builder.header("oci-subject", subject);
        }
        builder.body(Bytes::new()).unwrap()
    }

    fn tags(&mut self, repository: &str, _: &str, call: &Call<'_>) -> Response<Bytes> {
        let query = query(call.seen);
        let last = query.get("last").cloned().unwrap_or_default();
        let is_tag = |name: &str| !name.contains(':') && name > last.as_str();
        let tags: Vec<&String> = self
            .manifests
            .keys()
            .filter(|(owner, name)| owner == repository && is_tag(name))
            .map(|(_, name)| name)
            .collect();
        // Two at a time, whatever was asked for.
        let page: Vec<&String> = tags.iter().take(2).copied().collect();
        let mut builder = respond(200);
        if page.len() < tags.len() {
            let link = format!(
                "</v2/{repository}/tags/list?last={}>; rel=\"next\"",
                page[1]
            );
            builder = builder.header("link", link);
        }
        let body = serde_json::json!({ "name": repository, "tags": page }).to_string();
        builder.body(body.into()).unwrap()
    }

    fn referrers(&mut self, repository: &str, subject: &str, _: &Call<'_>) -> Response<Bytes> {
        if !self.lists_referrers {
            return error(404, "NOT_FOUND");
        }
        let refers = |content: &Bytes| {
            let parsed: serde_json::Value = serde_json::from_slice(content).unwrap();
            parsed["subject"]["digest"].as_str() == Some(subject)
        };
        let found: Vec<Descriptor> = self
            .manifests
            .iter()
            .filter(|((owner, name), (_, content))| {
                owner == repository && name.contains(':') && refers(content)
            })
            .map(|(_, (kind, content))| Descriptor {
                artifact_type: Some("application/vnd.test".to_owned()),
                ..Descriptor::of(kind, content)
            })
            .collect();
        let body = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": found,
        });
        respond(200)
            .header("content-type", media_type::OCI_INDEX)
            .body(body.to_string().into())
            .unwrap()
    }

    fn upload(&mut self, repository: &str, id: &str, call: &Call<'_>) -> Response<Bytes> {
        if call.seen.method == Method::POST {
            return self.begin_upload(repository, call);
        }
        let Some(have) = self.uploads.get(id).map(Vec::len) else {
            return error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        match call.seen.method {
            Method::DELETE => {
                self.uploads.remove(id);
                self.cancelled.insert(id.to_owned());
                respond(204).body(Bytes::new()).unwrap()
            }
            Method::GET => self.upload_status(repository, id, 204),
            Method::PATCH | Method::PUT => {
                let range = call.seen.header("content-range");
                let start = range.map(|range| {
                    let (start, end) = range.split_once('-').unwrap();
                    let (start, end): (usize, usize) =
                        (start.parse().unwrap(), end.parse().unwrap());
                    assert!(call.cut || end + 1 - start == call.body.len());
                    start
                });
                let too_small = self.chunk_min.is_some_and(|min| call.body.len() < min / 4);
                let too_large = self.chunk_max.is_some_and(|max| call.body.len() > max);
                if too_large || (too_small && call.seen.method == Method::PATCH) {
                    return error(413, "SIZE_INVALID");
                }
                if start.is_some_and(|start| start != have) {
                    return error(416, "BLOB_UPLOAD_INVALID");
                }
                let bytes = self.uploads.get_mut(id).unwrap();
                bytes.extend_from_slice(call.body);
                if call.seen.method == Method::PATCH || call.cut {
                    return self.upload_status(repository, id, 202);
                }
                self.finish_upload(repository, id, &query(call.seen)["digest"])
            }
            _ => error(405, "UNSUPPORTED"),
        }
    }

    fn begin_upload(&mut self, repository: &str, call: &Call<'_>) -> Response<Bytes> {
        assert_eq!(call.seen.header("content-length"), Some("0"));
        let query = query(call.seen);
        if let (Some(digest), Some(from), false) =
            (query.get("mount"), query.get("from"), self.no_mounts)
            && let Some(content) = self.blobs.get(&(from.clone(), digest.clone())).cloned()
        {
            let key = (repository.to_owned(), digest.clone());
            self.blobs.insert(key, content);
            return respond(201).body(Bytes::new()).unwrap();
        }
        self.next_id += 1;
        let id = format!("u{}", self.next_id);
        self.uploads.insert(id.clone(), Vec::new());
        self.upload_status(repository, &id, 202)
    }

    fn upload_status(&self, repository: &str, id: &str, status: u16) -> Response<Bytes> {
        let last = self.uploads[id].len().saturating_sub(1);
        let location = format!(
            "{}/v2/{repository}/blobs/uploads/{id}?state=kept",
            self.location_prefix
        );
        let mut builder = respond(status)
            .header("location", location)
            .header("range", format!("0-{last}"));
        if let Some(min) = self.chunk_min {
            builder = builder.header("oci-chunk-min-length", min);
        }
        builder.body(Bytes::new()).unwrap()
    }

    fn finish_upload(&mut self, repository: &str, id: &str, digest: &str) -> Response<Bytes> {
        let content = Bytes::from(self.uploads.remove(id).unwrap());
        if Digest::sha256_of(&content).to_string() != digest {
            return error(400, "DIGEST_INVALID");
        }
        let key = (repository.to_owned(), digest.to_owned());
        self.blobs.insert(key, content);
        respond(201)
            .header("docker-content-digest", digest)
            .body(Bytes::new())
            .unwrap()
    }
}

type Handler = fn(&mut State, &str, &str, &Call<'_>) -> Response<Bytes>;

struct Call<'a> {
    seen: &'a Seen,
    body: &'a Bytes,
    cut: bool,
    no_range: bool,
}

fn wanted_scope(seen: &Seen) -> String {
    let path = seen.path.trim_start_matches("/v2/");
    let markers = ["/blobs/", "/manifests/", "/tags/", "/referrers/"];
    let repository = markers.iter().find_map(|marker| path.split_once(marker));
    let action = match seen.method {
        Method::GET | Method::HEAD if !path.contains("/uploads/") => "pull",
        Method::DELETE if path.contains("/manifests/") => "delete",
        _ => "pull,push",
    };
    match repository {
        Some((repository, _)) => format!("repository:{repository}:{action}"),
        None if path == "_catalog" => "registry:catalog:*".to_owned(),
        None => String::new(),
    }
}

fn covers(held: &str, wanted: &str) -> bool {
    let Some((resource, actions)) = wanted.rsplit_once(':') else {
        return true;
    };
    actions.split(',').all(|action| {
        held.split(' ').any(|scope| {
            let Some((owner, held)) = scope.rsplit_once(':') else {
                return false;
            };
            owner == resource && held.split(',').any(|held| held == action)
        })
    })
}

fn pull_only(scope: &str) -> String {
    let pulls = scope.split(' ').filter_map(|scope| {
        let (resource, actions) = scope.rsplit_once(':')?;
        actions.contains("pull").then(|| format!("{resource}:pull"))
    });
    pulls.collect::<Vec<_>>().join(" ")
}
