//! A store in a local directory.
//!
//! An object is a file. It is written under a temporary name, synced, and moved to its name without replacing
//! anything; then its directory is synced. Every step goes from directory handle to directory handle without
//! following symbolic links, so nothing inside the root can lead out of it.
//!
//! Temporary files live in `.tmp`. Every open store holds a lock there that dies with its process; whoever opens
//! the store next removes what owners without a lock left behind.

use super::{Etag, ObjectError, ObjectInfo, ObjectStore, check_key, check_prefix, is_component};
use async_trait::async_trait;
use bytes::Bytes;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const TMP: &str = ".tmp";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Objects as files below a directory of a local file system.
#[derive(Debug, Clone)]
pub struct LocalObjects {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: OwnedFd,
    tmp: OwnedFd,
    /// Held as long as the store is open, so that nobody sweeps its temporary files.
    _owner: OwnedFd,
    owner_number: u64,
    next: AtomicU64,
    /// Directories whose own entries are known to be durable.
    durable: Mutex<HashSet<String>>,
}

impl LocalObjects {
    /// Opens the store in `root`, which is made if it is missing (its parent is not), and sweeps what a crash
    /// left. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`ObjectError::Io`] when the directory cannot be made or opened.
    pub fn open(root: &Path) -> Result<Self, ObjectError> {
        match std::fs::DirBuilder::new().create(root) {
            Ok(()) => {
                if let Some(parent) = root.parent().filter(|p| !p.as_os_str().is_empty()) {
                    File::open(parent).and_then(|d| d.sync_all()).map_err(io("write"))?;
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io("write")(e)),
        }
        // The operator's own path may be a link; nothing below it may.
        let directory = DIRECTORY.difference(OFlags::NOFOLLOW);
        let root = rustix::fs::open(root, directory, Mode::empty()).map_err(errno("read"))?;
        make_directory(&root, TMP)?;
        let tmp = rustix::fs::openat(&root, TMP, DIRECTORY, Mode::empty()).map_err(errno("read"))?;
        let opening = lock_swaps(&tmp)?;
        let (owner_number, owner) = claim_owner(&tmp)?;
        sweep(&tmp)?;
        drop(opening);
        rustix::fs::fsync(&root).map_err(errno("write"))?;
        let inner =
            Inner { root, tmp, _owner: owner, owner_number, next: AtomicU64::new(0), durable: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Runs blocking work where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|e| Err(ObjectError::Io { action: "answer", source: std::io::Error::other(e) }))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Only the marker of a live owner; without it the next opener removes it.
        let _ = rustix::fs::unlinkat(&self.tmp, owner_name(self.owner_number), AtFlags::empty());
    }
}

impl Inner {
    /// The directory of `key`, and its last component.
    fn place<'k>(&self, key: &'k str) -> Result<(OwnedFd, &'k str), ObjectError> {
        let (path, name) = split(key)?;
        Ok((self.directory(path)?, name))
    }

    fn directory(&self, path: &str) -> Result<OwnedFd, ObjectError> {
        let root = rustix::io::fcntl_dupfd_cloexec(&self.root, 0).map_err(errno("read"))?;
        path.split('/')
            .filter(|p| !p.is_empty())
            .try_fold(root, |at, part| rustix::fs::openat(&at, part, DIRECTORY, Mode::empty()).map_err(errno("read")))
    }

