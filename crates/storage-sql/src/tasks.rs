//! The store of tasks.

use crate::error::{Fail, Unfit};
use crate::sql::{Cells, Dialect, Sql, fold, insert_all, int, text, update_all};
use crate::store::{SqlStorage, transact};
use crate::task_claim::{candidates, claim};
use crate::task_end::{ended, erase, prune, sees};
use crate::task_rows as rows;
use crate::whole::Calls;
use crate::work::{AT_ONCE, Work, uuids};
use async_trait::async_trait;
use portolan_model::task_state::TaskState;
use portolan_model::{Scope, TaskId, Timestamp};
use portolan_storage::StoreError;
use portolan_tasks::rules::{self, Lapse, Retrial};
use portolan_tasks::{
    BeatReply, BeatRequest, CancelReply, ClaimRequest, Claimed, Enqueued, Finish, Held, Json, NewTask, NodeBeat,
    RetryReply, SweepReport, Task, TaskError, TaskPage, TaskQuery, TaskStats, TaskStore,
};
use sea_orm::DatabaseTransaction;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::Notify;

#[async_trait]
impl TaskStore for Calls {
    async fn enqueue(&self, now: Timestamp, tasks: Vec<NewTask>) -> Result<Vec<Enqueued>, TaskError> {
        self.see(now);
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let outcome = transact!(self, |tx| {
            let mut work = Work::new(&tx, self.dialect, now);
            work.prepare(tasks.iter().collect()).await?;
            work.check_new(&tasks, &mut HashSet::new())?;
            let answers = work.add(&tasks, &mut HashMap::new()).await?;
            Ok((answers, work.flush().await?))
        });
        self.ring(outcome)
    }

    async fn claim(&self, now: Timestamp, request: ClaimRequest) -> Result<Vec<Claimed>, TaskError> {
        self.see(now);
        if request.limit == 0 || request.kinds.is_empty() {
            return Ok(Vec::new());
        }
        // A claim of nothing should not cost a write: on SQLite it would wait for the writers.
        let waiting = async {
            let mut sql = candidates(self.dialect, now, &request, "t.id");
            sql.push(" LIMIT 1");
            sql.one(&self.read).await
        };
        if waiting.await.map_err(Fail::into_task)?.is_none() {
            return Ok(Vec::new());
        }
        let outcome = transact!(self, |tx| { claim(&tx, self.dialect, now, &request).await });
        outcome.map_err(Fail::into_task)
    }

    async fn beat(&self, now: Timestamp, request: BeatRequest) -> Result<Vec<BeatReply>, TaskError> {
        self.see(now);
        if request.tasks.is_empty() {
            return Ok(Vec::new());
        }
        let outcome = transact!(self, |tx| {
            let ids: BTreeSet<TaskId> = request.tasks.iter().map(|beat| beat.held.id).collect();
            let ids: Vec<TaskId> = ids.into_iter().collect();
            let mut found = HashMap::new();
            for ids in ids.chunks(AT_ONCE) {
                let mut sql = self.sql("SELECT id, fence, state, cancel_requested, lease_until FROM task WHERE id IN ");
                sql.list(&uuids(ids)).push(" ORDER BY id").push(self.dialect.for_update());
                for row in sql.all(&tx).await? {
                    let mut cells = Cells::of(&row);
                    let id = TaskId::from_uuid(cells.uuid()?);
                    let (fence, state) = (cells.int()?, rows::state(&cells.text()?)?);
                    let wished = cells.int()? != 0 && state == TaskState::Running;
                    if state.is_held() && cells.opt_time()?.is_some() {
                        found.insert(Held { id, fence }, wished);
                    }
                }
            }
            let mut progress = BTreeMap::new();
            let mut held = BTreeSet::new();
            let replies = request.tasks.iter().map(|beat| match found.get(&beat.held) {
                Some(wished) => {
                    held.insert(beat.held.id);
                    if let Some(p) = &beat.progress {
                        progress.insert(beat.held.id, p);
                    }
                    BeatReply::Held { cancel: *wished }
                }
                None => BeatReply::Lost,
            });
            let replies: Vec<BeatReply> = replies.collect();
            let held: Vec<TaskId> = held.into_iter().collect();
            for held in held.chunks(AT_ONCE) {
                let mut sql = self.sql("UPDATE task SET lease_until = ");
                sql.bind((now + request.lease).as_micros()).push(" WHERE id IN ").list(&uuids(held));
                sql.run(&tx).await?;
            }
            let progress = progress.into_iter();
            let progress = progress.map(|(id, p)| vec![rows::key(id), int(p.done), int(p.total), text(&p.message)]);
            let columns = ["progress_done", "progress_total", "progress_message"];
            update_all(&tx, self.dialect, "task", "id", &columns, progress.collect()).await?;
            Ok(replies)
        });
        outcome.map_err(Fail::into_task)
    }

