//! Backup destinations: each is opened with its own key, which is sealed in the database before the repository is
//! made, so that a crash at any point leaves a repository that opens or none.

use crate::config::{Config, DestinationConfig};
use crate::core::Core;
use crate::data_dir::{DataDir, write_private};
use crate::error::{Failure, OrFail};
use crate::keyfile;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use portolan_model::query::Filter;
use portolan_model::{BackupDestination, BackupDestinationId, Caller, Name, Scope, Secret};
use portolan_protect::NewDestination;
use portolan_repository::{
    BackupRepository, LocalObjects, RecoveryKey, RepoError, Repository, RepositoryEnv, RepositoryKey,
};
use portolan_storage::{Conflict, Setting, StateStore, Storage, StorageExt, StoreError, UnitOfWork};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the destination that is there when nobody configures one.
pub const BUILT_IN: &str = "local";
/// How often a unit is decided anew.
const ROUNDS: u32 = 32;

/// A destination that is open.
#[derive(Debug)]
pub struct Opened {
    /// Its id.
    pub id: BackupDestinationId,
    /// Its name.
    pub name: String,
    /// The file with the recovery key, where it was written just now.
    pub recovery_file: Option<PathBuf>,
}

/// What is noted of a destination under its name: its id first of all, since its key is sealed under that.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Mark {
    id: BackupDestinationId,
    /// Whether the repository is known to have been made.
    #[serde(default)]
    made: bool,
    /// Whether somebody has a recovery key: it lies in its file.
    #[serde(default)]
    recoverable: bool,
}

/// The configured destinations, and the built-in one where nothing is configured or something lies in it already.
pub fn planned(config: &Config, data: &DataDir) -> Vec<DestinationConfig> {
    let mut out = config.destinations.clone();
    let path = data.join("repository");
    let free = !out.iter().any(|d| d.name == BUILT_IN || d.path == path);
    if free && (out.is_empty() || path.exists()) {
        let default = !out.iter().any(|d| d.default);
        out.push(DestinationConfig { name: BUILT_IN.into(), path, default, recovery_key_file: None });
    }
    // Somebody who configures one destination means that one.
    if let [only] = out.as_mut_slice() {
        only.default = true;
    }
    out
}

/// Opens a destination's repository, making it when it has never been made, and registers it.
///
/// # Errors
/// When the repository is gone, belongs to somebody else, or cannot be reached. Nothing is made in the place of a
/// repository that was there before: its file system may just not be mounted.
pub async fn open(core: &Core, data: &DataDir, plan: &DestinationConfig) -> Result<Opened, Failure> {
    let what = || format!("the destination '{}' cannot be opened", plan.name);
    let mark = mark(core, &plan.name).await.map_err(|e| Failure::new(what()).because(e))?;
    let key = load_key(core, mark.id).await.map_err(|e| Failure::new(what()).because(e))?;
    if mark.made && !has_repository(&plan.path) {
        return Err(Failure::new(format!("{}: its repository is gone from {}", what(), plan.path.display()))
            .hint("is the file system mounted? Nothing was made in its place"));
    }
    let env = RepositoryEnv { clock: core.clock.clone(), ids: core.ids.clone() };
    let objects = open_objects(&plan.path).await.map_err(|e| Failure::new(what()).because(e))?;
    let (repository, fresh) = open_or_make(&objects, &env, &key, &mark, plan).await?;
    let mut recovery_file = None;
    if !mark.recoverable {
        let file = data.join(&format!("recovery-key-{}.txt", plan.name));
        let adopted = plan.recovery_key_file.is_some() && fresh.is_none();
        if !adopted && !opens(&file, &objects, &env).await {
            let recovery = match fresh {
                Some(recovery) => recovery,
                // A crash came between the repository and the file: that recovery key was never seen by anybody.
                None => repository.add_recovery_slot().await.or_fail(what)?,
            };
            let id = repository.describe().await.or_fail(what)?.id;
            write_private(&file, recovery_text(&plan.name, &plan.path, id, &recovery).as_bytes())
                .or_fail(|| format!("the recovery key cannot be written to {}", file.display()))?;
            recovery_file = Some(file);
        }
        let noted = note(core, &plan.name, Mark { made: true, recoverable: true, ..mark.clone() }).await;
        noted.map_err(|e| Failure::new(what()).because(e))?;
    }
    let new = NewDestination {
        id: mark.id,
        name: Name::lossy(&plan.name, BUILT_IN),
        description: String::new(),
        kind: "local".into(),
        url: plan.path.display().to_string(),
        default: plan.default,
    };
    let registered = core.portolan.protect.register_destination(&Caller::system(), new, Arc::new(repository)).await;
    let destination = registered.or_fail(what)?;
    Ok(Opened { id: destination.id, name: plan.name.clone(), recovery_file })
}

