//! Collections that have no members: there is nothing in Portolan yet that could be listed in them, and clients that
//! ask for them need no more than to hear so.

use super::list as list_answer;
use crate::error::ApiError;
use crate::input::Body;
use crate::query::Params;
use crate::session::Authenticated;
use axum::response::Response;
use portolan_http::SizeHint;
use portolan_model::VmId;

static NONE: SizeHint = SizeHint::new();

macro_rules! empty {
    ($($name:ident, $path:literal, $tag:literal, $doc:literal;)+) => { $(
        #[doc = $doc]
        #[utoipa::path(get, path = $path, params(crate::openapi::ListParams),
            responses((status = 200, description = "Empty", body = [crate::wire::Ref])), tag = $tag)]
        pub(crate) async fn $name(_: Authenticated, params: Params) -> Result<Response, ApiError> {
            params.page()?;
            Ok(list_answer::<crate::wire::Ref>(&[], Some(0), &NONE))
        }
    )+ };
}

empty! {
    snapshots, "/snapshots", "virtual machines", "Snapshots of machines: Portolan keeps none.";
    flavors, "/virtual-machine-flavors", "virtual machines", "Flavours: platforms report none.";
    networks, "/network", "inventory", "Networks: platforms report none.";
    shared_networks, "/network/shared", "inventory", "Shared networks: platforms report none.";
    schedules, "/schedules", "policies", "Schedules: none can be made yet.";
    backup_policies, "/policies/vm-backup", "policies", "Backup policies: none can be made yet.";
    snapshot_policies, "/policies/vm-snapshot", "policies", "Snapshot policies: none can be made yet.";
    backup_rules, "/rules/vm-backup", "policies", "Rules of backup policies: none can be made yet.";
    mounted_backups, "/mounted-backups", "backups", "Mounted backups: none can be made yet.";
    mailing_lists, "/mailing-lists", "dashboard", "Mailing lists: none can be made yet.";
}

/// The backup policies of these machines: none has one yet.
#[utoipa::path(post, path = "/policies/vm-backup/list-by-entities",
    request_body = crate::openapi::ProtectedEntitiesBody,
    responses((status = 200, description = "Empty", body = [crate::wire::Ref])), tag = "policies")]
pub(crate) async fn policies_of_machines(_: Authenticated, body: Body) -> Result<Response, ApiError> {
    body.object()?.references::<VmId>("protectedEntities")?;
    Ok(list_answer::<crate::wire::Ref>(&[], Some(0), &NONE))
}
