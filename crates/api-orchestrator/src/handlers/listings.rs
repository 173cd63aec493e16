//! What clouds there are, and what is in them (section 4).

use crate::access::Asked;
use crate::error::ApiError;
use crate::input::{CloudName, DEFAULT};
use crate::openapi::ErrorBody;
use crate::wire::cloud::{Cloud, Clouds, Flavors, Images, Nodes, Tenants};
use crate::wire::format::Memory;
use axum::response::Response;

/// The nodes of a cloud.
#[utoipa::path(get, path = "/nodes/{cloud}", params(("cloud" = String, Path, description = "Name of the cloud")),
    responses((status = 200, description = "The nodes", body = Nodes<'static>),
        (status = 400, description = "The cloud has no such call", body = ErrorBody)), tag = "status")]
pub(crate) async fn nodes(name: CloudName, asked: Asked) -> Result<Response, ApiError> {
    let at = asked.at(&name).await?;
    let nodes = asked.portolan().inventory.cloud_nodes(&at.caller, at.cloud.id).await?;
    Ok(asked.given.nodes(&at.cloud, nodes))
}

/// The images of a cloud.
#[utoipa::path(get, path = "/images/{cloud}", params(("cloud" = String, Path, description = "Name of the cloud")),
    responses((status = 200, description = "The images", body = Images<'static>),
        (status = 400, description = "The cloud has no such call", body = ErrorBody)), tag = "status")]
pub(crate) async fn images(name: CloudName, asked: Asked) -> Result<Response, ApiError> {
    static MEMORY: Memory = Memory::new();
    let at = asked.at(&name).await?;
    let images = asked.portolan().inventory.cloud_images(&at.caller, at.cloud.id).await?;
    Ok(asked.given.answer(&Images::new(&at.cloud, &images), &MEMORY))
}

/// The sizes of a cloud; also called flavors.
#[utoipa::path(get, path = "/sizes/{cloud}", params(("cloud" = String, Path, description = "Name of the cloud")),
    responses((status = 200, description = "The sizes", body = Flavors<'static>),
        (status = 400, description = "The cloud has no such call", body = ErrorBody)), tag = "status")]
pub(crate) async fn sizes(name: CloudName, asked: Asked) -> Result<Response, ApiError> {
    static MEMORY: Memory = Memory::new();
    let at = asked.at(&name).await?;
    let sizes = asked.portolan().inventory.cloud_sizes(&at.caller, at.cloud.id).await?;
    Ok(asked.given.answer(&Flavors::new(&at.cloud, &sizes), &MEMORY))
}

/// What the original said of tenants: one for `default`, an empty one for every other name, there or not.
#[utoipa::path(get, path = "/tenants/{cloud}", params(("cloud" = String, Path, description = "Any name")),
    responses((status = 200, description = "One tenant", body = Tenants)), tag = "status")]
pub(crate) async fn tenants(name: CloudName, asked: Asked) -> Response {
    static MEMORY: Memory = Memory::new();
    let tenants = if name == CloudName::Default { Tenants::DEFAULT } else { Tenants::OTHER };
    asked.given.answer(&tenants, &MEMORY)
}

/// The clouds that are served to the caller: what `default` stands for, then all by their names.
#[utoipa::path(get, path = "/cloud",
    responses((status = 200, description = "The clouds", body = Clouds<'static>)), tag = "status")]
pub(crate) async fn clouds(asked: Asked) -> Result<Response, ApiError> {
    static MEMORY: Memory = Memory::new();
    let mut clouds = asked.portolan().inventory.clouds(&asked.caller()).await?;
    clouds.retain(|cloud| asked.is_served(cloud));
    let meant = asked.given.state.options.default_cloud.as_deref().unwrap_or(DEFAULT);
    let first = clouds.iter().find(|cloud| cloud.name == meant).map(|cloud| Cloud::new(cloud, DEFAULT));
    // A platform that is called `default` is reached by that name only where `default` means itself.
    let named = clouds.iter().filter(|cloud| cloud.name != DEFAULT).map(|cloud| Cloud::new(cloud, &cloud.name));
    Ok(asked.given.answer(&Clouds::new(first.into_iter().chain(named).collect()), &MEMORY))
}

/// A list that nobody knows.
pub(crate) async fn unrecognized() -> ApiError {
    ApiError::bad_request("Unrecognized action found")
}
