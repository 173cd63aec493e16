//! Starting and stopping nodes (section 4).

use crate::access::Asked;
use crate::error::ApiError;
use crate::input::{CloudName, START, STOP};
use crate::openapi::{ErrorBody, StartBody, StopBody};
use crate::wire::Deleted;
use crate::wire::cloud::Started;
use crate::wire::format::Memory;
use axum::response::Response;
use portolan::inventory::{NodeChoice, StartNode, StopNode};

/// Makes a node. `/vm/stop` takes it too.
#[utoipa::path(post, path = "/vm/start/{cloud}", params(("cloud" = String, Path, description = "Name of the cloud")),
    request_body = StartBody,
    responses((status = 200, description = "The node", body = Started<'static>),
        (status = 400, description = "The body makes no sense; the message says why", body = ErrorBody)), tag = "vm")]
pub(crate) async fn start(name: CloudName, asked: Asked) -> Result<Response, ApiError> {
    static MEMORY: Memory = Memory::new();
    let fields = asked.given.body.checked(&START)?;
    if !asked.given.body.says_json() {
        return Err(ApiError::went_wrong("'NoneType' object has no attribute 'get'"));
    }
    let at = asked.at(&name).await.map_err(ApiError::of_start)?;
    let wish = StartNode {
        cloud: at.cloud.id,
        name: fields.required("name"),
        image: fields.required("image"),
        size: fields.required("size"),
        key_pair: fields.owned("keyname"),
        metadata: fields.object("metadata"),
        within: asked.given.state.options.within,
    };
    let node = asked.portolan().inventory.start_node(&at.caller, wish).await.map_err(ApiError::starting)?;
    Ok(asked.given.answer(&Started::new(&at.cloud, &node), &MEMORY))
}

/// Destroys a node. `/vm/start` takes it too.
#[utoipa::path(put, path = "/vm/stop/{cloud}", params(("cloud" = String, Path, description = "Name of the cloud")),
    request_body = StopBody,
    responses((status = 200, description = "The node is gone", body = Deleted),
        (status = 400, description = "The body makes no sense, or there is no such node", body = ErrorBody)), tag = "vm")]
pub(crate) async fn stop(name: CloudName, asked: Asked) -> Result<Response, ApiError> {
    static MEMORY: Memory = Memory::new();
    if asked.given.body.is_empty() {
        return Err(ApiError::no_cloud());
    }
    let fields = asked.given.body.checked(&STOP)?;
    let choice = NodeChoice { id: fields.owned("node"), name: fields.owned("hostname") };
    if choice.id.is_none() && choice.name.is_none() {
        return Err(ApiError::bad_request("no valid node id nor hostname here"));
    }
    let at = asked.at(&name).await?;
    let wish = StopNode { cloud: at.cloud.id, choice, within: asked.given.state.options.within };
    let node = asked.portolan().inventory.stop_node(&at.caller, wish).await?;
    Ok(asked.given.answer(&Deleted::new(&node), &MEMORY))
}
