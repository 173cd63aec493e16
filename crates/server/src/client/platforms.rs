//! `portolan platform`.

use super::api::{Api, encoded, query};
use super::render::{Column, Show};
use super::{nothing, secrets, settings, tested};
use crate::ask::confirm;
use crate::cli::PlatformCommand;
use crate::error::Failure;
use serde_json::json;

pub(super) const COLUMNS: &[Column] = &[
    Column { title: "PLATFORM", path: "name", show: Show::Text, rank: 9 },
    Column { title: "DRIVER", path: "driver", show: Show::Text, rank: 6 },
    Column { title: "CONNECTED", path: "connected", show: Show::Flag, rank: 8 },
    Column { title: "LAST SYNC", path: "last_sync", show: Show::Time, rank: 5 },
    Column { title: "DECLARED", path: "declared", show: Show::Flag, rank: 2 },
    Column { title: "WHERE", path: "url", show: Show::Text, rank: 3 },
    Column { title: "ERROR", path: "last_error", show: Show::Text, rank: 4 },
];

/// The drivers, and the kinds of destinations.
pub(super) const KINDS: &[Column] = &[
    Column { title: "NAME", path: "name", show: Show::Text, rank: 9 },
    Column { title: "KIND", path: "kind", show: Show::Text, rank: 6 },
    Column { title: "SETTINGS", path: "needs", show: Show::Text, rank: 8 },
    Column { title: "ABOUT", path: "about", show: Show::Text, rank: 3 },
];

pub(super) async fn run(command: PlatformCommand, api: &Api) -> Result<(), Failure> {
    let at = |platform: &str| format!("/platforms/{}", encoded(platform));
    match command {
        PlatformCommand::List => api.print_list(&api.list("/platforms", u64::MAX).await?, COLUMNS),
        PlatformCommand::Show { platform } => api.print_one(&api.get(&at(&platform)).await?),
        PlatformCommand::Drivers => kinds(api, "/drivers").await,
        PlatformCommand::Add { name, driver, set, secret, test } => {
            let body = json!({
                "name": name, "driver": driver, "settings": settings(&set)?, "secrets": secrets(&secret)?,
            });
            if test {
                return tested(api, &format!("the platform '{name}'"), &api.post("/platforms/test", &body).await?);
            }
            let made = api.post("/platforms", &body).await?;
            api.done(&made, format!("The platform '{name}' is registered; its machines are being listed."))
        }
        PlatformCommand::Remove { platform, force } => {
            confirm(
                &format!("Forget the platform '{platform}' and the machines that were found there?"),
                api.args.yes,
            )?;
            let gone = api.delete(&query(&at(&platform), &[("force", force.then_some("true"))])).await?;
            api.done(&gone, format!("The platform '{platform}' is forgotten."))
        }
        PlatformCommand::Test { platform } => {
            let answer = api.post(&format!("{}/test", at(&platform)), &nothing()).await?;
            tested(api, &format!("the platform '{platform}'"), &answer)
        }
        PlatformCommand::Sync { platform } => {
            let task = api.post(&format!("{}/sync", at(&platform)), &nothing()).await?;
            let id = super::render::text(&task, "id");
            api.done(&task, format!("Asked for; `portolan task show {id} --follow` shows how far it is."))
        }
    }
}

/// Lists what can be registered, with the settings that each takes.
pub(super) async fn kinds(api: &Api, path: &str) -> Result<(), Failure> {
    let mut list = api.get(path).await?;
    if !api.args.json {
        for item in list.get_mut("items").and_then(|items| items.as_array_mut()).into_iter().flatten() {
            let words: Vec<String> = item["settings"].as_array().into_iter().flatten().map(setting).collect();
            item["needs"] = words.join(" ").into();
        }
    }
    api.print_list(&list, KINDS)
}

/// `root`, `[token]` where it may be left out, `token*` where it is secret.
fn setting(described: &serde_json::Value) -> String {
    let is = |what: &str| described[what].as_bool() == Some(true);
    let name = format!("{}{}", super::render::text(described, "name"), if is("secret") { "*" } else { "" });
    if is("required") { name } else { format!("[{name}]") }
}
