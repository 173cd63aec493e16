//! Removal: of what nothing refers to, or, when an operator insists, with all that does.

use super::error::RegistryError;
use super::keys::{key_owner, mark_name};
use super::{Inner, ROUNDS, Registry, destinations, operates, platforms};
use portolan_model::backup::{BackupStatus, CopyStatus};
use portolan_model::describe::Describe;
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::*;
use portolan_storage::{
    Conflict, DriverDocument, Kind, Query, Record, Require, Setting, StorageExt, StoreError, Stored, UnitOfWork,
};
use portolan_tasks::{TaskError, TaskQuery};

/// Objects in one unit.
const BATCH: u64 = 200;

impl Registry {
    /// Removes a platform that no machine, backup or assignment refers to. With `force` its machines and assignments
    /// are forgotten with it; backups stay, and can be restored to another platform. Nothing on the platform itself
    /// changes. `Conflict` for one that stands in the configuration.
    pub async fn remove_platform(&self, caller: &Caller, name_or_id: &str, force: bool) -> Result<(), RegistryError> {
        operates(caller)?;
        let inner = &self.0;
        let platform = inner.platform_of(name_or_id).await?;
        let platform = platform.ok_or_else(|| RegistryError::missing("platform", name_or_id))?;
        if platform.declared {
            return Err(declared("platform", platform.name.as_str()));
        }
        if !force {
            let of = Filter::eq("platform", platform.id.uuid());
            let kinds = [(Kind::Vm, "machines"), (Kind::Point, "backups"), (Kind::Assignment, "assignments")];
            inner.refuse_in_use(&of, &kinds).await?;
        }
        // Out of use first, so that no listing brings back what is being forgotten.
        let disable = |p: &mut Platform| {
            p.enabled.then(|| {
                p.enabled = false;
                UnitOfWork::new()
            })
        };
        inner.storage.change::<Platform, _>(inner.clock.now(), Scope::All, platform.id, disable).await?;
        inner.disconnect(platform.id);
        inner.cancel_tasks(&Filter::eq("platform", platform.id.uuid()), "the platform was removed").await?;
        inner.forget_inventory(platform.id).await?;
        let prefix = platforms::secret_owner(platform.id, "");
        for _ in 0..ROUNDS {
            let Some(stored) = inner.storage.find::<Platform>(Scope::All, platform.id).await? else { return Ok(()) };
            let same = Require::Version(Kind::Platform, stored.id.uuid(), stored.version);
            let unit = UnitOfWork::new().require(same).delete::<Platform>(stored.id);
            let unit = inner.without_secrets(unit, &prefix).await?;
            let unit = platforms::audit(unit, "platform.removed", &stored, caller);
            match inner.storage.apply(inner.clock.now(), Scope::All, unit).await {
                Ok(_) => {
                    inner.note_problem(platform.id.uuid(), None);
                    // What a listing that was under way has written meanwhile.
                    return inner.forget_inventory(platform.id).await;
                }
                Err(StoreError::Conflict(Conflict::Version { .. })) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(RegistryError::Conflict("other processes change the platform all the time".into()))
    }

    /// Removes a destination that has no backups. With `force` its backups are forgotten with it, and so is the key
    /// that opens them: what lies there stays, and only its recovery key reads it from then on. `Conflict` for one
    /// that stands in the configuration, for the default while there are others, and while a backup is being written
    /// to it.
    pub async fn remove_destination(
        &self,
        caller: &Caller,
        name_or_id: &str,
        force: bool,
    ) -> Result<(), RegistryError> {
        operates(caller)?;
        let inner = &self.0;
        let destination = inner.destination_of(name_or_id).await?;
        let destination = destination.ok_or_else(|| RegistryError::missing("destination", name_or_id))?;
        if destination.declared {
            return Err(declared("destination", destination.name.as_str()));
        }
        let others = inner.storage.count(Scope::All, Kind::Destination, &Filter::All).await? > 1;
        if destination.default && others {
            return Err(RegistryError::Conflict(
                "it is the default: make another destination the default first".into(),
            ));
        }
        let of = Filter::eq("destination", destination.id.uuid());
        let open = of.clone().and(Filter::eq("status", CopyStatus::InProgress.name()));
        inner.refuse_in_use(&open, &[(Kind::Copy, "unfinished backups")]).await?;
        if !force {
            inner.refuse_in_use(&of, &[(Kind::Copy, "backups")]).await?;
        }
        inner.cancel_tasks(&of, "the destination was removed").await?;
        for _ in 0..ROUNDS {
            if force {
                inner.forget_copies(&of).await?;
            }
            let found = inner.storage.find::<BackupDestination>(Scope::All, destination.id).await?;
            let Some(stored) = found else { return Ok(()) };
            let mut unit = UnitOfWork::new()
                .require(Require::Version(Kind::Destination, stored.id.uuid(), stored.version))
                .require(Require::RefFree(Kind::Destination, stored.id.uuid()))
                .delete::<BackupDestination>(stored.id)
                .delete::<Setting>(Setting::id_of(&mark_name(stored.name.as_str())));
            unit = inner.without_secrets(unit, &format!("destination:{}:setting:", stored.id)).await?;
            unit = inner.secrets.remove_in(unit, &key_owner(stored.id)).await?;
            let unit = destinations::audit(unit, "destination.removed", &stored, caller);
            match inner.storage.apply(inner.clock.now(), Scope::All, unit).await {
                Ok(_) => {
                    inner.repositories.remove(stored.id);
                    inner.note_problem(stored.id.uuid(), None);
                    return Ok(());
                }
                Err(StoreError::Conflict(Conflict::InUse { .. })) if !force => {
                    return Err(RegistryError::Conflict("a backup has just begun to go there".into()));
                }
                Err(StoreError::Conflict(Conflict::Version { .. } | Conflict::InUse { .. })) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(RegistryError::Conflict("other processes change the destination all the time".into()))
    }
}

impl Inner {
    /// `Conflict` that says what is in the way.
    async fn refuse_in_use(&self, of: &Filter, kinds: &[(Kind, &str)]) -> Result<(), RegistryError> {
        let mut there = Vec::new();
        for (kind, word) in kinds {
            let count = self.storage.count(Scope::All, *kind, of).await?;
            if count > 0 {
                there.push(format!("{count} {word}"));
            }
        }
        match there.is_empty() {
            true => Ok(()),
            false => Err(RegistryError::Conflict(format!("it is in use: {}", there.join(", ")))),
        }
    }

    /// Cancels what waits, and asks what runs to stop.
    async fn cancel_tasks(&self, of: &Filter, reason: &str) -> Result<(), RegistryError> {
        let live = TaskState::TABLE.iter().map(|row| row.0).filter(|s| !s.is_terminal());
        let filter = of.clone().and(Filter::any("state", live.map(Describe::name)));
        let query = TaskQuery { filter, ..TaskQuery::default() };
        for task in self.storage.query(Scope::All, &query).await?.tasks {
            match self.storage.cancel(self.clock.now(), Scope::All, task.new.id, reason).await {
                Ok(_) | Err(TaskError::NotFound(_) | TaskError::Conflict { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Forgets everything that listings of a platform have written, and what its driver keeps.
    async fn forget_inventory(&self, platform: PlatformId) -> Result<(), RegistryError> {
        let of = Filter::eq("platform", platform.uuid());
        let delete = |unit: UnitOfWork, id| unit.delete::<Assignment>(id);
        self.each::<Assignment>(&of, |unit, one| delete(unit, one.id)).await?;
        self.each::<VirtualMachine>(&of, |unit, one| unit.delete::<VirtualMachine>(one.id)).await?;
        self.each::<Datastore>(&of, |unit, one| unit.delete::<Datastore>(one.id)).await?;
        self.each::<Host>(&of, |unit, host| match host.managed.is_some() {
            // Somebody manages the machine itself: only what the platform said of it goes.
            true => {
                let mut host = host.clone();
                (host.hypervisor, host.cluster) = (None, None);
                unit.update(&host)
            }
            false => unit.delete::<Host>(host.id),
        })
        .await?;
        self.each::<Cluster>(&of, |unit, one| unit.delete::<Cluster>(one.id)).await?;
        self.each::<DriverDocument>(&of, |unit, one| unit.delete::<DriverDocument>(one.id)).await
    }

    /// Forgets the copies at a destination; backups that have no other copy count as removed from then on.
    async fn forget_copies(&self, of: &Filter) -> Result<(), RegistryError> {
        loop {
            let copies = self.batch::<BackupCopy>(of).await?;
            if copies.is_empty() {
                return Ok(());
            }
            let mut unit = UnitOfWork::new();
            let gone: Vec<BackupCopyId> = copies.iter().map(|c| c.id).collect();
            for copy in &copies {
                unit = unit.delete::<BackupCopy>(copy.id);
            }
            let mut points: Vec<RecoveryPointId> = copies.iter().map(|c| c.point).collect();
            points.sort_unstable();
            points.dedup();
            for mut point in self.storage.find_all::<RecoveryPoint>(Scope::All, &points).await? {
                let present =
                    Filter::eq("point", point.id.uuid()).and(Filter::eq("status", CopyStatus::Present.name()));
                let kept = self.storage.list_of::<BackupCopy>(Scope::All, Query::matching(present)).await?.items;
                if point.status.is_restorable() && kept.iter().all(|copy| gone.contains(&copy.id)) {
                    point.status = BackupStatus::SuccessRemoved;
                    unit = unit.update(&point);
                }
            }
            self.apply_batch(unit).await?;
        }
    }

    /// Does the same to every object that matches, until there is none.
    async fn each<R: Record>(
        &self,
        of: &Filter,
        change: impl Fn(UnitOfWork, &Stored<R>) -> UnitOfWork + Send + Sync,
    ) -> Result<(), RegistryError> {
        loop {
            let batch = self.batch::<R>(of).await?;
            if batch.is_empty() {
                return Ok(());
            }
            self.apply_batch(batch.iter().fold(UnitOfWork::new(), &change)).await?;
        }
    }

    async fn batch<R: Record>(&self, of: &Filter) -> Result<Vec<Stored<R>>, RegistryError> {
        let query = Query { filter: of.clone(), sort: Sort::default(), page: Page::first(BATCH), count: false };
        Ok(self.storage.list_of::<R>(Scope::All, query).await?.items)
    }

    /// Applies; when somebody was faster, the next look at what is left decides anew.
    async fn apply_batch(&self, unit: UnitOfWork) -> Result<(), RegistryError> {
        match self.storage.apply(self.clock.now(), Scope::All, unit).await {
            Ok(_) | Err(StoreError::Conflict(Conflict::Version { .. })) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn declared(what: &str, name: &str) -> RegistryError {
    RegistryError::Conflict(format!(
        "the {what} '{name}' stands in the server's configuration: take it out there and start the server again"
    ))
}
