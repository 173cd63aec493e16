//! Tasks (section 6).

use super::{Enum, Ref, TypedRef, word};
use crate::names::Names;
use portolan::tasks::Task;
use portolan_model::backup::BackupType;
use portolan_model::describe::Describe;
use portolan_model::dialect::vplus::TaskType;
use portolan_model::{Node, TaskState, task_kind};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// The kinds of tasks that the dialect has a word for.
pub(crate) const KINDS: &[(&str, TaskType)] = &[
    (task_kind::INVENTORY_SYNC, TaskType::Index),
    (task_kind::EXPORT, TaskType::Export),
    (task_kind::STORE, TaskType::Store),
    (task_kind::RESTORE, TaskType::Restore),
    (task_kind::IMPORT, TaskType::Import),
    (task_kind::INSTANT_RESTORE, TaskType::Restore),
    (task_kind::SNAPSHOT, TaskType::Snapshot),
    (task_kind::SNAPSHOT_REVERSION, TaskType::SnapshotReversion),
];

/// A task.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Task)]
pub(crate) struct TaskDetail {
    guid: Uuid,
    #[serde(rename = "type")]
    kind: Enum,
    state: Enum,
    /// 0 to 100.
    progress: u8,
    /// What it is doing, what it waits for, or why it failed.
    status_info: String,
    priority: i16,
    /// Milliseconds since the epoch, as all times.
    creation_time: i64,
    window_start: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_end: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_type: Option<Enum>,
    retry_count: i32,
    power_on_after_restore: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    processed_object_count: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_object_count: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protected_entity: Option<TypedRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protected_entity_display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_protected_entity: Option<TypedRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_destination: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hypervisor: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hypervisor_manager: Option<Ref>,
    /// The process that works on it, or did last.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_task: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_job: Option<Guid>,
    workflow_execution: Guid,
    origin_entity: TypedRef,
    /// What it came to, for a task that has succeeded: figures in bytes.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    #[schema(value_type = Object)]
    result: serde_json::Value,
}

/// A reference without a name.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Guid {
    guid: Uuid,
}

/// A task on the wire.
pub(crate) fn task(t: &Task, names: &Names) -> TaskDetail {
    let links = &t.new.links;
    let words = if t.cancel_requested { t.state.words_when_cancelling() } else { t.state.words() };
    let succeeded = t.state == TaskState::Succeeded;
    let restoring = matches!(t.new.kind.as_str(), task_kind::RESTORE | task_kind::IMPORT | task_kind::INSTANT_RESTORE);
    TaskDetail {
        guid: t.new.id.uuid(),
        kind: kind_word(&t.new.kind),
        state: word(words.vplus),
        progress: if succeeded { 100 } else { t.progress.percent() },
        status_info: status_info(t),
        priority: t.new.priority,
        creation_time: t.created.as_millis(),
        window_start: t.new.run_at.as_millis(),
        window_end: t.new.start_by.map(|at| at.as_millis()),
        start_time: t.started.map(|at| at.as_millis()),
        finish_time: t.finished.map(|at| at.as_millis()),
        backup_type: links.note["backup_type"].as_str().and_then(BackupType::from_name).map(word),
        retry_count: t.new.retries,
        power_on_after_restore: false,
        processed_object_count: (t.progress.total > 0).then_some(t.progress.done),
        total_object_count: (t.progress.total > 0).then_some(t.progress.total),
        protected_entity: links.vm.map(|vm| TypedRef::vm(vm, &links.vm_name)),
        protected_entity_display_name: links.vm.map(|_| links.vm_name.clone()),
        dst_protected_entity: links.vm.filter(|_| restoring).map(|vm| TypedRef::vm(vm, &links.target_name)),
        backup: links.point.map(|p| Ref::new(p, links.point_name.clone())),
        backup_destination: links.destination.map(|d| names.destination(d).into()),
        hypervisor: links.host.map(|h| names.hypervisor(h).into()),
        hypervisor_manager: links.platform.map(|p| names.manager(p).into()),
        node: node_of(&t.worker),
        // What a schedule fires says so in its origin, name and all.
        schedule: links.schedule.map(|s| Ref::new(s, t.new.origin.name.clone())),
        parent_task: links.parent.and_then(|p| names.parent_task(p)).map(Into::into),
        restore_job: links.restore_job.map(|j| Guid { guid: j.uuid() }),
        workflow_execution: Guid { guid: t.new.chain.uuid() },
        origin_entity: TypedRef::origin(&t.new.origin),
        result: if succeeded { without_nulls(t.output.clone()) } else { serde_json::Value::Null },
    }
}

/// The name under which a node's engine works: unique where two nodes have one name.
pub(crate) fn worker_of(node: &Node) -> String {
    format!("{}/{}", node.name, node.id)
}

/// The node that a worker's name tells; nothing for a worker that is no node's.
fn node_of(worker: &str) -> Option<Ref> {
    let (name, id) = worker.rsplit_once('/')?;
    Some(Ref { guid: Uuid::parse_str(id).ok()?, name: name.to_owned() })
}

/// The value with what is `null` left out, as everywhere in the dialect.
fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(items) => items.into_iter().filter(|v| !v.is_null()).map(without_nulls).collect(),
        other => other,
    }
}

/// What clients are told a kind of task is.
pub(crate) fn kind_word(kind: &str) -> Enum {
    match KINDS.iter().find(|row| row.0 == kind) {
        Some((_, kind)) => word(*kind),
        // Portolan's own kinds, which the original has not.
        None => {
            let mut description = kind.replace('-', " ");
            if let Some(first) = description.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            Enum { name: kind.replace('-', "_").to_uppercase(), description }
        }
    }
}

fn status_info(t: &Task) -> String {
    match (&t.wait_reason, t.state) {
        (_, state) if state.is_terminal() => t.error.clone(),
        (Some(reason), _) => reason.clone(),
        (None, _) if !t.error.is_empty() && t.state.is_waiting() => t.error.clone(),
        (None, _) => t.progress.message.clone(),
    }
}
