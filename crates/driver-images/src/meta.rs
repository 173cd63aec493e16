//! What a machine's directory says about the machine, beside its images.

use crate::tree::{Tree, TreeError, unreachable};
use portolan_driver::{DriverError, NativeNic};
use portolan_model::IdSource;
use portolan_model::vm::PowerState;
use rustix::fs::{AtFlags, RenameFlags, StatxFlags};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// The name of a machine's description.
pub(crate) const VM_FILE: &str = "vm.json";
/// The name of the file that holds a machine's incarnation.
pub(crate) const ID_FILE: &str = ".portolan-id";
/// No description is larger, in bytes.
const MAX_VM_FILE: u64 = 1 << 20;

/// The optional file `vm.json` in a machine's directory. Every field may be left out, others are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmFile {
    /// Virtual processors; 0 when unknown.
    pub cpus: u32,
    /// Memory in bytes; 0 when unknown.
    pub memory_bytes: u64,
    /// Network cards.
    pub nics: Vec<NativeNic>,
    /// Labels.
    pub tags: Vec<String>,
    /// Whether the machine runs, as far as whoever writes the file knows. Information only.
    pub power: PowerState,
    /// Names of disks in the machine's order; disks that it does not name come after, by file name.
    pub disks: Vec<String>,
    /// The import that made the machine, so that a repeated commit finds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<ImportMark>,
}

/// The import that made a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportMark {
    /// The import's token.
    pub token: String,
    /// The fence of the attempt that committed it.
    pub fence: i64,
}

impl Default for VmFile {
    fn default() -> Self {
        Self {
            cpus: 0,
            memory_bytes: 0,
            nics: Vec::new(),
            tags: Vec::new(),
            power: PowerState::Stopped,
            disks: Vec::new(),
            import: None,
        }
    }
}

/// The description of the machine in `dir`. A damaged one counts as none, with a line in `problems`.
pub(crate) fn read_vm_file(tree: &Tree, dir: &Path, problems: &mut Vec<String>) -> VmFile {
    let path = dir.join(VM_FILE);
    let text = match tree.open_file(&path) {
        Ok((file, _)) => read_bounded(file, MAX_VM_FILE),
        Err(TreeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return VmFile::default(),
        Err(error) => {
            problems.push(error.to_string());
            return VmFile::default();
        }
    };
    let parsed = text.and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other));
    parsed.unwrap_or_else(|error| {
        problems.push(format!("{}: {error}", path.display()));
        VmFile::default()
    })
}

fn read_bounded(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(limit + 1).read_to_end(&mut text)?;
    if text.len() as u64 > limit { Err(io::Error::other("too large")) } else { Ok(text) }
}

/// The incarnation of the machine in the directory `dir`, which is absolute; makes one where there is none.
pub(crate) fn incarnation(dir: &Path, ids: &dyn IdSource) -> Result<String, DriverError> {
    let path = dir.join(ID_FILE);
    loop {
        match read_id(&path) {
            Ok(id) => return Ok(id),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreachable("read", &path, &error)),
        }
        match write_id(dir, ids) {
            // Somebody else may have been faster: what stands there counts.
            Ok(()) => continue,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                return inode_id(dir).map_err(|error| unreachable("read", dir, &error));
            }
            // A directory that is full today may have room tomorrow: an identity that changes then would be worse.
            Err(error) => return Err(unreachable("write", &path, &error)),
        }
    }
}

fn read_id(path: &Path) -> io::Result<String> {
    let found = std::fs::symlink_metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let text = read_bounded(File::open(path)?, 256)?;
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain { Ok(text) } else { Err(io::Error::other("not an id")) }
}

/// Writes a fresh incarnation, durably, unless there is one.
pub(crate) fn write_id(dir: &Path, ids: &dyn IdSource) -> io::Result<()> {
    let id = ids.uuid();
    let temporary = dir.join(format!("{ID_FILE}-{id}"));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    file.write_all(format!("{id}\n").as_bytes())?;
    file.sync_all()?;
    let path = dir.join(ID_FILE);
    let moved = match rename_new(&temporary, &path) {
        // Not every file system can: a hard link does not replace either.
        Err(error) if is_unsupported(&error) => std::fs::hard_link(&temporary, &path),
        other => other,
    };
    if moved.is_err() || temporary.exists() {
        // The file is ours alone, and hidden: leaving it would do no harm.
        let _ = std::fs::remove_file(&temporary);
    }
    moved?;
    sync_dir(dir)
}

/// Stands in for an incarnation where nothing can be written.
fn inode_id(dir: &Path) -> io::Result<String> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let found = rustix::fs::statx(rustix::fs::CWD, dir, AtFlags::empty(), wanted)?;
    let born = if found.stx_mask & StatxFlags::BTIME.bits() != 0 { found.stx_btime.tv_sec } else { 0 };
    let nanos = if born != 0 { found.stx_btime.tv_nsec } else { 0 };
    Ok(format!("fs-{}-{born}-{nanos}", found.stx_ino))
}

/// Renames without ever replacing.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE).map_err(Into::into)
}

/// Whether a rename failed because the file system does not know its flags.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let known = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP];
    known.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Replaces a file's content at once and durably.
pub(crate) fn write_file(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".portolan-new-{name}"));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    sync_dir(dir)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
