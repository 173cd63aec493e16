//! What the fake platform holds, and what its calls do to it. All of it runs under one lock.

use super::{Call, ReadLog};
use bytes::Bytes;
use portolan_block::union;
use portolan_driver::{
    Capabilities, Changes, DriverError, ExportRequest, ImportRequest, Inventory, NativeCluster, NativeDatastore,
    NativeDisk, NativeHost, NativeVm,
};
use portolan_model::policy::Consistency;
use portolan_model::vm::PowerState;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How finely changes are told apart, in bytes.
const GRAIN: usize = 4096;

/// Where calls wait.
pub(super) struct Gate {
    pub(super) arrived: watch::Sender<u64>,
    pub(super) open: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { arrived: watch::Sender::new(0), open: watch::Sender::new(false) }
    }
}

impl Gate {
    pub(super) async fn pass(&self) {
        let mut open = self.open.subscribe();
        self.arrived.send_modify(|count| *count += 1);
        // The sender lives in `self`, so waiting cannot fail.
        let _ = open.wait_for(|open| *open).await;
    }
}

/// A scripted failure.
pub(super) struct Fault {
    pub(super) at: Call,
    pub(super) skip: u32,
    pub(super) times: u32,
    pub(super) error: Box<dyn Fn() -> DriverError + Send + Sync>,
}

/// A disk as an export session fixed it.
#[derive(Clone)]
pub(super) struct FixedDisk {
    pub(super) native_id: String,
    pub(super) name: String,
    pub(super) content: Bytes,
    pub(super) changes: Changes,
}

/// An export session that was not released.
#[derive(Clone)]
pub(super) struct Export {
    pub(super) vm: NativeVm,
    pub(super) disks: Vec<FixedDisk>,
    pub(super) moment: String,
    pub(super) checkpoint: Option<String>,
    pub(super) rest: Rest,
    fence: i64,
}

/// How machines are brought to rest.
#[derive(Clone)]
pub(super) struct Rest {
    pub(super) consistency: Consistency,
    pub(super) frozen: Option<Duration>,
    pub(super) notes: Vec<String>,
}

impl Default for Rest {
    fn default() -> Self {
        Self { consistency: Consistency::NotApplicable, frozen: None, notes: Vec::new() }
    }
}

/// What changed on one machine since one moment, by disk.
pub(super) struct Checkpoint {
    vm: String,
    incarnation: String,
    dirty: HashMap<String, Vec<Range<u64>>>,
}

/// An import, also after its commit: a repeated commit finds it.
pub(super) struct Import {
    fence: i64,
    request: ImportRequest,
    disks: Vec<(String, Vec<u8>)>,
    pub(super) committed: Option<NativeVm>,
}

impl Import {
    pub(super) fn disk<'a>(import: &'a mut Self, name: &str) -> Result<&'a mut Vec<u8>, DriverError> {
        let disk = import.disks.iter_mut().find(|(known, _)| known == name).map(|(_, content)| content);
        disk.ok_or_else(|| DriverError::NotFound { what: "disk", id: name.to_owned() })
    }
}

pub(super) struct State {
    pub(super) capabilities: Capabilities,
    pub(super) holds_moments: bool,
    pub(super) inventory: Inventory,
    pub(super) faults: Vec<Fault>,
    pub(super) gates: HashMap<Call, Arc<Gate>>,
    pub(super) calls: BTreeMap<Call, u64>,
    pub(super) reads: Vec<ReadLog>,
    pub(super) exports: BTreeMap<String, Export>,
    pub(super) imports: BTreeMap<String, Import>,
    pub(super) checkpoints: BTreeMap<String, Checkpoint>,
    pub(super) rest: Rest,
    pub(super) machines: super::machine::Machines,
    pub(super) contents: HashMap<(String, String), Vec<u8>>,
    counter: u64,
}

