//! The host: all guests under one directory, those of this process and those of others.

pub(crate) mod plan;

use crate::accel::AccelChoice;
use crate::guest::{Guest, GuestState, Observed, Shared, blocking};
use crate::image::{self, Template};
use crate::layout::{LOCK, Layout, SEED, open_private, sync_dir, write_durably};
use crate::process;
use crate::programs::Programs;
use crate::seed::Seed;
use crate::spec::{BaseFile, Desired, GuestSpec, Phase};
use crate::{QemuError, QemuSettings};
use portolan_driver::Extra;
use portolan_model::{Clock, IdSource};
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A wish for a guest.
#[derive(Debug, Clone, Default)]
pub struct NewGuest {
    /// The name.
    pub name: String,
    /// Id of the image.
    pub image: String,
    /// Id of the size.
    pub size: String,
    /// A second wish of the same token is answered with the first one's guest; empty for none.
    pub token: String,
    /// A public key to log in with, in OpenSSH's form.
    pub ssh_key: Option<String>,
    /// What cloud-init is to do.
    pub user_data: Option<String>,
    /// What is kept with the guest.
    pub metadata: Extra,
}

/// A guest as it is seen from here.
#[derive(Debug, Clone)]
pub enum Seen {
    /// One that this process owns.
    Own(Arc<Guest>),
    /// One of another Portolan node: its document, and whether it runs.
    Elsewhere(Box<GuestSpec>, bool),
    /// One whose document cannot be read: its id, and why.
    Damaged(String, String),
}

impl Seen {
    /// Its document.
    pub fn spec(&self) -> Option<GuestSpec> {
        match self {
            Self::Own(guest) => Some(guest.spec()),
            Self::Elsewhere(spec, _) => Some((**spec).clone()),
            Self::Damaged(..) => None,
        }
    }
}

/// All guests under a directory. Dropping it leaves the guests running; see [`QemuHost::close`].
pub struct QemuHost {
    pub(crate) shared: Arc<Shared>,
    guests: Mutex<BTreeMap<String, Arc<Guest>>>,
    /// Templates that were looked at, by the files they are made of.
    confirmed: Mutex<Vec<Vec<BaseFile>>>,
    /// Held while guests are looked for, made and forgotten.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for QemuHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QemuHost").field("root", &self.shared.layout.root).finish_non_exhaustive()
    }
}

impl Drop for QemuHost {
    fn drop(&mut self) {
        self.shared.closing.cancel();
    }
}

impl QemuHost {
    /// Opens the directory: makes what is missing, ends what was left half done, and takes over the guests that run.
    pub async fn open(
        settings: QemuSettings,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
    ) -> Result<Arc<Self>, QemuError> {
        settings.check()?;
        if settings.root.to_str().is_none() {
            return Err(QemuError::Settings("'root' must be text".into()));
        }
        let programs = Programs::find(&settings).await?;
        let root = settings.root.clone();
        let layout = blocking(move || Layout::open(&root)).await?;
        let shared = Arc::new(Shared {
            settings,
            programs,
            layout,
            accel: AccelChoice::default(),
            clock,
            ids,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        });
        let host = Arc::new(Self {
            shared,
            guests: Mutex::default(),
            confirmed: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        });
        let turn = host.turn.lock().await;
        let layout = host.shared.layout.clone();
        let _lock = blocking(move || {
            let lock = layout.lock()?;
            layout.sweep_gone()?;
            Ok(lock)
        })
        .await?;
        let all = host.look(true).await?;
        crate::import::sweep(&host, &all).await?;
        drop(turn);
        Ok(host)
    }

