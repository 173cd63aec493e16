//! Platforms and the drivers that they can be registered with.

use super::{ForceParams, NoFields, NoParams, PageParams, created, list as list_answer, object, task_begun};
use crate::Manage;
use crate::auth::Authenticated;
use crate::error::{ApiError, ErrorBody};
use crate::input::{Body, Named, Params, page};
use crate::wire::{self, Kind, Platform, TaskBody, TestResult};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use portolan::registry::PlatformRequest;
use portolan_model::Secret;
use serde::Deserialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A platform to register or to try.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlatformBody {
    /// Unique; may be left out where it is only tried.
    #[serde(default)]
    name: String,
    /// One of GET /drivers.
    driver: String,
    /// The driver's settings, secret ones among them.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    settings: BTreeMap<String, Secret>,
    /// More settings: for clients that keep secrets apart.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    secrets: BTreeMap<String, Secret>,
}

impl PlatformBody {
    fn request(self) -> Result<PlatformRequest, ApiError> {
        Ok(PlatformRequest { name: self.name, driver: self.driver, settings: merged(self.settings, self.secrets)? })
    }
}

/// Both maps as one; a name that stands in both is refused.
pub(super) fn merged(
    mut settings: BTreeMap<String, Secret>,
    secrets: BTreeMap<String, Secret>,
) -> Result<BTreeMap<String, Secret>, ApiError> {
    for (name, value) in secrets {
        if settings.insert(name, value).is_some() {
            return Err(ApiError::invalid("a setting stands in settings and in secrets"));
        }
    }
    Ok(settings)
}

/// The drivers that platforms can be registered with.
#[utoipa::path(get, path = "/drivers", responses((status = 200, body = inline(crate::openapi::ListOf<Kind>))),
    tag = "platforms")]
pub(crate) async fn drivers(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    let drivers = state.portolan.registry.drivers(&auth.caller)?;
    let items: Vec<Kind> = drivers
        .iter()
        .map(|d| Kind {
            name: d.name,
            about: d.about,
            kind: Some(d.kind.name()),
            settings: wire::settings(&d.settings),
        })
        .collect();
    let total = items.len() as u64;
    Ok(list_answer(items, total))
}

/// Platforms by name.
#[utoipa::path(get, path = "/platforms", params(PageParams),
    responses((status = 200, body = inline(crate::openapi::ListOf<Platform>))), tag = "platforms")]
pub(crate) async fn list(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(params): Params<PageParams>,
) -> Result<Response, ApiError> {
    let page = page(params.limit, params.offset)?;
    let (platforms, total) = state.portolan.registry.platforms(&auth.caller, page).await?;
    Ok(list_answer(platforms.into_iter().map(|p| wire::platform(p, &auth.caller)).collect(), total))
}

/// Registers a platform and asks for its first listing.
#[utoipa::path(post, path = "/platforms", request_body = PlatformBody,
    responses((status = 201, body = Platform), (status = 502, body = ErrorBody)), tag = "platforms")]
pub(crate) async fn add(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<PlatformBody>,
) -> Result<Response, ApiError> {
    let added = state.portolan.registry.add_platform(&auth.caller, body.request()?).await?;
    Ok(created(&wire::platform(added, &auth.caller)))
}

/// One platform.
#[utoipa::path(get, path = "/platforms/{platform}", params(("platform" = String, Path, description = "Name or id")),
    responses((status = 200, body = Platform)), tag = "platforms")]
pub(crate) async fn show(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Response, ApiError> {
    let view = state.portolan.registry.platform(&auth.caller, &name).await?;
    Ok(object(&wire::platform(view, &auth.caller)))
}

/// Removes a platform that nothing refers to, or with `force` everything that does. Nothing changes on the platform.
#[utoipa::path(delete, path = "/platforms/{platform}",
    params(("platform" = String, Path, description = "Name or id"), ForceParams),
    responses((status = 204, description = "Removed")), tag = "platforms")]
pub(crate) async fn remove(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(params): Params<ForceParams>,
) -> Result<Response, ApiError> {
    state.portolan.registry.remove_platform(&auth.caller, &name, params.force.unwrap_or(false)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Tries a platform. That it failed is an answer, not an error.
#[utoipa::path(post, path = "/platforms/{platform}/test",
    params(("platform" = String, Path, description = "Name or id")),
    responses((status = 200, body = TestResult)), tag = "platforms")]
pub(crate) async fn try_stored(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(NoFields {}): Body<NoFields>,
) -> Result<Response, ApiError> {
    let report = state.portolan.registry.test_platform(&auth.caller, &name).await?;
    Ok(object(&wire::test_result(report)))
}

/// Tries a platform without registering it.
#[utoipa::path(post, path = "/platforms/test", request_body = PlatformBody,
    responses((status = 200, body = TestResult)), tag = "platforms")]
pub(crate) async fn try_request(
    State(state): State<Manage>,
    auth: Authenticated,
    Params(NoParams {}): Params<NoParams>,
    Body(body): Body<PlatformBody>,
) -> Result<Response, ApiError> {
    let report = state.portolan.registry.test_request(&auth.caller, body.request()?).await?;
    Ok(object(&wire::test_result(report)))
}

/// Asks for a listing of a platform; answers the task that does it.
#[utoipa::path(post, path = "/platforms/{platform}/sync",
    params(("platform" = String, Path, description = "Name or id")),
    responses((status = 202, body = TaskBody)), tag = "platforms")]
pub(crate) async fn sync(
    State(state): State<Manage>,
    auth: Authenticated,
    Named(name): Named,
    Params(NoParams {}): Params<NoParams>,
    Body(NoFields {}): Body<NoFields>,
) -> Result<Response, ApiError> {
    Ok(task_begun(state.portolan.sync_platform(&auth.caller, &name).await?))
}
