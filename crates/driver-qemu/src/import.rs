//! Imports: guests made of disks that are written here.
//!
//! The disks are made in a hidden directory of their datastore and written through a daemon; what is under way is
//! written down in `<root>/imports/<token>`. An attempt that takes over ends the daemon of the one before, and with it
//! every connection that could still write. At the commit the disks are moved to their place, and the guest's document
//! makes the guest: one rename, also where it replaces another guest's. All that is left then is removed, by whoever
//! comes by.

mod plan;
mod staged;

use crate::QemuError;
use crate::daemon::{Daemon, Served};
use crate::guest::{Guest, GuestState, blocking};
use crate::host::{QemuHost, Seen};
use crate::hypervisor::machine;
use crate::spec::{GuestSpec, ImportMark};
use async_trait::async_trait;
use portolan_block::BlockSink;
use portolan_driver::{DriverError, ImportRequest, ImportSession, NativeVm};
use portolan_model::vm::PowerState;
use portolan_nbd::{ClientOptions, NbdSink};
use staged::{DAEMON, Phase, Staged};
use std::sync::Arc;
use std::time::Duration;

/// How long a write, or making all of it durable, may take.
const WRITE_LIMIT: Duration = Duration::from_secs(120);

/// An attempt at an import.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    host: Arc<QemuHost>,
    request: ImportRequest,
}

/// See [`portolan_driver::Hypervisor::begin_import`].
pub(crate) async fn begin(host: Arc<QemuHost>, request: ImportRequest) -> Result<Import, DriverError> {
    plan::check(&host, &request)?;
    let import = Import { host, request };
    let this = import.clone();
    import.host.shared.whole(async move { this.begin().await }).await?;
    Ok(import)
}

fn taken(name: &str) -> DriverError {
    DriverError::Conflict(format!("a guest '{name}' is there already"))
}

impl Import {
    fn daemon(&self) -> Daemon {
        Daemon::new(staged::dir(&self.host.shared.layout, &self.request.token), DAEMON)
    }

    /// The guest that this import made, if it has. An older attempt than the one that did has no say.
    fn made(&self, all: &[Seen]) -> Result<Option<GuestSpec>, DriverError> {
        let token = &self.request.token;
        let of = |mark: &ImportMark| mark.token == *token;
        let found = all.iter().filter_map(Seen::spec).find(|spec| spec.import.as_ref().is_some_and(of));
        match found {
            Some(spec) if spec.import.as_ref().is_some_and(|mark| mark.fence > self.request.fence) => {
                Err(DriverError::Fenced)
            }
            found => Ok(found),
        }
    }

    /// Whether that guest has the name of the one that is made. Trials, which nobody sees, are in nobody's way.
    fn is_named(&self, seen: &Seen) -> bool {
        seen.spec().is_some_and(|spec| spec.name == self.request.name && !spec.is_hidden())
    }

    /// What is written down of it, by this attempt.
    async fn staged(&self) -> Result<Option<Staged>, DriverError> {
        match staged::read(&self.host.shared, &self.request.token).await? {
            Some(staged) if staged.fence != self.request.fence => Err(DriverError::Fenced),
            staged => Ok(staged),
        }
    }

    async fn begin(&self) -> Result<(), DriverError> {
        let shared = &self.host.shared;
        let (_turn, _lock) = self.host.alone().await?;
        let all = self.host.look(false).await?;
        if self.made(&all)?.is_some() {
            return Ok(staged::clear_committed(shared, &self.request.token).await?);
        }
        let wish = plan::wish(&self.host, &self.request).await?;
        let mut staged = match staged::read(shared, &self.request.token).await? {
            Some(staged) if staged.fence > self.request.fence => return Err(DriverError::Fenced),
            Some(staged) if !staged.is_of(&self.request) => {
                let what = format!("the import '{}' was begun for another guest or other disks", self.request.token);
                return Err(DriverError::Conflict(what));
            }
            Some(staged) => staged,
            None => {
                let there = all.iter().any(|seen| self.is_named(seen));
                if there && !self.request.overwrite {
                    return Err(taken(&self.request.name));
                }
                Staged { token: self.request.token.clone(), fence: self.request.fence, wish, phase: Phase::Making }
            }
        };
        // From here on every older attempt is out, also when this one dies at once. What it wrote is kept.
        staged.fence = self.request.fence;
        staged::write(shared, &staged).await?;
        if let Err(error) = self.daemon().end(true).await {
            // What was flushed is there; the rest nobody was promised.
            tracing::warn!(import = staged.token, error = error.text(), "the daemon of an import is killed");
            self.daemon().end(false).await?;
        }
        if staged.phase == Phase::Making {
            staged::make_disks(shared, &staged).await?;
            staged.phase = Phase::Writing;
            staged::write(shared, &staged).await?;
        }
        Ok(())
    }

    async fn open_disk(&self, name: &str) -> Result<NbdSink, DriverError> {
        let missing = || DriverError::NotFound { what: "disk", id: name.to_owned() };
        let place = self.request.disks.iter().position(|disk| disk.name == name).ok_or_else(missing)?;
        let (_turn, _lock) = self.host.alone().await?;
        let shared = &self.host.shared;
        let ended = || DriverError::Conflict(format!("the import '{}' has ended", self.request.token));
        let staged = self.staged().await?.filter(|staged| staged.phase == Phase::Writing).ok_or_else(ended)?;
        if !self.daemon().runs() {
            let node = |(n, _)| Served {
                node: staged.node(&shared.layout, n),
                name: staged::disk_id(n),
                writable: true,
                bitmap: None,
            };
            let served: Vec<_> = staged.wish.disks.iter().enumerate().map(node).collect();
            self.daemon().start(&shared.programs, &served).await?;
        }
        let options = ClientOptions { request_timeout: WRITE_LIMIT, ..ClientOptions::default() };
        let connection = self.daemon().connect(&staged::disk_id(place), &options).await;
        let sink = connection.and_then(NbdSink::new);
        sink.map_err(|e| DriverError::Block(e.into()))
    }

