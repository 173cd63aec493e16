//! Everything that a database holds, as lines that any of the three databases can take in: how state moves from one to
//! another, and how it is kept.

use crate::error::{Fail, Unfit};
use crate::schema::migrations;
use crate::sql::{Cells, Dialect, Sql, insert_all, int};
use crate::store::{SqlStorage, write_options};
use futures_util::TryStreamExt;
use portolan_storage::StoreError;
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseTransaction, IsolationLevel, QueryResult, StreamTrait, TransactionTrait, Value,
};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

/// Says which processes live: of no meaning elsewhere.
const LEFT_OUT: &[&str] = &["task_node"];
/// Rows of one statement, and bytes that are collected before it is sent.
const ROWS: usize = 256;
const BYTES: usize = 1 << 20;

/// A line of a dump.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DumpLine {
    /// A table begins.
    Table {
        /// Its name.
        name: String,
        /// The columns of its rows.
        columns: Vec<String>,
    },
    /// A row of the table that began last: ids as texts with hyphens, numbers, texts, null.
    Row(Vec<Json>),
    /// No fence of a task is larger; those to come will be.
    Fence(i64),
}

/// What a column holds, on every database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Id,
    Int,
    Text,
}

/// A table as every database has it.
#[derive(Debug, PartialEq)]
struct Table {
    name: String,
    columns: Vec<(String, Kind)>,
}

impl Table {
    /// Those of its rows that are of a dump, as they stand in `FROM`.
    fn rows(&self) -> String {
        match self.name.as_str() {
            // Where fences are counted differs.
            "series" => "series WHERE name <> 'fence'".to_owned(),
            name => name.to_owned(),
        }
    }
}

impl SqlStorage {
    /// The version of the schema that dumps of this program have. A dump is taken in by the same version only; what
    /// came of it is migrated like any database.
    pub fn schema_version() -> i64 {
        migrations(Dialect::Sqlite).last().map_or(0, |m| m.version)
    }

    /// How many rows a dump has.
    ///
    /// # Errors
    /// What the database says.
    pub async fn dump_rows(&self) -> Result<u64, StoreError> {
        let count = async {
            let mut rows = 0;
            for table in tables() {
                rows += count(&self.read, self.dialect, &table).await?;
            }
            Ok::<_, Fail>(rows)
        };
        count.await.map_err(Fail::into_store)
    }

    /// Hands out everything as of one moment, whatever others write meanwhile. Returns how many rows there were.
    ///
    /// # Errors
    /// What the database says, and what `out` says.
    pub async fn dump<E: From<StoreError>>(&self, mut out: impl FnMut(DumpLine) -> Result<(), E>) -> Result<u64, E> {
        let fail = |e: Fail| E::from(e.into_store());
        let (level, mode) = match self.dialect {
            // A transaction that reads sees one moment anyway, and knows no levels.
            Dialect::Sqlite => (None, None),
            _ => (Some(IsolationLevel::RepeatableRead), Some(AccessMode::ReadOnly)),
        };
        let tx = self.read.begin_with_config(level, mode).await.map_err(|e| fail(e.into()))?;
        // It takes as long as whoever takes the lines.
        let patient = match self.dialect {
            Dialect::Sqlite => None,
            Dialect::Postgres => Some("SET LOCAL statement_timeout = 0"),
            Dialect::MariaDb => Some("SET SESSION max_statement_time = 0"),
        };
        if let Some(patient) = patient {
            tx.execute_unprepared(patient).await.map_err(|e| fail(e.into()))?;
        }
        let fence = fence(&tx, self.dialect).await.map_err(fail)?;
        out(DumpLine::Fence(fence))?;
        let mut rows = 0;
        for table in tables() {
            let names: Vec<&str> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
            let columns = names.iter().map(|name| (*name).to_owned()).collect();
            out(DumpLine::Table { name: table.name.clone(), columns })?;
            let sql = Sql::new(self.dialect, &format!("SELECT {} FROM {}", names.join(", "), table.rows()));
            let mut stream = tx.stream_raw(sql.statement()).await.map_err(|e| fail(e.into()))?;
            while let Some(row) = stream.try_next().await.map_err(|e| fail(e.into()))? {
                out(DumpLine::Row(row_of(&row, &table).map_err(fail)?))?;
                rows += 1;
            }
        }
        // Nothing was written; a connection that cannot end its transaction is dropped.
        let _ = tx.rollback().await;
        Ok(rows)
    }

    /// Takes in a dump, whole or not at all, into a database that holds nothing. `next` gives the lines, and nothing
    /// only when all of them are known to have come.
    ///
    /// # Errors
    /// `Internal` when the database is not empty or a line does not fit; what the database says, and what `next` says.
    pub async fn load<E: From<StoreError>>(
        &self,
        mut next: impl FnMut() -> Result<Option<DumpLine>, E>,
    ) -> Result<u64, E> {
        let fail = |e: Fail| E::from(e.into_store());
        let tx = self.write.begin_with_options(write_options()).await.map_err(|e| fail(e.into()))?;
        let loaded = take_in(&tx, self.dialect, &mut next).await;
        match loaded {
            Ok(rows) => {
                tx.commit().await.map_err(|e| fail(e.into()))?;
                Ok(rows)
            }
            Err(e) => {
                let _ = tx.rollback().await;
                Err(e)
            }
        }
    }

