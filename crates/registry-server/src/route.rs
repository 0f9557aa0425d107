//! From a request line to what is asked for, as a pure function.
//!
//! Repository names contain slashes, so paths are read from their end. The rows are those of
//! the distribution specification's table of endpoints.

use longshore_content::UploadId;
use longshore_oci::{Algorithm, Digest};

use crate::error::{ApiError, Code};
use crate::percent;
use crate::{RepositoryName, Tag};

/// Tags that one request may set; the specification asks for 10 at least.
const TAGS_PER_PUT_MAX: usize = 64;

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many entries are wanted.
    pub n: Option<usize>,
    /// The entry after which it starts.
    pub last: Option<String>,
}

/// A manifest's name in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestReference {
    /// By tag.
    Tag(Tag),
    /// By digest.
    Digest(Digest),
}

/// How an upload starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A session that chunks are sent to.
    Session(Algorithm),
    /// The whole blob is in this request.
    Whole(Digest),
    /// A blob of another repository is wanted, or of any.
    Mount {
        /// The blob.
        digest: Digest,
        /// The repository that is said to have it.
        from: Option<RepositoryName>,
    },
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Is this a registry?
    Ping,
    /// Which repositories are there?
    Catalog(Page),
    /// Something of a repository.
    Repository(RepositoryName, Operation),
}

/// What is asked of a repository. `HEAD` is a get whose body is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Which tags are there?
    ListTags(Page),
    /// Which manifests refer to this one?
    ListReferrers {
        /// The manifest that is referred to.
        subject: Digest,
        /// Only those of this type.
        artifact_type: Option<String>,
        /// The part of the list.
        page: Page,
    },
    /// Read a manifest.
    GetManifest(ManifestReference),
    /// Store a manifest.
    PutManifest {
        /// Its name.
        reference: ManifestReference,
        /// Further tags for it.
        tags: Vec<Tag>,
    },
    /// Remove a tag, or a manifest with its tags.
    DeleteManifest(ManifestReference),
    /// Read a blob.
    GetBlob(Digest),
    /// Is the blob there?
    HeadBlob(Digest),
    /// Remove a blob.
    DeleteBlob(Digest),
    /// Start an upload.
    StartUpload(Start),
    /// How far did the upload get?
    UploadStatus(UploadId),
    /// Send a chunk.
    AppendUpload(UploadId),
    /// Send the last chunk, which may be empty, and make it a blob.
    FinishUpload {
        /// The upload.
        id: UploadId,
        /// The whole blob's digest.
        digest: Digest,
    },
    /// Forget the upload.
    CancelUpload(UploadId),
}

/// Why a request line is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal(pub(crate) ApiError);

impl Refusal {
    /// The response's status.
    pub fn status(&self) -> u16 {
        self.0.status
    }
}

/// What the request line asks for. `path` and `query` are as they were sent, undecoded.
///
/// # Errors
/// When it is nothing that a registry does, or a name in it is invalid.
pub fn route(method: &str, path: &str, query: Option<&str>) -> Result<Route, Refusal> {
    let parsed = percent::decode(path).zip(percent::query(query.unwrap_or_default()));
    let Some((path, parameters)) = parsed else {
        let error = ApiError::new(Code::Unsupported, "malformed percent-encoding");
        return Err(Refusal(error.with_status(400)));
    };
    let query = Query(parameters);
    find(method, &path, &query).map_err(Refusal)
}

struct Query(Vec<(String, String)>);

impl Query {
    fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let matching = self.0.iter().filter(move |(key, _)| key == name);
        matching.map(|(_, value)| value.as_str())
    }
}

