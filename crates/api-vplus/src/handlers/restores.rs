//! Restores (sections 6.4 and 9).

use super::{list as list_answer, narrowed, task_answer};
use crate::Vplus;
use crate::error::ApiError;
use crate::input::{Body, Fields};
use crate::query::Params;
use crate::session::Authenticated;
use crate::wire::backup::{Job, job};
use crate::wire::task::TaskDetail;
use axum::extract::State;
use axum::response::Response;
use portolan::protect::{DiskTarget, PointQuery, RestoreRequest};
use portolan::storage::Query;
use portolan_http::SizeHint;
use portolan_model::query::{Filter, Sort};
use portolan_model::*;
use std::collections::BTreeMap;

static JOBS: SizeHint = SizeHint::new();

/// Restores a backup to a new machine: a RESTORE task, which an IMPORT task follows.
#[utoipa::path(post, path = "/tasks/restore-and-import", request_body = crate::openapi::RestoreBody,
    responses((status = 200, description = "The RESTORE task", body = TaskDetail),
        (status = 400, body = crate::openapi::ErrorBody), (status = 404, body = crate::openapi::ErrorBody),
        (status = 409, body = crate::openapi::ErrorBody)), tag = "tasks")]
pub(crate) async fn restore_and_import(
    State(state): State<Vplus>,
    auth: Authenticated,
    body: Body,
) -> Result<Response, ApiError> {
    let (task, _) = state.portolan.restore(&auth.caller, restore_request(&body)?).await?;
    task_answer(&state, &auth.caller, &task).await
}

fn restore_request(body: &Body) -> Result<RestoreRequest, ApiError> {
    let fields = body.object()?;
    let location = fields.get("backupLocation").map(Fields::of);
    let from_location = |name: &str| location.and_then(|l| l.get(name));
    let point = match fields.reference("backup")? {
        Some(id) => Some(id),
        None => match from_location("backup") {
            Some(value) => crate::input::reference(value, "backupLocation.backup")?,
            None => None,
        },
    };
    let destination = match from_location("backupDestination") {
        Some(value) => crate::input::reference(value, "backupLocation.backupDestination")?,
        None => None,
    };
    let mut disks = Vec::new();
    for file in fields.items("taskFiles")? {
        let file = Fields::of(file);
        let Some(name) = disk_name(file)? else { continue };
        disks.push(DiskTarget {
            name: name.to_owned(),
            datastore: file.text("storageId")?.map(str::to_owned),
            excluded: file.flag("excludedFromRestore")?.unwrap_or(false),
        });
    }
    let text = |name: &str| Ok::<_, ApiError>(fields.text(name)?.map(str::to_owned));
    Ok(RestoreRequest {
        point: point.ok_or_else(|| ApiError::invalid("backup or backupLocation is needed"))?,
        destination,
        platform: fields.reference("hypervisorManager")?,
        host: fields.reference("hypervisor")?,
        cluster: text("restoreClusterId")?,
        datastore: text("restoreStorageId")?,
        name: fields.name("restoredPeName")?,
        overwrite: fields.flag("overwrite")?.unwrap_or(false),
        power_off: fields.flag("powerOffOverwritten")?.unwrap_or(false),
        disks,
        priority: i16::try_from(fields.integer("priority")?.unwrap_or(50))
            .map_err(|_| ApiError::invalid("priority must lie between 0 and 100"))?,
    })
}

/// Which disk of the backup a file's wishes are for. An entry that wishes nothing needs no name.
fn disk_name<'a>(file: Fields<'a>) -> Result<Option<&'a str>, ApiError> {
    let nested = |name: &str| file.get(name).map(Fields::of);
    let within = match nested("backupFile").and_then(|f| f.get("vmDisk").map(Fields::of)) {
        Some(disk) => disk.text("name")?,
        None => None,
    };
    match file.text("originalDiskName")?.or(within) {
        Some(name) => Ok(Some(name)),
        None if file.flag("excludedFromRestore")? == Some(true) || file.get("storageId").is_some() => {
            Err(ApiError::invalid("taskFiles: originalDiskName is needed"))
        }
        None => Ok(None),
    }
}

/// Restore jobs, newest first.
#[utoipa::path(get, path = "/restore-jobs",
    params(crate::openapi::ListParams, ("protected-entity" = Option<uuid::Uuid>, Query),
        ("from" = Option<i64>, Query), ("to" = Option<i64>, Query)),
    responses((status = 200, body = [Job]), (status = 401, body = crate::openapi::ErrorBody)), tag = "backups")]
pub(crate) async fn jobs(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let Some(caller) = narrowed(&state, auth.caller, &params).await? else {
        return Ok(list_answer::<Job>(&[], Some(0), &JOBS));
    };
    let mut filter = params.text();
    if let Some(vm) = params.id::<VmId>(&["protected-entity", "protectedEntity"])? {
        filter = filter.and(Filter::eq("vm", vm.uuid()));
    }
    if let Some(from) = params.whole("from")? {
        filter = filter.and(Filter::AtLeast("created".into(), Timestamp::from_millis(from).into()));
    }
    if let Some(to) = params.whole("to")? {
        filter = filter.and(Filter::Below("created".into(), Timestamp::from_millis(to.saturating_add(1)).into()));
    }
    let query = Query { filter, sort: Sort::newest(), page: params.page()?, count: true };
    let page = state.portolan.protect.restore_jobs(&caller, query).await?;
    let ids = page.items.iter().map(|j| j.point.uuid());
    let of = PointQuery { filter: Filter::any("id", ids), ..PointQuery::default() };
    let (points, _) = state.portolan.protect.points(&caller, of).await?;
    let points: BTreeMap<_, _> = points.into_iter().map(|v| (v.point.id, v.point)).collect();
    let items: Vec<Job> = page.items.iter().map(|j| job(j, points.get(&j.point))).collect();
    Ok(list_answer(&items, page.total, &JOBS))
}
