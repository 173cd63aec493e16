//! A hypervisor in memory that tests script: machines come and go, disks change, calls fail or wait on cue, and
//! every call and every byte read is counted.
//!
//! The value is the *platform*: clones share it, and it outlives any `Arc<dyn Hypervisor>` made of it, so a test
//! restarts Portolan by dropping everything else. Export sessions and imports survive such a restart, as the port
//! asks.

mod call;
mod machine;
mod state;

pub use call::{Call, ReadLog};

use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::{BlockError, BlockExtent, BlockSink, BlockSource, MemorySource, check_range};
use portolan_driver::{
    AbandonedExport, AbandonedInstant, AbandonedMove, Capabilities, DriverError, ExportRequest, ExportSession,
    Exported, ExportedDisk, HomeObserver, Hypervisor, ImportRequest, ImportSession, InstantRequest, InstantSession,
    Inventory, MachineSnapshot, MoveRequest, NativeVm, PowerRequest, Readiness, SnapshotRef, SnapshotRequest,
};
use portolan_model::policy::Consistency;
use state::{Fault, Gate, Import, State};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The platform in memory. See the module's text.
#[derive(Clone)]
pub struct FakeHypervisor {
    state: Arc<Mutex<State>>,
}

/// Calls at one point wait while this value lives; dropping it lets them all go on.
pub struct Hold {
    gate: Arc<Gate>,
}

impl Hold {
    /// Waits until at least `n` calls wait here, or have waited.
    pub async fn arrived(&self, n: u64) {
        let mut seen = self.gate.arrived.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = seen.wait_for(|count| *count >= n).await;
    }

    /// Lets the waiting calls, and all later ones, go on.
    pub fn release(self) {}
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.gate.open.send_replace(true);
    }
}

impl Default for FakeHypervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeHypervisor {
    /// A platform with the cluster `cluster-1`, the host `host-1`, the datastore `store-1` (1 TiB) and no
    /// machines. It can do everything but [`Capabilities::changed_blocks`].
    pub fn new() -> Self {
        Self { state: Arc::new(Mutex::new(State::new())) }
    }

    /// The platform as the port sees it.
    pub fn port(&self) -> Arc<dyn Hypervisor> {
        Arc::new(self.clone())
    }

    /// Replaces the capabilities. With `changed_blocks`, exports name checkpoints and report changes since them.
    pub fn set_capabilities(&self, capabilities: Capabilities) {
        self.lock().capabilities = capabilities;
    }

    /// Changes the inventory at will. Contents of disks that it drops are forgotten at the next export.
    pub fn update<R>(&self, change: impl FnOnce(&mut Inventory) -> R) -> R {
        change(&mut self.lock().inventory)
    }

    /// Makes a stopped machine on `host-1` with the next native id, `vm-1`, `vm-2`, … Disks are name and content.
    pub fn add_vm(&self, name: &str, disks: &[(&str, Vec<u8>)]) -> NativeVm {
        self.lock().add_vm(None, name, disks)
    }

    /// As [`FakeHypervisor::add_vm`], under this native id, in a new incarnation; a machine that has it goes.
    pub fn add_vm_as(&self, native_id: &str, name: &str, disks: &[(&str, Vec<u8>)]) -> NativeVm {
        self.lock().add_vm(Some(native_id), name, disks)
    }

    /// Removes a machine and its disks. Says whether it was there.
    pub fn remove_vm(&self, native_id: &str) -> bool {
        self.lock().remove_vm(native_id)
    }

    /// The machine of that native id, as the inventory lists it.
    pub fn vm(&self, native_id: &str) -> Option<NativeVm> {
        self.lock().inventory.vms.iter().find(|vm| vm.native_id == native_id).cloned()
    }

    /// The machine of that name, as the inventory lists it.
    pub fn vm_named(&self, name: &str) -> Option<NativeVm> {
        self.lock().inventory.vms.iter().find(|vm| vm.name == name).cloned()
    }

    /// What the disk of that native id or name holds now.
    pub fn disk(&self, vm: &str, disk: &str) -> Option<Vec<u8>> {
        self.lock().content(vm, disk).cloned()
    }

