//! Answers to requests that their senders may repeat: each is carried out once, and its answer kept for a day.

use crate::ROUNDS;
use crate::error::AccessError;
use crate::seal::Sealer;
use crate::vault::Vault;
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::{Clock, EventId, IdSource, RequestKey, Scope, Timestamp};
use portolan_storage::{Conflict, Kind, Query, Replay, Require, Storage, StorageExt, StoreError, Stored, UnitOfWork};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;
use zeroize::Zeroizing;

/// How long an answer is kept, counted from when its request was taken on.
const KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a request that nobody gives a sign of life for counts as being carried out.
const HOLD: Duration = Duration::from_secs(30);
/// What is over is swept only after this long: clocks of several processes differ a little.
const GRACE: Duration = Duration::from_secs(60);
/// How many records are read and removed at once: a few of them may be megabytes long.
const BATCH: u64 = 50;
/// How many batches one sweep removes at the most.
const BATCHES: usize = 100;

/// Keeps what was answered, sealed, by a keyed hash of dialect, sender and key.
#[derive(Debug, Clone)]
pub struct Replays(Arc<Inner>);

struct Inner {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    /// Answers may hold tokens.
    sealer: Sealer,
    hash_key: Zeroizing<[u8; 32]>,
    /// What every holder of this process begins with, where there is no other process.
    only: Option<String>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replays").finish_non_exhaustive()
    }
}

/// A request that its sender may repeat.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The dialect that it speaks.
    pub dialect: &'a str,
    /// Who sends it: a name that is no one else's.
    pub sender: &'a str,
    /// What the sender calls it.
    pub key: &'a str,
    /// All that makes it what it is, in parts: method, target, body.
    pub parts: &'a [&'a [u8]],
}

/// What is known of a request.
#[derive(Debug)]
pub enum Begun {
    /// It is to be carried out, by whoever holds this.
    Fresh(ReplayHold),
    /// It was carried out: the answer.
    Answered(Zeroizing<Vec<u8>>),
    /// It is being carried out.
    InFlight,
    /// The key stands for another request.
    Mismatch,
}

/// The right to carry a request out. Others may take it over 30 seconds after its last sign of life.
#[derive(Debug, Clone)]
pub struct ReplayHold {
    replays: Replays,
    id: EventId,
    /// Tells this hold from every other one of the same request.
    holder: String,
    fingerprint: String,
    request: RequestKey,
}

