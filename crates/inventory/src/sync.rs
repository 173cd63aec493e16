//! Sync: one complete listing, decided by [`crate::plan`], written in bounded units.

use crate::error::InventoryError;
use crate::plan::{Known, Plan, plan};
use crate::service::Inventory;
use crate::tidy::tidy;
use portolan_driver::{CloudDriverExt, DriverError, Inventory as Listing, listing};
use portolan_model::query::Filter;
use portolan_model::*;
use portolan_storage::{Conflict, Query, Record, Require, StorageExt, StoreError, Stored, UnitOfWork};
use portolan_tasks::Held;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Objects in one unit: bounds a transaction on a platform with many thousand machines.
const BATCH: usize = 200;
/// How often a plan is made anew because somebody changed a machine meanwhile.
const ROUNDS: u32 = 16;

/// What a sync changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// Machines in the listing.
    pub vms: u64,
    /// Objects seen for the first time.
    pub added: u64,
    /// Objects written, new ones included.
    pub written: u64,
    /// Objects that count as absent from now on.
    pub gone: u64,
    /// What is there but cannot be used.
    pub problems: Vec<String>,
}

impl Inventory {
    /// Lists a platform and writes what has changed. When the platform does not answer, or its listing is not
    /// complete, nothing about its machines changes. `held` fences every write by the task that runs the sync.
    pub async fn sync_platform(&self, id: PlatformId, held: Option<Held>) -> Result<SyncReport, InventoryError> {
        let platform = self.storage.fetch::<Platform>(Scope::All, id).await?;
        let absent = Filter::eq("platform", id.uuid()).and(Filter::eq("present", false));
        let absent = self.storage.list_of::<VirtualMachine>(Scope::All, Query::matching(absent)).await?.items;
        let absent: BTreeSet<VmId> = absent.iter().map(|vm| vm.id).collect();
        let listing = self.listing_of(id).await;
        let listing = match listing {
            Ok(listing) => listing,
            Err(e) => {
                let text = e.to_string();
                self.storage
                    .change::<Platform, _>(self.clock.now(), Scope::All, id, |p| {
                        (p.last_error != text).then(|| {
                            p.last_error.clone_from(&text);
                            fenced(held)
                        })
                    })
                    .await?;
                return Err(e.into());
            }
        };
        let listing = tidy(listing);
        let mut report = self.write_listing(&platform, &listing, &absent, held).await?;
        let now = self.clock.now();
        self.storage
            .change::<Platform, _>(now, Scope::All, id, |p| {
                p.last_sync = Some(now);
                p.last_error.clear();
                Some(fenced(held))
            })
            .await?;
        report.problems.clone_from(&listing.problems);
        for problem in &listing.problems {
            tracing::warn!(platform = %platform.name, problem, "the platform lists something unusable");
        }
        Ok(report)
    }

    /// What the platform has now. One that is both says as a hypervisor what it says as a cloud, and disks and hosts.
    async fn listing_of(&self, id: PlatformId) -> Result<Listing, DriverError> {
        if let Ok(hypervisor) = self.drivers.hypervisors.get(id) {
            return hypervisor.inventory().await;
        }
        let cloud = self.drivers.clouds.get(id)?;
        Ok(listing(&cloud.info(), &cloud.nodes().await?))
    }

    /// `absent` are the machines that were gone before the platform was asked. One that went since was destroyed while
    /// the listing was under way: what the listing says of it may be of the time before.
    async fn write_listing(
        &self,
        platform: &Platform,
        listing: &Listing,
        absent: &BTreeSet<VmId>,
        held: Option<Held>,
    ) -> Result<SyncReport, InventoryError> {
        let mut report = SyncReport { vms: listing.vms.len() as u64, ..SyncReport::default() };
        let mut counted = BTreeSet::new();
        for round in 0.. {
            let known = self.known(platform.id).await?;
            let before = counted.clone();
            let listing =
                without(listing, known.vms.iter().filter(|vm| !vm.observed.present && !absent.contains(&vm.id)));
            let plan = plan(platform, &listing, &known, self.clock.now(), &*self.ids, &mut counted);
            let (added, gone) = (plan.added, plan.gone);
            match self.write_plan(plan, held).await {
                Ok(written) => {
                    report.added += added;
                    report.gone += gone;
                    report.written += written;
                    return Ok(report);
                }
                // Somebody changed a machine, or another sync made one, between the read and the write. Units that
                // went through before the conflict are read back as they are; an absence that was not written is
                // counted anew.
                Err((done, StoreError::Conflict(Conflict::Version { .. } | Conflict::Taken { .. })))
                    if round < ROUNDS =>
                {
                    report.written += done.len() as u64;
                    counted = before.union(&done).copied().collect();
                }
                Err((_, e)) => return Err(e.into()),
            }
        }
        Ok(report)
    }

    async fn known(&self, platform: PlatformId) -> Result<Known, StoreError> {
        let of = || Query::matching(Filter::eq("platform", platform.uuid()));
        Ok(Known {
            clusters: self.storage.list_of::<Cluster>(Scope::All, of()).await?.items,
            hosts: self.storage.list_of::<Host>(Scope::All, of()).await?.items,
            datastores: self.storage.list_of::<Datastore>(Scope::All, of()).await?.items,
            vms: self.storage.list_of::<VirtualMachine>(Scope::All, of()).await?.items,
        })
    }

    /// Writes a plan, batch by batch. On an error, also says which objects had been written by then.
    async fn write_plan(&self, plan: Plan, held: Option<Held>) -> Result<u64, (BTreeSet<uuid::Uuid>, StoreError)> {
        let mut writes: Vec<(uuid::Uuid, UnitOfWork)> = Vec::new();
        gather(&mut writes, plan.clusters);
        gather(&mut writes, plan.hosts);
        gather(&mut writes, plan.datastores);
        gather(&mut writes, plan.vms);
        let mut done = BTreeSet::new();
        for batch in writes.chunks(BATCH) {
            let mut unit = fenced(held);
            for (_, write) in batch {
                unit.require.extend(write.require.iter().cloned());
                unit.change.extend(write.change.iter().cloned());
            }
            if let Err(e) = self.storage.apply_all(self.clock.now(), unit).await {
                return Err((done, e));
            }
            done.extend(batch.iter().map(|(id, _)| *id));
        }
        Ok(done.len() as u64)
    }
}

/// The listing without these machines.
fn without<'a>(listing: &'a Listing, gone: impl Iterator<Item = &'a Stored<VirtualMachine>>) -> Cow<'a, Listing> {
    let gone: BTreeSet<(&str, &str)> =
        gone.map(|vm| (vm.external.native_id.as_str(), vm.external.incarnation.as_str())).collect();
    if gone.is_empty() {
        return Cow::Borrowed(listing);
    }
    let mut listing = listing.clone();
    listing.vms.retain(|vm| !gone.contains(&(vm.native_id.as_str(), vm.incarnation.as_str())));
    Cow::Owned(listing)
}

fn gather<R: Record>(into: &mut Vec<(uuid::Uuid, UnitOfWork)>, objects: Vec<Stored<R>>) {
    into.extend(objects.iter().map(|o| (o.value.id().uuid(), UnitOfWork::new().update(o))));
}

fn fenced(held: Option<Held>) -> UnitOfWork {
    match held {
        Some(held) => UnitOfWork::new().require(Require::TaskHeld(held)),
        None => UnitOfWork::new(),
    }
}
