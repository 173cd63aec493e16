//! Tasks on the wire.

use super::{id, time};
use portolan::tasks::Task;
use portolan::{DrainState, TaskDetail};
use portolan_model::describe::Describe;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A task.
#[derive(Serialize, ToSchema)]
pub(crate) struct TaskBody {
    id: Uuid,
    kind: String,
    state: &'static str,
    /// The piece of work that it is a link of.
    chain: Uuid,
    tenant: Option<Uuid>,
    priority: i16,
    attempt: i32,
    max_attempts: i32,
    platform: Option<Uuid>,
    destination: Option<Uuid>,
    vm: Option<Uuid>,
    vm_name: String,
    /// Who asked for it.
    origin: String,
    /// The process that runs it, or ran it last.
    worker: String,
    progress: TaskProgress,
    cancel_requested: bool,
    /// Why it does not run yet.
    wait_reason: Option<String>,
    /// Why it ended other than by success, or is tried again.
    error: String,
    /// What it came to; `null` before it has succeeded.
    #[schema(value_type = Object)]
    output: serde_json::Value,
    created: String,
    run_at: String,
    deadline: Option<String>,
    started: Option<String>,
    finished: Option<String>,
    /// What its steps recorded; of a single task only.
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<TaskStep>>,
}

/// How far a task is.
#[derive(Serialize, ToSchema)]
pub(crate) struct TaskProgress {
    /// Usually bytes.
    done: i64,
    /// 0 when unknown.
    total: i64,
    percent: u8,
    message: String,
}

/// A step of a task.
#[derive(Serialize, ToSchema)]
pub(crate) struct TaskStep {
    name: String,
    #[schema(value_type = Object)]
    output: serde_json::Value,
}

/// Whether a process takes on tasks.
#[derive(Serialize, ToSchema)]
pub(crate) struct Drain {
    draining: bool,
    /// How many tasks it runs.
    running: usize,
}

pub(crate) fn task(task: Task) -> TaskBody {
    let percent = task.progress.percent();
    let (new, links) = (task.new, |l: &portolan::tasks::TaskLinks| (l.platform, l.destination, l.vm));
    let (platform, destination, vm) = links(&new.links);
    TaskBody {
        id: new.id.uuid(),
        kind: new.kind,
        state: task.state.name(),
        chain: new.chain.uuid(),
        tenant: id(new.tenant),
        priority: new.priority,
        attempt: task.attempt,
        max_attempts: new.max_attempts,
        platform: id(platform),
        destination: id(destination),
        vm: id(vm),
        vm_name: new.links.vm_name,
        origin: new.origin.name,
        worker: task.worker,
        progress: TaskProgress {
            done: task.progress.done,
            total: task.progress.total,
            percent,
            message: task.progress.message,
        },
        cancel_requested: task.cancel_requested,
        wait_reason: task.wait_reason,
        error: task.error,
        output: task.output,
        created: time(task.created),
        run_at: time(new.run_at),
        deadline: new.deadline.map(time),
        started: task.started.map(time),
        finished: task.finished.map(time),
        steps: None,
    }
}

pub(crate) fn task_detail(detail: TaskDetail) -> TaskBody {
    let steps = detail.steps.into_iter().map(|(name, output)| TaskStep { name, output }).collect();
    TaskBody { steps: Some(steps), ..task(detail.task) }
}

pub(crate) fn drain(state: DrainState) -> Drain {
    Drain { draining: state.draining, running: state.running }
}