/// Takes the mark of the default from every other destination: one that is no longer configured must not keep it.
/// Failing is logged; the next start tries again.
pub async fn settle_default(core: &Core, name: &str) {
    let settle = async {
        let query = portolan_storage::Query::matching(Filter::eq("is_default", true));
        for other in core.storage.list_of::<BackupDestination>(Scope::All, query).await?.items {
            if !other.name.as_str().eq_ignore_ascii_case(name) {
                let now = core.portolan.now();
                let unmark = |d: &mut BackupDestination| {
                    d.default.then(|| {
                        d.default = false;
                        UnitOfWork::new()
                    })
                };
                core.storage.change::<BackupDestination, _>(now, Scope::All, other.id, unmark).await?;
            }
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = settle.await {
        tracing::warn!(error = %crate::error::OneLine(&error), "destinations could not be compared");
    }
}

async fn open_or_make(
    objects: &LocalObjects,
    env: &RepositoryEnv,
    key: &RepositoryKey,
    mark: &Mark,
    plan: &DestinationConfig,
) -> Result<(Repository, Option<RecoveryKey>), Failure> {
    let what = || format!("the destination '{}' cannot be opened", plan.name);
    let store = || Arc::new(objects.clone());
    if !mark.made && plan.recovery_key_file.is_none() {
        match Repository::create(store(), env.clone(), key).await {
            Ok((repository, recovery)) => return Ok((repository, Some(recovery))),
            // There is one: ours, from before a crash, or somebody else's.
            Err(RepoError::Conflict(_)) => {}
            Err(e) => return Err(Failure::new(what()).because(e)),
        }
    }
    match (Repository::open(store(), env.clone(), key).await, &plan.recovery_key_file) {
        (Ok(repository), _) => Ok((repository, None)),
        (Err(RepoError::WrongKey), Some(file)) => {
            let recovery = keyfile::recovery(file)?;
            let repository = Repository::open(store(), env.clone(), &recovery).await.or_fail(what)?;
            repository.add_slot(key, "adopted").await.or_fail(what)?;
            tracing::info!(destination = %plan.name, "the repository was adopted by its recovery key");
            Ok((repository, None))
        }
        (Err(e @ RepoError::WrongKey), None) => {
            let hint = format!(
                "the repository in {} was made by another installation: give its recovery key with \
                 destination.{}.recovery_key_file, or choose an empty directory",
                plan.path.display(),
                plan.name
            );
            Err(Failure::new(what()).because(e).hint(hint))
        }
        (Err(e), _) => Err(Failure::new(what()).because(e)),
    }
}

/// Whether a repository's config, or the copy of it, is there.
pub fn has_repository(path: &Path) -> bool {
    ["config", "config.copy"].iter().any(|name| path.join(name).exists())
}

/// Opens the store in a directory, making it with its parents when it is missing.
pub async fn open_objects(path: &Path) -> Result<LocalObjects, Failure> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        use std::os::unix::fs::DirBuilderExt;
        if !path.exists() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .or_fail(|| format!("the directory {} cannot be made", path.display()))?;
            if let Some(parent) = path.parent() {
                crate::data_dir::sync_dir(parent).or_fail(|| format!("{} cannot be written", parent.display()))?;
            }
        }
        LocalObjects::open(&path).or_fail(|| format!("the repository's directory {} cannot be used", path.display()))
    });
    opened.await.unwrap_or_else(|e| Err(Failure::new("a worker failed").because(e)))
}

