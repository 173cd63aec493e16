//! Who holds which node (section 5).

use crate::access::Asked;
use crate::error::ApiError;
use crate::input::{ASSIGN, CloudName, Fields, RELEASE};
use crate::openapi::{AssignBody, ErrorBody, ReleaseBody};
use crate::wire::assignment::{Assignment, Held, Status};
use crate::wire::format::Memory;
use axum::response::Response;
use portolan::inventory::{AssignNode, InventoryError, NodeChoice, ReleaseNode};

/// What is said of a node that is not there.
const NOT_FOUND: &str = "Node not found";

/// Gives a node to a user.
#[utoipa::path(put, path = "/vm/action/assign/{cloud}",
    params(("cloud" = String, Path, description = "Name of the cloud")), request_body = AssignBody,
    responses((status = 200, description = "The node is the user's", body = Assignment<'static>),
        (status = 400, description = "The body makes no sense, or the node cannot be had", body = ErrorBody)), tag = "vm")]
pub(crate) async fn assign(name: CloudName, asked: Asked) -> Result<Response, ApiError> {
    static MEMORY: Memory = Memory::new();
    if asked.given.body.emulates() {
        return Ok(asked.given.answer(&Assignment::EMULATED, &MEMORY));
    }
    let fields = asked.given.body.checked(&ASSIGN)?;
    // By its name where that is given: the id is then not looked at.
    let mut choice = choice(fields)?;
    let unsayable = if choice.name.is_some() { "unknown" } else { NOT_FOUND };
    choice.id = choice.id.filter(|_| choice.name.is_none());
    let at = asked.at(&name).await?;
    let (user, vm_type) = (fields.required("user"), fields.required("vm_type"));
    let wish = AssignNode { cloud: at.cloud.id, choice, user, vm_type };
    let assigned = asked.portolan().inventory.assign_node(&at.caller, wish).await;
    let assigned = assigned.map_err(|e| ApiError::assigning(e, unsayable))?;
    Ok(asked.given.answer(&Assignment::new(&assigned), &MEMORY))
}

/// Takes a node back, and destroys it.
#[utoipa::path(put, path = "/vm/action/release/{cloud}",
    params(("cloud" = String, Path, description = "Name of the cloud")), request_body = ReleaseBody,
    responses((status = 200, description = "The node is gone", body = Assignment<'static>),
        (status = 400, description = "The body makes no sense, or there is no such node", body = ErrorBody)), tag = "vm")]
pub(crate) async fn release(name: CloudName, asked: Asked) -> Result<Response, ApiError> {
    static MEMORY: Memory = Memory::new();
    if asked.given.body.emulates() {
        return Ok(asked.given.answer(&Assignment::EMULATED, &MEMORY));
    }
    let choice = choice(asked.given.body.checked(&RELEASE)?)?;
    let at = asked.at(&name).await?;
    let wish = ReleaseNode { cloud: at.cloud.id, choice, within: asked.given.state.options.release_within };
    let released = asked.portolan().inventory.release_node(&at.caller, wish).await;
    let released = released.map_err(|e| ApiError::assigning(e, NOT_FOUND))?;
    Ok(asked.given.answer(&Assignment::new(&released), &MEMORY))
}

/// The nodes that are known and not faulty, and who holds them.
#[utoipa::path(get, path = "/vm/status/{cloud}", params(("cloud" = String, Path, description = "Name of the cloud")),
    responses((status = 200, description = "The nodes; an empty object where there are none",
        body = Status<'static>)), tag = "vm")]
pub(crate) async fn status(name: CloudName, asked: Asked) -> Result<Response, ApiError> {
    static MEMORY: Memory = Memory::new();
    let Some(at) = asked.find(&name).await? else {
        return Ok(asked.given.answer(&Status::new(Vec::new()), &MEMORY));
    };
    let all = match asked.portolan().inventory.assignments(&at.caller, at.cloud.id).await {
        Err(e @ InventoryError::Denied(_)) => return Err(e.into()),
        // Clients take this for "nothing just now" and come back.
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "nothing can be said of the nodes");
            Vec::new()
        }
        Ok(all) => all,
    };
    let held = all.iter().map(|held| Held::new(&at.cloud.name, held)).collect();
    Ok(asked.given.answer(&Status::new(held), &MEMORY))
}

/// The node that a body names.
fn choice(fields: Fields<'_>) -> Result<NodeChoice, ApiError> {
    let choice = NodeChoice { id: fields.owned("node"), name: fields.owned("hostname") };
    if choice.id.is_none() && choice.name.is_none() {
        return Err(ApiError::bad_request(NOT_FOUND));
    }
    Ok(choice)
}
