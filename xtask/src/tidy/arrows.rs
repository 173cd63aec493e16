//! Which crate may know which: the table of docs/ARCHITECTURE.md, checked against `cargo metadata`.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What each crate may depend on, with all that those may. A `*` stands for any ending. Names are those of the
/// directories in `crates/`. Every crate may use `model`.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("block", &[]),
    ("tasks", &["model"]),
    ("storage", &["tasks"]),
    ("storage-sql", &["storage"]),
    ("driver", &["block"]),
    ("driver-*", &["driver", "nbd"]),
    ("nbd", &["block"]),
    ("fsread", &["block"]),
    ("repository", &["block"]),
    ("repository-s3", &["repository"]),
    ("access", &["storage", "driver"]),
    ("inventory", &["storage", "driver", "access"]),
    ("protect", &["storage", "driver", "repository", "fsread", "access"]),
    ("fleet", &["storage", "driver", "access"]),
    ("insight", &["storage", "driver", "repository", "access"]),
    ("portolan", &["access", "inventory", "protect", "fleet", "insight"]),
    ("http", &[]),
    // Conformance suites know the ports and nothing behind them.
    ("testkit", &["storage", "driver", "repository"]),
];

/// Front-ends reach everything through the façade: for them the arrows of others do not count.
const FRONT_ENDS: (&str, &[&str]) = ("api-*", &["portolan", "http", "model"]);

/// These put the others together, and may use all but what is for tests.
const ROOTS: &[&str] = &["server"];

/// Packages that are tests and tools themselves.
const TOOLS: &[&str] = &["portolan-e2e", "xtask"];

/// Only ever a dev-dependency.
const FOR_TESTS: &str = "testkit";

/// The middle does not know what is at the edges.
const MIDDLE: &[&str] =
    &["model", "block", "tasks", "storage", "driver", "repository", "access", "inventory", "protect", "portolan"];

/// What the middle does not even know through others.
const EDGES: &[&str] = &["hyper", "axum", "axum-core", "sea-orm", "sqlx", "sqlx-core", "rustls", "clap"];

/// Every arrow that is not allowed.
pub(super) fn check(metadata: &Value) -> Vec<String> {
    let packages = Packages::of(metadata);
    let mut broken = packages.arrows();
    broken.extend(packages.middle());
    broken
}

/// The normal dependencies of the packages of `cargo metadata`, by package id.
#[derive(Debug, Default)]
struct Packages {
    names: BTreeMap<String, String>,
    members: BTreeSet<String>,
    edges: BTreeMap<String, Vec<String>>,
}

impl Packages {
    fn of(metadata: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut out = Self::default();
        for package in list(&metadata["packages"]) {
            out.names.insert(text(&package["id"]), text(&package["name"]));
        }
        out.members = list(&metadata["workspace_members"]).iter().map(text).collect();
        for node in list(&metadata["resolve"]["nodes"]) {
            let normal = |dep: &Value| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            let deps = list(&node["deps"]);
            let deps = deps.iter().filter(|dep| normal(dep)).map(|dep| text(&dep["pkg"]));
            out.edges.insert(text(&node["id"]), deps.collect());
        }
        out
    }

    fn name(&self, id: &str) -> &str {
        self.names.get(id).map_or("", String::as_str)
    }

    fn arrows(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for id in &self.members {
            let name = self.name(id);
            if TOOLS.contains(&name) {
                continue;
            }
            let from = short(name);
            if !ROOTS.contains(&from) && allowed(from).is_none() {
                broken.push(format!("the crate '{name}' has no row in the table of arrows"));
            }
            for dep in self.edges.get(id).into_iter().flatten().filter(|dep| self.members.contains(*dep)) {
                let to = short(self.name(dep));
                let fine = match allowed(from) {
                    Some(allowed) => allowed.iter().any(|pattern| matches(pattern, to)),
                    None => to != FOR_TESTS && !TOOLS.contains(&self.name(dep)),
                };
                if !fine {
                    broken.push(format!("'{from}' must not depend on '{to}'"));
                }
            }
        }
        broken
    }

    /// As `cargo tree -e normal` of each crate of the middle would show.
    fn middle(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for id in self.members.iter().filter(|id| MIDDLE.contains(&short(self.name(id)))) {
            let mut seen = BTreeSet::from([id]);
            let mut next = vec![id];
            while let Some(at) = next.pop() {
                for dep in self.edges.get(at).into_iter().flatten() {
                    if EDGES.contains(&self.name(dep)) {
                        let (from, via) = (self.name(id), self.name(at));
                        broken.push(format!("'{from}' must not reach '{}', which it does by '{via}'", self.name(dep)));
                    } else if seen.insert(dep) {
                        next.push(dep);
                    }
                }
            }
        }
        broken
    }
}

