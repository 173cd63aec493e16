//! The storage itself: its connections and its transactions.

use crate::config::SqlConfig;
use crate::error::{Class, Fail, Unfit, classify, classify_sqlx};
use crate::feed::Feed;
use crate::migrate::migrate;
use crate::sql::{Cells, Dialect, Sql};
use portolan_storage::StoreError;
use sea_orm::sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sea_orm::sqlx::{self, Connection, Executor};
use sea_orm::{
    DatabaseConnection, DatabaseTransaction, SqliteTransactionMode, SqlxMySqlConnector, SqlxPostgresConnector,
    SqlxSqliteConnector, TransactionOptions, TransactionTrait,
};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;
use tokio::sync::Notify;

/// Everything that Portolan keeps, in SQLite, PostgreSQL or MariaDB.
#[derive(Debug, Clone)]
pub struct SqlStorage {
    pub(crate) dialect: Dialect,
    /// Writes. SQLite: one connection, so that writers queue here and not inside the database.
    pub(crate) write: DatabaseConnection,
    /// Reads; the same pool as `write` except on SQLite.
    pub(crate) read: DatabaseConnection,
    pub(crate) wake: Arc<Notify>,
    pub(crate) feed: Arc<Feed>,
    /// The latest instant that an operation was told, in microseconds.
    pub(crate) seen: Arc<AtomicI64>,
}

/// How often a transaction that lost a race is tried again.
pub(crate) const RACES: u32 = 30;
/// Connections that have been idle for longer are tried before they are used.
const IDLE: Duration = Duration::from_secs(5);
/// How long connections may take to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// Statements that each connection keeps prepared.
const STATEMENTS: usize = 64;

/// Runs a transaction, again where it lost a race: `transact!(store, |tx| body)` is the body's `Result<_, Fail>`;
/// `end`, where it is given, commits in its own way. (A macro, since a closure's future cannot borrow the transaction
/// and be `Send`.)
macro_rules! transact {
    ($store:expr, |$tx:ident| $body:block) => {
        $crate::store::transact!($store, |$tx| $body, $crate::store::end)
    };
    ($store:expr, |$tx:ident| $body:block, $end:expr) => {{
        let mut round = 0_u32;
        loop {
            let $tx = match $store.begin().await {
                Ok(tx) => tx,
                Err(e) => break Err(e),
            };
            let outcome: Result<_, $crate::error::Fail> = async { $body }.await;
            match $end($tx, outcome).await {
                Err(e) if e.is_race() && round < $crate::store::RACES => {
                    round += 1;
                    $crate::store::pause(round).await;
                }
                other => break other,
            }
        }
    }};
}
pub(crate) use transact;

impl SqlStorage {
    /// Connects, and brings the schema up to date.
    ///
    /// # Errors
    /// `Unavailable` when nobody answers, `TooNew` when a newer version has written the schema, `NoSpace`, and
    /// `Internal` for a URL or a server that Portolan cannot use.
    pub async fn connect(config: SqlConfig) -> Result<Arc<Self>, StoreError> {
        Self::open(config).await?.migrated().await
    }

    async fn open(config: SqlConfig) -> Result<Self, StoreError> {
        let dialect = config.dialect()?;
        let (write, read) = match dialect {
            Dialect::Sqlite => sqlite(&config).await?,
            Dialect::Postgres => postgres(&config).await.map(|db| (db.clone(), db))?,
            Dialect::MariaDb => mariadb(&config).await.map(|db| (db.clone(), db))?,
        };
        let (wake, feed) = (Arc::new(Notify::new()), Arc::new(Feed::new(dialect)));
        let storage = Self { dialect, write, read, wake, feed, seen: Arc::new(AtomicI64::new(i64::MIN)) };
        if dialect == Dialect::MariaDb {
            storage.check_server().await?;
        }
        Ok(storage)
    }

    /// Connects beside a server that runs, and leaves the schema as it is: to read what is there.
    ///
    /// # Errors
    /// As [`SqlStorage::connect`], and `Internal` where the schema is older or there is none.
    pub async fn attach(config: SqlConfig) -> Result<Arc<Self>, StoreError> {
        let storage = Self::open(config).await?;
        let known = Self::schema_version();
        match crate::migrate::found(&storage.write, storage.dialect).await.map_err(Fail::into_store)? {
            found if found == known => Ok(Arc::new(storage)),
            found if found > known => Err(StoreError::TooNew { found, known }),
            found => Err(StoreError::internal(Unfit::Schema { found, known })),
        }
    }

