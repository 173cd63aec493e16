//! Making machines.

use crate::meta::{self, ImportMark, VmFile};
use crate::staging::Staging;
use crate::tree::{self, Tree, unreachable};
use crate::{inventory, run_blocking};
use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::{BlockError, BlockSink, check_range};
use portolan_driver::{DriverError, ImportRequest, ImportSession, NativeDatastore, NativeVm};
use portolan_model::IdSource;
use portolan_model::vm::PowerState;
use rustix::fs::{FallocateFlags, RenameFlags};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Zeros are written in pieces of this many bytes where a file cannot have holes.
const ZEROS: usize = 1 << 20;

/// An attempt at an import.
pub(crate) struct Import {
    inner: Arc<Inner>,
}

struct Inner {
    tree: Tree,
    ids: Arc<dyn IdSource>,
    request: ImportRequest,
    staging: Staging,
    /// The machine's place, below the root.
    target: PathBuf,
}

/// Begins or continues an import. See [`portolan_driver::Hypervisor::begin_import`].
pub(crate) fn begin(tree: Tree, ids: Arc<dyn IdSource>, request: ImportRequest) -> Result<Import, DriverError> {
    check_request(&request)?;
    let stores = inventory::datastores(&tree)?;
    let attempt = |(store, path): &(NativeDatastore, PathBuf)| -> (Staging, PathBuf) {
        let place = tree.root().join(path);
        let staging = Staging::new(place, store.native_id.clone(), request.token.clone(), request.fence);
        (staging, path.join(&request.name))
    };
    // An import goes on where it was begun, whatever was added to the tree since.
    for store in &stores {
        let (staging, target) = attempt(store);
        if let Some(mark) = committed(&tree, &target, &request.token) {
            if mark.fence > request.fence {
                return Err(DriverError::Fenced);
            }
            return Ok(Import { inner: Arc::new(Inner { tree, ids, request, staging, target }) });
        }
    }
    let begun = stores.iter().find(|store| attempt(store).0.dir().is_dir());
    let (staging, target) = match begun {
        Some(store) => attempt(store),
        None => {
            let (staging, target) = attempt(choose(&stores, &request)?);
            let there = std::fs::symlink_metadata(tree.root().join(&target)).is_ok();
            if there && !request.overwrite {
                return Err(taken(&request));
            }
            staging.sweep();
            (staging, target)
        }
    };
    staging.begin(&request, &*ids)?;
    Ok(Import { inner: Arc::new(Inner { tree, ids, request, staging, target }) })
}

fn taken(request: &ImportRequest) -> DriverError {
    DriverError::Conflict(format!("a machine '{}' is there already", request.name))
}

/// Whether a rename failed because something is there.
fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
}

/// The mark of the import that made the machine at `target`, if it is this import.
fn committed(tree: &Tree, target: &Path, token: &str) -> Option<ImportMark> {
    meta::read_vm_file(tree, target, &mut Vec::new()).import.filter(|mark| mark.token == token)
}

fn check_request(request: &ImportRequest) -> Result<(), DriverError> {
    let token = &request.token;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if token.is_empty() || token.len() > 100 || !token.bytes().all(plain) {
        return Err(DriverError::Unsupported(format!("the token '{token}': it must be a plain word")));
    }
    check_name("machine", &request.name, 255)?;
    let mut seen = HashSet::new();
    for disk in &request.disks {
        check_name("disk", &disk.name, 250)?;
        if !seen.insert(&disk.name) {
            return Err(DriverError::Conflict(format!("the disk '{}' is there twice", disk.name)));
        }
        match disk.format.as_deref() {
            None | Some("raw") => {}
            Some(other) => return Err(DriverError::Unsupported(format!("writing images of the format '{other}'"))),
        }
    }
    Ok(())
}

/// Names become file names: what cannot be one is refused rather than changed.
fn check_name(what: &str, name: &str, max: usize) -> Result<(), DriverError> {
    let refused = |why: &str| Err(DriverError::Unsupported(format!("the {what} name '{name}': {why}")));
    if name.is_empty() {
        refused("it is empty")
    } else if tree::is_hidden(name) {
        refused("such names are hidden here")
    } else if name.contains('/') || name.chars().any(char::is_control) {
        refused("it must contain neither '/' nor control characters")
    } else if name.len() > max {
        refused(&format!("it is longer than {max} bytes"))
    } else {
        Ok(())
    }
}