    async fn step(&self, now: Timestamp, held: Held, step: &str, output: Json) -> Result<(), TaskError> {
        self.see(now);
        let name = fold(step);
        let outcome = transact!(self, |tx| {
            let mut work = Work::new(&tx, self.dialect, now);
            work.load(vec![held.id]).await?;
            if work.held(held).is_none() {
                return Err(TaskError::Lost(held.id).into());
            }
            let mut sql = self.sql("SELECT step FROM task_step WHERE task = ");
            sql.bind(rows::key(held.id));
            let mut known = Vec::new();
            for row in sql.all(&tx).await? {
                known.push(Cells::of(&row).text()?);
            }
            if known.contains(&name) {
                return Ok(());
            }
            let n = i64::try_from(known.len()).unwrap_or(i64::MAX);
            let row = vec![rows::key(held.id), name.clone().into(), int(n), text(&output.to_string())];
            insert_all(&tx, self.dialect, "task_step", &["task", "step", "n", "output"], vec![row], "").await
        });
        outcome.map_err(Fail::into_task)
    }

    async fn steps(&self, id: TaskId) -> Result<Vec<(String, Json)>, TaskError> {
        let read = async {
            let mut sql = self.sql("SELECT id FROM task WHERE id = ");
            sql.bind(rows::key(id)).push(" UNION ALL SELECT id FROM task_history WHERE id = ").bind(rows::key(id));
            if sql.one(&self.read).await?.is_none() {
                return Err(TaskError::NotFound(id).into());
            }
            let mut sql = self.sql("SELECT step, output FROM task_step WHERE task = ");
            sql.bind(rows::key(id)).push(" ORDER BY n");
            let rows = sql.all(&self.read).await?;
            rows.iter().map(Cells::of).map(|mut cells| Ok((cells.text()?, cells.json()?))).collect()
        };
        read.await.map_err(Fail::into_task)
    }

    async fn finish(&self, now: Timestamp, finishes: Vec<Finish>) -> Result<Vec<Result<(), TaskError>>, TaskError> {
        self.see(now);
        if finishes.is_empty() {
            return Ok(Vec::new());
        }
        let outcome = transact!(self, |tx| {
            let mut work = Work::new(&tx, self.dialect, now);
            work.prepare_finishes(&finishes).await?;
            let mut results = Vec::with_capacity(finishes.len());
            for finish in &finishes {
                match work.check_finish(finish, &mut HashSet::new()) {
                    Ok(()) => {
                        work.end(finish, &mut HashMap::new()).await?;
                        results.push(Ok(()));
                    }
                    Err(e) => results.push(Err(e)),
                }
            }
            Ok((results, work.flush().await?))
        });
        self.ring(outcome)
    }

    async fn sweep(&self, now: Timestamp, limit: u32) -> Result<SweepReport, TaskError> {
        self.see(now);
        let outcome = transact!(self, |tx| {
            let mut work = Work::new(&tx, self.dialect, now);
            let mut report = SweepReport::default();
            let mut woken = false;
            for task in lapsed(&tx, self.dialect, "deadline", "<", now, limit).await? {
                work.know(task.clone());
                report.overdue += 1;
                work.settle(rules::overdue(&task, now)).await?;
            }
            woken |= work.flush().await?;
            for task in lapsed(&tx, self.dialect, "start_by", "<", now, limit).await? {
                work.know(task.clone());
                report.expired += 1;
                work.settle(rules::expire(&task, now)).await?;
            }
            woken |= work.flush().await?;
            for task in lapsed(&tx, self.dialect, "lease_until", "<=", now, limit).await? {
                work.know(task.clone());
                let (lapse, settlement) = rules::lapse(&task, now);
                match lapse {
                    Lapse::Released => report.released += 1,
                    Lapse::Exhausted => report.exhausted += 1,
                }
                work.settle(settlement).await?;
            }
            woken |= work.flush().await?;
            Ok((report, woken))
        });
        self.ring(outcome)
    }

