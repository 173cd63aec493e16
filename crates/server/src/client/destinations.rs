//! `portolan destination`.

use super::api::{Api, encoded, query};
use super::platforms::kinds;
use super::render::{Column, Show};
use super::{given, nothing, secrets, settings, tested};
use crate::ask::{self, confirm};
use crate::cli::DestinationCommand;
use crate::error::Failure;
use crate::output;
use serde_json::json;

pub(super) const COLUMNS: &[Column] = &[
    Column { title: "DESTINATION", path: "name", show: Show::Text, rank: 9 },
    Column { title: "KIND", path: "kind", show: Show::Text, rank: 3 },
    Column { title: "DEFAULT", path: "default", show: Show::Flag, rank: 7 },
    Column { title: "CONNECTED", path: "connected", show: Show::Flag, rank: 8 },
    Column { title: "USED", path: "used_bytes", show: Show::Bytes, rank: 6 },
    Column { title: "FREE", path: "free_bytes", show: Show::Bytes, rank: 6 },
    Column { title: "LOGICAL", path: "logical_bytes", show: Show::Bytes, rank: 5 },
    Column { title: "WHERE", path: "url", show: Show::Text, rank: 2 },
    Column { title: "ERROR", path: "last_error", show: Show::Text, rank: 4 },
];

pub(super) async fn run(command: DestinationCommand, api: &Api) -> Result<(), Failure> {
    let at = |destination: &str| format!("/destinations/{}", encoded(destination));
    match command {
        DestinationCommand::List => api.print_list(&api.list("/destinations", u64::MAX).await?, COLUMNS),
        DestinationCommand::Show { destination } => api.print_one(&api.get(&at(&destination)).await?),
        DestinationCommand::Kinds => kinds(api, "/destination-kinds").await,
        DestinationCommand::Add { name, kind, path, set, secret, description, default, recovery_key_file } => {
            let mut settings = settings(&set)?;
            if let Some(path) = path {
                settings.insert("path".into(), path.into());
            }
            let recovery = match &recovery_key_file {
                Some(file) => Some(recovery_key(&ask::whole(file)?)),
                None => None,
            };
            let body = given(json!({
                "name": name, "kind": kind, "description": description, "settings": settings,
                "secrets": secrets(&secret)?, "default": default.then_some(true), "recovery_key": recovery,
            }));
            let made = api.post("/destinations", &body).await?;
            api.done(&made, format!("The destination '{name}' is registered."))?;
            let key = super::render::text(&made, "recovery_key");
            if !api.args.json && !key.is_empty() {
                output::note(
                    "Its recovery key, told this once; without it, losing the server means losing the backups:",
                );
                output::line(key);
            }
            Ok(())
        }
        DestinationCommand::Remove { destination, force } => {
            let and = if force { " and every backup there" } else { "" };
            confirm(&format!("Forget the destination '{destination}'{and}? What lies there stays."), api.args.yes)?;
            let gone = api.delete(&query(&at(&destination), &[("force", force.then_some("true"))])).await?;
            api.done(&gone, format!("The destination '{destination}' is forgotten."))
        }
        DestinationCommand::Test { destination } => {
            let answer = api.post(&format!("{}/test", at(&destination)), &nothing()).await?;
            tested(api, &format!("the destination '{destination}'"), &answer)
        }
        DestinationCommand::Default { destination } => {
            let now = api.put(&format!("{}/default", at(&destination)), &nothing()).await?;
            api.done(&now, format!("Backups without a destination go to '{destination}' from now on."))
        }
        DestinationCommand::RecoveryKey { destination, replace } => {
            if replace {
                confirm(&format!("Take the earlier recovery keys of '{destination}' out of use?"), api.args.yes)?;
            }
            let made = api.post(&format!("{}/recovery-key", at(&destination)), &json!({ "replace": replace })).await?;
            api.done(&made, format!("The destination '{destination}' has a further recovery key, told this once:"))?;
            if !api.args.json {
                output::line(super::render::text(&made, "recovery_key"));
            }
            Ok(())
        }
    }
}

/// The key in the text of a recovery key's file, in which lines that begin with `#` are remarks.
fn recovery_key(text: &portolan_model::Secret) -> String {
    let lines = text.reveal().lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}
