//! Unlocking: the master key is checked against the store before anything else runs.

use crate::error::AccessError;
use crate::keys::{KeySource, MasterKey};
use crate::seal::Sealer;
use crate::secrets;
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::{Clock, IdSource, Scope};
use portolan_storage::{Conflict, Kind, Query, Secured, Setting, Storage, StorageExt, StoreError, UnitOfWork};
use std::fmt;
use zeroize::Zeroizing;

/// The setting that holds the check value.
const CHECK: &str = "master_key_check";
/// What the check value opens to.
const CHECK_TEXT: &[u8] = b"this is the right key";

/// The master key, checked; derives every other key from it.
#[derive(Clone)]
pub struct Vault {
    key: MasterKey,
}

impl Vault {
    /// A vault over a key that was not checked against any store: for the memory store and for tests.
    pub fn unchecked(key: MasterKey) -> Self {
        Self { key }
    }

    /// A sealer for one purpose.
    pub fn sealer(&self, purpose: &str) -> Sealer {
        Sealer::new(&self.key, purpose)
    }

    /// A key for keyed hashes, for one purpose.
    pub fn hash_key(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        self.key.derive(&format!("hash:{purpose}"))
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(***)")
    }
}

/// Finds the master key and checks it against the store. On the very first start makes a key and leaves a check
/// value; the key is durable before. A store that has secrets or a check value is never given a new key:
/// [`AccessError::KeyMissing`] and [`AccessError::KeyMismatch`] say what to do.
pub async fn unlock(
    storage: &dyn Storage,
    source: &dyn KeySource,
    clock: &dyn Clock,
    ids: &dyn IdSource,
) -> Result<Vault, AccessError> {
    if let Some(check) = storage.find::<Setting>(Scope::All, Setting::id_of(CHECK)).await? {
        return verify(source, &check.value).await;
    }
    let vault = match a_secret(storage).await? {
        // The check value is gone while secrets are there: a secret that opens is as good a proof.
        Some(secret) => {
            let key = found(source).await?;
            let vault = Vault { key };
            if secrets::open(&vault.sealer(secrets::PURPOSE), &secret).is_err() {
                return Err(AccessError::KeyMismatch { found_at: source.describe() });
            }
            vault
        }
        None => Vault { key: source.create(ids).await? },
    };
    let row = Setting::id_of(CHECK).uuid();
    let sealed = vault.sealer("check").seal(ids, row, CHECK, CHECK_TEXT);
    let sealed = sealed.map_err(|e| AccessError::Internal(e.to_string()))?;
    let unit = UnitOfWork::new().create(&Setting::new(CHECK, serde_json::Value::String(sealed)));
    match storage.apply(clock.now(), Scope::All, unit).await {
        Ok(_) => Ok(vault),
        // Another process started at the same time; its key and ours must be the same.
        Err(StoreError::Conflict(Conflict::Version { .. } | Conflict::Taken { .. })) => {
            let check = storage.fetch::<Setting>(Scope::All, Setting::id_of(CHECK)).await?;
            verify(source, &check.value).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn verify(source: &dyn KeySource, check: &Setting) -> Result<Vault, AccessError> {
    let vault = Vault { key: found(source).await? };
    let sealed = check.value.as_str().unwrap_or_default();
    match vault.sealer("check").open(check.id.uuid(), CHECK, sealed) {
        Ok(text) if text.as_slice() == CHECK_TEXT => Ok(vault),
        _ => Err(AccessError::KeyMismatch { found_at: source.describe() }),
    }
}

async fn found(source: &dyn KeySource) -> Result<MasterKey, AccessError> {
    let key = source.load().await?;
    key.ok_or_else(|| AccessError::KeyMissing { looked_at: source.describe() })
}

async fn a_secret(storage: &dyn Storage) -> Result<Option<Secured>, AccessError> {
    if storage.count(Scope::All, Kind::Secured, &Filter::All).await? == 0 {
        return Ok(None);
    }
    let query = Query { filter: Filter::All, sort: Sort::default(), page: Page::first(1), count: false };
    Ok(storage.list_of::<Secured>(Scope::All, query).await?.items.pop().map(|stored| stored.value))
}
