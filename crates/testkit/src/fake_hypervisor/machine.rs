//! Power, snapshots and machines that run from a backup, in memory.

use super::state::State;
use super::{Call, FakeHypervisor};
use async_trait::async_trait;
use portolan_driver::{
    DriverError, HomeObserver, HomeProgress, InstantDisk, InstantRequest, InstantSession, MachineSnapshot, MoveRequest,
    NativeVm, PowerAction, PowerRequest, Readiness, Ready, SnapshotRef, SnapshotRequest,
};
use portolan_model::Timestamp;
use portolan_model::vm::PowerState;
use std::collections::BTreeMap;
use std::time::Duration;

/// How much is brought home at once.
const PIECE: usize = 64 << 10;

/// What is known of machines beside the inventory.
pub(super) struct Machines {
    /// By machine and incarnation.
    snapshots: BTreeMap<(String, String), Vec<Snapshot>>,
    instants: BTreeMap<String, Instant>,
    /// The newest fence of each move, by its token.
    pub(super) moves: BTreeMap<String, i64>,
    pub(super) readiness: Readiness,
}

impl Default for Machines {
    fn default() -> Self {
        let readiness = Readiness::Reached(Duration::from_secs(1));
        Self { snapshots: BTreeMap::new(), instants: BTreeMap::new(), moves: BTreeMap::new(), readiness }
    }
}

impl Machines {
    pub(super) fn open(&self) -> Vec<String> {
        self.instants.iter().filter(|(_, one)| !one.home).map(|(token, _)| token.clone()).collect()
    }
}

struct Snapshot {
    told: MachineSnapshot,
    disks: Vec<(String, Vec<u8>)>,
}

struct Instant {
    fence: i64,
    vm: NativeVm,
    isolated: bool,
    home: bool,
}

impl State {
    fn machine(&mut self, id: &str, incarnation: &str) -> Result<&mut NativeVm, DriverError> {
        let found = self.inventory.vms.iter_mut().find(|vm| vm.native_id == id && vm.incarnation == incarnation);
        found.ok_or_else(|| DriverError::NotFound { what: "virtual machine", id: id.to_owned() })
    }

    pub(super) fn power(&mut self, request: &PowerRequest) -> Result<(), DriverError> {
        if !self.capabilities.power {
            return Err(DriverError::Unsupported("power".into()));
        }
        let vm = self.machine(&request.vm, &request.incarnation)?;
        match request.action {
            PowerAction::Start => vm.power = PowerState::Running,
            PowerAction::Shutdown { .. } | PowerAction::Off => vm.power = PowerState::Stopped,
            PowerAction::Reboot | PowerAction::Reset if vm.power == PowerState::Stopped => {
                return Err(DriverError::Conflict(format!("the machine '{}' is off", request.vm)));
            }
            PowerAction::Reboot | PowerAction::Reset => {}
        }
        Ok(())
    }

    fn snapshots(&mut self, vm: &str, incarnation: &str) -> Result<&mut Vec<Snapshot>, DriverError> {
        if !self.capabilities.snapshots {
            return Err(DriverError::Unsupported("snapshots".into()));
        }
        self.machine(vm, incarnation)?;
        Ok(self.machines.snapshots.entry((vm.to_owned(), incarnation.to_owned())).or_default())
    }

    pub(super) fn create_snapshot(&mut self, request: SnapshotRequest) -> Result<MachineSnapshot, DriverError> {
        let known = self.snapshots(&request.vm, &request.incarnation)?;
        if let Some(known) = known.iter().find(|one| one.told.token == request.token) {
            return Ok(known.told.clone());
        }
        let vm = self.machine(&request.vm, &request.incarnation)?.clone();
        if request.memory && vm.power != PowerState::Running {
            return Err(DriverError::Conflict("the machine does not run: there is no memory to keep".into()));
        }
        if self.machines.instants.values().any(|one| !one.home && one.vm.native_id == vm.native_id) {
            return Err(DriverError::Conflict("the machine's data is in a backup still".into()));
        }
        let number = self.next();
        let told = MachineSnapshot {
            native_id: format!("snapshot-{number}"),
            token: request.token,
            name: request.name,
            memory: request.memory,
            created_at: Timestamp::from_millis(i64::try_from(number).unwrap_or(i64::MAX)),
        };
        let content = |disk: &portolan_driver::NativeDisk| {
            let held = self.contents.get(&(vm.native_id.clone(), disk.native_id.clone())).cloned();
            (disk.native_id.clone(), held.unwrap_or_default())
        };
        let disks = vm.disks.iter().map(content).collect();
        self.snapshots(&request.vm, &request.incarnation)?.push(Snapshot { told: told.clone(), disks });
        Ok(told)
    }

