//! Opening what is stored: at the start of a process, and again and again while it runs.

use super::error::RegistryError;
use super::{Inner, Registry};
use portolan_model::{BackupDestination, BackupDestinationId, Name, Platform, PlatformId, Scope};
use portolan_storage::{Query, StorageExt, UnitOfWork};
use std::collections::BTreeSet;

impl Registry {
    /// Opens every platform and destination that is stored, not declared and not open in this process yet, and lets go
    /// of those that other processes have removed. What fails is logged, shown with its error and tried again at the
    /// next call; the rest goes on. To be called at the start and about once a minute.
    ///
    /// # Errors
    /// Only when the store cannot be read.
    pub async fn open_all(&self) -> Result<(), RegistryError> {
        self.0.open_platforms().await?;
        self.0.open_destinations().await
    }

    /// Notes by their names which platforms and destinations stand in the configuration: those that no longer do can
    /// be removed from now on.
    pub async fn settle_declared(&self, platforms: &[&str], destinations: &[&str]) -> Result<(), RegistryError> {
        let inner = &self.0;
        let stands = |names: &[&str], name: &Name| names.iter().any(|n| same_name(n, name));
        for platform in inner.storage.list_of::<Platform>(Scope::All, Query::default()).await?.items {
            let declared = stands(platforms, &platform.name);
            let mark = |p: &mut Platform| {
                (p.declared != declared).then(|| {
                    p.declared = declared;
                    UnitOfWork::new()
                })
            };
            inner.storage.change::<Platform, _>(inner.clock.now(), Scope::All, platform.id, mark).await?;
        }
        for destination in inner.storage.list_of::<BackupDestination>(Scope::All, Query::default()).await?.items {
            let declared = stands(destinations, &destination.name);
            let mark = |d: &mut BackupDestination| {
                (d.declared != declared).then(|| {
                    d.declared = declared;
                    UnitOfWork::new()
                })
            };
            inner.storage.change::<BackupDestination, _>(inner.clock.now(), Scope::All, destination.id, mark).await?;
        }
        Ok(())
    }
}

impl Inner {
    async fn open_platforms(&self) -> Result<(), RegistryError> {
        let all = self.storage.list_of::<Platform>(Scope::All, Query::default()).await?.items;
        let known: BTreeSet<PlatformId> = all.iter().map(|p| p.id).collect();
        for here in self.open.platforms() {
            if !known.contains(&here) && self.storage.find::<Platform>(Scope::All, here).await?.is_none() {
                tracing::info!(platform = %here, "the platform was removed");
                self.disconnect(here);
                self.note_problem(here.uuid(), None);
            }
        }
        for platform in all.iter().filter(|p| p.enabled && !self.is_connected(p.id)) {
            let built = match self.stored_spec(platform).await {
                Ok(spec) => self.build(&spec).await,
                Err(e) => Err(e),
            };
            match built {
                Ok(built) => {
                    tracing::info!(platform = %platform.name, driver = platform.driver, "the platform is open");
                    self.connect(platform.id, &built);
                }
                Err(error) => self.failed("platform", platform.name.as_str(), platform.id.uuid(), &error),
            }
        }
        Ok(())
    }

    async fn open_destinations(&self) -> Result<(), RegistryError> {
        let all = self.storage.list_of::<BackupDestination>(Scope::All, Query::default()).await?.items;
        let known: BTreeSet<BackupDestinationId> = all.iter().map(|d| d.id).collect();
        for here in self.repositories.destinations() {
            if !known.contains(&here) && self.storage.find::<BackupDestination>(Scope::All, here).await?.is_none() {
                tracing::info!(destination = %here, "the destination was removed");
                self.repositories.remove(here);
                self.note_problem(here.uuid(), None);
            }
        }
        for destination in all.iter().filter(|d| !d.declared && self.repositories.get(d.id).is_err()) {
            match self.reopen(destination).await {
                Ok(repository) => {
                    tracing::info!(destination = %destination.name, kind = destination.kind, "the destination is open");
                    self.repositories.insert(destination.id, repository);
                    self.note_problem(destination.id.uuid(), None);
                }
                Err(error) => self.failed("destination", destination.name.as_str(), destination.id.uuid(), &error),
            }
        }
        Ok(())
    }

    /// Shows a failure with the thing, and logs it where it is a new one.
    fn failed(&self, what: &'static str, name: &str, id: uuid::Uuid, error: &RegistryError) {
        let text = error.one_line();
        if self.problem(id).as_deref() != Some(&text) {
            tracing::error!(name, error = text, "a {what} is out of reach");
        }
        self.note_problem(id, Some(text));
    }
}

/// Names are unique whatever the case of their letters.
fn same_name(text: &str, name: &Name) -> bool {
    text.trim().to_lowercase() == name.as_str().to_lowercase()
}
