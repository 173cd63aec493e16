//! `portolan account`: works on the data directory of a stopped server.

use crate::config::{Config, Surroundings};
use crate::core::Core;
use crate::data_dir::DataDir;
use crate::error::{Failure, OrFail};
use crate::output;
use portolan_access::{AccessError, generate_password};
use portolan_model::{Caller, Secret};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{BufRead, IsTerminal};

/// Sets an account's password: the first line of standard input, or a generated one where that is empty.
///
/// # Errors
/// When the server runs, when there is no such account, or when the password is not acceptable.
pub async fn passwd(config: &Config, around: &Surroundings, login: &str) -> Result<(), Failure> {
    let data = DataDir::take_existing(&config.data_dir).map_err(|e| {
        e.hint("stop the server first (systemctl stop portolan): its data directory can be used by one process only")
    })?;
    let Some(data) = data else {
        return Err(Failure::new(format!("there is no data directory at {}", config.data_dir.display()))
            .hint("name the server's with --data-dir"));
    };
    let core = Core::open(config, &data, around).await?;
    let result = set(&core, login).await;
    core.storage.close().await;
    result
}

async fn set(core: &Core, login: &str) -> Result<(), Failure> {
    let accounts = &core.portolan.access.accounts;
    let caller = Caller::system();
    let account = accounts.by_login(&caller, login).await.map_err(|e| match e {
        AccessError::NotFound { .. } => Failure::new(format!("there is no account '{login}'")),
        other => Failure::new("the account cannot be looked up").because(other),
    })?;
    let mut line = String::new();
    let read = {
        let _silent = std::io::stdin().is_terminal().then(|| {
            output::note(format!("New password of '{login}' (not shown while you type; empty to have one generated):"));
            Silence::new()
        });
        std::io::stdin().lock().read_line(&mut line)
    };
    read.or_fail(|| "the password cannot be read".into())?;
    let given = line.trim_end_matches(['\r', '\n']);
    let generated = given.is_empty();
    let password = if generated { generate_password(core.ids.as_ref()) } else { Secret::new(given) };
    let set = accounts.set_password(&caller, account.id, &password).await;
    set.or_fail(|| format!("the password of '{login}' cannot be set"))?;
    if generated {
        output::line(password.reveal());
    }
    output::note(format!("The password of '{login}' is set, and all of its sessions have ended."));
    Ok(())
}

/// Keeps the terminal from showing what is typed, until it is dropped. Where that cannot be had, it shows it.
struct Silence(Option<Termios>);

impl Silence {
    fn new() -> Self {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            silent.local_modes.insert(LocalModes::ECHONL);
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &silent);
        }
        Self(before)
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}
