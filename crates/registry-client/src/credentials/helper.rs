//! The `docker-credential-*` protocol: an action as the argument, the server (or a
//! JSON document) on standard input, JSON on standard output.
//!
//! Output is bounded and never repeated in errors: helpers print secrets, and some
//! print them where messages are expected.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::{CredentialError, Credentials};
use crate::Secret;

/// The most that is read of a helper's output, in bytes.
const OUTPUT_BYTES_MAX: u64 = 256 * 1024;
/// How long a helper may take; it may be waiting for a person to unlock a keychain.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The user name by which helpers mark an identity token.
const TOKEN_USER: &str = "<token>";
/// What helpers print when they know nothing, by their protocol.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// One installed helper.
#[derive(Debug)]
pub(super) struct Helper {
    name: String,
    program: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

struct Output {
    status: ExitStatus,
    text: Vec<u8>,
}

impl Helper {
    /// Finds `docker-credential-<name>` in the first of `directories` that has it.
    pub(super) fn find(name: &str, directories: &[PathBuf]) -> Result<Self, CredentialError> {
        let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if name.is_empty() || !name.bytes().all(is_name_byte) {
            let name = name.chars().take(64).collect();
            return Err(CredentialError::HelperName { name });
        }
        let program = format!("docker-credential-{name}");
        let found = directories
            .iter()
            .map(|directory| directory.join(&program))
            .find(|path| is_executable(path));
        match found {
            Some(program) => Ok(Self {
                name: name.to_owned(),
                program,
            }),
            None => Err(CredentialError::HelperMissing {
                name: name.to_owned(),
            }),
        }
    }

    /// Asks for a server's credentials; `None` when the helper has none.
    pub(super) async fn get(&self, server: &str) -> Result<Option<Credentials>, CredentialError> {
        let output = self.run("get", server.as_bytes()).await?;
        if !output.status.success() {
            if String::from_utf8_lossy(&output.text).contains(NOT_FOUND) {
                return Ok(None);
            }
            return Err(self.failed("get", exit_text(output.status)));
        }
        let answer: Answer = serde_json::from_slice(&output.text)
            .map_err(|_| self.failed("get", "its answer is not the expected JSON".to_owned()))?;
        Ok(credentials_of(answer))
    }

    /// Hands over a server's credentials to keep.
    pub(super) async fn store(
        &self,
        server: &str,
        username: &str,
        secret: &Secret,
    ) -> Result<(), CredentialError> {
        let document = serde_json::json!({
            "ServerURL": server, "Username": username, "Secret": secret.expose(),
        });
        let output = self.run("store", document.to_string().as_bytes()).await?;
        self.expect_success("store", &output)
    }

    /// Asks to forget a server's credentials; having none is fine.
    pub(super) async fn erase(&self, server: &str) -> Result<(), CredentialError> {
        let output = self.run("erase", server.as_bytes()).await?;
        if String::from_utf8_lossy(&output.text).contains(NOT_FOUND) {
            return Ok(());
        }
        self.expect_success("erase", &output)
    }

    fn expect_success(&self, action: &'static str, output: &Output) -> Result<(), CredentialError> {
        if output.status.success() {
            return Ok(());
        }
        Err(self.failed(action, exit_text(output.status)))
    }

    async fn run(&self, action: &'static str, input: &[u8]) -> Result<Output, CredentialError> {
        let run = async {
            let child = Command::new(&self.program)
                .arg(action)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()?;
            converse(child, input).await
        };
        match tokio::time::timeout(TIMEOUT, run).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(CredentialError::HelperRun {
                name: self.name.clone(),
                error,
            }),
            Err(_) => Err(self.failed(action, format!("no answer in {} s", TIMEOUT.as_secs()))),
        }
    }

    fn failed(&self, action: &'static str, problem: String) -> CredentialError {
        CredentialError::HelperFailed {
            name: self.name.clone(),
            action,
            problem,
        }
    }
}

async fn converse(mut child: Child, input: &[u8]) -> std::io::Result<Output> {
    let mut text = Vec::new();
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // A helper that exits without reading is judged by its exit status.
            let _ = stdin.write_all(input).await;
            let _ = stdin.shutdown().await;
        }
    };
    let read = async {
        match stdout {
            Some(stdout) => stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut text).await,
            None => Ok(0),
        }
    };
    let (_, read) = tokio::join!(write, read);
    read?;
    let status = child.wait().await?;
    Ok(Output { status, text })
}

fn credentials_of(answer: Answer) -> Option<Credentials> {
    if answer.secret.is_empty() {
        return None;
    }
    let secret = Secret::new(answer.secret);
    Some(match answer.username.as_str() {
        TOKEN_USER => Credentials::IdentityToken(secret),
        _ => Credentials::Password {
            username: answer.username,
            password: secret,
        },
    })
}

fn exit_text(status: ExitStatus) -> String {
    status.to_string()
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
