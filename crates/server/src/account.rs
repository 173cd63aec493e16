//! `portolan account passwd` on the data directory of a stopped server.

use crate::ask;
use crate::config::{Config, Surroundings};
use crate::core::Core;
use crate::data_dir::DataDir;
use crate::error::{Failure, OrFail};
use crate::output;
use portolan_access::{AccessError, generate_password};
use portolan_model::Caller;

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
    let given = ask::new_password(login)?;
    let generated = given.reveal().is_empty();
    let password = if generated { generate_password(core.ids.as_ref()) } else { given };
    let set = accounts.set_password(&caller, account.id, &password).await;
    set.or_fail(|| format!("the password of '{login}' cannot be set"))?;
    if generated {
        output::line(password.reveal());
    }
    output::note(format!("The password of '{login}' is set, and all of its sessions have ended."));
    Ok(())
}
