//! Destinations: registered, listed, shown, and which of them is the default.

use super::error::RegistryError;
use super::keys::{OpenedRepository, RepositoryPlan};
use super::ports::{DestinationDescription, DestinationSpec};
use super::settings::Settings;
use super::{Inner, ROUNDS, Registry, operates};
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::*;
use portolan_repository::{BackupRepository, RECOVERY_SLOT, RepoError, Repository, RepositoryKey};
use portolan_storage::{Conflict, Query, StorageExt, StoreError, UnitOfWork};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A destination to register.
#[derive(Debug, Clone)]
pub struct DestinationRequest {
    /// Its name, unique.
    pub name: String,
    /// A text for people.
    pub description: String,
    /// The kind of place.
    pub kind: String,
    /// The place's settings, secret ones among them.
    pub settings: BTreeMap<String, Secret>,
    /// Whether backups without a destination go here; nothing for only where no other one is the default.
    pub default: Option<bool>,
    /// Opens a repository that another installation made, and adopts it; nothing for a repository of our own.
    pub recovery_key: Option<Secret>,
}

/// A destination with what this process knows of it.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationView {
    /// The destination.
    pub destination: BackupDestination,
    /// Whether its repository is open in this process.
    pub connected: bool,
    /// Why it could not be opened; empty when all is well.
    pub problem: String,
}

impl Registry {
    /// Registers a destination: makes its repository, or adopts the one that the recovery key opens, and tells the
    /// recovery key of a new one, here and never again: whoever loses the database needs it to read the backups.
    /// `Conflict` when the name or the place is taken. A repetition of the same request answers the destination that
    /// the first one made, without its recovery key.
    pub async fn add_destination(
        &self,
        caller: &Caller,
        request: DestinationRequest,
    ) -> Result<(DestinationView, Option<Secret>), RegistryError> {
        operates(caller)?;
        let inner = &self.0;
        let name = Name::new(&request.name).map_err(|e| RegistryError::Invalid(e.to_string()))?;
        let recovery = request.recovery_key.as_ref().map(|key| RepositoryKey::recovery(key.reveal())).transpose();
        let recovery = recovery.map_err(|_| RegistryError::Invalid("the recovery key is not one".into()))?;
        let kind = inner.place(&request.kind)?;
        let settings = Settings::checked(&kind.settings, request.settings)?;
        if let Some(there) = inner.destination_of(name.as_str()).await? {
            return Err(RegistryError::Conflict(format!("there is a destination '{}' already", there.name)));
        }
        let mut spec = DestinationSpec {
            id: BackupDestinationId::from_uuid(inner.ids.uuid()),
            name: name.to_string(),
            kind: kind.name.to_owned(),
            settings: settings.plain,
            secrets: settings.secret,
        };
        let url = inner.places.url(&spec).map_err(|e| RegistryError::from(e).of_settings())?;
        inner.check_place(&url).await?;
        let place = inner.bounded(inner.places.open(&spec, true)).await?;
        // Nothing of that name is registered: what an earlier attempt left elsewhere is of no account.
        if inner.find_mark(name.as_str()).await?.is_some() {
            inner.note(name.as_str(), |mark| mark.made = false).await?;
        }
        let plan = RepositoryPlan {
            name: name.as_str(),
            objects: place.objects,
            make: recovery.is_none(),
            recovery: recovery.as_ref(),
        };
        let opened = inner.bounded(inner.open_repository(plan)).await?;
        spec.id = opened.id;
        let told = recovery_key_of(&opened, recovery.is_some()).await?;
        let destination = BackupDestination {
            id: spec.id,
            name,
            description: request.description,
            kind: spec.kind.clone(),
            url: place.url,
            default: false,
            used_bytes: 0,
            free_bytes: 0,
            logical_bytes: 0,
            settings: spec.settings.clone(),
            declared: false,
            created: inner.clock.now(),
        };
        let destination = inner.write_new(caller, destination, &spec, request.default).await?;
        inner.note(destination.name.as_str(), |mark| mark.recoverable = true).await?;
        inner.repositories.insert(destination.id, opened.repository);
        inner.note_problem(destination.id.uuid(), None);
        if let Err(error) = inner.protect.refresh_destination(destination.id).await {
            tracing::warn!(%error, destination = %destination.name, "its figures could not be had");
        }
        let stored = inner.storage.fetch::<BackupDestination>(Scope::All, destination.id).await?;
        Ok((inner.destination_view(stored.value), told))
    }

