//! Statements as text with bound values, for three databases.

use crate::error::Fail;
use portolan_model::{Timestamp, TypedId};
use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement, Value};
use uuid::Uuid;

/// The database that a statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite, one process.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MariaDB 10.6 or newer.
    MariaDb,
}

impl Dialect {
    pub(crate) fn backend(self) -> DbBackend {
        match self {
            Self::Sqlite => DbBackend::Sqlite,
            Self::Postgres => DbBackend::Postgres,
            Self::MariaDb => DbBackend::MySql,
        }
    }

    /// What locks the selected rows until the transaction ends. SQLite has one writer, and needs none.
    pub(crate) fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            _ => " FOR UPDATE",
        }
    }

    /// The same, passing over rows that another transaction holds.
    pub(crate) fn skip_locked(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            _ => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// Makes an insert pass over rows that are there already.
    pub(crate) fn insert_ignore(self, key: &str) -> String {
        match self {
            Self::MariaDb => format!(" ON DUPLICATE KEY UPDATE {key} = {key}"),
            _ => format!(" ON CONFLICT ({key}) DO NOTHING"),
        }
    }

    /// Makes an insert overwrite `columns` of rows that are there already.
    pub(crate) fn upsert(self, key: &str, columns: &[&str]) -> String {
        let set = |new: &dyn Fn(&str) -> String| {
            columns.iter().map(|c| format!("{c} = {}", new(c))).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::MariaDb => format!(" ON DUPLICATE KEY UPDATE {}", set(&|c| format!("VALUES({c})"))),
            _ => format!(" ON CONFLICT ({key}) DO UPDATE SET {}", set(&|c| format!("excluded.{c}"))),
        }
    }

    /// Whether `needle` (the next bound value) is part of `column`.
    pub(crate) fn contains(self, column: &str, needle: &str) -> String {
        match self {
            Self::Postgres => format!("strpos({column}, {needle}) > 0"),
            _ => format!("instr({column}, {needle}) > 0"),
        }
    }

    /// The order of nulls made explicit where the database's own is another: null is the smallest value.
    pub(crate) fn order(self, column: &str, descending: bool) -> String {
        match (self, descending) {
            (Self::Postgres, false) => format!("{column} ASC NULLS FIRST"),
            (Self::Postgres, true) => format!("{column} DESC NULLS LAST"),
            (_, false) => format!("{column} ASC"),
            (_, true) => format!("{column} DESC"),
        }
    }
}

/// A statement that is being written.
#[derive(Debug, Clone)]
pub(crate) struct Sql {
    dialect: Dialect,
    text: String,
    values: Vec<Value>,
}

impl Sql {
    pub(crate) fn new(dialect: Dialect, text: &str) -> Self {
        Self { dialect, text: text.to_owned(), values: Vec::new() }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Adds text.
    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds a bound value.
    pub(crate) fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        let place = self.place(value);
        self.text.push_str(&place);
        self
    }

    /// Binds a value and returns its placeholder, to be added right away.
    pub(crate) fn place(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        match self.dialect {
            Dialect::Postgres => format!("${}", self.values.len()),
            _ => "?".to_owned(),
        }
    }

    /// Adds `(a, b, …)`. The list is filled up to a power of two by repeating its last value, so that a database
    /// sees few different statements. An empty list matches nothing.
    pub(crate) fn list<V: Into<Value> + Clone>(&mut self, values: &[V]) -> &mut Self {
        let Some(last) = values.last() else { return self.push("(NULL)") };
        self.push("(");
        for i in 0..values.len().next_power_of_two() {
            if i > 0 {
                self.push(", ");
            }
            self.bind(values.get(i).unwrap_or(last).clone());
        }
        self.push(")")
    }

    /// Adds `(a, b, …)` exactly: a row of an insert.
    pub(crate) fn row(&mut self, values: Vec<Value>) -> &mut Self {
        self.push("(");
        for (i, value) in values.into_iter().enumerate() {
            if i > 0 {
                self.push(", ");
            }
            self.bind(value);
        }
        self.push(")")
    }

    /// Adds a table of rows that can stand in `FROM`, its columns named.
    pub(crate) fn table(&mut self, columns: &[&str], rows: Vec<Vec<Value>>) -> &mut Self {
        self.push("(");
        for (i, row) in rows.into_iter().enumerate() {
            self.push(if i > 0 { " UNION ALL SELECT " } else { "SELECT " });
            for (n, (column, value)) in columns.iter().zip(row).enumerate() {
                if n > 0 {
                    self.push(", ");
                }
                self.bind(value);
                if i == 0 {
                    self.push(" AS ").push(column);
                }
            }
        }
        self.push(")")
    }

