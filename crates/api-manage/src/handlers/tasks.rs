//! Tasks.

use super::{NoFields, NoParams, list as list_answer, object};
use crate::Manage;
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::input::{Body, Named, Params, items, page};
use crate::wire::{self, Drain, TaskBody};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use portolan::TaskFilter;
use portolan_model::describe::Describe;
use portolan_model::{TaskId, TaskState};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Which tasks.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TaskParams {
    /// States, with commas between them.
    state: Option<String>,
    /// Kinds, with commas between them.
    kind: Option<String>,
    /// The piece of work.
    chain: Option<Uuid>,
    /// The platform, by name or id.
    platform: Option<String>,
    /// The machine.
    vm: Option<Uuid>,
    /// 1 to 1000; 100 when left out.
    limit: Option<u64>,
    /// How many to pass over.
    offset: Option<u64>,
}

/// Why a task is given up.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AbandonBody {
    /// For people; noted with the task.
    reason: Option<String>,
}

/// Whether tasks are taken on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrainBody {
    draining: bool,
}

/// Tasks, newest first.
#[utoipa::path(get, path = "/tasks", params(TaskParams),
    responses((status = 200, body = inline(crate::openapi::ListOf<TaskBody>))), tag = "tasks")]
pub(crate) async fn list(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(params): Params<TaskParams>,
) -> Result<Response, ApiError> {
    let page = page(params.limit, params.offset)?;
    let platform = match params.platform.as_deref() {
        Some(name) => Some(state.portolan.registry.platform(&auth.caller, name).await?.platform.id),
        None => None,
    };
    let filter = TaskFilter {
        states: items(params.state.as_deref()).map(task_state).collect::<Result<_, _>>()?,
        kinds: items(params.kind.as_deref()).map(str::to_owned).collect(),
        chain: params.chain.map(portolan_model::ChainId::from_uuid),
        platform,
        vm: params.vm.map(portolan_model::VmId::from_uuid),
    };
    let (tasks, total) = state.portolan.list_tasks(&auth.caller, &filter, page).await?;
    Ok(list_answer(tasks.into_iter().map(wire::task).collect(), total))
}

/// One task with its steps.
#[utoipa::path(get, path = "/tasks/{task}", params(("task" = Uuid, Path)),
    responses((status = 200, body = TaskBody)), tag = "tasks")]
pub(crate) async fn show(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(id): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    Ok(object(&wire::task_detail(state.portolan.show_task(&auth.caller, task_id(&id)?).await?)))
}

/// Cancels a task that waits, and asks a running one to stop.
#[utoipa::path(post, path = "/tasks/{task}/cancel", params(("task" = Uuid, Path)),
    responses((status = 200, body = TaskBody)), tag = "tasks")]
pub(crate) async fn cancel(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(id): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(NoFields {}): Body<NoFields>,
) -> Result<Response, ApiError> {
    Ok(object(&wire::task_detail(state.portolan.cancel_task(&auth.caller, task_id(&id)?).await?)))
}

/// Has a task that stopped tried again; answers what goes on: the task itself, or the copy of one that had ended.
#[utoipa::path(post, path = "/tasks/{task}/retry", params(("task" = Uuid, Path)),
    responses((status = 200, body = TaskBody)), tag = "tasks")]
pub(crate) async fn retry(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(id): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(NoFields {}): Body<NoFields>,
) -> Result<Response, ApiError> {
    Ok(object(&wire::task_detail(state.portolan.retry_task(&auth.caller, task_id(&id)?).await?)))
}

/// Gives a stuck task up; what it has left behind stays.
#[utoipa::path(post, path = "/tasks/{task}/abandon", params(("task" = Uuid, Path)), request_body = AbandonBody,
    responses((status = 200, body = TaskBody)), tag = "tasks")]
pub(crate) async fn abandon(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(id): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<AbandonBody>,
) -> Result<Response, ApiError> {
    let reason = body.reason.unwrap_or_default();
    Ok(object(&wire::task_detail(state.portolan.abandon_task(&auth.caller, task_id(&id)?, &reason).await?)))
}

/// Whether the process that answers takes on tasks.
#[utoipa::path(get, path = "/tasks/drain", responses((status = 200, body = Drain)), tag = "tasks")]
pub(crate) async fn drain_state(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    Ok(object(&wire::drain(state.portolan.drain_state(&auth.caller)?)))
}

/// Has the process that answers take on no more tasks, or take on tasks again. What runs goes on.
#[utoipa::path(put, path = "/tasks/drain", request_body = DrainBody, responses((status = 200, body = Drain)),
    tag = "tasks")]
pub(crate) async fn set_drain(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<DrainBody>,
) -> Result<Response, ApiError> {
    Ok(object(&wire::drain(state.portolan.set_drain(&auth.caller, body.draining).await?)))
}

fn task_id(text: &str) -> Result<TaskId, ApiError> {
    text.parse().map_err(|_| ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such task"))
}

fn task_state(text: &str) -> Result<TaskState, ApiError> {
    let known = TaskState::TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(text));
    known.map(|row| row.0).ok_or_else(|| {
        let names: Vec<&str> = TaskState::TABLE.iter().map(|row| row.1).collect();
        ApiError::invalid(format!("state must be of {}", names.join(", ")))
    })
}
