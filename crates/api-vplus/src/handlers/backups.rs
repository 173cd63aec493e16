//! Backups and their locations (section 7).

use super::{list as list_answer, names, narrowed, object, part};
use crate::Vplus;
use crate::error::ApiError;
use crate::input::{Body, PathText, path_id};
use crate::query::Params;
use crate::session::Authenticated;
use crate::wire::backup::{BackupDetail, Location, backup, location};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use portolan::protect::PointQuery;
use portolan::storage::Query;
use portolan_http::SizeHint;
use portolan_model::backup::{BackupStatus, BackupType, CopyStatus};
use portolan_model::describe::Describe;
use portolan_model::dialect::vplus::ProtectedEntityType;
use portolan_model::query::{Filter, Sort};
use portolan_model::*;

static LIST: SizeHint = SizeHint::new();
static LOCATIONS: SizeHint = SizeHint::new();

const ORDER: &[(&str, &str)] = &[
    ("snapshotTime", "snapshot_time"),
    ("backup.snapshotTime", "snapshot_time"),
    ("status", "status"),
    ("type", "backup_type"),
    ("size", "size"),
    ("protectedEntity", "vm_name"),
    ("protectedEntity.name", "vm_name"),
];

/// Backups, newest first.
#[utoipa::path(get, path = "/backups", params(crate::openapi::ListParams, crate::openapi::BackupParams),
    responses((status = 200, body = [BackupDetail], headers(("X-Total-Count" = u64, description = "How many in all"))),
        (status = 400, body = crate::openapi::ErrorBody), (status = 401, body = crate::openapi::ErrorBody)),
    tag = "backups")]
pub(crate) async fn list(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let Some(caller) = narrowed(&state, auth.caller, &params).await? else {
        return Ok(list_answer::<BackupDetail>(&[], Some(0), &LIST));
    };
    let sort = params.sort(ORDER, Sort::newest());
    let query = PointQuery { filter: filter(&state, &caller, &params).await?, sort, page: params.page()?, count: true };
    let (points, total) = state.portolan.protect.points(&caller, query).await?;
    let names = names(&state, &caller, &points).await?;
    let items: Vec<BackupDetail> = points.iter().map(|p| backup(p, &names)).collect();
    Ok(list_answer(&items, total, &LIST))
}

/// Parameters that look for what no backup has: a policy, a rule, another kind of protected entity.
fn finds_nothing(params: &Params) -> bool {
    params.first(&["backup-policy", "backup-rule", "storage-provider"]).is_some()
        || params.first(&["protected-entity-type"]).is_some_and(|t| t != ProtectedEntityType::Vm.name())
}

async fn filter(state: &Vplus, caller: &Caller, params: &Params) -> Result<Filter, ApiError> {
    if finds_nothing(params) {
        return Ok(Filter::Or(Vec::new()));
    }
    let mut filter = params.text();
    if let Some(id) = params.id::<BackupDestinationId>(&["backup-destination"])? {
        let copies = Query::matching(Filter::eq("destination", id.uuid()));
        let copies = state.portolan.protect.copies(caller, copies).await?;
        filter = filter.and(Filter::any("id", copies.items.iter().map(|c| c.point.uuid())));
    }
    let links: [(&[&str], &str); 4] = [
        (&["protected-entity", "protectedEntity"], "vm"),
        (&["hypervisor"], "host"),
        (&["hypervisor-manager"], "platform"),
        (&["parent-backup"], "parent"),
    ];
    for (names, field) in links {
        if let Some(id) = params.id::<VmId>(names)? {
            filter = filter.and(Filter::eq(field, id.uuid()));
        }
    }
    let mut states: Vec<BackupStatus> = params.choices(&["status"])?;
    if params.first(&["only-mountable"]) == Some("true") {
        let mountable = [BackupStatus::Success, BackupStatus::PartialSuccess];
        states = if states.is_empty() {
            mountable.to_vec()
        } else {
            states.into_iter().filter(|s| mountable.contains(s)).collect()
        };
        filter = filter.and(Filter::any("status", states.iter().map(|s| s.name())));
    } else if !states.is_empty() {
        filter = filter.and(Filter::any("status", states.iter().map(|s| s.name())));
    }
    let kinds: Vec<BackupType> = params.choices(&["type"])?;
    if !kinds.is_empty() {
        filter = filter.and(Filter::any("backup_type", kinds.iter().map(|k| k.name())));
    }
    if let Some(least) = params.whole("min-size")? {
        filter = filter.and(Filter::AtLeast("size".into(), least.into()));
    }
    Ok(filter.and(within(params)?))
}