    /// Replaces a disk's content and size. What differs counts as changed. Panics when there is no such disk.
    pub fn set_disk(&self, vm: &str, disk: &str, content: Vec<u8>) {
        self.lock().set_disk(vm, disk, content);
    }

    /// Writes into a disk, as its machine would. Panics when there is no such disk or it is too small.
    pub fn write_disk(&self, vm: &str, disk: &str, offset: u64, data: &[u8]) {
        self.lock().write_disk(vm, disk, offset, data);
    }

    /// Forgets every checkpoint: the next incremental export says [`portolan_driver::Changes::Lost`].
    pub fn forget_checkpoints(&self) {
        self.lock().checkpoints.clear();
    }

    /// The checkpoints that there are.
    pub fn checkpoints(&self) -> Vec<String> {
        self.lock().checkpoints.keys().cloned().collect()
    }

    /// How machines are brought to rest from now on, and what there is to say about it.
    pub fn set_rest(&self, consistency: Consistency, frozen: Option<Duration>, notes: &[&str]) {
        let notes = notes.iter().map(|note| (*note).to_owned()).collect();
        self.lock().rest = state::Rest { consistency, frozen, notes };
    }

    /// Whether an export session that is opened again finds its moment, as it does at first. A platform that does
    /// not opens what is there now, under another [`Exported::moment`] when a disk changed.
    pub fn set_holds_moments(&self, holds: bool) {
        self.lock().holds_moments = holds;
    }

    /// Makes the next `times` calls at this point fail. Several scripts for one point run one after the other.
    /// For [`Call::Read`], [`Call::Extents`], [`Call::Write`] and [`Call::Flush`] a [`DriverError::Block`] is
    /// unwrapped, and any other error is an I/O error with its text.
    pub fn fail(&self, at: Call, times: u32, error: impl Fn() -> DriverError + Send + Sync + 'static) {
        self.fail_after(at, 0, times, error);
    }

    /// As [`FakeHypervisor::fail`], after `skip` calls that succeed.
    pub fn fail_after(&self, at: Call, skip: u32, times: u32, error: impl Fn() -> DriverError + Send + Sync + 'static) {
        self.lock().faults.push(Fault { at, skip, times, error: Box::new(error) });
    }

    /// Ends all scripted failures.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Makes calls at this point wait, before they fail or do anything, until the [`Hold`] is dropped.
    #[must_use]
    pub fn hold(&self, at: Call) -> Hold {
        let gate = Arc::new(Gate::default());
        self.lock().gates.insert(at, gate.clone());
        Hold { gate }
    }

    /// How often this point was reached, failed calls included.
    pub fn calls(&self, at: Call) -> u64 {
        self.lock().calls.get(&at).copied().unwrap_or(0)
    }

    /// Every successful read of an exported disk so far, in order.
    pub fn reads(&self) -> Vec<ReadLog> {
        self.lock().reads.clone()
    }

    /// How many bytes were read from exported disks so far.
    pub fn bytes_read(&self) -> u64 {
        self.lock().reads.iter().map(|read| read.range.end - read.range.start).sum()
    }

    /// Forgets what [`FakeHypervisor::calls`] and [`FakeHypervisor::reads`] counted.
    pub fn reset_counts(&self) {
        let mut state = self.lock();
        state.calls.clear();
        state.reads.clear();
    }

    /// Tokens of the export sessions that were not released.
    pub fn open_exports(&self) -> Vec<String> {
        self.lock().exports.keys().cloned().collect()
    }

    /// Tokens of the moves that have begun, and have not ended.
    pub fn open_moves(&self) -> Vec<String> {
        self.lock().machines.moves.keys().cloned().collect()
    }

    /// Tokens of the machines that run from a backup, and do not stand alone yet.
    pub fn open_instants(&self) -> Vec<String> {
        self.lock().machines.open()
    }

