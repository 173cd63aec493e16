//! What all parts of an open repository share: the store, the keys, the index and the workers.

use super::index::{Index, PackInfo, Place};
use super::marks;
use crate::format::config::Config;
use crate::format::frame::{self, FrameRef};
use crate::format::map::{self, Root};
use crate::format::{ChunkId, Class, FormatError, record, segment};
use crate::keys::RepositoryKeys;
use crate::object::{ObjectError, ObjectStore};
use crate::port::{Damage, RepoError};
use bytes::Bytes;
use futures_util::StreamExt;
use portolan_model::{Clock, IdSource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::Semaphore;

/// The longest run of frames that is read at once, in bytes.
const MAX_READ: u64 = 4 * 1024 * 1024;
/// Two frames this near to each other are read together, in bytes.
const MAX_GAP: u64 = 64 * 1024;

/// Where the engine takes time and randomness from.
#[derive(Debug, Clone)]
pub struct RepositoryEnv {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids, salts and keys.
    pub ids: Arc<dyn IdSource>,
}

/// How the engine works. Nothing here changes the format but the chunk size, which only a new repository takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryOptions {
    /// Bytes in a chunk of a new repository: a power of two from 4 KiB to 4 MiB.
    pub chunk_bytes: u32,
    /// Bytes in a pack, about.
    pub pack_bytes: usize,
    /// After how many packs an index segment is written, so that a crash loses no more than those.
    pub packs_per_segment: usize,
    /// How many threads hash, compress and seal at once.
    pub workers: usize,
}

impl Default for RepositoryOptions {
    fn default() -> Self {
        Self {
            chunk_bytes: crate::format::CHUNK_BYTES,
            pack_bytes: 16 * 1024 * 1024,
            packs_per_segment: 16,
            workers: std::thread::available_parallelism().map_or(2, usize::from),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) env: RepositoryEnv,
    pub(crate) options: RepositoryOptions,
    pub(crate) keys: RepositoryKeys,
    pub(crate) config: Mutex<Config>,
    pub(crate) chunk_bytes: u32,
    index: RwLock<Index>,
    loaded: tokio::sync::Mutex<Loaded>,
    pub(crate) cpu: Arc<Semaphore>,
    openers: Openers,
}

/// The index segments that were read.
#[derive(Debug, Default)]
struct Loaded {
    good: HashSet<String>,
    bad: Vec<Damage>,
}

/// Spare openers of frames, at most one for every worker.
#[derive(Default)]
struct Openers(Mutex<Vec<frame::Opener>>);

impl std::fmt::Debug for Openers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Openers")
    }
}

/// Locks, whatever happened to an earlier holder: nothing here is left half changed by a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what a failed operation on an object means to the repository's callers.
pub(crate) fn store_error(action: &'static str, object: &str) -> impl FnOnce(ObjectError) -> RepoError {
    let object = object.to_owned();
    move |error| match error {
        ObjectError::NoSpace => RepoError::NoSpace,
        ObjectError::NotFound => RepoError::Corrupt { object, what: "it is missing".into() },
        ObjectError::OutOfRange => RepoError::Corrupt { object, what: "it is shorter than it should be".into() },
        ObjectError::InvalidKey(what) => RepoError::Corrupt { object, what: format!("it cannot be an object: {what}") },
        ObjectError::AlreadyExists => RepoError::Conflict(format!("the object '{object}' exists already")),
        ObjectError::Changed => RepoError::Conflict(format!("the object '{object}' has changed meanwhile")),
        ObjectError::Io { action: _, source } => RepoError::Store { action, object, source },
    }
}

/// Says what damaged bytes mean to the repository's callers.
pub(crate) fn format_error(object: &str) -> impl FnOnce(FormatError) -> RepoError {
    let object = object.to_owned();
    move |error| match error {
        FormatError::Damaged(what) => RepoError::Corrupt { object, what: what.into() },
        FormatError::TooNew(found) => RepoError::TooNew { found, known: crate::format::FORMAT },
    }
}

/// Runs blocking work; a panic in it is an error of the store.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RepoError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| RepoError::Store {
        action: "work on",
        object: "a worker's task".into(),
        source: std::io::Error::other(e),
    })
}