fn find(method: &str, path: &str, query: &Query) -> Result<Route, ApiError> {
    let Some(rest) = path.strip_prefix("/v2") else {
        return Err(nowhere(path));
    };
    if !rest.is_empty() && !rest.starts_with('/') {
        return Err(nowhere(path));
    }
    let segments: Vec<&str> = rest.split('/').skip(1).collect();
    match segments.as_slice() {
        [] | [""] => only(method, &["GET", "HEAD"], Route::Ping),
        ["_catalog"] => only(method, &["GET", "HEAD"], Route::Catalog(page(query)?)),
        [name @ .., "tags", "list"] => {
            let operation = only(method, &["GET", "HEAD"], Operation::ListTags(page(query)?))?;
            repository(name, operation)
        }
        [name @ .., "manifests", reference] => {
            repository(name, manifest(method, reference, query)?)
        }
        [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
            let operation = Operation::StartUpload(start(method, query)?);
            repository(name, operation)
        }
        [name @ .., "blobs", "uploads", id] => repository(name, upload(method, id, query)?),
        [name @ .., "blobs", reference] => repository(name, blob(method, reference)?),
        [name @ .., "referrers", subject] => {
            let operation = Operation::ListReferrers {
                subject: digest(subject)?,
                artifact_type: query.first("artifactType").map(str::to_owned),
                page: page(query)?,
            };
            repository(name, only(method, &["GET", "HEAD"], operation)?)
        }
        _ => Err(nowhere(path)),
    }
}

fn nowhere(path: &str) -> ApiError {
    let shown: String = path.chars().take(300).collect();
    ApiError::new(Code::Unsupported, format!("nothing is at `{shown}`")).with_status(404)
}

fn only<T>(method: &str, allowed: &[&str], value: T) -> Result<T, ApiError> {
    if allowed.contains(&method) {
        return Ok(value);
    }
    let error = ApiError::new(Code::Unsupported, "the method is not supported here");
    Err(error.with_header("allow", allowed.join(", ")))
}

fn repository(name: &[&str], operation: Operation) -> Result<Route, ApiError> {
    let name = name.join("/");
    Ok(Route::Repository(repository_name(&name)?, operation))
}

fn repository_name(name: &str) -> Result<RepositoryName, ApiError> {
    name.parse().map_err(|_| {
        let shown: String = name.chars().take(300).collect();
        ApiError::new(
            Code::NameInvalid,
            format!("invalid repository name `{shown}`"),
        )
    })
}

fn manifest(method: &str, reference: &str, query: &Query) -> Result<Operation, ApiError> {
    let allowed = ["GET", "HEAD", "PUT", "DELETE"];
    only(method, &allowed, ())?;
    let reference = manifest_reference(reference)?;
    Ok(match method {
        "PUT" => Operation::PutManifest {
            reference,
            tags: tags(query)?,
        },
        "DELETE" => Operation::DeleteManifest(reference),
        _ => Operation::GetManifest(reference),
    })
}

/// A tag has no colon and a digest has one, so nothing is both.
fn manifest_reference(text: &str) -> Result<ManifestReference, ApiError> {
    if text.contains(':') {
        return Ok(ManifestReference::Digest(digest(text)?));
    }
    Ok(ManifestReference::Tag(tag(text)?))
}

fn tag(text: &str) -> Result<Tag, ApiError> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(200).collect();
        ApiError::new(Code::TagInvalid, format!("invalid tag `{shown}`"))
    })
}

fn tags(query: &Query) -> Result<Vec<Tag>, ApiError> {
    let tags = query.all("tag").map(tag).collect::<Result<Vec<_>, _>>()?;
    if tags.len() > TAGS_PER_PUT_MAX {
        let message = format!("more than {TAGS_PER_PUT_MAX} tags in one request");
        return Err(ApiError::new(Code::TagInvalid, message).with_status(414));
    }
    Ok(tags)
}

fn digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|error: longshore_oci::DigestError| {
        ApiError::new(Code::DigestInvalid, error.to_string())
    })
}

fn blob(method: &str, reference: &str) -> Result<Operation, ApiError> {
    only(method, &["GET", "HEAD", "DELETE"], ())?;
    let digest = digest(reference)?;
    Ok(match method {
        "HEAD" => Operation::HeadBlob(digest),
        "DELETE" => Operation::DeleteBlob(digest),
        _ => Operation::GetBlob(digest),
    })
}

