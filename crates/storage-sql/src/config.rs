//! Where the database is and how it is spoken to.

use crate::error::Unfit;
use crate::sql::Dialect;
use portolan_storage::StoreError;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the database is and how it is spoken to.
#[derive(Clone)]
pub struct SqlConfig {
    /// `sqlite:///path` (the rest of the text is the path as it is), `postgres://…`, `mysql://…` or `mariadb://…`.
    /// A SQLite file is for one storage at a time: caches of objects rely on its seeing every write.
    pub url: String,
    /// How many connections at the most, for SQLite: to read with, beside the one that writes.
    pub max_connections: u32,
    /// After how long PostgreSQL and MariaDB give up on a statement; a sixth of it on a lock, as SQLite does too.
    pub statement_timeout: Duration,
    /// How long a caller waits for a free connection.
    pub acquire_timeout: Duration,
}

impl std::fmt::Debug for SqlConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("SqlConfig").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

impl SqlConfig {
    /// The usual limits for a database at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        let url = url.into();
        // With a file, who waits waits for nobody but this process, which is at work: a crowd is served in turn. A
        // server may have died.
        let (max_connections, acquire) = if url.starts_with("sqlite:") { (2, 30) } else { (8, 10) };
        Self {
            url,
            max_connections,
            statement_timeout: Duration::from_secs(30),
            acquire_timeout: Duration::from_secs(acquire),
        }
    }

    /// SQLite in a file, made when it is missing. The path must be UTF-8.
    pub fn sqlite(path: &Path) -> Self {
        Self::new(format!("sqlite://{}", path.display()))
    }

    pub(crate) fn dialect(&self) -> Result<Dialect, StoreError> {
        match self.url.split(':').next() {
            Some("sqlite") => Ok(Dialect::Sqlite),
            Some("postgres" | "postgresql") => Ok(Dialect::Postgres),
            Some("mysql" | "mariadb") => Ok(Dialect::MariaDb),
            // Only the scheme: the rest may hold a password.
            scheme => Err(StoreError::internal(Unfit::Scheme(scheme.unwrap_or_default().to_owned()))),
        }
    }

    /// How long a transaction waits for another's lock before it is tried again. Short beside the statement's time,
    /// since it is tried several times.
    pub(crate) fn lock_timeout(&self) -> Duration {
        self.statement_timeout / 6
    }

    pub(crate) fn file(&self) -> PathBuf {
        let rest = self.url.strip_prefix("sqlite:").unwrap_or(&self.url);
        PathBuf::from(rest.strip_prefix("//").unwrap_or(rest))
    }
}
