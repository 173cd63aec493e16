//! The config object and its key slots.

use super::core::{Core, blocking, format_error, lock, store_error};
use super::repository::Repository;
use crate::format::config::{Config, KeySlot, SlotKind};
use crate::keys::{RecoveryKey, RepositoryKey};
use crate::object::{Etag, ObjectError, ObjectStore};
use crate::port::RepoError;
use bytes::Bytes;
use portolan_model::Timestamp;
use uuid::Uuid;

pub(super) const CONFIG: &str = "config";
/// A second copy of the config: without one good copy no key opens anything.
pub(super) const CONFIG_COPY: &str = "config.copy";

/// The label of the slots that recovery keys open.
pub const RECOVERY_SLOT: &str = "recovery";

/// A key slot, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlotInfo {
    /// Its id, for [`Repository::remove_slot`].
    pub id: Uuid,
    /// What it is for.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether a passphrase opens it; a key of 32 bytes otherwise.
    pub passphrase: bool,
}

impl From<&KeySlot> for KeySlotInfo {
    fn from(slot: &KeySlot) -> Self {
        Self {
            id: slot.id,
            label: slot.label.clone(),
            created: slot.created,
            passphrase: matches!(slot.kind, SlotKind::Passphrase { .. }),
        }
    }
}

impl Repository {
    /// The key slots.
    pub fn slots(&self) -> Vec<KeySlotInfo> {
        lock(&self.core.config).key_slots.iter().map(KeySlotInfo::from).collect()
    }

    /// Adds a slot for another key. Data is not touched.
    pub async fn add_slot(&self, key: &RepositoryKey, label: &str) -> Result<Uuid, RepoError> {
        let core = self.core.clone();
        let (key, label, config) = (key.clone(), label.to_owned(), lock(&self.core.config).clone());
        let slot =
            blocking(move || core.keys.new_slot(&key, &label, &config, &*core.env.ids, core.env.clock.now())).await??;
        let id = slot.id;
        self.swap_config(|config| {
            config.key_slots.push(slot.clone());
            Ok(())
        })
        .await?;
        Ok(id)
    }

    /// Adds a slot for a fresh recovery key, which is shown nowhere else.
    pub async fn add_recovery_slot(&self) -> Result<RecoveryKey, RepoError> {
        let recovery = RecoveryKey::generate(&*self.core.env.ids);
        self.add_slot(&recovery.key(), RECOVERY_SLOT).await?;
        Ok(recovery)
    }

    /// Removes a slot. Whoever opened the repository with its key before can still know the master key.
    ///
    /// # Errors
    /// [`RepoError::NotFound`]; [`RepoError::Conflict`] for the last slot.
    pub async fn remove_slot(&self, id: Uuid) -> Result<(), RepoError> {
        self.swap_config(|config| {
            if !config.key_slots.iter().any(|slot| slot.id == id) {
                return Err(RepoError::NotFound { what: "key slot", id: id.to_string() });
            }
            if config.key_slots.len() == 1 {
                return Err(RepoError::Conflict("the last key slot cannot be removed".into()));
            }
            config.key_slots.retain(|slot| slot.id != id);
            Ok(())
        })
        .await
    }

    async fn swap_config(&self, change: impl Fn(&mut Config) -> Result<(), RepoError>) -> Result<(), RepoError> {
        let objects = &self.core.objects;
        for _ in 0..16 {
            let (mut config, tag) = read_config(&**objects, CONFIG).await?;
            if config.id != self.core.config_id() {
                return Err(RepoError::Conflict("another repository has taken this one's place".into()));
            }
            change(&mut config)?;
            config.revision += 1;
            let encoded = Bytes::from(config.encode());
            match objects.replace(CONFIG, encoded.clone(), &tag).await {
                Ok(_) => {
                    *lock(&self.core.config) = config;
                    return write_copy(&**objects, encoded).await;
                }
                Err(ObjectError::Changed) => continue,
                Err(e) => return Err(store_error("write", CONFIG)(e)),
            }
        }
        Err(RepoError::Conflict("the config keeps changing".into()))
    }
}

impl Core {
    fn config_id(&self) -> Uuid {
        lock(&self.config).id
    }
}

pub(super) async fn read_config(objects: &dyn ObjectStore, name: &str) -> Result<(Config, Etag), RepoError> {
    match objects.get_tagged(name).await {
        Ok((bytes, tag)) => Ok((Config::decode(&bytes).map_err(format_error(name))?, tag)),
        Err(ObjectError::NotFound) => Err(RepoError::NotFound { what: "repository", id: name.to_owned() }),
        Err(e) => Err(store_error("read", name)(e)),
    }
}

/// Brings the copy of the config up to date.
pub(super) async fn write_copy(objects: &dyn ObjectStore, encoded: Bytes) -> Result<(), RepoError> {
    for _ in 0..4 {
        match objects.put_new(CONFIG_COPY, encoded.clone()).await {
            Ok(()) => return Ok(()),
            Err(ObjectError::AlreadyExists) => {}
            Err(e) => return Err(store_error("write", CONFIG_COPY)(e)),
        }
        let (old, tag) = match objects.get_tagged(CONFIG_COPY).await {
            Ok(found) => found,
            Err(ObjectError::NotFound) => continue,
            Err(e) => return Err(store_error("read", CONFIG_COPY)(e)),
        };
        let revision = |bytes: &[u8]| Config::decode(bytes).map_or(0, |c| c.revision);
        if revision(&old) >= revision(&encoded) {
            return Ok(());
        }
        match objects.replace(CONFIG_COPY, encoded.clone(), &tag).await {
            Ok(_) => return Ok(()),
            Err(ObjectError::Changed) => {}
            Err(e) => return Err(store_error("write", CONFIG_COPY)(e)),
        }
    }
    Ok(())
}
