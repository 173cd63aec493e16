//! `portolan serve`: start, announce, wait for signals, stop.

use crate::admin::{self, FirstPassword};
use crate::config::{Config, Surroundings};
use crate::error::{Failure, OneLine, OrFail};
use crate::output;
use crate::server::{Server, Start};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs the server until a signal stops it.
///
/// # Errors
/// What keeps it from starting, or what ended it.
pub async fn run(config: &Config, around: &Surroundings) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let start = Start {
        admin_password: around.get(admin::VARIABLE).map(str::to_owned),
        on_terminal: output::on_terminal(),
        hold_ready: false,
    };
    let server = tokio::select! {
        started = Server::start(config, around, start) => started?,
        // Whatever was being made is made so that a crash may come at any point.
        _ = signals.stop() => return Ok(()),
    };
    announce(&server).await?;
    notify(&[NotifyState::Ready]);
    wait(server, signals).await
}

/// Serves until a signal says stop, then stops; a second signal ends the process at once.
///
/// # Errors
/// When a part of the server ended by itself.
pub async fn wait(mut server: Server, mut signals: Signals) -> Result<(), Failure> {
    let failed = loop {
        tokio::select! {
            what = server.failed() => break Some(what),
            heard = signals.next() => match heard {
                Heard::Stop(signal) => {
                    tracing::info!(signal, "stopping; a second signal ends the process at once");
                    break None;
                }
                Heard::Reload => reload(&server),
            },
        }
    };
    notify(&[NotifyState::Stopping]);
    tokio::select! {
        () = server.stop() => {}
        name = signals.stop() => {
            tracing::warn!(signal = name, "stopped at once");
            return Err(Failure::new("the stop was cut short by a second signal"));
        }
    }
    match failed {
        None => Ok(()),
        Some(what) => Err(Failure::new(format!("{what} has ended by itself, and the server with it"))),
    }
}

/// What a signal wants.
enum Heard {
    Stop(&'static str),
    Reload,
}

/// The signals that a server listens to.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).or_fail(|| "signals cannot be listened to".into());
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for a wish to stop; its name.
    pub async fn stop(&mut self) -> &'static str {
        loop {
            if let Heard::Stop(name) = self.next().await {
                return name;
            }
        }
    }

    async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.terminate.recv() => Heard::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Heard::Stop("SIGINT"),
            _ = self.hang_up.recv() => Heard::Reload,
        }
    }
}

/// Loads every certificate anew; one that cannot be loaded stays in use as it was.
fn reload(server: &Server) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
    if server.identities.is_empty() {
        tracing::info!("there is no certificate to load");
    }
    for (listener, tls) in &server.identities {
        if let Err(error) = tls.reload() {
            let error = OneLine(&error);
            tracing::error!(listener, %error, "the certificate could not be loaded, the old one stays");
        }
    }
    notify(&[NotifyState::Ready]);
}

/// Tells the service manager, if there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// Says where everything is, and what its owner must know.
async fn announce(server: &Server) -> Result<(), Failure> {
    let data = server.data().path().display();
    output::line(format!("portolan {} serves from {data}", env!("CARGO_PKG_VERSION")));
    if let Some(url) = &server.vplus {
        output::line(format!("  vPlus API    {url}/api"));
    }
    if let Some(url) = &server.orchestrator {
        output::line(format!("  Orchestrator {url}/api/v1"));
    }
    for (listener, tls) in &server.identities {
        let info = tls.info();
        output::line(format!("  certificate  {} of {listener} (SHA-256 {})", info.cert.display(), info.fingerprint));
    }
    if let Some(url) = &server.management {
        output::line(format!("  management   {url}/healthz /readyz /metrics"));
    }
    match &server.first_password {
        FirstPassword::Known => {}
        FirstPassword::Written(file) => {
            output::line(format!(
                "  login        admin, password in {}: read it, then remove the file",
                file.display()
            ));
        }
        FirstPassword::Show { login, password } => {
            output::line(format!("  login        {login}, password {} (shown this once)", password.reveal()));
            let told = server.core.portolan.access.accounts.first_password_delivered().await;
            told.or_fail(|| "the database failed".into())?;
        }
    }
    for destination in &server.destinations {
        if let Some(file) = &destination.recovery_file {
            output::line(format!(
                "  recovery key of the repository '{}': {}\n               keep it elsewhere, then remove the file: \
                 without it, losing this data directory means losing the backups",
                destination.name,
                file.display()
            ));
        }
    }
    if server.built_in_default {
        tracing::warn!(
            "backups go to the data directory: on the same disk as the server they are no backups; \
             configure destination.NAME.path on another one"
        );
    }
    Ok(())
}
