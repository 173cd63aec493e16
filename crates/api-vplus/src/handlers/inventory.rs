//! Hypervisors, managers, clusters, storages and nodes (section 4).

use super::{list as list_answer, names, object};
use crate::Vplus;
use crate::error::ApiError;
use crate::input::{PathText, path_id};
use crate::query::Params;
use crate::session::Authenticated;
use crate::wire::inventory::{
    ClusterDetail, HypervisorHost, ManagerDetail, NodeDetail, ProjectDetail, StorageDetail, cluster,
    hypervisor as wire_hypervisor, manager as wire_manager, node, project, storage,
};
use axum::extract::State;
use axum::response::Response;
use portolan::storage::Query;
use portolan_http::SizeHint;
use portolan_model::query::{Filter, Sort};
use portolan_model::{Cluster, Datastore, Host, HostId, Node, Platform, PlatformId, RecoveryPointId, TenantId};

static HINT: SizeHint = SizeHint::new();
const BY_NAME: &[(&str, &str)] = &[("name", "name")];

/// The list that the parameters ask for, in the order of names.
fn query(params: &Params, filter: Filter) -> Result<Query, ApiError> {
    Ok(Query {
        filter: params.text().and(filter),
        sort: params.sort(BY_NAME, Sort::by("name")),
        page: params.page()?,
        count: true,
    })
}

fn of_manager(params: &Params) -> Result<Filter, ApiError> {
    let manager = params.id::<PlatformId>(&["hypervisor-manager"])?;
    Ok(manager.map_or(Filter::All, |id| Filter::eq("platform", id.uuid())))
}

/// Hypervisors.
#[utoipa::path(get, path = "/hypervisors",
    params(crate::openapi::ListParams, ("hypervisor-manager" = Option<uuid::Uuid>, Query)),
    responses((status = 200, body = [HypervisorHost]), (status = 401, body = crate::openapi::ErrorBody)),
    tag = "inventory")]
pub(crate) async fn hypervisors(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let page = state.portolan.inventory.hypervisor_hosts(&auth.caller, query(&params, of_manager(&params)?)?).await?;
    let names = names(&state, &auth.caller, page.items.iter().map(|h| &h.value)).await?;
    let items: Vec<HypervisorHost> = page.items.iter().map(|h| wire_hypervisor(h, &names)).collect();
    Ok(list_answer(&items, page.total, &HINT))
}

/// One hypervisor.
#[utoipa::path(get, path = "/hypervisors/{guid}", params(("guid" = uuid::Uuid, Path)),
    responses((status = 200, body = HypervisorHost), (status = 404, body = crate::openapi::ErrorBody)),
    tag = "inventory")]
pub(crate) async fn hypervisor(
    State(state): State<Vplus>,
    auth: Authenticated,
    PathText(guid): PathText,
) -> Result<Response, ApiError> {
    let id: HostId = path_id(&guid, "hypervisor")?;
    let host = state.portolan.inventory.one::<Host>(&auth.caller, id).await?;
    if host.hypervisor.is_none() {
        return Err(ApiError::not_found("hypervisor", id));
    }
    Ok(object(&wire_hypervisor(&host, &names(&state, &auth.caller, [&host]).await?)))
}

/// Hypervisor managers; with `backup-to-be-restored` those that the backup can be restored to.
#[utoipa::path(get, path = "/hypervisor-managers",
    params(crate::openapi::ListParams, ("backup-to-be-restored" = Option<uuid::Uuid>, Query)),
    responses((status = 200, body = [ManagerDetail]), (status = 404, body = crate::openapi::ErrorBody)),
    tag = "inventory")]
pub(crate) async fn managers(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    if let Some(backup) = params.id::<RecoveryPointId>(&["backup-to-be-restored"])? {
        // Every platform that Portolan knows takes every backup; the backup itself must be there.
        state.portolan.protect.point(&auth.caller, backup).await?;
    }
    let page = state.portolan.inventory.read::<Platform>(&auth.caller, query(&params, Filter::All)?).await?;
    let items: Vec<ManagerDetail> = page.items.iter().map(|p| wire_manager(p)).collect();
    Ok(list_answer(&items, page.total, &HINT))
}

