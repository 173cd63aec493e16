//! What a complete listing changes: a pure function of the listing and of what is stored.

use portolan_driver::{Inventory as Listing, NativeVm};
use portolan_model::external::{ExternalKind, ExternalRef};
use portolan_model::host::HypervisorFacet;
use portolan_model::*;
use portolan_storage::Stored;
use std::collections::{BTreeMap, BTreeSet};

/// How many complete listings in a row must lack a thing before it counts as absent.
pub const MISSES_BEFORE_ABSENT: u32 = 2;

/// What is stored of one platform.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) clusters: Vec<Stored<Cluster>>,
    pub(crate) hosts: Vec<Stored<Host>>,
    pub(crate) datastores: Vec<Stored<Datastore>>,
    pub(crate) vms: Vec<Stored<VirtualMachine>>,
}

/// What to write. Objects that are as they were are not in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) clusters: Vec<Stored<Cluster>>,
    pub(crate) hosts: Vec<Stored<Host>>,
    pub(crate) datastores: Vec<Stored<Datastore>>,
    pub(crate) vms: Vec<Stored<VirtualMachine>>,
    pub(crate) added: u64,
    pub(crate) gone: u64,
}

/// Decides what a complete listing changes. `counted` are the objects whose absence this sync has counted
/// already: a plan that is made anew after a conflict must not count it twice.
pub(crate) fn plan(
    platform: &Platform,
    listing: &Listing,
    known: &Known,
    now: Timestamp,
    ids: &dyn IdSource,
    counted: &mut BTreeSet<uuid::Uuid>,
) -> Plan {
    let mut plan = Plan::default();
    let external = |kind, native: &str, incarnation: &str| ExternalRef {
        platform: platform.id,
        kind,
        native_id: native.to_owned(),
        incarnation: incarnation.to_owned(),
    };

    let mut cluster_of: BTreeMap<&str, (ClusterId, String)> = BTreeMap::new();
    for native in &listing.clusters {
        let old = known.clusters.iter().find(|c| c.external.as_ref().is_some_and(|e| e.native_id == native.native_id));
        let id = old.map_or_else(|| ClusterId::from_uuid(ids.uuid()), |c| c.id);
        let new = Cluster {
            id,
            name: Name::lossy(&native.name, "cluster"),
            external: Some(external(ExternalKind::Cluster, &native.native_id, "")),
            data_center: old.and_then(|c| c.data_center),
            present: true,
            missed: 0,
            created: old.map_or(now, |c| c.created),
        };
        cluster_of.insert(&native.native_id, (id, new.name.to_string()));
        note(&mut plan.clusters, &mut plan.added, old, new);
    }

    let mut vms_on: BTreeMap<&str, u32> = BTreeMap::new();
    for host in listing.vms.iter().filter_map(|v| v.host.as_deref()) {
        let count = vms_on.entry(host).or_default();
        *count = count.saturating_add(1);
    }
    let mut host_of: BTreeMap<&str, (HostId, String)> = BTreeMap::new();
    for native in &listing.hosts {
        let old = known
            .hosts
            .iter()
            .find(|h| h.hypervisor.as_ref().is_some_and(|f| f.external.native_id == native.native_id));
        let id = old.map_or_else(|| HostId::from_uuid(ids.uuid()), |h| h.id);
        let cluster = native.cluster.as_deref().and_then(|c| cluster_of.get(c));
        let new = Host {
            id,
            name: Name::lossy(&native.name, "host"),
            address: native.address.clone(),
            cluster: cluster.map(|c| c.0),
            cluster_name: cluster.map(|c| c.1.clone()).unwrap_or_default(),
            hypervisor: Some(HypervisorFacet {
                external: external(ExternalKind::Host, &native.native_id, ""),
                present: true,
                missed: 0,
                vm_count: vms_on.get(native.native_id.as_str()).copied().unwrap_or(0),
            }),
            managed: old.and_then(|h| h.managed.clone()),
            created: old.map_or(now, |h| h.created),
        };
        host_of.insert(&native.native_id, (id, new.name.to_string()));
        note(&mut plan.hosts, &mut plan.added, old, new);
    }

    let mut datastore_of: BTreeMap<&str, DatastoreId> = BTreeMap::new();
    for native in &listing.datastores {
        let old = known.datastores.iter().find(|d| d.external.native_id == native.native_id);
        let id = old.map_or_else(|| DatastoreId::from_uuid(ids.uuid()), |d| d.id);
        let new = Datastore {
            id,
            name: Name::lossy(&native.name, "datastore"),
            external: external(ExternalKind::Datastore, &native.native_id, ""),
            cluster: native.cluster.as_deref().and_then(|c| cluster_of.get(c)).map(|c| c.0),
            host: native.host.as_deref().and_then(|h| host_of.get(h)).map(|h| h.0),
            total_bytes: native.total_bytes,
            free_bytes: native.free_bytes,
            present: true,
            missed: 0,
            created: old.map_or(now, |d| d.created),
        };
        datastore_of.insert(&native.native_id, id);
        note(&mut plan.datastores, &mut plan.added, old, new);
    }

    let by_key: BTreeMap<(&str, &str), &Stored<VirtualMachine>> =
        known.vms.iter().map(|v| ((v.external.native_id.as_str(), v.external.incarnation.as_str()), v)).collect();
    for native in &listing.vms {
        let old = by_key.get(&(native.native_id.as_str(), native.incarnation.as_str())).copied();
        let host = native.host.as_deref().and_then(|h| host_of.get(h));
        let cluster = native.cluster.as_deref().and_then(|c| cluster_of.get(c));
        let new = machine(platform, native, old, Around { host, cluster, datastores: &datastore_of }, now, ids);
        note(&mut plan.vms, &mut plan.added, old, new);
    }

    absent(platform, listing, known, &mut plan, counted);
    plan
}

