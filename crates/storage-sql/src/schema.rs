//! The schema, as the statements of each migration. A migration that has been released never changes.
//!
//! Statements are written once, with words in braces for what the databases call differently. Texts compare by
//! code point everywhere, ids by their bytes; numbers, instants (microseconds) and truth values are 64-bit.

use crate::sql::Dialect;

/// One step of the schema.
#[derive(Debug, Clone)]
pub struct Migration {
    /// Its number, from 1.
    pub version: i64,
    /// What it does.
    pub name: &'static str,
    /// Its statements. Each can be repeated, so that a migration which stopped half-way can run again.
    pub statements: Vec<String>,
}

/// Every migration, oldest first.
pub fn migrations(dialect: Dialect) -> Vec<Migration> {
    let mut first: Vec<String> = KINDS_1.iter().flat_map(|(table, fields)| kind_table(table, fields)).collect();
    first.extend(split(TABLES_1));
    if dialect != Dialect::Sqlite {
        first.push(FENCE_1.to_owned());
    }
    let mut first: Vec<String> = first.iter().map(|s| spell(dialect, s)).collect();
    if dialect == Dialect::MariaDb {
        first = with_indexes(first);
    }
    let mut second: Vec<String> = KINDS_2.iter().flat_map(|(table, fields)| kind_table(table, fields)).collect();
    second.push(match dialect {
        // SQLite cannot be asked to add a column only where there is none; it migrates whole or not at all.
        Dialect::Sqlite => "ALTER TABLE event ADD COLUMN actor {text}".to_owned(),
        _ => "ALTER TABLE event ADD COLUMN IF NOT EXISTS actor {text}".to_owned(),
    });
    for (name, column) in [("event_at", "at"), ("event_actor", "actor"), ("event_subject", "subject")] {
        second.push(format!("CREATE INDEX IF NOT EXISTS {name} ON event ({column}, seq)"));
    }
    let mut second: Vec<String> = second.iter().map(|s| spell(dialect, s)).collect();
    if dialect == Dialect::MariaDb {
        second = with_indexes(second);
    }
    vec![
        Migration { version: 1, name: "objects, tasks and events", statements: first },
        Migration { version: 2, name: "tokens, assignments, drivers' documents, replays, actors", statements: second },
    ]
}

/// Moves indexes into the statements that make their tables. MariaDB commits every statement with a wait for the
/// disk: so a new database takes a third of them, and a table is there with its indexes or not at all.
fn with_indexes(statements: Vec<String>) -> Vec<String> {
    let mut made: Vec<String> = Vec::new();
    for statement in statements {
        let index = statement.strip_prefix("CREATE ").and_then(|s| {
            let (sort, rest) = s.split_once("INDEX IF NOT EXISTS ")?;
            let (name, rest) = rest.split_once(" ON ")?;
            let (table, columns) = rest.split_once(' ')?;
            Some((format!("CREATE TABLE IF NOT EXISTS {table} ("), format!(", {sort}INDEX {name} {columns}")))
        });
        let table = index.as_ref().and_then(|(head, _)| made.iter_mut().find(|s| s.starts_with(head.as_str())));
        match (table, index) {
            (Some(table), Some((_, index))) => {
                let end = table.rfind(") ENGINE").unwrap_or(table.len());
                table.insert_str(end, &index);
            }
            _ => made.push(statement),
        }
    }
    made
}

fn split(statements: &str) -> impl Iterator<Item = String> + '_ {
    statements.split(';').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned)
}

/// The table of one kind of object: `id`, `version`, `tenant`, the declared fields, the search text, the document.
fn kind_table(table: &str, fields: &[(&str, &str)]) -> Vec<String> {
    let columns: String = fields.iter().map(|(name, ty)| format!("{name} {{{ty}}}, ")).collect();
    let mut statements = vec![
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (id {{id}} NOT NULL PRIMARY KEY, version {{int}} NOT NULL, \
             tenant {{id}}, {columns}search {{long}} NOT NULL, doc {{long}} NOT NULL){{table}}"
        ),
        format!("CREATE INDEX IF NOT EXISTS {table}_tenant ON {table} (tenant, id)"),
    ];
    for (name, _) in fields {
        statements.push(format!("CREATE INDEX IF NOT EXISTS {table}_{name} ON {table} ({name}{{nulls first}}, id)"));
    }
    statements
}

