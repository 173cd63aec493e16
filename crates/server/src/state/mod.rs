//! `portolan state`: the database and the keys in one sealed file, and back, also into another kind of database.

mod lines;
mod seal;

pub use seal::SealFault;

use crate::ask;
use crate::cli::{StateExport, StateImport};
use crate::config::{Config, Surroundings};
use crate::core::{self, system};
use crate::data_dir::{DataDir, sync_dir, write_private};
use crate::error::{Failure, OrFail};
use crate::output;
use indicatif::ProgressBar;
use lines::{Head, Line, Reading, Writing};
use portolan_access::{KeySource, MasterKey, unlock};
use portolan_model::Secret;
use portolan_storage::StoreError;
use portolan_storage_sql::SqlStorage;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The name of the master key in the file.
const MASTER_KEY: &str = "keys/master.key";
/// What else goes along, from the data directory: certificates that clients have been told to trust.
const FILES: [&str; 2] = ["tls/tls.crt", "tls/tls.key"];
/// A passphrase has at least this many characters.
const SHORTEST: usize = 8;

/// Writes the state of a server into a file.
///
/// # Errors
/// When the server runs (unless it may), when the key does not fit the database, or the file cannot be written.
pub async fn export(args: &StateExport, config: &Config, around: &Surroundings) -> Result<(), Failure> {
    if args.output.exists() && !args.force {
        return Err(Failure::usage(format!("{} is there already", args.output.display())).hint("--force overwrites it"));
    }
    if !config.data_dir.is_dir() {
        return Err(Failure::new(format!("there is no data directory at {}", config.data_dir.display()))
            .hint("name the server's with --data-dir"));
    }
    let _held = match args.live {
        true => None,
        false => DataDir::take_existing(&config.data_dir).map_err(|e| {
            e.hint("stop the server first, or add --live to export beside it what it holds at this moment")
        })?,
    };
    let passphrase = passphrase(args.passphrase_file.as_deref(), true)?;
    let sql = core::sql_config(config, &config.data_dir);
    let storage = if args.live { SqlStorage::attach(sql).await } else { SqlStorage::connect(sql).await };
    let storage = storage.map_err(|e| core::database(config, e))?;
    let written = write(args, config, around, &storage, &passphrase).await;
    storage.close().await;
    let rows = written?;
    output::note(format!(
        "{rows} rows and the master key are in {}. Whoever has it and the passphrase has every secret of this server.",
        args.output.display()
    ));
    Ok(())
}

async fn write(
    args: &StateExport,
    config: &Config,
    around: &Surroundings,
    storage: &SqlStorage,
    passphrase: &Secret,
) -> Result<u64, Failure> {
    let key = core::key_file(config, &config.data_dir, around);
    let (clock, ids) = system();
    // A key that does not fit this database would make the file worthless.
    unlock(storage, &key, &*clock, &*ids).await.map_err(core::locked)?;
    let key = key.load().await.or_fail(|| "the master key cannot be read".into())?;
    let key = key.ok_or_else(|| Failure::new("there is no master key"))?;
    let what = || format!("{} cannot be written", args.output.display());

    let partial = beside(&args.output);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial).or_fail(what)?;
    let result = async {
        let mut out = Writing::begin(BufWriter::new(file), passphrase, &*ids).or_fail(what)?;
        out.put(&Line::Head(Head::now(clock.now()))).or_fail(what)?;
        out.put(&Line::file(MASTER_KEY, &key.to_text())).or_fail(what)?;
        for name in FILES {
            match std::fs::read_to_string(config.data_dir.join(name)) {
                Ok(text) => out.put(&Line::file(name, &text)).or_fail(what)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Failure::new(format!("{name} cannot be read")).because(e)),
            }
        }
        let bar = output::count_bar("exporting");
        bar.set_length(storage.dump_rows().await.or_fail(|| "the database cannot be read".into())?);
        let rows = storage.dump::<Trouble>(|line| {
            bar.inc(1);
            out.put(&Line::Data(line)).map_err(Trouble::File)
        });
        let rows = rows.await.map_err(|e| e.failure("the database cannot be read", what()))?;
        out.put(&Line::End { rows }).or_fail(what)?;
        out.finish().and_then(|file| file.into_inner().map_err(|e| e.into_error())?.sync_all()).or_fail(what)?;
        bar.finish_and_clear();
        std::fs::rename(&partial, &args.output).or_fail(what)?;
        sync_dir(parent(&args.output)).or_fail(what)?;
        Ok(rows)
    };
    let result = result.await;
    if result.is_err() {
        // Without its end it is of no use to anybody.
        let _ = std::fs::remove_file(&partial);
    }
    result
}

