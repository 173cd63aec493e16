//! Tenants.

use super::{NoParams, PageParams, created, list as list_answer, object};
use crate::Manage;
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::input::{Body, Named, Params, page};
use crate::wire::{self, Tenant};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use portolan::storage::Query;
use portolan_model::query::Sort;
use serde::Deserialize;
use utoipa::ToSchema;

/// A new tenant.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantBody {
    /// Unique.
    name: String,
    /// What the system in front calls it, such as an OpenStack project id; unique where given.
    external_id: Option<String>,
}

/// What changes in a tenant; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantPatch {
    name: Option<String>,
    external_id: Option<String>,
}

/// Tenants by name.
#[utoipa::path(get, path = "/tenants", params(PageParams),
    responses((status = 200, body = inline(crate::openapi::ListOf<Tenant>))), tag = "tenants")]
pub(crate) async fn list(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(params): Params<PageParams>,
) -> Result<Response, ApiError> {
    let page = page(params.limit, params.offset)?;
    let query = Query { sort: Sort::by("name"), page, count: true, ..Query::default() };
    let tenants = state.portolan.access.tenants.list(&auth.caller, query).await?;
    let total = tenants.total.unwrap_or(0);
    Ok(list_answer(tenants.items.into_iter().map(|t| wire::tenant(t.value)).collect(), total))
}

/// Makes a tenant.
#[utoipa::path(post, path = "/tenants", request_body = TenantBody, responses((status = 201, body = Tenant)),
    tag = "tenants")]
pub(crate) async fn add(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<TenantBody>,
) -> Result<Response, ApiError> {
    let tenant = state
        .portolan
        .access
        .tenants
        .create(&auth.caller, &body.name, body.external_id.as_deref().unwrap_or_default())
        .await?;
    Ok(created(&wire::tenant(tenant.value)))
}

/// One tenant.
#[utoipa::path(get, path = "/tenants/{tenant}", params(("tenant" = String, Path, description = "Name or id")),
    responses((status = 200, body = Tenant)), tag = "tenants")]
pub(crate) async fn show(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    Ok(object(&wire::tenant(state.portolan.access.tenants.find(&auth.caller, &name).await?.value)))
}

/// Gives a tenant another name or external id.
#[utoipa::path(patch, path = "/tenants/{tenant}", params(("tenant" = String, Path, description = "Name or id")),
    request_body = TenantPatch, responses((status = 200, body = Tenant)), tag = "tenants")]
pub(crate) async fn change(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<TenantPatch>,
) -> Result<Response, ApiError> {
    let tenants = &state.portolan.access.tenants;
    let id = tenants.find(&auth.caller, &name).await?.id;
    let (name, external_id) = (body.name.as_deref(), body.external_id.as_deref());
    Ok(object(&wire::tenant(tenants.rename(&auth.caller, id, name, external_id).await?.value)))
}

/// Removes a tenant that nothing belongs to.
#[utoipa::path(delete, path = "/tenants/{tenant}", params(("tenant" = String, Path, description = "Name or id")),
    responses((status = 204, description = "Removed")), tag = "tenants")]
pub(crate) async fn remove(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    let tenants = &state.portolan.access.tenants;
    let id = tenants.find(&auth.caller, &name).await?.id;
    tenants.delete(&auth.caller, id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