    async fn commit_now(&self) -> Result<NativeVm, DriverError> {
        let shared = &self.host.shared;
        let (_turn, _lock) = self.host.alone().await?;
        let all = self.host.look(false).await?;
        if let Some(spec) = self.made(&all)? {
            staged::clear_committed(shared, &self.request.token).await?;
            return Ok(machine(&spec, PowerState::Stopped, &[]));
        }
        let gone = || DriverError::NotFound { what: "import", id: self.request.token.clone() };
        let mut staged = self.staged().await?.filter(|staged| staged.phase != Phase::Making).ok_or_else(gone)?;
        // It writes out what it holds; nobody writes any more from here on.
        self.daemon().end(true).await?;
        let of_name: Vec<&Seen> = all.iter().filter(|seen| self.is_named(seen)).collect();
        let replaced = match &of_name[..] {
            [] => None,
            _ if !self.request.overwrite => return Err(taken(&self.request.name)),
            [Seen::Own(guest)] => Some(guest.clone()),
            [_] => return Err(QemuError::Elsewhere(self.request.name.clone()).into()),
            _ => {
                let what = format!("several guests are called '{}'", self.request.name);
                return Err(DriverError::Conflict(what));
            }
        };
        let spec = match &replaced {
            Some(guest) => self.replace(guest, &mut staged, &all).await?,
            None => {
                let id = match &staged.phase {
                    Phase::Committing { guest, .. } => guest.clone(),
                    _ => self.host.free_id(),
                };
                let spec = plan::spec(&self.host, &self.request, &staged, &id, None, &all)?;
                staged.phase = Phase::Committing { guest: id, files: plan::files(&spec), old: Vec::new() };
                staged::write(shared, &staged).await?;
                staged::move_disks(shared, &staged).await?;
                let (layout, written) = (shared.layout.clone(), spec.clone());
                blocking(move || layout.make_guest(&written)).await?;
                spec
            }
        };
        staged::clear_committed(shared, &self.request.token).await?;
        Ok(machine(&spec, PowerState::Stopped, &[]))
    }

    /// Puts the new guest in the place of one that is off.
    async fn replace(&self, guest: &Arc<Guest>, staged: &mut Staged, all: &[Seen]) -> Result<GuestSpec, DriverError> {
        let shared = &self.host.shared;
        let busy = |state: &str| {
            DriverError::Conflict(format!("the guest '{}' is {state}: turn it off first", self.request.name))
        };
        let _still = guest.turn.try_lock().map_err(|_| busy("busy"))?;
        if !matches!(guest.observed().state, GuestState::Stopped | GuestState::Failed) || guest.pid().is_some() {
            return Err(busy("not off"));
        }
        // A QEMU that nobody knows of runs on the disks that are about to go.
        if guest.find_process().await?.is_some() {
            return Err(busy("not off"));
        }
        // Nor is its disks' backup begun until the new ones are there.
        let exports = guest.exports.lock().await;
        crate::export::end_offline_within(guest, &exports, "the guest was replaced").await?;
        guest.end_move().await?;
        let before = guest.spec();
        let spec = plan::spec(&self.host, &self.request, staged, &before.id, Some(&before), all)?;
        let old = plan::files(&before);
        staged.phase = Phase::Committing { guest: before.id.clone(), files: plan::files(&spec), old };
        staged::write(shared, staged).await?;
        staged::move_disks(shared, staged).await?;
        let written = spec.clone();
        guest.change(move |now| *now = written).await?;
        guest.set(GuestState::Stopped, None);
        Ok(spec)
    }

    async fn abort_now(&self) -> Result<(), DriverError> {
        let shared = &self.host.shared;
        let (_turn, _lock) = self.host.alone().await?;
        let all = self.host.look(false).await?;
        if self.made(&all)?.is_some() {
            return Ok(staged::clear_committed(shared, &self.request.token).await?);
        }
        let Some(staged) = self.staged().await? else { return Ok(()) };
        self.daemon().end(false).await?;
        Ok(staged::discard(shared, &staged).await?)
    }
}

#[async_trait]
impl ImportSession for Import {
    async fn disk(&self, name: &str) -> Result<Arc<dyn BlockSink>, DriverError> {
        let (this, name) = (self.clone(), name.to_owned());
        let sink = self.host.shared.whole(async move { this.open_disk(&name).await }).await?;
        Ok(Arc::new(sink))
    }

    async fn commit(&self) -> Result<NativeVm, DriverError> {
        let this = self.clone();
        self.host.shared.whole(async move { this.commit_now().await }).await
    }

    async fn abort(&self) -> Result<(), DriverError> {
        let this = self.clone();
        self.host.shared.whole(async move { this.abort_now().await }).await
    }
}

/// For when a host is opened: what commits left behind is removed.
pub(crate) async fn sweep(host: &QemuHost, all: &[Seen]) -> Result<(), QemuError> {
    let dir = host.shared.layout.imports();
    let names = blocking(move || {
        let entries = std::fs::read_dir(&dir).map_err(QemuError::file("list", &dir))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>())
    });
    for token in names.await? {
        let made = |spec: GuestSpec| spec.import.is_some_and(|mark| mark.token == token);
        if all.iter().filter_map(Seen::spec).any(made) {
            staged::clear_committed(&host.shared, &token).await?;
        }
    }
    Ok(())
}