    pub(crate) fn statement(self) -> Statement {
        Statement::from_sql_and_values(self.dialect.backend(), self.text, self.values)
    }

    /// Runs it; how many rows it touched (2 for each that an upsert updates on MariaDB).
    pub(crate) async fn run(self, on: &impl ConnectionTrait) -> Result<u64, Fail> {
        Ok(on.execute_raw(self.statement()).await?.rows_affected())
    }

    /// Runs it; all rows.
    pub(crate) async fn all(self, on: &impl ConnectionTrait) -> Result<Vec<QueryResult>, Fail> {
        Ok(on.query_all_raw(self.statement()).await?)
    }

    /// Runs it; the first row.
    pub(crate) async fn one(self, on: &impl ConnectionTrait) -> Result<Option<QueryResult>, Fail> {
        Ok(on.query_one_raw(self.statement()).await?)
    }
}

/// The most rows of one multi-row statement.
const MAX_ROWS: usize = 128;
/// The most bytes of one multi-row statement, far below what MariaDB takes in one packet by default.
const MAX_BYTES: usize = 2 << 20;

fn size(row: &[Value]) -> usize {
    row.iter()
        .map(|v| match v {
            Value::String(Some(text)) => text.len(),
            _ => 16,
        })
        .sum()
}

/// Splits rows into groups for one statement each: powers of two, so that a database sees few different
/// statements, and not too many bytes.
pub(crate) fn batches(rows: Vec<Vec<Value>>) -> Vec<Vec<Vec<Value>>> {
    let mut batches: Vec<Vec<Vec<Value>>> = Vec::new();
    let mut rest = rows.into_iter().peekable();
    let mut left = rest.len();
    while left > 0 {
        let room = MAX_ROWS.min(1 << left.ilog2());
        let (mut batch, mut bytes) = (Vec::with_capacity(room), 0);
        while batch.len() < room {
            let Some(row) = rest.next_if(|row| batch.is_empty() || bytes + size(row) <= MAX_BYTES) else { break };
            bytes += size(&row);
            batch.push(row);
        }
        left -= batch.len();
        batches.push(batch);
    }
    batches
}

/// Inserts rows with as few statements as is sensible. `tail` follows the values.
pub(crate) async fn insert_all(
    on: &impl ConnectionTrait,
    dialect: Dialect,
    table: &str,
    columns: &[&str],
    rows: Vec<Vec<Value>>,
    tail: &str,
) -> Result<(), Fail> {
    for batch in batches(rows) {
        let mut sql = Sql::new(dialect, &format!("INSERT INTO {table} ({}) VALUES ", columns.join(", ")));
        for (i, row) in batch.into_iter().enumerate() {
            if i > 0 {
                sql.push(", ");
            }
            sql.row(row);
        }
        sql.push(tail);
        sql.run(on).await?;
    }
    Ok(())
}

/// Sets `columns` of the rows of `table` whose key is each row's first value to its other values.
pub(crate) async fn update_all(
    on: &impl ConnectionTrait,
    dialect: Dialect,
    table: &str,
    key: &str,
    columns: &[&str],
    rows: Vec<Vec<Value>>,
) -> Result<(), Fail> {
    let names: Vec<&str> = std::iter::once(key).chain(columns.iter().copied()).collect();
    for batch in batches(rows) {
        let mut sql = if dialect == Dialect::MariaDb {
            let mut sql = Sql::new(dialect, &format!("UPDATE {table} AS t JOIN "));
            let set: Vec<_> = columns.iter().map(|c| format!("t.{c} = v.{c}")).collect();
            sql.table(&names, batch).push(&format!(" AS v ON v.{key} = t.{key} SET {}", set.join(", ")));
            sql
        } else {
            let set: Vec<_> = columns.iter().map(|c| format!("{c} = v.{c}")).collect();
            let mut sql = Sql::new(dialect, &format!("UPDATE {table} SET {} FROM ", set.join(", ")));
            sql.table(&names, batch).push(&format!(" AS v WHERE v.{key} = {table}.{key}"));
            sql
        };
        sql.push("");
        sql.run(on).await?;
    }
    Ok(())
}

/// A number.
pub(crate) fn int(value: i64) -> Value {
    Value::BigInt(Some(value))
}

