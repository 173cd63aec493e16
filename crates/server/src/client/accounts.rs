//! `portolan account`.

use super::api::{Api, encoded};
use super::render::{Column, Show, text};
use super::{given, role};
use crate::ask::{self, confirm};
use crate::cli::AccountCommand;
use crate::error::Failure;
use crate::output;
use portolan_model::Secret;
use serde_json::{Value, json};

const COLUMNS: &[Column] = &[
    Column { title: "LOGIN", path: "login", show: Show::Text, rank: 9 },
    Column { title: "ROLE", path: "role", show: Show::Word, rank: 8 },
    Column { title: "TENANT", path: "tenant", show: Show::Text, rank: 5 },
    Column { title: "ENABLED", path: "enabled", show: Show::Flag, rank: 7 },
    Column { title: "LAST LOGIN", path: "last_login", show: Show::Time, rank: 6 },
    Column { title: "LAST FAILED", path: "last_failed_login", show: Show::Time, rank: 4 },
    Column { title: "ID", path: "id", show: Show::Text, rank: 2 },
];

pub(super) async fn run(command: AccountCommand, api: &Api) -> Result<(), Failure> {
    let at = |account: &str| format!("/accounts/{}", encoded(account));
    match command {
        AccountCommand::List => api.print_list(&api.list("/accounts", u64::MAX).await?, COLUMNS),
        AccountCommand::Show { account } => api.print_one(&api.get(&at(&account)).await?),
        AccountCommand::Whoami => api.print_one(&api.get("/whoami").await?),
        AccountCommand::Add { login, role: word, tenant, time_zone, password_file } => {
            let password = match &password_file {
                Some(file) => ask::first_line(file)?,
                None => ask::new_password(&login)?,
            };
            let body = given(json!({
                "login": login, "role": role(Some(&word)), "tenant": tenant, "time_zone": time_zone,
                "password": chosen(&password),
            }));
            told(api, &api.post("/accounts", &body).await?, &format!("The account '{login}' is made."))
        }
        AccountCommand::Change { account, role: word, time_zone, enable, disable } => {
            let enabled = (enable || disable).then_some(enable);
            let body = given(json!({ "role": role(word.as_deref()), "enabled": enabled, "time_zone": time_zone }));
            let changed = api.patch(&at(&account), &body).await?;
            api.done(&changed, format!("The account '{account}' is changed."))
        }
        AccountCommand::Remove { account } => {
            confirm(&format!("Remove the account '{account}' with its tokens and sessions?"), api.args.yes)?;
            let gone = api.delete(&at(&account)).await?;
            api.done(&gone, format!("The account '{account}' is removed."))
        }
        AccountCommand::Passwd { login, .. } => passwd(login, api).await,
        AccountCommand::Reset { account, revoke_tokens } => {
            let what = format!("Give '{account}' another password and end all of their sessions?");
            confirm(&what, api.args.yes)?;
            let body = json!({ "revoke_tokens": revoke_tokens });
            let answer = api.post(&format!("{}/password", at(&account)), &body).await?;
            told(api, &answer, &format!("The password of '{account}' is reset, and all of its sessions have ended."))
        }
    }
}

/// Sets a password: one's own with the present one.
async fn passwd(login: Option<String>, api: &Api) -> Result<(), Failure> {
    let me = api.get("/whoami").await?;
    let own = text(&me, "account.login");
    let login = login.unwrap_or_else(|| own.clone());
    let mine = login.to_lowercase() == own.to_lowercase() || login == text(&me, "account.id");
    let current = match mine {
        true => Some(ask::secret("Your present password (not shown while you type):")?),
        false => None,
    };
    let new = ask::new_password(&login)?;
    let new = match (mine, chosen(&new)) {
        // The API generates passwords for others only: one's own would be lost with a broken connection.
        (true, None) => return Err(Failure::usage("your own password must be chosen")),
        (_, new) => new,
    };
    let body = given(json!({ "current": current.as_ref().map(Secret::reveal), "new": new }));
    let answer = api.post(&format!("/accounts/{}/password", encoded(&login)), &body).await?;
    told(api, &answer, &format!("The password of '{login}' is set, and all of its other sessions have ended."))
}

/// A password that somebody typed; nothing for one that is to be generated.
fn chosen(password: &Secret) -> Option<&str> {
    Some(password.reveal()).filter(|text| !text.is_empty())
}

/// Prints a generated password on standard output, the words beside it.
fn told(api: &Api, answer: &Value, words: &str) -> Result<(), Failure> {
    api.done(answer, words)?;
    let password = text(answer, "password");
    if !api.args.json && !password.is_empty() {
        output::note("Its generated password, told this once:");
        output::line(password);
    }
    Ok(())
}
