//! Conditional requests (RFC 9110, section 13): an entity tag is the quoted digest.

use longshore_oci::Digest;

pub(crate) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether an `If-None-Match` value names the content.
pub(crate) fn names(if_none_match: &str, digest: &Digest) -> bool {
    let etag = etag(digest);
    if_none_match.split(',').map(str::trim).any(|candidate| {
        candidate == "*" || candidate.strip_prefix("W/").unwrap_or(candidate) == etag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tags_names_its_members() {
        let digest = Digest::sha256_of(b"");
        let etag = etag(&digest);
        for value in ["*", &etag, &format!("W/{etag}"), &format!("\"x\" , {etag}")] {
            assert!(names(value, &digest), "{value}");
        }
        for value in ["", "\"x\"", digest.to_string().as_str()] {
            assert!(!names(value, &digest), "{value}");
        }
    }
}