/// An instant or nothing.
pub(crate) fn opt_time(value: Option<Timestamp>) -> Value {
    Value::BigInt(value.map(Timestamp::as_micros))
}

/// An id.
pub(crate) fn uuid(value: Uuid) -> Value {
    Value::Uuid(Some(value))
}

/// A typed id or nothing.
pub(crate) fn opt_id<I: TypedId>(value: Option<I>) -> Value {
    Value::Uuid(value.map(TypedId::uuid))
}

/// A text as stored: PostgreSQL has no room for the null character.
pub(crate) fn text(value: &str) -> Value {
    Value::String(Some(clean(value)))
}

/// A text without null characters.
pub(crate) fn clean(value: &str) -> String {
    if value.contains('\0') { value.replace('\0', "\u{fffd}") } else { value.to_owned() }
}

/// How many characters an indexed text column holds.
const TEXT_CHARS: usize = 255;

/// A text cut to what an indexed column holds.
pub(crate) fn cut(value: &str) -> String {
    match value.char_indices().nth(TEXT_CHARS) {
        Some((end, _)) => clean(&value[..end]),
        None => clean(value),
    }
}

/// How many bytes of a key an index takes whole.
const KEY_BYTES: usize = 600;

/// A key of any length as a column that a unique index can hold: a long one is cut, and told from others by a
/// hash of the whole.
pub(crate) fn fold(key: &str) -> String {
    let key = clean(key);
    if key.len() <= KEY_BYTES {
        return key;
    }
    // FNV-1a with 128 bits: the keys are names and native ids, the hash only keeps long ones apart.
    let hash = key.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |h, b| {
        (h ^ u128::from(b)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    let end = (0..=KEY_BYTES - 40).rev().find(|i| key.is_char_boundary(*i)).unwrap_or(0);
    format!("{}\u{2026}{hash:032x}", &key[..end])
}

/// Reads the columns of a row one after another.
pub(crate) struct Cells<'r> {
    row: &'r QueryResult,
    next: usize,
}

impl<'r> Cells<'r> {
    pub(crate) fn of(row: &'r QueryResult) -> Self {
        Self { row, next: 0 }
    }

    pub(crate) fn take<T: sea_orm::TryGetable>(&mut self) -> Result<T, Fail> {
        let at = self.next;
        self.next += 1;
        Ok(self.row.try_get_by_index::<T>(at)?)
    }

    pub(crate) fn int(&mut self) -> Result<i64, Fail> {
        self.take()
    }

    pub(crate) fn opt_time(&mut self) -> Result<Option<Timestamp>, Fail> {
        Ok(self.take::<Option<i64>>()?.map(Timestamp::from_micros))
    }

    pub(crate) fn text(&mut self) -> Result<String, Fail> {
        self.take()
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, Fail> {
        self.take()
    }

    /// A JSON document.
    pub(crate) fn json(&mut self) -> Result<serde_json::Value, Fail> {
        let text: String = self.take()?;
        serde_json::from_str(&text).map_err(Fail::Json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_powers_of_two_and_bounded_in_bytes() {
        let rows = |n: usize, len: usize| vec![vec![text(&"x".repeat(len))]; n];
        let sizes = |n, len| batches(rows(n, len)).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(100, 1), [64, 32, 4]);
        assert_eq!(sizes(300, 1), [128, 128, 32, 8, 4]);
        assert_eq!(sizes(0, 1), Vec::<usize>::new());
        assert_eq!(sizes(3, 3 << 20), [1, 1, 1]);
        assert!(batches(rows(64, 1 << 20)).iter().all(|b| b.len() <= 2));
    }

    #[test]
    fn long_keys_stay_apart_and_short() {
        let (a, b) = (format!("{}a", "é".repeat(400)), format!("{}b", "é".repeat(400)));
        assert_ne!(fold(&a), fold(&b));
        assert!(fold(&a).len() <= KEY_BYTES);
        assert_eq!(fold("vm:1"), "vm:1");
    }

    #[test]
    fn texts_are_cut_at_characters() {
        assert_eq!(cut(&"é".repeat(300)).chars().count(), 255);
        assert_eq!(cut("a\0b"), "a\u{fffd}b");
    }

    #[test]
    fn lists_come_in_few_lengths() {
        let mut sql = Sql::new(Dialect::Postgres, "x IN ");
        sql.list(&[1_i64, 2, 3]);
        assert_eq!(sql.text, "x IN ($1, $2, $3, $4)");
        assert_eq!(sql.values.last(), Some(&int(3)));
    }
}
