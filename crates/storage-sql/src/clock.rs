//! The database's time.

use crate::error::Fail;
use crate::sql::{Cells, Dialect};
use crate::store::SqlStorage;
use portolan_model::{Clock, Timestamp};
use portolan_storage::StoreError;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

/// A clock that shows the database's time: the same on every node that shares the database. Between two looks at
/// the database it runs by this machine's monotonic clock; it never runs backwards.
#[derive(Debug)]
pub struct DatabaseClock {
    origin: Instant,
    /// The database's time at `origin`, in microseconds.
    offset: AtomicI64,
    /// The latest instant that was shown.
    shown: AtomicI64,
}

impl DatabaseClock {
    fn starting_at(micros: i64) -> Self {
        Self { origin: Instant::now(), offset: AtomicI64::new(micros), shown: AtomicI64::new(i64::MIN) }
    }

    fn elapsed(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    /// Looks at the database again: after a long time, or after the machine slept. A database that has been set
    /// back makes the clock stand still until it has caught up.
    pub async fn refresh(&self, storage: &SqlStorage) -> Result<(), StoreError> {
        let before = self.elapsed();
        let there = storage.whole(|calls| async move { calls.database_time().await }).await?;
        // The database looked at its clock somewhere between the two: half-way is off by half the round trip.
        let here = before + (self.elapsed() - before) / 2;
        self.offset.store(there.saturating_sub(here), Ordering::SeqCst);
        Ok(())
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> Timestamp {
        let now = self.offset.load(Ordering::SeqCst).saturating_add(self.elapsed());
        Timestamp::from_micros(self.shown.fetch_max(now, Ordering::SeqCst).max(now))
    }
}

impl SqlStorage {
    /// A clock that shows this database's time.
    pub async fn clock(&self) -> Result<DatabaseClock, StoreError> {
        let clock = DatabaseClock::starting_at(0);
        clock.refresh(self).await?;
        Ok(clock)
    }

    /// The database's time, in microseconds since the epoch.
    async fn database_time(&self) -> Result<i64, StoreError> {
        let sql = self.sql(match self.dialect {
            Dialect::Sqlite => "SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
            Dialect::Postgres => "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
            Dialect::MariaDb => "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
        });
        let read = async {
            let row = sql.one(&self.read).await?;
            row.map(|r| Cells::of(&r).int()).transpose()
        };
        let time = read.await.map_err(Fail::into_store)?;
        time.ok_or_else(|| StoreError::internal(crate::error::Unfit::Value("no time".to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_stands_still() {
        let clock = DatabaseClock::starting_at(1_000_000_000);
        let first = clock.now();
        clock.offset.store(0, Ordering::SeqCst);
        assert_eq!(clock.now(), first);
    }
}
