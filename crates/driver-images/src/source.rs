//! Disks of an export: reading images, and noticing that they changed.

use crate::image::Image;
use async_trait::async_trait;
use bytes::Bytes;
use imago::{FormatAccess, Mapping};
use portolan_block::{BlockError, BlockExtent, BlockSource, ExtentKind, check_range, coalesce};
use rustix::fs::SeekFrom;
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

/// Adjacent reads are joined up to this many bytes.
const MAX_JOINED: u64 = 8 << 20;

/// What tells whether a file is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Print {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// An open file, and what it was like when it was opened.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) file: Arc<File>,
    place: PathBuf,
    print: Print,
}

impl Watched {
    /// Watches `file`, which lies at `place` under the root.
    pub(crate) fn new(file: File, place: PathBuf) -> io::Result<Self> {
        let print = Print::of(&file)?;
        Ok(Self { file: Arc::new(file), place, print })
    }

    /// The file's size in bytes when it was opened.
    pub(crate) fn size(&self) -> u64 {
        self.print.size
    }
}

/// All files of an export session, as they were when it was opened.
#[derive(Debug)]
pub(crate) struct Moment {
    files: Vec<Watched>,
}

impl Moment {
    pub(crate) fn new(files: Vec<Watched>) -> Self {
        Self { files }
    }

    /// Fails with [`BlockError::Changed`] when any file is not as it was. Since this runs after each read, all
    /// that was read without an error is of the moment when the session was opened.
    pub(crate) fn check(&self) -> Result<(), BlockError> {
        for watched in &self.files {
            let print = Print::of(&watched.file);
            let print = print.map_err(|source| BlockError::Io { action: "read", offset: 0, source })?;
            if print != watched.print {
                return Err(BlockError::Changed(watched.place.display().to_string()));
            }
        }
        Ok(())
    }

    /// Names the moment. Device numbers are left out: they change when a file system is mounted again.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for Watched { place, print, .. } in &self.files {
            let (m, c) = (print.modified, print.changed);
            let separator = if out.is_empty() { "" } else { ";" };
            // Writing to a string cannot fail.
            let _ = write!(
                out,
                "{separator}{}:{}:{}:{}.{:09}:{}.{:09}",
                place.display(),
                print.inode,
                print.size,
                m.0,
                m.1,
                c.0,
                c.1
            );
        }
        out
    }
}

/// Where an image's bytes come from.
#[derive(Clone)]
pub(crate) enum Content {
    Raw(Arc<File>),
    Qcow2(Arc<FormatAccess<imago::file::File>>),
}

impl Content {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), BlockError> {
        let done = match self {
            Self::Raw(file) => file.read_exact_at(buffer, offset),
            Self::Qcow2(access) => access.read(buffer, offset),
        };
        done.map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => BlockError::Changed("the image became shorter".into()),
            io::ErrorKind::InvalidData => BlockError::Corrupt { offset, what: source.to_string() },
            _ => BlockError::Io { action: "read", offset, source },
        })
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        match self {
            Self::Raw(file) => raw_extents(file, range),
            Self::Qcow2(access) => qcow2_extents(access, range),
        }
    }
}

fn raw_extents(file: &File, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // No data from here to the end.
            Err(rustix::io::Errno::NXIO) => range.end,
            // The file system knows nothing of holes.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => at,
            Err(error) => return Err(BlockError::Io { action: "map", offset: at, source: error.into() }),
        };
        let data = data.clamp(at, range.end);
        if data > at {
            out.push(BlockExtent::new(at..data, ExtentKind::Hole));
        }
        if data < range.end {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(range.end);
            // A file that changes meanwhile may answer with less than was asked for.
            let end = if hole > data { hole.min(range.end) } else { range.end };
            out.push(BlockExtent::new(data..end, ExtentKind::Data));
            at = end;
        } else {
            at = range.end;
        }
    }
    Ok(coalesce(out))
}

fn qcow2_extents(access: &FormatAccess<imago::file::File>, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let found = access.get_mapping(at, range.end - at);
        let (mapping, len) = found.map_err(|source| BlockError::Io { action: "map", offset: at, source })?;
        let kind = match mapping {
            Mapping::Zero { explicit: true, .. } => ExtentKind::Zero,
            Mapping::Zero { .. } => ExtentKind::Hole,
            _ => ExtentKind::Data,
        };
        let end = at.saturating_add(len).min(range.end);
        if end == at {
            return Err(BlockError::Corrupt { offset: at, what: "the image ends before its size".into() });
        }
        out.push(BlockExtent::new(at..end, kind));
        at = end;
    }
    Ok(coalesce(out))
}

/// A disk of an export.
pub(crate) struct ImageSource {
    size: u64,
    content: Content,
    moment: Arc<Moment>,
}

impl ImageSource {
    pub(crate) fn new(image: Image, moment: Arc<Moment>) -> Self {
        Self { size: image.size, content: image.content, moment }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        offset: u64,
        work: impl FnOnce(&Content) -> Result<T, BlockError> + Send + 'static,
    ) -> Result<T, BlockError> {
        let (content, moment) = (self.content.clone(), self.moment.clone());
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&content);
            // Whatever was read, and whatever went wrong, means nothing when the image changed.
            moment.check()?;
            result
        });
        // Only a panic ends here: an image that misleads the reader.
        let done = done.await;
        done.map_err(|_| BlockError::Corrupt { offset, what: "the image cannot be read".into() })?
    }
}

#[async_trait]
impl BlockSource for ImageSource {
    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        check_range(range.start, range.end.saturating_sub(range.start), self.size)?;
        self.blocking(range.start, move |content| content.extents(range)).await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlockError> {
        check_range(offset, len as u64, self.size)?;
        self.blocking(offset, move |content| {
            let mut buffer = vec![0; len];
            if len > 0 {
                content.read(offset, &mut buffer)?;
            }
            Ok(buffer.into())
        })
        .await
    }

    /// Reads all ranges in one go on one thread, neighbours together.
    async fn read_many(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        for range in ranges {
            check_range(range.start, range.end.saturating_sub(range.start), self.size)?;
        }
        let ranges = ranges.to_vec();
        let first = ranges.first().map_or(0, |range| range.start);
        self.blocking(first, move |content| {
            let mut out = Vec::with_capacity(ranges.len());
            let mut rest = &ranges[..];
            while let Some(head) = rest.first() {
                let mut end = head.end.max(head.start);
                let next = |end: &u64, r: &Range<u64>| r.start == *end && r.end >= r.start;
                let mut count = 1;
                while let Some(range) = rest.get(count) {
                    if !next(&end, range) || range.end - head.start > MAX_JOINED {
                        break;
                    }
                    end = range.end;
                    count += 1;
                }
                let mut buffer = vec![0; (end - head.start) as usize];
                if !buffer.is_empty() {
                    content.read(head.start, &mut buffer)?;
                }
                let joined = Bytes::from(buffer);
                for range in &rest[..count] {
                    let start = (range.start - head.start) as usize;
                    out.push(joined.slice(start..start + range.end.saturating_sub(range.start) as usize));
                }
                rest = &rest[count..];
            }
            Ok(out)
        })
        .await
    }
}
