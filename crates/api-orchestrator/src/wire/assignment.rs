//! Who holds which node (section 5).

use super::OK;
use portolan::inventory::{Assigned, AssignmentView};
use portolan_model::describe::Describe;
use serde::Serialize;
use utoipa::ToSchema;

/// An assignment, or the end of one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Assignment<'a> {
    /// Portolan's number of it.
    id: i64,
    /// The provider's id of the node.
    id_vm: &'a str,
    /// What was done, for people.
    result: &'a str,
    /// Always `ok`.
    status: &'static str,
}

impl<'a> Assignment<'a> {
    /// What an emulated request is answered, whatever it says.
    pub(crate) const EMULATED: Self =
        Self { id: 42, id_vm: "-fake_id-", result: "Node -fake_id- assigned", status: OK };

    pub(crate) fn new(assigned: &'a Assigned) -> Self {
        Self { id: assigned.number, id_vm: &assigned.node, result: &assigned.result, status: OK }
    }
}

/// A node and who holds it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Held<'a> {
    /// The name of the cloud.
    cloud: &'a str,
    /// The node's name.
    hostname: &'a str,
    /// Portolan's number of the assignment.
    id: i64,
    /// The provider's id of the node.
    id_vm: &'a str,
    /// What the node is used as; empty for nothing in particular.
    recipe: &'a str,
    /// Always `null`: what nodes are used as has no ids here.
    recipe_id: Option<i64>,
    /// 1 free, 2 assigned.
    status: u8,
    /// The same in a word: `FREE`, `ASSIGNED`.
    #[schema(value_type = String)]
    status_desc: &'static str,
    /// Who holds it; empty for nobody.
    user: &'a str,
}

impl<'a> Held<'a> {
    pub(crate) fn new(cloud: &'a str, held: &'a AssignmentView) -> Self {
        Self {
            cloud,
            hostname: &held.vm_name,
            id: held.number,
            id_vm: &held.node,
            recipe: &held.vm_type,
            recipe_id: None,
            status: held.status.number(),
            status_desc: held.status.name(),
            user: &held.user,
        }
    }
}

/// Nodes and who holds them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Status<'a> {
    nodes: HeldNodes<'a>,
    /// Always `ok`.
    status: &'static str,
}

/// A list, or an empty object where there are none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum HeldNodes<'a> {
    Some(Vec<Held<'a>>),
    None {},
}

impl<'a> Status<'a> {
    pub(crate) fn new(held: Vec<Held<'a>>) -> Self {
        Self { nodes: if held.is_empty() { HeldNodes::None {} } else { HeldNodes::Some(held) }, status: OK }
    }
}
