//! Tasks: lists, exports, sync, verify, cancel (section 6).

use super::{list as list_answer, names, narrowed, task_answer};
use crate::Vplus;
use crate::error::ApiError;
use crate::input::{Body, Fields, PathText, path_id, short};
use crate::query::Params;
use crate::session::Authenticated;
use crate::wire::task::{KINDS, TaskDetail, task};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use portolan::protect::ExportRequest;
use portolan::repository::VerifyDepth;
use portolan::tasks::TaskQuery;
use portolan_http::SizeHint;
use portolan_model::backup::{BackupType, DestinationRole};
use portolan_model::describe::Describe;
use portolan_model::dialect::Aliased;
use portolan_model::dialect::vplus::{TaskType, VplusTaskState};
use portolan_model::query::{Filter, Sort, Value};
use portolan_model::*;

static LIST: SizeHint = SizeHint::new();

const ORDER: &[(&str, &str)] = &[
    ("state", "state"),
    ("type", "kind"),
    ("priority", "priority"),
    ("protectedEntity", "vm_name"),
    ("protectedEntity.name", "vm_name"),
    ("protectedEntityDisplayName", "vm_name"),
    ("creationTime", "created"),
    ("startTime", "started"),
    ("finishTime", "finished"),
];

/// Which links of a task a parameter looks at: its names, and the field.
const LINKS: &[(&[&str], &str)] = &[
    (&["protectedEntity", "protected-entity"], "vm"),
    (&["backup"], "point"),
    (&["schedule"], "schedule"),
    (&["workflow-execution"], "chain"),
    (&["hypervisor"], "host"),
    (&["hypervisor-manager"], "platform"),
    (&["backup-destination"], "destination"),
    (&["parent-task"], "parent"),
    (&["restore-job"], "restore_job"),
];

/// Tasks, newest first.
#[utoipa::path(get, path = "/tasks", params(crate::openapi::ListParams, crate::openapi::TaskParams),
    responses((status = 200, body = [TaskDetail], headers(("X-Total-Count" = u64, description = "How many in all"))),
        (status = 400, body = crate::openapi::ErrorBody), (status = 401, body = crate::openapi::ErrorBody)),
    tag = "tasks")]
pub(crate) async fn list(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let Some(caller) = narrowed(&state, auth.caller, &params).await? else {
        return Ok(list_answer::<TaskDetail>(&[], Some(0), &LIST));
    };
    let sort = params.sort(ORDER, Sort::newest());
    let query = TaskQuery { filter: filter(&state, &caller, &params).await?, sort, page: params.page()?, count: true };
    let page = state.portolan.protect.tasks(&caller, query).await?;
    let names = names(&state, &caller, &page.tasks).await?;
    let items: Vec<TaskDetail> = page.tasks.iter().map(|t| task(t, &names)).collect();
    Ok(list_answer(&items, page.total, &LIST))
}

async fn filter(state: &Vplus, caller: &Caller, params: &Params) -> Result<Filter, ApiError> {
    let mut filter = params.text();
    // Mounts and storage providers have no tasks.
    if params.first(&["mounted-backup-assigned", "storage-provider"]).is_some() {
        return Ok(Filter::Or(Vec::new()));
    }
    if let Some(node) = params.id::<NodeId>(&["node"])? {
        let node = state.portolan.inventory.one::<Node>(caller, node).await?;
        filter = filter.and(Filter::eq("worker", crate::wire::task::worker_of(&node)));
    }
    for (names, field) in LINKS {
        if let Some(id) = params.id::<TaskId>(names)? {
            filter = filter.and(Filter::eq(field, id.uuid()));
        }
    }
    let states: Vec<VplusTaskState> = params.choices(&["state", "states"])?;
    if !states.is_empty() {
        let shown = states.into_iter().flat_map(TaskState::shown_by_vplus_as);
        filter = filter.and(Filter::any("state", shown.map(Describe::name)));
    }
    let mut kinds: Vec<Value> = Vec::new();
    let types = params.all(&["type", "types"]);
    for name in &types {
        let known = TaskType::parse(name).ok();
        let own = name.eq_ignore_ascii_case(task_kind::VERIFY).then_some(task_kind::VERIFY);
        if known.is_none() && own.is_none() {
            return Err(ApiError::invalid(format!("'{}' is not a task type", short(name))));
        }
        kinds.extend(KINDS.iter().filter(|row| Some(row.1) == known).map(|row| Value::from(row.0)));
        kinds.extend(own.map(Value::from));
    }
    if !types.is_empty() {
        filter = filter.and(Filter::In("kind".into(), kinds));
    }
    Ok(filter)
}

