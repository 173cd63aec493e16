//! The header and the tables of a qcow2 image, as far as they must be looked at before the image can be trusted.
//!
//! The reader takes tables and clusters that lie past the file's end for zeros. So a truncated image would be
//! backed up as an empty disk; here it is found out.

use crate::image::ImageError;
use std::fs::File;
use std::os::unix::fs::FileExt;

const MAGIC: u32 = 0x5146_49fb;
/// The tag of the header extension that names the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// QEMU's own bound on the first-level table, in bytes.
const MAX_L1_BYTES: u64 = 32 << 20;

/// What the header says.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    /// Virtual size in bytes.
    pub(crate) size: u64,
    /// The backing file's name as written, and its format where the image says it.
    pub(crate) backing: Option<(String, Option<String>)>,
    cluster_bits: u32,
    l1_entries: u64,
    l1_offset: u64,
    v3: bool,
}

fn corrupt(what: impl Into<String>) -> ImageError {
    ImageError::Corrupt { offset: 0, what: what.into() }
}

fn read(file: &File, offset: u64, len: usize, what: &str) -> Result<Vec<u8>, ImageError> {
    let mut buffer = vec![0; len];
    match file.read_exact_at(&mut buffer, offset) {
        Ok(()) => Ok(buffer),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(corrupt(format!("the file ends within {what}")))
        }
        Err(error) => Err(ImageError::Io(error)),
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// Whether the file begins as a qcow2 image does.
pub(crate) fn has_magic(file: &File) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && u32::from_be_bytes(magic) == MAGIC
}