/// Takes the state in a file into an empty data directory and an empty database of any kind.
///
/// # Errors
/// When the file cannot be read to its end, the passphrase is another one, or something is there already. Nothing is
/// half-written then.
pub async fn import(args: &StateImport, config: &Config) -> Result<(), Failure> {
    let passphrase = passphrase(args.passphrase_file.as_deref(), false)?;
    // The whole file is proven before anything is made.
    let contents = prove(&args.file, &passphrase)?;
    let data = DataDir::take(&config.data_dir)?;
    let key_path = config.master_key_file.clone().unwrap_or_else(|| data.join(MASTER_KEY));
    let key_made = place_key(&key_path, &contents.key)?;
    let loaded = load(args, config, &data, &passphrase).await;
    let rows = match loaded {
        Ok(rows) => rows,
        Err(e) => {
            if key_made {
                let _ = std::fs::remove_file(&key_path);
            }
            return Err(e);
        }
    };
    for (name, text) in &contents.files {
        let path = data.join(name);
        let what = || format!("{} cannot be written", path.display());
        if !path.exists() {
            make_dir(parent(&path)).and_then(|()| write_private(&path, text.reveal().as_bytes())).or_fail(what)?;
        }
    }
    output::note(format!(
        "{rows} rows of {} are in the database, the master key is in {}. Backup repositories are no part of the state: \
         put those of the old data directory in the same places, or name them in the configuration.",
        contents.head.taken,
        key_path.display()
    ));
    Ok(())
}

async fn load(args: &StateImport, config: &Config, data: &DataDir, passphrase: &Secret) -> Result<u64, Failure> {
    let storage = SqlStorage::connect(core::sql_config(config, data.path())).await;
    let storage = storage.map_err(|e| core::database(config, e))?;
    let loaded = async {
        let empty = storage.is_empty().await.map_err(|e| core::database(config, e))?;
        if !empty {
            return Err(Failure::new("the database holds something already")
                .hint("import into a new data directory (--data-dir), or into an empty database (database.url)"));
        }
        let (mut lines, bar) = reading(&args.file, passphrase, "importing")?;
        let mut end = None;
        let rows = storage.load::<Trouble>(|| {
            loop {
                match lines.next().map_err(Trouble::File)? {
                    Some(Line::Data(line)) => return Ok(Some(line)),
                    Some(Line::End { rows }) => end = Some(rows),
                    Some(_) => {}
                    None if end.is_some() => return Ok(None),
                    None => return Err(Trouble::File(SealFault::Short(0).into())),
                }
            }
        });
        let rows = rows.await.map_err(|e| {
            e.failure("the database does not take the state in", format!("{} cannot be read", args.file.display()))
        })?;
        bar.finish_and_clear();
        Ok(rows)
    };
    let loaded = loaded.await;
    storage.close().await;
    loaded
}

/// What a file holds beside rows.
struct Contents {
    head: Head,
    key: MasterKey,
    files: Vec<(String, Secret)>,
}

/// Reads a file from its first byte to its last.
fn prove(path: &Path, passphrase: &Secret) -> Result<Contents, Failure> {
    let what = || format!("{} cannot be imported", path.display());
    let odd = |why: &'static str| Failure::new(what()).because(why);
    let (mut lines, bar) = reading(path, passphrase, "checking")?;
    let next = |lines: &mut Reading<_>| lines.next().map_err(|e| unreadable(path, e));
    let Some(Line::Head(head)) = next(&mut lines)? else { return Err(odd("it does not begin as it should")) };
    let known = SqlStorage::schema_version();
    if head.schema != known {
        let failure =
            Failure::new(what()).because(format!("its database has schema {}, this program has {known}", head.schema));
        return Err(match head.schema > known {
            true => failure.hint("a newer version of portolan has made it: import it with that"),
            false => failure.hint(format!(
                "import it with portolan {}, which has made it, then start this version on the result",
                head.version
            )),
        });
    }
    let (mut key, mut files, mut rows, mut end) = (None, Vec::new(), 0_u64, None);
    while let Some(line) = next(&mut lines)? {
        match line {
            Line::File { name, text } if name == MASTER_KEY => {
                key = Some(MasterKey::parse(&text).or_fail(what)?);
            }
            Line::File { name, text } if FILES.contains(&name.as_str()) => files.push((name, Secret::new(text))),
            Line::File { .. } | Line::Head(_) => return Err(odd("it holds something that this program does not know")),
            Line::Data(portolan_storage_sql::DumpLine::Row(_)) => rows += 1,
            Line::Data(_) => {}
            Line::End { rows } => end = Some(rows),
        }
    }
    bar.finish_and_clear();
    if end != Some(rows) {
        return Err(odd("it does not hold as many rows as it says"));
    }
    let key = key.ok_or_else(|| odd("it holds no master key"))?;
    Ok(Contents { head, key, files })
}

