//! A running server: listeners, engine, housekeeping.

use crate::admin::{self, FirstPassword};
use crate::config::{Config, Surroundings};
use crate::core::Core;
use crate::data_dir::DataDir;
use crate::declared;
use crate::destinations::{self, Opened};
use crate::error::{Failure, OneLine};
use crate::housekeeping::Housekeeping;
use crate::listeners::{self, Identities, Listeners};
use crate::management::{self, Management, Readiness};
use crate::metrics::Metrics;
use crate::platforms;
use crate::replays;
use axum::Router;
use portolan_api_orchestrator::{HostCheck, OrchestratorOptions};
use portolan_api_vplus::VplusOptions;
use portolan_http::idempotency::Identify;
use portolan_http::{BoundListener, Edge, HttpMetrics, Idempotency, TlsIdentityHandle};
use portolan_model::{Caller, NodeId, PlatformId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often running tasks show their progress and hear of a wish to cancel: what a person who waits finds prompt.
const BEAT: Duration = Duration::from_secs(2);

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// The password of the first account, where one is given.
    pub admin_password: Option<String>,
    /// Whether a generated password can be shown; it is written to a file otherwise.
    pub on_terminal: bool,
    /// Whether somebody wants to do something before the server counts as ready.
    pub hold_ready: bool,
}

/// A server that answers.
pub struct Server {
    /// Storage and use cases.
    pub core: Core,
    /// Whether it is ready.
    pub readiness: Arc<Readiness>,
    /// Where the vPlus API answers; nothing when it is off.
    pub vplus: Option<String>,
    /// Where the Orchestrator API answers; nothing when it is off.
    pub orchestrator: Option<String>,
    /// Where management, health and metrics answer; nothing when they are off.
    pub management: Option<String>,
    /// The certificates of the listeners that speak TLS.
    pub identities: Identities,
    /// What became of the first account's password.
    pub first_password: FirstPassword,
    /// The destinations that are open.
    pub destinations: Vec<Opened>,
    /// Whether backups without a destination go to the data directory.
    pub built_in_default: bool,
    data: DataDir,
    stop: CancellationToken,
    running: JoinSet<&'static str>,
}

impl Server {
    /// Starts a server. Addresses are tried before anything is made: a port in use costs nothing.
    ///
    /// # Errors
    /// Every one says what to do where that is known. Nothing goes on running after one.
    pub async fn start(config: &Config, around: &Surroundings, start: Start) -> Result<Self, Failure> {
        let (data, ids, listeners) = listeners::take(config).await?;
        let core = Core::open(config, &data, around).await?;
        let node = data.node_id(&*ids)?;
        declared::tenants(&core, config).await?;
        if declared::has_administrator(config) {
            declared::accounts(&core, config).await?;
        }
        let first_password = admin::ensure(&core, &data, start.admin_password.as_deref(), start.on_terminal).await?;
        declared::accounts(&core, config).await?;
        let platforms = platforms::register(&core, config).await?;
        let mut plans = destinations::planned(config, &data);
        destinations::heed_default(&core, config, &mut plans).await?;
        let mut opened = Vec::new();
        for plan in &plans {
            match destinations::open(&core, &data, plan).await {
                Ok(open) => opened.push(open),
                // Everything else is worth having without it.
                Err(e) => {
                    let hint = e.hint.as_deref().unwrap_or_default();
                    let (name, error) = (&plan.name, OneLine(&e));
                    tracing::error!(destination = %name, %error, hint, "a destination is out of reach");
                }
            }
        }
        if let Some(plan) = plans.iter().find(|p| p.default) {
            destinations::settle_default(&core, &plan.name).await;
        }
        platforms::open_registered(&core, config, &plans).await?;
        let readiness = Arc::new(Readiness::default());
        readiness.held.store(start.hold_ready, Ordering::SeqCst);
        let mut server = Self {
            vplus: listeners.url("vplus"),
            orchestrator: listeners.url("orchestrator"),
            management: listeners.url("management"),
            identities: listeners.identities.clone(),
            built_in_default: plans.iter().any(|p| p.default && p.path == data.join("repository")),
            core,
            readiness,
            first_password,
            destinations: opened,
            data,
            stop: CancellationToken::new(),
            running: JoinSet::new(),
        };
        server.run(config, listeners, node)?;
        server.first_sync(&platforms).await;
        Ok(server)
    }