    /// The directory of `key`, made where it is missing, and its last component.
    fn new_place<'k>(&self, key: &'k str) -> Result<(Place, &'k str), ObjectError> {
        let (path, name) = split(key)?;
        let mut at = rustix::io::fcntl_dupfd_cloexec(&self.root, 0).map_err(errno("read"))?;
        let mut walked = String::new();
        let mut above = Vec::new();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            walked.push('/');
            walked.push_str(part);
            let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(&walked);
            if !durable {
                make_directory(&at, part)?;
            }
            let next = rustix::fs::openat(&at, part, DIRECTORY, Mode::empty()).map_err(errno("read"))?;
            if !durable {
                // Also when it was there: whoever made it may not have come this far.
                above.push((walked.clone(), at));
            }
            at = next;
        }
        Ok((Place { directory: at, above }, name))
    }

    /// Makes what was moved to a place durable, and the directories on the way there. In this order and at the end,
    /// since a file system that keeps a journal has written the directories with the object by then.
    fn sync(&self, place: &Place) -> Result<(), ObjectError> {
        rustix::fs::fsync(&place.directory).map_err(errno("write"))?;
        for (walked, parent) in &place.above {
            rustix::fs::fsync(parent).map_err(errno("write"))?;
            self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(walked.clone());
        }
        Ok(())
    }

    fn open_file(&self, key: &str) -> Result<File, ObjectError> {
        let (directory, name) = self.place(key)?;
        // Not blocking, so that a pipe put in an object's place cannot hang the reader.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(&directory, name, flags, Mode::empty()).map_err(errno("read"))?);
        if !file.metadata().map_err(io("read"))?.is_file() {
            return Err(ObjectError::InvalidKey(key.to_owned()));
        }
        Ok(file)
    }

    /// Lets go of the content before it waits until that is durable: it may be many times as long as it takes to copy.
    fn write_temporary(&self, content: Bytes) -> Result<Temporary<'_>, ObjectError> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let name = format!("w{}-{number}", self.owner_number);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(&self.tmp, name.as_str(), flags, Mode::RUSR | Mode::WUSR).map_err(errno("write"))?;
        let temporary = Temporary { inner: self, name };
        let mut file = File::from(fd);
        file.write_all(&content).map_err(io("write"))?;
        drop(content);
        file.sync_all().map_err(io("write"))?;
        Ok(temporary)
    }

    fn put_new(&self, key: &str, content: Bytes) -> Result<(), ObjectError> {
        let (place, name) = self.new_place(key)?;
        match rustix::fs::statat(&place.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => {
                self.sync(&place)?;
                return Err(ObjectError::AlreadyExists);
            }
            Err(Errno::NOENT) => {}
            Err(e) => return Err(errno("write")(e)),
        }
        let temporary = self.write_temporary(content)?;
        let (from, to) = (temporary.name.as_str(), &place.directory);
        let moved = match rustix::fs::renameat_with(&self.tmp, from, to, name, RenameFlags::NOREPLACE) {
            // A file system without that kind of rename has hard links instead.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(&self.tmp, from, to, name, AtFlags::empty())
            }
            other => other,
        };
        self.sync(&place)?;
        match moved {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(ObjectError::AlreadyExists),
            Err(e) => Err(errno("write")(e)),
        }
    }

    fn replace(&self, key: &str, content: Bytes, expected: &Etag) -> Result<Etag, ObjectError> {
        let _held = lock_swaps(&self.tmp)?;
        match self.read_tagged(key) {
            Ok((_, tag)) if tag == *expected => {}
            Ok(_) | Err(ObjectError::NotFound) => return Err(ObjectError::Changed),
            Err(e) => return Err(e),
        }
        let (place, name) = self.new_place(key)?;
        let tag = tag(&content);
        let temporary = self.write_temporary(content)?;
        rustix::fs::renameat(&self.tmp, temporary.name.as_str(), &place.directory, name).map_err(errno("write"))?;
        self.sync(&place)?;
        Ok(tag)
    }

    fn read_tagged(&self, key: &str) -> Result<(Bytes, Etag), ObjectError> {
        let mut content = Vec::new();
        self.open_file(key)?.read_to_end(&mut content).map_err(io("read"))?;
        let tag = tag(&content);
        Ok((content.into(), tag))
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        let mut file = self.open_file(key)?;
        let size = file.metadata().map_err(io("read"))?.len();
        let Some(range) = range else {
            let mut content = crate::buffer::with_room(usize::try_from(size).unwrap_or(0));
            file.read_to_end(&mut content).map_err(io("read"))?;
            return Ok(content.into());
        };
        if range.start > range.end || range.end > size {
            return Err(ObjectError::OutOfRange);
        }
        let len = usize::try_from(range.end - range.start).map_err(|_| ObjectError::OutOfRange)?;
        // Read into fresh memory, which need not be filled with zeros first.
        let mut content = Vec::with_capacity(len);
        file.seek(SeekFrom::Start(range.start)).map_err(io("read"))?;
        file.take(range.end - range.start).read_to_end(&mut content).map_err(io("read"))?;
        if content.len() == len { Ok(content.into()) } else { Err(ObjectError::OutOfRange) }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, ObjectError> {
        check_prefix(prefix)?;
        let path = prefix.rsplit_once('/').map_or("", |(path, _)| path);
        let mut found = Vec::new();
        match self.directory(path) {
            Ok(directory) => walk(&directory, path, prefix, 0, &mut found)?,
            Err(ObjectError::NotFound) => {}
            Err(e) => return Err(e),
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let (directory, name) = self.place(key)?;
        rustix::fs::unlinkat(&directory, name, AtFlags::empty()).map_err(errno("delete"))?;
        rustix::fs::fsync(&directory).map_err(errno("delete"))
    }
}

/// Where an object goes.
struct Place {
    directory: OwnedFd,
    /// The directories on the way there that are not known to be durable, and those that they are in.
    above: Vec<(String, OwnedFd)>,
}

fn split(key: &str) -> Result<(&str, &str), ObjectError> {
    check_key(key)?;
    Ok(key.rsplit_once('/').unwrap_or(("", key)))
}

/// A temporary file that goes away unless it was moved.
struct Temporary<'a> {
    inner: &'a Inner,
    name: String,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.inner.tmp, self.name.as_str(), AtFlags::empty());
    }
}