    async fn migrated(self) -> Result<Arc<Self>, StoreError> {
        let mut round = 0;
        loop {
            match migrate(&self.write, self.dialect).await {
                Ok(()) => return Ok(Arc::new(self)),
                Err(e) if e.is_race() && round < RACES => {
                    round += 1;
                    pause(round).await;
                }
                Err(e) => return Err(e.into_store()),
            }
        }
    }

    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Closes every connection; what was acknowledged stays. Calls that come later fail as `Unavailable`. A connection
    /// that does not end within some seconds, since its server hangs, is left behind.
    pub async fn close(&self) {
        for db in [&self.read, &self.write] {
            // Closing by reference leaves clones in place, and closes the pool that they share.
            match tokio::time::timeout(CLOSE_LIMIT, db.close_by_ref()).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::debug!(error = %e, "the pool was closed already"),
                Err(_) => tracing::warn!("a connection to the database does not end and is left behind"),
            }
        }
    }

    /// MariaDB before 10.6 has no `SKIP LOCKED`.
    async fn check_server(&self) -> Result<(), StoreError> {
        let version = async {
            let row = Sql::new(self.dialect, "SELECT VERSION()").one(&self.read).await?;
            row.map(|r| Cells::of(&r).text()).transpose()
        };
        let version = version.await.map_err(Fail::into_store)?.unwrap_or_default();
        if server_fits(&version) { Ok(()) } else { Err(StoreError::internal(Unfit::Server(version))) }
    }

    pub(crate) fn sql(&self, text: &str) -> Sql {
        Sql::new(self.dialect, text)
    }

    /// Begins a transaction that writes. A connection that broke while idle is passed over.
    pub(crate) async fn begin(&self) -> Result<DatabaseTransaction, Fail> {
        let mut round = 0;
        loop {
            match self.write.begin_with_options(write_options()).await {
                Ok(tx) => return Ok(tx),
                Err(e) if round < 3 && broken(&e) => round += 1,
                Err(e) if round < RACES && classify(&e) == Class::Race => {
                    round += 1;
                    pause(round).await;
                }
                Err(e) => return Err(Fail::Db(e)),
            }
        }
    }
}

/// Whether the connection, not the database, is gone.
fn broken(e: &sea_orm::DbErr) -> bool {
    use sea_orm::{DbErr, RuntimeErr};
    match e {
        DbErr::Conn(RuntimeErr::SqlxError(e)) | DbErr::Exec(RuntimeErr::SqlxError(e)) => {
            matches!(e.as_ref(), sqlx::Error::Io(_))
        }
        _ => false,
    }
}

pub(crate) fn write_options() -> TransactionOptions {
    // The isolation level is the session's: naming it here would cost a round trip each time.
    TransactionOptions { sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate), ..Default::default() }
}

/// Commits what went well, rolls the rest back.
pub(crate) async fn end<T>(tx: DatabaseTransaction, outcome: Result<T, Fail>) -> Result<T, Fail> {
    match outcome {
        Ok(value) => {
            tx.commit().await?;
            Ok(value)
        }
        Err(e) => {
            // The first error tells more than the rollback's; a connection that cannot roll back is dropped.
            let _ = tx.rollback().await;
            Err(e)
        }
    }
}

/// Waits before the next round, longer each time up to 64 ms.
pub(crate) async fn pause(round: u32) {
    tokio::time::sleep(Duration::from_millis(1 << round.min(6))).await;
}

fn connect_error(e: sqlx::Error) -> StoreError {
    match classify_sqlx(&e) {
        Class::NoSpace => StoreError::NoSpace,
        Class::Race | Class::Away => StoreError::Unavailable(Box::new(e)),
        Class::Odd => StoreError::internal(e),
    }
}

/// Whether a server with this version string is MariaDB 10.6 or newer.
fn server_fits(version: &str) -> bool {
    // Old protocols put a fixed "5.5.5-" in front.
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let at_least = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (10, 6);
    at_least && version.contains("MariaDB")
}

async fn sqlite(config: &SqlConfig) -> Result<(DatabaseConnection, DatabaseConnection), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = config.file();
    // Made here so that nobody else can read it; the journal files take over its mode.
    let made = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&file);
    drop(made.map_err(|e| match e.kind() {
        std::io::ErrorKind::StorageFull => StoreError::NoSpace,
        _ => StoreError::internal(e),
    })?);
    let options = |cache_kib: i64| {
        SqliteConnectOptions::new()
            .filename(&file)
            .busy_timeout(config.lock_timeout())
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .pragma("cache_size", format!("-{cache_kib}"))
            .pragma("journal_size_limit", "16777216")
            .statement_cache_capacity(STATEMENTS)
    };
    let write = options(4096).journal_mode(SqliteJournalMode::Wal);
    let writers = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .acquire_timeout(config.acquire_timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false);
    // Two processes that open a new file at once may find it locked while its journal mode changes.
    let mut round = 0;
    let writer = loop {
        match writers.clone().connect_with(write.clone()).await {
            Ok(pool) => break pool,
            Err(e) if round < RACES && classify_sqlx(&e) == Class::Race => {
                round += 1;
                pause(round).await;
            }
            Err(e) => return Err(connect_error(e)),
        }
    };
    let readers = SqlitePoolOptions::new()
        .max_connections(config.max_connections.max(1))
        .acquire_timeout(config.acquire_timeout)
        .idle_timeout(Duration::from_secs(60))
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with(options(1024).read_only(true));
    Ok((SqlxSqliteConnector::from_sqlx_sqlite_pool(writer), SqlxSqliteConnector::from_sqlx_sqlite_pool(readers)))
}