    /// What [`portolan_driver::InstantSession::ready`] answers from now on; at first that a machine is ready at once.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.lock().machines.readiness = readiness;
    }

    /// Tokens of the imports that were begun and neither committed nor aborted.
    pub fn pending_imports(&self) -> Vec<String> {
        self.lock().imports.iter().filter(|(_, i)| i.committed.is_none()).map(|(token, _)| token.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, waits where it is held, and fails where it is scripted to.
    async fn enter(&self, at: Call) -> Result<(), DriverError> {
        let gate = {
            let mut state = self.lock();
            *state.calls.entry(at).or_default() += 1;
            state.gates.get(&at).cloned()
        };
        if let Some(gate) = gate {
            gate.pass().await;
        }
        self.lock().fault(at).map_or(Ok(()), Err)
    }

    async fn enter_block(&self, at: Call, action: &'static str, offset: u64) -> Result<(), BlockError> {
        self.enter(at).await.map_err(|error| match error {
            DriverError::Block(error) => error,
            other => BlockError::Io { action, offset, source: std::io::Error::other(other.to_string()) },
        })
    }
}

#[async_trait]
impl Hypervisor for FakeHypervisor {
    fn capabilities(&self) -> Capabilities {
        self.lock().capabilities
    }

    async fn inventory(&self) -> Result<Inventory, DriverError> {
        self.enter(Call::Inventory).await?;
        Ok(self.lock().inventory.clone())
    }

    async fn open_export(&self, request: ExportRequest) -> Result<Box<dyn ExportSession>, DriverError> {
        self.enter(Call::OpenExport).await?;
        let export = self.lock().open_export(&request)?;
        let disks = export
            .disks
            .iter()
            .map(|disk| ExportedDisk {
                native_id: disk.native_id.clone(),
                name: disk.name.clone(),
                source: Arc::new(FakeSource {
                    platform: self.clone(),
                    vm: request.vm.clone(),
                    disk: disk.native_id.clone(),
                    inner: MemorySource::new(disk.content.clone()),
                }),
                changes: disk.changes.clone(),
            })
            .collect();
        Ok(Box::new(FakeExport {
            platform: self.clone(),
            exported: Exported {
                vm: export.vm.clone(),
                disks,
                moment: export.moment.clone(),
                checkpoint: export.checkpoint.clone(),
                consistency: export.rest.consistency,
                frozen: export.rest.frozen,
                notes: export.rest.notes.clone(),
            },
            token: request.token,
            fence: request.fence,
        }))
    }

    async fn abandon_export(&self, export: AbandonedExport) -> Result<(), DriverError> {
        self.enter(Call::Release).await?;
        self.lock().release(&export.token, export.fence, false)
    }

    async fn begin_import(&self, request: ImportRequest) -> Result<Box<dyn ImportSession>, DriverError> {
        self.enter(Call::BeginImport).await?;
        if !self.capabilities().import {
            return Err(DriverError::Unsupported("imports".into()));
        }
        self.lock().begin_import(&request)?;
        Ok(Box::new(FakeImport { platform: self.clone(), token: request.token, fence: request.fence }))
    }

    async fn power(&self, request: PowerRequest) -> Result<(), DriverError> {
        self.enter(Call::Power).await?;
        self.lock().power(&request)
    }

    async fn create_snapshot(&self, request: SnapshotRequest) -> Result<MachineSnapshot, DriverError> {
        self.enter(Call::Snapshot).await?;
        self.lock().create_snapshot(request)
    }

    async fn list_snapshots(&self, vm: &str, incarnation: &str) -> Result<Vec<MachineSnapshot>, DriverError> {
        self.lock().list_snapshots(vm, incarnation)
    }

    async fn revert_snapshot(&self, snapshot: SnapshotRef) -> Result<(), DriverError> {
        self.enter(Call::Snapshot).await?;
        self.lock().revert_snapshot(&snapshot)
    }

    async fn delete_snapshot(&self, snapshot: SnapshotRef) -> Result<(), DriverError> {
        self.enter(Call::Snapshot).await?;
        self.lock().delete_snapshot(&snapshot)
    }

    async fn begin_instant(&self, request: InstantRequest) -> Result<Box<dyn InstantSession>, DriverError> {
        self.enter(Call::BeginInstant).await?;
        Ok(Box::new(machine::FakeInstant::begin(self, request).await?))
    }

    async fn move_machine(&self, request: MoveRequest, observer: &HomeObserver<'_>) -> Result<NativeVm, DriverError> {
        machine::move_machine(self, &request, observer).await
    }

    async fn abandon_move(&self, abandoned: AbandonedMove) -> Result<(), DriverError> {
        self.enter(Call::Abort).await?;
        self.lock().end_move(&abandoned.token, abandoned.fence)
    }

    async fn abandon_instant(&self, instant: AbandonedInstant) -> Result<(), DriverError> {
        self.enter(Call::Abort).await?;
        self.lock().end_instant(&instant.token, instant.fence)
    }
}

struct FakeSource {
    platform: FakeHypervisor,
    vm: String,
    disk: String,
    inner: MemorySource,
}

#[async_trait]
impl BlockSource for FakeSource {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        self.platform.enter_block(Call::Extents, "map", range.start).await?;
        self.inner.extents(range).await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlockError> {
        self.platform.enter_block(Call::Read, "read", offset).await?;
        let data = self.inner.read_at(offset, len).await?;
        let read = ReadLog { vm: self.vm.clone(), disk: self.disk.clone(), range: offset..offset + len as u64 };
        self.platform.lock().reads.push(read);
        Ok(data)
    }
}

struct FakeExport {
    platform: FakeHypervisor,
    exported: Exported,
    token: String,
    fence: i64,
}

#[async_trait]
impl ExportSession for FakeExport {
    fn exported(&self) -> &Exported {
        &self.exported
    }

    async fn release(&self, keep_checkpoint: bool) -> Result<(), DriverError> {
        self.platform.enter(Call::Release).await?;
        self.platform.lock().release(&self.token, self.fence, keep_checkpoint)
    }
}

struct FakeImport {
    platform: FakeHypervisor,
    token: String,
    fence: i64,
}

#[async_trait]
impl ImportSession for FakeImport {
    async fn disk(&self, name: &str) -> Result<Arc<dyn BlockSink>, DriverError> {
        self.platform.enter(Call::Disk).await?;
        let size = self.platform.lock().import_disk(&self.token, self.fence, name)?;
        Ok(Arc::new(FakeSink {
            platform: self.platform.clone(),
            token: self.token.clone(),
            fence: self.fence,
            name: name.to_owned(),
            size,
        }))
    }

    async fn commit(&self) -> Result<NativeVm, DriverError> {
        self.platform.enter(Call::Commit).await?;
        let vm = self.platform.lock().commit(&self.token, self.fence)?;
        self.platform.enter(Call::Committed).await?;
        Ok(vm)
    }

    async fn abort(&self) -> Result<(), DriverError> {
        self.platform.enter(Call::Abort).await?;
        self.platform.lock().abort(&self.token, self.fence)
    }
}

struct FakeSink {
    platform: FakeHypervisor,
    token: String,
    fence: i64,
    name: String,
    size: u64,
}

impl FakeSink {
    /// Changes the disk's content, unless a newer attempt owns it.
    fn change(&self, offset: u64, change: impl FnOnce(&mut Vec<u8>)) -> Result<(), BlockError> {
        let mut state = self.platform.lock();
        let disk =
            state.import(&self.token, self.fence).and_then(|i| Import::disk(i, &self.name)).map_err(|error| {
                BlockError::Io { action: "write", offset, source: std::io::Error::other(error.to_string()) }
            })?;
        change(disk);
        Ok(())
    }
}

#[async_trait]
impl BlockSink for FakeSink {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        check_range(offset, data.len() as u64, self.size)?;
        self.platform.enter_block(Call::Write, "write", offset).await?;
        let at = offset as usize;
        self.change(offset, |disk| disk[at..at + data.len()].copy_from_slice(&data))
    }

    async fn zero(&self, range: Range<u64>) -> Result<(), BlockError> {
        check_range(range.start, range.end.saturating_sub(range.start), self.size)?;
        self.platform.enter_block(Call::Write, "write", range.start).await?;
        let range = range.start as usize..range.end.max(range.start) as usize;
        self.change(range.start as u64, |disk| disk[range].fill(0))
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.platform.enter_block(Call::Flush, "flush", 0).await
    }
}