impl Header {
    /// Reads the header. Fails on what is no qcow2 image and on what the reader cannot do.
    pub(crate) fn read(file: &File) -> Result<Self, ImageError> {
        let head = read(file, 0, 72, "the header")?;
        if be32(&head, 0) != MAGIC {
            return Err(corrupt("this is not a qcow2 image"));
        }
        let version = be32(&head, 4);
        if !(2..=3).contains(&version) {
            return Err(ImageError::Unsupported(format!("qcow2 of version {version}")));
        }
        let cluster_bits = be32(&head, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(corrupt(format!("clusters of 2^{cluster_bits} bytes")));
        }
        if be32(&head, 32) != 0 {
            return Err(ImageError::Unsupported("encrypted qcow2".into()));
        }
        let mut header_bytes = 72;
        if version == 3 {
            let more = read(file, 72, 32, "the header")?;
            header_bytes = u64::from(be32(&more, 28));
            if header_bytes < 104 || header_bytes > 1 << cluster_bits {
                return Err(corrupt(format!("a header of {header_bytes} bytes")));
            }
            check_features(be64(&more, 0))?;
        }
        let header = Self {
            size: be64(&head, 24),
            backing: read_backing(file, &head, header_bytes, 1 << cluster_bits)?,
            cluster_bits,
            l1_entries: u64::from(be32(&head, 36)),
            l1_offset: be64(&head, 40),
            v3: version == 3,
        };
        let refcounts = (be64(&head, 48), u64::from(be32(&head, 56)) << cluster_bits);
        header.check_bounds(file, refcounts)?;
        Ok(header)
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn check_bounds(&self, file: &File, refcounts: (u64, u64)) -> Result<(), ImageError> {
        let len = file.metadata().map_err(ImageError::Io)?.len();
        let cluster = self.cluster();
        let within = |offset: u64, bytes: u64| offset.checked_add(bytes).is_some_and(|end| end <= len);
        if self.size > i64::MAX as u64 {
            return Err(corrupt("an impossible size"));
        }
        let covered = cluster * (cluster / 8);
        if self.l1_entries * 8 > MAX_L1_BYTES || self.size.div_ceil(covered) > self.l1_entries {
            return Err(corrupt("the first-level table does not fit the size"));
        }
        if self.l1_entries > 0
            && (!self.l1_offset.is_multiple_of(cluster)
                || self.l1_offset == 0
                || !within(self.l1_offset, self.l1_entries * 8))
        {
            return Err(corrupt("the file ends before its first-level table does"));
        }
        let (offset, bytes) = refcounts;
        if offset == 0 || !offset.is_multiple_of(cluster) || bytes == 0 || !within(offset, bytes) {
            return Err(corrupt("the file ends before its reference counts do"));
        }
        Ok(())
    }

    /// Checks that the second-level tables lie within the file; with `deep`, also that the clusters do. Reads
    /// eight bytes for each cluster of the disk that is allocated.
    pub(crate) fn check_tables(&self, file: &File, deep: bool) -> Result<(), ImageError> {
        let len = file.metadata().map_err(ImageError::Io)?.len();
        let cluster = self.cluster();
        // The bound on the table's size was checked with the header.
        let table = read(file, self.l1_offset, self.l1_entries as usize * 8, "the first-level table")?;
        let covered = cluster * (cluster / 8);
        for (index, entry) in table.chunks_exact(8).enumerate() {
            let offset = be64(entry, 0) & OFFSET_MASK;
            let guest = (index as u64).saturating_mul(covered);
            if offset == 0 {
                continue;
            }
            let damaged = |what: &str| ImageError::Corrupt { offset: guest, what: what.to_owned() };
            if !offset.is_multiple_of(cluster) {
                return Err(damaged("a second-level table is misaligned"));
            }
            if offset.checked_add(cluster).is_none_or(|end| end > len) {
                return Err(damaged("a second-level table lies past the file's end"));
            }
            if deep {
                let entries = read(file, offset, cluster as usize, "a second-level table")?;
                for (index, entry) in entries.chunks_exact(8).enumerate() {
                    let at = guest.saturating_add(index as u64 * cluster);
                    self.check_cluster(be64(entry, 0), len)
                        .map_err(|what| ImageError::Corrupt { offset: at, what: what.to_owned() })?;
                }
            }
        }
        Ok(())
    }

    fn check_cluster(&self, entry: u64, len: u64) -> Result<(), &'static str> {
        if entry & COMPRESSED != 0 {
            let offset_bits = 62 - (self.cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = ((entry & (COMPRESSED - 1)) >> offset_bits) + 1;
            // The last compressed cluster's sector need not be filled up.
            let end = (offset & !511) + sectors * 512;
            return if end <= len.div_ceil(512) * 512 {
                Ok(())
            } else {
                Err("compressed data lies past the file's end")
            };
        }
        let offset = entry & OFFSET_MASK;
        let reads_as_zeros = self.v3 && entry & 1 != 0;
        if offset == 0 || reads_as_zeros {
            return Ok(());
        }
        if !offset.is_multiple_of(self.cluster()) {
            return Err("a cluster is misaligned");
        }
        // The last cluster of a file may be there in part: the rest of it reads as zeros.
        if offset < len { Ok(()) } else { Err("a cluster lies past the file's end") }
    }
}

fn check_features(incompatible: u64) -> Result<(), ImageError> {
    let unknown = |what: &str| Err(ImageError::Unsupported(format!("qcow2 with {what}")));
    match incompatible & !1 {
        0 => Ok(()),
        bits if bits & 2 != 0 => Err(corrupt("the image is marked as corrupt")),
        bits if bits & 4 != 0 => unknown("an external data file"),
        bits if bits & 8 != 0 => unknown("a compression other than zlib"),
        bits if bits & 16 != 0 => unknown("extended second-level entries"),
        bits => unknown(&format!("the unknown features {bits:#x}")),
    }
}

fn read_backing(
    file: &File,
    head: &[u8],
    header_bytes: u64,
    cluster: u64,
) -> Result<Option<(String, Option<String>)>, ImageError> {
    let (offset, len) = (be64(head, 8), u64::from(be32(head, 16)));
    if offset == 0 || len == 0 {
        return Ok(None);
    }
    if len > 1023 || offset.checked_add(len).is_none_or(|end| end > cluster) {
        return Err(corrupt("the name of the backing file lies outside of the header"));
    }
    let name = String::from_utf8(read(file, offset, len as usize, "the name of the backing file")?)
        .map_err(|_| ImageError::Unsupported("a backing file whose name is not UTF-8".into()))?;
    let mut at = header_bytes;
    // Extensions end at a zero tag, or where the name begins.
    while at + 8 <= offset {
        let extension = read(file, at, 8, "a header extension")?;
        let (tag, bytes) = (be32(&extension, 0), u64::from(be32(&extension, 4)));
        if tag == 0 {
            break;
        }
        if at + 8 + bytes > offset {
            return Err(corrupt("a header extension is too long"));
        }
        if tag == BACKING_FORMAT {
            let format = read(file, at + 8, bytes as usize, "a header extension")?;
            return Ok(Some((name, Some(String::from_utf8_lossy(&format).into_owned()))));
        }
        at += 8 + bytes.div_ceil(8) * 8;
    }
    Ok(Some((name, None)))
}
