//! The content of a `config.json` or `auth.json`: a pure view and pure edits.
//!
//! ```text
//! { "auths":       { "<key>": { "auth": base64(user:password), "identitytoken": … } },
//!   "credHelpers": { "<host>": "<helper>" },
//!   "credsStore":  "<helper>", … }
//! ```
//! A key is a host, a host and a repository prefix (containers), or a URL (Docker's
//! older forms). `docker.io` is `https://index.docker.io/v1/` to Docker.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Credentials;
use super::raw_object::RawObject;
use crate::Secret;

/// Docker Hub's key in Docker's own files and helpers.
pub(super) const HUB_KEY: &str = "https://index.docker.io/v1/";
const HUB: &str = "docker.io";

/// A parsed credential file.
#[derive(Debug, Default)]
pub(super) struct AuthFile(RawObject);

/// The helper that is responsible for a registry, and the name it knows it by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HelperEntry {
    pub(super) helper: String,
    pub(super) server: String,
}

#[derive(Deserialize)]
struct AuthEntry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

impl AuthFile {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        // serde_json's own message may quote the text, which may be a secret.
        serde_json::from_str(text).map(Self).map_err(|error| {
            format!(
                "not a JSON object at line {} column {}",
                error.line(),
                error.column()
            )
        })
    }

    pub(super) fn to_text(&self) -> String {
        self.0.to_text(0) + "\n"
    }

    /// The helper for a registry: `credHelpers` first, then `credsStore`.
    pub(super) fn helper(&self, registry: &str) -> Option<HelperEntry> {
        self.registry_helper(registry)
            .or_else(|| self.default_helper(registry))
    }

    fn registry_helper(&self, registry: &str) -> Option<HelperEntry> {
        let helpers = self.object("credHelpers");
        aliases(registry).into_iter().find_map(|key| {
            let helper = text_of(helpers.member(&key)?)?;
            Some(HelperEntry {
                helper,
                server: key,
            })
        })
    }

    fn default_helper(&self, registry: &str) -> Option<HelperEntry> {
        let helper = text_of(self.0.member("credsStore")?)?;
        let server = if registry == HUB { HUB_KEY } else { registry };
        Some(HelperEntry {
            helper,
            server: server.to_owned(),
        })
    }

    /// The credentials that stand in the file itself; the longest matching key wins.
    pub(super) fn lookup(
        &self,
        registry: &str,
        repository: Option<&str>,
    ) -> Result<Option<Credentials>, String> {
        let auths = self.object("auths");
        for key in lookup_keys(registry, repository) {
            let Some(entry) = auths.member(&key) else {
                continue;
            };
            if let Some(credentials) = decode_entry(entry, &key)? {
                return Ok(Some(credentials));
            }
        }
        Ok(None)
    }

    /// Puts credentials under the registry's key, replacing older spellings of it.
    pub(super) fn store(
        &mut self,
        registry: &str,
        entry: &serde_json::Value,
    ) -> Result<(), String> {
        self.edit_auths(|auths| {
            let key = stored_key(registry);
            auths.remove(|other| other != key && is_key_of(other, registry));
            let raw = RawValue::from_string(entry.to_string()).map_err(|e| e.to_string())?;
            auths.set(key, raw);
            Ok(true)
        })
        .map(|_| ())
    }

    /// Removes all entries of the registry; tells whether there were any.
    pub(super) fn erase(&mut self, registry: &str) -> Result<bool, String> {
        self.edit_auths(|auths| Ok(auths.remove(|key| is_key_of(key, registry))))
    }

    fn edit_auths(
        &mut self,
        edit: impl FnOnce(&mut RawObject) -> Result<bool, String>,
    ) -> Result<bool, String> {
        let mut auths = self.object("auths");
        let changed = edit(&mut auths)?;
        if changed {
            let raw = auths.to_raw(1).map_err(|error| error.to_string())?;
            self.0.set("auths", raw);
        }
        Ok(changed)
    }

    /// A member that is an object; anything else counts as empty.
    fn object(&self, name: &str) -> RawObject {
        let member = self.0.member(name);
        member
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default()
    }
}

/// What is written for credentials that a file can hold.
pub(super) fn encode_entry(credentials: &Credentials) -> serde_json::Value {
    match credentials {
        Credentials::Password { username, password } => serde_json::json!({
            "auth": STANDARD.encode(format!("{username}:{}", password.expose())),
        }),
        Credentials::IdentityToken(token) => serde_json::json!({
            "auth": STANDARD.encode("<token>:"),
            "identitytoken": token.expose(),
        }),
        Credentials::RegistryToken(token) => serde_json::json!({
            "registrytoken": token.expose(),
        }),
    }
}

