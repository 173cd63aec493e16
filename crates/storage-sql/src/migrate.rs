//! Brings the schema up to date, one process at a time.

use crate::error::{Fail, Unfit};
use crate::schema::{Migration, migrations};
use crate::sql::{Cells, Dialect, Sql, int, text};
use portolan_storage::StoreError;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, TransactionTrait};

/// Guards the migrations of PostgreSQL: "portolan" in ASCII.
const LOCK: i64 = 0x706f_7274_6f6c_616e;
/// How long MariaDB waits for another starter, in seconds.
const LOCK_SECONDS: u32 = 120;

/// Brings the schema up to date; refuses a newer one.
///
/// Starters wait for one another. PostgreSQL and SQLite migrate whole or not at all; MariaDB commits each statement,
/// so that a migration which stopped half-way is repeated: each of its statements is one that can be.
pub(crate) async fn migrate(db: &DatabaseConnection, dialect: Dialect) -> Result<(), Fail> {
    // The transaction holds one connection, and with it MariaDB's lock.
    let tx = db.begin_with_options(crate::store::write_options()).await?;
    let outcome = guarded(&tx, dialect).await;
    if dialect == Dialect::MariaDb {
        Sql::new(dialect, &format!("DO RELEASE_LOCK({})", lock_name())).run(&tx).await?;
    }
    match outcome {
        Ok(()) => Ok(tx.commit().await?),
        Err(e) => {
            // The first error tells more than the rollback's.
            let _ = tx.rollback().await;
            Err(e)
        }
    }
}

fn lock_name() -> &'static str {
    // Such locks are the server's, not the database's.
    "CONCAT('portolan.', SHA1(DATABASE()))"
}

async fn guarded(tx: &DatabaseTransaction, dialect: Dialect) -> Result<(), Fail> {
    match dialect {
        // The transaction is an immediate one: it is the lock.
        Dialect::Sqlite => {}
        Dialect::Postgres => {
            // The statement timeout is for statements, not for waiting on another starter.
            tx.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
            tx.execute_unprepared("SET LOCAL lock_timeout = 0").await?;
            Sql::new(dialect, &format!("SELECT pg_advisory_xact_lock({LOCK})")).all(tx).await?;
        }
        Dialect::MariaDb => {
            let get = format!("SELECT CAST(GET_LOCK({}, {LOCK_SECONDS}) AS SIGNED)", lock_name());
            let row = Sql::new(dialect, &get).one(tx).await?;
            let got: Option<i64> = row.map(|r| Cells::of(&r).take()).transpose()?.flatten();
            if got != Some(1) {
                return Err(Fail::Store(StoreError::Unavailable(Box::new(Unfit::Races))));
            }
        }
    }
    let steps = migrations(dialect);
    let known = steps.last().map_or(0, |m| m.version);
    let found = version(tx, dialect).await?;
    if found > known {
        return Err(Fail::Store(StoreError::TooNew { found, known }));
    }
    for step in steps.into_iter().filter(|m| m.version > found) {
        run(tx, dialect, step).await?;
    }
    Ok(())
}

/// The version of the schema that is there; 0 for none.
async fn version(tx: &DatabaseTransaction, dialect: Dialect) -> Result<i64, Fail> {
    let (int, text, tail) = match dialect {
        Dialect::Sqlite => ("INTEGER", "TEXT", ""),
        Dialect::Postgres => ("BIGINT", "TEXT", ""),
        Dialect::MariaDb => ("BIGINT", "LONGTEXT", " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4"),
    };
    let create = format!(
        "CREATE TABLE IF NOT EXISTS schema_migration (version {int} NOT NULL PRIMARY KEY, name {text} NOT NULL){tail}"
    );
    tx.execute_unprepared(&create).await?;
    let row = Sql::new(dialect, "SELECT MAX(version) FROM schema_migration").one(tx).await?;
    let found: Option<i64> = row.map(|r| Cells::of(&r).take()).transpose()?.flatten();
    Ok(found.unwrap_or(0))
}

/// The version of the schema that is there; 0 for none. Makes nothing.
pub(crate) async fn found(db: &DatabaseConnection, dialect: Dialect) -> Result<i64, Fail> {
    let there = match dialect {
        Dialect::Sqlite => "SELECT COUNT(*) FROM sqlite_master WHERE name = 'schema_migration'",
        Dialect::Postgres => {
            "SELECT COUNT(*) FROM information_schema.tables \
             WHERE table_schema = current_schema() AND table_name = 'schema_migration'"
        }
        Dialect::MariaDb => {
            "SELECT COUNT(*) FROM information_schema.tables \
             WHERE table_schema = DATABASE() AND table_name = 'schema_migration'"
        }
    };
    let row = Sql::new(dialect, there).one(db).await?;
    if row.map(|r| Cells::of(&r).int()).transpose()?.unwrap_or(0) == 0 {
        return Ok(0);
    }
    let row = Sql::new(dialect, "SELECT MAX(version) FROM schema_migration").one(db).await?;
    let found: Option<i64> = row.map(|r| Cells::of(&r).take()).transpose()?.flatten();
    Ok(found.unwrap_or(0))
}

async fn run(tx: &DatabaseTransaction, dialect: Dialect, step: Migration) -> Result<(), Fail> {
    tracing::info!(version = step.version, name = step.name, "migrating the database");
    if dialect == Dialect::MariaDb {
        for statement in &step.statements {
            tx.execute_unprepared(statement).await?;
        }
    } else {
        tx.execute_unprepared(&step.statements.join(";\n")).await?;
    }
    let mut sql = Sql::new(dialect, "INSERT INTO schema_migration (version, name) VALUES ");
    sql.row(vec![int(step.version), text(step.name)]);
    sql.run(tx).await?;
    Ok(())
}