impl Replays {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        vault: &Vault,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        alone: bool,
    ) -> Self {
        let (sealer, hash_key) = (vault.sealer("replay"), vault.hash_key("replay"));
        let only = alone.then(|| format!("{}/", ids.uuid()));
        Self(Arc::new(Inner { storage, clock, ids, sealer, hash_key, only }))
    }

    /// Takes a request on, durably, or says what is known of it. Of several that ask at once one is told `Fresh`.
    /// A request that was let go without an answer, or whose holder is lost, is carried out anew under the
    /// [`RequestKey`] that it had; one that was let go gives its key up to another request, too.
    pub async fn begin(&self, asked: &Asked<'_>) -> Result<Begun, AccessError> {
        let inner = &self.0;
        let id = inner.id(asked);
        let fingerprint = inner.hash("request", asked.parts).to_hex().to_string();
        for _ in 0..ROUNDS {
            let now = inner.clock.now();
            let found = inner.storage.find::<Replay>(Scope::All, id).await?;
            let expires = match found.as_deref() {
                None => now + KEEP,
                Some(there) => match judge(there, &fingerprint, now, inner.only.as_deref()) {
                    Verdict::New => now + KEEP,
                    Verdict::Again => there.expires,
                    Verdict::Answered(sealed) => return inner.open(id, &fingerprint, sealed).map(Begun::Answered),
                    Verdict::InFlight => return Ok(Begun::InFlight),
                    Verdict::Mismatch => return Ok(Begun::Mismatch),
                },
            };
            let holder = format!("{}{}", inner.only.as_deref().unwrap_or_default(), inner.ids.uuid());
            let record = Replay {
                id,
                fingerprint: fingerprint.clone(),
                holder: holder.clone(),
                held_until: now + HOLD,
                answer: None,
                expires,
            };
            let unit = match found {
                None => UnitOfWork::new().create(&record),
                Some(stored) => UnitOfWork::new().update(&Stored { value: record, ..stored }),
            };
            match inner.storage.apply(now, Scope::All, unit).await {
                Ok(_) => {
                    let request = inner.request_key(id, &fingerprint, expires);
                    return Ok(Begun::Fresh(ReplayHold { replays: self.clone(), id, holder, fingerprint, request }));
                }
                // Somebody else was faster: what is there now says what to do.
                Err(StoreError::Conflict(Conflict::Version { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Begun::InFlight)
    }

    /// Removes records that are over, a bounded number; returns how many. To be called from time to time.
    pub async fn sweep_expired(&self) -> Result<usize, AccessError> {
        let inner = &self.0;
        let mut swept = 0;
        for _ in 0..BATCHES {
            let now = inner.clock.now();
            let filter = Filter::Below("expires".into(), (now - GRACE).into());
            let query = Query { filter, sort: Sort::by("expires"), page: Page::first(BATCH), count: false };
            let batch = inner.storage.list_of::<Replay>(Scope::All, query).await?.items;
            let full = batch.len() as u64 == BATCH;
            // A late repetition of a request that was never answered may be at it still.
            let over: Vec<_> = batch.into_iter().filter(|r| r.held_until < now - GRACE).collect();
            let removed = inner.remove(now, &over).await?;
            swept += removed;
            if !full || removed == 0 {
                break;
            }
        }
        Ok(swept)
    }
}

impl ReplayHold {
    /// What the request is known by: the same whenever it is carried out anew.
    pub fn request(&self) -> RequestKey {
        self.request
    }

    /// How long the hold lasts from its last sign of life.
    pub fn lasts(&self) -> Duration {
        HOLD
    }

    /// A sign of life. False when somebody else has taken over meanwhile.
    pub async fn extend(&self) -> Result<bool, AccessError> {
        let until = self.replays.0.clock.now() + HOLD;
        self.write(|record| record.held_until = until).await
    }

    /// Keeps the answer, sealed. False when somebody else has taken over meanwhile: nothing is kept then.
    pub async fn complete(&self, answer: &[u8]) -> Result<bool, AccessError> {
        let inner = &self.replays.0;
        let sealed = inner.sealer.seal(&*inner.ids, self.id.uuid(), &self.fingerprint, answer);
        let sealed = sealed.map_err(|e| AccessError::Internal(e.to_string()))?;
        self.write(|record| record.answer = Some(sealed.clone())).await
    }

    /// Lets go without an answer: the next of its kind is carried out at once, under the same [`RequestKey`].
    pub async fn release(&self) -> Result<(), AccessError> {
        self.write(|record| record.holder.clear()).await.map(drop)
    }

    /// Changes the record while it is still this holder's, and says whether it was. One that has its answer already
    /// stays as it is: what is written again after a doubtful end of a write was written then.
    async fn write(&self, change: impl Fn(&mut Replay) + Send + Sync) -> Result<bool, AccessError> {
        let inner = &self.replays.0;
        let mine = |record: &Replay| record.holder == self.holder;
        let write = |record: &mut Replay| {
            (mine(record) && record.answer.is_none()).then(|| {
                change(record);
                UnitOfWork::new()
            })
        };
        match inner.storage.change(inner.clock.now(), Scope::All, self.id, write).await {
            Ok(record) => Ok(mine(&record)),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a record says to a request.
enum Verdict<'a> {
    /// Nothing: the key is free.
    New,
    /// It was begun and not answered: it is to be carried out anew.
    Again,
    Answered(&'a str),
    InFlight,
    Mismatch,
}

/// `only` is what the holders of this process begin with, where there is no other process.
fn judge<'a>(there: &'a Replay, fingerprint: &str, now: Timestamp, only: Option<&str>) -> Verdict<'a> {
    let same = there.fingerprint == fingerprint;
    let released = there.holder.is_empty();
    let dead = only.is_some_and(|only| !there.holder.starts_with(only));
    let held = !released && !dead && there.answer.is_none() && now < there.held_until;
    if there.expires <= now && !held {
        return Verdict::New;
    }
    match &there.answer {
        Some(_) if !same => Verdict::Mismatch,
        Some(sealed) => Verdict::Answered(sealed),
        None if released && !same => Verdict::New,
        None if !same => Verdict::Mismatch,
        None if held => Verdict::InFlight,
        None => Verdict::Again,
    }
}

impl Inner {
    /// The record's id. Keyed, so that a copy of the store tells nobody which keys were used.
    fn id(&self, asked: &Asked<'_>) -> EventId {
        let parts = [asked.dialect.as_bytes(), asked.sender.as_bytes(), asked.key.as_bytes()];
        EventId::from_uuid(uuid_of(self.hash("record", &parts)))
    }

    /// Belongs to one request and one use of its key: the same key, used anew after it expired, makes another.
    fn request_key(&self, id: EventId, fingerprint: &str, expires: Timestamp) -> RequestKey {
        let expires = expires.as_micros().to_le_bytes();
        RequestKey(uuid_of(self.hash("key", &[id.uuid().as_bytes(), fingerprint.as_bytes(), &expires])))
    }

    /// A keyed hash for one purpose. Lengths come first, so that no two lists of parts yield the same bytes.
    fn hash(&self, purpose: &str, parts: &[&[u8]]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.hash_key);
        for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }

    /// Removes these records, all at once where nobody touches one of them meanwhile; returns how many.
    async fn remove(&self, now: Timestamp, records: &[Stored<Replay>]) -> Result<usize, AccessError> {
        let unit = records.iter().fold(UnitOfWork::new(), delete_as_read);
        match self.storage.apply(now, Scope::All, unit).await {
            Ok(_) => return Ok(records.len()),
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let mut removed = 0;
        for record in records {
            match self.storage.apply(now, Scope::All, delete_as_read(UnitOfWork::new(), record)).await {
                Ok(_) => removed += 1,
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(removed)
    }

    fn open(&self, id: EventId, fingerprint: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, AccessError> {
        let damaged = |_| AccessError::Damaged { owner: format!("replay:{id}") };
        self.sealer.open(id.uuid(), fingerprint, sealed).map_err(damaged)
    }
}

fn delete_as_read(unit: UnitOfWork, record: &Stored<Replay>) -> UnitOfWork {
    let same = Require::Version(Kind::Replay, record.id.uuid(), record.version);
    unit.require(same).delete::<Replay>(record.id)
}

fn uuid_of(hash: blake3::Hash) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    uuid::Builder::from_bytes(bytes).with_version(uuid::Version::Custom).into_uuid()
}
