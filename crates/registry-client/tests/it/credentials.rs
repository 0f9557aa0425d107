//! Files and helpers on this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use longshore_registry_client::{
    CredentialError, CredentialSource as _, CredentialStore, Credentials, Error, Secret,
};
use tempfile::TempDir;

use crate::client_as;
use crate::fake::{Auth, Fake};

const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

/// A helper that keeps what it is given in files beside it.
const HELPER: &str = r#"#!/bin/sh
store="$(dirname "$0")/kept"
case "$1" in
store) cat > "$store" ;;
get)
  read -r server
  if grep -q "\"ServerURL\":\"$server\"" "$store" 2>/dev/null; then cat "$store"
  else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) rm -f "$store" ;;
esac
"#;

fn helper(directory: &Path, name: &str, script: &str) {
    let path = directory.join(format!("docker-credential-{name}"));
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn store(directory: &TempDir, files: &[&Path]) -> CredentialStore {
    let files = files.iter().map(|path| path.to_path_buf()).collect();
    CredentialStore::new(files, vec![directory.path().to_owned()])
}

fn written(directory: &TempDir, text: &str) -> PathBuf {
    let path = directory.path().join("config.json");
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn login_and_logout_keep_the_rest_of_the_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("new/config.json");
    let store = store(&directory, &[&path]);
    let credentials = Credentials::password("me", "p:w");
    store.login(&path, "r.io", &credentials).await.unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let found = store.credentials("r.io", Some("a/b")).await.unwrap();
    assert_eq!(found, Some(credentials.clone()));

    let link = directory.path().join("link.json");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    store.login(&link, "other.io", &credentials).await.unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(store.logout(&path, "r.io").await.unwrap());
    assert!(!store.logout(&path, "r.io").await.unwrap());
    assert_eq!(store.credentials("r.io", None).await.unwrap(), None);
    assert!(store.credentials("other.io", None).await.unwrap().is_some());
    let beside: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(beside.len(), 1, "a temporary file was left");
}

#[tokio::test]
async fn the_first_file_that_knows_wins() {
    let directory = TempDir::new().unwrap();
    let (first, second) = (directory.path().join("1"), directory.path().join("2"));
    let store = store(&directory, &[&first, &second]);
    let two = Credentials::password("two", "pw");
    store.login(&second, "r.io", &two).await.unwrap();
    assert_eq!(store.credentials("r.io", None).await.unwrap(), Some(two));
    let one = Credentials::password("one", "pw");
    store.login(&first, "r.io", &one).await.unwrap();
    assert_eq!(store.credentials("r.io", None).await.unwrap(), Some(one));
}

#[tokio::test]
async fn helpers_keep_and_give() {
    let directory = TempDir::new().unwrap();
    helper(directory.path(), "test", HELPER);
    let path = written(&directory, r#"{"credsStore":"test","other":1}"#);
    let store = store(&directory, &[&path]);
    assert_eq!(store.credentials("r.io", None).await.unwrap(), None);
    let credentials = Credentials::password("me", "hunter2");
    store.login(&path, "r.io", &credentials).await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("hunter2") && text.contains("r.io"), "{text}");
    let found = store.credentials("r.io", None).await.unwrap();
    assert_eq!(found, Some(credentials));
    assert!(store.logout(&path, "r.io").await.unwrap());
    assert_eq!(store.credentials("r.io", None).await.unwrap(), None);

    let token = Credentials::IdentityToken(Secret::new("it"));
    store.login(&path, "docker.io", &token).await.unwrap();
    let found = store.credentials("docker.io", None).await.unwrap();
    assert_eq!(found, Some(token));
}

#[tokio::test]
async fn what_a_helper_prints_is_never_repeated() {
    let directory = TempDir::new().unwrap();
    let loud = "#!/bin/sh\necho hunter2; echo hunter2 >&2; exit 3\n";
    let nonsense = "#!/bin/sh\necho 'hunter2'\n";
    let endless = "#!/bin/sh\nyes hunter2\n";
    for script in [loud, nonsense, endless] {
        helper(directory.path(), "loud", script);
        let path = written(&directory, r#"{"credHelpers":{"r.io":"loud"}}"#);
        let store = store(&directory, &[&path]);
        let error = store.credentials("r.io", None).await.unwrap_err();
        let told = format!("{error} {error:?}");
        assert!(
            matches!(error, CredentialError::HelperFailed { .. }),
            "{told}"
        );
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[tokio::test]
async fn helper_names_cannot_leave_their_directory() {
    let directory = TempDir::new().unwrap();
    let path = written(&directory, r#"{"credsStore":"../../bin/sh"}"#);
    let error = store(&directory, &[&path])
        .credentials("r.io", None)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CredentialError::HelperName { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_helper_stops_nobody_from_pulling_what_is_public() {
    let fake = Fake::start().await;
    fake.put_manifest("a", "t", MANIFEST);
    let directory = TempDir::new().unwrap();
    let path = written(&directory, r#"{"credsStore":"desktop"}"#);
    let client = client_as(store(&directory, &[&path]));
    client.resolve(&fake.reference("a:t")).await.unwrap();
    let realm = format!("{}/token", fake.url());
    fake.state().auth = Auth::Bearer {
        realm,
        anonymous_pull: true,
    };
    client.resolve(&fake.reference("a:t")).await.unwrap();
    // Where credentials are wanted, the helper is the reason.
    fake.state().auth = Auth::Basic("me", "pw");
    let error = client_as(store(&directory, &[&path]))
        .resolve(&fake.reference("a:t"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "credential helper `docker-credential-desktop` is not installed"
    );
    assert!(matches!(error, Error::Credentials(_)));
}

#[tokio::test]
async fn broken_files_are_named() {
    let directory = TempDir::new().unwrap();
    let path = written(&directory, "{\"auths\": hunter2");
    let error = store(&directory, &[&path])
        .credentials("r.io", None)
        .await
        .unwrap_err();
    assert!(matches!(error, CredentialError::Content { .. }), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
    let error = store(&directory, &[directory.path()])
        .credentials("r.io", None)
        .await
        .unwrap_err();
    assert!(matches!(error, CredentialError::File { .. }), "{error}");
}