/// The datastore asked for; else the template's, if it is here; else the first of the host or cluster asked for.
fn choose<'a>(
    stores: &'a [(NativeDatastore, PathBuf)],
    request: &ImportRequest,
) -> Result<&'a (NativeDatastore, PathBuf), DriverError> {
    let find = |id: &str| stores.iter().find(|(store, _)| store.native_id == id);
    let known = |id: &String| find(id).ok_or_else(|| DriverError::NotFound { what: "datastore", id: id.clone() });
    let fits = |store: &NativeDatastore| {
        request.host.as_ref().is_none_or(|host| store.host.as_ref() == Some(host))
            && request.cluster.as_ref().is_none_or(|cluster| store.cluster.as_ref() == Some(cluster))
    };
    let asked = request.datastore.as_ref().or_else(|| request.disks.iter().find_map(|disk| disk.datastore.as_ref()));
    let chosen = match asked {
        Some(id) => {
            let chosen = known(id)?;
            if !fits(&chosen.0) {
                return Err(DriverError::Conflict(format!(
                    "the datastore '{id}' is not on the host or cluster asked for"
                )));
            }
            chosen
        }
        None => {
            let of_template = request.template.iter().flat_map(|vm| &vm.disks).find_map(|disk| disk.datastore.as_ref());
            let of_template = of_template.and_then(|id| find(id)).filter(|(store, _)| fits(store));
            let first = of_template.or_else(|| stores.iter().find(|(store, _)| fits(store)));
            let wanted = || request.host.clone().or_else(|| request.cluster.clone()).unwrap_or_default();
            first.ok_or_else(|| DriverError::NotFound { what: "datastore", id: wanted() })?
        }
    };
    for id in request.disks.iter().filter_map(|disk| disk.datastore.as_ref()) {
        if known(id)?.0.native_id != chosen.0.native_id {
            return Err(DriverError::Unsupported("disks of one machine on several datastores".into()));
        }
    }
    Ok(chosen)
}

impl Inner {
    fn open_disk(&self, name: &str) -> Result<(File, u64), DriverError> {
        let missing = || DriverError::NotFound { what: "disk", id: name.to_owned() };
        let size = self.request.disks.iter().find(|disk| disk.name == name).ok_or_else(missing)?.size_bytes;
        let Some(_held) = self.staging.lock_shared()? else {
            return Err(DriverError::Conflict(format!("the import '{}' has ended", self.request.token)));
        };
        let path = self.staging.disk_path(name);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| self.staging.failed("open", error))?;
        let found = file.metadata().map_err(|error| self.staging.failed("open", error))?.len();
        if found != size {
            return Err(DriverError::Malformed(format!("{} has {found} bytes, not {size}", path.display())));
        }
        Ok((file, size))
    }

    /// The machine, when this import made it. Its fence counts still: an older attempt has no say.
    fn is_committed(&self) -> Result<bool, DriverError> {
        match committed(&self.tree, &self.target, &self.request.token) {
            Some(mark) if mark.fence > self.request.fence => Err(DriverError::Fenced),
            mark => Ok(mark.is_some()),
        }
    }

    fn commit(&self) -> Result<NativeVm, DriverError> {
        // What is left at the staging's place once the machine is there was replaced by this very import: it is
        // not to be locked any more, only to be removed.
        if !self.is_committed()? {
            match self.staging.lock_alone()? {
                Some(_held) => self.publish()?,
                // Another process may have committed, or aborted, since the first look.
                None if self.is_committed()? => {}
                None => return Err(DriverError::NotFound { what: "import", id: self.request.token.clone() }),
            }
        }
        self.discard_leftover();
        Staging::tidy(&self.tree.root().join(&self.target));
        let described = inventory::describe(&self.tree, &*self.ids, &self.target)?;
        let gone = || DriverError::NotFound { what: "virtual machine", id: self.target.display().to_string() };
        Ok(described.ok_or_else(gone)?.vm)
    }

    /// Makes everything durable, then the machine visible by one rename, then the rename durable.
    fn publish(&self) -> Result<(), DriverError> {
        let failed = |error| self.staging.failed("commit", error);
        for disk in &self.request.disks {
            File::open(self.staging.disk_path(&disk.name)).and_then(|file| file.sync_all()).map_err(failed)?;
        }
        let template = self.request.template.as_ref();
        let about = VmFile {
            cpus: template.map_or(0, |vm| vm.cpus),
            memory_bytes: template.map_or(0, |vm| vm.memory_bytes),
            nics: template.map_or_else(Vec::new, |vm| vm.nics.clone()),
            tags: template.map_or_else(Vec::new, |vm| vm.tags.clone()),
            power: PowerState::Stopped,
            disks: self.request.disks.iter().map(|disk| disk.name.clone()).collect(),
            import: Some(ImportMark { token: self.request.token.clone(), fence: self.request.fence }),
        };
        let text = serde_json::to_vec_pretty(&about).map_err(|error| failed(error.into()))?;
        let dir = self.staging.dir();
        meta::write_file(&dir, meta::VM_FILE, &text).map_err(failed)?;
        let place = self.tree.root().join(&self.target);
        self.rename(&dir, &place)?;
        let store = place.parent().unwrap_or(&place);
        meta::sync_dir(store).map_err(|error| unreachable("commit", store, &error))
    }

    fn rename(&self, dir: &Path, place: &Path) -> Result<(), DriverError> {
        loop {
            let moved = match meta::rename_new(dir, place) {
                // Plainly renamed, a directory replaces nothing but an empty one, which is no machine either.
                Err(error) if meta::is_unsupported(&error) => std::fs::rename(dir, place),
                other => other,
            };
            match moved {
                Ok(()) => return Ok(()),
                Err(error) if !is_taken(&error) => return Err(self.staging.failed("commit", error)),
                Err(_) if !self.request.overwrite => return Err(taken(&self.request)),
                Err(_) => {}
            }
            if std::fs::metadata(place).is_ok_and(|found| !found.is_dir()) {
                return Err(DriverError::Conflict(format!("{} is not a machine", place.display())));
            }
            let cwd = rustix::fs::CWD;
            match rustix::fs::renameat_with(cwd, dir, cwd, place, RenameFlags::EXCHANGE).map_err(io::Error::from) {
                Ok(()) => return Ok(()),
                // The old machine went away in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound && dir.exists() => {}
                Err(error) if meta::is_unsupported(&error) => {
                    return Err(DriverError::Unsupported("replacing a machine on this file system".into()));
                }
                Err(error) => return Err(self.staging.failed("commit", error)),
            }
        }
    }

    /// After an exchange the replaced machine lies where the staging was.
    fn discard_leftover(&self) {
        if let Err(error) = self.staging.discard() {
            tracing::warn!(path = %self.staging.dir().display(), %error, "cannot remove a machine that was replaced");
        }
    }

    fn abort(&self) -> Result<(), DriverError> {
        if self.is_committed()? {
            self.discard_leftover();
            return Ok(());
        }
        let Some(_held) = self.staging.lock_alone()? else { return Ok(()) };
        self.staging.discard().map_err(|error| self.staging.failed("remove", error))
    }
}

