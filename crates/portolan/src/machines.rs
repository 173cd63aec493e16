//! Machines and backups as operators name them, and what is done with them.

use crate::facade::Portolan;
use crate::registry::RegistryError;
use portolan_driver::{MachineSnapshot, PowerAction};
use portolan_inventory::NewSnapshot;
use portolan_model::query::{Direction, Filter, Page, Sort};
use portolan_model::*;
use portolan_protect::{
    CloneRequest, ExportRequest, InstantRequest, PointQuery, PointView, RestoreRequest, TrialRequest, TrialSign,
};
use portolan_storage::Query;
use portolan_tasks::Task;
use std::time::Duration;

/// Which machines an operator wants to see: those that fit everything that is asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineFilter {
    /// Of this name.
    pub name: Option<String>,
    /// On the platform of this name or id.
    pub platform: Option<String>,
    /// Also those that are gone from their platforms.
    pub gone: bool,
}

/// A snapshot of a machine as an operator asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotWish {
    /// Its name, for people.
    pub name: Name,
    /// Whether the memory of the machine, which must run, is kept too.
    pub memory: bool,
}

/// A second machine as an operator asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneWish {
    /// Its name.
    pub name: Name,
    /// The platform's own id of the datastore; nothing leaves each disk where the machine has its own.
    pub datastore: Option<String>,
}

/// Where a backup is read from, and the platform that it goes to, by names or ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FromTo {
    /// The destination whose copy is read; any without one.
    pub destination: Option<String>,
    /// The platform; the one that the backup came from without one.
    pub platform: Option<String>,
}

/// A restore as an operator asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreWish {
    /// From where to where.
    pub from: FromTo,
    /// The machine's name; the one that it had without one.
    pub name: Option<Name>,
    /// The platform's own id of the datastore.
    pub datastore: Option<String>,
    /// Whether a machine of that name is replaced. It must be off.
    pub overwrite: bool,
    /// Whether a machine that is replaced is turned off first.
    pub power_off: bool,
}

/// A machine that runs from a backup, as an operator asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstantWish {
    /// From where to where.
    pub from: FromTo,
    /// The machine's name; the one that it had without one.
    pub name: Option<Name>,
    /// The platform's own id of the datastore that the data is brought to.
    pub datastore: Option<String>,
}

/// A trial boot as an operator asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialWish {
    /// From where to where.
    pub from: FromTo,
    /// What the machine is waited for to show.
    pub sign: TrialSign,
    /// For how long.
    pub within: Duration,
}

impl Portolan {
    /// Machines by name, with their number.
    pub async fn machines(
        &self,
        caller: &Caller,
        filter: &MachineFilter,
        page: Page,
    ) -> Result<(Vec<VirtualMachine>, u64), RegistryError> {
        caller.require(Privilege::InventoryRead)?;
        let mut wanted = if filter.gone { Filter::All } else { Filter::eq("present", true) };
        if let Some(name) = &filter.name {
            wanted = wanted.and(Filter::eq("name", name.as_str()));
        }
        if let Some(platform) = &filter.platform {
            let platform = self.registry.platform(caller, platform).await?.platform;
            wanted = wanted.and(Filter::eq("platform", platform.id.uuid()));
        }
        let sort = Sort { field: Some("name".into()), direction: Direction::Ascending };
        let found = self.inventory.vms(caller, Query { filter: wanted, sort, page, count: true }).await?;
        Ok((found.items.into_iter().map(|vm| vm.value).collect(), found.total.unwrap_or(0)))
    }

    /// The machine of this id, or the one that is present under this name. `Conflict` where several are.
    pub async fn machine(&self, caller: &Caller, name_or_id: &str) -> Result<VirtualMachine, RegistryError> {
        caller.require(Privilege::InventoryRead)?;
        if let Ok(id) = name_or_id.parse::<VmId>() {
            return Ok(self.inventory.vm(caller, id).await?);
        }
        let filter = MachineFilter { name: Some(name_or_id.to_owned()), ..MachineFilter::default() };
        let (mut found, _) = self.machines(caller, &filter, Page::first(2)).await?;
        match (found.pop(), found.pop()) {
            (Some(vm), None) => Ok(vm),
            (None, _) => Err(RegistryError::missing("machine", uuid::Uuid::nil())),
            _ => {
                let text = format!("several machines are called '{name_or_id}': name one by its id");
                Err(RegistryError::Conflict(text))
            }
        }
    }

    /// Turns a machine on or off; answers the task that does it.
    pub async fn power(&self, caller: &Caller, machine: &str, action: PowerAction) -> Result<Task, RegistryError> {
        caller.require(Privilege::InventoryWrite)?;
        let vm = self.machine(caller, machine).await?;
        Ok(self.inventory.power(caller, vm.id, action).await?)
    }

    /// A machine's snapshots, the oldest first.
    pub async fn snapshots(&self, caller: &Caller, machine: &str) -> Result<Vec<MachineSnapshot>, RegistryError> {
        let vm = self.machine(caller, machine).await?;
        Ok(self.inventory.snapshots(caller, vm.id).await?)
    }

    /// Makes a snapshot of a machine; answers the task that does it.
    pub async fn snapshot(&self, caller: &Caller, machine: &str, wish: SnapshotWish) -> Result<Task, RegistryError> {
        caller.require(Privilege::InventoryWrite)?;
        let vm = self.machine(caller, machine).await?.id;
        let new = NewSnapshot { vm, name: wish.name, memory: wish.memory };
        Ok(self.inventory.snapshot(caller, new).await?)
    }

