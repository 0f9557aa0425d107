//! Requests and responses: the only module that knows HTTP's types.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::StreamExt as _;
use http::{HeaderName, HeaderValue, StatusCode, header};
use longshore_content::{BlobInfo, ByteRange, UploadId};
use longshore_oci::{Digest, media_type};
use serde::Serialize;

use crate::access::{AccessRequest, Action, Decision, Scope};
use crate::body::{self, Incoming};
use crate::conditional;
use crate::error::{ApiError, Code};
use crate::listings::Listed;
use crate::route::{self, ManifestReference, Operation, Route, Start};
use crate::service::Service;
use crate::uploads::uploaded_range;
use crate::{ContentRange, RangeRequest, RepositoryName, Tag};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// What a digest names never changes.
const CACHE_FOREVER: &str = "max-age=31536000";
const OCTETS: &str = "application/octet-stream";
const JSON: &str = "application/json";

pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new().fallback(respond).with_state(service)
}

type Answer = Result<Response, ApiError>;

/// Answers in a task of its own: a client that goes away must not stop an upload between
/// receiving bytes and making them safe.
async fn respond(State(service): State<Arc<Service>>, request: Request) -> Response {
    let is_head = request.method() == http::Method::HEAD;
    let answered = tokio::spawn(answer(service, request));
    let answer = answered.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request was not answered");
        Err(ApiError::new(Code::Unknown, "internal error"))
    });
    let mut response = answer.unwrap_or_else(|error| refuse(&error));
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if is_head {
        *response.body_mut() = Body::empty();
    }
    response
}

async fn answer(service: Arc<Service>, request: Request) -> Answer {
    let (head, body) = request.into_parts();
    let size_bytes = text(&head.headers, &header::CONTENT_LENGTH).and_then(|n| n.parse().ok());
    let chunks = body.into_data_stream();
    let chunks = chunks.map(|chunk| chunk.map_err(io::Error::other)).boxed();
    let mut body = Incoming::new(chunks, size_bytes, service.options.body_idle_timeout);
    let exchange = Exchange { service, head };
    let answer = exchange.dispatch(&mut body).await;
    // A client that waits for `100 Continue` has sent nothing, and need not.
    if answer.is_err() && !exchange.head.headers.contains_key(header::EXPECT) {
        body.drain().await;
    }
    answer
}

/// A request without its body.
struct Exchange {
    service: Arc<Service>,
    head: http::request::Parts,
}

impl Exchange {
    async fn dispatch(&self, body: &mut Incoming) -> Answer {
        let uri = &self.head.uri;
        let route = route::route(self.head.method.as_str(), uri.path(), uri.query());
        let route = match route {
            Ok(route) => route,
            Err(refusal) => {
                // Who may not ask is not told what is wrong with the question.
                self.authorise(Action::Pull, Scope::Registry).await?;
                return Err(refusal.0);
            }
        };
        match route {
            Route::Ping => {
                self.authorise(Action::Pull, Scope::Registry).await?;
                Ok(json(StatusCode::OK, JSON, "{}".to_owned()))
            }
            Route::Catalog(page) => {
                self.authorise(Action::Pull, Scope::Catalog).await?;
                let listed = self.service.list_repositories(&page).await?;
                list("/v2/_catalog", JSON, &listed)
            }
            Route::Repository(name, operation) => {
                let scope = Scope::Repository(&name);
                self.authorise(action(&operation), scope).await?;
                self.perform(&name, operation, body).await
            }
        }
    }

    async fn authorise(&self, action: Action, scope: Scope<'_>) -> Result<(), ApiError> {
        let authorization = text(&self.head.headers, &header::AUTHORIZATION);
        let request = AccessRequest {
            authorization,
            action,
            scope,
        };
        match self.service.options.access.decide(&request).await {
            Decision::Allow => Ok(()),
            Decision::Deny => Err(ApiError::new(Code::Denied, "access denied")),
            Decision::Challenge(challenge) => {
                let error = ApiError::new(Code::Unauthorized, "authentication required");
                Err(error.with_header("www-authenticate", challenge))
            }
        }
    }

