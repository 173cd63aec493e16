//! Puts chunks into packs, packs into the store, and then into the index.

use super::core::{Core, blocking, format_error, lock, store_error};
use crate::format::frame::Payload;
use crate::format::pack::{PackBuilder, PackListing};
use crate::format::{ChunkId, Class, record, segment};
use crate::object::ObjectError;
use crate::port::RepoError;
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// How many packs are written to the store at once.
const UPLOADS: usize = 2;
/// How much of a chunk is tried before all of it is compressed: four pieces of this many bytes.
const SAMPLE: usize = 2048;

/// Writes the chunks of one session. Thrown away after any failure: what it claimed may not have been stored.
pub(crate) struct Writer {
    core: Arc<Core>,
    session: Uuid,
    next_segment: Arc<AtomicU64>,
    data: Mutex<Option<PackBuilder>>,
    meta: Mutex<Option<PackBuilder>>,
    /// Chunks that this writer stores and that the index does not list yet.
    claims: Mutex<HashSet<ChunkId>>,
    uploaded: tokio::sync::Mutex<Vec<PackListing>>,
    uploads: Semaphore,
    packers: Mutex<Vec<Packer>>,
    /// Buffers of packs that were written. Taking fresh memory costs about as much as sealing does.
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// A compressor, and the memory that it writes to.
struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    out: Vec<u8>,
}

/// Whether a chunk had to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// It was there.
    Known,
    /// It takes so many bytes.
    New(u32),
}

impl Writer {
    pub(crate) fn new(core: Arc<Core>, session: Uuid, next_segment: Arc<AtomicU64>) -> Self {
        Self {
            core,
            session,
            next_segment,
            data: Mutex::default(),
            meta: Mutex::default(),
            claims: Mutex::default(),
            uploaded: tokio::sync::Mutex::default(),
            uploads: Semaphore::new(UPLOADS),
            packers: Mutex::default(),
            buffers: Mutex::default(),
        }
    }

    /// Adds a chunk. A pack that this fills comes back for [`Writer::upload`]. Blocks: compresses and seals.
    pub(crate) fn add(
        &self,
        class: Class,
        id: &ChunkId,
        bytes: &[u8],
    ) -> Result<(Added, Option<PackBuilder>), RepoError> {
        if lock(&self.claims).contains(id) || self.core.knows(id, class) || !lock(&self.claims).insert(*id) {
            return Ok((Added::Known, None));
        }
        let spare = lock(&self.packers).pop();
        let mut packer = spare.map_or_else(Packer::new, Ok)?;
        let compressed = packer.pack(bytes)?;
        let payload = Payload { bytes: if compressed { &packer.out } else { bytes }, compressed };
        let raw = u32::try_from(bytes.len()).map_err(|_| RepoError::Unsupported("a chunk of that length".into()))?;
        let capacity = self.core.options.pack_bytes;
        let mut open = lock(match class {
            Class::Data => &self.data,
            Class::Meta => &self.meta,
        });
        let full = open.take_if(|pack| !pack.is_empty() && pack.len_with(payload.bytes.len()) > capacity);
        let pack = open.get_or_insert_with(|| {
            // Metadata packs are small as a rule; their buffer grows when they are not.
            let buffer = match class {
                Class::Data => lock(&self.buffers).pop().unwrap_or_else(|| crate::buffer::with_room(capacity)),
                Class::Meta => Vec::new(),
            };
            PackBuilder::new(&self.core.keys, class, self.core.salt(), buffer)
        });
        let stored = pack.add(id, raw, &payload).map_err(format_error("a new pack"))?;
        drop(open);
        lock(&self.packers).push(packer);
        Ok((Added::New(stored), full))
    }

    /// Waits while as many packs are being written as may be, so that full ones do not pile up in memory.
    pub(crate) async fn wait_for_room(&self) {
        if self.uploads.available_permits() == 0 {
            drop(self.uploads.acquire().await);
        }
    }