/// A chunk that could not be had.
#[derive(Debug)]
pub(crate) struct BadChunk {
    pub(crate) id: ChunkId,
    pub(crate) object: String,
    pub(crate) what: String,
}

impl From<BadChunk> for RepoError {
    fn from(bad: BadChunk) -> Self {
        Self::Corrupt { object: bad.object, what: bad.what }
    }
}

/// Chunks that lie near each other in one pack.
pub(crate) struct Run {
    pub(crate) info: PackInfo,
    pub(crate) frames: Vec<(ChunkId, Place)>,
}

pub(crate) type Opened = Vec<Result<(ChunkId, Bytes), BadChunk>>;

impl Core {
    pub(crate) fn new(
        objects: Arc<dyn ObjectStore>,
        env: RepositoryEnv,
        options: RepositoryOptions,
        keys: RepositoryKeys,
        config: Config,
    ) -> Self {
        let workers = options.workers.clamp(1, 256);
        Self {
            objects,
            env,
            keys,
            chunk_bytes: config.chunk_bytes,
            config: Mutex::new(config),
            index: RwLock::default(),
            loaded: tokio::sync::Mutex::default(),
            cpu: Arc::new(Semaphore::new(workers)),
            options: RepositoryOptions { workers, ..options },
            openers: Openers::default(),
        }
    }

    pub(crate) fn salt(&self) -> [u8; 16] {
        let mut salt = [0; 16];
        self.env.ids.fill(&mut salt);
        salt
    }

    /// Asks the index. The closure must be short.
    pub(crate) fn with_index<T>(&self, ask: impl FnOnce(&Index) -> T) -> T {
        ask(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn add_to_index(&self, packs: &[crate::format::pack::PackListing]) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).add(packs);
    }

    /// Notes that this process wrote a segment and knows what is in it.
    pub(crate) async fn segment_written(&self, key: String) {
        self.loaded.lock().await.good.insert(key);
    }

    /// How many segments of a session are known.
    pub(crate) async fn segments_of(&self, session: uuid::Uuid) -> u64 {
        let prefix = format!("index/{session}-");
        self.loaded.lock().await.good.iter().filter(|key| key.starts_with(&prefix)).count() as u64
    }

    /// Reads the index segments and the marks of damaged packs that others have written meanwhile. Damaged segments
    /// are remembered, and tried again.
    pub(crate) async fn refresh(&self) -> Result<Vec<Damage>, RepoError> {
        let mut loaded = self.loaded.lock().await;
        let marks = marks::list(&*self.objects).await?;
        self.index.write().unwrap_or_else(PoisonError::into_inner).set_damaged(marks);
        let listed = self.objects.list("index/").await.map_err(store_error("list", "index/"))?;
        loaded.bad.clear();
        for object in listed {
            if loaded.good.contains(&object.key) {
                continue;
            }
            let bytes = match self.objects.get(&object.key, None).await {
                // Merged into another since it was listed.
                Err(ObjectError::NotFound) => continue,
                other => other.map_err(store_error("read", &object.key))?,
            };
            let opened = record::open(&self.keys, &object.key, &bytes).and_then(|plain| segment::decode(&plain));
            match opened {
                Ok(packs) => {
                    self.add_to_index(&packs);
                    loaded.good.insert(object.key);
                }
                // Also one that claims to be newer: the rest of the repository stays readable.
                Err(error) => {
                    tracing::warn!(object = %object.key, %error, "an index segment is damaged");
                    let what = error.to_string();
                    loaded.bad.push(Damage { object: object.key, what, point: None, disk: None, range: None });
                }
            }
        }
        Ok(loaded.bad.clone())
    }

    /// Seals a document as a record.
    pub(crate) fn seal_record<T: Serialize>(&self, object: &str, document: &T) -> Result<Bytes, RepoError> {
        let json = serde_json::to_vec(document)
            .map_err(|e| RepoError::Unsupported(format!("a document that cannot be written: {e}")))?;
        record::seal(&self.keys, object, self.salt(), &json).map(Bytes::from).map_err(format_error(object))
    }

