//! Puts chunks into packs, packs into the store, and then into the index.

use super::core::{Core, blocking, format_error, lock, store_error};
use super::packer::Packer;
use crate::format::frame::Payload;
use crate::format::pack::{PackBuilder, PackListing};
use crate::format::{ChunkId, Class, record, segment};
use crate::object::ObjectError;
use crate::port::RepoError;
use bytes::Bytes;
use futures_util::future::try_join_all;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// How many packs are written to the store at once. It spends most of that time waiting until one is durable.
const UPLOADS: usize = 6;
/// How many of these may hold memory: a store lets go of a pack as soon as it needs its bytes no more.
const HELD: usize = 2;

/// Writes the chunks of one session. Thrown away after any failure: what it claimed may not have been stored.
pub(crate) struct Writer {
    core: Arc<Core>,
    session: Uuid,
    next_segment: Arc<AtomicU64>,
    data: Mutex<Option<PackBuilder>>,
    meta: Mutex<Option<PackBuilder>>,
    /// Chunks that this writer stores and that the index does not list yet.
    claims: Mutex<HashSet<ChunkId>>,
    /// Packs that are in the store and in no segment.
    uploaded: Mutex<Vec<PackListing>>,
    uploads: Semaphore,
    room: Arc<Semaphore>,
    packers: Mutex<Vec<Packer>>,
    buffers: Arc<Buffers>,
}

/// Buffers of packs that were written. Taking fresh memory costs about as much as sealing does.
type Buffers = Mutex<Vec<Vec<u8>>>;

/// A pack on its way to the store. When the store lets go of it, its buffer and its room are free for the next.
struct Outgoing {
    bytes: Vec<u8>,
    /// Where the buffer goes; nothing for one that is not worth it.
    home: Option<Arc<Buffers>>,
    room: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl AsRef<[u8]> for Outgoing {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let mut buffers = lock(home);
            if buffers.len() < HELD {
                buffers.push(std::mem::take(&mut self.bytes));
            }
        }
        lock(&self.room).take();
    }
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
            uploaded: Mutex::default(),
            uploads: Semaphore::new(UPLOADS),
            room: Arc::new(Semaphore::new(HELD)),
            packers: Mutex::default(),
            buffers: Arc::default(),
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
        let payload = match packer.pack(bytes)? {
            Some(packed) => Payload { bytes: packed, compressed: true },
            None => Payload { bytes, compressed: false },
        };
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
        for turns in [&self.uploads, &*self.room] {
            if turns.available_permits() == 0 {
                drop(turns.acquire().await);
            }
        }
    }

    /// Stores a full pack, and a segment of the index when it is time. True when it wrote a segment.
    pub(crate) async fn upload(&self, pack: PackBuilder) -> Result<bool, RepoError> {
        // Neither semaphore is ever closed.
        let turn = self.uploads.acquire().await.ok();
        let room = Arc::new(Mutex::new(self.room.clone().acquire_owned().await.ok()));
        let (bytes, listing) = blocking(move || pack.finish()).await?.map_err(format_error("a new pack"))?;
        let key = listing.key();
        let home = (listing.class == Class::Data).then(|| self.buffers.clone());
        let bytes = Bytes::from_owner(Outgoing { bytes, home, room: room.clone() });
        match self.core.objects.put_new(&key, bytes).await {
            // The name is the hash of the bytes.
            Ok(()) | Err(ObjectError::AlreadyExists) => {}
            Err(e) => return Err(store_error("write", &key)(e)),
        }
        // Also when the store keeps the bytes, as one in memory does.
        lock(&room).take();
        drop(turn);
        let listings = {
            let mut uploaded = lock(&self.uploaded);
            uploaded.push(listing);
            if uploaded.len() < self.core.options.packs_per_segment.max(1) {
                return Ok(false);
            }
            std::mem::take(&mut *uploaded)
        };
        self.write_segment(&listings).await?;
        Ok(true)
    }

    /// Makes everything added so far durable and known to the index. No upload is under way.
    pub(crate) async fn flush(&self) -> Result<(), RepoError> {
        let open = [&self.data, &self.meta].into_iter().filter_map(|open| lock(open).take());
        try_join_all(open.map(|pack| self.upload(pack)).collect::<Vec<_>>()).await?;
        let listings = std::mem::take(&mut *lock(&self.uploaded));
        if !listings.is_empty() {
            self.write_segment(&listings).await?;
        }
        lock(&self.packers).clear();
        lock(&self.buffers).clear();
        Ok(())
    }

    async fn write_segment(&self, uploaded: &[PackListing]) -> Result<(), RepoError> {
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
        Ok(())
    }
}