fn decode_entry(raw: &RawValue, key: &str) -> Result<Option<Credentials>, String> {
    let entry: AuthEntry = serde_json::from_str(raw.get())
        .map_err(|_| format!("the entry for `{key}` has another shape"))?;
    if !entry.identitytoken.is_empty() {
        let token = Secret::new(entry.identitytoken);
        return Ok(Some(Credentials::IdentityToken(token)));
    }
    if !entry.registrytoken.is_empty() {
        let token = Secret::new(entry.registrytoken);
        return Ok(Some(Credentials::RegistryToken(token)));
    }
    if !entry.auth.is_empty() {
        let decoded = decode_basic(&entry.auth);
        return decoded
            .map(Some)
            .ok_or_else(|| format!("the `auth` for `{key}` is not base64 of `user:password`"));
    }
    if !entry.username.is_empty() {
        let credentials = Credentials::password(entry.username, entry.password);
        return Ok(Some(credentials));
    }
    Ok(None)
}

/// Reads base64 of `user:password`, with or without padding. Docker cuts NULs off the end.
fn decode_basic(text: &str) -> Option<Credentials> {
    let text = text.trim().trim_end_matches('=');
    let bytes = STANDARD_NO_PAD.decode(text).ok()?;
    let plain = String::from_utf8(bytes).ok()?;
    let (username, password) = plain.split_once(':')?;
    if username.is_empty() {
        return None;
    }
    let password = password.trim_end_matches('\0');
    Some(Credentials::password(username, password))
}

fn text_of(raw: &RawValue) -> Option<String> {
    let text: String = serde_json::from_str(raw.get()).ok()?;
    (!text.is_empty()).then_some(text)
}

fn stored_key(registry: &str) -> &str {
    if registry == HUB { HUB_KEY } else { registry }
}

/// The keys that may hold the credentials, most specific first.
fn lookup_keys(registry: &str, repository: Option<&str>) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = repository.unwrap_or_default();
    while !path.is_empty() {
        keys.push(format!("{registry}/{path}"));
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    keys.extend(aliases(registry));
    keys
}

/// The spellings of a registry's own key.
fn aliases(registry: &str) -> Vec<String> {
    let mut hosts = vec![registry];
    let mut keys = Vec::new();
    if registry == HUB {
        keys.push(HUB_KEY.to_owned());
        hosts.extend(["index.docker.io", "registry-1.docker.io"]);
    }
    for host in hosts {
        keys.push(host.to_owned());
        for scheme in ["", "https://", "http://"] {
            for path in ["", "/", "/v1", "/v1/", "/v2", "/v2/"] {
                keys.push(format!("{scheme}{host}{path}"));
            }
        }
    }
    keys
}

