//! Tasks as rows.

use crate::error::{Fail, Unfit};
use crate::sql::{Cells, clean, cut, fold, int, opt_id, opt_time, text, uuid};
use portolan_model::describe::Describe;
use portolan_model::task_state::TaskState;
use portolan_model::{TaskId, Timestamp};
use portolan_storage::StoreError;
use portolan_tasks::{NewTask, Progress, Task, rank, rules};
use sea_orm::{QueryResult, Value};

/// What a task is read from; the same in both tables.
pub(crate) const READ: &str = "state, attempt, fence, worker, lease_until, cancel_requested, progress_done, \
     progress_total, progress_message, output, error, created, started, finished, run_at, doc";

/// What a claim, a beat or an end may change, beside the id, which comes first in a row of [`changed`].
pub(crate) const CHANGED: &[&str] = &[
    "state",
    "attempt",
    "fence",
    "worker",
    "lease_until",
    "cancel_requested",
    "progress_done",
    "progress_total",
    "progress_message",
    "output",
    "error",
    "started",
    "run_at",
    "claimable",
    "rank_key",
    "start_by",
    "deadline",
];

/// The columns of a row of [`live`].
pub(crate) const LIVE: &[&str] = &[
    "id",
    "tenant",
    "state",
    "kind",
    "chain",
    "priority",
    "run_at",
    "lease_until",
    "attempt",
    "fence",
    "worker",
    "cancel_requested",
    "progress_done",
    "progress_total",
    "progress_message",
    "error",
    "created",
    "started",
    "finished",
    "unique_key",
    "vm",
    "point",
    "destination",
    "platform",
    "host",
    "schedule",
    "restore_job",
    "parent",
    "vm_name",
    "search",
    "doc",
    "output",
    "claimable",
    "rank_key",
    "start_by",
    "deadline",
    "limited",
    "tagged",
];

/// The columns of a row of [`ended`]: those of [`LIVE`] without what only live tasks need.
pub(crate) const ENDED: &[&str] = LIVE.split_at(LIVE.len() - 6).0;

/// Reads the columns of [`READ`].
pub(crate) fn read(row: &QueryResult) -> Result<Task, Fail> {
    let mut cells = Cells::of(row);
    let state = state(&cells.text()?)?;
    let attempt = number(cells.int()?)?;
    let (fence, worker, lease_until) = (cells.int()?, cells.text()?, cells.opt_time()?);
    let cancel_requested = cells.int()? != 0;
    let progress = Progress { done: cells.int()?, total: cells.int()?, message: cells.text()? };
    let (output, error) = (cells.json()?, cells.text()?);
    let created = Timestamp::from_micros(cells.int()?);
    let (started, finished) = (cells.opt_time()?, cells.opt_time()?);
    let run_at = Timestamp::from_micros(cells.int()?);
    let doc = cells.text()?;
    // The time of the next attempt changes, the document does not.
    let new = NewTask { run_at, ..serde_json::from_str(&doc).map_err(Fail::Json)? };
    Ok(Task {
        new,
        state,
        attempt,
        fence,
        worker,
        lease_until,
        cancel_requested,
        progress,
        output,
        error,
        created,
        started,
        finished,
        wait_reason: None,
    })
}

/// A state by its name.
pub(crate) fn state(name: &str) -> Result<TaskState, Fail> {
    let found = TaskState::ALL.into_iter().find(|s| s.name() == name);
    found.ok_or_else(|| StoreError::internal(Unfit::Value(name.to_owned())).into())
}

fn number(value: i64) -> Result<i32, Fail> {
    i32::try_from(value).map_err(|_| StoreError::internal(Unfit::Value(value.to_string())).into())
}

/// The document of a task: what was enqueued. Plain data with text keys cannot fail to become one.
pub(crate) fn doc(new: &NewTask) -> Value {
    text(&serde_json::to_string(new).unwrap_or_default())
}

/// The id as a key.
pub(crate) fn key(id: TaskId) -> Value {
    uuid(id.uuid())
}

/// A whole row for the live table.
pub(crate) fn live(task: &Task) -> Vec<Value> {
    let mut row = ended(task);
    row.extend(queue(task));
    row.extend([int(i64::from(!task.new.limits.is_empty())), int(i64::from(!task.new.requires.is_empty()))]);
    row
}

/// A whole row for history.
pub(crate) fn ended(task: &Task) -> Vec<Value> {
    let (new, l) = (&task.new, &task.new.links);
    vec![
        key(new.id),
        opt_id(new.tenant),
        text(task.state.name()),
        cut(&new.kind).into(),
        uuid(new.chain.uuid()),
        int(i64::from(new.priority)),
        int(new.run_at.as_micros()),
        opt_time(task.lease_until),
        int(i64::from(task.attempt)),
        int(task.fence),
        cut(&task.worker).into(),
        int(i64::from(task.cancel_requested)),
        int(task.progress.done),
        int(task.progress.total),
        text(&task.progress.message),
        text(&task.error),
        int(task.created.as_micros()),
        opt_time(task.started),
        opt_time(task.finished),
        Value::String(new.unique_key.as_deref().map(fold)),
        opt_id(l.vm),
        opt_id(l.point),
        opt_id(l.destination),
        opt_id(l.platform),
        opt_id(l.host),
        opt_id(l.schedule),
        opt_id(l.restore_job),
        opt_id(l.parent),
        cut(&l.vm_name).into(),
        Value::String(Some(clean(&rules::search_text(task)))),
        doc(new),
        text(&task.output.to_string()),
    ]
}

/// What claims and sweeps look for.
fn queue(task: &Task) -> [Value; 4] {
    [
        int(i64::from(rules::is_queued(task))),
        int(rank(task.new.priority, task.new.run_at)),
        opt_time(rules::start_by(task)),
        opt_time(rules::deadline(task)),
    ]
}

/// The id, then what may have changed of a live task.
pub(crate) fn changed(task: &Task) -> Vec<Value> {
    let mut row = vec![
        key(task.new.id),
        text(task.state.name()),
        int(i64::from(task.attempt)),
        int(task.fence),
        cut(&task.worker).into(),
        opt_time(task.lease_until),
        int(i64::from(task.cancel_requested)),
        int(task.progress.done),
        int(task.progress.total),
        text(&task.progress.message),
        text(&task.output.to_string()),
        text(&task.error),
        opt_time(task.started),
        int(task.new.run_at.as_micros()),
    ];
    row.extend(queue(task));
    row
}
