//! The commands that speak with a running server through its management API.

mod accounts;
mod api;
mod backups;
mod credentials;
mod destinations;
mod login;
mod machines;
mod platforms;
mod render;
mod tasks;
mod tenants;
mod tokens;

pub use credentials::Credentials;

use crate::cli::{AuditArgs, Command};
use crate::config::Surroundings;
use crate::config::value::parse_span;
use crate::core::system;
use crate::error::Failure;
use crate::output;
use api::{Api, query};
use portolan_model::Timestamp;
use render::{Column, Show, when};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Does what a command says that is for a running server.
///
/// # Errors
/// With exit code 4 when nobody is logged in, or not somebody who may.
pub async fn run(command: Command, around: &Surroundings) -> Result<(), Failure> {
    match command {
        Command::Status(args) => status(&Api::connect(&args, around)?).await,
        Command::Login { args, api } => login::login(&args, &api, around).await,
        Command::Logout(args) => login::logout(&args, around).await,
        Command::Platform { command, api } => platforms::run(command, &Api::connect(&api, around)?).await,
        Command::Destination { command, api } => destinations::run(command, &Api::connect(&api, around)?).await,
        Command::Account { command, api } => accounts::run(command, &Api::connect(&api, around)?).await,
        Command::Token { command, api } => tokens::run(command, &Api::connect(&api, around)?).await,
        Command::Tenant { command, api } => tenants::run(command, &Api::connect(&api, around)?).await,
        Command::Machine { command, api } => machines::run(command, &Api::connect(&api, around)?).await,
        Command::Backup { command, api } => backups::run(command, &Api::connect(&api, around)?).await,
        Command::Task { command, api } => tasks::run(command, &Api::connect(&api, around)?).await,
        Command::Audit { args, api } => audit(&args, &Api::connect(&api, around)?).await,
        _ => Err(Failure::usage("this command is not one for a running server")),
    }
}

async fn status(api: &Api) -> Result<(), Failure> {
    let status = api.get("/status").await?;
    if api.args.json {
        return output::json(&status);
    }
    let text = |path: &str| render::text(&status, path);
    output::line(format!("portolan {} on {}, since {}", text("version"), text("node"), when(&text("started"))));
    let tasks = status.get("tasks").and_then(Value::as_object).cloned().unwrap_or_default();
    let tasks: Vec<String> = tasks
        .iter()
        .filter(|(_, n)| n.as_u64() != Some(0))
        .map(|(state, n)| format!("{n} {}", state.to_lowercase()))
        .collect();
    output::line(format!("tasks: {}", if tasks.is_empty() { "none".to_owned() } else { tasks.join(", ") }));
    for (title, list, columns) in
        [("platforms", "platforms", platforms::COLUMNS), ("destinations", "destinations", destinations::COLUMNS)]
    {
        output::line("");
        match status.get(list).and_then(Value::as_array) {
            Some(items) if !items.is_empty() => output::line(render::rows(columns, items, api.width())),
            _ => output::line(format!("no {title}")),
        }
    }
    Ok(())
}

/// The most entries that the API gives at once.
const AUDIT_PAGE: usize = 1000;

const AUDIT: &[Column] = &[
    Column { title: "TIME", path: "at", show: Show::Time, rank: 9 },
    Column { title: "EVENT", path: "name", show: Show::Text, rank: 8 },
    Column { title: "BY", path: "actor", show: Show::Text, rank: 7 },
    Column { title: "SUBJECT", path: "subject", show: Show::Text, rank: 3 },
    Column { title: "DETAILS", path: "data", show: Show::Json, rank: 1 },
];