fn is_key_of(key: &str, registry: &str) -> bool {
    aliases(registry).iter().any(|alias| alias == key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(text: &str) -> AuthFile {
        AuthFile::parse(text).unwrap()
    }

    fn user(file: &AuthFile, registry: &str, repository: Option<&str>) -> Option<String> {
        let found = file.lookup(registry, repository).unwrap()?;
        found.username().map(str::to_owned)
    }

    fn auth(user: &str) -> String {
        STANDARD.encode(format!("{user}:pw"))
    }

    #[test]
    fn the_longest_namespace_wins() {
        let file = file(&format!(
            r#"{{"auths":{{"r.io":{{"auth":"{}"}},"r.io/a":{{"auth":"{}"}},"r.io/a/b":{{"auth":"{}"}}}}}}"#,
            auth("host"),
            auth("a"),
            auth("ab"),
        ));
        assert_eq!(user(&file, "r.io", Some("a/b")).as_deref(), Some("ab"));
        assert_eq!(user(&file, "r.io", Some("a/c")).as_deref(), Some("a"));
        assert_eq!(user(&file, "r.io", Some("ab")).as_deref(), Some("host"));
        assert_eq!(user(&file, "r.io", None).as_deref(), Some("host"));
        assert_eq!(user(&file, "r.io:5000", None), None);
    }

    #[test]
    fn hub_has_many_spellings() {
        for key in [
            "docker.io",
            HUB_KEY,
            "index.docker.io",
            "https://registry-1.docker.io",
        ] {
            let file = file(&format!(
                r#"{{"auths":{{"{key}":{{"auth":"{}"}}}}}}"#,
                auth("me")
            ));
            let found = user(&file, "docker.io", Some("library/debian"));
            assert_eq!(found.as_deref(), Some("me"), "{key}");
        }
    }

    #[test]
    fn identity_and_registry_tokens() {
        let file = file(
            r#"{"auths":{"a.io":{"auth":"PHRva2VuPjo=","identitytoken":"it"},
                "b.io":{"registrytoken":"rt"},"c.io":{}}}"#,
        );
        let found = |registry| file.lookup(registry, None).unwrap();
        assert_eq!(
            found("a.io"),
            Some(Credentials::IdentityToken(Secret::new("it")))
        );
        assert_eq!(
            found("b.io"),
            Some(Credentials::RegistryToken(Secret::new("rt")))
        );
        assert_eq!(found("c.io"), None);
    }

    #[test]
    fn helpers_by_registry_come_before_the_general_one() {
        let file = file(
            r#"{"credsStore":"desktop","credHelpers":{"r.io":"ecr-login","docker.io":"hub"}}"#,
        );
        let helper = |registry: &str| {
            let entry = file.helper(registry).unwrap();
            (entry.helper, entry.server)
        };
        assert_eq!(helper("r.io"), ("ecr-login".into(), "r.io".into()));
        assert_eq!(helper("docker.io"), ("hub".into(), "docker.io".into()));
        assert_eq!(helper("x.io"), ("desktop".into(), "x.io".into()));
    }

    #[test]
    fn broken_entries_are_named_and_not_shown() {
        let file = file(r#"{"auths":{"r.io":{"auth":"c2VjcmV0"}}}"#);
        let problem = file.lookup("r.io", None).unwrap_err();
        assert!(problem.contains("r.io") && !problem.contains("c2VjcmV0"));
        let problem = AuthFile::parse(r#"{"auths": hunter2}"#).unwrap_err();
        assert!(!problem.contains("hunter2"), "{problem}");
    }

    #[test]
    fn editing_leaves_the_rest_as_it_was() {
        let text = "{\n\t\"HttpHeaders\": {\"User-Agent\":  \"x\"},\n\t\"auths\": \
                    {\"other.io\": {\"auth\":   \"b3RoZXI6cHc=\"}},\n\t\"n\": 1.0\n}";
        let mut file = file(text);
        let credentials = Credentials::password("me", "pw");
        file.store("r.io", &encode_entry(&credentials)).unwrap();
        let written = file.to_text();
        assert!(written.contains("{\"User-Agent\":  \"x\"}"), "{written}");
        assert!(
            written.contains("{\"auth\":   \"b3RoZXI6cHc=\"}"),
            "{written}"
        );
        assert!(written.contains("\"n\": 1.0"), "{written}");
        let mut again = AuthFile::parse(&written).unwrap();
        assert_eq!(again.lookup("r.io", None).unwrap(), Some(credentials));
        assert!(again.erase("r.io").unwrap());
        assert!(!again.erase("r.io").unwrap());
        assert_eq!(again.lookup("r.io", None).unwrap(), None);
    }

    #[test]
    fn storing_for_hub_replaces_other_spellings() {
        let mut file = file(r#"{"auths":{"docker.io":{"auth":"b2xkOnB3"}}}"#);
        let new = Credentials::password("new", "pw");
        file.store("docker.io", &encode_entry(&new)).unwrap();
        assert_eq!(file.lookup("docker.io", None).unwrap(), Some(new));
        assert!(file.to_text().contains(HUB_KEY));
        assert!(!file.to_text().contains("\"docker.io\""));
    }

    proptest! {
        #[test]
        fn parsing_is_total(text in ".{0,200}") {
            if let Ok(file) = AuthFile::parse(&text) {
                let _ = file.lookup("docker.io", Some("library/debian"));
                let _ = file.helper("docker.io");
            }
        }

        #[test]
        fn basic_round_trips(user in "[^:\0]{1,20}", password in "[^\0]{0,40}") {
            let credentials = Credentials::password(user, password);
            let mut file = AuthFile::default();
            file.store("r.io", &encode_entry(&credentials)).unwrap();
            let again = AuthFile::parse(&file.to_text()).unwrap();
            prop_assert_eq!(again.lookup("r.io", Some("a/b")).unwrap(), Some(credentials));
        }

        #[test]
        fn decoding_is_total(text in ".{0,80}") {
            let _ = decode_basic(&text);
        }
    }
}