/// One task.
#[utoipa::path(get, path = "/tasks/{guid}", params(("guid" = uuid::Uuid, Path)),
    responses((status = 200, body = TaskDetail), (status = 404, body = crate::openapi::ErrorBody)), tag = "tasks")]
pub(crate) async fn one(
    State(state): State<Vplus>,
    auth: Authenticated,
    PathText(guid): PathText,
) -> Result<Response, ApiError> {
    let found = state.portolan.protect.task(&auth.caller, path_id(&guid, "task")?).await?;
    task_answer(&state, &auth.caller, &found).await
}

/// Backs machines up: one EXPORT task each, which a STORE task follows.
#[utoipa::path(post, path = "/tasks/export", request_body = crate::openapi::ExportBody,
    responses((status = 200, description = "One task a machine, in their order", body = [TaskDetail]),
        (status = 400, body = crate::openapi::ErrorBody), (status = 404, body = crate::openapi::ErrorBody),
        (status = 409, body = crate::openapi::ErrorBody)), tag = "tasks")]
pub(crate) async fn export(State(state): State<Vplus>, auth: Authenticated, body: Body) -> Result<Response, ApiError> {
    let tasks = state.portolan.protect.export(&auth.caller, export_request(&body)?).await?;
    let names = names(&state, &auth.caller, &tasks).await?;
    let items: Vec<TaskDetail> = tasks.iter().map(|t| task(t, &names)).collect();
    Ok(list_answer(&items, None, &LIST))
}

fn export_request(body: &Body) -> Result<ExportRequest, ApiError> {
    let fields = body.object()?;
    let number = |name: &str, most: i64| -> Result<Option<i64>, ApiError> {
        match fields.integer(name)? {
            Some(n) if !(0..=most).contains(&n) => {
                Err(ApiError::invalid(format!("{name} must lie between 0 and {most}")))
            }
            n => Ok(n),
        }
    };
    let destination = match fields.reference("backupDestination")? {
        Some(id) => Some(id),
        None => rule_destination(fields.items("rules")?)?,
    };
    Ok(ExportRequest {
        vms: fields.references("protectedEntities")?,
        backup_type: match fields.choice("backupType")?.unwrap_or(BackupType::Full) {
            wanted @ (BackupType::Full | BackupType::Incremental) => wanted,
            _ => return Err(ApiError::invalid("backupType must be FULL or INCREMENTAL")),
        },
        destination,
        priority: i16::try_from(number("priority", 100)?.unwrap_or(50)).unwrap_or(50),
        window_start: fields.integer("windowStart")?.map(Timestamp::from_millis),
        window_end: fields.integer("windowEnd")?.map(Timestamp::from_millis),
        retries: i32::try_from(number("retryCount", 100)?.unwrap_or(0)).unwrap_or(0),
    })
}

/// Where the first rule that says so stores to: its primary destination. Forms also send destinations without a
/// guid, which say nothing; older clients name destinations without roles, the first being the primary one.
fn rule_destination(rules: &[serde_json::Value]) -> Result<Option<BackupDestinationId>, ApiError> {
    for rule in rules.iter().map(Fields::of) {
        let mut first = None;
        for target in rule.items("ruleBackupDestinations")?.iter().map(Fields::of) {
            let Some(id) = target.reference("backupDestination")? else { continue };
            if target.choice("roleType")?.unwrap_or(DestinationRole::Primary) == DestinationRole::Primary {
                return Ok(Some(id));
            }
            first = first.or(Some(id));
        }
        for target in rule.items("backupDestinations")? {
            first = match first {
                None => crate::input::reference(target, "backupDestinations")?,
                some => some,
            };
        }
        if first.is_some() {
            return Ok(first);
        }
    }
    Ok(None)
}

/// Synchronises the inventory of managers, of hypervisors' managers, or of all.
#[utoipa::path(post, path = "/tasks/inventory-sync", request_body = crate::openapi::SyncBody,
    responses((status = 200, description = "One task a manager", body = [TaskDetail]),
        (status = 404, body = crate::openapi::ErrorBody)), tag = "tasks")]
pub(crate) async fn inventory_sync(
    State(state): State<Vplus>,
    auth: Authenticated,
    body: Body,
) -> Result<Response, ApiError> {
    let fields = body.object()?;
    let managers: Vec<PlatformId> = fields.references("hypervisorManagers")?;
    let hypervisors: Vec<HostId> = fields.references("hypervisors")?;
    let tasks = state.portolan.request_sync(&auth.caller, managers, hypervisors).await?;
    let names = names(&state, &auth.caller, &tasks).await?;
    let items: Vec<TaskDetail> = tasks.iter().map(|t| task(t, &names)).collect();
    Ok(list_answer(&items, None, &LIST))
}

