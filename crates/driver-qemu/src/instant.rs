//! Guests that run from a backup: a disk is a layer in the datastore over an NBD export that Portolan serves.
//!
//! The guest's document says which disks still are. It is the only truth of that: QEMU's header of a disk changes
//! when the data is there, and not yet durable. A disk that lies over its backup once more than it had to reads the
//! same; one that does so too rarely would read zeros.

mod home;
mod plan;
mod ready;
mod resting;
mod serve;

pub(crate) use serve::Serving;

use crate::QemuError;
use crate::guest::{Guest, GuestState, blocking};
use crate::host::{QemuHost, Seen};
use crate::hypervisor::{machine, power};
use async_trait::async_trait;
use portolan_driver::{DriverError, HomeObserver, InstantRequest, InstantSession, NativeVm, Readiness, Ready};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long the monitor of a guest that was found may take to answer, and how often it is looked.
const MONITOR_LIMIT: Duration = Duration::from_secs(60);
const MONITOR_POLL: Duration = Duration::from_millis(20);
/// How long the end of a guest whose monitor ended may take to be noticed.
const REST_LIMIT: Duration = Duration::from_secs(10);
/// How often a guest is started that does not stay.
const MOST_STARTS: u32 = 2;

/// What tokens of guests out of backups begin with: clouds have tokens of their own.
const TOKEN: &str = "instant:";

impl QemuHost {
    /// Makes a guest that runs from a backup, or goes on with it.
    pub(crate) async fn begin_instant(self: &Arc<Self>, wish: InstantRequest) -> Result<Session, DriverError> {
        let host = self.clone();
        self.shared.detached(async move { host.begin_instant_now(wish).await }).await
    }

    async fn begin_instant_now(self: &Arc<Self>, wish: InstantRequest) -> Result<Session, DriverError> {
        plan::check(&wish)?;
        let mut known = self.of_instant(&wish.token).await?;
        if let Some((guest, incarnation)) = &known {
            admit(guest, wish.fence).await?;
            // A trial is made anew: of one that was cut off nobody knows what it saw.
            if wish.isolated || guest.spec().is_hidden() {
                self.destroy_instant(guest, incarnation).await?;
                known = None;
            } else {
                plan::is_the_same(&guest.spec(), &wish)?;
            }
        }
        let (guest, incarnation) = match known {
            Some(known) => known,
            None => self.make_instant(&wish).await?,
        };
        // From here on the session ends what it must when this fails.
        let mut session = Session {
            serving: None,
            guest: guest.clone(),
            host: self.clone(),
            claim: Claim { incarnation, fence: wish.fence },
            isolated: wish.isolated,
            begun: Instant::now(),
        };
        if !guest.spec().is_remote_at_all() {
            return Ok(session);
        }
        session.serving = Some(guest.serve(&session.claim, &wish.disks).await?);
        comes_up(&guest).await?;
        Ok(session)
    }

    async fn make_instant(self: &Arc<Self>, wish: &InstantRequest) -> Result<(Arc<Guest>, String), DriverError> {
        let _turn = self.turn.lock().await;
        let layout = self.shared.layout.clone();
        let (_lock, stores) = blocking(move || Ok((layout.lock()?, layout.datastore_names()?))).await?;
        let all = self.look(false).await?;
        let spec = self.plan_instant(wish, &all, &stores)?;
        let incarnation = spec.incarnation.clone();
        Ok((self.write_down(spec, None).await?, incarnation))
    }

    /// The guest of that token, which must be one of our own, and its incarnation: another one may take its place.
    async fn of_instant(self: &Arc<Self>, token: &str) -> Result<Option<(Arc<Guest>, String)>, DriverError> {
        let host = self.clone();
        let look = async move {
            let _turn = host.turn.lock().await;
            host.look(false).await
        };
        let all = self.shared.detached(look).await?;
        let token = format!("{TOKEN}{token}");
        let of_token = |seen: Seen| seen.spec().filter(|spec| spec.token == token).map(|spec| (seen, spec));
        match all.into_iter().find_map(of_token) {
            Some((Seen::Own(guest), spec)) => Ok(Some((guest, spec.incarnation))),
            Some((Seen::Elsewhere(spec, _), _)) => Err(QemuError::Elsewhere(spec.id).into()),
            _ => Ok(None),
        }
    }

