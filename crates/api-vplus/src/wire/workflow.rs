//! Chains of tasks as workflow executions (section 6.6).

use super::task::kind_word;
use super::{Enum, Ref, TypedRef, word};
use crate::names::Names;
use portolan::ChainView;
use portolan_model::BackupDestinationId;
use serde::Serialize;
use std::collections::BTreeSet;
use utoipa::ToSchema;
use uuid::Uuid;

/// A chain of tasks.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WorkflowExecution)]
pub(crate) struct Workflow {
    guid: Uuid,
    state: Enum,
    definition_name: Enum,
    /// 0 to 100.
    average_progress: f64,
    current_step: Enum,
    #[serde(skip_serializing_if = "Option::is_none")]
    protected_entity: Option<TypedRef>,
    backup_destinations: Vec<Ref>,
    origin_entity: TypedRef,
    priority: i16,
    /// Milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<i64>,
    /// Milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_time: Option<i64>,
}

/// A chain on the wire.
pub(crate) fn workflow(chain: &ChainView, names: &Names) -> Workflow {
    let first = &chain.first.new;
    let destinations: BTreeSet<BackupDestinationId> = chain.tasks().filter_map(|t| t.new.links.destination).collect();
    Workflow {
        guid: chain.id.uuid(),
        state: word(chain.state()),
        definition_name: word(chain.definition()),
        average_progress: chain.progress(),
        current_step: kind_word(&chain.current().new.kind),
        protected_entity: first.links.vm.map(|vm| TypedRef::vm(vm, &first.links.vm_name)),
        backup_destinations: destinations.into_iter().map(|d| names.destination(d).into()).collect(),
        origin_entity: TypedRef::origin(&first.origin),
        priority: first.priority,
        start_time: chain.tasks().filter_map(|t| t.started).min().map(|t| t.as_millis()),
        finish_time: chain.finished().map(|t| t.as_millis()),
    }
}
