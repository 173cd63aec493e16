//! Machines: their power, their snapshots, clones and backups of them.

use super::{NoFields, NoParams, list as list_answer, object, task_begun};
use crate::Manage;
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::input::{Body, Named, NamedIn, Params, name as name_of, page};
use crate::wire::{self, Machine, Snapshot, TaskBody};
use axum::extract::State;
use axum::response::Response;
use portolan::driver::PowerAction;
use portolan::{CloneWish, MachineFilter, SnapshotWish};
use portolan_model::backup::BackupType;
use portolan_model::describe::Describe;
use serde::Deserialize;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// How long a machine has to shut down where nothing is said, in seconds.
const SHUTDOWN: u64 = 300;

/// Which machines.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MachineParams {
    /// Of this name.
    name: Option<String>,
    /// The platform, by name or id.
    platform: Option<String>,
    /// Also those that are gone from their platforms.
    gone: Option<bool>,
    /// 1 to 1000; 100 when left out.
    limit: Option<u64>,
    /// How many to pass over.
    offset: Option<u64>,
}

/// What is to be done with a machine's power.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PowerBody {
    /// `start`; `shutdown` asks its system; `off` pulls the plug; `reboot` asks its system, else resets; `reset`.
    action: String,
    /// How long a shutdown may take, to a day; 300 when left out.
    within_seconds: Option<u64>,
}

/// A snapshot to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotBody {
    name: String,
    /// Keeps the memory of a machine that runs, too, so that it goes on from there.
    memory: Option<bool>,
}

/// A second machine to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CloneBody {
    name: String,
    /// The platform's own id of the datastore; where each disk of the machine is, when left out.
    datastore: Option<String>,
}

/// Where a machine's disks are brought to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveBody {
    /// The platform's own id of the datastore.
    datastore: String,
}

/// A backup to take.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackUpBody {
    /// `FULL` or `INCREMENTAL`, which becomes a full one where there is nothing to build on; `INCREMENTAL` when left
    /// out.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// The destination, by name or id; the default one when left out.
    destination: Option<String>,
}

/// Machines, by name.
#[utoipa::path(get, path = "/machines", params(MachineParams),
    responses((status = 200, body = inline(crate::openapi::ListOf<Machine>))), tag = "machines")]
pub(crate) async fn list(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(params): Params<MachineParams>,
) -> Result<Response, ApiError> {
    let page = page(params.limit, params.offset)?;
    let filter = MachineFilter { name: params.name, platform: params.platform, gone: params.gone.unwrap_or(false) };
    let (machines, total) = state.portolan.machines(&auth.caller, &filter, page).await?;
    Ok(list_answer(machines.into_iter().map(wire::machine).collect(), total))
}

/// One machine.
#[utoipa::path(get, path = "/machines/{machine}", params(("machine" = String, Path, description = "Name or id")),
    responses((status = 200, body = Machine)), tag = "machines")]
pub(crate) async fn show(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(machine): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    Ok(object(&wire::machine(state.portolan.machine(&auth.caller, &machine).await?)))
}

/// Turns a machine on or off; answers the task that does it.
#[utoipa::path(post, path = "/machines/{machine}/power", request_body = PowerBody,
    params(("machine" = String, Path, description = "Name or id")), responses((status = 202, body = TaskBody)),
    tag = "machines")]
pub(crate) async fn power(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(machine): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<PowerBody>,
) -> Result<Response, ApiError> {
    Ok(task_begun(state.portolan.power(&auth.caller, &machine, body.action()?).await?))
}

impl PowerBody {
    fn action(&self) -> Result<PowerAction, ApiError> {
        let action = match self.action.to_ascii_lowercase().as_str() {
            "start" => PowerAction::Start,
            "shutdown" => {
                PowerAction::Shutdown { within: Duration::from_secs(self.within_seconds.unwrap_or(SHUTDOWN)) }
            }
            "off" => PowerAction::Off,
            "reboot" => PowerAction::Reboot,
            "reset" => PowerAction::Reset,
            _ => return Err(ApiError::invalid("action must be start, shutdown, off, reboot or reset")),
        };
        if self.within_seconds.is_some() && !matches!(action, PowerAction::Shutdown { .. }) {
            return Err(ApiError::invalid("within_seconds is for shutdown only"));
        }
        Ok(action)
    }
}