    async fn perform(
        &self,
        name: &RepositoryName,
        operation: Operation,
        body: &mut Incoming,
    ) -> Answer {
        match operation {
            Operation::ListTags(page) => {
                let listed = self.service.list_tags(name, &page).await?;
                list(&format!("/v2/{name}/tags/list"), JSON, &listed)
            }
            Operation::ListReferrers {
                subject,
                artifact_type,
                page,
            } => {
                let wanted = artifact_type.as_deref();
                self.list_referrers(name, &subject, wanted, &page).await
            }
            Operation::GetManifest(reference) => self.get_manifest(name, &reference).await,
            Operation::PutManifest { reference, tags } => {
                self.put_manifest(name, &reference, &tags, body).await
            }
            Operation::DeleteManifest(reference) => {
                self.service.delete_manifest(name, &reference).await?;
                Ok(empty(StatusCode::ACCEPTED))
            }
            Operation::GetBlob(digest) => self.get_blob(name, &digest).await,
            Operation::HeadBlob(digest) => {
                let info = self.service.head_blob(name, &digest).await?;
                Ok(blob_head(StatusCode::OK, &info, info.size_bytes))
            }
            Operation::DeleteBlob(digest) => {
                self.service.delete_blob(name, &digest).await?;
                Ok(empty(StatusCode::ACCEPTED))
            }
            Operation::StartUpload(start) => self.start_upload(name, start, body).await,
            Operation::UploadStatus(id) => {
                let offset = self.service.upload_status(name, &id).await?;
                Ok(upload(StatusCode::NO_CONTENT, name, &id, offset))
            }
            Operation::AppendUpload(id) => self.append_upload(name, &id, body).await,
            Operation::FinishUpload { id, digest } => {
                self.finish_upload(name, &id, &digest, body).await
            }
            Operation::CancelUpload(id) => {
                self.service.cancel_upload(name, &id).await?;
                Ok(empty(StatusCode::NO_CONTENT))
            }
        }
    }

