//! Destinations and the kinds of places that they can be in.

use super::platforms::merged;
use super::{ForceParams, NoFields, NoParams, PageParams, created, list as list_answer, object};
use crate::Manage;
use crate::auth::Authenticated;
use crate::error::{ApiError, ErrorBody};
use crate::input::{Body, Named, Params, page};
use crate::wire::{self, AddedDestination, Destination, Kind, NewRecoveryKey, TestResult};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use portolan::registry::DestinationRequest;
use portolan_model::Secret;
use serde::Deserialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A destination to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DestinationBody {
    /// Unique.
    name: String,
    #[serde(default)]
    description: String,
    /// One of GET /destination-kinds.
    kind: String,
    /// The settings of its kind, secret ones among them.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    settings: BTreeMap<String, Secret>,
    /// More settings: for clients that keep secrets apart.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    secrets: BTreeMap<String, Secret>,
    /// Whether backups without a destination go here; when left out, only where no other is the default.
    default: Option<bool>,
    /// Adopts a repository that another installation made.
    #[schema(value_type = Option<String>)]
    recovery_key: Option<Secret>,
}

/// The kinds of places that destinations can be registered with.
#[utoipa::path(get, path = "/destination-kinds",
    responses((status = 200, body = inline(crate::openapi::ListOf<Kind>))), tag = "destinations")]
pub(crate) async fn kinds(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    let kinds = state.portolan.registry.destination_kinds(&auth.caller)?;
    let items: Vec<Kind> = kinds
        .iter()
        .map(|k| Kind { name: k.name, about: k.about, kind: None, settings: wire::settings(&k.settings) })
        .collect();
    let total = items.len() as u64;
    Ok(list_answer(items, total))
}

/// Destinations by name.
#[utoipa::path(get, path = "/destinations", params(PageParams),
    responses((status = 200, body = inline(crate::openapi::ListOf<Destination>))), tag = "destinations")]
pub(crate) async fn list(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(params): Params<PageParams>,
) -> Result<Response, ApiError> {
    let page = page(params.limit, params.offset)?;
    let (destinations, total) = state.portolan.registry.destinations(&auth.caller, page).await?;
    Ok(list_answer(destinations.into_iter().map(|d| wire::destination(d, &auth.caller)).collect(), total))
}

/// Registers a destination: makes its repository, or adopts one. Keep the recovery key: it is told once.
#[utoipa::path(post, path = "/destinations", request_body = DestinationBody,
    responses((status = 201, body = AddedDestination), (status = 502, body = ErrorBody)), tag = "destinations")]
pub(crate) async fn add(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<DestinationBody>,
) -> Result<Response, ApiError> {
    let request = DestinationRequest {
        name: body.name,
        description: body.description,
        kind: body.kind,
        settings: merged(body.settings, body.secrets)?,
        default: body.default,
        recovery_key: body.recovery_key,
    };
    let (view, recovery) = state.portolan.registry.add_destination(&auth.caller, request).await?;
    let recovery_key = recovery.map(|key| key.reveal().to_owned());
    Ok(created(&AddedDestination { destination: wire::destination(view, &auth.caller), recovery_key }))
}

/// One destination.
#[utoipa::path(get, path = "/destinations/{destination}",
    params(("destination" = String, Path, description = "Name or id")),
    responses((status = 200, body = Destination)), tag = "destinations")]
pub(crate) async fn show(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    let view = state.portolan.registry.destination(&auth.caller, &name).await?;
    Ok(object(&wire::destination(view, &auth.caller)))
}

/// Removes a destination without backups, or with `force` one whose backups are forgotten. What lies there stays.
#[utoipa::path(delete, path = "/destinations/{destination}",
    params(("destination" = String, Path, description = "Name or id"), ForceParams),
    responses((status = 204, description = "Removed")), tag = "destinations")]
pub(crate) async fn remove(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(params): Params<ForceParams>,
) -> Result<Response, ApiError> {
    state.portolan.registry.remove_destination(&auth.caller, &name, params.force.unwrap_or(false)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Tries a destination. That it failed is an answer, not an error.
#[utoipa::path(post, path = "/destinations/{destination}/test",
    params(("destination" = String, Path, description = "Name or id")),
    responses((status = 200, body = TestResult)), tag = "destinations")]
pub(crate) async fn try_stored(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(NoFields {}): Body<NoFields>,
) -> Result<Response, ApiError> {
    let report = state.portolan.registry.test_destination(&auth.caller, &name).await?;
    Ok(object(&wire::test_result(report)))
}

/// Makes a destination the default.
#[utoipa::path(put, path = "/destinations/{destination}/default",
    params(("destination" = String, Path, description = "Name or id")),
    responses((status = 200, body = Destination)), tag = "destinations")]
pub(crate) async fn make_default(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(NoFields {}): Body<NoFields>,
) -> Result<Response, ApiError> {
    let view = state.portolan.registry.set_default(&auth.caller, &name).await?;
    Ok(object(&wire::destination(view, &auth.caller)))
}

/// A further recovery key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecoveryKeyBody {
    /// Whether the earlier recovery keys stop to open the repository.
    #[serde(default)]
    replace: bool,
}

/// Makes a further recovery key for a destination's repository. Keep it: it is told once.
#[utoipa::path(post, path = "/destinations/{destination}/recovery-key",
    params(("destination" = String, Path, description = "Name or id")), request_body = RecoveryKeyBody,
    responses((status = 201, body = NewRecoveryKey), (status = 502, body = ErrorBody)), tag = "destinations")]
pub(crate) async fn make_recovery_key(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<RecoveryKeyBody>,
) -> Result<Response, ApiError> {
    let key = state.portolan.registry.new_recovery_key(&auth.caller, &name, body.replace).await?;
    Ok(created(&NewRecoveryKey { recovery_key: key.reveal().to_owned() }))
}