/// `from` and `to` on the moment that the data is of; on that of the request where there is no such moment, since a
/// backup that waits or has failed belongs to its day's history too.
fn within(params: &Params) -> Result<Filter, ApiError> {
    let (from, to) = (params.whole("from")?, params.whole("to")?);
    if from.is_none() && to.is_none() {
        return Ok(Filter::All);
    }
    let bounds = |field: &str| {
        let from = from.map(|at| Filter::AtLeast(field.into(), Timestamp::from_millis(at).into()));
        let to = to.map(|at| Filter::Below(field.into(), Timestamp::from_millis(at.saturating_add(1)).into()));
        Filter::And(from.into_iter().chain(to).collect())
    };
    let timeless = Filter::Eq("snapshot_time".into(), portolan_model::query::Value::Null);
    Ok(Filter::Or(vec![bounds("snapshot_time"), timeless.and(bounds("created"))]))
}

/// One backup.
#[utoipa::path(get, path = "/backups/{guid}", params(("guid" = uuid::Uuid, Path)),
    responses((status = 200, body = BackupDetail), (status = 404, body = crate::openapi::ErrorBody)), tag = "backups")]
pub(crate) async fn one(
    State(state): State<Vplus>,
    auth: Authenticated,
    PathText(guid): PathText,
) -> Result<Response, ApiError> {
    let view = state.portolan.protect.point(&auth.caller, path_id(&guid, "backup")?).await?;
    Ok(object(&backup(&view, &names(&state, &auth.caller, [&view]).await?)))
}

/// Writes a text on a backup.
#[utoipa::path(put, path = "/backups/{guid}/description", params(("guid" = uuid::Uuid, Path)),
    request_body = crate::openapi::TextValue, responses((status = 204, description = "Written"),
        (status = 404, body = crate::openapi::ErrorBody)), tag = "backups")]
pub(crate) async fn describe(
    State(state): State<Vplus>,
    auth: Authenticated,
    PathText(guid): PathText,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let text = body.object()?.text("value")?.unwrap_or_default().to_owned();
    state.portolan.protect.describe_point(&auth.caller, path_id(&guid, "backup")?, &text).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Notes that the warnings of a backup have been seen.
#[utoipa::path(put, path = "/backups/{guid}/warnings-acknowledged", params(("guid" = uuid::Uuid, Path)),
    request_body = crate::openapi::FlagValue, responses((status = 204, description = "Noted"),
        (status = 404, body = crate::openapi::ErrorBody)), tag = "backups")]
pub(crate) async fn acknowledge(
    State(state): State<Vplus>,
    auth: Authenticated,
    PathText(guid): PathText,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let seen = body.object()?.flag("value")?.ok_or_else(|| ApiError::invalid("value is needed"))?;
    state.portolan.protect.acknowledge(&auth.caller, path_id(&guid, "backup")?, seen).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Copies of backups, newest first, in the order of the backups.
#[utoipa::path(get, path = "/backup-locations", params(crate::openapi::PageParams, crate::openapi::LocationParams),
    responses((status = 200, body = [Location]), (status = 400, body = crate::openapi::ErrorBody)), tag = "backups")]
pub(crate) async fn locations(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let Some(caller) = narrowed(&state, auth.caller, &params).await? else {
        return Ok(list_answer::<Location>(&[], Some(0), &LOCATIONS));
    };
    let wanted: Vec<CopyStatus> = params.choices(&["location-status"])?;
    let query =
        PointQuery { filter: filter(&state, &caller, &params).await?, sort: Sort::newest(), ..PointQuery::default() };
    let (points, _) = state.portolan.protect.points(&caller, query).await?;
    let names = names(&state, &caller, &points).await?;
    let items: Vec<Location> = points
        .iter()
        .flat_map(|view| view.copies.iter().map(move |copy| (&view.point, copy)))
        .filter(|(_, copy)| wanted.is_empty() || wanted.contains(&copy.status))
        // A copy that is whole while the backup still works on another one cannot be restored yet.
        .filter(|(point, copy)| wanted.is_empty() || copy.status != CopyStatus::Present || point.status.is_restorable())
        .map(|(point, copy)| location(point, copy, &names))
        .collect();
    let (items, total) = part(items, params.page()?);
    Ok(list_answer(&items, total, &LOCATIONS))
}
