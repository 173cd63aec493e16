//! The files of backups (section 7).

use super::{list as list_answer, names, part};
use crate::Vplus;
use crate::error::ApiError;
use crate::names::FilesOf;
use crate::query::Params;
use crate::session::Authenticated;
use crate::wire::file::{BackupFile, files};
use axum::extract::State;
use axum::response::Response;
use portolan_http::SizeHint;
use portolan_model::RecoveryPointId;

static FILES: SizeHint = SizeHint::new();

/// The files of a backup.
#[utoipa::path(get, path = "/backup-files", params(crate::openapi::PageParams, crate::openapi::FileParams),
    responses((status = 200, body = [BackupFile]), (status = 404, body = crate::openapi::ErrorBody)), tag = "backups")]
pub(crate) async fn list(state: State<Vplus>, auth: Authenticated, params: Params) -> Result<Response, ApiError> {
    answer(state, auth, params, false).await
}

/// The files of a backup: the same rows.
#[utoipa::path(get, path = "/backup-files/detailed", params(crate::openapi::PageParams, crate::openapi::FileParams),
    responses((status = 200, body = [BackupFile]), (status = 404, body = crate::openapi::ErrorBody)), tag = "backups")]
pub(crate) async fn detailed(state: State<Vplus>, auth: Authenticated, params: Params) -> Result<Response, ApiError> {
    answer(state, auth, params, false).await
}

/// What a restore of the backup makes disks from, those included that the backup left out.
#[utoipa::path(get, path = "/backup-files/detailed/for-restore",
    params(crate::openapi::PageParams, crate::openapi::FileParams),
    responses((status = 200, body = [BackupFile]), (status = 404, body = crate::openapi::ErrorBody)), tag = "backups")]
pub(crate) async fn for_restore(
    state: State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    answer(state, auth, params, true).await
}

async fn answer(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
    for_restore: bool,
) -> Result<Response, ApiError> {
    let id = params.id::<RecoveryPointId>(&["backup"])?.ok_or_else(|| ApiError::invalid("backup is needed"))?;
    let view = state.portolan.protect.point(&auth.caller, id).await?;
    let names = names(&state, &auth.caller, [&FilesOf(&view.point)]).await?;
    let (items, total) = part(files(&view.point, for_restore, &names), params.page()?);
    Ok(list_answer(&items, total, &FILES))
}
