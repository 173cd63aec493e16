//! Conformance of hypervisor drivers: what every [`Hypervisor`] must do, whatever platform it drives.
//!
//! An adapter's test brings a [`HypervisorFixture`] and calls [`all`]. A capability that a driver lacks is asked
//! for all the same: it must answer with a typed `Unsupported`.

mod export;
mod import;
mod machine;
mod moves;

use async_trait::async_trait;
use portolan_block::{BlockSource, ExtentKind};
use portolan_driver::{ExportRequest, ExportSession, Hypervisor, NativeVm};
use std::collections::HashSet;
use std::sync::Arc;

pub use export::*;
pub use import::*;
pub use machine::*;
pub use moves::*;

/// A platform that a test can change behind the driver's back.
#[async_trait]
pub trait HypervisorFixture: Send + Sync {
    /// A new driver over the same platform, as after a restart of Portolan.
    fn hypervisor(&self) -> Arc<dyn Hypervisor>;

    /// Makes a stopped machine with these disks: name and content. Sizes are multiples of 512 bytes.
    async fn add_vm(&self, name: &str, disks: &[(&str, Vec<u8>)]);

    /// Removes the machine of that name.
    async fn remove_vm(&self, name: &str);

    /// Writes into a disk, as somebody else would.
    async fn write_disk(&self, vm: &str, disk: &str, offset: u64, data: &[u8]);
}

/// Runs the whole suite, each case on a platform of its own.
pub async fn all<F: HypervisorFixture>(make: impl Fn() -> F) {
    listing_is_whole_and_consistent(&make()).await;
    identity_survives_a_restart(&make()).await;
    machine_made_again_is_another(&make()).await;
    export_holds_what_the_disks_hold(&make()).await;
    extents_cover_what_was_asked(&make()).await;
    reads_past_the_end_fail(&make()).await;
    export_of_what_is_not_there(&make()).await;
    export_of_one_disk(&make()).await;
    export_again_is_the_same_session(&make()).await;
    export_is_never_of_two_moments(&make()).await;
    changes_since_a_checkpoint(&make()).await;
    release_can_be_repeated(&make()).await;
    an_export_can_be_abandoned(&make()).await;
    if make().hypervisor().capabilities().import {
        import_all(&make).await;
    } else {
        import_is_unsupported(&make()).await;
    }
    unsupported_machines(&make()).await;
}

/// Bytes that differ from block to block and from seed to seed; never zero.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i / 512 + i % 251 + usize::from(seed) * 7) % 255 + 1) as u8).collect()
}

/// The machine of that name in a fresh listing.
pub async fn find(hypervisor: &Arc<dyn Hypervisor>, name: &str) -> Option<NativeVm> {
    hypervisor.inventory().await.expect("a listing").vms.into_iter().find(|vm| vm.name == name)
}

/// An export of all disks of `vm` under `token`.
pub fn export_request(vm: &NativeVm, token: &str, fence: i64) -> ExportRequest {
    ExportRequest {
        vm: vm.native_id.clone(),
        incarnation: vm.incarnation.clone(),
        disks: None,
        token: token.to_owned(),
        fence,
        since: None,
        keep: Vec::new(),
        quiesce: true,
    }
}

/// Reads a whole source by its extents, as a backup does: what is not data counts as zeros.
pub async fn read_all(source: &Arc<dyn BlockSource>) -> Result<Vec<u8>, portolan_block::BlockError> {
    let mut out = vec![0; usize::try_from(source.size()).expect("a small disk")];
    let extents = source.extents(0..source.size()).await?;
    let data: Vec<_> = extents.iter().filter(|e| e.kind == ExtentKind::Data).map(|e| e.range()).collect();
    for (range, bytes) in data.iter().zip(source.read_many(&data).await?) {
        out[range.start as usize..range.end as usize].copy_from_slice(&bytes);
    }
    Ok(out)
}

/// The content of every disk of an export, by name.
pub async fn contents(session: &dyn ExportSession) -> Result<Vec<(String, Vec<u8>)>, portolan_block::BlockError> {
    let mut out = Vec::new();
    for disk in &session.exported().disks {
        out.push((disk.name.clone(), read_all(&disk.source).await?));
    }
    Ok(out)
}

