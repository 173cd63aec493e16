//! A backup session: what is read, what is attached, and the commit that makes it a point.
//!
//! `sessions/<id>` is its lease and its memory: whoever holds the highest fence owns it. Every step that counts
//! swaps that object, so an older owner finds out at once. The manifest is another object: whoever takes over from an
//! owner that is in its commit first puts a void under the point's name, so that its manifest cannot be created any
//! more, and the new owner's takes the void's place.

use super::core::{Core, lock, store_error};
use super::pipeline::{self, Job};
use super::stored::{
    FinishedDisk, PointObject, SessionState, StoredDisk, StoredPoint, StoredSession, parse_id, point_key, session_key,
};
use super::writer::Writer;
use crate::object::ObjectError;
use crate::port::{
    BackupSession, DiskSpec, DiskStats, Observer, PointDiskManifest, PointManifest, PointMeta, RepoError, SessionSpec,
    SessionSummary,
};
use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::BlockSource;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

/// How often a swap is tried again when others of the same fence get in between.
const SWAPS: usize = 64;
/// The longest attachment, in bytes.
const MAX_ATTACHMENT: usize = 16 * 1024 * 1024;

pub(crate) struct Session {
    core: Arc<Core>,
    spec: SessionSpec,
    parent: Option<StoredPoint>,
    /// One disk at a time: the pipeline fills all processors by itself, and memory stays bounded.
    turn: tokio::sync::Mutex<()>,
    next_segment: Arc<AtomicU64>,
    /// Attachments that are not stored yet.
    attached: Mutex<BTreeMap<String, Bytes>>,
}

/// What a swap makes of the stored session; nothing to leave it as it is.
type Change<'a> = &'a (dyn Fn(&StoredSession) -> Result<Option<StoredSession>, RepoError> + Send + Sync);

impl Session {
    /// Opens, resumes or takes over the session.
    pub(crate) async fn begin(core: Arc<Core>, spec: SessionSpec) -> Result<Self, RepoError> {
        core.refresh().await?;
        let parent = match spec.parent {
            None => None,
            Some(id) => match core.stored_point(id).await {
                Ok(parent) if parent.manifest.vm == spec.vm => Some(parent),
                Ok(_) => return Err(RepoError::ParentMissing(id)),
                Err(RepoError::NotFound { .. }) => None,
                Err(e) => return Err(e),
            },
        };
        let parent_missing = parent.is_none() && spec.parent.is_some();
        let next_segment = Arc::new(AtomicU64::new(core.segments_of(spec.id).await));
        let session =
            Self { core, spec, parent, turn: tokio::sync::Mutex::default(), next_segment, attached: Mutex::default() };
        session.take_over(parent_missing).await?;
        Ok(session)
    }

    fn key(&self) -> String {
        session_key(self.spec.id)
    }

    /// Makes this attempt the owner.
    async fn take_over(&self, parent_missing: bool) -> Result<(), RepoError> {
        let key = self.key();
        for _ in 0..SWAPS {
            let (bytes, tag) = match self.core.objects.get_tagged(&key).await {
                Ok(found) => found,
                Err(ObjectError::NotFound) => {
                    if parent_missing {
                        return Err(self.parent_missing());
                    }
                    let sealed = self.core.seal_record(&key, &self.fresh())?;
                    match self.core.objects.put_new(&key, sealed).await {
                        Ok(()) => return Ok(()),
                        Err(ObjectError::AlreadyExists) => continue,
                        Err(e) => return Err(store_error("write", &key)(e)),
                    }
                }
                Err(e) => return Err(store_error("read", &key)(e)),
            };
            let stored: StoredSession = self.core.open_record(&key, &bytes)?;
            if stored.fence > self.spec.fence {
                return Err(RepoError::Fenced);
            }
            if (stored.point, stored.vm) != (self.spec.point, self.spec.vm) {
                return Err(RepoError::Conflict(format!("the session {} makes another point", self.spec.id)));
            }
            let next = match stored.state {
                SessionState::Aborted => self.fresh(),
                // What was read against another parent is whole in itself and stays.
                _ => StoredSession { fence: self.spec.fence, parent: self.spec.parent, ..stored.clone() },
            };
            if parent_missing && next.disks.is_empty() && next.state != SessionState::Committed {
                return Err(self.parent_missing());
            }
            if next == stored {
                return Ok(());
            }
            // The owner so far may have swapped its lease for the last time, and be about to create the manifest.
            if stored.state == SessionState::Committing && stored.fence < self.spec.fence {
                self.core.put_void(self.spec.point, self.spec.id).await?;
            }
            let sealed = self.core.seal_record(&key, &next)?;
            match self.core.objects.replace(&key, sealed, &tag).await {
                Ok(_) => return Ok(()),
                Err(ObjectError::Changed) => continue,
                Err(e) => return Err(store_error("write", &key)(e)),
            }
        }
        Err(RepoError::Conflict(format!("too many attempts at the session {}", self.spec.id)))
    }

