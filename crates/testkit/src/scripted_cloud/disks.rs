//! What requests do to an account's volumes and their snapshots.

use super::account::{Account, take};
use super::provider::{Refusal, no};
use portolan_driver::{CloudSnapshot, CloudVolume, CreateVolume, Extra, NodeRef};
use portolan_model::dialect::libcloud::{VolumeSnapshotState, VolumeState};
use std::collections::BTreeMap;

/// Lets go of a volume.
pub(super) fn free(volume: &mut CloudVolume) {
    volume.attached_to = None;
    volume.device.clear();
    volume.state = VolumeState::Available;
}

impl Account {
    pub(super) fn create_volume(&mut self, wish: &CreateVolume) -> Result<CloudVolume, Refusal> {
        if wish.size_gb == 0 {
            return no(400, "BadSize", "a volume has a size");
        }
        let snapshot = wish.snapshot.as_ref();
        if snapshot.is_some_and(|id| !self.snapshots.values().any(|snapshot| snapshot.id == *id)) {
            return no(404, "NoSuchSnapshot", "no such snapshot");
        }
        let serial = self.serial();
        let volume = CloudVolume {
            id: format!("volume-{serial}"),
            name: wish.name.clone(),
            size_gb: wish.size_gb,
            state: VolumeState::Creating,
            attached_to: None,
            device: String::new(),
            extra: Extra::new(),
        };
        self.volumes.insert(serial, volume.clone());
        Ok(volume)
    }

    pub(super) fn attach_volume(&mut self, node: &NodeRef, id: &str, device: Option<&str>) -> Result<(), Refusal> {
        self.node(node)?;
        let volume = find(&mut self.volumes, id)?;
        if volume.state != VolumeState::Available {
            return no(409, "VolumeInUse", format!("the volume {id} is not available"));
        }
        volume.attached_to = Some(node.id.clone());
        volume.device = device.unwrap_or("/dev/vdb").to_owned();
        volume.state = VolumeState::InUse;
        Ok(())
    }

    pub(super) fn detach_volume(&mut self, id: &str) -> Result<(), Refusal> {
        let volume = find(&mut self.volumes, id)?;
        if volume.attached_to.is_none() {
            return no(409, "VolumeNotAttached", format!("the volume {id} is not attached"));
        }
        free(volume);
        Ok(())
    }

    pub(super) fn destroy_volume(&mut self, id: &str) -> Result<(), Refusal> {
        if find(&mut self.volumes, id)?.attached_to.is_some() {
            return no(409, "VolumeInUse", format!("the volume {id} is attached"));
        }
        take(&mut self.volumes, |volume| volume.id == id, "volume", id).map(drop)
    }

    pub(super) fn create_snapshot(&mut self, id: &str, name: Option<&str>) -> Result<CloudSnapshot, Refusal> {
        let size_gb = Some(find(&mut self.volumes, id)?.size_gb);
        let serial = self.serial();
        let snapshot = CloudSnapshot {
            id: format!("snapshot-{serial}"),
            name: name.map(str::to_owned),
            volume: id.to_owned(),
            size_gb,
            state: VolumeSnapshotState::Creating,
            created: None,
            extra: Extra::new(),
        };
        self.snapshots.insert(serial, snapshot.clone());
        Ok(snapshot)
    }

    pub(super) fn destroy_snapshot(&mut self, id: &str) -> Result<(), Refusal> {
        take(&mut self.snapshots, |snapshot| snapshot.id == id, "snapshot", id).map(drop)
    }

    /// The snapshots of a volume.
    pub(super) fn snapshots_of(&mut self, id: &str) -> Result<BTreeMap<u64, CloudSnapshot>, Refusal> {
        find(&mut self.volumes, id)?;
        Ok(self.snapshots.iter().filter(|(_, s)| s.volume == id).map(|(n, s)| (*n, s.clone())).collect())
    }

    /// What was being made is made: disks are seen in the making once.
    pub(super) fn finish_disks(&mut self) {
        for volume in self.volumes.values_mut().filter(|volume| volume.state == VolumeState::Creating) {
            volume.state = VolumeState::Available;
        }
        for snapshot in self.snapshots.values_mut().filter(|s| s.state == VolumeSnapshotState::Creating) {
            snapshot.state = VolumeSnapshotState::Available;
        }
    }
}

fn find<'a>(volumes: &'a mut BTreeMap<u64, CloudVolume>, id: &str) -> Result<&'a mut CloudVolume, Refusal> {
    match volumes.values_mut().find(|volume| volume.id == id) {
        Some(volume) => Ok(volume),
        None => no(404, "NoSuchVolume", format!("no volume {id}")),
    }
}
