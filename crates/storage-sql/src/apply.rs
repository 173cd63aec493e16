//! Units of work.

use crate::error::Fail;
use crate::events;
use crate::objects::{Objects, count, write};
use crate::store::{SqlStorage, end, transact};
use crate::whole::Calls;
use crate::work::Work;
use async_trait::async_trait;
use portolan_model::{Scope, Timestamp};
use portolan_storage::{Applied, Change, Require, StateStore, StoreError, UnitOfWork};
use portolan_tasks::TaskError;
use sea_orm::DatabaseTransaction;
use std::collections::{HashMap, HashSet};

#[async_trait]
impl StateStore for Calls {
    async fn apply(&self, now: Timestamp, scope: Scope, unit: UnitOfWork) -> Result<Applied, StoreError> {
        self.see(now);
        let outcome = transact!(self, |tx| { self.apply_in(&tx, now, scope, &unit).await }, |tx, outcome| self
            .end_noting(tx, outcome, &unit));
        let (applied, woken) = outcome.map_err(Fail::into_store)?;
        if woken {
            self.wake.notify_waiters();
        }
        Ok(applied)
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let outcome = transact!(self, |tx| { events::prune(&tx, self.dialect, before, limit).await });
        outcome.map_err(Fail::into_store)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.sql("SELECT 1").one(&self.read).await.map(drop).map_err(Fail::into_store)
    }
}

impl SqlStorage {
    /// Ends the transaction of a unit, and notes what it changed: after the commit, when readers can see it, and before
    /// it is acknowledged, as [`portolan_storage::ChangeLog`] asks.
    async fn end_noting<T>(
        &self,
        tx: DatabaseTransaction,
        outcome: Result<T, Fail>,
        unit: &UnitOfWork,
    ) -> Result<T, Fail> {
        let touched: Vec<_> = unit.change.iter().map(Change::key).collect();
        let value = match outcome {
            Ok(value) if self.feed.is_own() && !touched.is_empty() => value,
            outcome => return end(tx, outcome).await,
        };
        let feed = self.feed.clone();
        // In a task of its own: whoever asked for the unit may stop waiting in the middle of the commit, and what was
        // committed then must be noted all the same. One that failed may have been committed.
        let committed = tokio::spawn(async move {
            let committed = tx.commit().await;
            feed.note(touched);
            committed
        });
        match committed.await {
            Ok(committed) => committed.map(|()| value).map_err(Fail::Db),
            Err(stopped) => Err(StoreError::Unavailable(Box::new(stopped)).into()),
        }
    }

    /// Every unit locks in the same order: tasks, objects, then what they share (limits, counters, the outbox).
    async fn apply_in(
        &self,
        tx: &DatabaseTransaction,
        now: Timestamp,
        scope: Scope,
        unit: &UnitOfWork,
    ) -> Result<(Applied, bool), Fail> {
        let mut work = Work::new(tx, self.dialect, now);
        let held = unit.require.iter().filter_map(|r| match r {
            Require::TaskHeld(held) => Some(held.id),
            _ => None,
        });
        work.load(held.chain(unit.finish.iter().map(|f| f.held.id)).collect()).await?;
        let objects = Objects::lock(tx, self.dialect, unit).await?;
        for require in &unit.require {
            match require {
                Require::TaskHeld(held) if work.held(*held).is_none() => {
                    return Err(TaskError::Lost(held.id).into());
                }
                other => objects.check(scope, other)?,
            }
        }
        let mut out = objects.decide(scope, &unit.change)?;
        drop(objects);
        write(tx, self.dialect, &mut out).await?;
        let mut applied = Applied::default();
        let mut woken = false;
        if !unit.enqueue.is_empty() || !unit.finish.is_empty() {
            work.prepare(unit.enqueue.iter().collect()).await?;
            work.prepare_finishes(&unit.finish).await?;
            let (mut known, mut ended) = (HashSet::new(), HashSet::new());
            work.check_new(&unit.enqueue, &mut known)?;
            for finish in &unit.finish {
                if !ended.insert(finish.held.id) {
                    return Err(TaskError::Lost(finish.held.id).into());
                }
                work.check_finish(finish, &mut known)?;
            }
            let mut aliases = HashMap::new();
            applied.tasks = work.add(&unit.enqueue, &mut aliases).await?;
            for finish in &unit.finish {
                work.end(finish, &mut aliases).await?;
            }
            woken = work.flush().await?;
        }
        count(tx, self.dialect, out.counts).await?;
        events::write(tx, self.dialect, now, &unit.events).await?;
        Ok((applied, woken))
    }
}