fn start(method: &str, query: &Query) -> Result<Start, ApiError> {
    only(method, &["POST"], ())?;
    if let Some(mounted) = query.first("mount") {
        let from = query.first("from").filter(|from| !from.is_empty());
        return Ok(Start::Mount {
            digest: digest(mounted)?,
            from: from.map(repository_name).transpose()?,
        });
    }
    if let Some(text) = query.first("digest") {
        return Ok(Start::Whole(digest(text)?));
    }
    let algorithm = query.first("digest-algorithm").unwrap_or("sha256");
    let parsed = algorithm.parse::<Algorithm>();
    let algorithm =
        parsed.map_err(|error| ApiError::new(Code::DigestInvalid, error.to_string()))?;
    Ok(Start::Session(algorithm))
}

fn upload(method: &str, id: &str, query: &Query) -> Result<Operation, ApiError> {
    let allowed = ["GET", "HEAD", "PATCH", "PUT", "DELETE"];
    only(method, &allowed, ())?;
    let parsed = id.parse::<UploadId>();
    let id = parsed.map_err(|_| ApiError::new(Code::BlobUploadUnknown, "no such upload"))?;
    Ok(match method {
        "PATCH" => Operation::AppendUpload(id),
        "PUT" => {
            let text = query.first("digest").unwrap_or_default();
            let digest = digest(text)?;
            Operation::FinishUpload { id, digest }
        }
        "DELETE" => Operation::CancelUpload(id),
        _ => Operation::UploadStatus(id),
    })
}