    pub(super) fn list_snapshots(&mut self, vm: &str, incarnation: &str) -> Result<Vec<MachineSnapshot>, DriverError> {
        Ok(self.snapshots(vm, incarnation)?.iter().map(|one| one.told.clone()).collect())
    }

    pub(super) fn revert_snapshot(&mut self, wish: &SnapshotRef) -> Result<(), DriverError> {
        let known = self.snapshots(&wish.vm, &wish.incarnation)?;
        let known = known.iter().find(|one| one.told.native_id == wish.snapshot);
        let missing = || DriverError::NotFound { what: "snapshot", id: wish.snapshot.clone() };
        let disks = known.ok_or_else(missing)?.disks.clone();
        for (disk, content) in disks {
            self.set_disk(&wish.vm, &disk, content);
        }
        Ok(())
    }

    pub(super) fn delete_snapshot(&mut self, wish: &SnapshotRef) -> Result<(), DriverError> {
        self.snapshots(&wish.vm, &wish.incarnation)?.retain(|one| one.told.native_id != wish.snapshot);
        Ok(())
    }

    /// Lets a move in whose fence is the newest.
    fn admit_move(&mut self, token: &str, fence: i64) -> Result<(), DriverError> {
        let newest = self.machines.moves.entry(token.to_owned()).or_insert(fence);
        if *newest > fence {
            return Err(DriverError::Fenced);
        }
        *newest = fence;
        Ok(())
    }

    pub(super) fn end_move(&mut self, token: &str, fence: i64) -> Result<(), DriverError> {
        if self.machines.moves.get(token).is_some_and(|newest| *newest > fence) {
            return Err(DriverError::Fenced);
        }
        self.machines.moves.remove(token);
        Ok(())
    }

    /// The machine of that token, for the holder of its newest fence.
    fn instant(&mut self, token: &str, fence: i64) -> Result<&mut Instant, DriverError> {
        match self.machines.instants.get_mut(token) {
            None => Err(DriverError::NotFound { what: "virtual machine", id: token.to_owned() }),
            Some(one) if one.fence > fence => Err(DriverError::Fenced),
            Some(one) => Ok(one),
        }
    }

    fn begin_instant(&mut self, request: &InstantRequest) -> Result<(), DriverError> {
        if !self.capabilities.instant {
            return Err(DriverError::Unsupported("machines that run from a backup".into()));
        }
        match self.instant(&request.token, request.fence) {
            Ok(known) if !request.isolated && !known.isolated => {
                let there = known.vm.disks.iter().map(|disk| (disk.name.as_str(), disk.size_bytes));
                let wanted = request.disks.iter().map(|disk| (disk.name.as_str(), disk.source.size()));
                if known.vm.name != request.name || !there.eq(wanted) {
                    return Err(DriverError::Conflict(format!("'{}' makes another machine", request.token)));
                }
                known.fence = request.fence;
                let (id, incarnation) = (known.vm.native_id.clone(), known.vm.incarnation.clone());
                if let Ok(vm) = self.machine(&id, &incarnation) {
                    vm.power = PowerState::Running;
                    return Ok(());
                }
            }
            Err(DriverError::Fenced) => return Err(DriverError::Fenced),
            _ => {}
        }
        if let Some(store) = &request.datastore
            && !self.inventory.datastores.iter().any(|known| known.native_id == *store)
        {
            return Err(DriverError::NotFound { what: "datastore", id: store.clone() });
        }
        for (n, disk) in request.disks.iter().enumerate() {
            if disk.name.is_empty() || request.disks[..n].iter().any(|other| other.name == disk.name) {
                return Err(DriverError::Conflict(format!("the disk '{}' has no name, or not its own", disk.name)));
            }
        }
        if request.disks.is_empty() {
            return Err(DriverError::Unsupported("a machine without disks".into()));
        }
        if !request.isolated && self.inventory.vms.iter().any(|vm| vm.name == request.name) {
            return Err(DriverError::Conflict(format!("a machine '{}' is there already", request.name)));
        }
        // What it reads is in its sources; the fake's machines write nothing by themselves.
        let disks: Vec<(&str, Vec<u8>)> = request
            .disks
            .iter()
            .map(|disk| (disk.name.as_str(), vec![0; usize::try_from(disk.source.size()).unwrap_or(0)]))
            .collect();
        let mut vm = self.add_vm(None, &request.name, &disks);
        vm.power = PowerState::Running;
        if let Some(template) = &request.template {
            (vm.cpus, vm.memory_bytes) = (template.cpus, template.memory_bytes);
            vm.nics = if request.isolated { Vec::new() } else { template.nics.clone() };
            vm.tags.clone_from(&template.tags);
        }
        for disk in &mut vm.disks {
            disk.datastore = request.datastore.clone().or_else(|| disk.datastore.clone());
        }
        self.inventory.vms.retain(|known| known.native_id != vm.native_id);
        if !request.isolated {
            self.inventory.vms.push(vm.clone());
        }
        let made = Instant { fence: request.fence, vm, isolated: request.isolated, home: false };
        self.machines.instants.insert(request.token.clone(), made);
        Ok(())
    }

