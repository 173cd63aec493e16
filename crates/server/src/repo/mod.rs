//! `portolan repo`: works on the objects of a repository alone.

mod file_sink;
mod list;
mod restore;
mod verify;

pub use file_sink::FileSink;

use crate::cli::{RepoArgs, RepoCommand};
use crate::config::{self, Overrides, Surroundings};
use crate::core::{Core, system};
use crate::data_dir::DataDir;
use crate::error::{Failure, OrFail};
use crate::{destinations, keyfile, misconfigured};
use indicatif::ProgressBar;
use portolan_model::Caller;
use portolan_repository::{LocalObjects, ObjectStore, Observer, RepoError, Repository, RepositoryEnv, RepositoryKey};
use portolan_storage::Query;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Does what the command says.
///
/// # Errors
/// With exit code 3 where damage was found.
pub async fn run(command: RepoCommand, around: &Surroundings) -> Result<(), Failure> {
    match command {
        RepoCommand::List { at, json } => list::run(&At::find(&at, around).await?, json).await,
        RepoCommand::Verify { at, depth, point, json } => {
            verify::run(&At::find(&at, around).await?, depth, point, json).await
        }
        RepoCommand::Restore { point, at, disk, output, output_dir, force } => {
            let target = match (output, output_dir) {
                (Some(file), _) => restore::Target::File(file),
                (None, Some(directory)) => restore::Target::Directory(directory),
                (None, None) => return Err(Failure::usage("say where to with --output or --output-dir")),
            };
            restore::run(&At::find(&at, around).await?, point, disk.as_deref(), target, force).await
        }
    }
}

/// A repository, and the key to it where one was given.
pub(crate) struct At {
    path: PathBuf,
    key: Option<RepositoryKey>,
    /// Held, so that no server starts meanwhile.
    _data: Option<DataDir>,
}

impl At {
    async fn find(args: &RepoArgs, around: &Surroundings) -> Result<Self, Failure> {
        let key = match (&args.recovery_key_file, &args.key_file) {
            (Some(file), _) => Some(keyfile::recovery(file)?),
            (None, Some(file)) => Some(keyfile::key(file)?),
            (None, None) => None,
        };
        let (path, key, data) = match &args.data_dir {
            Some(directory) => {
                let (path, key, data) = from_server(directory, args.repository.as_deref(), around).await?;
                (path, Some(key), Some(data))
            }
            None => {
                let path = args.repository.clone().ok_or_else(|| {
                    Failure::usage("which repository?").hint("name its directory with --repository, or --data-dir")
                })?;
                (path, key, None)
            }
        };
        if !destinations::has_repository(&path) {
            return Err(Failure::new(format!("there is no repository in {}", path.display()))
                .hint("name the directory that holds 'config' and 'packs'"));
        }
        Ok(Self { path, key, _data: data })
    }

    pub(crate) async fn objects(&self) -> Result<LocalObjects, Failure> {
        destinations::open_objects(&self.path).await
    }

    /// The repository, open.
    pub(crate) async fn open(&self) -> Result<Repository, Failure> {
        let Some(key) = &self.key else {
            return Err(Failure::usage("the repository is encrypted, and no key was given").hint(
                "give --recovery-key-file, --key-file, or the --data-dir of a stopped server; \
                 `repo verify --depth pack` needs none",
            ));
        };
        let (clock, ids) = system();
        let objects = Arc::new(self.objects().await?);
        let e = match Repository::open(objects.clone(), RepositoryEnv { clock, ids }, key).await {
            Ok(repository) => return Ok(repository),
            Err(e) => e,
        };
        let message = format!("the repository in {} cannot be opened", self.path.display());
        Err(match &e {
            RepoError::WrongKey => Failure::new(message).hint("is it the key of this very repository?"),
            RepoError::TooNew { .. } => Failure::new(message).hint("a newer version of portolan has made it: use that"),
            RepoError::Corrupt { object, .. } if object.starts_with("config") => {
                let points = objects.list("points/").await.map_or_else(|_| "the".into(), |all| all.len().to_string());
                Failure::damage(message).hint(format!(
                    "neither `config` nor `config.copy` is good: no disk of any of {points} recovery points can be \
                     read; put one of the two back from a copy of the repository"
                ))
            }
            _ => Failure::new(message),
        }
        .because(e))
    }
}

/// Repository and key of a stopped server.
async fn from_server(
    directory: &Path,
    wanted: Option<&Path>,
    around: &Surroundings,
) -> Result<(PathBuf, RepositoryKey, DataDir), Failure> {
    let key = ("--data-dir".to_owned(), "data_dir".to_owned(), directory.to_string_lossy().into_owned());
    let overrides = Overrides { file: around.get("PORTOLAN_CONFIG").map(PathBuf::from), keys: vec![key] };
    let (config, _) = config::load(around, &overrides).map_err(misconfigured)?;
    let taken = DataDir::take_existing(&config.data_dir)
        .map_err(|e| e.hint("stop that server first, or give the recovery key with --recovery-key-file"))?;
    let Some(data) = taken else {
        return Err(Failure::new(format!("there is no data directory at {}", directory.display())));
    };
    let core = Core::open(&config, &data, around).await?;
    let found = known(&core, wanted).await;
    core.storage.close().await;
    let (path, key) = found?;
    Ok((path, key, data))
}

/// The destination that is wanted, else the default one, else the only one, and its key.
async fn known(core: &Core, wanted: Option<&Path>) -> Result<(PathBuf, RepositoryKey), Failure> {
    let all = core.portolan.protect.destinations(&Caller::system(), Query::default()).await;
    let all = all.or_fail(|| "the destinations cannot be listed".into())?.items;
    let all: Vec<_> = all.into_iter().map(|d| d.value).filter(|d| d.kind == "local").collect();
    let names: Vec<String> = all.iter().map(|d| format!("{} ({})", d.url, d.name)).collect();
    let hint = match names.is_empty() {
        true => "that server has none yet".to_owned(),
        false => format!("that server has: {}; name one with --repository", names.join(", ")),
    };
    let chosen = match (wanted, all.as_slice()) {
        (Some(path), all) => {
            let path = std::path::absolute(path).or_fail(|| format!("{} is no path", path.display()))?;
            all.iter().find(|d| Path::new(&d.url) == path)
        }
        (None, [only]) => Some(only),
        (None, all) => all.iter().find(|d| d.default),
    };
    let chosen = chosen.ok_or_else(|| Failure::new("which repository of that server?").hint(hint))?;
    let key = core.portolan.registry.repository_key(chosen.id).await;
    let key = key.or_fail(|| "the repository's key cannot be had from the database".into())?;
    Ok((PathBuf::from(&chosen.url), key))
}

/// Shows progress on a bar.
pub(crate) struct Bar(pub(crate) ProgressBar);

impl Observer for Bar {
    fn progress(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}