    /// Whether it holds nothing yet.
    ///
    /// # Errors
    /// What the database says.
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        empty(&self.read, self.dialect).await.map_err(Fail::into_store)
    }
}

async fn take_in<E: From<StoreError>>(
    tx: &DatabaseTransaction,
    dialect: Dialect,
    next: &mut impl FnMut() -> Result<Option<DumpLine>, E>,
) -> Result<u64, E> {
    let fail = |e: Fail| E::from(e.into_store());
    if !empty(tx, dialect).await.map_err(fail)? {
        return Err(fail(unfit("the database is not empty")));
    }
    let known = tables();
    let mut current: Option<&Table> = None;
    let (mut batch, mut bytes, mut rows): (Vec<Vec<Value>>, usize, u64) = (Vec::new(), 0, 0);
    while let Some(line) = next()? {
        match line {
            DumpLine::Fence(fence) => set_fence(tx, dialect, fence).await.map_err(fail)?,
            DumpLine::Table { name, columns } => {
                flush(tx, dialect, current, &mut batch).await.map_err(fail)?;
                let table = known.iter().find(|table| table.name == name);
                let table = table.filter(|t| t.columns.iter().map(|(name, _)| name).eq(columns.iter()));
                current = Some(table.ok_or_else(|| fail(unfit("the dump has a table that is not known like this")))?);
            }
            DumpLine::Row(cells) => {
                let table = current.ok_or_else(|| fail(unfit("the dump has a row of no table")))?;
                let values = values_of(table, cells).map_err(fail)?;
                bytes +=
                    values.iter().map(|v| if let Value::String(Some(t)) = v { t.len() } else { 16 }).sum::<usize>();
                batch.push(values);
                rows += 1;
                if batch.len() >= ROWS || bytes >= BYTES {
                    flush(tx, dialect, current, &mut batch).await.map_err(fail)?;
                    bytes = 0;
                }
            }
        }
    }
    flush(tx, dialect, current, &mut batch).await.map_err(fail)?;
    Ok(rows)
}

async fn flush(
    tx: &DatabaseTransaction,
    dialect: Dialect,
    table: Option<&Table>,
    batch: &mut Vec<Vec<Value>>,
) -> Result<(), Fail> {
    let Some(table) = table.filter(|_| !batch.is_empty()) else { return Ok(()) };
    let names: Vec<&str> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
    insert_all(tx, dialect, &table.name, &names, std::mem::take(batch), "").await
}

