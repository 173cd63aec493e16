//! The master key in a file.

use crate::keys::{KeyError, KeyProblem, KeySource, MasterKey};
use async_trait::async_trait;
use portolan_model::IdSource;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// No key file is longer than this many bytes.
const MAX_BYTES: u64 = 4096;

/// How careful to be about a file's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Nobody but the owner may touch it.
    Strict,
    /// A service manager's credential: where it grants access by an access list, the mode shows the group as a reader.
    Credential,
}

/// The master key in a file: the first of some candidates that exists. A new key is made at the last one.
#[derive(Debug, Clone)]
pub struct KeyFile {
    first: Vec<(PathBuf, Trust)>,
    path: PathBuf,
}

/// Where a credential of the service manager lies: `directory` is the value of `$CREDENTIALS_DIRECTORY`.
/// Nothing when there is no such directory or the name is not a plain file name.
pub fn credential_path(directory: Option<&Path>, name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    directory.filter(|d| plain && d.is_absolute()).map(|d| d.join(name))
}

impl KeyFile {
    /// The key at `path`, which is where a new one is made.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { first: Vec::new(), path: path.into() }
    }

    /// Looks at another file before. It is never made.
    #[must_use]
    pub fn or_before(mut self, path: impl Into<PathBuf>) -> Self {
        self.first.push((path.into(), Trust::Strict));
        self
    }

    /// Looks at a credential of the service manager before; see [`credential_path`].
    #[must_use]
    pub fn or_credential_before(mut self, path: Option<PathBuf>) -> Self {
        self.first.extend(path.map(|path| (path, Trust::Credential)));
        self
    }

    /// Reads the key at `path`, or makes one there with mode 0600, durably, never over a file that is there.
    pub fn load_or_create(path: &Path, ids: &dyn IdSource) -> Result<MasterKey, KeyError> {
        match read(path, Trust::Strict)? {
            Some(key) => settled(path, key),
            None => make(path, ids),
        }
    }

    fn find(&self) -> Result<Option<MasterKey>, KeyError> {
        for (path, trust) in &self.first {
            if let Some(key) = read(path, *trust)? {
                return Ok(Some(key));
            }
        }
        read(&self.path, Trust::Strict)
    }
}

#[async_trait]
impl KeySource for KeyFile {
    async fn load(&self) -> Result<Option<MasterKey>, KeyError> {
        self.find()
    }

    async fn create(&self, ids: &dyn IdSource) -> Result<MasterKey, KeyError> {
        for (path, trust) in &self.first {
            if let Some(key) = read(path, *trust)? {
                return Ok(key);
            }
        }
        Self::load_or_create(&self.path, ids)
    }

    fn describe(&self) -> String {
        let paths = self.first.iter().map(|(path, _)| path).chain([&self.path]);
        paths.map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

fn read(path: &Path, trust: Trust) -> Result<Option<MasterKey>, KeyError> {
    let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
    // Not blocking: a pipe in the place of a key must not hang the start.
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC).bits();
    let opened = OpenOptions::new().read(true).custom_flags(i32::from_ne_bytes(flags.to_ne_bytes())).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(KeyError::Format { path: path.to_owned(), source: KeyProblem::NotAKey });
    }
    let forbidden = if trust == Trust::Strict { 0o077 } else { 0o037 };
    if meta.mode() & forbidden != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode: meta.mode() & 0o7777 });
    }
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(KeyError::Foreign { path: path.to_owned(), owner: meta.uid() });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    let parsed = std::str::from_utf8(&bytes).map_err(|_| KeyProblem::NotAKey).and_then(MasterKey::parse);
    parsed.map(Some).map_err(|source| KeyError::Format { path: path.to_owned(), source })
}

/// Makes a key at `path`. The file appears whole or not at all: it is written and synchronised under another name
/// and then linked, which fails when somebody else was faster; theirs is the key then.
fn make(path: &Path, ids: &dyn IdSource) -> Result<MasterKey, KeyError> {
    let failed = |source| KeyError::Create { path: path.to_owned(), source };
    let directory = parent(path);
    if !directory.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        File::open(parent(directory)).and_then(|d| d.sync_all()).map_err(failed)?;
    }
    let key = MasterKey::generate(ids);
    let mut name = path.file_name().ok_or_else(|| failed(io::Error::from(ErrorKind::InvalidInput)))?.to_owned();
    name.push(format!(".{}.new", ids.uuid().simple()));
    let temporary = directory.join(name);
    let written = write_new(&temporary, key.to_text().as_bytes()).and_then(|()| fs::hard_link(&temporary, path));
    // What is left of it after a crash here is a second name of the key, or a key that nothing was sealed with.
    let removed = fs::remove_file(&temporary);
    match written {
        Ok(()) => {
            removed.map_err(failed)?;
            settled(path, key)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match read(path, Trust::Strict)? {
            Some(theirs) => settled(path, theirs),
            None => Err(failed(error)),
        },
        Err(error) => Err(failed(error)),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes sure that the file's name is durable: nothing may be sealed with a key that a power cut could take.
fn settled(path: &Path, key: MasterKey) -> Result<MasterKey, KeyError> {
    let synced = File::open(parent(path)).and_then(|directory| directory.sync_all());
    synced.map(|()| key).map_err(|source| KeyError::Create { path: path.to_owned(), source })
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