    /// Stores a full pack, and a segment of the index when it is time. True when it wrote a segment.
    pub(crate) async fn upload(&self, pack: PackBuilder) -> Result<bool, RepoError> {
        let _turn = self.uploads.acquire().await;
        let (bytes, listing) = blocking(move || pack.finish()).await?.map_err(format_error("a new pack"))?;
        let key = listing.key();
        let bytes = Bytes::from(bytes);
        match self.core.objects.put_new(&key, bytes.clone()).await {
            // The name is the hash of the bytes.
            Ok(()) | Err(ObjectError::AlreadyExists) => {}
            Err(e) => return Err(store_error("write", &key)(e)),
        }
        if listing.class == Class::Data && bytes.is_unique() {
            let mut buffers = lock(&self.buffers);
            if buffers.len() < UPLOADS {
                buffers.push(Vec::from(bytes));
            }
        }
        let mut uploaded = self.uploaded.lock().await;
        uploaded.push(listing);
        if uploaded.len() < self.core.options.packs_per_segment.max(1) {
            return Ok(false);
        }
        self.write_segment(&mut uploaded).await?;
        Ok(true)
    }

    /// Makes everything added so far durable and known to the index.
    pub(crate) async fn flush(&self) -> Result<(), RepoError> {
        for open in [&self.data, &self.meta] {
            let pack = lock(open).take();
            if let Some(pack) = pack {
                self.upload(pack).await?;
            }
        }
        let mut uploaded = self.uploaded.lock().await;
        if !uploaded.is_empty() {
            self.write_segment(&mut uploaded).await?;
        }
        lock(&self.packers).clear();
        lock(&self.buffers).clear();
        Ok(())
    }

    async fn write_segment(&self, uploaded: &mut Vec<PackListing>) -> Result<(), RepoError> {
        let plain = segment::encode(uploaded);
        loop {
            let number = self.next_segment.fetch_add(1, Ordering::SeqCst);
            let key = format!("index/{}-{number}", self.session);
            let sealed = record::seal(&self.core.keys, &key, self.core.salt(), &plain).map_err(format_error(&key))?;
            match self.core.objects.put_new(&key, sealed.into()).await {
                Ok(()) => {
                    self.core.segment_written(key).await;
                    break;
                }
                // An earlier attempt's.
                Err(ObjectError::AlreadyExists) => {}
                Err(e) => return Err(store_error("write", &key)(e)),
            }
        }
        // First into the index, then out of the claims, so that no chunk is unknown in between.
        self.core.add_to_index(uploaded);
        let mut claims = lock(&self.claims);
        for entry in uploaded.iter().flat_map(|pack| &pack.entries) {
            claims.remove(&entry.id);
        }
        uploaded.clear();
        Ok(())
    }
}

impl Packer {
    fn new() -> Result<Self, RepoError> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(1).map_err(compress_error)?, out: Vec::new() })
    }

    /// Compresses into `out`; false when that does not help.
    fn pack(&mut self, bytes: &[u8]) -> Result<bool, RepoError> {
        if bytes.len() >= 16 * SAMPLE {
            let step = bytes.len() / 4;
            let mut sample = [0; 4 * SAMPLE];
            for (n, part) in sample.chunks_mut(SAMPLE).enumerate() {
                part.copy_from_slice(&bytes[n * step..n * step + SAMPLE]);
            }
            if self.compress(&sample)? >= sample.len() - sample.len() / 32 {
                return Ok(false);
            }
        }
        Ok(bytes.len() > 64 && self.compress(bytes)? < bytes.len())
    }

    fn compress(&mut self, bytes: &[u8]) -> Result<usize, RepoError> {
        self.out.clear();
        self.out.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        self.zstd.compress_to_buffer(bytes, &mut self.out).map_err(compress_error)
    }
}

fn compress_error(source: std::io::Error) -> RepoError {
    RepoError::Store { action: "compress", object: "a chunk".into(), source }
}