/// Writes a statement in the database's own words.
fn spell(dialect: Dialect, statement: &str) -> String {
    let words: [&str; 7] = match dialect {
        Dialect::Sqlite => ["BLOB", "INTEGER", "TEXT", "TEXT", "TEXT", "", ""],
        Dialect::Postgres => {
            let text = "TEXT COLLATE \"C\"";
            ["UUID", "BIGINT", text, text, text, "", " NULLS FIRST"]
        }
        Dialect::MariaDb => [
            "BINARY(16)",
            "BIGINT",
            "VARCHAR(255)",
            "VARCHAR(640)",
            "LONGTEXT",
            " ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
            "",
        ],
    };
    let mut spelt = statement.to_owned();
    for (name, word) in
        ["{id}", "{int}", "{text}", "{key}", "{long}", "{table}", "{nulls first}"].into_iter().zip(words)
    {
        spelt = spelt.replace(name, word);
    }
    // `{given x}`: an index of the rows that have an x, where the database knows such.
    while let Some((head, tail)) = spelt.split_once("{given ") {
        let (column, rest) = tail.split_once('}').unwrap_or((tail, ""));
        spelt = match dialect {
            Dialect::MariaDb => format!("{head}{rest}"),
            _ => format!("{head}WHERE {column} IS NOT NULL{rest}"),
        };
    }
    spelt.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The kinds of objects that the first version knows, with their declared fields.
const KINDS_1: &[(&str, &[(&str, &str)])] = &[
    ("account", &[("login", "text"), ("enabled", "int")]),
    ("session", &[("account", "id"), ("token_hash", "text"), ("expires", "int")]),
    ("tenant", &[("name", "text"), ("external_id", "text")]),
    ("secured", &[("owner", "text")]),
    ("setting", &[]),
    ("platform", &[("name", "text"), ("driver", "text")]),
    ("data_center", &[("name", "text")]),
    ("cluster", &[("name", "text"), ("platform", "id"), ("present", "int")]),
    ("host", &[("name", "text"), ("platform", "id"), ("cluster", "id"), ("present", "int")]),
    ("datastore", &[("name", "text"), ("platform", "id"), ("cluster", "id"), ("present", "int")]),
    (
        "vm",
        &[
            ("name", "text"),
            ("platform", "id"),
            ("host", "id"),
            ("cluster", "id"),
            ("present", "int"),
            ("policy", "id"),
            ("native_id", "text"),
            ("host_name", "text"),
            ("cluster_name", "text"),
            ("platform_name", "text"),
            ("last_backup", "int"),
            ("last_size", "int"),
        ],
    ),
    ("node", &[("name", "text"), ("last_seen", "int")]),
    ("destination", &[("name", "text"), ("is_default", "int")]),
    (
        "point",
        &[
            ("vm", "id"),
            ("vm_name", "text"),
            ("status", "text"),
            ("backup_type", "text"),
            ("snapshot_time", "int"),
            ("created", "int"),
            ("size", "int"),
            ("chain", "id"),
            ("platform", "id"),
            ("host", "id"),
            ("parent", "id"),
        ],
    ),
    (
        "copy",
        &[
            ("point", "id"),
            ("vm", "id"),
            ("destination", "id"),
            ("status", "text"),
            ("created", "int"),
            ("expires", "int"),
        ],
    ),
    ("restore_job", &[("point", "id"), ("vm", "id"), ("status", "text"), ("created", "int"), ("chain", "id")]),
    ("policy", &[("name", "text"), ("family", "text"), ("active", "int")]),
    ("rule", &[("name", "text"), ("policy", "id"), ("position", "int")]),
    ("schedule", &[("name", "text"), ("active", "int")]),
];

/// The kinds of objects that the second version adds.
const KINDS_2: &[(&str, &[(&str, &str)])] = &[
    ("api_token", &[("name", "text"), ("account", "id"), ("token_hash", "text"), ("expires", "int")]),
    (
        "assignment",
        &[
            ("vm", "id"),
            ("vm_name", "text"),
            ("platform", "id"),
            ("status", "text"),
            ("number", "int"),
            ("holder", "text"),
        ],
    ),
    ("driver_state", &[("platform", "id"), ("state_key", "text")]),
    ("replay", &[("expires", "int"), ("fingerprint", "text")]),
];

/// Everything beside the objects. `task` holds only what has not ended; ends move to `task_history`. `claimable`
/// is 1 where a claim may look, so that one index serves it in rank order.
const TABLES_1: &str = r#"
CREATE TABLE IF NOT EXISTS unique_key (
    k {key} NOT NULL PRIMARY KEY, kind {text} NOT NULL, id {id} NOT NULL){table};
CREATE INDEX IF NOT EXISTS unique_key_id ON unique_key (id);

CREATE TABLE IF NOT EXISTS record_ref (
    from_id {id} NOT NULL, to_id {id} NOT NULL, from_kind {text} NOT NULL,
    PRIMARY KEY (from_id, to_id, from_kind)){table};
CREATE INDEX IF NOT EXISTS record_ref_to ON record_ref (to_id);

CREATE TABLE IF NOT EXISTS counter (
    kind {text} NOT NULL, tenant {id} NOT NULL, n {int} NOT NULL, PRIMARY KEY (kind, tenant)){table};

CREATE TABLE IF NOT EXISTS series (name {text} NOT NULL PRIMARY KEY, n {int} NOT NULL){table};

CREATE TABLE IF NOT EXISTS event (
    seq {int} NOT NULL PRIMARY KEY, at {int} NOT NULL, name {long} NOT NULL, tenant {id}, subject {id},
    data {long} NOT NULL){table};
CREATE INDEX IF NOT EXISTS event_tenant ON event (tenant, seq);

CREATE TABLE IF NOT EXISTS task (
    id {id} NOT NULL PRIMARY KEY, tenant {id}, state {text} NOT NULL, kind {text} NOT NULL, chain {id} NOT NULL,
    priority {int} NOT NULL, claimable {int} NOT NULL, rank_key {int} NOT NULL, run_at {int} NOT NULL,
    start_by {int}, deadline {int}, lease_until {int}, attempt {int} NOT NULL, fence {int} NOT NULL,
    worker {text} NOT NULL, cancel_requested {int} NOT NULL, progress_done {int} NOT NULL,
    progress_total {int} NOT NULL, progress_message {long} NOT NULL, error {long} NOT NULL, created {int} NOT NULL,
    started {int}, finished {int}, unique_key {key}, limited {int} NOT NULL, tagged {int} NOT NULL, vm {id},
    point {id}, destination {id}, platform {id}, host {id}, schedule {id}, restore_job {id}, parent {id},
    vm_name {text} NOT NULL, search {long} NOT NULL, doc {long} NOT NULL, output {long} NOT NULL){table};
CREATE UNIQUE INDEX IF NOT EXISTS task_unique_key ON task (unique_key);
CREATE INDEX IF NOT EXISTS task_claim ON task (claimable, rank_key, id);
CREATE INDEX IF NOT EXISTS task_state ON task (state, run_at);
CREATE INDEX IF NOT EXISTS task_chain ON task (chain, id);
CREATE INDEX IF NOT EXISTS task_vm ON task (vm, id) {given vm};
CREATE INDEX IF NOT EXISTS task_lease_until ON task (lease_until) {given lease_until};
CREATE INDEX IF NOT EXISTS task_start_by ON task (start_by) {given start_by};
CREATE INDEX IF NOT EXISTS task_deadline ON task (deadline) {given deadline};

CREATE TABLE IF NOT EXISTS task_history (
    id {id} NOT NULL PRIMARY KEY, tenant {id}, state {text} NOT NULL, kind {text} NOT NULL, chain {id} NOT NULL,
    priority {int} NOT NULL, run_at {int} NOT NULL, lease_until {int}, attempt {int} NOT NULL, fence {int} NOT NULL,
    worker {text} NOT NULL, cancel_requested {int} NOT NULL, progress_done {int} NOT NULL,
    progress_total {int} NOT NULL, progress_message {long} NOT NULL, error {long} NOT NULL, created {int} NOT NULL,
    started {int}, finished {int}, unique_key {key}, vm {id}, point {id}, destination {id}, platform {id},
    host {id}, schedule {id}, restore_job {id}, parent {id}, vm_name {text} NOT NULL, search {long} NOT NULL,
    doc {long} NOT NULL, output {long} NOT NULL){table};
CREATE INDEX IF NOT EXISTS task_history_finished ON task_history (finished{nulls first}, id);
CREATE INDEX IF NOT EXISTS task_history_created ON task_history (created{nulls first}, id);
CREATE INDEX IF NOT EXISTS task_history_started ON task_history (started{nulls first}, id);
CREATE INDEX IF NOT EXISTS task_history_state ON task_history (state, id);
CREATE INDEX IF NOT EXISTS task_history_chain ON task_history (chain, id);
CREATE INDEX IF NOT EXISTS task_history_vm ON task_history (vm, id) {given vm};
CREATE INDEX IF NOT EXISTS task_history_point ON task_history (point, id) {given point};
CREATE INDEX IF NOT EXISTS task_history_schedule ON task_history (schedule, id) {given schedule};
CREATE INDEX IF NOT EXISTS task_history_restore_job ON task_history (restore_job, id) {given restore_job};
CREATE INDEX IF NOT EXISTS task_history_parent ON task_history (parent, id) {given parent};

CREATE TABLE IF NOT EXISTS task_step (
    task {id} NOT NULL, step {key} NOT NULL, n {int} NOT NULL, output {long} NOT NULL, PRIMARY KEY (task, step)){table};
CREATE TABLE IF NOT EXISTS task_dep (task {id} NOT NULL, needs {id} NOT NULL, PRIMARY KEY (task, needs)){table};
CREATE INDEX IF NOT EXISTS task_dep_needs ON task_dep (needs);
CREATE TABLE IF NOT EXISTS task_limit (
    task {id} NOT NULL, k {key} NOT NULL, most {int} NOT NULL, PRIMARY KEY (task, k)){table};
CREATE TABLE IF NOT EXISTS lane (k {key} NOT NULL PRIMARY KEY, used {int} NOT NULL){table};
CREATE TABLE IF NOT EXISTS task_tag (task {id} NOT NULL, tag {key} NOT NULL, PRIMARY KEY (task, tag)){table};
CREATE TABLE IF NOT EXISTS task_node (
    worker {key} NOT NULL PRIMARY KEY, serves {long} NOT NULL, until {int} NOT NULL){table};
"#;

/// Where there are many writers fences come from a sequence: a row would make claims wait for one another's commit.
const FENCE_1: &str = "CREATE SEQUENCE IF NOT EXISTS task_fence";

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_storage::{FieldType, Kind};

    #[test]
    fn the_newest_schema_has_every_declared_field() {
        let declared: Vec<(&str, Vec<(&str, &str)>)> = Kind::ALL
            .iter()
            .map(|kind| {
                let fields = kind.fields().iter().map(|f| {
                    let ty = match f.ty {
                        FieldType::Text => "text",
                        FieldType::Int | FieldType::Bool => "int",
                        FieldType::Id => "id",
                    };
                    (f.name, ty)
                });
                (kind.table(), fields.collect())
            })
            .collect();
        let known: Vec<_> = KINDS_1.iter().chain(KINDS_2).map(|(table, fields)| (*table, fields.to_vec())).collect();
        assert_eq!(known, declared, "a new field needs a new migration");
    }

    #[test]
    fn every_word_is_spelt() {
        for dialect in [Dialect::Sqlite, Dialect::Postgres, Dialect::MariaDb] {
            for migration in migrations(dialect) {
                for statement in migration.statements {
                    assert!(!statement.contains(['{', '}']), "{statement}");
                }
            }
        }
    }
}
