//! The management listener: health, readiness, metrics, documents, and the API of operators.

use crate::core::Core;
use crate::metrics::{DestinationFigures, Metrics, PlatformFigures};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use portolan_api_manage::ManageOptions;
use portolan_http::idempotency::Identify;
use portolan_http::{Fault, FaultContext, Faults, Idempotency, PlainFaults};
use portolan_model::{BackupDestination, Platform, Scope};
use portolan_storage::{Query, StateStore, StorageExt, StoreError};
use portolan_tasks::TaskStore;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// How long the database may take to answer before the server counts as not ready.
const PATIENCE: Duration = Duration::from_secs(3);

/// What must have come before the server is ready.
#[derive(Debug, Default)]
pub struct Readiness {
    /// Tasks are run.
    pub engine: AtomicBool,
    /// The first listing of every platform was asked for.
    pub synced: AtomicBool,
    /// Whoever started the server wants to do something first.
    pub held: AtomicBool,
    /// The server is on its way out.
    pub stopping: AtomicBool,
}

impl Readiness {
    /// Why the server is not ready; nothing when it is, as far as the process itself knows.
    pub fn reason(&self) -> Option<&'static str> {
        let is = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        if is(&self.stopping) {
            Some("stopping")
        } else if !is(&self.engine) {
            Some("tasks are not run yet")
        } else if !is(&self.synced) {
            Some("platforms have not been asked for yet")
        } else if is(&self.held) {
            Some("the demo has not finished yet")
        } else {
            None
        }
    }
}

/// What the management listener shows.
#[derive(Clone)]
pub struct Management {
    /// The server's parts.
    pub core: Core,
    /// Whether it is ready.
    pub readiness: Arc<Readiness>,
    /// The metrics.
    pub metrics: Metrics,
}

impl Management {
    /// `/healthz`, `/readyz`, `/metrics`, `/openapi/vplus.json`, `/openapi/orchestrator.json`,
    /// `/openapi/manage.json`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/openapi/vplus.json", get(openapi_vplus))
            .route("/openapi/orchestrator.json", get(openapi_orchestrator))
            .route("/openapi/manage.json", get(openapi_manage))
            .with_state(self)
    }

    /// Why the server is not ready; nothing when it is.
    async fn unready(&self) -> Option<&'static str> {
        if let Some(reason) = self.readiness.reason() {
            return Some(reason);
        }
        match timeout(PATIENCE, self.core.storage.ping()).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) | Err(_) => Some("the database does not answer"),
        }
    }

    async fn refresh(&self) -> Result<(), StoreError> {
        let storage = &self.core.storage;
        self.metrics.note_tasks(&storage.stats(self.core.portolan.now()).await.map_err(StoreError::Tasks)?);
        let open = self.core.portolan.repositories().destinations();
        let destinations = storage.list_of::<BackupDestination>(Scope::All, Query::default()).await?.items;
        let destinations: Vec<_> = destinations
            .iter()
            .map(|d| DestinationFigures {
                name: d.name.to_string(),
                open: open.contains(&d.id),
                used: d.used_bytes,
                free: d.free_bytes,
                logical: d.logical_bytes,
            })
            .collect();
        let platforms = storage.list_of::<Platform>(Scope::All, Query::default()).await?.items;
        let platforms: Vec<_> = platforms
            .iter()
            .map(|p| PlatformFigures {
                name: p.name.to_string(),
                last_sync: p.last_sync.map(|at| at.as_micros() as f64 / 1e6),
                ok: p.last_error.is_empty(),
            })
            .collect();
        self.metrics.note_objects(&destinations, &platforms);
        Ok(())
    }
}

/// The authenticated API under `/manage/v1`, of the process of that name. `once` makes the part that carries a
/// repeated request out once, for senders that the API knows.
pub fn operators(core: &Core, node: &str, once: impl FnOnce(Arc<dyn Identify>) -> Idempotency) -> Router {
    let options = ManageOptions {
        version: env!("CARGO_PKG_VERSION").into(),
        node: node.to_owned(),
        started: core.portolan.now(),
    };
    let portolan = Arc::clone(&core.portolan);
    let once = once(portolan_api_manage::senders(Arc::clone(&portolan)));
    once.wrap(portolan_api_manage::router(portolan, options))
}

/// What the transport answers on its own account: each path has its form.
pub fn shape_fault(fault: Fault, at: &FaultContext) -> Response {
    match at.path.starts_with("/manage/") {
        true => portolan_api_manage::shape_fault(fault, at),
        false => PlainFaults.shape(fault, at),
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(state): State<Management>) -> Response {
    match state.unready().await {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn metrics(State(state): State<Management>) -> Response {
    // Counters are worth having when the database is away, too.
    match timeout(PATIENCE, state.refresh()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "metrics are of an earlier moment"),
        Err(_) => tracing::warn!("metrics are of an earlier moment: the database does not answer"),
    }
    let ready = state.unready().await.is_none();
    match state.metrics.text(ready) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn openapi_vplus() -> Response {
    document(portolan_api_vplus::document().to_json())
}

async fn openapi_orchestrator() -> Response {
    document(portolan_api_orchestrator::document().to_json())
}

async fn openapi_manage() -> Response {
    document(portolan_api_manage::document().to_json())
}

fn document(text: serde_json::Result<String>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
