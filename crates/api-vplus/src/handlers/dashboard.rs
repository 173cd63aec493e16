//! The figures of the dashboard (section 11).

use super::{list as list_answer, object};
use crate::Vplus;
use crate::error::ApiError;
use crate::session::Authenticated;
use crate::wire::dashboard::{
    BackupStats, DestinationStats, NodeSpace, ProtectionByKind, destinations as wire_destinations,
    protection as wire_protection, space, stats,
};
use axum::extract::State;
use axum::response::Response;
use portolan::storage::Query;
use portolan_http::SizeHint;
use portolan_model::Node;
use portolan_model::query::Sort;
use std::time::Duration;

static SPACE: SizeHint = SizeHint::new();
/// What the figures of backups are over.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

fn by_name() -> Query {
    Query { sort: Sort::by("name"), ..Query::default() }
}

/// How many machines are protected.
#[utoipa::path(get, path = "/dashboard/protection", responses((status = 200, body = ProtectionByKind)),
    tag = "dashboard")]
pub(crate) async fn protection(State(state): State<Vplus>, auth: Authenticated) -> Result<Response, ApiError> {
    Ok(object(&wire_protection(state.portolan.protection(&auth.caller).await?)))
}

/// What became of the backups of the last 24 hours.
#[utoipa::path(get, path = "/dashboard/backup-stats", responses((status = 200, body = BackupStats)),
    tag = "dashboard")]
pub(crate) async fn backup_stats(State(state): State<Vplus>, auth: Authenticated) -> Result<Response, ApiError> {
    Ok(object(&stats(state.portolan.backup_figures(&auth.caller, A_DAY).await?)))
}

/// How full the staging spaces of the nodes are.
#[utoipa::path(get, path = "/dashboard/staging-space", responses((status = 200, body = [NodeSpace])),
    tag = "dashboard")]
pub(crate) async fn staging_space(State(state): State<Vplus>, auth: Authenticated) -> Result<Response, ApiError> {
    let nodes = state.portolan.inventory.read::<Node>(&auth.caller, by_name()).await?;
    let items: Vec<NodeSpace> = nodes.items.iter().map(|n| space(n)).collect();
    Ok(list_answer(&items, None, &SPACE))
}

/// How full the backup destinations are.
#[utoipa::path(get, path = "/dashboard/backup-destination-stats", responses((status = 200, body = DestinationStats)),
    tag = "dashboard")]
pub(crate) async fn destination_stats(State(state): State<Vplus>, auth: Authenticated) -> Result<Response, ApiError> {
    let all = state.portolan.protect.destinations(&auth.caller, by_name()).await?;
    Ok(object(&wire_destinations(all.items.iter().map(|d| &d.value))))
}