async fn audit(args: &AuditArgs, api: &Api) -> Result<(), Failure> {
    let (from, until) = (moment(args.from.as_deref(), Past)?, moment(args.until.as_deref(), Past)?);
    let most = if args.limit == 0 { usize::MAX } else { usize::try_from(args.limit).unwrap_or(usize::MAX) };
    let (mut items, mut next) = (Vec::new(), None);
    loop {
        let (limit, before) = ((most - items.len()).min(AUDIT_PAGE).to_string(), next.map(|n: i64| n.to_string()));
        let path = query(
            "/audit",
            &[
                ("names", args.name.as_deref()),
                ("actor", args.actor.as_deref()),
                ("subject", args.subject.as_deref()),
                ("from", from.as_deref()),
                ("until", until.as_deref()),
                ("before", before.as_deref()),
                ("limit", Some(&limit)),
            ],
        );
        let page = api.get(&path).await?;
        items.extend(page.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
        next = page.get("next").and_then(Value::as_i64);
        if next.is_none() || items.len() >= most {
            return api.print_list(&json!({ "items": items, "next": next }), AUDIT);
        }
    }
}

/// Whether a time span counts back or forth from now.
enum Direction {
    Past,
    Future,
}
use Direction::{Future, Past};

/// A time in RFC 3339, or so long ago or from now.
fn moment(text: Option<&str>, direction: Direction) -> Result<Option<String>, Failure> {
    let Some(text) = text else { return Ok(None) };
    if let Some(span) = parse_span(text) {
        let now = system().0.now();
        let at = match direction {
            Past => now - span,
            Future => now + span,
        };
        return Ok(Some(at.to_rfc3339()));
    }
    match text.parse::<Timestamp>() {
        Ok(at) => Ok(Some(at.to_rfc3339())),
        Err(_) => Err(Failure::usage(format!("'{text}' is no time"))
            .hint("write a time span such as 12h or 30d, or a time such as 2026-01-31T12:00:00Z")),
    }
}

/// `KEY=VALUE` arguments, as an object.
fn settings(pairs: &[String]) -> Result<Map<String, Value>, Failure> {
    pairs.iter().map(|pair| split(pair, "--set", "KEY=VALUE").map(|(k, v)| (k.to_owned(), v.into()))).collect()
}

/// `KEY=FILE` arguments, as an object of what the files hold.
fn secrets(pairs: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut out = Map::new();
    for pair in pairs {
        let (key, file) = split(pair, "--secret", "KEY=FILE")?;
        out.insert(key.to_owned(), crate::ask::whole(Path::new(file))?.reveal().into());
    }
    Ok(out)
}

fn split<'a>(pair: &'a str, flag: &str, form: &str) -> Result<(&'a str, &'a str), Failure> {
    let parts = pair.split_once('=').filter(|(key, _)| !key.is_empty());
    // What stands there may be a secret that somebody put in the wrong place.
    parts.ok_or_else(|| Failure::usage(format!("{flag} takes {form}, and one of them has no key")))
}

/// A role as the API spells it.
fn role(word: Option<&str>) -> Option<String> {
    word.map(str::to_uppercase)
}

/// The answer to a test of a platform or destination.
fn tested(api: &Api, what: &str, answer: &Value) -> Result<(), Failure> {
    let ok = answer.get("ok").and_then(Value::as_bool).unwrap_or(false);
    if api.args.json {
        output::json(answer)?;
    } else if ok {
        let found = answer.get("found").and_then(Value::as_object).cloned().unwrap_or_default();
        let found: Vec<String> = found.iter().map(|(what, n)| format!("{n} {}", what.replace('_', " "))).collect();
        let took = answer.get("duration_ms").and_then(Value::as_u64).unwrap_or(0);
        let found = if found.is_empty() { String::new() } else { format!(": {}", found.join(", ")) };
        output::line(format!("{what} answers in {took} ms{found}"));
    }
    for problem in answer.get("problems").and_then(Value::as_array).into_iter().flatten() {
        output::note(format!("problem: {}", render::plain(problem)));
    }
    match ok {
        true => Ok(()),
        false => {
            let why = render::text(answer, "error.message");
            Err(Failure::new(format!("{what} does not answer as it should")).because(why))
        }
    }
}

/// Where the credentials of `portolan login` are.
fn credentials_file(around: &Surroundings) -> Option<PathBuf> {
    around.config_dir().map(|dir| dir.join("credentials.toml"))
}

/// An object without the members that are null.
fn given(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.into_iter().filter(|(_, v)| !v.is_null()).collect()),
        other => other,
    }
}

/// An empty body.
fn nothing() -> Value {
    json!({})
}
