//! Machines and their disks (section 3).

use super::{list as list_answer, names, narrowed, object};
use crate::Vplus;
use crate::error::ApiError;
use crate::input::path_id;
use crate::query::Params;
use crate::session::Authenticated;
use crate::wire::machine::{Machine, MachineDisk, disks as wire_disks, machine};
use axum::extract::{Path, State};
use axum::response::Response;
use portolan::storage::Query;
use portolan_http::SizeHint;
use portolan_model::query::{Filter, Sort};
use portolan_model::{PlatformId, VmId};

static LIST: SizeHint = SizeHint::new();
static DISKS: SizeHint = SizeHint::new();

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
    if let Some(uuid) = params.first(&["uuid"]) {
        filter = filter.and(Filter::eq("native_id", uuid));
    }
    if let Some(platform) = params.id::<PlatformId>(&["hypervisor-manager"])? {
        filter = filter.and(Filter::eq("platform", platform.uuid()));
    }
    // Every platform is of the one type that clients are told (section 3): another one finds nothing.
    if params.first(&["hypervisor-manager-type"]).is_some_and(|t| t != crate::names::manager_type().name) {
        return Ok(list_answer::<Machine>(&[], Some(0), &LIST));
    }
    let query = Query { filter, sort: params.sort(ORDER, Sort::by("name")), page: params.page()?, count: true };
    let page = state.portolan.inventory.vms(&caller, query).await?;
    let names = names(&state, &caller).await?;
    let items: Vec<Machine> = page.items.iter().map(|vm| machine(vm, &names)).collect();
    Ok(list_answer(&items, page.total, &LIST))
}

/// One machine.
#[utoipa::path(get, path = "/virtual-machines/{guid}", params(("guid" = uuid::Uuid, Path)),
    responses((status = 200, body = Machine), (status = 401, body = crate::openapi::ErrorBody),
        (status = 404, body = crate::openapi::ErrorBody)), tag = "virtual machines")]
pub(crate) async fn one(
    State(state): State<Vplus>,
    auth: Authenticated,
    Path(guid): Path<String>,
) -> Result<Response, ApiError> {
    let id: VmId = path_id(&guid, "virtual machine")?;
    let vm = state.portolan.inventory.vm(&auth.caller, id).await?;
    Ok(object(&machine(&vm, &names(&state, &auth.caller).await?)))
}

/// A machine's disks.
#[utoipa::path(get, path = "/virtual-machine-disks", params(("virtual-machine" = uuid::Uuid, Query)),
    responses((status = 200, body = [MachineDisk]), (status = 400, body = crate::openapi::ErrorBody),
        (status = 404, body = crate::openapi::ErrorBody)), tag = "virtual machines")]
pub(crate) async fn disks(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let id = params.id::<VmId>(&["virtual-machine"])?.ok_or_else(|| ApiError::invalid("virtual-machine is needed"))?;
    let vm = state.portolan.inventory.vm(&auth.caller, id).await?;
    let items = wire_disks(&vm, &names(&state, &auth.caller).await?);
    Ok(list_answer(&items, None, &DISKS))
}