    /// Opens a sealed document.
    pub(crate) fn open_record<T: DeserializeOwned>(&self, object: &str, bytes: &[u8]) -> Result<T, RepoError> {
        let plain = record::open(&self.keys, object, bytes).map_err(format_error(object))?;
        serde_json::from_slice(&plain).map_err(|e| RepoError::Corrupt {
            object: object.to_owned(),
            what: format!("not the expected document: {e}"),
        })
    }

    /// Where these chunks are, in the order of packs and offsets, cut into runs that can be read at once. Chunks
    /// that no segment lists come back apart.
    pub(crate) async fn locate(&self, ids: &HashSet<ChunkId>) -> Result<(Vec<Run>, Vec<ChunkId>), RepoError> {
        let find = || {
            self.with_index(|index| {
                let mut found = Vec::with_capacity(ids.len());
                let mut unknown = Vec::new();
                for id in ids {
                    match index.find(id).and_then(|place| Some((place, index.pack(place.pack)?))) {
                        Some((place, info)) => found.push((*id, place, info)),
                        None => unknown.push(*id),
                    }
                }
                (found, unknown)
            })
        };
        let (mut found, mut unknown) = find();
        if !unknown.is_empty() {
            self.refresh().await?;
            (found, unknown) = find();
        }
        found.sort_by_key(|(_, place, _)| (place.pack, place.offset));
        let mut runs: Vec<Run> = Vec::new();
        let mut last_pack = None;
        for (id, place, info) in found {
            let end = u64::from(place.offset) + u64::from(place.stored);
            if last_pack == Some(place.pack)
                && let Some(run) = runs.last_mut()
                && let (Some((_, first)), Some((_, last))) = (run.frames.first(), run.frames.last())
                && u64::from(place.offset) <= u64::from(last.offset) + u64::from(last.stored) + MAX_GAP
                && end - u64::from(first.offset) <= MAX_READ
            {
                run.frames.push((id, place));
                continue;
            }
            last_pack = Some(place.pack);
            runs.push(Run { info, frames: vec![(id, place)] });
        }
        Ok((runs, unknown))
    }

    /// Opens frames whose pack's bytes, from `base` on, are at hand, one after the other. Blocks.
    pub(crate) fn open_frames(
        &self,
        info: &PackInfo,
        base: u64,
        bytes: &[u8],
        frames: &[(ChunkId, Place)],
        mut each: impl FnMut(Result<(ChunkId, Bytes), BadChunk>),
    ) {
        let key = self.keys.pack_key(&info.salt);
        let spare = lock(&self.openers.0).pop();
        let mut opener = spare.map_or_else(frame::Opener::new, Ok);
        for (id, place) in frames {
            let start = u64::from(place.offset).checked_sub(base).and_then(|n| usize::try_from(n).ok());
            let frame = start.and_then(|n| bytes.get(n..)?.get(..place.stored as usize));
            let at = FrameRef { id: *id, class: info.class, offset: place.offset, raw: place.raw };
            let opened = match (frame, &mut opener) {
                (None, _) => Err("a frame lies past the pack's end".to_owned()),
                (_, Err(e)) => Err(format!("no decompressor: {e}")),
                (Some(frame), Ok(opener)) => {
                    frame::open(frame, &at, &key, &self.keys, opener).map_err(|e| e.to_string())
                }
            };
            each(match opened {
                Ok(chunk) => Ok((*id, Bytes::from(chunk))),
                Err(what) => Err(BadChunk { id: *id, object: info.key(), what }),
            });
        }
        let mut spare = lock(&self.openers.0);
        if spare.len() < self.options.workers {
            spare.extend(opener.ok());
        }
    }

