//! The host as a hypervisor.

use crate::export;
use crate::guest::{GuestState, blocking};
use crate::host::{QemuHost, Seen};
use crate::import;
use crate::spec::{GuestSpec, NicSpec};
use async_trait::async_trait;
use portolan_driver::{
    AbandonedExport, AbandonedInstant, AbandonedMove, Capabilities, DriverError, ExportRequest, ExportSession,
    HomeObserver, Hypervisor, ImportRequest, ImportSession, InstantRequest, InstantSession, Inventory, MachineSnapshot,
    MoveRequest, NativeDatastore, NativeDisk, NativeHost, NativeNic, NativeVm, PowerRequest, SnapshotRef,
    SnapshotRequest,
};
use portolan_model::vm::PowerState;
use std::sync::Arc;

/// The host's native id.
pub(crate) const HOST: &str = "local";

/// The host as a hypervisor: one host in no cluster, its datastores, its guests as machines.
#[derive(Debug, Clone)]
pub struct QemuHypervisor {
    host: Arc<QemuHost>,
}

impl QemuHypervisor {
    /// A hypervisor over this host, which others may use too.
    pub fn new(host: Arc<QemuHost>) -> Self {
        Self { host }
    }

    /// The host.
    pub fn host(&self) -> &Arc<QemuHost> {
        &self.host
    }

    async fn datastores(&self) -> Result<Vec<NativeDatastore>, DriverError> {
        let layout = self.host.shared.layout.clone();
        let found = blocking(move || {
            let names = layout.datastore_names()?.into_iter();
            let measured = names.map(|name| {
                let place = layout.datastores().join(&name);
                let space = rustix::fs::statvfs(&place);
                let space = space.map_err(|e| crate::QemuError::file("measure", &place)(e.into()))?;
                Ok(NativeDatastore {
                    native_id: name.clone(),
                    name,
                    cluster: None,
                    host: Some(HOST.to_owned()),
                    total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
                    free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
                })
            });
            measured.collect()
        });
        Ok(found.await?)
    }
}