    /// Ends all work of this process on the guests, and gives them up. They run on.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.guests().clear();
    }

    /// The settings.
    pub fn settings(&self) -> &QemuSettings {
        &self.shared.settings
    }

    /// The programs that guests are run with.
    pub fn programs(&self) -> &Programs {
        &self.shared.programs
    }

    fn guests(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Guest>>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All guests, in the order of their ids. Those whose owner is gone are taken over.
    pub async fn list(self: &Arc<Self>) -> Result<Vec<Seen>, QemuError> {
        // Whoever gives up must not leave a guest half taken over.
        let host = self.clone();
        self.shared.detached(async move { host.list_now().await }).await
    }

    async fn list_now(&self) -> Result<Vec<Seen>, QemuError> {
        let _turn = self.turn.lock().await;
        let mut all = self.look(false).await?;
        all.retain(|seen| !seen.spec().is_some_and(|spec| spec.is_hidden()));
        Ok(all)
    }

    /// Looks at the directory. `opening`: the lock over it is held, and what was left half done is ended.
    pub(crate) async fn look(&self, opening: bool) -> Result<Vec<Seen>, QemuError> {
        let layout = self.shared.layout.clone();
        let ids = blocking(move || layout.guest_ids()).await?;
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let own = self.guests().get(&id).cloned();
            match own {
                Some(guest) if guest.spec().phase == Phase::Deleting => {}
                Some(guest) => all.push(Seen::Own(guest)),
                None => all.extend(self.learn(id, opening).await?),
            }
        }
        Ok(all)
    }

    /// Looks at a guest that is not one of this process yet.
    async fn learn(&self, id: String, opening: bool) -> Result<Option<Seen>, QemuError> {
        let (layout, name) = (self.shared.layout.clone(), id.clone());
        let found = blocking(move || {
            let lock = layout.try_own(&name)?;
            let spec = match layout.read_spec(&name) {
                Ok(spec) => spec,
                Err(error) => return Ok(Err(error.text())),
            };
            let dir = layout.guest(&name);
            match (spec, lock) {
                // Its making was cut off before it was written down; somebody else's may be under way.
                (None, Some(_)) if opening => layout.remove_directory(&name).map(|()| Ok(None)),
                (None, _) => Ok(Ok(None)),
                // So is a trial whose owner is gone.
                (Some(spec), Some(_)) if spec.phase == Phase::Deleting || spec.is_hidden() => {
                    if let Some(process) = process::find(&dir, spec.uuid) {
                        process.kill();
                    }
                    crate::daemon::Daemon::kill(&dir, crate::export::DAEMON);
                    layout.remove_guest(&spec).map(|()| Ok(None))
                }
                (Some(spec), None) if spec.phase == Phase::Deleting => Ok(Ok(None)),
                (Some(spec), None) => {
                    let runs = process::is_running(&dir, spec.uuid);
                    Ok(Ok(Some((spec, None, None, runs))))
                }
                (Some(spec), Some(lock)) => {
                    let process = process::find(&dir, spec.uuid);
                    let runs = process.is_some();
                    Ok(Ok(Some((spec, Some(lock), process, runs))))
                }
            }
        })
        .await?;
        let (spec, lock, process, runs) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(reason) => return Ok(Some(Seen::Damaged(id, reason))),
        };
        let Some(lock) = lock else { return Ok(Some(Seen::Elsewhere(Box::new(spec), runs))) };
        let seen = |state, reason: Option<String>| Observed { state, reason };
        let should_run = spec.desired == Desired::Running;
        let first = match (&spec.phase, &process) {
            (_, Some(_)) => seen(GuestState::Starting, None),
            // Whoever made it begins it again, with the backup that its data is in.
            (Phase::Preparing, None) if spec.is_remote_at_all() => {
                seen(GuestState::Stopped, Some("the backup that its data is in is not served".into()))
            }
            (Phase::Preparing, None) => seen(GuestState::Pending, None),
            (Phase::Failed(reason), None) => seen(GuestState::Failed, Some(reason.clone())),
            (_, None) if should_run => {
                seen(GuestState::Stopped, Some("it did not run when Portolan looked for it".into()))
            }
            (_, None) => seen(GuestState::Stopped, spec.last_stop.as_ref().map(|stop| stop.reason.clone())),
        };
        let (state, phase, goes_back) = (first.state, spec.phase.clone(), spec.reverting.is_some());
        let far = spec.is_remote_at_all();
        let guest = Guest::new(self.shared.clone(), spec, lock, first)?;
        self.guests().insert(id, guest.clone());
        if goes_back && phase == Phase::Ready {
            guest.begin_to_go_back(process).await;
        } else if let Some(process) = process {
            guest.adopt(process).await;
        } else if phase == Phase::Ready {
            self.shared.spawn(crate::export::recover(guest.clone()));
            self.shared.spawn(guest.clone().recover_move());
        }
        if runs || goes_back {
            // It goes on as it is.
        } else if phase == Phase::Preparing && state == GuestState::Pending {
            guest.begin();
        } else if state == GuestState::Stopped && should_run && !far && self.shared.settings.restart_guests {
            // One that cannot be started is no reason not to have the others.
            if let Err(error) = guest.start().await {
                tracing::warn!(guest = guest.id(), error = error.text(), "a guest was not started");
            }
        }
        Ok(Some(Seen::Own(guest)))
    }

    /// The guest of that id and incarnation, which this process owns.
    pub async fn guest(self: &Arc<Self>, id: &str, incarnation: &str) -> Result<Arc<Guest>, QemuError> {
        let own = self.guests().get(id).cloned();
        let missing = || QemuError::NotFound { what: "guest", id: id.to_owned() };
        let seen = match own {
            Some(guest) => Some(Seen::Own(guest)),
            None if !crate::layout::is_plain(id) => None,
            None => {
                let (host, id) = (self.clone(), id.to_owned());
                let look = async move {
                    let _turn = host.turn.lock().await;
                    let own = host.guests().get(&id).cloned();
                    match own {
                        Some(guest) => Ok(Some(Seen::Own(guest))),
                        None => host.learn(id, false).await,
                    }
                };
                self.shared.detached(look).await?
            }
        };
        match seen {
            Some(Seen::Own(guest)) if guest.spec().incarnation == incarnation => Ok(guest),
            Some(Seen::Elsewhere(spec, _)) if spec.incarnation == incarnation => {
                Err(QemuError::Elsewhere(id.to_owned()))
            }
            _ => Err(missing()),
        }
    }

    /// Makes a guest and begins to start it. Answers when it is written down: from then on it is there, whatever
    /// happens.
    pub async fn create(self: &Arc<Self>, wish: NewGuest) -> Result<Seen, QemuError> {
        let host = self.clone();
        self.shared.detached(async move { host.create_now(wish).await }).await
    }

    async fn create_now(&self, wish: NewGuest) -> Result<Seen, QemuError> {
        plan::check_wish(&wish)?;
        if let Some(there) = self.of_token(&wish.token, self.list_now().await?) {
            return Ok(there);
        }
        let template = self.template(&wish.image).await?;
        let size = self.shared.settings.sizes.iter().find(|size| size.id == wish.size).cloned();
        let size = size.ok_or_else(|| QemuError::NotFound { what: "size", id: wish.size.clone() })?;
        self.check_size(&size, &template)?;

        let _turn = self.turn.lock().await;
        let layout = self.shared.layout.clone();
        let _lock = blocking(move || layout.lock()).await?;
        let all = self.look(false).await?;
        if let Some(there) = self.of_token(&wish.token, all.clone()) {
            return Ok(there);
        }
        self.check_quota(&size, &all)?;
        let spec = self.plan(&wish, &size, &template);
        let seed = if spec.seed {
            let (ssh_key, user_data) = (wish.ssh_key.as_deref(), wish.user_data.as_deref());
            Some(Seed { id: &spec.id, name: &spec.name, ssh_key, user_data }.image()?)
        } else {
            None
        };
        let guest = self.write_down(spec, seed).await?;
        guest.begin();
        Ok(Seen::Own(guest))
    }

    /// Makes a guest's directory and document. It is not begun yet. The lock over the directory is held.
    pub(crate) async fn write_down(&self, spec: GuestSpec, seed: Option<Vec<u8>>) -> Result<Arc<Guest>, QemuError> {
        let (layout, written) = (self.shared.layout.clone(), spec.clone());
        let lock = blocking(move || {
            let dir = layout.guest(&written.id);
            std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(QemuError::file("make", &dir))?;
            let path = dir.join(LOCK);
            let made = || -> Result<std::fs::File, QemuError> {
                drop(open_private(&path).map_err(QemuError::file("make", &path))?);
                let taken = || QemuError::Conflict("the new guest's lock is taken".into());
                let lock = layout.try_own(&written.id)?.ok_or_else(taken)?;
                if let Some(seed) = seed {
                    write_durably(&dir, SEED, &seed)?;
                }
                sync_dir(&layout.guests())?;
                layout.write_spec(&written)?;
                Ok(lock)
            };
            let lock = made();
            if lock.is_err() {
                let _ = layout.remove_directory(&written.id);
            }
            lock
        })
        .await?;
        let id = spec.id.clone();
        let guest = Guest::new(self.shared.clone(), spec, lock, Observed { state: GuestState::Pending, reason: None })?;
        self.guests().insert(id, guest.clone());
        Ok(guest)
    }

    /// Destroys a guest with its disks.
    pub async fn destroy(self: &Arc<Self>, id: &str, incarnation: &str) -> Result<(), QemuError> {
        let guest = self.guest(id, incarnation).await?;
        let (host, incarnation) = (self.clone(), incarnation.to_owned());
        let work = async move {
            guest.destroy(&incarnation).await?;
            host.guests().remove(guest.id());
            Ok(())
        };
        self.shared.detached(work).await
    }

    fn of_token(&self, token: &str, all: Vec<Seen>) -> Option<Seen> {
        let has = |seen: &Seen| seen.spec().is_some_and(|spec| !token.is_empty() && spec.token == token);
        all.into_iter().find(has)
    }

    /// The images: id, and virtual size where the image may be used, else why not.
    pub async fn images(&self) -> Result<Vec<(String, Result<u64, String>)>, QemuError> {
        let dir = self.shared.layout.images();
        blocking(move || {
            let found = image::list(&dir)?.into_iter();
            let look = |file: &str| image::inspect(&dir, file).map(|one| one.size_bytes).map_err(|e| e.text());
            Ok(found.map(|(id, file)| (id, look(&file))).collect())
        })
        .await
    }

    /// An image that was looked at and may be used.
    pub(crate) async fn template(&self, id: &str) -> Result<Template, QemuError> {
        let (dir, name) = (self.shared.layout.images(), id.to_owned());
        let missing = || QemuError::NotFound { what: "image", id: id.to_owned() };
        let template = blocking(move || match image::file_of(&dir, &name) {
            Some(file) => image::inspect(&dir, &file).map(Some),
            None => Ok(None),
        });
        let template = template.await?.ok_or_else(missing)?;
        let known =
            |host: &Self| host.confirmed.lock().unwrap_or_else(PoisonError::into_inner).contains(&template.chain);
        if !known(self) {
            image::confirm(&self.shared.programs.qemu_img, &self.shared.layout.images(), &template).await?;
            let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
            // Files change: what is old is of no more use.
            if confirmed.len() >= 1000 {
                confirmed.clear();
            }
            confirmed.push(template.chain.clone());
        }
        Ok(template)
    }
}
