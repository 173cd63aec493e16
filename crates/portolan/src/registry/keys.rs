//! Repositories and their keys: a key is sealed in the store before the repository is made, so that a crash at any
//! point leaves a repository that opens, or none.

use super::error::RegistryError;
use super::{Inner, ROUNDS, Registry};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use portolan_model::{BackupDestinationId, Scope, Secret};
use portolan_repository::{ObjectStore, RecoveryKey, RepoError, Repository, RepositoryEnv, RepositoryKey};
use portolan_storage::{Conflict, Setting, StorageExt, StoreError, UnitOfWork};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A repository to open under the name of a destination, or to make.
#[derive(Debug)]
pub struct RepositoryPlan<'a> {
    /// The destination's name.
    pub name: &'a str,
    /// Where the repository is or will be.
    pub objects: Arc<dyn ObjectStore>,
    /// Whether a repository may be made where none has ever been.
    pub make: bool,
    /// Opens a repository that another installation made, and adopts it.
    pub recovery: Option<&'a RepositoryKey>,
}

/// An open repository.
#[derive(Debug)]
pub struct OpenedRepository {
    /// The destination's id: the same at every call for a name.
    pub id: BackupDestinationId,
    /// The repository.
    pub repository: Arc<Repository>,
    /// Its recovery key, where it was made just now.
    pub fresh: Option<RecoveryKey>,
    /// Whether somebody is known to have a recovery key.
    pub recoverable: bool,
}

/// What is noted of a destination under its name: its id first of all, since its key is sealed under that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) id: BackupDestinationId,
    /// Whether the repository is known to have been made.
    #[serde(default)]
    pub(crate) made: bool,
    /// Whether somebody has a recovery key.
    #[serde(default)]
    pub(crate) recoverable: bool,
}

/// The owner that a destination's key is sealed under.
pub fn key_owner(id: BackupDestinationId) -> String {
    format!("destination:{id}:key")
}

impl Registry {
    /// Opens a repository with the key that is sealed for the destination of that name, making key and repository
    /// where there are none yet. Nothing is made in the place of a repository that was there before: its file system
    /// may just not be mounted.
    ///
    /// # Errors
    /// [`RepoError::NotFound`] for such a one; [`RepoError::WrongKey`] when another installation made what is there
    /// and `recovery` does not open it.
    pub async fn open_repository(&self, plan: RepositoryPlan<'_>) -> Result<OpenedRepository, RegistryError> {
        self.0.open_repository(plan).await
    }

    /// Whether a repository is known to have been made for the destination of that name: nothing may be made in its
    /// place.
    pub async fn repository_was_made(&self, name: &str) -> Result<bool, RegistryError> {
        Ok(self.0.find_mark(name).await?.is_some_and(|mark| mark.made))
    }

    /// Notes that somebody has the recovery key of the destination of that name, or has adopted its repository.
    pub async fn note_recoverable(&self, name: &str) -> Result<(), RegistryError> {
        self.0.note(name, |mark| (mark.made, mark.recoverable) = (true, true)).await
    }

    /// The key of a destination's repository.
    pub async fn repository_key(&self, id: BackupDestinationId) -> Result<RepositoryKey, RegistryError> {
        self.0.repository_key(id).await
    }
}

impl Inner {
    pub(super) async fn open_repository(&self, plan: RepositoryPlan<'_>) -> Result<OpenedRepository, RegistryError> {
        let mark = self.mark(plan.name).await?;
        let key = self.repository_key(mark.id).await?;
        let (repository, fresh) = self.open_or_make(&plan, &key, mark.made).await?;
        if !mark.made {
            self.note(plan.name, |mark| mark.made = true).await?;
        }
        Ok(OpenedRepository { id: mark.id, repository: Arc::new(repository), fresh, recoverable: mark.recoverable })
    }