async fn postgres(config: &SqlConfig) -> Result<DatabaseConnection, StoreError> {
    let timeout = config.statement_timeout.as_millis().to_string();
    let lock_timeout = config.lock_timeout().as_millis().to_string();
    let options = PgConnectOptions::from_str(&config.url)
        .map_err(connect_error)?
        .application_name("portolan")
        .statement_cache_capacity(STATEMENTS)
        .options([
            ("statement_timeout", timeout.as_str()),
            ("lock_timeout", lock_timeout.as_str()),
            ("idle_in_transaction_session_timeout", "60000"),
            // Row locks and unique indexes carry the rules; each statement must see what others committed.
            ("default_transaction_isolation", "read committed"),
            // Claims and pages must run along an index and stop; for tables without statistics, which a busy queue
            // is, the planner would rather collect all that matches and sort it.
            ("enable_bitmapscan", "off"),
        ]);
    let pool = PgPoolOptions::new()
        .max_connections(config.max_connections.max(1))
        .acquire_timeout(config.acquire_timeout)
        .idle_timeout(Duration::from_secs(60))
        .test_before_acquire(false)
        .before_acquire(|conn, meta| {
            Box::pin(async move {
                if meta.idle_for > IDLE {
                    conn.ping().await?;
                }
                Ok(true)
            })
        });
    // A refused connection is an answer; the pool would go on trying until the time is up.
    sqlx::PgConnection::connect_with(&options).await.map_err(connect_error)?.close().await.map_err(connect_error)?;
    Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool.connect_lazy_with(options)))
}

async fn mariadb(config: &SqlConfig) -> Result<DatabaseConnection, StoreError> {
    let options = MySqlConnectOptions::from_str(&config.url)
        .map_err(connect_error)?
        .charset("utf8mb4")
        .collation("utf8mb4_nopad_bin")
        .statement_cache_capacity(STATEMENTS)
        .pipes_as_concat(false);
    let setup = format!(
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
         NAMES utf8mb4 COLLATE utf8mb4_nopad_bin, \
         SESSION max_statement_time = {}, SESSION innodb_lock_wait_timeout = {}",
        config.statement_timeout.as_secs_f64(),
        config.lock_timeout().as_secs().max(1),
    );
    let pool = MySqlPoolOptions::new()
        .max_connections(config.max_connections.max(1))
        .acquire_timeout(config.acquire_timeout)
        .idle_timeout(Duration::from_secs(60))
        .test_before_acquire(false)
        .after_connect(move |conn, _| {
            let setup = setup.clone();
            Box::pin(async move {
                conn.execute(sqlx::AssertSqlSafe(setup)).await?;
                // Locks of gaps between rows, as the default level takes, would make claims and enqueues deadlock;
                // row locks and unique indexes carry the rules.
                conn.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
                Ok(())
            })
        })
        .before_acquire(|conn, meta| {
            Box::pin(async move {
                if meta.idle_for > IDLE {
                    conn.ping().await?;
                }
                Ok(true)
            })
        });
    sqlx::MySqlConnection::connect_with(&options).await.map_err(connect_error)?.close().await.map_err(connect_error)?;
    Ok(SqlxMySqlConnector::from_sqlx_mysql_pool(pool.connect_lazy_with(options)))
}

#[cfg(test)]
mod tests {
    use super::{SqlConfig, SqlStorage, server_fits};
    use portolan_model::{Scope, Timestamp};
    use portolan_storage::{StateStore, StoreError, UnitOfWork};
    use sea_orm::ConnectionTrait;

    #[tokio::test]
    async fn a_full_disk_is_told_apart_and_nothing_is_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let storage = SqlStorage::connect(SqlConfig::sqlite(&dir.path().join("db"))).await.unwrap();
        let pages = "PRAGMA max_page_count = 1";
        storage.write.execute_unprepared(pages).await.unwrap();
        let unit = |n: usize| {
            let data = serde_json::json!("x".repeat(n));
            UnitOfWork::new().event("test", None, uuid::Uuid::nil(), data)
        };
        let error = storage.apply(Timestamp::MIN, Scope::All, unit(1 << 20)).await.unwrap_err();
        assert!(matches!(error, StoreError::NoSpace), "{error:?}");
        storage.write.execute_unprepared("PRAGMA max_page_count = 100000").await.unwrap();
        storage.apply(Timestamp::MIN, Scope::All, unit(10)).await.unwrap();
        let events = portolan_storage::Views::events(&*storage, Scope::All, 0, 10).await.unwrap();
        assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn only_a_new_enough_mariadb_will_do() {
        assert!(server_fits("10.11.19-MariaDB-0+deb12u1"));
        assert!(server_fits("5.5.5-10.6.1-MariaDB"));
        assert!(server_fits("11.4.2-MariaDB"));
        assert!(!server_fits("10.5.23-MariaDB"));
        assert!(!server_fits("8.0.36"));
        assert!(!server_fits(""));
    }
}