#[async_trait]
impl ImportSession for Import {
    async fn disk(&self, name: &str) -> Result<Arc<dyn BlockSink>, DriverError> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        let sink = run_blocking(move || {
            let (file, size) = inner.open_disk(&name)?;
            Ok(RawSink { file: Arc::new(file), size, staging: inner.staging.clone() })
        });
        Ok(Arc::new(sink.await?))
    }

    async fn commit(&self) -> Result<NativeVm, DriverError> {
        let inner = self.inner.clone();
        run_blocking(move || inner.commit()).await
    }

    async fn abort(&self) -> Result<(), DriverError> {
        let inner = self.inner.clone();
        run_blocking(move || inner.abort()).await
    }
}

/// A raw image that is being written.
struct RawSink {
    file: Arc<File>,
    size: u64,
    staging: Staging,
}

impl RawSink {
    /// Runs `work` while no newer attempt can take over.
    async fn fenced(
        &self,
        action: &'static str,
        offset: u64,
        work: impl FnOnce(&File) -> io::Result<()> + Send + 'static,
    ) -> Result<(), BlockError> {
        let (file, staging) = (self.file.clone(), self.staging.clone());
        let done = tokio::task::spawn_blocking(move || {
            let held = staging.lock_shared().map_err(io::Error::other)?;
            let Some(_held) = held else { return Err(io::Error::other("the import has ended")) };
            work(&file)
        });
        let done = done.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlockError::NoSpace,
            _ => BlockError::Io { action, offset, source },
        })
    }
}

#[async_trait]
impl BlockSink for RawSink {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        check_range(offset, data.len() as u64, self.size)?;
        self.fenced("write", offset, move |file| file.write_all_at(&data, offset)).await
    }

    async fn zero(&self, range: Range<u64>) -> Result<(), BlockError> {
        check_range(range.start, range.end.saturating_sub(range.start), self.size)?;
        if range.start >= range.end {
            return Ok(());
        }
        self.fenced("write", range.start, move |file| zero(file, range)).await
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.fenced("flush", 0, |file| file.sync_data()).await
    }
}

fn zero(file: &File, range: Range<u64>) -> io::Result<()> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, hole, range.start, range.end - range.start) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        other => return other.map_err(Into::into),
    }
    let zeros = vec![0; ZEROS];
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(ZEROS as u64);
        file.write_all_at(&zeros[..len as usize], at)?;
        at += len;
    }
    Ok(())
}