    /// Reverts a machine to the snapshot of this platform's id; answers the task that does it.
    pub async fn revert(&self, caller: &Caller, machine: &str, snapshot: &str) -> Result<Task, RegistryError> {
        caller.require(Privilege::InventoryWrite)?;
        let vm = self.machine(caller, machine).await?;
        Ok(self.inventory.revert(caller, vm.id, snapshot).await?)
    }

    /// Deletes the snapshot of this platform's id; answers the task that does it.
    pub async fn remove_snapshot(&self, caller: &Caller, machine: &str, snapshot: &str) -> Result<Task, RegistryError> {
        caller.require(Privilege::InventoryWrite)?;
        let vm = self.machine(caller, machine).await?;
        Ok(self.inventory.remove_snapshot(caller, vm.id, snapshot).await?)
    }

    /// Brings a machine's disks to another datastore; answers the task that does it.
    pub async fn move_machine(&self, caller: &Caller, machine: &str, datastore: &str) -> Result<Task, RegistryError> {
        caller.require(Privilege::InventoryWrite)?;
        let vm = self.machine(caller, machine).await?;
        Ok(self.inventory.move_machine(caller, vm.id, datastore).await?)
    }

    /// Makes a second machine out of a machine; answers the task that does it.
    pub async fn clone_machine(&self, caller: &Caller, machine: &str, wish: CloneWish) -> Result<Task, RegistryError> {
        caller.require(Privilege::Restore)?;
        let vm = self.machine(caller, machine).await?.id;
        let request = CloneRequest { vm, name: wish.name, datastore: wish.datastore, priority: USUAL };
        Ok(self.protect.clone_vm(caller, request).await?)
    }

    /// Backs a machine up; answers the task that begins it.
    pub async fn back_up(
        &self,
        caller: &Caller,
        machine: &str,
        backup_type: backup::BackupType,
        destination: Option<&str>,
    ) -> Result<Task, RegistryError> {
        caller.require(Privilege::BackupWrite)?;
        let vm = self.machine(caller, machine).await?.id;
        let request = ExportRequest {
            vms: vec![vm],
            backup_type,
            destination: self.destination_id(caller, destination).await?,
            priority: USUAL,
            window_start: None,
            window_end: None,
            retries: 0,
        };
        let task = self.protect.export(caller, request).await?.pop();
        task.ok_or_else(|| RegistryError::missing("task", uuid::Uuid::nil()))
    }

    /// Backups, of one machine where it is named, the newest first, with their number.
    pub async fn backups(
        &self,
        caller: &Caller,
        machine: Option<&str>,
        page: Page,
    ) -> Result<(Vec<PointView>, u64), RegistryError> {
        caller.require(Privilege::BackupRead)?;
        let filter = match machine {
            Some(machine) => Filter::eq("vm", self.machine(caller, machine).await?.id.uuid()),
            None => Filter::All,
        };
        let query = PointQuery { filter, sort: Sort::newest(), page, count: true };
        let (points, total) = self.protect.points(caller, query).await?;
        Ok((points, total.unwrap_or(0)))
    }

    /// Restores a backup to a machine, which is off then; answers the task that begins it.
    pub async fn restore_backup(
        &self,
        caller: &Caller,
        point: RecoveryPointId,
        wish: RestoreWish,
    ) -> Result<Task, RegistryError> {
        caller.require(Privilege::Restore)?;
        let request = RestoreRequest {
            point,
            destination: self.destination_id(caller, wish.from.destination.as_deref()).await?,
            platform: self.platform_id(caller, wish.from.platform.as_deref()).await?,
            host: None,
            cluster: None,
            datastore: wish.datastore,
            name: wish.name,
            overwrite: wish.overwrite,
            power_off: wish.power_off,
            disks: Vec::new(),
            priority: USUAL,
        };
        Ok(self.restore(caller, request).await?.0)
    }

    /// Runs a machine from a backup while its data is brought home; answers the task that does it.
    pub async fn restore_instantly(
        &self,
        caller: &Caller,
        point: RecoveryPointId,
        wish: InstantWish,
    ) -> Result<Task, RegistryError> {
        caller.require(Privilege::Restore)?;
        let request = InstantRequest {
            point,
            destination: self.destination_id(caller, wish.from.destination.as_deref()).await?,
            platform: self.platform_id(caller, wish.from.platform.as_deref()).await?,
            datastore: wish.datastore,
            name: wish.name,
            priority: USUAL,
        };
        Ok(self.protect.restore_instantly(caller, request).await?.0)
    }

    /// Boots a backup to see whether it does; answers the task that does it.
    pub async fn try_boot(
        &self,
        caller: &Caller,
        point: RecoveryPointId,
        wish: TrialWish,
    ) -> Result<Task, RegistryError> {
        caller.require(Privilege::BackupWrite)?;
        let request = TrialRequest {
            point,
            destination: self.destination_id(caller, wish.from.destination.as_deref()).await?,
            platform: self.platform_id(caller, wish.from.platform.as_deref()).await?,
            sign: wish.sign,
            within: wish.within,
        };
        Ok(self.protect.try_boot(caller, request).await?)
    }

    /// The platform of this name or id.
    async fn platform_id(
        &self,
        caller: &Caller,
        name_or_id: Option<&str>,
    ) -> Result<Option<PlatformId>, RegistryError> {
        match name_or_id {
            None => Ok(None),
            Some(name) => Ok(Some(self.registry.platform(caller, name).await?.platform.id)),
        }
    }

    /// The destination of this name or id.
    async fn destination_id(
        &self,
        caller: &Caller,
        name_or_id: Option<&str>,
    ) -> Result<Option<BackupDestinationId>, RegistryError> {
        match name_or_id {
            None => Ok(None),
            Some(name) => Ok(Some(self.registry.destination(caller, name).await?.destination.id)),
        }
    }
}

/// The priority of what an operator asks for.
const USUAL: i16 = 50;