/// Whether no table has a row.
async fn empty(on: &impl ConnectionTrait, dialect: Dialect) -> Result<bool, Fail> {
    for table in tables() {
        let sql = Sql::new(dialect, &format!("SELECT 1 FROM {} LIMIT 1", table.name));
        if sql.one(on).await?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn count(on: &impl ConnectionTrait, dialect: Dialect, table: &Table) -> Result<u64, Fail> {
    let row = Sql::new(dialect, &format!("SELECT COUNT(*) FROM {}", table.rows())).one(on).await?;
    let n = row.map(|r| Cells::of(&r).int()).transpose()?.unwrap_or(0);
    Ok(u64::try_from(n).unwrap_or(0))
}

/// What fences were counted to.
async fn fence(on: &impl ConnectionTrait, dialect: Dialect) -> Result<i64, Fail> {
    let sql = match dialect {
        Dialect::Sqlite => "SELECT n FROM series WHERE name = 'fence'",
        Dialect::Postgres => "SELECT last_value FROM task_fence",
        Dialect::MariaDb => "SELECT next_not_cached_value FROM task_fence",
    };
    let row = Sql::new(dialect, sql).one(on).await?;
    Ok(row.map(|r| Cells::of(&r).int()).transpose()?.unwrap_or(0))
}

async fn set_fence(tx: &DatabaseTransaction, dialect: Dialect, fence: i64) -> Result<(), Fail> {
    let mut sql = match dialect {
        Dialect::Sqlite => {
            let row = vec![vec![crate::sql::text("fence"), int(fence)]];
            return insert_all(tx, dialect, "series", &["name", "n"], row, "").await;
        }
        Dialect::Postgres => Sql::new(dialect, "SELECT setval('task_fence', "),
        Dialect::MariaDb => Sql::new(dialect, "SELECT SETVAL(task_fence, "),
    };
    // A sequence begins with 1. What is drawn by an attempt that is rolled back is only passed over.
    sql.push(&fence.max(1).to_string()).push(")");
    sql.all(tx).await.map(drop)
}

fn row_of(row: &QueryResult, table: &Table) -> Result<Vec<Json>, Fail> {
    let mut cells = Cells::of(row);
    let cell = |(_, kind): &(String, Kind)| {
        Ok(match kind {
            Kind::Id => cells.take::<Option<Uuid>>()?.map_or(Json::Null, |id| id.to_string().into()),
            Kind::Int => cells.take::<Option<i64>>()?.map_or(Json::Null, Json::from),
            Kind::Text => cells.take::<Option<String>>()?.map_or(Json::Null, Json::from),
        })
    };
    table.columns.iter().map(cell).collect()
}

fn values_of(table: &Table, cells: Vec<Json>) -> Result<Vec<Value>, Fail> {
    let odd = || unfit("the dump has a row that does not fit its table");
    if cells.len() != table.columns.len() {
        return Err(odd());
    }
    let value = |((_, kind), cell): (&(String, Kind), Json)| match (kind, cell) {
        (Kind::Id, Json::Null) => Ok(Value::Uuid(None)),
        (Kind::Id, Json::String(text)) => text.parse().map(|id| Value::Uuid(Some(id))).map_err(|_| odd()),
        (Kind::Int, Json::Null) => Ok(Value::BigInt(None)),
        (Kind::Int, Json::Number(n)) => n.as_i64().map(int).ok_or_else(odd),
        (Kind::Text, Json::Null) => Ok(Value::String(None)),
        (Kind::Text, Json::String(text)) => Ok(Value::String(Some(text))),
        _ => Err(odd()),
    };
    table.columns.iter().zip(cells).map(value).collect()
}

fn unfit(what: &'static str) -> Fail {
    Fail::Store(StoreError::internal(Unfit::Dump(what)))
}

/// Every table with its columns, as SQLite's statements say; the other databases have the same.
fn tables() -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for statement in migrations(Dialect::Sqlite).into_iter().flat_map(|m| m.statements) {
        if let Some((name, columns)) = statement.strip_prefix("CREATE TABLE IF NOT EXISTS ").and_then(definition) {
            tables.push(Table { name, columns });
        } else if let Some((name, column)) =
            statement.strip_prefix("ALTER TABLE ").and_then(|rest| rest.split_once(" ADD COLUMN "))
            && let Some(table) = tables.iter_mut().find(|table| table.name == name)
        {
            table.columns.extend(column_of(column));
        }
    }
    tables.retain(|table| !LEFT_OUT.contains(&table.name.as_str()));
    tables
}

/// The name and the columns of `name (column type …, …)`.
fn definition(text: &str) -> Option<(String, Vec<(String, Kind)>)> {
    let (name, rest) = text.split_once(" (")?;
    let body = rest.rsplit_once(')').map_or(rest, |(body, _)| body);
    Some((name.to_owned(), body.split(',').filter_map(column_of).collect()))
}

fn column_of(text: &str) -> Option<(String, Kind)> {
    let mut words = text.split_whitespace();
    let (name, kind) = (words.next()?, words.next()?);
    let kind = match kind {
        "BLOB" => Kind::Id,
        "INTEGER" => Kind::Int,
        "TEXT" => Kind::Text,
        // A key over several columns, or a part of one.
        _ => return None,
    };
    Some((name.to_owned(), kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SqlConfig;

    #[tokio::test]
    async fn every_table_is_known_with_every_column() {
        let dir = tempfile::tempdir().unwrap();
        let storage = SqlStorage::connect(SqlConfig::sqlite(&dir.path().join("db"))).await.unwrap();
        let names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY rowid";
        let mut there = Vec::new();
        for row in storage.sql(names).all(&storage.read).await.unwrap() {
            let name = Cells::of(&row).text().unwrap();
            if name == "schema_migration" || LEFT_OUT.contains(&name.as_str()) {
                continue;
            }
            let info = format!("SELECT name, type FROM pragma_table_info('{name}') ORDER BY cid");
            let mut columns = Vec::new();
            for row in storage.sql(&info).all(&storage.read).await.unwrap() {
                let mut cells = Cells::of(&row);
                let column = format!("{} {}", cells.text().unwrap(), cells.text().unwrap());
                columns.push(column_of(&column).unwrap());
            }
            there.push(Table { name, columns });
        }
        let mut known = tables();
        known.sort_by(|a, b| a.name.cmp(&b.name));
        there.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(known, there);
        assert!(known.len() > 25);
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let columns = vec![("id".to_owned(), Kind::Id), ("n".to_owned(), Kind::Int), ("t".to_owned(), Kind::Text)];
        let table = Table { name: "x".into(), columns };
        let id = Uuid::nil().to_string();
        assert!(values_of(&table, vec![id.clone().into(), 1.into(), "t".into()]).is_ok());
        assert!(values_of(&table, vec![Json::Null, Json::Null, Json::Null]).is_ok());
        for bad in [
            vec![id.clone().into(), 1.into()],
            vec!["nobody".into(), 1.into(), "t".into()],
            vec![id.clone().into(), 1.5.into(), "t".into()],
            vec![id.clone().into(), 1.into(), 2.into()],
            vec![id.into(), 1.into(), Json::Object(serde_json::Map::new())],
        ] {
            assert!(values_of(&table, bad).is_err());
        }
    }
}