    fn parent_missing(&self) -> RepoError {
        RepoError::ParentMissing(self.spec.parent.unwrap_or(self.spec.point))
    }

    fn fresh(&self) -> StoredSession {
        StoredSession {
            fence: self.spec.fence,
            point: self.spec.point,
            vm: self.spec.vm,
            parent: self.spec.parent,
            started: self.core.env.clock.now(),
            state: SessionState::Open,
            disks: BTreeMap::new(),
            attachments: BTreeMap::new(),
            epoch: 0,
        }
    }

    /// The stored session, if this attempt still owns it.
    async fn lease(&self) -> Result<StoredSession, RepoError> {
        self.swap(&|_| Ok(None)).await
    }

    /// Changes the stored session, if this attempt still owns it.
    async fn swap(&self, change: Change<'_>) -> Result<StoredSession, RepoError> {
        let key = self.key();
        for _ in 0..SWAPS {
            let found = self.core.objects.get_tagged(&key).await;
            let (bytes, tag) = found.map_err(store_error("read", &key))?;
            let stored: StoredSession = self.core.open_record(&key, &bytes)?;
            if stored.fence != self.spec.fence {
                return Err(RepoError::Fenced);
            }
            let Some(next) = change(&stored)? else { return Ok(stored) };
            let sealed = self.core.seal_record(&key, &next)?;
            match self.core.objects.replace(&key, sealed, &tag).await {
                Ok(_) => return Ok(next),
                Err(ObjectError::Changed) => continue,
                Err(e) => return Err(store_error("write", &key)(e)),
            }
        }
        Err(RepoError::Conflict(format!("too many attempts at the session {}", self.spec.id)))
    }

    /// A writer for one step. A step that fails, or whose call is dropped, leaves no half-filled one behind.
    fn writer(&self) -> Arc<Writer> {
        Arc::new(Writer::new(self.core.clone(), self.spec.id, self.next_segment.clone()))
    }

    async fn read_disk(
        &self,
        spec: DiskSpec,
        source: Arc<dyn BlockSource>,
        observer: &dyn Observer,
    ) -> Result<DiskStats, RepoError> {
        let name = spec.name.clone();
        let parent = match &self.parent {
            Some(parent) if parent.manifest.disks.iter().any(|d| d.name == name) => {
                Some(self.core.disk_map(parent, &name).await?)
            }
            // A disk that the parent does not have is read in full, whatever the caller thinks has changed.
            _ => None,
        };
        let writer = self.writer();
        let job = Job { core: self.core.clone(), writer: writer.clone(), source, spec, parent };
        let checkpoint = || async { self.lease().await.map(drop) };
        let result = pipeline::run(&job, observer, checkpoint).await?;
        writer.flush().await?;
        let finished = FinishedDisk { root: result.root.to_hex(), stats: result.stats, mapped: result.mapped };
        self.swap(&|stored| {
            let mut next = stored.clone();
            next.disks.insert(name.clone(), StoredDisk { finished: Some(finished.clone()) });
            Ok(Some(next))
        })
        .await?;
        Ok(result.stats)
    }

