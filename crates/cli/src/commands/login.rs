//! `longshore login` and `longshore logout`.

use std::io::{BufRead as _, IsTerminal as _, Read as _};

use anyhow::{Context as _, Result};
use longshore_registry_client::{Credentials, LoginCheck};

use crate::args::{Global, LoginArgs, LogoutArgs};
use crate::config;
use crate::exit::Exit;
use crate::report::{Usage, say};
use crate::table::out;

const DEFAULT_REGISTRY: &str = "docker.io";
/// The longest password that is read, bytes.
const PASSWORD_BYTES_MAX: u64 = 64 << 10;

pub(crate) fn login(global: &Global, args: LoginArgs) -> Result<Exit> {
    let registry = args.server.as_deref().unwrap_or(DEFAULT_REGISTRY);
    let username = match args.username {
        Some(name) => name,
        None => ask("Username: ")?,
    };
    let password = match (args.password, args.password_stdin) {
        (Some(_), true) => {
            return Err(
                Usage("--password and --password-stdin exclude each other".to_owned()).into(),
            );
        }
        (Some(password), false) => password,
        (None, true) => from_stdin()?,
        (None, false) => {
            return Err(Usage("a password is missing: --password-stdin".to_owned()).into());
        }
    };
    let credentials = Credentials::password(username, password);
    let engine = config::engine(global)?;
    config::runtime()?.block_on(async {
        let check = engine.check_login(registry, &credentials).await?;
        if check == LoginCheck::NotRequired {
            say(&format!(
                "registry `{registry}` asks for no credentials; they are kept all the same"
            ));
        }
        let file = config::docker_config()?;
        config::credentials()
            .login(&file, registry, &credentials)
            .await?;
        out("Login Succeeded");
        Ok(Exit::Done)
    })
}

pub(crate) fn logout(args: &LogoutArgs) -> Result<Exit> {
    let registry = args.server.as_deref().unwrap_or(DEFAULT_REGISTRY);
    let file = config::docker_config()?;
    let known = config::runtime()?.block_on(config::credentials().logout(&file, registry))?;
    match known {
        true => out(&format!("Removing login credentials for {registry}")),
        false => out(&format!("Not logged in to {registry}")),
    }
    Ok(Exit::Done)
}

fn ask(prompt: &str) -> Result<String> {
    if !std::io::stdin().is_terminal() {
        return Err(Usage("a user name is missing: --username".to_owned()).into());
    }
    say(prompt);
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("standard input")?;
    Ok(line.trim().to_owned())
}

fn from_stdin() -> Result<String> {
    let mut password = String::new();
    std::io::stdin()
        .take(PASSWORD_BYTES_MAX)
        .read_to_string(&mut password)
        .context("standard input")?;
    Ok(password.trim_end_matches(['\r', '\n']).to_owned())
}
