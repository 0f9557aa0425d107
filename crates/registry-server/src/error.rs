//! What a request can be refused with (distribution-spec, "Error codes").

use longshore_content::ContentError;
use longshore_oci::Digest;
use serde_json::{Value, json};

/// An error code, with the status it usually comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    PaginationNumberInvalid,
    RangeInvalid,
    SizeInvalid,
    TagInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    Unknown,
}

impl Code {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn status(self) -> u16 {
        match self {
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown => 404,
            Self::RangeInvalid => 416,
            Self::Unauthorized => 401,
            Self::Denied => 403,
            Self::Unsupported => 405,
            Self::Unknown => 500,
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestBlobUnknown
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::PaginationNumberInvalid
            | Self::SizeInvalid
            | Self::TagInvalid => 400,
        }
    }
}

/// A refusal: a status, headers that belong to it, and at least one coded error.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    entries: Vec<Value>,
}

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            status: code.status(),
            headers: Vec::new(),
            entries: vec![entry(code, &message.into(), None)],
        }
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// One error for each thing that a manifest needs and the repository has not.
    pub(crate) fn missing(digests: &[Digest]) -> Self {
        let code = Code::ManifestBlobUnknown;
        let message = "a blob or manifest that this manifest needs is not in the repository";
        let entries = digests
            .iter()
            .map(|digest| entry(code, message, Some(json!({ "digest": digest }))))
            .collect();
        Self {
            status: code.status(),
            headers: Vec::new(),
            entries,
        }
    }

    /// The response's body.
    pub(crate) fn to_json(&self) -> String {
        json!({ "errors": self.entries }).to_string()
    }
}

fn entry(code: Code, message: &str, detail: Option<Value>) -> Value {
    let mut entry = json!({ "code": code.as_str(), "message": message });
    if let Some(detail) = detail {
        entry["detail"] = detail;
    }
    entry
}

impl From<ContentError> for ApiError {
    /// What a client can do about it; the rest is for the log.
    fn from(error: ContentError) -> Self {
        if error.is_out_of_space() {
            tracing::error!(%error, "out of space");
            return Self::new(Code::Unknown, "the registry is out of space").with_status(507);
        }
        match error {
            ContentError::DigestMismatch { .. } => {
                Self::new(Code::DigestInvalid, error.to_string())
            }
            ContentError::UploadBusy(_) => {
                Self::new(Code::BlobUploadInvalid, error.to_string()).with_status(409)
            }
            other => {
                tracing::error!(error = %other, "storage failed");
                Self::new(Code::Unknown, "the registry's storage failed")
            }
        }
    }
}