#[async_trait]
impl Hypervisor for QemuHypervisor {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            changed_blocks: true,
            live_export: true,
            import: true,
            power: true,
            snapshots: true,
            instant: true,
            moves: true,
        }
    }

    async fn inventory(&self) -> Result<Inventory, DriverError> {
        let name = self.host.settings().host_name.clone();
        let here = NativeHost { native_id: HOST.into(), address: name.clone(), name, cluster: None };
        let mut out = Inventory { hosts: vec![here], datastores: self.datastores().await?, ..Inventory::default() };
        for seen in self.host.list().await? {
            match seen {
                Seen::Own(guest) => {
                    let observed = guest.observed();
                    if observed.state == GuestState::Failed {
                        let reason = observed.reason.unwrap_or_default();
                        out.problems.push(format!("{}: it could not be made: {reason}", guest.id()));
                    }
                    out.vms.push(machine(&guest.spec(), power(observed.state), &guest.addresses()));
                }
                Seen::Elsewhere(spec, runs) => {
                    let power = if runs { PowerState::Running } else { PowerState::Stopped };
                    out.vms.push(machine(&spec, power, &[]));
                }
                Seen::Damaged(id, reason) => out.problems.push(format!("{id}: {reason}")),
            }
        }
        Ok(out)
    }

    async fn open_export(&self, request: ExportRequest) -> Result<Box<dyn ExportSession>, DriverError> {
        let guest = self.host.guest(&request.vm, &request.incarnation).await?;
        Ok(Box::new(export::open(guest, request).await?))
    }

    async fn abandon_export(&self, export: AbandonedExport) -> Result<(), DriverError> {
        match self.host.guest(&export.vm, &export.incarnation).await {
            Ok(guest) => export::abandon(guest, export).await,
            // Its exports are gone with it.
            Err(crate::QemuError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn begin_import(&self, request: ImportRequest) -> Result<Box<dyn ImportSession>, DriverError> {
        Ok(Box::new(import::begin(self.host.clone(), request).await?))
    }

    async fn power(&self, request: PowerRequest) -> Result<(), DriverError> {
        let guest = self.host.guest(&request.vm, &request.incarnation).await?;
        Ok(guest.power(request.action).await?)
    }

    async fn create_snapshot(&self, request: SnapshotRequest) -> Result<MachineSnapshot, DriverError> {
        let guest = self.host.guest(&request.vm, &request.incarnation).await?;
        Ok(guest.create_snapshot(request).await?)
    }

    async fn list_snapshots(&self, vm: &str, incarnation: &str) -> Result<Vec<MachineSnapshot>, DriverError> {
        Ok(self.host.guest(vm, incarnation).await?.list_snapshots())
    }

    async fn revert_snapshot(&self, snapshot: SnapshotRef) -> Result<(), DriverError> {
        let guest = self.host.guest(&snapshot.vm, &snapshot.incarnation).await?;
        Ok(guest.revert_snapshot(&snapshot.snapshot).await?)
    }

    async fn delete_snapshot(&self, snapshot: SnapshotRef) -> Result<(), DriverError> {
        let guest = self.host.guest(&snapshot.vm, &snapshot.incarnation).await?;
        Ok(guest.delete_snapshot(&snapshot.snapshot).await?)
    }

    async fn move_machine(&self, request: MoveRequest, observer: &HomeObserver<'_>) -> Result<NativeVm, DriverError> {
        let guest = self.host.guest(&request.vm, &request.incarnation).await?;
        guest.move_to(request, observer).await?;
        Ok(machine(&guest.spec(), power(guest.observed().state), &guest.addresses()))
    }

    async fn abandon_move(&self, abandoned: AbandonedMove) -> Result<(), DriverError> {
        match self.host.guest(&abandoned.vm, &abandoned.incarnation).await {
            Ok(guest) => guest.abandon_move(abandoned).await,
            // Its files are gone with it.
            Err(crate::QemuError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn begin_instant(&self, request: InstantRequest) -> Result<Box<dyn InstantSession>, DriverError> {
        Ok(Box::new(self.host.begin_instant(request).await?))
    }

    async fn abandon_instant(&self, instant: AbandonedInstant) -> Result<(), DriverError> {
        self.host.abandon_instant(&instant.token, instant.fence).await
    }
}

/// A guest as the port shows it.
pub(crate) fn machine(spec: &GuestSpec, power: PowerState, addresses: &[String]) -> NativeVm {
    let disk = |disk: &crate::DiskSpec| NativeDisk {
        native_id: disk.id.clone(),
        name: disk.name.clone(),
        size_bytes: disk.size_bytes,
        datastore: Some(disk.datastore.clone()),
        supported: true,
        format: disk.format.name().to_owned(),
    };
    let nic = |(n, nic): (usize, &NicSpec)| NativeNic {
        name: if nic.name.is_empty() { format!("nic{n}") } else { nic.name.clone() },
        mac: nic.mac.clone(),
        // The agent says which address is whose; with one card that need not be asked.
        addresses: if n == 0 { addresses.to_vec() } else { Vec::new() },
    };
    NativeVm {
        native_id: spec.id.clone(),
        incarnation: spec.incarnation.clone(),
        name: spec.name.clone(),
        host: Some(HOST.to_owned()),
        cluster: None,
        power,
        disks: spec.disks.iter().map(disk).collect(),
        nics: spec.nics.iter().enumerate().map(nic).collect(),
        cpus: spec.cpus,
        memory_bytes: spec.memory_bytes,
        tags: spec.tags.clone(),
    }
}

pub(crate) fn power(state: GuestState) -> PowerState {
    match state {
        GuestState::Running | GuestState::Rebooting | GuestState::Stopping => PowerState::Running,
        GuestState::Paused => PowerState::Paused,
        GuestState::Pending | GuestState::Failed | GuestState::Starting | GuestState::Stopped => PowerState::Stopped,
    }
}