    async fn cancel(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<CancelReply, TaskError> {
        self.see(now);
        let outcome = transact!(self, |tx| {
            let mut work = Work::new(&tx, self.dialect, now);
            work.load(vec![id]).await?;
            if let Some(task) = work.live(id) {
                if !rules::visible(scope, &task.new) {
                    return Err(TaskError::NotFound(id).into());
                }
                let (reply, settlement) = rules::cancel(task, now, reason);
                work.settle(settlement).await?;
                return Ok((reply, work.flush().await?));
            }
            match work.ended(id) {
                Some((_, tenant)) if sees(scope, tenant) => Ok((CancelReply::AlreadyEnded, false)),
                _ => Err(TaskError::NotFound(id).into()),
            }
        });
        self.ring(outcome)
    }

    async fn retry(&self, now: Timestamp, scope: Scope, id: TaskId, new_id: TaskId) -> Result<RetryReply, TaskError> {
        self.see(now);
        let outcome = transact!(self, |tx| {
            let mut work = Work::new(&tx, self.dialect, now);
            work.load(vec![id]).await?;
            let task = match work.live(id) {
                Some(task) => task.clone(),
                // An end stays as it is, so that nothing need hold it.
                None => ended(&tx, self.dialect, id).await?.ok_or(TaskError::NotFound(id))?,
            };
            if !rules::visible(scope, &task.new) {
                return Err(TaskError::NotFound(id).into());
            }
            let reply = match rules::retry(&task, now, new_id)? {
                Retrial::Itself(reply, settlement) => {
                    work.settle(*settlement).await?;
                    reply
                }
                Retrial::Copy(copy) => {
                    work.prepare(vec![&copy]).await?;
                    let answers = work.add(&[*copy], &mut HashMap::new()).await?;
                    RetryReply::Copied(answers.first().map_or(new_id, |answer| answer.id))
                }
            };
            Ok((reply, work.flush().await?))
        });
        self.ring(outcome)
    }

    async fn abandon(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<(), TaskError> {
        self.see(now);
        let outcome = transact!(self, |tx| {
            let mut work = Work::new(&tx, self.dialect, now);
            work.load(vec![id]).await?;
            let settlement = match (work.live(id), work.ended(id)) {
                (Some(task), _) if rules::visible(scope, &task.new) => rules::abandon(task, now, reason)?,
                (None, Some((_, tenant))) if sees(scope, tenant) => {
                    let task = ended(&tx, self.dialect, id).await?.ok_or(TaskError::NotFound(id))?;
                    rules::abandon(&task, now, reason)?
                }
                _ => return Err(TaskError::NotFound(id).into()),
            };
            work.settle(settlement).await?;
            Ok(((), work.flush().await?))
        });
        self.ring(outcome)
    }

    async fn forget(&self, scope: Scope, id: TaskId) -> Result<(), TaskError> {
        let outcome = transact!(self, |tx| {
            let mut work = Work::new(&tx, self.dialect, Timestamp::MIN);
            work.load(vec![id]).await?;
            match (work.live(id), work.ended(id)) {
                (Some(task), _) if rules::visible(scope, &task.new) => {
                    Err(TaskError::Conflict { id, what: "forgotten before it has ended" }.into())
                }
                (None, Some((_, tenant))) if sees(scope, tenant) => erase(&tx, self.dialect, &[id]).await,
                _ => Err(TaskError::NotFound(id).into()),
            }
        });
        outcome.map_err(Fail::into_task)
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, TaskError> {
        let outcome = transact!(self, |tx| { prune(&tx, self.dialect, before, limit).await });
        outcome.map_err(Fail::into_task)
    }

    async fn query(&self, scope: Scope, query: &TaskQuery) -> Result<TaskPage, TaskError> {
        self.query_tasks(scope, query).await
    }

    async fn node_beat(&self, now: Timestamp, beat: NodeBeat) -> Result<(), TaskError> {
        self.see(now);
        // Plain texts cannot fail to become a document.
        let serves = serde_json::to_string(&beat.serves).unwrap_or_default();
        let outcome = transact!(self, |tx| {
            let mut sql = self.sql("DELETE FROM task_node WHERE until <= ");
            sql.bind(now.as_micros());
            sql.run(&tx).await?;
            let row = vec![fold(&beat.worker).into(), text(&serves), int((now + beat.ttl).as_micros())];
            let tail = self.dialect.upsert("worker", &["serves", "until"]);
            insert_all(&tx, self.dialect, "task_node", &["worker", "serves", "until"], vec![row], &tail).await
        });
        outcome.map_err(Fail::into_task)
    }

    async fn stats(&self, now: Timestamp) -> Result<TaskStats, TaskError> {
        let read = async {
            let mut counts = HashMap::new();
            for row in self.sql("SELECT state, COUNT(*) FROM task GROUP BY state").all(&self.read).await? {
                let mut cells = Cells::of(&row);
                counts.insert(rows::state(&cells.text()?)?, u64::try_from(cells.int()?).unwrap_or(0));
            }
            let mut sql = self.sql("SELECT MIN(run_at) FROM task WHERE state IN ('READY', 'SCHEDULED') AND run_at <= ");
            sql.bind(now.as_micros());
            let oldest = sql.one(&self.read).await?.map(|r| Cells::of(&r).opt_time()).transpose()?.flatten();
            Ok(TaskStats {
                live: rules::live_counts(|state| counts.get(&state).copied().unwrap_or(0)),
                oldest_ready: oldest.map(|run_at| now.since(run_at)),
            })
        };
        read.await.map_err(Fail::into_task)
    }

    fn wakeup(&self) -> Arc<Notify> {
        self.wake.clone()
    }
}

impl SqlStorage {
    /// Passes on an outcome, and rings when it made a task claimable.
    fn ring<T>(&self, outcome: Result<(T, bool), Fail>) -> Result<T, TaskError> {
        let (value, woken) = outcome.map_err(Fail::into_task)?;
        if woken {
            self.wake.notify_waiters();
        }
        Ok(value)
    }
}

/// Adds to a series and returns where it is then. Others wait for the commit.
pub(crate) async fn advance(tx: &DatabaseTransaction, dialect: Dialect, name: &str, by: i64) -> Result<i64, Fail> {
    let tail = match dialect {
        Dialect::MariaDb => " ON DUPLICATE KEY UPDATE n = n + VALUES(n)",
        _ => " ON CONFLICT (name) DO UPDATE SET n = series.n + excluded.n",
    };
    insert_all(tx, dialect, "series", &["name", "n"], vec![vec![text(name), int(by)]], tail).await?;
    let mut sql = Sql::new(dialect, "SELECT n FROM series WHERE name = ");
    sql.bind(text(name));
    let row = sql.one(tx).await?;
    row.map(|r| Cells::of(&r).int()).transpose()?.ok_or_else(|| odd("no series"))
}

pub(crate) fn odd(what: &str) -> Fail {
    StoreError::internal(Unfit::Value(what.to_owned())).into()
}

/// Locks tasks whose time of one sort has come, earliest first. What a worker is ending just now is left to it.
async fn lapsed(
    tx: &DatabaseTransaction,
    dialect: Dialect,
    column: &str,
    op: &str,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<Task>, Fail> {
    let mut sql = Sql::new(dialect, &format!("SELECT {} FROM task WHERE {column} {op} ", rows::READ));
    sql.bind(now.as_micros()).push(&format!(" ORDER BY {column}, id LIMIT ")).bind(i64::from(limit));
    sql.push(dialect.skip_locked());
    sql.all(tx).await?.iter().map(rows::read).collect()
}
