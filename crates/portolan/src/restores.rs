//! Restores that name only a host.

use crate::facade::{Portolan, as_protect};
use portolan_model::*;
use portolan_protect::{ProtectError, RestoreRequest};
use portolan_tasks::Task;

impl Portolan {
    /// Asks for a restore. One that names a host and no platform goes to the host's platform.
    pub async fn restore(
        &self,
        caller: &Caller,
        mut request: RestoreRequest,
    ) -> Result<(Task, RestoreJob), ProtectError> {
        if let (None, Some(id)) = (request.platform, request.host) {
            caller.require(Privilege::Restore)?;
            let host = self.inventory.one::<Host>(caller, id).await.map_err(as_protect)?;
            request.platform = host.hypervisor.map(|f| f.external.platform);
        }
        self.protect.restore(caller, request).await
    }
}