impl State {
    pub(super) fn new() -> Self {
        let cluster = Some("cluster-1".to_owned());
        let inventory = Inventory {
            clusters: vec![NativeCluster { native_id: "cluster-1".into(), name: "cluster-1".into() }],
            hosts: vec![NativeHost {
                native_id: "host-1".into(),
                name: "host-1".into(),
                address: "192.0.2.1".into(),
                cluster: cluster.clone(),
            }],
            datastores: vec![NativeDatastore {
                native_id: "store-1".into(),
                name: "store-1".into(),
                cluster,
                host: Some("host-1".into()),
                total_bytes: 1 << 40,
                free_bytes: 1 << 39,
            }],
            vms: Vec::new(),
            problems: Vec::new(),
        };
        Self {
            capabilities: Capabilities {
                changed_blocks: false,
                live_export: true,
                import: true,
                power: true,
                snapshots: true,
                instant: true,
                moves: true,
            },
            holds_moments: true,
            inventory,
            faults: Vec::new(),
            gates: HashMap::new(),
            calls: BTreeMap::new(),
            reads: Vec::new(),
            exports: BTreeMap::new(),
            imports: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            rest: Rest::default(),
            machines: super::machine::Machines::default(),
            contents: HashMap::new(),
            counter: 0,
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(super) fn fault(&mut self, at: Call) -> Option<DriverError> {
        let index = self.faults.iter().position(|fault| fault.at == at)?;
        let fault = &mut self.faults[index];
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        let error = (fault.times > 0).then(|| (fault.error)());
        fault.times = fault.times.saturating_sub(1);
        if fault.times == 0 {
            self.faults.remove(index);
        }
        error
    }

    pub(super) fn add_vm(&mut self, id: Option<&str>, name: &str, disks: &[(&str, Vec<u8>)]) -> NativeVm {
        let native_id = id.map_or_else(|| format!("vm-{}", self.next()), str::to_owned);
        self.remove_vm(&native_id);
        let mut vm = NativeVm {
            native_id: native_id.clone(),
            incarnation: format!("inc-{}", self.next()),
            name: name.to_owned(),
            host: Some("host-1".into()),
            cluster: Some("cluster-1".into()),
            power: PowerState::Stopped,
            disks: Vec::new(),
            nics: Vec::new(),
            cpus: 2,
            memory_bytes: 1 << 30,
            tags: Vec::new(),
        };
        for (index, (disk, content)) in disks.iter().enumerate() {
            let disk_id = format!("disk-{index}");
            vm.disks.push(NativeDisk {
                native_id: disk_id.clone(),
                name: (*disk).to_owned(),
                size_bytes: content.len() as u64,
                datastore: Some("store-1".into()),
                supported: true,
                format: "raw".into(),
            });
            self.contents.insert((native_id.clone(), disk_id), content.clone());
        }
        self.inventory.vms.push(vm.clone());
        vm
    }

    pub(super) fn remove_vm(&mut self, native_id: &str) -> bool {
        self.contents.retain(|(vm, _), _| vm != native_id);
        let before = self.inventory.vms.len();
        self.inventory.vms.retain(|vm| vm.native_id != native_id);
        self.inventory.vms.len() < before
    }

    /// The native id of the disk that has `disk` as its native id or name.
    fn disk_id(&self, vm: &str, disk: &str) -> Option<String> {
        let vm = self.inventory.vms.iter().find(|known| known.native_id == vm)?;
        let by_id = vm.disks.iter().find(|known| known.native_id == disk);
        Some(by_id.or_else(|| vm.disks.iter().find(|known| known.name == disk))?.native_id.clone())
    }

    pub(super) fn content(&self, vm: &str, disk: &str) -> Option<&Vec<u8>> {
        self.contents.get(&(vm.to_owned(), self.disk_id(vm, disk)?))
    }

    pub(super) fn set_disk(&mut self, vm: &str, disk: &str, content: Vec<u8>) {
        let id = self.disk_id(vm, disk).unwrap_or_else(|| panic!("no disk '{disk}' on '{vm}'"));
        for known in self.inventory.vms.iter_mut().filter(|known| known.native_id == vm) {
            for known in known.disks.iter_mut().filter(|known| known.native_id == id) {
                known.size_bytes = content.len() as u64;
            }
        }
        let old = self.contents.insert((vm.to_owned(), id.clone()), content).unwrap_or_default();
        let new = &self.contents[&(vm.to_owned(), id.clone())];
        let mut dirty = Vec::new();
        for (index, grain) in new.chunks(GRAIN).enumerate() {
            let start = index * GRAIN;
            if old.get(start..start + grain.len()) != Some(grain) {
                dirty.push(start as u64..(start + grain.len()) as u64);
            }
        }
        self.mark(vm, &id, &dirty);
    }

    pub(super) fn write_disk(&mut self, vm: &str, disk: &str, offset: u64, data: &[u8]) {
        let id = self.disk_id(vm, disk).unwrap_or_else(|| panic!("no disk '{disk}' on '{vm}'"));
        let at = offset as usize;
        if let Some(content) = self.contents.get_mut(&(vm.to_owned(), id.clone())) {
            content[at..at + data.len()].copy_from_slice(data);
        }
        self.mark(vm, &id, std::slice::from_ref(&(offset..offset + data.len() as u64)));
    }

    fn mark(&mut self, vm: &str, disk: &str, dirty: &[Range<u64>]) {
        for checkpoint in self.checkpoints.values_mut().filter(|checkpoint| checkpoint.vm == vm) {
            let known = checkpoint.dirty.entry(disk.to_owned()).or_default();
            *known = union(known.drain(..).chain(dirty.iter().cloned()));
        }
    }

    pub(super) fn open_export(&mut self, request: &ExportRequest) -> Result<Export, DriverError> {
        if let Some(export) = self.exports.get_mut(&request.token) {
            if export.vm.native_id != request.vm || export.vm.incarnation != request.incarnation {
                return Err(DriverError::Conflict(format!("'{}' exports another machine", request.token)));
            }
            if request.fence < export.fence {
                return Err(DriverError::Fenced);
            }
            export.fence = request.fence;
            if self.holds_moments {
                return Ok(export.clone());
            }
        }
        let found = self.inventory.vms.iter().find(|vm| vm.native_id == request.vm);
        let vm = found
            .filter(|vm| vm.incarnation == request.incarnation)
            .cloned()
            .ok_or_else(|| DriverError::NotFound { what: "virtual machine", id: request.vm.clone() })?;
        let wanted: Vec<&NativeDisk> = match &request.disks {
            None => vm.disks.iter().filter(|disk| disk.supported).collect(),
            Some(ids) => {
                for id in ids {
                    let disk = vm.disks.iter().find(|disk| disk.native_id == *id);
                    if !disk.ok_or_else(|| DriverError::NotFound { what: "disk", id: id.clone() })?.supported {
                        return Err(DriverError::Unsupported(format!("the disk '{id}'")));
                    }
                }
                vm.disks.iter().filter(|disk| ids.contains(&disk.native_id)).collect()
            }
        };
        let kept = |id: &String| request.keep.contains(id) || request.since.as_ref() == Some(id);
        self.checkpoints.retain(|id, c| c.vm != vm.native_id || c.incarnation != vm.incarnation || kept(id));
        let since = request.since.as_ref().map(|since| self.checkpoints.get(since));
        let of_vm = |c: &&Checkpoint| c.vm == vm.native_id && c.incarnation == vm.incarnation;
        let since = since.map(|since| since.filter(of_vm));
        let mut disks = Vec::new();
        for disk in wanted {
            let key = (vm.native_id.clone(), disk.native_id.clone());
            let content = self.contents.get(&key);
            let content =
                content.ok_or_else(|| DriverError::NotFound { what: "disk", id: disk.native_id.clone() })?.clone();
            let changes = match since {
                Some(Some(since)) if self.capabilities.changed_blocks => {
                    Changes::Ranges(since.dirty.get(&disk.native_id).cloned().unwrap_or_default())
                }
                Some(None) if self.capabilities.changed_blocks => Changes::Lost("its checkpoint is gone".into()),
                _ => Changes::Unknown,
            };
            let (native_id, name) = (disk.native_id.clone(), disk.name.clone());
            disks.push(FixedDisk { native_id, name, content: content.into(), changes });
        }
        let checkpoint = self.capabilities.changed_blocks.then(|| format!("checkpoint-{}", self.next()));
        if let Some(id) = &checkpoint {
            let (vm, incarnation) = (vm.native_id.clone(), vm.incarnation.clone());
            self.checkpoints.insert(id.clone(), Checkpoint { vm, incarnation, dirty: HashMap::new() });
        }
        let mut moment = DefaultHasher::new();
        vm.incarnation.hash(&mut moment);
        for disk in &disks {
            (&disk.native_id, &disk.content).hash(&mut moment);
        }
        let moment = format!("{:016x}", moment.finish());
        let rest = self.rest.clone();
        let export = Export { vm, disks, moment, checkpoint, rest, fence: request.fence };
        self.exports.insert(request.token.clone(), export.clone());
        Ok(export)
    }

    pub(super) fn release(&mut self, token: &str, fence: i64, keep: bool) -> Result<(), DriverError> {
        match self.exports.get(token) {
            Some(export) if export.fence > fence => return Err(DriverError::Fenced),
            Some(export) => {
                if let (Some(checkpoint), false) = (&export.checkpoint, keep) {
                    self.checkpoints.remove(checkpoint);
                }
            }
            None => {}
        }
        self.exports.remove(token);
        Ok(())
    }

    pub(super) fn begin_import(&mut self, request: &ImportRequest) -> Result<(), DriverError> {
        if let Some(import) = self.imports.get_mut(&request.token) {
            if request.fence < import.fence {
                return Err(DriverError::Fenced);
            }
            if import.request.name != request.name || import.request.disks != request.disks {
                return Err(DriverError::Conflict(format!("'{}' imports another machine", request.token)));
            }
            import.fence = request.fence;
            return Ok(());
        }
        let wanted = request.disks.iter().map(|disk| &disk.datastore).chain([&request.datastore]);
        for id in wanted.flatten() {
            if !self.inventory.datastores.iter().any(|store| store.native_id == *id) {
                return Err(DriverError::NotFound { what: "datastore", id: id.clone() });
            }
        }
        let mut disks: Vec<(String, Vec<u8>)> = Vec::new();
        for disk in &request.disks {
            if disk.name.is_empty() || disk.name.contains('/') || disk.name.starts_with('.') {
                return Err(DriverError::Unsupported(format!("the disk name '{}'", disk.name)));
            }
            if disks.iter().any(|(name, _)| *name == disk.name) {
                return Err(DriverError::Conflict(format!("the disk '{}' is there twice", disk.name)));
            }
            let size = usize::try_from(disk.size_bytes).ok().filter(|size| *size < 1 << 40);
            let size = size.ok_or_else(|| DriverError::NoSpace(disk.name.clone()))?;
            disks.push((disk.name.clone(), vec![0; size]));
        }
        self.check_name(request)?;
        let import = Import { fence: request.fence, request: request.clone(), disks, committed: None };
        self.imports.insert(request.token.clone(), import);
        Ok(())
    }

    fn check_name(&self, request: &ImportRequest) -> Result<(), DriverError> {
        if !request.overwrite && self.inventory.vms.iter().any(|vm| vm.name == request.name) {
            return Err(DriverError::Conflict(format!("a machine '{}' is there already", request.name)));
        }
        Ok(())
    }

    /// The import, for the holder of its newest fence.
    pub(super) fn import(&mut self, token: &str, fence: i64) -> Result<&mut Import, DriverError> {
        match self.imports.get_mut(token) {
            None => Err(DriverError::NotFound { what: "import", id: token.to_owned() }),
            Some(import) if import.fence > fence => Err(DriverError::Fenced),
            Some(import) => Ok(import),
        }
    }

    pub(super) fn import_disk(&mut self, token: &str, fence: i64, name: &str) -> Result<u64, DriverError> {
        let import = self.import(token, fence)?;
        if import.committed.is_some() {
            return Err(DriverError::Conflict("the machine was committed already".into()));
        }
        Ok(Import::disk(import, name)?.len() as u64)
    }

    pub(super) fn commit(&mut self, token: &str, fence: i64) -> Result<NativeVm, DriverError> {
        let import = self.import(token, fence)?;
        if let Some(vm) = &import.committed {
            return Ok(vm.clone());
        }
        let (request, disks) = (import.request.clone(), std::mem::take(&mut import.disks));
        if let Err(error) = self.check_name(&request) {
            self.import(token, fence)?.disks = disks;
            return Err(error);
        }
        let replaced = self.inventory.vms.iter().find(|vm| vm.name == request.name).map(|vm| vm.native_id.clone());
        let borrowed: Vec<(&str, Vec<u8>)> = disks.iter().map(|(n, c)| (n.as_str(), c.clone())).collect();
        let mut vm = self.add_vm(replaced.as_deref(), &request.name, &borrowed);
        if let Some(template) = &request.template {
            vm.cpus = template.cpus;
            vm.memory_bytes = template.memory_bytes;
            vm.nics = template.nics.clone();
            vm.tags = template.tags.clone();
        }
        for (disk, wish) in vm.disks.iter_mut().zip(&request.disks) {
            let store = wish.datastore.clone().or_else(|| request.datastore.clone());
            disk.datastore = store.or_else(|| self.inventory.datastores.first().map(|s| s.native_id.clone()));
        }
        if let Some(listed) = self.inventory.vms.last_mut() {
            *listed = vm.clone();
        }
        self.import(token, fence)?.committed = Some(vm.clone());
        Ok(vm)
    }

    pub(super) fn abort(&mut self, token: &str, fence: i64) -> Result<(), DriverError> {
        match self.imports.get(token) {
            Some(import) if import.fence > fence => Err(DriverError::Fenced),
            Some(import) if import.committed.is_some() => Ok(()),
            _ => {
                self.imports.remove(token);
                Ok(())
            }
        }
    }
}