    async fn list_referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
        page: &route::Page,
    ) -> Answer {
        let mut listed = self
            .service
            .list_referrers(name, subject, artifact_type, page)
            .await?;
        if let (Some(next), Some(wanted)) = (&mut listed.next, artifact_type) {
            next.push_str("&artifactType=");
            next.push_str(&crate::percent::encode(wanted));
        }
        let path = format!("/v2/{name}/referrers/{subject}");
        let mut response = list(&path, media_type::OCI_INDEX, &listed)?;
        if artifact_type.is_some() {
            set(&mut response, OCI_FILTERS_APPLIED, "artifactType");
        }
        Ok(response)
    }

    async fn get_manifest(&self, name: &RepositoryName, reference: &ManifestReference) -> Answer {
        let manifest = self.service.find_manifest(name, reference).await?;
        if self.has_already(&manifest.digest) {
            return Ok(not_modified(&manifest.digest));
        }
        let document = self.service.manifest_bytes(name, &manifest).await?;
        let size = document.len();
        let mut response = Response::new(Body::from(document));
        set(&mut response, header::CONTENT_TYPE, &manifest.media_type);
        set(&mut response, header::CONTENT_LENGTH, &size.to_string());
        set_identity(&mut response, &manifest.digest);
        Ok(response)
    }

    async fn put_manifest(
        &self,
        name: &RepositoryName,
        reference: &ManifestReference,
        tags: &[Tag],
        body: &mut Incoming,
    ) -> Answer {
        let limit = self.service.options.manifest_bytes_max;
        let _room = self.service.room_for_manifest(body.size_bytes).await;
        let document = body.collect(limit).await?;
        let content_type = text(&self.head.headers, &header::CONTENT_TYPE).unwrap_or_default();
        let accepted = self
            .service
            .put_manifest(name, reference, tags, content_type, document)
            .await?;
        let mut response = empty(StatusCode::CREATED);
        let location = format!("/v2/{name}/manifests/{}", accepted.digest);
        set(&mut response, header::LOCATION, &location);
        set(&mut response, CONTENT_DIGEST, &accepted.digest.to_string());
        if let Some(subject) = accepted.subject {
            set(&mut response, OCI_SUBJECT, &subject.to_string());
        }
        for tag in tags {
            add(&mut response, OCI_TAG, tag.as_str());
        }
        Ok(response)
    }

    async fn get_blob(&self, name: &RepositoryName, digest: &Digest) -> Answer {
        let reader = self.service.read_blob(name, digest).await?;
        if self.has_already(digest) {
            return Ok(not_modified(digest));
        }
        let info = reader.info().clone();
        let Some(range) = self.range(digest) else {
            let mut response = blob_head(StatusCode::OK, &info, info.size_bytes);
            *response.body_mut() = Body::from_stream(body::outgoing(reader));
            return Ok(response);
        };
        let Some(span) = range.within(info.size_bytes) else {
            let error = ApiError::new(Code::RangeInvalid, "the blob has no such range");
            let whole = format!("bytes */{}", info.size_bytes);
            return Err(error.with_header("content-range", whole));
        };
        let part = reader.restricted_to(ByteRange {
            start: span.first,
            end: Some(span.end),
        });
        let size = part.remaining_bytes();
        let mut response = blob_head(StatusCode::PARTIAL_CONTENT, &info, size);
        let last = span.end - 1;
        let place = format!("bytes {}-{last}/{}", span.first, info.size_bytes);
        set(&mut response, header::CONTENT_RANGE, &place);
        *response.body_mut() = Body::from_stream(body::outgoing(part));
        Ok(response)
    }

    /// The range that is asked for, unless the client has a part of something else
    /// (RFC 9110, section 13.1.5).
    fn range(&self, digest: &Digest) -> Option<RangeRequest> {
        let headers = &self.head.headers;
        let range = RangeRequest::parse(text(headers, &header::RANGE)?)?;
        match text(headers, &header::IF_RANGE) {
            Some(validator) if validator != conditional::etag(digest) => None,
            _ => Some(range),
        }
    }

    fn has_already(&self, digest: &Digest) -> bool {
        let known = self.head.headers.get_all(header::IF_NONE_MATCH);
        known
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| conditional::names(value, digest))
    }

    async fn start_upload(
        &self,
        name: &RepositoryName,
        start: Start,
        body: &mut Incoming,
    ) -> Answer {
        let algorithm = match start {
            Start::Session(algorithm) => algorithm,
            Start::Whole(digest) => {
                let pushed = self.service.push_whole(name, &digest, body);
                return Ok(created_blob(name, &pushed.await?.digest));
            }
            Start::Mount { digest, from } => {
                if self.mount(name, &digest, from).await? {
                    return Ok(created_blob(name, &digest));
                }
                digest.algorithm()
            }
        };
        let id = self.service.start_upload(name, algorithm).await?;
        Ok(upload(StatusCode::ACCEPTED, name, &id, 0))
    }

    /// Mounts from the named repository, or from the first that the caller may read.
    async fn mount(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        from: Option<RepositoryName>,
    ) -> Result<bool, ApiError> {
        let candidates = match from {
            Some(from) => vec![from],
            None => self.service.holders(digest).await?,
        };
        for candidate in candidates {
            let scope = Scope::Repository(&candidate);
            if self.authorise(Action::Pull, scope).await.is_ok()
                && self.service.mount_blob(name, digest, &candidate).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn append_upload(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        body: &mut Incoming,
    ) -> Answer {
        let range = self.content_range()?;
        let appended = self.service.append(name, id, range, body).await;
        let offset = appended.map_err(|error| locate(error, name, id))?;
        Ok(upload(StatusCode::ACCEPTED, name, id, offset))
    }

    async fn finish_upload(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        digest: &Digest,
        body: &mut Incoming,
    ) -> Answer {
        let range = self.content_range()?;
        let finished = self.service.finish(name, id, digest, range, body).await;
        let info = finished.map_err(|error| locate(error, name, id))?;
        Ok(created_blob(name, &info.digest))
    }

    fn content_range(&self) -> Result<Option<ContentRange>, ApiError> {
        let Some(value) = text(&self.head.headers, &header::CONTENT_RANGE) else {
            return Ok(None);
        };
        match ContentRange::parse(value) {
            Some(range) => Ok(Some(range)),
            None => {
                let message = "Content-Range is not `<first>-<last>`";
                Err(ApiError::new(Code::RangeInvalid, message))
            }
        }
    }
}

fn action(operation: &Operation) -> Action {
    match operation {
        Operation::ListTags(_)
        | Operation::ListReferrers { .. }
        | Operation::GetManifest(_)
        | Operation::GetBlob(_)
        | Operation::HeadBlob(_) => Action::Pull,
        Operation::PutManifest { .. }
        | Operation::StartUpload(_)
        | Operation::UploadStatus(_)
        | Operation::AppendUpload(_)
        | Operation::FinishUpload { .. }
        | Operation::CancelUpload(_) => Action::Push,
        Operation::DeleteManifest(_) | Operation::DeleteBlob(_) => Action::Delete,
    }
}

/// A refused chunk leaves the upload where it is: the client is told where.
fn locate(error: ApiError, name: &RepositoryName, id: &UploadId) -> ApiError {
    if error.status != 416 {
        return error;
    }
    error
        .with_header("location", upload_path(name, id))
        .with_header("docker-upload-uuid", id.as_str())
}

fn upload_path(name: &RepositoryName, id: &UploadId) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

fn text<'a>(headers: &'a http::HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What cannot be a header value is left out; all values here are made of checked parts.
fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn add(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().append(name, value);
    }
}

