//! Backup destinations.

use crate::error::ProtectError;
use crate::service::Protect;
use portolan_model::*;
use portolan_repository::BackupRepository;
use portolan_storage::{Conflict, ListOf, Query, StorageExt, StoreError, UnitOfWork};
use std::sync::Arc;

/// A destination to register.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDestination {
    /// Its id, where the caller needs it before (a key is sealed under it).
    pub id: BackupDestinationId,
    /// Its name, unique.
    pub name: Name,
    /// A text for people.
    pub description: String,
    /// The kind of store, `local`.
    pub kind: String,
    /// Where it is.
    pub url: String,
    /// Whether backups without a destination go here.
    pub default: bool,
}

impl Protect {
    /// Registers a destination with its opened repository, or finds the one of that name and gives it the
    /// repository. Fails when the name belongs to a destination of another kind.
    pub async fn register_destination(
        &self,
        caller: &Caller,
        new: NewDestination,
        repository: Arc<dyn BackupRepository>,
    ) -> Result<BackupDestination, ProtectError> {
        caller.require(Privilege::PlatformManage)?;
        loop {
            if let Some(there) = self.destination_named(new.name.as_str()).await? {
                if there.kind != new.kind {
                    return Err(ProtectError::Conflict(format!(
                        "the destination '{}' is there as a store of kind '{}'",
                        new.name, there.kind
                    )));
                }
                let there = self
                    .storage
                    .change::<BackupDestination, _>(self.clock.now(), caller.scope, there.id, |d| {
                        (d.url != new.url || d.default != new.default).then(|| {
                            d.url.clone_from(&new.url);
                            d.default = new.default;
                            UnitOfWork::new()
                        })
                    })
                    .await?
                    .value;
                self.repositories.insert(there.id, repository);
                self.refresh_destination(there.id).await?;
                return Ok(there);
            }
            let now = self.clock.now();
            let destination = BackupDestination {
                id: new.id,
                name: new.name.clone(),
                description: new.description.clone(),
                kind: new.kind.clone(),
                url: new.url.clone(),
                default: new.default,
                used_bytes: 0,
                free_bytes: 0,
                logical_bytes: 0,
                settings: Default::default(),
                declared: false,
                created: now,
            };
            match self.storage.apply(now, caller.scope, UnitOfWork::new().create(&destination)).await {
                Ok(_) => {
                    self.repositories.insert(destination.id, repository);
                    self.refresh_destination(destination.id).await?;
                    return Ok(destination);
                }
                Err(StoreError::Conflict(Conflict::Taken { .. })) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The destination of that name.
    pub async fn destination_named(&self, name: &str) -> Result<Option<BackupDestination>, ProtectError> {
        let key = format!("destination:{}", name.to_lowercase());
        Ok(self.storage.find_by_key::<BackupDestination>(Scope::All, &key).await?.map(|s| s.value))
    }

    /// Destinations that the caller may see.
    pub async fn destinations(&self, caller: &Caller, query: Query) -> Result<ListOf<BackupDestination>, ProtectError> {
        caller.require(Privilege::BackupRead)?;
        Ok(self.storage.list_of::<BackupDestination>(caller.scope, query).await?)
    }

    /// Writes how full a destination is.
    pub async fn refresh_destination(&self, id: BackupDestinationId) -> Result<(), ProtectError> {
        let usage = self.repositories.get(id)?.usage().await?;
        self.storage
            .change::<BackupDestination, _>(self.clock.now(), Scope::All, id, |d| {
                let after = (usage.stored_bytes, usage.free_bytes.unwrap_or(0), usage.logical_bytes);
                ((d.used_bytes, d.free_bytes, d.logical_bytes) != after).then(|| {
                    (d.used_bytes, d.free_bytes, d.logical_bytes) = after;
                    UnitOfWork::new()
                })
            })
            .await?;
        Ok(())
    }
}