    async fn destroy_instant(self: &Arc<Self>, guest: &Arc<Guest>, incarnation: &str) -> Result<(), DriverError> {
        match self.destroy(guest.id(), incarnation).await {
            Ok(()) | Err(QemuError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Destroys the guest of that token, unless it stands alone.
    pub(crate) async fn abandon_instant(self: &Arc<Self>, token: &str, fence: i64) -> Result<(), DriverError> {
        let Some((guest, incarnation)) = self.of_instant(token).await? else { return Ok(()) };
        admit(&guest, fence).await?;
        if guest.spec().is_remote_at_all() { self.destroy_instant(&guest, &incarnation).await } else { Ok(()) }
    }
}

/// Starts the guest where that is to be done, and waits until it runs and its monitor answers. One that was found half
/// started may wait for its backup, and may have given up by now.
async fn comes_up(guest: &Arc<Guest>) -> Result<(), QemuError> {
    use GuestState::{Failed, Pending, Rebooting, Running, Starting, Stopped, Stopping};
    let until = Instant::now() + MONITOR_LIMIT;
    let mut starts = 0;
    loop {
        match guest.observed().state {
            // Just made.
            Pending if starts == 0 => {
                starts += 1;
                guest.begin();
                guest.comes_out_of(&[Pending, Starting]).await?;
            }
            Stopped | Failed if starts == MOST_STARTS => return guest.runs().await,
            Stopped | Failed => {
                starts += 1;
                guest.start().await?;
            }
            Pending | Starting | Stopping => guest.comes_out_of(&[Pending, Starting, Stopping]).await?,
            Running | Rebooting | GuestState::Paused => match guest.qmp() {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => tokio::time::sleep(MONITOR_POLL).await,
            },
        }
    }
}

/// Lets in whoever has the newest fence, and nobody older from then on.
async fn admit(guest: &Arc<Guest>, fence: i64) -> Result<(), DriverError> {
    match guest.spec().instant {
        Some(instant) if instant.fence > fence => Err(DriverError::Fenced),
        Some(instant) if instant.fence == fence => Ok(()),
        _ => {
            let newest = |spec: &mut crate::GuestSpec| {
                spec.instant.iter_mut().for_each(|instant| instant.fence = instant.fence.max(fence));
            };
            Ok(guest.change(newest).await?)
        }
    }
}

/// What a session holds: the guest as it was made for it, for as long as nobody newer asks for that.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    incarnation: String,
    fence: i64,
}

impl Guest {
    /// Whether nobody newer has taken over, and the guest is there still: not destroyed, and not replaced by a restore.
    fn is_held_by(&self, claim: &Claim) -> Result<(), DriverError> {
        let spec = self.spec();
        if spec.phase == crate::Phase::Deleting || spec.incarnation != claim.incarnation {
            return Err(QemuError::NotFound { what: "guest", id: spec.id }.into());
        }
        match spec.instant {
            Some(instant) if instant.fence > claim.fence => Err(DriverError::Fenced),
            _ => Ok(()),
        }
    }
}

/// A guest that runs from a backup, and the backup being served to it.
pub(crate) struct Session {
    /// Nothing when the guest stands alone.
    serving: Option<Arc<Serving>>,
    guest: Arc<Guest>,
    host: Arc<QemuHost>,
    claim: Claim,
    isolated: bool,
    begun: Instant,
}

impl Session {
    /// Brings the data home while the guest runs, and while it is off: whoever turns it on or off need not wait.
    async fn comes_home(&self, observer: &HomeObserver<'_>) -> Result<(), DriverError> {
        let guest = &self.guest;
        loop {
            if guest.comes_home_resting(&self.claim, observer).await? {
                return Ok(());
            }
            guest.comes_out_of(&[GuestState::Pending, GuestState::Starting]).await?;
            let Err(error) = guest.bring_home(&self.claim, observer).await else { return Ok(()) };
            // Its monitor ends with it: it was turned off, or is not to be had.
            let mut seen = guest.observe();
            let rests = timeout(REST_LIMIT, seen.wait_for(|seen| seen.state == GuestState::Stopped));
            if guest.qmp().is_ok() || !matches!(rests.await, Ok(Ok(_))) {
                return Err(error);
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.isolated {
            return;
        }
        // A trial is of use to nobody else. Its disks are served until it is gone, so that QEMU ends in peace.
        let (host, guest, serving) = (self.host.clone(), self.guest.clone(), self.serving.take());
        let incarnation = self.claim.incarnation.clone();
        let work = async move {
            if let Err(error) = host.destroy_instant(&guest, &incarnation).await {
                tracing::warn!(guest = guest.id(), error = &error as &dyn std::error::Error, "a trial is left");
            }
            drop(serving);
        };
        // Without a runtime there is nobody to do it: the next Portolan does.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(work);
        }
    }
}

#[async_trait]
impl InstantSession for Session {
    fn vm(&self) -> NativeVm {
        machine(&self.guest.spec(), power(self.guest.observed().state), &self.guest.addresses())
    }

    async fn bring_home(&self, observer: &HomeObserver<'_>) -> Result<NativeVm, DriverError> {
        self.guest.is_held_by(&self.claim)?;
        if self.isolated {
            return Err(DriverError::Conflict("a trial has no home".into()));
        }
        if let Some(serving) = &self.serving {
            self.comes_home(observer).await?;
            serving.stop().await;
        }
        Ok(self.vm())
    }

    async fn ready(&self, within: Duration, sign: Ready) -> Result<Readiness, DriverError> {
        self.guest.is_held_by(&self.claim)?;
        self.guest.becomes_ready(self.begun, within, &sign).await
    }

    async fn abort(&self) -> Result<(), DriverError> {
        let there = match self.guest.is_held_by(&self.claim) {
            Err(DriverError::NotFound { .. }) => false,
            held => held.map(|()| true)?,
        };
        if there && self.guest.spec().is_remote_at_all() {
            self.host.destroy_instant(&self.guest, &self.claim.incarnation).await?;
        }
        if let Some(serving) = &self.serving {
            serving.stop().await;
        }
        Ok(())
    }
}