fn page(query: &Query) -> Result<Page, ApiError> {
    let invalid = || ApiError::new(Code::PaginationNumberInvalid, "`n` is not a number");
    let n = match query.first("n") {
        Some(n) if n.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(n.parse().map_err(|_| invalid())?)
        }
        Some(_) => return Err(invalid()),
        None => None,
    };
    let last = query.first("last").filter(|last| !last.is_empty());
    Ok(Page {
        n,
        last: last.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn repository_of(method: &str, path: &str) -> (String, Operation) {
        let (path, query) = path
            .split_once('?')
            .map_or((path, None), |(p, q)| (p, Some(q)));
        match route(method, path, query) {
            Ok(Route::Repository(name, operation)) => (name.to_string(), operation),
            other => panic!("{method} {path}: {other:?}"),
        }
    }

    fn status(method: &str, path: &str) -> u16 {
        let (path, query) = path
            .split_once('?')
            .map_or((path, None), |(p, q)| (p, Some(q)));
        route(method, path, query).unwrap_err().status()
    }

    #[test]
    fn the_base_is_found_with_and_without_slash() {
        assert_eq!(route("GET", "/v2", None), Ok(Route::Ping));
        assert_eq!(route("HEAD", "/v2/", None), Ok(Route::Ping));
        assert_eq!(status("POST", "/v2/"), 405);
        assert_eq!(status("GET", "/v1/"), 404);
        assert_eq!(status("GET", "/v2x"), 404);
        assert_eq!(status("GET", "/v2/what"), 404);
    }

    #[test]
    fn names_may_look_like_parts_of_paths() {
        let (name, _) = repository_of("GET", "/v2/blobs/uploads/tags/tags/list");
        assert_eq!(name, "blobs/uploads/tags");
        let (name, _) = repository_of("POST", "/v2/a/blobs/uploads/b/blobs/uploads/");
        assert_eq!(name, "a/blobs/uploads/b");
        let (name, operation) = repository_of("GET", "/v2/a/manifests/manifests/list");
        assert_eq!(name, "a/manifests");
        let tag = "list".parse().unwrap();
        assert_eq!(
            operation,
            Operation::GetManifest(ManifestReference::Tag(tag))
        );
    }

    #[test]
    fn digests_may_be_escaped_and_must_be_valid() {
        let (_, plain) = repository_of("GET", &format!("/v2/a/blobs/sha256:{HEX}"));
        let (_, escaped) = repository_of("GET", &format!("/v2/a/blobs/sha256%3A{HEX}"));
        assert_eq!(plain, escaped);
        assert_eq!(status("PUT", "/v2/a/manifests/sha256:baddigeststring"), 400);
        assert_eq!(status("GET", "/v2/a/blobs/sha256:..%2f..%2fetc"), 404);
        assert_eq!(status("GET", "/v2/a/blobs/md5:00"), 400);
        assert_eq!(status("GET", "/v2/a/referrers/latest"), 400);
    }

    #[test]
    fn invalid_names_and_escapes_are_refused() {
        assert_eq!(status("GET", "/v2/A/tags/list"), 400);
        assert_eq!(status("GET", "/v2//tags/list"), 400);
        assert_eq!(status("GET", "/v2/tags/list"), 400);
        assert_eq!(status("GET", "/v2/a/../b/tags/list"), 400);
        assert_eq!(status("GET", "/v2/a%zz/tags/list"), 400);
        assert_eq!(status("GET", "/v2/a/manifests/.bad"), 400);
    }

    #[test]
    fn uploads_start_in_three_ways() {
        let start = |path: &str| match repository_of("POST", path).1 {
            Operation::StartUpload(start) => start,
            other => panic!("{other:?}"),
        };
        let digest = Digest::sha256_of(b"");
        let uploads = "/v2/a/blobs/uploads/";
        assert_eq!(start(uploads), Start::Session(Algorithm::Sha256));
        assert_eq!(
            start("/v2/a/blobs/uploads"),
            Start::Session(Algorithm::Sha256)
        );
        let sha512 = start(&format!("{uploads}?digest-algorithm=sha512"));
        assert_eq!(sha512, Start::Session(Algorithm::Sha512));
        let whole = start(&format!("{uploads}?digest=sha256%3A{HEX}"));
        assert_eq!(whole, Start::Whole(digest));
        let mount = start(&format!("{uploads}?mount=sha256:{HEX}&from=b%2Fc"));
        let from = Some("b/c".parse().unwrap());
        assert_eq!(mount, Start::Mount { digest, from });
        let anonymous = start(&format!("{uploads}?from=&mount=sha256:{HEX}"));
        assert_eq!(anonymous, Start::Mount { digest, from: None });
        assert_eq!(
            status("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5"),
            400
        );
        assert_eq!(status("POST", "/v2/a/blobs/uploads/?digest=bad"), 400);
        assert_eq!(status("PUT", "/v2/a/blobs/uploads/x"), 400);
        assert_eq!(status("PUT", "/v2/a/blobs/uploads/x?digest=sha256:00"), 400);
        assert_eq!(status("PATCH", "/v2/a/blobs/uploads/x.y"), 404);
    }

    #[test]
    fn pages_and_tags_are_read_from_the_query() {
        let (_, operation) = repository_of("GET", "/v2/a/tags/list?n=0&last=v1");
        let last = Some("v1".to_owned());
        assert_eq!(operation, Operation::ListTags(Page { n: Some(0), last }));
        assert_eq!(status("GET", "/v2/a/tags/list?n=-1"), 400);
        assert_eq!(status("GET", "/v2/a/tags/list?n=x"), 400);
        let (_, operation) =
            repository_of("PUT", &format!("/v2/a/manifests/sha256:{HEX}?tag=a&tag=b"));
        assert!(matches!(operation, Operation::PutManifest { tags, .. } if tags.len() == 2));
        assert_eq!(status("PUT", "/v2/a/manifests/t?tag=/"), 400);
        let many = "&tag=x".repeat(65);
        assert_eq!(status("PUT", &format!("/v2/a/manifests/t?{many}")), 414);
    }

    proptest! {
        #[test]
        fn routing_is_total(method in "[A-Z]{0,7}", path: String, query: Option<String>) {
            let _outcome = route(&method, &path, query.as_deref());
        }

        #[test]
        fn any_path_below_a_repository_keeps_its_name(
            name in "[a-z0-9]{1,5}(/(blobs|uploads|tags|manifests|list|[a-z0-9]{1,5})){0,4}",
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
        ) {
            let (found, operation) = repository_of("GET", &format!("/v2/{name}/tags/list"));
            prop_assert_eq!(&found, &name);
            prop_assert!(matches!(operation, Operation::ListTags(_)));
            let (found, operation) = repository_of("PUT", &format!("/v2/{name}/manifests/{tag}"));
            // `…/blobs/uploads` followed by a name is never read as an upload of a shorter one.
            prop_assert_eq!(&found, &name);
            let is_put = matches!(operation, Operation::PutManifest { .. });
            prop_assert!(is_put);
            let (found, _) = repository_of("POST", &format!("/v2/{name}/blobs/uploads/"));
            prop_assert_eq!(&found, &name);
        }
    }
}
