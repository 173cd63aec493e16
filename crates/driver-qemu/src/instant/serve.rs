//! Serving a backup to the guest that runs from it.

use super::Claim;
use crate::guest::{Guest, GuestState};
use crate::layout::BACKUP;
use crate::qmp::QmpError;
use portolan_driver::{DriverError, InstantDisk};
use portolan_nbd::{Export, NbdError, Server, ServerOptions, SourceDevice};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How long clients may take to go.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How often a guest that stands still because of its disks is let go on.
const AGAIN: Duration = Duration::from_millis(500);

/// The sources of a guest's disks, served on a socket in its directory. The socket is reached by way of the open
/// directory that the guest holds, so the guest goes last.
pub(crate) struct Serving {
    server: Server,
    keeper: JoinHandle<()>,
    guest: Arc<Guest>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Serving {
    async fn begin(guest: &Arc<Guest>, disks: &[InstantDisk]) -> Result<Self, DriverError> {
        let refused = |error: NbdError| DriverError::Conflict(format!("the backup cannot be served: {error}"));
        let server = Server::new(ServerOptions::default());
        for (disk, known) in disks.iter().zip(guest.spec().disks) {
            let device = Arc::new(SourceDevice::new(disk.source.clone()));
            server.add(Export::new(known.id, device)).map_err(refused)?;
        }
        server.listen_unix(&guest.socket(BACKUP)).await.map_err(refused)?;
        let keeper = tokio::spawn(keep(Arc::downgrade(guest)));
        Ok(Self { server, keeper, guest: guest.clone() })
    }

    /// Serves no more.
    pub(crate) async fn stop(&self) {
        self.keeper.abort();
        self.server.stop(STOP_LIMIT).await;
        tracing::debug!(guest = self.guest.id(), "a backup is served no more");
    }
}

/// Lets the guest go on whenever it stands still because a disk could not be read: the backup is here, and may be to
/// be had again.
async fn keep(guest: std::sync::Weak<Guest>) {
    loop {
        let Some(mut seen) = guest.upgrade().map(|guest| guest.observe()) else { return };
        if seen.wait_for(|seen| seen.state == GuestState::Paused).await.is_err() {
            return;
        }
        if let Some(guest) = guest.upgrade()
            && let Err(error) = go_on(&guest).await
        {
            tracing::debug!(guest = guest.id(), %error, "a guest could not be let go on");
        }
        sleep(AGAIN).await;
    }
}

async fn go_on(guest: &Guest) -> Result<(), QmpError> {
    // The one that lost its monitor gets it back by itself.
    let Ok(qmp) = guest.qmp() else { return Ok(()) };
    if qmp.query_status().await?.status == "io-error" {
        qmp.cont().await?;
    }
    Ok(())
}

impl Guest {
    /// Serves these disks to the guest. Whoever did it before does no more, and whoever is older than the newest does
    /// not begin: attempts come one after the other here, and not in the order of their fences.
    pub(super) async fn serve(
        self: &Arc<Self>,
        claim: &Claim,
        disks: &[InstantDisk],
    ) -> Result<Arc<Serving>, DriverError> {
        let mut known = self.serving.lock().await;
        self.is_held_by(claim)?;
        if let Some(before) = known.upgrade() {
            before.stop().await;
        }
        let serving = Arc::new(Serving::begin(self, disks).await?);
        *known = Arc::downgrade(&serving);
        Ok(serving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;
    use crate::spec::InstantSpec;
    use portolan_block::MemorySource;

    #[tokio::test]
    async fn an_older_attempt_does_not_take_from_a_newer_one() {
        let fixture = Fixture::new().await;
        let guest = fixture
            .guest(|spec| {
                spec.instant = Some(InstantSpec { fence: 5, isolated: false, remote: vec!["d0".into()] });
            })
            .await;
        let disks = [InstantDisk { name: "root".into(), source: Arc::new(MemorySource::new(vec![7; 512])) }];
        let claim = |fence| Claim { incarnation: guest.spec().incarnation, fence };
        let serving = guest.serve(&claim(5), &disks).await.unwrap();
        // It asked earlier, and comes later.
        let late = guest.serve(&claim(4), &disks).await.err();
        assert!(matches!(late, Some(DriverError::Fenced)), "{late:?}");
        assert!(guest.serving.lock().await.upgrade().is_some_and(|now| Arc::ptr_eq(&now, &serving)));
        assert!(guest.dir().join(BACKUP).exists(), "it is served still");
        let other = Claim { incarnation: "another".into(), fence: 9 };
        let gone = guest.serve(&other, &disks).await.err();
        assert!(matches!(gone, Some(DriverError::NotFound { .. })), "{gone:?}");
    }
}