/// What stands around a machine: ids with names.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) host: Option<&'a (HostId, String)>,
    pub(crate) cluster: Option<&'a (ClusterId, String)>,
    pub(crate) datastores: &'a BTreeMap<&'a str, DatastoreId>,
}

/// A machine as a listing shows it, with all that is known of it from before.
pub(crate) fn machine(
    platform: &Platform,
    native: &NativeVm,
    old: Option<&Stored<VirtualMachine>>,
    around: Around<'_>,
    now: Timestamp,
    ids: &dyn IdSource,
) -> VirtualMachine {
    let Around { host, cluster, datastores } = around;
    let mut observed = VmObserved {
        name: Name::lossy(&native.name, "virtual machine"),
        present: true,
        missed: 0,
        platform: platform.id,
        platform_name: platform.name.to_string(),
        host: host.map(|h| h.0),
        host_name: host.map(|h| h.1.clone()).unwrap_or_default(),
        cluster: cluster.map(|c| c.0),
        cluster_name: cluster.map(|c| c.1.clone()).unwrap_or_default(),
        power: native.power,
        disks: disks(native, old, datastores, ids),
        nics: nics(native, old, ids),
        cpus: native.cpus,
        memory_bytes: native.memory_bytes,
        tags: native.tags.clone(),
        last_seen: now,
    };
    // The moment alone is no change: a quiet platform costs no writes.
    if let Some(old) = old
        && (VmObserved { last_seen: old.observed.last_seen, ..observed.clone() }) == old.observed
    {
        observed.last_seen = old.observed.last_seen;
    }
    VirtualMachine {
        id: old.map_or_else(|| VmId::from_uuid(ids.uuid()), |v| v.id),
        external: ExternalRef {
            platform: platform.id,
            kind: ExternalKind::Vm,
            native_id: native.native_id.clone(),
            incarnation: native.incarnation.clone(),
        },
        created: old.map_or(now, |v| v.created),
        observed,
        settings: old.map(|v| v.settings.clone()).unwrap_or_default(),
        protection: old.map(|v| v.protection.clone()).unwrap_or_default(),
    }
}

