//! `portolan config show`.

use crate::config::Config;
use crate::config::settings::{Origin, Settings};
use crate::error::Failure;
use crate::listeners::self_signed_dir;
use crate::output;
use serde::Serialize;

#[derive(Serialize)]
struct Line {
    key: String,
    value: serde_json::Value,
    origin: &'static str,
    /// The file and line, the variable or the argument.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    about: &'static str,
}

/// Prints every key with its value and where that came from.
pub(crate) fn print(config: &Config, settings: &Settings, json: bool) -> Result<(), Failure> {
    let lines: Vec<Line> = settings
        .all()
        .into_iter()
        .map(|(key, entry)| Line {
            value: entry.shown().or_else(|| worked_out(config, &key)).unwrap_or_default(),
            origin: entry.origin.word(),
            from: (entry.origin != Origin::Default).then(|| entry.origin.to_string()),
            about: entry.key.about,
            key,
        })
        .collect();
    if json {
        return output::json(&lines);
    }
    let rows: Vec<Vec<String>> = lines
        .into_iter()
        .map(|line| {
            let value = if line.value.is_null() { "-".into() } else { line.value.to_string() };
            vec![line.key, value, line.from.unwrap_or_else(|| line.origin.into()), line.about.into()]
        })
        .collect();
    output::line(output::table(&["KEY", "VALUE", "ORIGIN", "ABOUT"], &[], &rows));
    Ok(())
}

/// Defaults that depend on the surroundings.
fn worked_out(config: &Config, key: &str) -> Option<serde_json::Value> {
    let at = |name: &str| Some(config.data_dir.join(name).display().to_string());
    let value = match key {
        "data_dir" => at("").map(|path| path.trim_end_matches('/').to_owned()),
        "database.url" => at("portolan.db").map(|path| format!("sqlite://{path}")),
        "keys.master_file" => at("keys/master.key"),
        "node.name" => portolan_http::tls::host_name(),
        _ => certificate(config, key),
    };
    value.map(Into::into)
}

/// Where a listener's self-signed certificate lies, or its key.
fn certificate(config: &Config, key: &str) -> Option<String> {
    let (name, last) = key.strip_prefix("listeners.")?.split_once('.')?;
    let file = match last {
        "cert" => "tls.crt",
        "key" => "tls.key",
        _ => return None,
    };
    let (_, listening) = config.listeners().into_iter().find(|(listener, _)| *listener == name)?;
    let own = listening.tls && listening.certificate.is_none();
    own.then(|| self_signed_dir(&config.data_dir, name).join(file).display().to_string())
}