fn walk(
    directory: &OwnedFd,
    path: &str,
    prefix: &str,
    depth: usize,
    found: &mut Vec<ObjectInfo>,
) -> Result<(), ObjectError> {
    for entry in Dir::read_from(directory).map_err(errno("list"))? {
        let entry = entry.map_err(errno("list"))?;
        // What cannot be part of a key is not ours: `.tmp`, `lost+found`, a file manager's droppings.
        let Some(name) = entry.file_name().to_str().ok().filter(|n| is_component(n)) else { continue };
        let key = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        if !key.starts_with(prefix) && !prefix.starts_with(&key) {
            continue;
        }
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other.map_err(errno("list"))?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth < 8 => {
                let inner = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty()).map_err(errno("list"))?;
                walk(&inner, &key, prefix, depth + 1, found)?;
            }
            FileType::RegularFile if key.starts_with(prefix) => {
                found.push(ObjectInfo { key, bytes: u64::try_from(stat.st_size).unwrap_or(0) });
            }
            FileType::RegularFile => {}
            _ => return Err(ObjectError::InvalidKey(key)),
        }
    }
    Ok(())
}

fn tag(content: &[u8]) -> Etag {
    Etag(blake3::hash(content).to_hex().to_string())
}

/// Waits for the lock that everybody holds who opens the store or swaps an object.
fn lock_swaps(tmp: &OwnedFd) -> Result<OwnedFd, ObjectError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = rustix::fs::openat(tmp, "swap.lock", flags, Mode::RUSR | Mode::WUSR).map_err(errno("write"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(errno("write"))?;
    Ok(lock)
}

fn owner_name(number: u64) -> String {
    format!("owner-{number}")
}

/// Takes the first free owner number and its lock.
fn claim_owner(tmp: &OwnedFd) -> Result<(u64, OwnedFd), ObjectError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for number in 0..10_000 {
        let name = owner_name(number);
        let fd = rustix::fs::openat(tmp, name.as_str(), flags, Mode::RUSR | Mode::WUSR).map_err(errno("write"))?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => continue,
            Err(e) => return Err(errno("write")(e)),
        }
        // Somebody may have removed the file between the two calls; then the lock guards nothing.
        let mine = rustix::fs::fstat(&fd).map_err(errno("write"))?;
        match rustix::fs::statat(tmp, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if there.st_ino == mine.st_ino => {
                // What a dead owner of this number left would clash with the new names.
                remove_writes(tmp, number)?;
                return Ok((number, fd));
            }
            _ => continue,
        }
    }
    Err(ObjectError::Io { action: "write", source: std::io::Error::other("too many open stores") })
}