fn set_identity(response: &mut Response, digest: &Digest) {
    set(response, CONTENT_DIGEST, &digest.to_string());
    set(response, header::ETAG, &conditional::etag(digest));
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        set(&mut response, header::CONTENT_LENGTH, "0");
    }
    response
}

fn json(status: StatusCode, content_type: &str, body: String) -> Response {
    let size = body.len().to_string();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, content_type);
    set(&mut response, header::CONTENT_LENGTH, &size);
    response
}

fn refuse(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, JSON, error.to_json());
    for (name, value) in &error.headers {
        set(&mut response, HeaderName::from_static(name), value);
    }
    response
}

fn list<T: Serialize>(path: &str, content_type: &str, listed: &Listed<T>) -> Answer {
    let body = serde_json::to_string(&listed.entries).map_err(|error| {
        tracing::error!(%error, "cannot write a list");
        ApiError::new(Code::Unknown, "the list cannot be written")
    })?;
    let mut response = json(StatusCode::OK, content_type, body);
    if let Some(next) = &listed.next {
        let link = format!("<{path}?{next}>; rel=\"next\"");
        set(&mut response, header::LINK, &link);
    }
    Ok(response)
}

fn not_modified(digest: &Digest) -> Response {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    set_identity(&mut response, digest);
    response
}

fn blob_head(status: StatusCode, info: &BlobInfo, size_bytes: u64) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, OCTETS);
    set(
        &mut response,
        header::CONTENT_LENGTH,
        &size_bytes.to_string(),
    );
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(&mut response, header::CACHE_CONTROL, CACHE_FOREVER);
    set_identity(&mut response, &info.digest);
    response
}

fn created_blob(name: &RepositoryName, digest: &Digest) -> Response {
    let mut response = empty(StatusCode::CREATED);
    let location = format!("/v2/{name}/blobs/{digest}");
    set(&mut response, header::LOCATION, &location);
    set(&mut response, CONTENT_DIGEST, &digest.to_string());
    response
}

fn upload(status: StatusCode, name: &RepositoryName, id: &UploadId, offset: u64) -> Response {
    let mut response = empty(status);
    set(&mut response, header::LOCATION, &upload_path(name, id));
    set(&mut response, header::RANGE, &uploaded_range(offset));
    set(&mut response, UPLOAD_UUID, id.as_str());
    response
}