/// A listing names each thing once, and points at nothing that it does not list.
pub async fn listing_is_whole_and_consistent(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 8192)), ("data", pattern(2, 4096))]).await;
    f.add_vm("Größe 大", &[("root", pattern(3, 4096))]).await;
    let hypervisor = f.hypervisor();
    let listing = hypervisor.inventory().await.expect("a listing");
    let mut again = hypervisor.inventory().await.expect("a listing");
    for (store, before) in again.datastores.iter_mut().zip(&listing.datastores) {
        // Others may use the same storage meanwhile.
        store.free_bytes = before.free_bytes;
    }
    assert_eq!(listing, again, "nothing changed in between");

    let clusters: HashSet<_> = listing.clusters.iter().map(|c| c.native_id.clone()).collect();
    let hosts: HashSet<_> = listing.hosts.iter().map(|h| h.native_id.clone()).collect();
    let stores: HashSet<_> = listing.datastores.iter().map(|d| d.native_id.clone()).collect();
    let vms: HashSet<_> = listing.vms.iter().map(|v| v.native_id.clone()).collect();
    assert_eq!(clusters.len(), listing.clusters.len());
    assert_eq!(hosts.len(), listing.hosts.len());
    assert_eq!(stores.len(), listing.datastores.len());
    assert_eq!(vms.len(), listing.vms.len());
    for host in &listing.hosts {
        assert!(host.cluster.as_ref().is_none_or(|c| clusters.contains(c)), "{host:?}");
    }
    for store in &listing.datastores {
        assert!(store.free_bytes <= store.total_bytes, "{store:?}");
        assert!(store.host.as_ref().is_none_or(|h| hosts.contains(h)), "{store:?}");
        assert!(store.cluster.as_ref().is_none_or(|c| clusters.contains(c)), "{store:?}");
    }
    for vm in &listing.vms {
        assert!(vm.host.as_ref().is_none_or(|h| hosts.contains(h)), "{vm:?}");
        assert!(vm.cluster.as_ref().is_none_or(|c| clusters.contains(c)), "{vm:?}");
        let disks: HashSet<_> = vm.disks.iter().map(|d| d.native_id.clone()).collect();
        let names: HashSet<_> = vm.disks.iter().map(|d| d.name.clone()).collect();
        assert_eq!((disks.len(), names.len()), (vm.disks.len(), vm.disks.len()), "{vm:?}");
        assert!(vm.disks.iter().all(|d| d.datastore.as_ref().is_none_or(|s| stores.contains(s))), "{vm:?}");
    }
    let alpha = listing.vms.iter().find(|vm| vm.name == "alpha").expect("alpha is listed");
    assert_eq!(alpha.disks.iter().map(|d| d.size_bytes).sum::<u64>(), 12_288);
    assert!(alpha.disks.iter().all(|d| d.supported));
    assert!(listing.vms.iter().any(|vm| vm.name == "Größe 大"));
}

/// Native ids and incarnations stay over a restart, and over changes of a disk's content.
pub async fn identity_survives_a_restart(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let before = find(&f.hypervisor(), "alpha").await.expect("alpha");
    f.write_disk("alpha", "root", 0, &pattern(9, 512)).await;
    let after = find(&f.hypervisor(), "alpha").await.expect("alpha");
    assert_eq!((before.native_id, before.incarnation), (after.native_id, after.incarnation));
}

/// A machine that is removed and made again is not the same machine, and the old one cannot be exported.
pub async fn machine_made_again_is_another(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let first = find(&hypervisor, "alpha").await.expect("alpha");
    f.remove_vm("alpha").await;
    assert!(find(&hypervisor, "alpha").await.is_none());
    f.add_vm("alpha", &[("root", pattern(2, 4096))]).await;
    let second = find(&hypervisor, "alpha").await.expect("alpha");
    assert_ne!(
        (first.native_id.clone(), first.incarnation.clone()),
        (second.native_id.clone(), second.incarnation.clone())
    );
    let gone = hypervisor.open_export(export_request(&first, "t1", 1)).await.err();
    assert!(matches!(gone, Some(portolan_driver::DriverError::NotFound { .. })), "{gone:?}");
}