/// Removes the temporary files of owners that live no more.
fn sweep(tmp: &OwnedFd) -> Result<(), ObjectError> {
    for name in names(tmp)? {
        let Some(number) = name.strip_prefix('w').and_then(|n| n.split_once('-')).and_then(|(n, _)| n.parse().ok())
        else {
            continue;
        };
        let owner = rustix::fs::openat(
            tmp,
            owner_name(number),
            OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let alive = match owner {
            Err(Errno::NOENT) => false,
            Err(e) => return Err(errno("delete")(e)),
            Ok(fd) => rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared).is_err(),
        };
        if !alive {
            unlink_if_there(tmp, &name)?;
        }
    }
    Ok(())
}

fn remove_writes(tmp: &OwnedFd, number: u64) -> Result<(), ObjectError> {
    let prefix = format!("w{number}-");
    names(tmp)?.iter().filter(|n| n.starts_with(&prefix)).try_for_each(|n| unlink_if_there(tmp, n))
}

fn unlink_if_there(directory: &OwnedFd, name: &str) -> Result<(), ObjectError> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(errno("delete")(e)),
    }
}

fn names(directory: &OwnedFd) -> Result<Vec<String>, ObjectError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(errno("list"))? {
        let entry = entry.map_err(errno("list"))?;
        names.extend(entry.file_name().to_str().ok().map(str::to_owned));
    }
    Ok(names)
}

fn make_directory(at: &OwnedFd, name: &str) -> Result<(), ObjectError> {
    match rustix::fs::mkdirat(at, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(errno("write")(e)),
    }
}

fn errno(action: &'static str) -> impl Fn(Errno) -> ObjectError {
    move |e| io(action)(e.into())
}

fn io(action: &'static str) -> impl Fn(std::io::Error) -> ObjectError {
    move |source| match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => ObjectError::NotFound,
        Some(Errno::NOSPC | Errno::DQUOT) => ObjectError::NoSpace,
        Some(Errno::LOOP | Errno::NOTDIR) => ObjectError::InvalidKey("a symbolic link or a file is in the way".into()),
        _ => ObjectError::Io { action, source },
    }
}

#[async_trait]
impl ObjectStore for LocalObjects {
    async fn put_new(&self, key: &str, content: Bytes) -> Result<(), ObjectError> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.put_new(&key, content)).await
    }

    async fn replace(&self, key: &str, content: Bytes, expected: &Etag) -> Result<Etag, ObjectError> {
        let (key, expected) = (key.to_owned(), expected.clone());
        self.blocking(move |inner| inner.replace(&key, content, &expected)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.get(&key, range)).await
    }

    async fn get_tagged(&self, key: &str) -> Result<(Bytes, Etag), ObjectError> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.read_tagged(&key)).await
    }

    async fn head(&self, key: &str) -> Result<u64, ObjectError> {
        let key = key.to_owned();
        self.blocking(move |inner| Ok(inner.open_file(&key)?.metadata().map_err(io("read"))?.len())).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, ObjectError> {
        let prefix = prefix.to_owned();
        self.blocking(move |inner| inner.list(&prefix)).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.delete(&key)).await
    }

    async fn free_space(&self) -> Result<Option<u64>, ObjectError> {
        self.blocking(|inner| {
            let stat = rustix::fs::fstatvfs(&inner.root).map_err(errno("read"))?;
            Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
        })
        .await
    }
}