/// Whether the recovery key in `file` opens the repository: it was written before a crash.
async fn opens(file: &Path, objects: &LocalObjects, env: &RepositoryEnv) -> bool {
    match keyfile::recovery(file) {
        Ok(key) => Repository::open(Arc::new(objects.clone()), env.clone(), &key).await.is_ok(),
        Err(_) => false,
    }
}

fn recovery_text(name: &str, path: &Path, id: uuid::Uuid, key: &RecoveryKey) -> String {
    format!(
        "# Recovery key of the backup repository '{name}' ({id})\n\
         # at {}\n\
         # Whoever has it can read every backup there, and without it a lost data directory means lost backups:\n\
         # keep it elsewhere, and remove this file. Lines with # are ignored.\n\
         # portolan repo list --repository DIR --recovery-key-file FILE\n\
         {}\n",
        path.display(),
        key.reveal().as_str()
    )
}

/// The owner that a destination's key is sealed under.
pub fn key_owner(id: BackupDestinationId) -> String {
    format!("destination:{id}:key")
}

/// The repository key of a destination, from the database.
///
/// # Errors
/// When it is not there, or is damaged.
pub async fn load_key(core: &Core, id: BackupDestinationId) -> Result<RepositoryKey, Failure> {
    let what = || "the repository's key cannot be had from the database".to_owned();
    let secret = core.portolan.access.secrets.get(&key_owner(id)).await.or_fail(what)?;
    let bytes = STANDARD_NO_PAD.decode(secret.reveal()).or_fail(what)?;
    let bytes: [u8; 32] = bytes.as_slice().try_into().or_fail(what)?;
    Ok(RepositoryKey::raw(bytes))
}

fn mark_name(name: &str) -> String {
    format!("destination:{}", name.to_lowercase())
}

async fn find_mark(core: &Core, name: &str) -> Result<Option<Mark>, StoreError> {
    match core.storage.find::<Setting>(Scope::All, Setting::id_of(&mark_name(name))).await? {
        Some(found) => serde_json::from_value(found.value.value).map(Some).map_err(StoreError::internal),
        None => Ok(None),
    }
}

/// What is noted of the destination of that name. The first time, an id and a fresh key are written in one unit: of
/// any number of processes that come here at once, all go on with the same key.
async fn mark(core: &Core, name: &str) -> Result<Mark, Failure> {
    let what = || "what is known of it cannot be read from the database".to_owned();
    for _ in 0..ROUNDS {
        if let Some(mark) = find_mark(core, name).await.or_fail(what)? {
            return Ok(mark);
        }
        let id = match core.portolan.protect.destination_named(name).await.or_fail(what)? {
            Some(there) => there.id,
            None => BackupDestinationId::from_uuid(core.ids.uuid()),
        };
        let mark = Mark { id, made: false, recoverable: false };
        let key = RepositoryKey::generate(&*core.ids);
        let text = key.expose().map(|bytes| Secret::new(STANDARD_NO_PAD.encode(bytes))).unwrap_or_default();
        let value = serde_json::to_value(&mark).or_fail(what)?;
        let unit = UnitOfWork::new().create(&Setting::new(&mark_name(name), value));
        let unit = core.portolan.access.secrets.put_in(unit, &key_owner(id), &text).await.or_fail(what)?;
        match core.storage.apply(core.portolan.now(), Scope::All, unit).await {
            Ok(_) => return Ok(mark),
            Err(StoreError::Conflict(Conflict::Version { .. } | Conflict::Taken { .. })) => {}
            Err(e) => return Err(Failure::new(what()).because(e)),
        }
    }
    Err(Failure::new("other processes change it all the time"))
}

async fn note(core: &Core, name: &str, mark: Mark) -> Result<(), Failure> {
    let what = || "the database failed".to_owned();
    let value = serde_json::to_value(&mark).or_fail(what)?;
    let storage: &dyn Storage = &*core.storage;
    let id = Setting::id_of(&mark_name(name));
    let noted = storage.change::<Setting, _>(core.portolan.now(), Scope::All, id, |setting| {
        (setting.value != value).then(|| {
            setting.value = value.clone();
            UnitOfWork::new()
        })
    });
    noted.await.map(drop).or_fail(what)
}