    pub(super) fn end_instant(&mut self, token: &str, fence: i64) -> Result<(), DriverError> {
        match self.instant(token, fence) {
            Ok(known) if known.home => Ok(()),
            Ok(known) => {
                let id = known.vm.native_id.clone();
                self.machines.instants.remove(token);
                self.remove_vm(&id);
                Ok(())
            }
            Err(DriverError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Moves a machine disk by disk; nothing of it is seen before the end.
pub(super) async fn move_machine(
    platform: &FakeHypervisor,
    request: &MoveRequest,
    observer: &HomeObserver<'_>,
) -> Result<NativeVm, DriverError> {
    let vm = {
        let mut state = platform.lock();
        if !state.capabilities.moves {
            return Err(DriverError::Unsupported("moves between datastores".into()));
        }
        if !state.inventory.datastores.iter().any(|known| known.native_id == request.datastore) {
            return Err(DriverError::NotFound { what: "datastore", id: request.datastore.clone() });
        }
        state.admit_move(&request.token, request.fence)?;
        state.machine(&request.vm, &request.incarnation)?.clone()
    };
    let total = vm.disks.iter().map(|disk| disk.size_bytes).sum();
    let mut done = 0;
    for disk in &vm.disks {
        platform.enter(Call::Move).await?;
        done += disk.size_bytes;
        observer(HomeProgress { done, total });
    }
    platform.enter(Call::Move).await?;
    let mut state = platform.lock();
    state.admit_move(&request.token, request.fence)?;
    let vm = state.machine(&request.vm, &request.incarnation)?;
    vm.disks.iter_mut().for_each(|disk| disk.datastore = Some(request.datastore.clone()));
    let vm = vm.clone();
    state.machines.moves.remove(&request.token);
    Ok(vm)
}

pub(super) struct FakeInstant {
    platform: FakeHypervisor,
    token: String,
    fence: i64,
    isolated: bool,
    vm: NativeVm,
    disks: Vec<InstantDisk>,
}

impl FakeInstant {
    pub(super) async fn begin(platform: &FakeHypervisor, request: InstantRequest) -> Result<Self, DriverError> {
        let vm = {
            let mut state = platform.lock();
            state.begin_instant(&request)?;
            state.instant(&request.token, request.fence)?.vm.clone()
        };
        let InstantRequest { token, fence, isolated, disks, .. } = request;
        Ok(Self { platform: platform.clone(), token, fence, isolated, vm, disks })
    }
}

impl Drop for FakeInstant {
    fn drop(&mut self) {
        if self.isolated {
            // Of a newer one nothing is taken away.
            let _ = self.platform.lock().end_instant(&self.token, self.fence);
        }
    }
}

#[async_trait]
impl InstantSession for FakeInstant {
    fn vm(&self) -> NativeVm {
        self.platform.vm(&self.vm.native_id).unwrap_or_else(|| self.vm.clone())
    }

    async fn bring_home(&self, observer: &HomeObserver<'_>) -> Result<NativeVm, DriverError> {
        if self.isolated {
            return Err(DriverError::Conflict("a trial has no home".into()));
        }
        if self.platform.lock().instant(&self.token, self.fence)?.home {
            return Ok(self.vm());
        }
        let total = self.disks.iter().map(|disk| disk.source.size()).sum();
        let mut done = 0;
        for (disk, known) in self.disks.iter().zip(&self.vm.disks) {
            let mut at = 0;
            while at < disk.source.size() {
                self.platform.enter(Call::BringHome).await?;
                let len = PIECE.min(usize::try_from(disk.source.size() - at).unwrap_or(PIECE));
                let data = disk.source.read_at(at, len).await?;
                let mut state = self.platform.lock();
                state.instant(&self.token, self.fence)?;
                state.write_disk(&self.vm.native_id, &known.native_id, at, &data);
                drop(state);
                (at, done) = (at + len as u64, done + len as u64);
                observer(HomeProgress { done, total });
            }
        }
        self.platform.lock().instant(&self.token, self.fence)?.home = true;
        Ok(self.vm())
    }

    async fn ready(&self, _within: Duration, _sign: Ready) -> Result<Readiness, DriverError> {
        self.platform.enter(Call::Ready).await?;
        let mut state = self.platform.lock();
        state.instant(&self.token, self.fence)?;
        Ok(state.machines.readiness.clone())
    }

    async fn abort(&self) -> Result<(), DriverError> {
        self.platform.enter(Call::Abort).await?;
        self.platform.lock().end_instant(&self.token, self.fence)
    }
}
