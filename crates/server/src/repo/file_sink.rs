//! A raw image that appears under its name when it is whole.

use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::{BlockError, BlockSink, check_range};
use rustix::fs::{CWD, RenameFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A sparse file that is being written under a temporary name beside its own.
#[derive(Debug)]
pub struct FileSink {
    file: Arc<File>,
    size: u64,
    path: PathBuf,
    temporary: PathBuf,
    published: std::sync::atomic::AtomicBool,
}

impl FileSink {
    /// Begins a file of `size` bytes that will be at `path`. What an interrupted run left is overwritten.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(path: &Path, size: u64) -> io::Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?);
        name.push(".portolan-partial");
        let temporary = path.with_file_name(name);
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // What was in the machine is nobody else's business.
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.set_len(size)?;
        Ok(Self { file: Arc::new(file), size, path: path.to_owned(), temporary, published: false.into() })
    }

    /// Puts the file in its place, durably: in place of another one only where that is wanted.
    ///
    /// # Errors
    /// What the system says; nothing is at the place then that was not there before.
    pub fn publish(&self, replace: bool) -> io::Result<()> {
        self.file.sync_all()?;
        if replace {
            std::fs::rename(&self.temporary, &self.path)?;
        } else {
            match rustix::fs::renameat_with(CWD, &self.temporary, CWD, &self.path, RenameFlags::NOREPLACE) {
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                    // A link never replaces either; the temporary name goes with the drop.
                    std::fs::hard_link(&self.temporary, &self.path)?;
                    std::fs::remove_file(&self.temporary)?;
                }
                other => other?,
            }
        }
        self.published.store(true, std::sync::atomic::Ordering::SeqCst);
        let directory = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }

    async fn blocking(
        &self,
        action: &'static str,
        offset: u64,
        work: impl FnOnce(&File) -> io::Result<()> + Send + 'static,
    ) -> Result<(), BlockError> {
        let file = Arc::clone(&self.file);
        let done = tokio::task::spawn_blocking(move || work(&file)).await.unwrap_or_else(|e| Err(io::Error::other(e)));
        done.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlockError::NoSpace,
            _ => BlockError::Io { action, offset, source },
        })
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if !self.published.load(std::sync::atomic::Ordering::SeqCst) {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

#[async_trait]
impl BlockSink for FileSink {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        check_range(offset, data.len() as u64, self.size)?;
        self.blocking("write", offset, move |file| file.write_all_at(&data, offset)).await
    }

    /// The file began as one hole, and no part of it is written twice: nothing to do.
    async fn zero(&self, range: std::ops::Range<u64>) -> Result<(), BlockError> {
        check_range(range.start, range.end.saturating_sub(range.start), self.size)
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.blocking("flush", 0, File::sync_data).await
    }
}
