//! Every key that there is.

use super::declared::{BUILT_IN_CLOUD, ROLES};
use super::value::Kind;

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Its path; `*` stands for a name that the operator chooses.
    pub path: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// Its value when nobody gives one, as a text; nothing where there is none, or where it depends on others.
    pub default: Option<&'static str>,
    /// What it is for.
    pub about: &'static str,
}

const fn key(path: &'static str, kind: Kind, default: Option<&'static str>, about: &'static str) -> Key {
    Key { path, kind, default, about }
}

/// The levels of the log.
pub const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// Every key, in the order of `config show`.
pub const KEYS: &[Key] = &[
    key("data_dir", Kind::Path, None, "where the server keeps everything that is its own"),
    key("node.name", Kind::Text, None, "the name of this process among others; the host's by default"),
    key(
        "database.url",
        Kind::SecretUrl,
        None,
        "sqlite:///path, postgres://… or mysql://…; SQLite in the data directory",
    ),
    key("database.max_connections", Kind::Number(1, 500), None, "connections at the most"),
    key("keys.master_file", Kind::Path, None, "the master key; keys/master.key in the data directory"),
    key("listeners.vplus.enabled", Kind::Flag, Some("true"), "whether the vPlus API is served"),
    key("listeners.vplus.addresses", Kind::Addresses, Some("127.0.0.1:8181"), "where it is served"),
    key("listeners.vplus.tls", Kind::Flag, Some("true"), "whether it is served over TLS"),
    key("listeners.vplus.cert", Kind::Path, None, "certificate chain in PEM; a self-signed one is made without it"),
    key("listeners.vplus.key", Kind::Path, None, "the certificate's private key in PEM"),
    key("listeners.vplus.names", Kind::List, Some(""), "further names of this host in the self-signed certificate"),
    key("listeners.vplus.origins", Kind::List, Some(""), "web pages that may call from elsewhere: https://host[:port]"),
    key("listeners.orchestrator.enabled", Kind::Flag, Some("true"), "whether the Orchestrator API is served"),
    key("listeners.orchestrator.addresses", Kind::Addresses, Some("127.0.0.1:5050"), "where it is served"),
    key("listeners.orchestrator.tls", Kind::Flag, Some("false"), "whether it is served over TLS"),
    key(
        "listeners.orchestrator.cert",
        Kind::Path,
        None,
        "certificate chain in PEM; a self-signed one is made without it",
    ),
    key("listeners.orchestrator.key", Kind::Path, None, "the certificate's private key in PEM"),
    key(
        "listeners.orchestrator.names",
        Kind::List,
        Some(""),
        "further names of this host in the self-signed certificate",
    ),
    key("listeners.management.enabled", Kind::Flag, Some("true"), "whether management, health and metrics are served"),
    key("listeners.management.addresses", Kind::Addresses, Some("127.0.0.1:9180"), "where they are served"),
    key("listeners.management.tls", Kind::Flag, Some("false"), "whether they are served over TLS"),
    key(
        "listeners.management.cert",
        Kind::Path,
        None,
        "certificate chain in PEM; a self-signed one is made without it",
    ),
    key("listeners.management.key", Kind::Path, None, "the certificate's private key in PEM"),
    key(
        "listeners.management.names",
        Kind::List,
        Some(""),
        "further names of this host in the self-signed certificate",
    ),
    key("tenant.*.external_id", Kind::Note, Some(""), "what the system in front calls the tenant; may be empty"),
    key("account.*.role", Kind::Choice(ROLES), Some("viewer"), "what the account may do"),
    key("account.*.tenant", Kind::Text, None, "the tenant that the account is bound to; none sees every tenant"),
    key("account.*.password_file", Kind::Path, None, "a file with the account's first password in its first line"),
    key("account.*.password_hash", Kind::Secret, None, "instead of it the password's Argon2id hash ($argon2id$…)"),
    key("platform.*.driver", Kind::Choice(&["images", "qemu"]), None, "the platform's driver"),
    key("platform.*.root", Kind::Path, None, "the directory of disk images, or of QEMU's guests"),
    key("platform.*.host_name", Kind::Text, None, "what the host is shown as; localhost when left out"),
    key("platform.*.qemu", Kind::Path, None, "QEMU's program; found on the path when left out"),
    key("platform.*.qemu_img", Kind::Path, None, "qemu-img; found on the path when left out"),
    key("platform.*.qemu_storage_daemon", Kind::Path, None, "qemu-storage-daemon; found on the path when left out"),
    key("platform.*.accel", Kind::Choice(&["auto", "kvm", "tcg"]), None, "auto, kvm or tcg"),
    key("platform.*.machine", Kind::Text, None, "QEMU's machine type; q35 when left out"),
    key("platform.*.sandbox", Kind::Flag, None, "whether QEMU confines itself"),
    key(
        "platform.*.disk",
        Kind::Choice(&["overlay", "copy"]),
        None,
        "how a new disk is made: overlay over its image, or copy",
    ),
    key(
        "platform.*.network",
        Kind::Choice(&["user", "bridge", "none"]),
        None,
        "how a new guest is connected: user, bridge or none",
    ),
    key("platform.*.restrict_network", Kind::Flag, None, "with user: whether guests are kept from the host's networks"),
    key("platform.*.bridge", Kind::Text, None, "the bridge, where the network is bridge"),
    key("platform.*.sizes", Kind::Text, None, "the sizes, as a JSON list of id, name, cpus, memory_mb, disk_gb"),
    key("platform.*.max_cpus", Kind::Number(0, u64::MAX), None, "the most processors of a guest"),
    key("platform.*.max_memory_mb", Kind::Number(0, u64::MAX), None, "the most memory of a guest, in MiB"),
    key("platform.*.max_disk_gb", Kind::Number(0, u64::MAX), None, "the largest disk, in GiB"),
    key("platform.*.max_guests", Kind::Number(0, u64::MAX), None, "the most guests"),
    key(
        "platform.*.total_memory_mb",
        Kind::Number(0, u64::MAX),
        None,
        "the most memory of all guests together, in MiB; the host's when left out",
    ),
    key(
        "platform.*.agent_stop_secs",
        Kind::Number(0, u64::MAX),
        None,
        "how long a guest may shut down after its agent was asked to, in seconds",
    ),
    key(
        "platform.*.acpi_stop_secs",
        Kind::Number(0, u64::MAX),
        None,
        "how long a guest may shut down after its power button was pressed, in seconds",
    ),
    key("platform.*.force_stop", Kind::Flag, None, "whether a guest that does not shut down is turned off"),
    key("platform.*.restart_guests", Kind::Flag, None, "whether guests that should run are started with Portolan"),
    key("cloud.*.driver", Kind::Choice(&["dummy"]), None, "the cloud's driver"),
    key("cloud.*.nodes", Kind::Number(0, 10_000), None, "how many nodes the dummy begins with; 0 for its usual two"),
    key("destination.*.kind", Kind::Choice(&["local"]), Some("local"), "the kind of store"),
    key("destination.*.path", Kind::Path, None, "the repository's directory"),
    key("destination.*.default", Kind::Flag, Some("false"), "whether backups without a destination go there"),
    key(
        "destination.*.recovery_key_file",
        Kind::Path,
        None,
        "opens a repository that another installation made, and adds this one's key to it",
    ),
    key(
        "orchestrator.default_cloud",
        Kind::Text,
        Some(BUILT_IN_CLOUD),
        "the cloud that requests mean which name none, or 'default'",
    ),
    key("orchestrator.open", Kind::Flag, Some("false"), "whether real clouds, too, are served without credentials"),
    key("orchestrator.auth", Kind::Flag, Some("false"), "whether nothing, not even the dummy, is served without"),
    key(
        "orchestrator.wait",
        Kind::Span(1),
        Some("50s"),
        "how long a start, stop or release may keep its client waiting",
    ),
    key("orchestrator.hosts", Kind::List, Some(""), "further Host names that requests may be for; * for every one"),
    key(
        "orchestrator.release_delay",
        Kind::Span(0),
        Some("25s"),
        "how long after its release an assigned node is destroyed",
    ),
    key("inventory.sync_interval", Kind::Span(0), Some("15m"), "how often platforms are listed; 0s for never"),
    key("tasks.concurrency", Kind::Number(1, 256), Some("8"), "tasks that this process runs at once"),
    key("tasks.lease", Kind::Span(5), Some("30s"), "after how long without a sign of life a task is given to another"),
    key("tasks.history", Kind::Span(60), Some("90d"), "how long ended tasks are remembered"),
    key("events.history", Kind::Span(3600), Some("400d"), "how long events are remembered, the audit log among them"),
    key("access.session_idle", Kind::Span(60), Some("30m"), "how long a login lasts without use"),
    key("access.session_absolute", Kind::Span(60), Some("24h"), "how long a login lasts at the most"),
    key("access.remember_logins", Kind::Span(0), Some("60s"), "how long verified passwords are taken without a hash"),
    key("server.threads", Kind::Number(1, 256), None, "worker threads; one a core, two at least"),
    key("server.shutdown_grace", Kind::Span(0), Some("30s"), "how long a stop waits for requests and tasks"),
    key("log.level", Kind::Choice(LEVELS), Some("info"), "what is logged; RUST_LOG wins"),
    key("log.format", Kind::Choice(&["text", "json"]), Some("text"), "how it is logged"),
];