    /// Stores what was attached, and says what the session holds.
    async fn store_attached(&self) -> Result<StoredSession, RepoError> {
        let attached = lock(&self.attached).clone();
        if attached.is_empty() {
            return self.lease().await;
        }
        let writer = self.writer();
        let mut ids = BTreeMap::new();
        for (name, content) in &attached {
            let mut stats = DiskStats::default();
            let id = pipeline::store_meta(&self.core, &writer, content.to_vec(), &mut stats).await?;
            ids.insert(name.clone(), id.to_hex());
        }
        writer.flush().await?;
        let stored = self
            .swap(&|stored| {
                let mut next = stored.clone();
                next.attachments.extend(ids.clone());
                Ok((next != *stored).then_some(next))
            })
            .await?;
        lock(&self.attached).retain(|name, content| attached.get(name) != Some(content));
        Ok(stored)
    }

    /// The manifest of this session, if it was written before.
    async fn written(&self) -> Result<Option<PointManifest>, RepoError> {
        match self.core.stored_point(self.spec.point).await {
            Ok(point) if point.manifest.session == self.spec.id => Ok(Some(point.manifest)),
            Ok(_) => Err(RepoError::Conflict(format!("the recovery point {} exists already", self.spec.point))),
            Err(RepoError::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Creates the manifest; nothing when there is something else under its name by now.
    async fn create(&self, stored: &StoredSession, meta: &PointMeta) -> Result<Option<PointManifest>, RepoError> {
        // Looked up before the lease is swapped: a newer attempt puts a void there before it takes the lease, so that
        // either the swap or the creation fails.
        let void = match self.core.point_object(self.spec.point).await? {
            Some((PointObject::Void { .. }, tag)) => Some(tag),
            Some((PointObject::Point(_), _)) => return Ok(None),
            None => None,
        };
        let point = self.manifest(stored, meta.clone(), void.is_some())?;
        let key = point_key(self.spec.point);
        let sealed = self.core.seal_record(&key, &point)?;
        self.swap(&|now| {
            if now.state == SessionState::Committed {
                return Err(RepoError::NotFound { what: "recovery point", id: self.spec.point.to_string() });
            }
            if (&now.disks, &now.attachments) != (&stored.disks, &stored.attachments) {
                return Err(RepoError::Conflict("the session has changed meanwhile".into()));
            }
            Ok(Some(StoredSession { state: SessionState::Committing, ..now.clone() }))
        })
        .await?;
        let created = match &void {
            Some(tag) => self.core.objects.replace(&key, sealed, tag).await.map(drop),
            None => self.core.objects.put_new(&key, sealed).await,
        };
        match created {
            Ok(()) => Ok(Some(point.manifest)),
            Err(ObjectError::AlreadyExists | ObjectError::Changed) => Ok(None),
            Err(e) => Err(store_error("write", &key)(e)),
        }
    }

    /// Notes that the manifest is there. Not needed for the commit to hold, so a failure is only logged.
    async fn note_committed(&self) {
        let noted = self.swap(&|stored| {
            let done = stored.state == SessionState::Committed;
            Ok((!done).then(|| StoredSession { state: SessionState::Committed, ..stored.clone() }))
        });
        if let Err(error) = noted.await {
            tracing::warn!(session = %self.spec.id, %error, "cannot note that the session is committed");
        }
    }

    fn manifest(&self, stored: &StoredSession, meta: PointMeta, over_void: bool) -> Result<StoredPoint, RepoError> {
        let mut disks = Vec::new();
        let mut mapped = BTreeMap::new();
        for (name, disk) in &stored.disks {
            let Some(finished) = &disk.finished else {
                return Err(RepoError::Conflict(format!("the disk '{name}' was not read to its end")));
            };
            parse_id(&self.key(), &finished.root)?;
            disks.push(PointDiskManifest { name: name.clone(), root: finished.root.clone(), stats: finished.stats });
            mapped.insert(name.clone(), finished.mapped);
        }
        let manifest = PointManifest {
            id: self.spec.point,
            vm: self.spec.vm,
            session: self.spec.id,
            meta,
            committed: self.core.env.clock.now(),
            parent: stored.parent,
            disks,
            attachments: stored.attachments.keys().cloned().collect(),
        };
        Ok(StoredPoint { manifest, mapped, attachments: stored.attachments.clone(), over_void })
    }
}

#[async_trait]
impl BackupSession for Session {
    async fn disk(
        &self,
        spec: DiskSpec,
        source: Arc<dyn BlockSource>,
        observer: &dyn Observer,
    ) -> Result<DiskStats, RepoError> {
        if spec.name.is_empty() || spec.name.len() > 1024 {
            return Err(RepoError::Unsupported("a disk's name of that length".into()));
        }
        let _turn = self.turn.lock().await;
        let stored = self.lease().await?;
        if let Some(finished) = stored.disks.get(&spec.name).and_then(|disk| disk.finished.as_ref()) {
            return Ok(finished.stats);
        }
        let parent_gone = self.parent.is_none() && self.spec.parent.is_some();
        if parent_gone {
            return Err(self.parent_missing());
        }
        // From here on there is no commit without this disk.
        stored.writable()?;
        self.swap(&|stored| {
            let mut next = stored.clone();
            next.disks.entry(spec.name.clone()).or_insert(StoredDisk { finished: None });
            next.state = SessionState::Open;
            Ok((next != *stored).then_some(next))
        })
        .await?;
        self.read_disk(spec, source, observer).await
    }

    async fn attach(&self, name: &str, content: Bytes) -> Result<(), RepoError> {
        if name.is_empty() || name.len() > 1024 || content.len() > MAX_ATTACHMENT {
            return Err(RepoError::Unsupported(format!("an attachment of {} bytes", content.len())));
        }
        let _turn = self.turn.lock().await;
        let stored = self.lease().await?;
        if stored.state == SessionState::Committed && stored.attachments.contains_key(name) {
            // A step that is repeated after its effect.
            return Ok(());
        }
        stored.writable()?;
        lock(&self.attached).insert(name.to_owned(), content);
        Ok(())
    }

    async fn seal(&self) -> Result<SessionSummary, RepoError> {
        let _turn = self.turn.lock().await;
        let stored = self.store_attached().await?;
        let finished = |(name, disk): (&String, &StoredDisk)| Some((name.clone(), disk.finished.as_ref()?.stats));
        Ok(SessionSummary { disks: stored.disks.iter().filter_map(finished).collect() })
    }

    async fn commit(&self, meta: PointMeta) -> Result<PointManifest, RepoError> {
        let _turn = self.turn.lock().await;
        let stored = self.lease().await?;
        if let Some(manifest) = self.written().await? {
            if stored.state != SessionState::Committed {
                self.note_committed().await;
            }
            return Ok(manifest);
        }
        match stored.state {
            SessionState::Open | SessionState::Committing => {}
            // It was a point, and was deleted since.
            SessionState::Committed => {
                return Err(RepoError::NotFound { what: "recovery point", id: self.spec.point.to_string() });
            }
            SessionState::Aborted => stored.writable()?,
        }
        let stored = self.store_attached().await?;
        for _ in 0..SWAPS {
            if let Some(manifest) = self.create(&stored, &meta).await? {
                self.note_committed().await;
                return Ok(manifest);
            }
            // Somebody was there first: a newer attempt, which the lease tells, or one of this fence.
            self.lease().await?;
            if let Some(manifest) = self.written().await? {
                return Ok(manifest);
            }
        }
        Err(RepoError::Conflict(format!("too many attempts at the session {}", self.spec.id)))
    }

    async fn abort(&self) -> Result<(), RepoError> {
        let _turn = self.turn.lock().await;
        lock(&self.attached).clear();
        if self.written().await?.is_some() {
            return Ok(());
        }
        self.swap(&|stored| {
            let give_up = matches!(stored.state, SessionState::Open | SessionState::Committing);
            Ok(give_up.then(|| StoredSession { state: SessionState::Aborted, ..stored.clone() }))
        })
        .await
        .map(drop)
    }
}