/// Counts a missing listing for everything that the listing lacks.
fn absent(platform: &Platform, listing: &Listing, known: &Known, plan: &mut Plan, counted: &mut BTreeSet<uuid::Uuid>) {
    let seen: BTreeSet<_> = listing.clusters.iter().map(|n| n.native_id.as_str()).collect();
    for old in &known.clusters {
        let native = old.external.as_ref().filter(|e| e.platform == platform.id).map(|e| e.native_id.as_str());
        if native.is_some_and(|n| !seen.contains(n)) && counted.insert(old.id.uuid()) {
            let mut new = old.clone();
            if miss(&mut new.value.missed, &mut new.value.present, &mut plan.gone) {
                plan.clusters.push(new);
            }
        }
    }
    let seen: BTreeSet<_> = listing.hosts.iter().map(|n| n.native_id.as_str()).collect();
    for old in &known.hosts {
        let missing = old.hypervisor.as_ref().is_some_and(|f| !seen.contains(f.external.native_id.as_str()));
        if missing && counted.insert(old.id.uuid()) {
            let mut new = old.clone();
            if let Some(facet) = &mut new.value.hypervisor
                && miss(&mut facet.missed, &mut facet.present, &mut plan.gone)
            {
                facet.vm_count = if facet.present { facet.vm_count } else { 0 };
                plan.hosts.push(new);
            }
        }
    }
    let seen: BTreeSet<_> = listing.datastores.iter().map(|n| n.native_id.as_str()).collect();
    for old in &known.datastores {
        if !seen.contains(old.external.native_id.as_str()) && counted.insert(old.id.uuid()) {
            let mut new = old.clone();
            if miss(&mut new.value.missed, &mut new.value.present, &mut plan.gone) {
                plan.datastores.push(new);
            }
        }
    }
    let seen: BTreeSet<_> = listing.vms.iter().map(|n| (n.native_id.as_str(), n.incarnation.as_str())).collect();
    for old in &known.vms {
        let key = (old.external.native_id.as_str(), old.external.incarnation.as_str());
        if !seen.contains(&key) && counted.insert(old.id.uuid()) {
            let mut new = old.clone();
            if miss(&mut new.value.observed.missed, &mut new.value.observed.present, &mut plan.gone) {
                plan.vms.push(new);
            }
        }
    }
}

/// Counts one more listing without the thing. False when there is nothing to write, as it is absent already.
fn miss(missed: &mut u32, present: &mut bool, gone: &mut u64) -> bool {
    if !*present {
        return false;
    }
    *missed += 1;
    if *missed >= MISSES_BEFORE_ABSENT {
        *present = false;
        *gone += 1;
    }
    true
}

/// Adds an object to the plan when it is new or differs.
fn note<R: PartialEq + Clone>(into: &mut Vec<Stored<R>>, added: &mut u64, old: Option<&Stored<R>>, new: R) {
    match old {
        Some(old) if old.value == new => {}
        Some(old) => into.push(Stored { version: old.version, value: new }),
        None => {
            *added += 1;
            into.push(Stored { version: 0, value: new });
        }
    }
}

/// The machine's disks, under the ids that they had.
fn disks(
    native: &NativeVm,
    old: Option<&Stored<VirtualMachine>>,
    datastores: &BTreeMap<&str, DatastoreId>,
    ids: &dyn IdSource,
) -> Vec<Disk> {
    let known = old.map(|v| v.observed.disks.as_slice()).unwrap_or_default();
    native
        .disks
        .iter()
        .map(|d| Disk {
            id: known
                .iter()
                .find(|k| k.native_id == d.native_id)
                .map_or_else(|| DiskId::from_uuid(ids.uuid()), |k| k.id),
            native_id: d.native_id.clone(),
            name: d.name.clone(),
            size_bytes: d.size_bytes,
            datastore: d.datastore.as_deref().and_then(|n| datastores.get(n)).copied(),
            supported: d.supported,
            format: d.format.clone(),
        })
        .collect()
}

/// The machine's network cards, under the ids that they had.
fn nics(native: &NativeVm, old: Option<&Stored<VirtualMachine>>, ids: &dyn IdSource) -> Vec<Nic> {
    let mut known: Vec<&Nic> = old.map(|v| v.observed.nics.iter().collect()).unwrap_or_default();
    // Each known card is found once: cards of one name keep their ids by their order.
    let mut find = |name: &str| known.iter().position(|k| k.name == name).map(|at| known.remove(at).id);
    native
        .nics
        .iter()
        .map(|n| Nic {
            id: find(&n.name).unwrap_or_else(|| NicId::from_uuid(ids.uuid())),
            name: n.name.clone(),
            mac: n.mac.clone(),
            network: None,
            addresses: n.addresses.clone(),
        })
        .collect()
}