    /// Reads and opens one run.
    pub(crate) async fn read_run(self: &Arc<Self>, run: Run) -> Result<Opened, RepoError> {
        let (Some((_, first)), Some((_, last))) = (run.frames.first(), run.frames.last()) else {
            return Ok(Vec::new());
        };
        let start = u64::from(first.offset);
        let range = start..u64::from(last.offset) + u64::from(last.stored);
        let key = run.info.key();
        let bytes = match self.objects.get(&key, Some(range)).await.map_err(store_error("read", &key)) {
            Ok(bytes) => bytes,
            Err(RepoError::Corrupt { object, what }) => {
                let bad = |id: &ChunkId| BadChunk { id: *id, object: object.clone(), what: what.clone() };
                return Ok(run.frames.iter().map(|(id, _)| Err(bad(id))).collect());
            }
            Err(other) => return Err(other),
        };
        // The semaphore is never closed; without a permit the work would only be less even.
        let permit = self.cpu.clone().acquire_owned().await.ok();
        let core = self.clone();
        blocking(move || {
            let _permit = permit;
            let mut opened = Vec::with_capacity(run.frames.len());
            core.open_frames(&run.info, start, &bytes, &run.frames, |chunk| opened.push(chunk));
            opened
        })
        .await
    }

    /// Reads chunks, several at once. The first that is damaged fails the call.
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        ids: &HashSet<ChunkId>,
    ) -> Result<Result<HashMap<ChunkId, Bytes>, BadChunk>, RepoError> {
        let (runs, unknown) = self.locate(ids).await?;
        if let Some(id) = unknown.first() {
            return Ok(Err(unlisted(*id)));
        }
        let mut chunks = HashMap::with_capacity(ids.len());
        let width = self.options.workers * 2;
        let mut reads =
            futures_util::stream::iter(runs.into_iter().map(|run| self.read_run(run))).buffer_unordered(width);
        while let Some(opened) = reads.next().await {
            for chunk in opened? {
                match chunk {
                    Ok((id, bytes)) => chunks.insert(id, bytes),
                    Err(bad) => return Ok(Err(bad)),
                };
            }
        }
        Ok(Ok(chunks))
    }

    /// Reads those of the chunks that can be had and are what they should be.
    pub(crate) async fn fetch_some(self: &Arc<Self>, ids: &HashSet<ChunkId>) -> HashMap<ChunkId, Bytes> {
        let Ok((runs, _)) = self.locate(ids).await else { return HashMap::new() };
        let reads = runs.into_iter().map(|run| self.read_run(run));
        let mut reads = futures_util::stream::iter(reads).buffer_unordered(self.options.workers);
        let mut chunks = HashMap::with_capacity(ids.len());
        while let Some(opened) = reads.next().await {
            chunks.extend(opened.unwrap_or_default().into_iter().flatten());
        }
        chunks
    }

    /// Reads one metadata chunk.
    pub(crate) async fn meta_chunk(self: &Arc<Self>, id: ChunkId) -> Result<Bytes, RepoError> {
        let mut chunks = self.fetch(&HashSet::from([id])).await??;
        chunks.remove(&id).ok_or_else(|| unlisted(id).into())
    }

    /// Reads the root of a map.
    pub(crate) async fn root(self: &Arc<Self>, id: ChunkId) -> Result<Root, RepoError> {
        let bytes = self.meta_chunk(id).await?;
        Root::decode(&bytes, self.chunk_bytes).map_err(format_error(&format!("map {}", id.to_hex())))
    }

    /// Reads a leaf of a map.
    pub(crate) async fn leaf(self: &Arc<Self>, id: ChunkId) -> Result<Arc<Vec<ChunkId>>, RepoError> {
        if id.is_zero() {
            return Ok(Arc::new(vec![ChunkId::ZERO; map::LEAF_CHUNKS]));
        }
        let bytes = self.meta_chunk(id).await?;
        map::decode_leaf(&bytes).map(Arc::new).map_err(format_error(&format!("map {}", id.to_hex())))
    }

    /// Whether a chunk of that class is known to be stored, and not in damaged packs alone.
    pub(crate) fn knows(&self, id: &ChunkId, class: Class) -> bool {
        self.with_index(|index| {
            let place = index.find(id).filter(|place| index.is_sound(place.pack));
            place.and_then(|place| index.pack(place.pack)).is_some_and(|info| info.class == class)
        })
    }
}

fn unlisted(id: ChunkId) -> BadChunk {
    BadChunk { id, object: format!("chunk {}", id.to_hex()), what: "no index segment lists it".into() }
}
