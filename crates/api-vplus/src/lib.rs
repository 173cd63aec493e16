//! The vPlus dialect: session login, machines, tasks, backups and restores, as its published clients expect them.
//!
//! Sections named in comments are those of `docs/dialect-vplus.md`. A handler extracts, authenticates, makes one
//! use-case call and maps; everything lenient about the dialect's requests lives in `input`.

mod error;
mod handlers;
mod input;
mod names;
mod openapi;
mod query;
mod session;
mod wire;

pub use error::{ApiError, shape_fault};
pub use openapi::document;
pub use session::{COOKIE, senders};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get, post, put};
use portolan::Portolan;
use portolan_http::{Cors, HttpError};
use std::sync::Arc;

/// How the dialect is served.
#[derive(Debug, Clone)]
pub struct VplusOptions {
    /// Whether the listener speaks TLS: then the cookie is `Secure` and goes cross-site.
    pub secure: bool,
    /// Pages that may call from another origin.
    pub cors: Cors,
}

impl VplusOptions {
    /// Options for pages of `origins` (`https://engine.example.org`), in addition to those of this very host.
    ///
    /// # Errors
    /// An origin that is not `scheme://host[:port]`.
    pub fn new(secure: bool, origins: &[String]) -> Result<Self, HttpError> {
        let allow = ["content-type", "x-csrftoken", "3rd-party", "3rd-party-project", "idempotency-key"];
        Ok(Self {
            secure,
            cors: Cors::new(origins, &allow, &["X-Total-Count", "Content-Disposition", "Idempotency-Replayed"])?,
        })
    }
}

/// What every handler has.
#[derive(Clone)]
pub(crate) struct Vplus {
    pub(crate) portolan: Arc<Portolan>,
    pub(crate) options: VplusOptions,
}

/// The dialect under `/api`, with its own answers for unknown paths and methods.
pub fn router(portolan: Arc<Portolan>, options: VplusOptions) -> Router {
    let api = routes().fallback(unknown_path).method_not_allowed_fallback(unknown_method);
    Router::new().nest("/api", api).fallback(unknown_path).with_state(Vplus { portolan, options })
}

fn routes() -> Router<Vplus> {
    let mut router = Router::new();
    for (path, route) in table() {
        // Published clients end collections with a slash now and then (section 2.4).
        router = router.route(path, route.clone()).route(&format!("{path}/"), route);
    }
    router
}

/// Every path that is served.
fn table() -> Vec<(&'static str, MethodRouter<Vplus>)> {
    use handlers::{
        backups, dashboard, destinations, empty, files, inventory, machines, restores, sessions, tasks, workflows,
    };
    vec![
        ("/session", get(sessions::check)),
        ("/session/login", post(sessions::login)),
        ("/session/logout", post(sessions::logout)),
        ("/session/user", get(sessions::user)),
        ("/user-info", get(sessions::user_info)),
        ("/virtual-machines", get(machines::list)),
        ("/virtual-machines/detailed", get(machines::detailed)),
        ("/virtual-machines/incremental-not-possible", post(machines::obstacles)),
        ("/virtual-machines/{guid}", get(machines::one)),
        ("/virtual-machine-disks", get(machines::disks)),
        ("/hypervisors", get(inventory::hypervisors)),
        ("/hypervisors/{guid}", get(inventory::hypervisor)),
        ("/hypervisor-managers", get(inventory::managers)),
        ("/hypervisor-managers/{guid}", get(inventory::manager)),
        ("/hypervisor-clusters", get(inventory::clusters)),
        ("/hypervisor-storages", get(inventory::storages)),
        ("/nodes", get(inventory::nodes)),
        ("/backup-destinations", get(destinations::list)),
        ("/backup-destinations/usable-for-vms", post(destinations::usable)),
        ("/tasks", get(tasks::list)),
        ("/tasks/export", post(tasks::export)),
        ("/tasks/restore-and-import", post(restores::restore_and_import)),
        ("/tasks/inventory-sync", post(tasks::inventory_sync)),
        ("/tasks/verify", post(tasks::verify)),
        ("/tasks/all-finished", axum::routing::delete(tasks::remove_finished)),
        ("/tasks/all-finished-and-queued", axum::routing::delete(tasks::remove_finished_and_queued)),
        ("/tasks/all-running", axum::routing::delete(tasks::cancel_running)),
        ("/tasks/{guid}", get(tasks::one).delete(tasks::remove)),
        ("/tasks/{guid}/state", put(tasks::set_state)),
        ("/backups", get(backups::list)),
        ("/backups/{guid}", get(backups::one)),
        ("/backups/{guid}/description", put(backups::describe)),
        ("/backups/{guid}/warnings-acknowledged", put(backups::acknowledge)),
        ("/backup-locations", get(backups::locations)),
        ("/backup-files", get(files::list)),
        ("/backup-files/detailed", get(files::detailed)),
        ("/backup-files/detailed/for-restore", get(files::for_restore)),
        ("/restore-jobs", get(restores::jobs)),
        ("/workflow-executions", get(workflows::list)),
        ("/workflow-executions/{guid}", axum::routing::delete(workflows::remove)),
        ("/projects", get(inventory::projects)),
        ("/dashboard/protection", get(dashboard::protection)),
        ("/dashboard/backup-stats", get(dashboard::backup_stats)),
        ("/dashboard/staging-space", get(dashboard::staging_space)),
        ("/dashboard/backup-destination-stats", get(dashboard::destination_stats)),
        ("/snapshots", get(empty::snapshots)),
        ("/virtual-machine-flavors", get(empty::flavors)),
        ("/network", get(empty::networks)),
        ("/network/shared", get(empty::shared_networks)),
        ("/schedules", get(empty::schedules)),
        ("/policies/vm-backup", get(empty::backup_policies)),
        ("/policies/vm-backup/list-by-entities", post(empty::policies_of_machines)),
        ("/policies/vm-snapshot", get(empty::snapshot_policies)),
        ("/rules/vm-backup", get(empty::backup_rules)),
        ("/mounted-backups", get(empty::mounted_backups)),
        ("/mailing-lists", get(empty::mailing_lists)),
    ]
}

async fn unknown_path() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such resource")
}

async fn unknown_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "the resource does not support this method")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_path_is_documented_and_every_documented_path_is_served() {
        let served: BTreeSet<String> = table().into_iter().map(|row| row.0.to_owned()).collect();
        let documented: BTreeSet<String> = document().paths.paths.keys().cloned().collect();
        assert_eq!(served.symmetric_difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}
