//! Work on the disks of a guest that is off, which gives way when the guest is to run.

use super::{Guest, GuestState};
use crate::QemuError;
use portolan_driver::DriverError;
use std::time::Duration;
use tokio::time::sleep;

/// How often it is looked whether somebody newer has taken over.
const POLL: Duration = Duration::from_millis(500);

/// Why the work ends early.
pub(crate) enum Disturbed {
    /// The guest is to run.
    Started,
    /// It is not this attempt's any more.
    Lost(DriverError),
}

impl Guest {
    /// That no QEMU which nobody knows of runs on the disks of a guest that is off.
    pub(crate) async fn has_no_process(&self) -> Result<(), QemuError> {
        if self.find_process().await?.is_none() {
            return Ok(());
        }
        Err(QemuError::Conflict(format!("QEMU of the guest '{}' runs, and is not known yet", self.id())))
    }

    /// Ends when the guest is to be started, is destroyed, or is held by somebody else.
    pub(crate) async fn is_disturbed(&self, is_held: impl Fn() -> Result<(), DriverError>) -> Disturbed {
        let (ending, mut seen) = (self.ending(), self.observe());
        let newer = async {
            loop {
                match is_held() {
                    Ok(()) => sleep(POLL).await,
                    Err(error) => return error,
                }
            }
        };
        let gone = || DriverError::from(QemuError::NotFound { what: "guest", id: self.id().to_owned() });
        tokio::select! {
            () = ending.cancelled() => Disturbed::Lost(gone()),
            _ = seen.wait_for(|seen| seen.state != GuestState::Stopped) => Disturbed::Started,
            error = newer => Disturbed::Lost(error),
        }
    }
}