    fn run(&mut self, config: &Config, mut listeners: Listeners, node: NodeId) -> Result<(), Failure> {
        let name = node_name(config);
        // Unique among all that share the database, also when two hosts have one name.
        let worker = format!("{name}/{node}");
        let engine = self
            .core
            .portolan
            .engine(&worker)
            .concurrency(config.task_concurrency)
            .lease(config.task_lease)
            .beat_every(BEAT.min(config.task_lease / 3))
            .retention(config.task_history)
            .grace(config.shutdown_grace)
            .build();
        let metrics = Metrics::new(engine.stats());
        self.core.portolan.operates(engine.drain_switch());
        let stop = self.stop.clone();
        let readiness = Arc::clone(&self.readiness);
        self.running.spawn(async move {
            readiness.engine.store(true, Ordering::SeqCst);
            engine.run(stop).await;
            readiness.engine.store(false, Ordering::SeqCst);
            "the task engine"
        });
        let housekeeping = Housekeeping::new(self.core.clone(), config, node, name, self.data.path());
        let stop = self.stop.clone();
        self.running.spawn(async move {
            housekeeping.run(stop).await;
            "housekeeping"
        });
        let counted: Arc<dyn HttpMetrics> = Arc::new(metrics.clone());
        let edge = |name: &str| Edge::new(name, self.core.ids.clone()).metrics(Some(Arc::clone(&counted))).nosniff();
        let at_work = TaskTracker::new();
        let replays = replays::kept(self.core.portolan.access.replays.clone());
        let idempotency = |dialect: &str, senders: Arc<dyn Identify>| {
            Idempotency::new(dialect, Arc::clone(&replays), senders).tracked(at_work.clone())
        };
        let mut serve = Vec::new();
        if let Some(bound) = listeners.remove("vplus") {
            let options = VplusOptions::new(config.vplus.tls, &config.vplus_origins)
                .map_err(|e| Failure::usage("listeners.vplus.origins cannot be used").because(e))?;
            let edge = edge("vplus").faults(portolan_api_vplus::shape_fault).cors(options.cors.clone());
            let portolan = Arc::clone(&self.core.portolan);
            let once = idempotency("vplus", portolan_api_vplus::senders(Arc::clone(&portolan), options.clone()));
            serve.push((bound, edge.wrap(once.wrap(portolan_api_vplus::router(portolan, options)))));
        }
        if let Some(bound) = listeners.remove("orchestrator") {
            let options = orchestrator(config, &self.core, &bound);
            let edge = options.edge(edge("orchestrator"));
            let portolan = Arc::clone(&self.core.portolan);
            let senders = portolan_api_orchestrator::senders(Arc::clone(&portolan), options.clone());
            let once = idempotency("orchestrator", senders);
            serve.push((bound, edge.wrap(portolan_api_orchestrator::router_once(portolan, options, once))));
        }
        if let Some(bound) = listeners.remove("management") {
            let shown = Management { core: self.core.clone(), readiness: Arc::clone(&self.readiness), metrics };
            let edge = edge("management").faults(management::shape_fault);
            let once = |senders| idempotency("manage", senders);
            let operators = management::operators(&self.core, &worker, once);
            serve.push((bound, edge.wrap(shown.router().merge(operators))));
        }
        for (bound, router) in serve {
            self.serve(bound, router, config.shutdown_grace);
        }
        self.wait_for_work(at_work, config.shutdown_grace);
        Ok(())
    }

    /// Requests that go on though their clients have hung up have the grace, too.
    fn wait_for_work(&mut self, at_work: TaskTracker, grace: Duration) {
        let stop = self.stop.clone();
        self.running.spawn(async move {
            stop.cancelled().await;
            at_work.close();
            if tokio::time::timeout(grace, at_work.wait()).await.is_err() {
                tracing::warn!(left = at_work.len(), "requests are cut off");
            }
            "the work on requests"
        });
    }

    fn serve(&mut self, bound: BoundListener, router: Router, grace: Duration) {
        let stop = self.stop.clone();
        tracing::info!(listener = bound.name(), url = bound.url(), "listening");
        self.running.spawn(async move {
            bound.serve(router, stop, grace).await;
            "a listener"
        });
    }

    /// Asks for the first listing of every platform. One that cannot be asked for does not keep the server down:
    /// housekeeping asks again.
    async fn first_sync(&self, platforms: &[PlatformId]) {
        if !platforms.is_empty()
            && let Err(error) = self.core.portolan.inventory.request_sync(&Caller::system(), platforms).await
        {
            tracing::warn!(error = %OneLine(&error), "the platforms could not be asked for yet");
        }
        self.readiness.synced.store(true, Ordering::SeqCst);
    }

    /// The certificate of the listener of that name; nothing when it is off or speaks plain HTTP.
    pub fn certificate(&self, listener: &str) -> Option<&TlsIdentityHandle> {
        self.identities.iter().find(|(name, _)| *name == listener).map(|(_, tls)| tls)
    }

    /// The data directory.
    pub fn data(&self) -> &DataDir {
        &self.data
    }

    /// Waits until something that should run for ever has ended, and says what.
    pub async fn failed(&mut self) -> &'static str {
        match self.running.join_next().await {
            Some(Ok(what)) => what,
            Some(Err(_)) => "a part of the server, by a panic,",
            None => "everything",
        }
    }

    /// Stops: no new connections and no new tasks; requests and tasks that are under way have their grace. Then the
    /// database is closed and the data directory let go.
    pub async fn stop(mut self) {
        self.readiness.stopping.store(true, Ordering::SeqCst);
        self.stop.cancel();
        while self.running.join_next().await.is_some() {}
        self.core.storage.close().await;
    }
}

/// How the Orchestrator API is served.
fn orchestrator(config: &Config, core: &Core, bound: &BoundListener) -> OrchestratorOptions {
    let own = &config.orchestrator;
    let hosts = HostCheck::new(&bound.local_addrs(), &own.hosts);
    // Derived, so that every process that serves the dialect knows every other's sessions.
    let cookie_key = core.vault.hash_key("orchestrator session cookie");
    OrchestratorOptions {
        default_cloud: Some(own.default_cloud.clone()),
        open: own.open,
        auth_required: own.auth,
        within: own.wait,
        release_delay: config.release_delay,
        release_within: own.wait,
        secure: config.orchestrator_listener.tls,
        ..OrchestratorOptions::new(hosts, *cookie_key)
    }
}

/// What this process calls itself.
fn node_name(config: &Config) -> String {
    let name = config.node_name.clone().or_else(portolan_http::tls::host_name);
    name.unwrap_or_else(|| "portolan".into())
}
