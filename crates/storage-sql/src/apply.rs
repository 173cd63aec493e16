//! Units of work.

use crate::error::Fail;
use crate::objects::{Objects, count, write};
use crate::sql::{int, opt_id, text};
use crate::store::{SqlStorage, transact};
use crate::tasks::advance;
use crate::work::Work;
use async_trait::async_trait;
use portolan_model::{Scope, Timestamp};
use portolan_storage::{Applied, NewEvent, Require, StateStore, StoreError, UnitOfWork};
use portolan_tasks::TaskError;
use sea_orm::{DatabaseTransaction, Value};
use std::collections::{HashMap, HashSet};

#[async_trait]
impl StateStore for SqlStorage {
    async fn apply(&self, now: Timestamp, scope: Scope, unit: UnitOfWork) -> Result<Applied, StoreError> {
        self.see(now);
        let outcome = transact!(self, |tx| { self.apply_in(&tx, now, scope, &unit).await });
        let (applied, woken) = outcome.map_err(Fail::into_store)?;
        if woken {
            self.wake.notify_waiters();
        }
        Ok(applied)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.sql("SELECT 1").one(&self.read).await.map(drop).map_err(Fail::into_store)
    }
}

impl SqlStorage {
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
        self.write_events(tx, now, &unit.events).await?;
        Ok((applied, woken))
    }

    /// The row of the series is held until the commit, so that the outbox has no gaps and fills in commit order.
    async fn write_events(&self, tx: &DatabaseTransaction, now: Timestamp, events: &[NewEvent]) -> Result<(), Fail> {
        if events.is_empty() {
            return Ok(());
        }
        let n = i64::try_from(events.len()).unwrap_or(i64::MAX);
        let last = advance(tx, self.dialect, "event", n).await?;
        let rows = events.iter().zip(last - n + 1..).map(|(event, seq)| {
            vec![
                int(seq),
                int(now.as_micros()),
                text(&event.name),
                opt_id(event.tenant),
                Value::Uuid(event.subject),
                text(&event.data.to_string()),
                text(&cut(&event.actor)),
            ]
        });
        let columns = ["seq", "at", "name", "tenant", "subject", "data", "actor"];
        crate::sql::insert_all(tx, self.dialect, "event", &columns, rows.collect(), "").await
    }
}

/// Logins are no longer than this; whatever else stands there must fit its column.
fn cut(actor: &str) -> String {
    actor.chars().take(255).collect()
}