/// One hypervisor manager.
#[utoipa::path(get, path = "/hypervisor-managers/{guid}", params(("guid" = uuid::Uuid, Path)),
    responses((status = 200, body = ManagerDetail), (status = 404, body = crate::openapi::ErrorBody)),
    tag = "inventory")]
pub(crate) async fn manager(
    State(state): State<Vplus>,
    auth: Authenticated,
    PathText(guid): PathText,
) -> Result<Response, ApiError> {
    let id: PlatformId = path_id(&guid, "hypervisor manager")?;
    Ok(object(&wire_manager(&state.portolan.inventory.one::<Platform>(&auth.caller, id).await?)))
}

/// Clusters, with `hypervisor-manager` those of one manager.
#[utoipa::path(get, path = "/hypervisor-clusters",
    params(crate::openapi::ListParams, ("hypervisor-manager" = Option<uuid::Uuid>, Query)),
    responses((status = 200, body = [ClusterDetail]), (status = 401, body = crate::openapi::ErrorBody)),
    tag = "inventory")]
pub(crate) async fn clusters(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let filter = of_manager(&params)?.and(Filter::eq("present", true));
    let page = state.portolan.inventory.read::<Cluster>(&auth.caller, query(&params, filter)?).await?;
    let items: Vec<ClusterDetail> = page.items.iter().map(|c| cluster(c)).collect();
    Ok(list_answer(&items, page.total, &HINT))
}

/// Storages, with `hypervisor-manager` those of one manager.
#[utoipa::path(get, path = "/hypervisor-storages",
    params(crate::openapi::ListParams, ("hypervisor-manager" = Option<uuid::Uuid>, Query)),
    responses((status = 200, body = [StorageDetail]), (status = 401, body = crate::openapi::ErrorBody)),
    tag = "inventory")]
pub(crate) async fn storages(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let filter = of_manager(&params)?.and(Filter::eq("present", true));
    let page = state.portolan.inventory.read::<Datastore>(&auth.caller, query(&params, filter)?).await?;
    let names = names(&state, &auth.caller, page.items.iter().map(|d| &d.value)).await?;
    let items: Vec<StorageDetail> = page.items.iter().map(|d| storage(d, &names)).collect();
    Ok(list_answer(&items, page.total, &HINT))
}

/// Nodes: the processes that run tasks.
#[utoipa::path(get, path = "/nodes", params(crate::openapi::ListParams),
    responses((status = 200, body = [NodeDetail]), (status = 401, body = crate::openapi::ErrorBody)),
    tag = "inventory")]
pub(crate) async fn nodes(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let page = state.portolan.inventory.read::<Node>(&auth.caller, query(&params, Filter::All)?).await?;
    let now = state.portolan.now();
    let items: Vec<NodeDetail> = page.items.iter().map(|n| node(n, now)).collect();
    Ok(list_answer(&items, page.total, &HINT))
}

/// Projects: the tenants that the account may see.
#[utoipa::path(get, path = "/projects", params(crate::openapi::ListParams, crate::openapi::ProjectParams),
    responses((status = 200, body = [ProjectDetail])), tag = "inventory")]
pub(crate) async fn projects(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let mut filter = Filter::All;
    if let Some(uuid) = params.first(&["uuid"]) {
        let own = uuid::Uuid::parse_str(uuid).ok().map(|id| Filter::eq("id", id));
        filter = Filter::Or(std::iter::once(Filter::eq("external_id", uuid)).chain(own).collect());
    }
    if let Some(backup) = params.id::<RecoveryPointId>(&["backup"])? {
        let tenant = state.portolan.protect.point(&auth.caller, backup).await?.point.tenant;
        filter = filter.and(Filter::any("id", tenant.map(TenantId::uuid)));
    }
    // There are no quotas, so no project has the one that is asked for.
    if params.first(&["quota"]).is_some() {
        filter = Filter::Or(Vec::new());
    }
    let page = state.portolan.access.tenants.list(&auth.caller, query(&params, filter)?).await?;
    let items: Vec<ProjectDetail> = page.items.iter().map(|t| project(t)).collect();
    Ok(list_answer(&items, page.total, &HINT))
}