fn reading(
    path: &Path,
    passphrase: &Secret,
    what: &str,
) -> Result<(Reading<BufReader<Counted>>, ProgressBar), Failure> {
    let unopened = || format!("{} cannot be opened", path.display());
    let file = File::open(path).or_fail(unopened)?;
    let bar = output::bytes_bar(what);
    bar.set_length(file.metadata().or_fail(unopened)?.len());
    let from = BufReader::new(Counted { file, bar: bar.clone() });
    let lines = Reading::begin(from, passphrase).map_err(|e| unreadable(path, e))?;
    Ok((lines, bar))
}

fn unreadable(path: &Path, error: io::Error) -> Failure {
    let fault = error.get_ref().and_then(|e| e.downcast_ref::<SealFault>());
    let hint = match fault {
        Some(SealFault::Passphrase) => Some("nothing was changed; try the passphrase again"),
        Some(SealFault::TooNew(_)) => Some("a newer version of portolan has made it: import it with that"),
        Some(SealFault::Damaged(_) | SealFault::Short(_)) => Some("nothing was changed; take another copy of the file"),
        Some(SealFault::Foreign) => Some("name a file that `portolan state export` has made"),
        None => None,
    };
    let failure = Failure::new(format!("{} cannot be read", path.display())).because(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Writes the master key where there is none; whether it did. One that is there must be the same.
fn place_key(path: &Path, key: &MasterKey) -> Result<bool, Failure> {
    let what = || format!("the master key cannot be written to {}", path.display());
    match std::fs::read_to_string(path) {
        // From an import that was cut off.
        Ok(there) if there.trim_end() == key.to_text().trim_end() => Ok(false),
        Ok(_) => Err(Failure::new(format!("there is another master key in {}", path.display()))
            .hint("import into a new data directory: name it with --data-dir")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            // Durable before the rows are: a database without its key opens nothing.
            make_dir(parent(path)).and_then(|()| write_private(path, key.to_text().as_bytes())).or_fail(what)?;
            sync_dir(parent(parent(path))).or_fail(what)?;
            Ok(true)
        }
        Err(e) => Err(Failure::new(what()).because(e)),
    }
}

fn passphrase(file: Option<&Path>, new: bool) -> Result<Secret, Failure> {
    let given = match file {
        Some(file) => ask::first_line(file)?,
        None => {
            let given = ask::secret("Passphrase of the file (not shown while you type):")?;
            let again = if new && ask::is_terminal() { Some(ask::secret("The same once more:")?) } else { None };
            if again.is_some_and(|again| !again.matches(given.reveal())) {
                return Err(Failure::usage("the two are not the same").hint("nothing was written; try again"));
            }
            given
        }
    };
    if new && given.reveal().chars().count() < SHORTEST {
        return Err(Failure::usage(format!("the passphrase needs at least {SHORTEST} characters"))
            .hint("whoever guesses it has every secret of the server"));
    }
    Ok(given)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn make_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// What ends a dump or a load: the database, or the file.
enum Trouble {
    Store(StoreError),
    File(io::Error),
}

impl From<StoreError> for Trouble {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

impl Trouble {
    fn failure(self, store: &str, file: String) -> Failure {
        match self {
            Self::Store(e) => Failure::new(store).because(e),
            Self::File(e) => Failure::new(file).because(e),
        }
    }
}

/// A file that shows on a bar how far it was read.
struct Counted {
    file: File,
    bar: ProgressBar,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(out)?;
        self.bar.inc(n as u64);
        Ok(n)
    }
}