/// A package's name as the table has it: that of its directory.
fn short(package: &str) -> &str {
    package.strip_prefix("portolan-").unwrap_or(package)
}

/// What `from` may depend on; nothing when the table does not have it.
fn allowed(from: &str) -> Option<Vec<&'static str>> {
    if matches(FRONT_ENDS.0, from) {
        return Some(FRONT_ENDS.1.to_vec());
    }
    let row = |name: &str| {
        // The exact name before a pattern.
        let exact = ARROWS.iter().find(|(pattern, _)| *pattern == name);
        exact.or_else(|| ARROWS.iter().find(|(pattern, _)| matches(pattern, name)))
    };
    let mut out = vec!["model"];
    let mut next: Vec<&str> = row(from)?.1.to_vec();
    while let Some(to) = next.pop() {
        if !out.contains(&to) {
            out.push(to);
            next.extend(row(to).map_or(&[][..], |(_, more)| more));
        }
    }
    if from == "model" || from == "block" {
        out.clear();
    }
    Some(out)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace of these packages with these normal and dev-dependencies.
    fn workspace(rows: &[(&str, &[&str], &[&str])]) -> Value {
        let names: BTreeSet<&str> = rows
            .iter()
            .flat_map(|(name, deps, dev)| [*name].into_iter().chain(deps.iter().chain(*dev).copied()))
            .collect();
        let dep = |name: &str, kind: Option<&str>| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        json!({
            "packages": names.iter().map(|n| json!({ "id": n, "name": n })).collect::<Vec<_>>(),
            "workspace_members": rows.iter().map(|row| row.0).filter(|n| !EDGES.contains(n)).collect::<Vec<_>>(),
            "resolve": { "nodes": rows.iter().map(|(name, deps, dev)| {
                let normal = deps.iter().map(|d| dep(d, None));
                json!({ "id": name, "deps": normal.chain(dev.iter().map(|d| dep(d, Some("dev")))).collect::<Vec<_>>() })
            }).collect::<Vec<_>>() }
        })
    }

    #[test]
    fn allowed_arrows_and_their_closure_pass() {
        let fine = workspace(&[
            ("portolan-model", &[], &["portolan-testkit"]),
            ("portolan-tasks", &["portolan-model"], &["portolan-testkit"]),
            ("portolan-storage", &["portolan-tasks", "portolan-model"], &[]),
            ("portolan-storage-sql", &["portolan-storage", "portolan-tasks", "sea-orm"], &[]),
            ("portolan-protect", &["portolan-storage", "portolan-tasks"], &[]),
            ("portolan", &["portolan-protect", "portolan-tasks"], &[]),
            ("portolan-http", &["portolan-model", "hyper"], &[]),
            ("portolan-api-vplus", &["portolan", "portolan-http", "portolan-model"], &[]),
            ("portolan-server", &["portolan-api-vplus", "portolan-storage-sql"], &["portolan-testkit"]),
            ("portolan-testkit", &["portolan-storage"], &[]),
            ("portolan-e2e", &["portolan-testkit", "portolan-server"], &[]),
        ]);
        assert_eq!(check(&fine), Vec::<String>::new());
    }

    #[test]
    fn each_forbidden_arrow_is_found() {
        for (from, to) in [
            ("portolan-model", "portolan-block"),
            ("portolan-block", "portolan-model"),
            ("portolan-inventory", "portolan-protect"),
            ("portolan-protect", "portolan-inventory"),
            ("portolan-storage", "portolan-driver"),
            ("portolan-api-vplus", "portolan-storage"),
            ("portolan-api-vplus", "portolan-api-omnistack"),
            ("portolan-driver-images", "portolan-repository"),
            ("portolan-http", "portolan-access"),
            ("portolan-server", "portolan-testkit"),
            ("portolan-storage", "portolan-testkit"),
            ("portolan-surprise", "portolan-model"),
        ] {
            let broken = check(&workspace(&[(from, &[to], &[]), (to, &[], &[])]));
            assert!(!broken.is_empty(), "{from} -> {to}");
        }
    }

    #[test]
    fn the_middle_reaches_no_edge_through_others() {
        let hidden = workspace(&[("portolan-tasks", &["helper"], &["axum"]), ("helper", &["hyper"], &[])]);
        let broken = check(&hidden);
        assert!(broken.iter().any(|b| b.contains("'hyper', which it does by 'helper'")), "{broken:?}");
        assert!(!broken.iter().any(|b| b.contains("axum")), "{broken:?}");
    }
}
