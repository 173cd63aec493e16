//! Backup destinations (section 5).

use super::list as list_answer;
use crate::Vplus;
use crate::error::ApiError;
use crate::input::{Body, reference};
use crate::query::Params;
use crate::session::Authenticated;
use crate::wire::inventory::{Destination, destination};
use axum::extract::State;
use axum::response::Response;
use portolan::storage::Query;
use portolan_http::SizeHint;
use portolan_model::VmId;
use portolan_model::query::Sort;

static HINT: SizeHint = SizeHint::new();

/// Backup destinations.
#[utoipa::path(get, path = "/backup-destinations", params(crate::openapi::ListParams),
    responses((status = 200, body = [Destination]), (status = 401, body = crate::openapi::ErrorBody)),
    tag = "backup destinations")]
pub(crate) async fn list(
    State(state): State<Vplus>,
    auth: Authenticated,
    params: Params,
) -> Result<Response, ApiError> {
    let sort = params.sort(&[("name", "name")], Sort::by("name"));
    let query = Query { filter: params.text(), sort, page: params.page()?, count: true };
    let page = state.portolan.protect.destinations(&auth.caller, query).await?;
    let items: Vec<Destination> = page.items.iter().map(|d| destination(d)).collect();
    Ok(list_answer(&items, page.total, &HINT))
}

/// The destinations that all of these machines can use.
#[utoipa::path(post, path = "/backup-destinations/usable-for-vms",
    request_body(content = Vec<crate::openapi::Reference>, description = "Machines, each with its guid"),
    responses((status = 200, body = [Destination]), (status = 400, body = crate::openapi::ErrorBody),
        (status = 404, body = crate::openapi::ErrorBody)), tag = "backup destinations")]
pub(crate) async fn usable(State(state): State<Vplus>, auth: Authenticated, body: Body) -> Result<Response, ApiError> {
    for item in body.list()? {
        let id: Option<VmId> = reference(item, "virtual machine")?;
        let id = id.ok_or_else(|| ApiError::invalid("each virtual machine needs its guid"))?;
        state.portolan.inventory.vm(&auth.caller, id).await?;
    }
    // Every node reaches every destination.
    let query = Query { sort: Sort::by("name"), ..Query::default() };
    let page = state.portolan.protect.destinations(&auth.caller, query).await?;
    let items: Vec<Destination> = page.items.iter().map(|d| destination(d)).collect();
    Ok(list_answer(&items, page.total, &HINT))
}