    async fn open_or_make(
        &self,
        plan: &RepositoryPlan<'_>,
        key: &RepositoryKey,
        made: bool,
    ) -> Result<(Repository, Option<RecoveryKey>), RegistryError> {
        let env = || RepositoryEnv { clock: self.clock.clone(), ids: self.ids.clone() };
        if plan.make && !made {
            match Repository::create(plan.objects.clone(), env(), key).await {
                Ok((repository, recovery)) => return Ok((repository, Some(recovery))),
                // There is one: ours, from before a crash, or somebody else's.
                Err(RepoError::Conflict(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        match (Repository::open(plan.objects.clone(), env(), key).await, plan.recovery) {
            (Ok(repository), _) => Ok((repository, None)),
            (Err(RepoError::WrongKey), Some(recovery)) => {
                let repository = Repository::open(plan.objects.clone(), env(), recovery).await?;
                repository.add_slot(key, "adopted").await?;
                tracing::info!(destination = plan.name, "the repository was adopted by its recovery key");
                Ok((repository, None))
            }
            (Err(e), _) => Err(e.into()),
        }
    }

    pub(super) async fn repository_key(&self, id: BackupDestinationId) -> Result<RepositoryKey, RegistryError> {
        let broken = || RegistryError::Conflict("the repository's key in the database is damaged".into());
        let secret = self.secrets.get(&key_owner(id)).await?;
        let bytes = STANDARD_NO_PAD.decode(secret.reveal()).map_err(|_| broken())?;
        Ok(RepositoryKey::raw(bytes.as_slice().try_into().map_err(|_| broken())?))
    }

    /// What is noted of the destination of that name. The first time, an id and a fresh key are written in one unit:
    /// of any number of processes that come here at once, all go on with the same key.
    async fn mark(&self, name: &str) -> Result<Mark, RegistryError> {
        for _ in 0..ROUNDS {
            if let Some(mark) = self.find_mark(name).await? {
                return Ok(mark);
            }
            let id = match self.protect.destination_named(name).await? {
                Some(there) => there.id,
                None => BackupDestinationId::from_uuid(self.ids.uuid()),
            };
            let mark = Mark { id, made: false, recoverable: false };
            let key = RepositoryKey::generate(&*self.ids);
            let text = key.expose().map(|bytes| Secret::new(STANDARD_NO_PAD.encode(bytes))).unwrap_or_default();
            let unit = UnitOfWork::new().create(&Setting::new(&mark_name(name), value_of(&mark)?));
            let unit = self.secrets.put_in(unit, &key_owner(id), &text).await?;
            match self.storage.apply(self.clock.now(), Scope::All, unit).await {
                Ok(_) => return Ok(mark),
                Err(StoreError::Conflict(Conflict::Version { .. } | Conflict::Taken { .. })) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(RegistryError::Conflict("other processes change the destination all the time".into()))
    }

    pub(super) async fn find_mark(&self, name: &str) -> Result<Option<Mark>, RegistryError> {
        match self.storage.find::<Setting>(Scope::All, Setting::id_of(&mark_name(name))).await? {
            Some(found) => Ok(Some(serde_json::from_value(found.value.value).map_err(StoreError::internal)?)),
            None => Ok(None),
        }
    }

    pub(super) async fn note(&self, name: &str, change: impl Fn(&mut Mark) + Send + Sync) -> Result<(), RegistryError> {
        let id = Setting::id_of(&mark_name(name));
        let decide = |setting: &mut Setting| {
            let mut mark: Mark = serde_json::from_value(setting.value.clone()).ok()?;
            change(&mut mark);
            let value = serde_json::to_value(&mark).ok()?;
            (setting.value != value).then(|| {
                setting.value = value;
                UnitOfWork::new()
            })
        };
        self.storage.change::<Setting, _>(self.clock.now(), Scope::All, id, decide).await?;
        Ok(())
    }
}

fn value_of(mark: &Mark) -> Result<serde_json::Value, StoreError> {
    serde_json::to_value(mark).map_err(StoreError::internal)
}

/// The setting that holds the mark of a destination.
pub(super) fn mark_name(name: &str) -> String {
    format!("destination:{}", name.to_lowercase())
}
