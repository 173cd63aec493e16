//! A cloud's nodes as machines that Portolan knows.

use crate::error::InventoryError;
use crate::plan::{Around, machine};
use crate::service::Inventory;
use portolan_driver::{CloudInfo, CloudNode, NodeRef, listing};
use portolan_model::external::{ExternalKind, ExternalRef};
use portolan_model::*;
use portolan_storage::{Conflict, StorageExt, StoreError, Stored, UnitOfWork};
use portolan_tasks::TaskFailure;
use std::collections::BTreeMap;

/// How often a unit is decided anew when others keep being faster.
pub(super) const ROUNDS: u32 = 32;

impl Inventory {
    /// The machine that a node is, if it is known.
    pub(super) async fn machine_of(
        &self,
        cloud: PlatformId,
        node: &NodeRef,
    ) -> Result<Option<Stored<VirtualMachine>>, StoreError> {
        let external = ExternalRef {
            platform: cloud,
            kind: ExternalKind::Vm,
            native_id: node.id.clone(),
            incarnation: node.incarnation.clone(),
        };
        self.storage.find_by_key::<VirtualMachine>(Scope::All, &format!("external:{}", external.key())).await
    }

    /// A unit that makes a node a known machine, and the machine. With a tenant it is given to that tenant, unless it
    /// belongs to one already; `None` leaves it to whoever it belongs to.
    pub(super) async fn note_node_in(
        &self,
        unit: UnitOfWork,
        platform: &Platform,
        info: &CloudInfo,
        node: &CloudNode,
        tenant: Option<TenantId>,
    ) -> Result<(UnitOfWork, VirtualMachine), StoreError> {
        let old = self.machine_of(platform.id, &node.reference()).await?;
        let version = old.as_ref().map_or(0, |vm| vm.version);
        let native = listing(info, std::slice::from_ref(node)).vms;
        let native = native.first().ok_or_else(|| StoreError::internal("a node is no machine"))?;
        let around = Around { host: None, cluster: None, datastores: &BTreeMap::new() };
        let mut vm = machine(platform, native, old.as_ref(), around, self.clock.now(), &*self.ids);
        vm.settings.tenant = vm.settings.tenant.or(tenant);
        let stored = Stored { version, value: vm };
        Ok((unit.update(&stored), stored.value))
    }

    /// A unit that takes a machine for gone, since its node was destroyed: no listing needs to say so.
    pub(super) async fn forget_node_in(
        &self,
        unit: UnitOfWork,
        cloud: PlatformId,
        node: &NodeRef,
    ) -> Result<UnitOfWork, StoreError> {
        Ok(match self.machine_of(cloud, node).await? {
            Some(mut vm) if vm.observed.present => {
                vm.observed.present = false;
                vm.observed.missed = crate::plan::MISSES_BEFORE_ABSENT;
                unit.update(&vm)
            }
            _ => unit,
        })
    }
}

/// The node that a machine is.
pub(super) fn node_of(vm: &VirtualMachine) -> NodeRef {
    NodeRef { id: vm.external.native_id.clone(), incarnation: vm.external.incarnation.clone() }
}

/// Whether somebody else was faster, so that the unit is decided anew.
pub(super) fn raced(e: &StoreError) -> bool {
    matches!(e, StoreError::Conflict(Conflict::Version { .. } | Conflict::Taken { .. }))
}

/// What a failure of the store means for a task.
pub(super) fn store_failure(e: StoreError) -> TaskFailure {
    match e {
        StoreError::Conflict(Conflict::TaskLost(_)) => TaskFailure::lost(),
        e => {
            tracing::warn!(error = &e as &dyn std::error::Error, "the store failed during work on a node");
            TaskFailure::transient("the store failed")
        }
    }
}

/// What a failure of a use case means for a task.
pub(super) fn failure(e: InventoryError) -> TaskFailure {
    match e {
        InventoryError::Cloud(e) => super::task_failure(&e),
        InventoryError::Store(e) => store_failure(e),
        other => TaskFailure::fatal(other.to_string()),
    }
}