/// Reads a backup back and checks every byte: Portolan's own addition.
#[utoipa::path(post, path = "/tasks/verify", request_body = crate::openapi::VerifyBody,
    responses((status = 200, body = TaskDetail), (status = 404, body = crate::openapi::ErrorBody),
        (status = 409, body = crate::openapi::ErrorBody)), tag = "tasks")]
pub(crate) async fn verify(State(state): State<Vplus>, auth: Authenticated, body: Body) -> Result<Response, ApiError> {
    let fields = body.object()?;
    let point = fields.reference("backup")?.ok_or_else(|| ApiError::invalid("backup is needed"))?;
    let depth = match fields.text("depth")? {
        None => VerifyDepth::Data,
        Some(d) if d.eq_ignore_ascii_case("data") => VerifyDepth::Data,
        Some(d) if d.eq_ignore_ascii_case("pack") => VerifyDepth::Pack,
        Some(d) if d.eq_ignore_ascii_case("structure") => VerifyDepth::Structure,
        Some(_) => return Err(ApiError::invalid("depth must be one of STRUCTURE, PACK, DATA")),
    };
    let destination = fields.reference("backupDestination")?;
    let made = state.portolan.protect.verify(&auth.caller, point, destination, depth).await?;
    task_answer(&state, &auth.caller, &made).await
}

/// Cancels a task: the one change of state that a client may make.
#[utoipa::path(put, path = "/tasks/{guid}/state", params(("guid" = uuid::Uuid, Path)),
    request_body = crate::openapi::StateBody,
    responses((status = 200, body = TaskDetail), (status = 400, body = crate::openapi::ErrorBody),
        (status = 404, body = crate::openapi::ErrorBody)), tag = "tasks")]
pub(crate) async fn set_state(
    State(state): State<Vplus>,
    auth: Authenticated,
    PathText(guid): PathText,
    body: Body,
) -> Result<Response, ApiError> {
    let id: TaskId = path_id(&guid, "task")?;
    let fields = body.object()?;
    if fields.choice::<VplusTaskState>("state")? != Some(VplusTaskState::Cancelled) {
        return Err(ApiError::invalid("a task can only be set to CANCELLED"));
    }
    let reason = fields.text("statusInfo")?.unwrap_or("cancelled by the user");
    state.portolan.protect.cancel_task(&auth.caller, id, reason).await?;
    let now = state.portolan.protect.task(&auth.caller, id).await?;
    task_answer(&state, &auth.caller, &now).await
}

/// Removes a task that waits or has ended, and asks a running one to stop.
#[utoipa::path(delete, path = "/tasks/{guid}", params(("guid" = uuid::Uuid, Path)),
    responses((status = 204, description = "As asked"), (status = 404, body = crate::openapi::ErrorBody)),
    tag = "tasks")]
pub(crate) async fn remove(
    State(state): State<Vplus>,
    auth: Authenticated,
    PathText(guid): PathText,
) -> Result<StatusCode, ApiError> {
    state.portolan.protect.remove_task(&auth.caller, path_id(&guid, "task")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets every ended task.
#[utoipa::path(delete, path = "/tasks/all-finished", responses((status = 204, description = "As asked")), tag = "tasks")]
pub(crate) async fn remove_finished(State(state): State<Vplus>, auth: Authenticated) -> Result<StatusCode, ApiError> {
    state.portolan.protect.remove_finished(&auth.caller, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets every ended task and drops every waiting one.
#[utoipa::path(delete, path = "/tasks/all-finished-and-queued", responses((status = 204, description = "As asked")),
    tag = "tasks")]
pub(crate) async fn remove_finished_and_queued(
    State(state): State<Vplus>,
    auth: Authenticated,
) -> Result<StatusCode, ApiError> {
    state.portolan.protect.remove_finished(&auth.caller, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Asks every running task to stop.
#[utoipa::path(delete, path = "/tasks/all-running", responses((status = 204, description = "As asked")), tag = "tasks")]
pub(crate) async fn cancel_running(State(state): State<Vplus>, auth: Authenticated) -> Result<StatusCode, ApiError> {
    state.portolan.protect.cancel_running(&auth.caller).await?;
    Ok(StatusCode::NO_CONTENT)
}
