//! What the databases' errors mean here.

use portolan_storage::StoreError;
use portolan_tasks::TaskError;
use sea_orm::sqlx;
use sea_orm::{DbErr, RuntimeErr};

/// Why a transaction did not go through.
#[derive(Debug)]
pub(crate) enum Fail {
    /// The database said so.
    Db(DbErr),
    /// The port says so.
    Store(StoreError),
    /// The port of tasks says so.
    Task(TaskError),
    /// A stored document cannot be read.
    Json(serde_json::Error),
    /// Somebody else was faster: decide anew on fresh data.
    Again,
}

impl From<DbErr> for Fail {
    fn from(e: DbErr) -> Self {
        Self::Db(e)
    }
}

impl From<StoreError> for Fail {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

impl From<TaskError> for Fail {
    fn from(e: TaskError) -> Self {
        Self::Task(e)
    }
}

/// What to do about a database's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The same transaction can go through the next time: a deadlock, a serialisation failure, a lost race for a
    /// unique key (the next round sees who won).
    Race,
    /// The disk is full.
    NoSpace,
    /// The database is away, or overloaded.
    Away,
    /// Anything else.
    Odd,
}

fn sqlx_error(e: &DbErr) -> Option<&sqlx::Error> {
    match e {
        DbErr::Conn(RuntimeErr::SqlxError(e))
        | DbErr::Exec(RuntimeErr::SqlxError(e))
        | DbErr::Query(RuntimeErr::SqlxError(e)) => Some(e),
        _ => None,
    }
}

/// What to do about `e`.
pub(crate) fn classify(e: &DbErr) -> Class {
    match sqlx_error(e) {
        Some(e) => classify_sqlx(e),
        None if matches!(e, DbErr::ConnectionAcquire(_) | DbErr::Conn(_)) => Class::Away,
        None => Class::Odd,
    }
}

pub(crate) fn classify_sqlx(e: &sqlx::Error) -> Class {
    let db = match e {
        sqlx::Error::Database(db) => db,
        sqlx::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => return Class::NoSpace,
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => return Class::Away,
        _ => return Class::Odd,
    };
    if db.is_unique_violation() {
        return Class::Race;
    }
    if let Some(db) = db.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return match db.number() {
            1213 | 1205 | 1020 => Class::Race,
            1021 | 1114 => Class::NoSpace,
            1040 | 1053 | 1203 | 1927 | 1969 | 2006 | 2013 => Class::Away,
            _ => Class::Odd,
        };
    }
    let code = db.code().unwrap_or_default();
    if db.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        return match code.as_ref() {
            "40001" | "40P01" | "55P03" => Class::Race,
            "53100" => Class::NoSpace,
            "57014" | "57P01" | "57P02" | "57P03" | "53300" | "25006" => Class::Away,
            c if c.starts_with("08") => Class::Away,
            _ => Class::Odd,
        };
    }
    // SQLite: the low byte of an extended code is the plain one.
    match code.parse::<i64>().map(|c| c & 0xff) {
        Ok(5 | 6) => Class::Race,
        Ok(13) => Class::NoSpace,
        Ok(14) => Class::Away,
        _ => Class::Odd,
    }
}

/// A database's error as the port has it.
pub(crate) fn store_error(e: DbErr) -> StoreError {
    match classify(&e) {
        Class::NoSpace => StoreError::NoSpace,
        Class::Race | Class::Away => StoreError::Unavailable(Box::new(e)),
        Class::Odd => StoreError::internal(e),
    }
}

/// The database answers, but another version made it, or it is none that Portolan can use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// The URL names no database that Portolan knows.
    #[error("'{0}' is no sqlite:, postgres: or mysql: URL")]
    Scheme(String),
    /// The server is too old.
    #[error("the server is '{0}': MariaDB 10.6 or newer is needed")]
    Server(String),
    /// A stored value is none that this version writes.
    #[error("a stored value is unreadable: {0}")]
    Value(String),
    /// A dump cannot be taken in.
    #[error("{0}")]
    Dump(&'static str),
    /// The schema is another version's.
    #[error("the schema has version {found}, this program keeps version {known}")]
    Schema {
        /// What is there.
        found: i64,
        /// What this program keeps.
        known: i64,
    },
    /// Too many others were faster each time.
    #[error("the transaction lost every race")]
    Races,
}

impl Fail {
    /// As the ports of state have it.
    pub(crate) fn into_store(self) -> StoreError {
        match self {
            Self::Db(e) => store_error(e),
            Self::Store(e) => e,
            Self::Task(TaskError::Lost(id)) => StoreError::Conflict(portolan_storage::Conflict::TaskLost(id)),
            Self::Task(e) => StoreError::Tasks(e),
            Self::Json(e) => StoreError::internal(e),
            Self::Again => StoreError::Unavailable(Box::new(Unfit::Races)),
        }
    }

    /// As the port of tasks has it.
    pub(crate) fn into_task(self) -> TaskError {
        match self {
            Self::Task(e) => e,
            other => TaskError::Store(Box::new(other.into_store())),
        }
    }

    /// Whether the same transaction may go through the next time.
    pub(crate) fn is_race(&self) -> bool {
        match self {
            Self::Db(e) => classify(e) == Class::Race,
            Self::Again => true,
            _ => false,
        }
    }
}
