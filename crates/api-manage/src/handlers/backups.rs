//! Backups, and what comes out of them.

use super::{NoParams, list as list_answer, object, task_begun};
use crate::Manage;
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::input::{Body, Named, Params, name as name_of, page};
use crate::wire::{self, Backup, TaskBody};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use portolan::protect::TrialSign;
use portolan::{FromTo, InstantWish, RestoreWish, TrialWish};
use portolan_model::RecoveryPointId;
use serde::Deserialize;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// How long a trial waits where nothing is said, in seconds.
const TRIAL: u64 = 600;

/// Which backups.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BackupParams {
    /// The machine, by name or id.
    machine: Option<String>,
    /// 1 to 1000; 100 when left out.
    limit: Option<u64>,
    /// How many to pass over.
    offset: Option<u64>,
}

/// A machine to make of a backup.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RestoreBody {
    /// The machine's name; the one that it had, when left out.
    name: Option<String>,
    /// The copy to read, by its destination's name or id; any when left out.
    destination: Option<String>,
    /// The platform, by name or id; the one that it came from, when left out.
    platform: Option<String>,
    /// The platform's own id of the datastore.
    datastore: Option<String>,
    /// Puts it in the place of the machine of that name, which must be off.
    overwrite: Option<bool>,
    /// Turns the machine that is overwritten off first, at once, as by pulling the plug.
    power_off: Option<bool>,
}

/// A machine to run from a backup.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InstantBody {
    /// The machine's name; the one that it had, when left out.
    name: Option<String>,
    /// The copy to read, by its destination's name or id; any when left out.
    destination: Option<String>,
    /// The platform, by name or id; the one that it came from, when left out.
    platform: Option<String>,
    /// The platform's own id of the datastore that the data is brought to.
    datastore: Option<String>,
}

/// A backup to prove.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrialBody {
    /// The copy to read, by its destination's name or id; any when left out.
    destination: Option<String>,
    /// The platform, by name or id; the one that it came from, when left out.
    platform: Option<String>,
    /// What the console is waited for to say, letter by letter; the guest agent is waited for when left out.
    console: Option<String>,
    /// 5 to 3600; 600 when left out.
    within_seconds: Option<u64>,
}

/// Backups, the newest first.
#[utoipa::path(get, path = "/backups", params(BackupParams),
    responses((status = 200, body = inline(crate::openapi::ListOf<Backup>))), tag = "backups")]
pub(crate) async fn list(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(params): Params<BackupParams>,
) -> Result<Response, ApiError> {
    let page = page(params.limit, params.offset)?;
    let (backups, total) = state.portolan.backups(&auth.caller, params.machine.as_deref(), page).await?;
    Ok(list_answer(backups.into_iter().map(wire::backup).collect(), total))
}

/// One backup.
#[utoipa::path(get, path = "/backups/{backup}", params(("backup" = uuid::Uuid, Path)),
    responses((status = 200, body = Backup)), tag = "backups")]
pub(crate) async fn show(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(backup): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    Ok(object(&wire::backup(state.portolan.protect.point(&auth.caller, point_id(&backup)?).await?)))
}

/// Restores a backup to a machine, which is off then; answers the task that begins it.
#[utoipa::path(post, path = "/backups/{backup}/restore", params(("backup" = uuid::Uuid, Path)),
    request_body = RestoreBody, responses((status = 202, body = TaskBody)), tag = "backups")]
pub(crate) async fn restore(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(backup): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<RestoreBody>,
) -> Result<Response, ApiError> {
    let wish = RestoreWish {
        from: FromTo { destination: body.destination, platform: body.platform },
        name: body.name.as_deref().map(name_of).transpose()?,
        datastore: body.datastore,
        overwrite: body.overwrite.unwrap_or(false),
        power_off: body.power_off.unwrap_or(false),
    };
    Ok(task_begun(state.portolan.restore_backup(&auth.caller, point_id(&backup)?, wish).await?))
}

/// Runs a machine from a backup at once, and brings its data home meanwhile; answers the task that does it. Cancelled
/// before its end, the task destroys the machine.
#[utoipa::path(post, path = "/backups/{backup}/instant-restore", params(("backup" = uuid::Uuid, Path)),
    request_body = InstantBody, responses((status = 202, body = TaskBody)), tag = "backups")]
pub(crate) async fn instant_restore(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(backup): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<InstantBody>,
) -> Result<Response, ApiError> {
    let wish = InstantWish {
        from: FromTo { destination: body.destination, platform: body.platform },
        name: body.name.as_deref().map(name_of).transpose()?,
        datastore: body.datastore,
    };
    Ok(task_begun(state.portolan.restore_instantly(&auth.caller, point_id(&backup)?, wish).await?))
}

/// Boots a backup in a machine that reaches nothing, to see whether it does; answers the task that does it. What came
/// of it stands with the backup.
#[utoipa::path(post, path = "/backups/{backup}/trial", params(("backup" = uuid::Uuid, Path)),
    request_body = TrialBody, responses((status = 202, body = TaskBody)), tag = "backups")]
pub(crate) async fn trial(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(backup): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<TrialBody>,
) -> Result<Response, ApiError> {
    let wish = TrialWish {
        from: FromTo { destination: body.destination, platform: body.platform },
        sign: body.console.map_or(TrialSign::Agent, TrialSign::Console),
        within: Duration::from_secs(body.within_seconds.unwrap_or(TRIAL)),
    };
    Ok(task_begun(state.portolan.try_boot(&auth.caller, point_id(&backup)?, wish).await?))
}

fn point_id(text: &str) -> Result<RecoveryPointId, ApiError> {
    text.parse().map_err(|_| ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such backup"))
}