    /// Destinations by name, with their number.
    pub async fn destinations(
        &self,
        caller: &Caller,
        page: Page,
    ) -> Result<(Vec<DestinationView>, u64), RegistryError> {
        caller.require(Privilege::BackupRead)?;
        let query = Query { sort: Sort::by("name"), page, count: true, ..Query::default() };
        let list = self.0.storage.list_of::<BackupDestination>(caller.scope, query).await?;
        let total = list.total.unwrap_or(list.items.len() as u64);
        Ok((list.items.into_iter().map(|d| self.0.destination_view(d.value)).collect(), total))
    }

    /// The destination of this name, whatever the case of its letters, or id.
    pub async fn destination(&self, caller: &Caller, name_or_id: &str) -> Result<DestinationView, RegistryError> {
        caller.require(Privilege::BackupRead)?;
        let found = self.0.destination_of(name_or_id).await?;
        found.map(|d| self.0.destination_view(d)).ok_or_else(|| RegistryError::missing("destination", name_or_id))
    }

    /// Makes a destination the one that backups without a destination go to.
    pub async fn set_default(&self, caller: &Caller, name_or_id: &str) -> Result<DestinationView, RegistryError> {
        operates(caller)?;
        let inner = &self.0;
        for _ in 0..ROUNDS {
            let found = inner.destination_of(name_or_id).await?;
            let id = found.ok_or_else(|| RegistryError::missing("destination", name_or_id))?.id;
            let mut chosen = inner.storage.fetch::<BackupDestination>(Scope::All, id).await?;
            let others = inner.defaults().await?;
            if chosen.default && others.iter().all(|d| d.id == id) {
                return Ok(inner.destination_view(chosen.value));
            }
            chosen.default = true;
            let mut unit = UnitOfWork::new().update(&chosen);
            for mut other in others.into_iter().filter(|d| d.id != id) {
                other.default = false;
                unit = unit.update(&other);
            }
            let unit = audit(unit, "destination.made_default", &chosen, caller);
            match inner.storage.apply(inner.clock.now(), Scope::All, unit).await {
                Ok(_) => return Ok(inner.destination_view(chosen.value)),
                Err(StoreError::Conflict(Conflict::Version { .. })) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(RegistryError::Conflict("other processes change the destinations all the time".into()))
    }

    /// A further recovery key of a destination's repository, told here and never again; with `replace` all earlier
    /// ones open it no more. Whoever opened it with one of those may still know what it is sealed with.
    pub async fn new_recovery_key(
        &self,
        caller: &Caller,
        name_or_id: &str,
        replace: bool,
    ) -> Result<Secret, RegistryError> {
        operates(caller)?;
        let inner = &self.0;
        let found = inner.destination_of(name_or_id).await?;
        let destination = found.ok_or_else(|| RegistryError::missing("destination", name_or_id))?;
        let repository = inner.repository_of(&destination).await?;
        let earlier = repository.slots().into_iter().filter(|slot| slot.label == RECOVERY_SLOT);
        let earlier: Vec<_> = earlier.map(|slot| slot.id).collect();
        let data = serde_json::json!({ "name": destination.name.as_str(), "replace": replace });
        let what = "destination.recovery_key_made";
        let unit = UnitOfWork::new().event_by(&caller.login, what, None, destination.id.uuid(), data);
        inner.storage.apply(inner.clock.now(), Scope::All, unit).await?;
        // First known, then told: a crash in between leaves a slot whose key nobody has. Earlier keys go last.
        let key = inner.bounded(repository.add_recovery_slot()).await?;
        for slot in earlier.into_iter().filter(|_| replace) {
            let removed = async {
                match repository.remove_slot(slot).await {
                    // Somebody else replaces them, too.
                    Err(RepoError::NotFound { .. }) => Ok(()),
                    other => other,
                }
            };
            inner.bounded(removed).await?;
        }
        inner.note(destination.name.as_str(), |mark| mark.recoverable = true).await?;
        Ok(Secret::new(key.reveal().as_str()))
    }
}

impl Inner {
    pub(super) async fn destination_of(&self, name_or_id: &str) -> Result<Option<BackupDestination>, RegistryError> {
        if let Ok(id) = name_or_id.parse()
            && let Some(found) = self.storage.find::<BackupDestination>(Scope::All, id).await?
        {
            return Ok(Some(found.value));
        }
        Ok(self.protect.destination_named(name_or_id.trim()).await?)
    }

    /// Opens the repository of a stored destination, which must be there.
    pub(super) async fn reopen(
        &self,
        destination: &BackupDestination,
    ) -> Result<Arc<dyn BackupRepository>, RegistryError> {
        Ok(self.repository_of(destination).await?)
    }

    async fn repository_of(&self, destination: &BackupDestination) -> Result<Arc<Repository>, RegistryError> {
        let kind = self.place(&destination.kind)?;
        let secrets = self.secrets_of(&kind.settings, |setting| secret_owner(destination.id, setting)).await?;
        let spec = DestinationSpec {
            id: destination.id,
            name: destination.name.to_string(),
            kind: destination.kind.clone(),
            settings: destination.settings.clone(),
            secrets,
        };
        let place = self.bounded(self.places.open(&spec, false)).await?;
        let plan =
            RepositoryPlan { name: destination.name.as_str(), objects: place.objects, make: false, recovery: None };
        Ok(self.bounded(self.open_repository(plan)).await?.repository)
    }

    pub(super) fn destination_view(&self, destination: BackupDestination) -> DestinationView {
        DestinationView {
            connected: self.repositories.get(destination.id).is_ok(),
            problem: self.problem(destination.id.uuid()).unwrap_or_default(),
            destination,
        }
    }

    pub(super) async fn defaults(&self) -> Result<Vec<portolan_storage::Stored<BackupDestination>>, RegistryError> {
        let query = Query::matching(Filter::eq("is_default", true));
        Ok(self.storage.list_of::<BackupDestination>(Scope::All, query).await?.items)
    }

    fn place(&self, kind: &str) -> Result<DestinationDescription, RegistryError> {
        let kinds = self.places.kinds();
        let known: Vec<&str> = kinds.iter().map(|k| k.name).collect();
        let unknown = || RegistryError::Invalid(format!("there is no such kind: the kinds are {}", known.join(", ")));
        kinds.iter().find(|k| k.name == kind).cloned().ok_or_else(unknown)
    }

    /// Fails when another destination is at this place already.
    async fn check_place(&self, url: &str) -> Result<(), RegistryError> {
        let all = self.storage.list_of::<BackupDestination>(Scope::All, Query::default()).await?;
        match all.items.iter().find(|d| d.url == url) {
            Some(there) => Err(RegistryError::Conflict(format!("the destination '{}' is there already", there.name))),
            None => Ok(()),
        }
    }

    async fn write_new(
        &self,
        caller: &Caller,
        mut new: BackupDestination,
        spec: &DestinationSpec,
        default: Option<bool>,
    ) -> Result<BackupDestination, RegistryError> {
        for _ in 0..ROUNDS {
            let others = self.defaults().await?;
            new.default = default.unwrap_or(others.is_empty());
            let mut unit = UnitOfWork::new().create(&new);
            for mut other in others.into_iter().filter(|_| new.default) {
                other.default = false;
                unit = unit.update(&other);
            }
            for (setting, secret) in &spec.secrets {
                unit = self.secrets.put_in(unit, &secret_owner(new.id, setting), secret).await?;
            }
            let unit = audit(unit, "destination.added", &new, caller);
            match self.storage.apply(self.clock.now(), Scope::All, unit).await {
                Ok(_) => return Ok(new),
                Err(StoreError::Conflict(Conflict::Version { .. } | Conflict::Taken { .. })) => {
                    if let Some(there) = self.destination_of(new.name.as_str()).await? {
                        return Err(RegistryError::Conflict(format!(
                            "there is a destination '{}' already",
                            there.name
                        )));
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(RegistryError::Conflict("other processes change the destinations all the time".into()))
    }
}

/// The recovery key to tell: a new repository's own, or a fresh one where a crash came before the first was told.
async fn recovery_key_of(opened: &OpenedRepository, adopted: bool) -> Result<Option<Secret>, RegistryError> {
    let made = match &opened.fresh {
        Some(fresh) => return Ok(Some(Secret::new(fresh.reveal().as_str()))),
        None if adopted || opened.recoverable => return Ok(None),
        None => opened.repository.add_recovery_slot().await?,
    };
    Ok(Some(Secret::new(made.reveal().as_str())))
}

/// What the secrets of a destination's settings are sealed under.
fn secret_owner(id: BackupDestinationId, setting: &str) -> String {
    format!("destination:{id}:setting:{setting}")
}

pub(super) fn audit(unit: UnitOfWork, what: &str, destination: &BackupDestination, caller: &Caller) -> UnitOfWork {
    let data = serde_json::json!({ "name": destination.name.as_str(), "kind": destination.kind });
    unit.event_by(&caller.login, what, None, destination.id.uuid(), data)
}
