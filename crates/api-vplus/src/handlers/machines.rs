//! Machines and their disks (section 3).

use super::{list as list_answer, names, narrowed, object, part};
use crate::Vplus;
use crate::error::ApiError;
use crate::input::{Body, PathText, path_id};
use crate::names::DisksOf;
use crate::query::Params;
use crate::session::Authenticated;
use crate::wire::machine::{Machine, MachineDisk, Obstacle, disks as wire_disks, machine, obstacle};
use axum::extract::State;
use axum::response::Response;
use portolan::storage::Query;
use portolan_http::SizeHint;
use portolan_model::query::{Direction, Filter, Sort};
use portolan_model::{HostId, PlatformId, VmId};

static LIST: SizeHint = SizeHint::new();
static DISKS: SizeHint = SizeHint::new();
static OBSTACLES: SizeHint = SizeHint::new();

const ORDER: &[(&str, &str)] = &[
    ("name", "name"),
    ("hypervisor", "host_name"),
    ("hypervisor.name", "host_name"),
    ("hvManager", "platform_name"),
    ("hvManager.name", "platform_name"),
    ("hvCluster", "cluster_name"),
    ("hvCluster.name", "cluster_name"),
    ("present", "present"),
    ("lastBackup", "last_backup"),
    ("lastSuccessfulBackupSize", "last_size"),
];

/// Machines, those gone from their platform included.
#[utoipa::path(get, path = "/virtual-machines", params(crate::openapi::ListParams, crate::openapi::MachineParams),
    responses((status = 200, body = [Machine], headers(("X-Total-Count" = u64, description = "How many in all"))),
        (status = 401, body = crate::openapi::ErrorBody)), tag = "virtual machines")]
pub(crate) async fn list(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let Some(caller) = narrowed(&state, auth.caller, &params).await? else {
        return Ok(list_answer::<Machine>(&[], Some(0), &LIST));
    };
    let mut filter = params.text();
    let mut default = Sort::by("name");
    if let Some(uuid) = params.first(&["uuid"]) {
        filter = filter.and(Filter::eq("native_id", uuid));
        // Platforms use an id again after its machine is gone. Clients take the first: the one that is there.
        default = Sort { field: Some("present".into()), direction: Direction::Descending };
    }
    if let Some(host) = params.id::<HostId>(&["hypervisor"])? {
        filter = filter.and(Filter::eq("host", host.uuid()));
    }
    if let Some(platform) = params.id::<PlatformId>(&["hypervisor-manager"])? {
        filter = filter.and(Filter::eq("platform", platform.uuid()));
    }
    // Every platform is of the one type that clients are told (section 3): another one finds nothing.
    if params.first(&["hypervisor-manager-type"]).is_some_and(|t| t != crate::names::manager_type().name) {
        return Ok(list_answer::<Machine>(&[], Some(0), &LIST));
    }
    let query = Query { filter, sort: params.sort(ORDER, default), page: params.page()?, count: true };
    let page = state.portolan.inventory.vms(&caller, query).await?;
    let names = names(&state, &caller, page.items.iter().map(|vm| &vm.value)).await?;
    let items: Vec<Machine> = page.items.iter().map(|vm| machine(vm, &names)).collect();
    Ok(list_answer(&items, page.total, &LIST))
}

/// The same list, under the name that older clients filter it by.
#[utoipa::path(get, path = "/virtual-machines/detailed",
    params(crate::openapi::ListParams, crate::openapi::MachineParams),
    responses((status = 200, body = [Machine], headers(("X-Total-Count" = u64, description = "How many in all")))),
    tag = "virtual machines")]
pub(crate) async fn detailed(state: State<Vplus>, auth: Authenticated, params: Params) -> Result<Response, ApiError> {
    list(state, auth, params).await
}

/// One machine.
#[utoipa::path(get, path = "/virtual-machines/{guid}", params(("guid" = uuid::Uuid, Path)),
    responses((status = 200, body = Machine), (status = 401, body = crate::openapi::ErrorBody),
        (status = 404, body = crate::openapi::ErrorBody)), tag = "virtual machines")]
pub(crate) async fn one(
    State(state): State<Vplus>,
    auth: Authenticated,
    PathText(guid): PathText,
) -> Result<Response, ApiError> {
    let id: VmId = path_id(&guid, "virtual machine")?;
    let vm = state.portolan.inventory.vm(&auth.caller, id).await?;
    Ok(object(&machine(&vm, &names(&state, &auth.caller, [&vm]).await?)))
}

/// A machine's disks.
#[utoipa::path(get, path = "/virtual-machine-disks", params(crate::openapi::PageParams, ("virtual-machine" = uuid::Uuid, Query)),
    responses((status = 200, body = [MachineDisk]), (status = 400, body = crate::openapi::ErrorBody),
        (status = 404, body = crate::openapi::ErrorBody)), tag = "virtual machines")]
pub(crate) async fn disks(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let id = params.id::<VmId>(&["virtual-machine"])?.ok_or_else(|| ApiError::invalid("virtual-machine is needed"))?;
    let vm = state.portolan.inventory.vm(&auth.caller, id).await?;
    let disks = wire_disks(&vm, &names(&state, &auth.caller, [&DisksOf(&vm)]).await?);
    let (items, total) = part(disks, params.page()?);
    Ok(list_answer(&items, total, &DISKS))
}

/// Which of these machines cannot be backed up incrementally just now, and why. Empty when all can.
#[utoipa::path(post, path = "/virtual-machines/incremental-not-possible", request_body = crate::openapi::EntitiesBody,
    responses((status = 200, body = [Obstacle]), (status = 404, body = crate::openapi::ErrorBody)),
    tag = "virtual machines")]
pub(crate) async fn obstacles(
    State(state): State<Vplus>,
    auth: Authenticated,
    body: Body,
) -> Result<Response, ApiError> {
    let mut machines = Vec::new();
    for id in body.object()?.references::<VmId>("entities")? {
        machines.push(state.portolan.inventory.vm(&auth.caller, id).await?);
    }
    machines.retain(|vm| vm.protection.last_point.is_none());
    let names = names(&state, &auth.caller, &machines).await?;
    let items: Vec<Obstacle> = machines.iter().map(|vm| obstacle(machine(vm, &names))).collect();
    Ok(list_answer(&items, None, &OBSTACLES))
}