/// Makes a second machine out of a machine, whether it runs or not; answers the task that does it. The clone is off.
#[utoipa::path(post, path = "/machines/{machine}/clone", request_body = CloneBody,
    params(("machine" = String, Path, description = "Name or id")), responses((status = 202, body = TaskBody)),
    tag = "machines")]
pub(crate) async fn clone(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(machine): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<CloneBody>,
) -> Result<Response, ApiError> {
    let wish = CloneWish { name: name_of(&body.name)?, datastore: body.datastore };
    Ok(task_begun(state.portolan.clone_machine(&auth.caller, &machine, wish).await?))
}

/// Brings a machine's disks to another datastore, while it runs or not; answers the task that does it. Cancelled before
/// its end, the task leaves the machine where it is.
#[utoipa::path(post, path = "/machines/{machine}/move", request_body = MoveBody,
    params(("machine" = String, Path, description = "Name or id")), responses((status = 202, body = TaskBody)),
    tag = "machines")]
pub(crate) async fn relocate(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(machine): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<MoveBody>,
) -> Result<Response, ApiError> {
    Ok(task_begun(state.portolan.move_machine(&auth.caller, &machine, &body.datastore).await?))
}

/// Backs a machine up; answers the task that begins it.
#[utoipa::path(post, path = "/machines/{machine}/backup", request_body = BackUpBody,
    params(("machine" = String, Path, description = "Name or id")), responses((status = 202, body = TaskBody)),
    tag = "machines")]
pub(crate) async fn back_up(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(machine): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<BackUpBody>,
) -> Result<Response, ApiError> {
    let kind = body.kind.map_or(Ok(BackupType::Incremental), |text| {
        let known = BackupType::from_name(&text.to_ascii_uppercase());
        known.ok_or_else(|| ApiError::invalid("type must be FULL or INCREMENTAL"))
    })?;
    let destination = body.destination.as_deref();
    Ok(task_begun(state.portolan.back_up(&auth.caller, &machine, kind, destination).await?))
}

/// A machine's snapshots, the oldest first.
#[utoipa::path(get, path = "/machines/{machine}/snapshots",
    params(("machine" = String, Path, description = "Name or id")),
    responses((status = 200, body = inline(crate::openapi::ListOf<Snapshot>))), tag = "machines")]
pub(crate) async fn snapshots(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(machine): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    let found = state.portolan.snapshots(&auth.caller, &machine).await?;
    let total = found.len() as u64;
    Ok(list_answer(found.into_iter().map(wire::snapshot).collect(), total))
}

/// Makes a snapshot of a machine, whether it runs or not; answers the task that does it.
#[utoipa::path(post, path = "/machines/{machine}/snapshots", request_body = SnapshotBody,
    params(("machine" = String, Path, description = "Name or id")), responses((status = 202, body = TaskBody)),
    tag = "machines")]
pub(crate) async fn snapshot(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(machine): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<SnapshotBody>,
) -> Result<Response, ApiError> {
    let wish = SnapshotWish { name: name_of(&body.name)?, memory: body.memory.unwrap_or(false) };
    Ok(task_begun(state.portolan.snapshot(&auth.caller, &machine, wish).await?))
}

/// Deletes a snapshot; the machine stays as it is. Answers the task that does it.
#[utoipa::path(delete, path = "/machines/{machine}/snapshots/{snapshot}",
    params(("machine" = String, Path, description = "Name or id"), ("snapshot" = String, Path, description = "Id")),
    responses((status = 202, body = TaskBody)), tag = "machines")]
pub(crate) async fn remove_snapshot(
    State(state): State<Manage>,
    auth: Authenticated,
    NamedIn(machine, snapshot): NamedIn,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    Ok(task_begun(state.portolan.remove_snapshot(&auth.caller, &machine, &snapshot).await?))
}

/// Makes a machine's disks what they were at a snapshot: what was written since is lost. Answers the task that does it.
#[utoipa::path(post, path = "/machines/{machine}/snapshots/{snapshot}/revert",
    params(("machine" = String, Path, description = "Name or id"), ("snapshot" = String, Path, description = "Id")),
    responses((status = 202, body = TaskBody)), tag = "machines")]
pub(crate) async fn revert(
    State(state): State<Manage>,
    auth: Authenticated,
    NamedIn(machine, snapshot): NamedIn,
    Params(NoParams {}): Params<NoParams>,
    Body(NoFields {}): Body<NoFields>,
) -> Result<Response, ApiError> {
    Ok(task_begun(state.portolan.revert(&auth.caller, &machine, &snapshot).await?))
}
