//! `portolan token`.

use super::api::{Api, encoded};
use super::render::{Column, Show, text};
use super::{Future, given, moment, role};
use crate::ask::confirm;
use crate::cli::TokenCommand;
use crate::error::Failure;
use crate::output;
use serde_json::json;

const COLUMNS: &[Column] = &[
    Column { title: "TOKEN", path: "name", show: Show::Text, rank: 9 },
    Column { title: "ACCOUNT", path: "account", show: Show::Text, rank: 8 },
    Column { title: "ROLE", path: "role", show: Show::Word, rank: 7 },
    Column { title: "TENANT", path: "tenant", show: Show::Text, rank: 3 },
    Column { title: "EXPIRES", path: "expires", show: Show::Time, rank: 6 },
    Column { title: "LAST USED", path: "last_used", show: Show::Time, rank: 5 },
    Column { title: "ID", path: "id", show: Show::Text, rank: 2 },
];

pub(super) async fn run(command: TokenCommand, api: &Api) -> Result<(), Failure> {
    let at = |token: &str| format!("/tokens/{}", encoded(token));
    match command {
        TokenCommand::List => api.print_list(&api.list("/tokens", u64::MAX).await?, COLUMNS),
        TokenCommand::Show { token } => api.print_one(&api.get(&at(&token)).await?),
        TokenCommand::Create { name, account, role: word, tenant, expires } => {
            let body = given(json!({
                "name": name, "account": account, "role": role(word.as_deref()), "tenant": tenant,
                "expires": moment(expires.as_deref(), Future)?,
            }));
            let made = api.post("/tokens", &body).await?;
            if api.args.json {
                return output::json(&made);
            }
            output::note(format!("The token '{name}' is made; it is told this once:"));
            output::line(text(&made, "token"));
            Ok(())
        }
        TokenCommand::Revoke { token } => {
            confirm(&format!("End the token '{token}'? Scripts that use it stop working."), api.args.yes)?;
            let gone = api.delete(&at(&token)).await?;
            api.done(&gone, format!("The token '{token}' has ended."))
        }
    }
}
