//! The Orchestrator dialect: nodes, images and sizes of clouds, starting and stopping, assigning and releasing, to the
//! byte as its published clients expect them.
//!
//! Sections named in comments are those of `docs/dialect-orchestrator.md`. A handler extracts, authenticates, makes one
//! use-case call and maps; how bodies are read is in `input`, how answers are laid out in `wire::format`, and what holds
//! for every answer (cookie, host, errors in words) in `surround`.

mod access;
mod cookie;
mod error;
mod handlers;
mod host;
mod input;
mod openapi;
mod options;
mod surround;
mod wire;

pub use error::shape_fault;
pub use host::HostCheck;
pub use openapi::document;
pub use options::OrchestratorOptions;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, any, get};
use cookie::Cookies;
use handlers::{actions, listings, nodes, plain, probes, sessions};
use portolan::Portolan;
use portolan_http::Idempotency;
use portolan_http::idempotency::Identify;
use std::sync::Arc;
use wire::rendered::Rendered;

/// What every handler has.
#[derive(Clone)]
pub(crate) struct Orchestrator {
    pub(crate) portolan: Arc<Portolan>,
    pub(crate) options: Arc<OrchestratorOptions>,
    pub(crate) cookies: Cookies,
    /// The lists that were answered last.
    pub(crate) rendered: Arc<Rendered>,
}

/// The dialect under `/api/v1`, with the little that the original served beside it.
pub fn router(portolan: Arc<Portolan>, options: OrchestratorOptions) -> Router {
    let state = Orchestrator::new(portolan, options);
    surrounded(state.clone(), handled(state))
}

/// The same with `once` between the handlers and what surrounds them: kept answers hold no cookie, and requests that
/// are meant for others are refused before anything is kept. In place of `once.wrap(router(…))`.
pub fn router_once(portolan: Arc<Portolan>, options: OrchestratorOptions, once: Idempotency) -> Router {
    let state = Orchestrator::new(portolan, options);
    surrounded(state.clone(), once.wrap(handled(state)))
}

/// Tells who sends a request with an `Idempotency-Key`.
pub fn senders(portolan: Arc<Portolan>, options: OrchestratorOptions) -> Arc<dyn Identify> {
    Arc::new(access::Senders(Orchestrator::new(portolan, options)))
}

impl Orchestrator {
    fn new(portolan: Arc<Portolan>, options: OrchestratorOptions) -> Self {
        let cookies = Cookies::new(&options.cookie_key, options.secure);
        Self { portolan, options: Arc::new(options), cookies, rendered: Arc::default() }
    }
}

/// The handlers, their errors in words.
fn handled(state: Orchestrator) -> Router {
    let mut router = Router::new();
    for (path, view) in table().into_iter().chain(stubs()) {
        router = router.route(&format!("/api/v1{path}"), view);
    }
    for (path, view) in beside() {
        router = router.route(path, view);
    }
    router.fallback(plain::page_not_found).layer(from_fn(surround::words)).with_state(state)
}

fn surrounded(state: Orchestrator, router: Router) -> Router {
    router.layer(from_fn_with_state(state, surround::surround))
}

/// A view that knows these methods, and says of the others what every view says (section 6.1).
fn view(known: MethodRouter<Orchestrator>) -> MethodRouter<Orchestrator> {
    known.fallback(plain::not_implemented)
}

/// Every path below `/api/v1` that does something; the OpenAPI document lists them.
fn table() -> Vec<(&'static str, MethodRouter<Orchestrator>)> {
    // One view starts and stops, under either name; the method decides.
    let run = || view(get(plain::dev).post(nodes::start).put(nodes::stop));
    let sizes = || view(get(listings::sizes));
    let assign = || view(get(plain::dev).put(actions::assign));
    let release = || view(get(plain::dev).put(actions::release));
    vec![
        ("/", view(get(probes::home).post(probes::echo))),
        ("/cloud", view(get(listings::clouds))),
        ("/nodes", view(get(listings::nodes))),
        ("/nodes/{cloud}", view(get(listings::nodes))),
        ("/images", view(get(listings::images))),
        ("/images/{cloud}", view(get(listings::images))),
        ("/sizes", sizes()),
        ("/sizes/{cloud}", sizes()),
        ("/flavors", sizes()),
        ("/flavors/{cloud}", sizes()),
        ("/tenants", view(get(listings::tenants))),
        ("/tenants/{cloud}", view(get(listings::tenants))),
        ("/vm/start", run()),
        ("/vm/start/{cloud}", run()),
        ("/vm/stop", run()),
        ("/vm/stop/{cloud}", run()),
        ("/vm/action/assign", assign()),
        ("/vm/action/assign/{cloud}", assign()),
        ("/vm/action/release", release()),
        ("/vm/action/release/{cloud}", release()),
        ("/vm/status", view(get(actions::status))),
        ("/vm/status/{cloud}", view(get(actions::status))),
        ("/auth", view(get(plain::dev).post(sessions::login))),
        ("/auth/logout", view(get(sessions::logout).post(sessions::logout))),
        ("/test/start", view(get(plain::dev).put(probes::probe))),
        ("/test/{user}/kill", get(probes::kill_page).put(probes::kill).fallback(probes::kill_otherwise)),
    ]
}

/// Paths below `/api/v1` that have an answer and do nothing.
fn stubs() -> Vec<(&'static str, MethodRouter<Orchestrator>)> {
    vec![
        ("/{action}", view(get(listings::unrecognized))),
        ("/{action}/{cloud}", view(get(listings::unrecognized))),
        ("/vm/action/{action}", view(get(plain::dev))),
        ("/vm/action/{action}/{cloud}", view(get(plain::dev))),
        ("/fw/open", any(plain::not_implemented)),
        ("/fw/close", any(plain::not_implemented)),
        ("/auth/login", view(get(plain::login_page).post(sessions::login))),
    ]
}

/// What is served beside `/api/v1`.
fn beside() -> Vec<(&'static str, MethodRouter<Orchestrator>)> {
    let mut beside = vec![
        ("/", view(get(plain::hello))),
        ("/api/v1", any(plain::with_slash)),
        ("/api/v2", any(plain::with_slash)),
        ("/api/v2/", view(get(plain::dev))),
        ("/api/v2/{action}", view(get(listings::unrecognized))),
        ("/api/v2/{action}/{cloud}", view(get(listings::unrecognized))),
        ("/static/docs/", view(get(plain::docs))),
        ("/static/docs/index.html", view(get(plain::docs))),
        ("/static/docs/openapi.json", view(get(plain::openapi))),
    ];
    for (one, of) in [
        ("/api/v2/nodes", "/api/v2/nodes/{cloud}"),
        ("/api/v2/images", "/api/v2/images/{cloud}"),
        ("/api/v2/sizes", "/api/v2/sizes/{cloud}"),
        ("/api/v2/flavors", "/api/v2/flavors/{cloud}"),
        ("/api/v2/tenants", "/api/v2/tenants/{cloud}"),
    ] {
        let list = || match one {
            "/api/v2/nodes" => view(get(listings::nodes)),
            "/api/v2/images" => view(get(listings::images)),
            "/api/v2/tenants" => view(get(listings::tenants)),
            _ => view(get(listings::sizes)),
        };
        beside.extend([(one, list()), (of, list())]);
    }
    beside
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