/// What a platform of the QEMU driver takes beside its root: names, and what they are.
pub fn platform_settings() -> impl Iterator<Item = (&'static str, &'static str)> {
    let of_platforms = KEYS.iter().filter_map(|key| Some((key.path.strip_prefix("platform.*.")?, key.about)));
    of_platforms.filter(|(name, _)| !matches!(*name, "driver" | "root"))
}

/// The key at `path`, and the name that stands for its `*`.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| fits(key.path, path))
}

fn fits(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('.'), path.split('.'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some("*"), Some(name)) if is_name(name) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// Names that an operator may choose: letters, digits, `-` and `_`.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Keys that `path` may have been meant to be, nearest first, at most three.
pub fn near(path: &str) -> Vec<String> {
    let mut found: Vec<(usize, String)> = KEYS
        .iter()
        .map(|key| {
            let meant = with_names(key.path, path);
            let last = |p: &str| p.rsplit('.').next().unwrap_or_default().to_owned();
            // The right word in the wrong section counts as near.
            let moved = if last(&meant) == last(path) { 2 } else { usize::MAX };
            (distance(path, &meant).min(moved), meant)
        })
        .filter(|(far, meant)| *far <= 3 || *far <= meant.len() / 4)
        .collect();
    found.sort();
    found.dedup_by(|a, b| a.1 == b.1);
    found.truncate(3);
    found.into_iter().map(|(_, meant)| meant).collect()
}

/// The pattern with the names that `path` has in their places.
fn with_names(pattern: &str, path: &str) -> String {
    let mut names = path.split('.');
    let parts: Vec<&str> = pattern
        .split('.')
        .map(|part| {
            let there = names.next();
            if part == "*" { there.filter(|n| is_name(n)).unwrap_or("NAME") } else { part }
        })
        .collect();
    parts.join(".")
}

/// How many letters must be put in, taken out or exchanged.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::Raw;

    #[test]
    fn defaults_are_what_their_keys_take() {
        for key in KEYS {
            if let Some(default) = key.default {
                assert!(key.kind.check(&Raw::Loose(default.into())).is_ok(), "{}", key.path);
            }
        }
    }

    #[test]
    fn patterns_take_names() {
        assert!(find("platform.lab-1.root").is_some());
        assert!(find("platform.root").is_none());
        assert!(find("platform.a b.root").is_none());
        assert!(find("platform.a.root.b").is_none());
        assert!(find("data_dir").is_some());
    }

    #[test]
    fn near_keys_are_found() {
        assert_eq!(near("databse.url").first().map(String::as_str), Some("database.url"));
        assert_eq!(near("platform.lab.rot").first().map(String::as_str), Some("platform.lab.root"));
        assert_eq!(near("vplus.origins").first().map(String::as_str), Some("listeners.vplus.origins"));
        assert!(near("nothing.like.it").is_empty());
    }
}
