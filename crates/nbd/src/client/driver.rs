//! The task behind a connection: sends requests, takes replies apart and gives up on a peer that stalls.

use super::assembly::ReadAssembly;
use super::handshake::bounded_text;
use super::status::{StatusAssembly, StatusExtent};
use crate::error::NbdError;
use crate::stream::{BoxStream, read_array, read_vec};
use crate::wire::{self, Chunk, Fields, MAX_STRING, Request};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// Headers are read through a buffer of this size. Data longer than it goes past it, right to its place.
const HEADER_BUFFER: usize = 512;

/// What a request waits for.
#[derive(Debug)]
pub(super) enum Work {
    /// That it is done.
    Plain,
    /// Data.
    Read(ReadAssembly),
    /// Block status.
    Status(StatusAssembly),
}

/// What a request got.
#[derive(Debug)]
pub(super) enum Done {
    Plain,
    Read(BytesMut),
    Status(Vec<Vec<StatusExtent>>),
}

/// A request on its way to the stream.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) header: Request,
    pub(super) payload: Bytes,
}

/// A request that has no reply yet. It stays here when its caller loses interest, so that the reply can be told
/// from a lie, and its slot stays taken.
#[derive(Debug)]
struct Pending {
    action: &'static str,
    offset: u64,
    deadline: Instant,
    /// Taken out while a chunk is read.
    work: Option<Work>,
    failed: Option<NbdError>,
    done: oneshot::Sender<Result<Done, NbdError>>,
    _slot: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct State {
    dead: Option<NbdError>,
    cookie: u64,
    pending: HashMap<u64, Pending>,
}

/// What callers and the task share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    slots: Arc<Semaphore>,
    timeout: Duration,
}

impl Shared {
    pub(super) fn new(in_flight: usize, timeout: Duration) -> Self {
        Self { state: Mutex::default(), slots: Arc::new(Semaphore::new(in_flight)), timeout }
    }

    /// A place among the requests in flight.
    pub(super) async fn slot(&self) -> Result<OwnedSemaphorePermit, NbdError> {
        self.slots.clone().acquire_owned().await.map_err(|_| self.reason())
    }

    /// Waits until no request is under way, and keeps others from beginning.
    pub(super) async fn all_slots(&self, in_flight: usize) -> Result<OwnedSemaphorePermit, NbdError> {
        let count = u32::try_from(in_flight).unwrap_or(u32::MAX);
        self.slots.clone().acquire_many_owned(count).await.map_err(|_| self.reason())
    }

    /// Fails all that would be asked from now on.
    pub(super) fn close_slots(&self) {
        self.slots.close();
    }

    /// Why the connection is dead.
    pub(super) fn reason(&self) -> NbdError {
        self.state().dead.clone().unwrap_or(NbdError::Closed)
    }

    /// Whether the connection can be used no more.
    pub(super) fn is_dead(&self) -> bool {
        self.state().dead.is_some()
    }

    /// Queues a request; its cookie is put in.
    pub(super) fn enqueue(
        &self,
        action: &'static str,
        work: Work,
        slot: OwnedSemaphorePermit,
        mut outgoing: Outgoing,
        queue: &mpsc::UnboundedSender<Outgoing>,
    ) -> Result<oneshot::Receiver<Result<Done, NbdError>>, NbdError> {
        let mut state = self.state();
        if let Some(reason) = &state.dead {
            return Err(reason.clone());
        }
        let (done, receiver) = oneshot::channel();
        state.cookie += 1;
        let cookie = state.cookie;
        outgoing.header.cookie = cookie;
        let offset = outgoing.header.offset;
        let deadline = Instant::now() + self.timeout;
        let pending = Pending { action, offset, deadline, work: Some(work), failed: None, done, _slot: slot };
        state.pending.insert(cookie, pending);
        // The queue is as short as there are slots. Sent under the lock: requests leave in the order of cookies.
        if queue.send(outgoing).is_err() {
            state.pending.remove(&cookie);
            return Err(state.dead.clone().unwrap_or(NbdError::Closed));
        }
        Ok(receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails all that is under way and all that will be asked.
    fn die(&self, reason: NbdError) {
        let pending = {
            let mut state = self.state();
            if state.dead.is_none() {
                state.dead = Some(reason.clone());
            }
            std::mem::take(&mut state.pending)
        };
        self.slots.close();
        for (_, pending) in pending {
            let _ = pending.done.send(Err(reason.clone()));
        }
    }

    /// Takes the work of a request to do a chunk of it.
    fn take(&self, cookie: u64) -> Result<Work, NbdError> {
        let mut state = self.state();
        let work = state.pending.get_mut(&cookie).and_then(|pending| pending.work.take());
        work.ok_or_else(|| NbdError::protocol("a reply to no request"))
    }

    /// Puts the work back until its next chunk.
    fn put_back(&self, cookie: u64, work: Work) {
        if let Some(pending) = self.state().pending.get_mut(&cookie) {
            pending.work = Some(work);
        }
    }

    /// Notes that the server reports an error of a request. The first one counts.
    fn fail(&self, cookie: u64, errno: u32, at: Option<u64>, message: String) {
        if let Some(pending) = self.state().pending.get_mut(&cookie)
            && pending.failed.is_none()
        {
            let (action, offset) = (pending.action, at.unwrap_or(pending.offset));
            pending.failed = Some(NbdError::Remote { action, offset, errno, message });
        }
    }

    /// Ends a request. What it lacks is the peer's fault, unless the peer reported an error.
    fn finish(&self, cookie: u64, work: Work) -> Result<(), NbdError> {
        let Some(pending) = self.state().pending.remove(&cookie) else { return Ok(()) };
        let result = match (pending.failed, work) {
            (Some(error), _) => Err(error),
            (None, Work::Plain) => Ok(Done::Plain),
            (None, Work::Read(read)) => read.finish().map(Done::Read),
            (None, Work::Status(status)) => status.finish().map(Done::Status),
        };
        let broken = match &result {
            Err(error @ NbdError::Protocol(_)) => Err(error.clone()),
            _ => Ok(()),
        };
        let _ = pending.done.send(result);
        broken
    }

    /// When the first request is late, and whether one is.
    fn lateness(&self) -> (Instant, Option<&'static str>) {
        let now = Instant::now();
        let state = self.state();
        let late = state.pending.values().find(|pending| pending.deadline <= now).map(|pending| pending.action);
        // Requests that come later are due later than this.
        let next = state.pending.values().map(|pending| pending.deadline).min().unwrap_or(now + self.timeout);
        (next, late)
    }
}

/// Runs a connection until it ends.
pub(super) async fn drive(
    stream: BoxStream,
    shared: Arc<Shared>,
    queue: mpsc::UnboundedReceiver<Outgoing>,
    structured: bool,
) {
    // Also when the task is thrown away, nobody may wait for ever.
    let guard = Guard(shared.clone());
    let (reader, writer) = tokio::io::split(stream);
    let reader = Reader { stream: BufReader::with_capacity(HEADER_BUFFER, reader), shared: shared.clone(), structured };
    let ended = tokio::select! {
        ended = reader.run() => ended,
        ended = send_requests(writer, queue, shared.timeout) => ended,
        ended = watch(&shared) => ended,
    };
    let Err(reason) = ended;
    if !matches!(reason, NbdError::Closed) {
        tracing::debug!(error = %reason, "an NBD connection ended");
    }
    shared.die(reason);
    drop(guard);
}

struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.die(NbdError::Closed);
    }
}

/// Gives up when a request is late.
async fn watch(shared: &Shared) -> Result<Infallible, NbdError> {
    loop {
        let (next, late) = shared.lateness();
        if let Some(action) = late {
            return Err(NbdError::Timeout { action, after: shared.timeout });
        }
        tokio::time::sleep_until(next).await;
    }
}

/// Sends what is queued, and takes leave when the connection is dropped or closed.
async fn send_requests(
    mut stream: WriteHalf<BoxStream>,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    timeout: Duration,
) -> Result<Infallible, NbdError> {
    let failed = |error| NbdError::io("send", error);
    let mut head = Vec::new();
    while let Some(mut next) = queue.recv().await {
        loop {
            head.extend_from_slice(&next.header.encode());
            if !next.payload.is_empty() {
                stream.write_all_buf(&mut (&head[..]).chain(next.payload)).await.map_err(failed)?;
                head.clear();
            }
            match queue.try_recv() {
                Ok(more) => next = more,
                Err(_) => break,
            }
        }
        stream.write_all(&head).await.map_err(failed)?;
        head.clear();
        stream.flush().await.map_err(failed)?;
    }
    let leave = Request { flags: 0, command: wire::CMD_DISC, cookie: 0, offset: 0, len: 0 }.encode();
    let _ = tokio::time::timeout(timeout, async {
        stream.write_all(&leave).await?;
        stream.flush().await?;
        stream.shutdown().await
    })
    .await;
    Err(NbdError::Closed)
}

struct Reader {
    stream: BufReader<ReadHalf<BoxStream>>,
    shared: Arc<Shared>,
    structured: bool,
}

impl Reader {
    async fn run(mut self) -> Result<Infallible, NbdError> {
        loop {
            match u32::from_be_bytes(read_array(&mut self.stream).await?) {
                wire::SIMPLE_REPLY_MAGIC => self.simple().await?,
                wire::CHUNK_MAGIC if self.structured => self.chunk().await?,
                _ => return Err(NbdError::protocol("a reply of no known kind")),
            }
        }
    }

    async fn simple(&mut self) -> Result<(), NbdError> {
        let errno = u32::from_be_bytes(read_array(&mut self.stream).await?);
        let cookie = u64::from_be_bytes(read_array(&mut self.stream).await?);
        let mut work = self.shared.take(cookie)?;
        if errno != 0 {
            self.shared.fail(cookie, errno, None, String::new());
            return self.shared.finish(cookie, work);
        }
        match &mut work {
            Work::Plain => {}
            Work::Read(_) | Work::Status(_) if self.structured => {
                return Err(NbdError::protocol("a simple reply instead of a structured one"));
            }
            Work::Read(read) => {
                let (offset, len) = (read.offset, read.len());
                read.data(&mut self.stream, offset, len).await?;
            }
            Work::Status(_) => return Err(NbdError::protocol("a simple reply to a request for block status")),
        }
        self.shared.finish(cookie, work)
    }

    async fn chunk(&mut self) -> Result<(), NbdError> {
        let raw: [u8; 16] = read_array(&mut self.stream).await?;
        let mut fields = Fields(&raw);
        let (flags, kind, cookie, len) = (fields.u16(), fields.u16(), fields.u64(), fields.u32());
        let (Some(flags), Some(kind), Some(cookie), Some(len)) = (flags, kind, cookie, len) else {
            return Err(NbdError::Closed);
        };
        let chunk = Chunk { flags, kind, cookie, len };
        let mut work = self.shared.take(cookie)?;
        match (chunk.kind, &mut work) {
            (wire::CHUNK_NONE, _) => {
                // Only ever the last: otherwise a reply of nothing need never end.
                if len != 0 || flags & wire::CHUNK_DONE == 0 {
                    return Err(NbdError::protocol("a chunk of nothing that is not the end"));
                }
            }
            (wire::CHUNK_DATA, Work::Read(read)) => {
                let len = len.checked_sub(8).ok_or_else(|| NbdError::protocol("a chunk of data without its place"))?;
                let offset = u64::from_be_bytes(read_array(&mut self.stream).await?);
                read.data(&mut self.stream, offset, len as usize).await?;
            }
            (wire::CHUNK_HOLE, Work::Read(read)) => {
                if len != 12 {
                    return Err(NbdError::protocol("a hole of a wrong length"));
                }
                let offset = u64::from_be_bytes(read_array(&mut self.stream).await?);
                let hole = u32::from_be_bytes(read_array(&mut self.stream).await?);
                read.hole(offset, hole as usize)?;
            }
            (wire::CHUNK_STATUS, Work::Status(status)) => {
                let len = len as usize;
                if len > StatusAssembly::max_payload() {
                    return Err(NbdError::protocol("too much block status"));
                }
                let payload = read_vec(&mut self.stream, len).await?;
                status.chunk(&payload)?;
            }
            (kind, _) if kind & wire::CHUNK_IS_ERROR != 0 => self.error(&chunk).await?,
            _ => return Err(NbdError::protocol("a chunk of a wrong kind")),
        }
        if flags & wire::CHUNK_DONE != 0 {
            return self.shared.finish(cookie, work);
        }
        self.shared.put_back(cookie, work);
        Ok(())
    }

    async fn error(&mut self, chunk: &Chunk) -> Result<(), NbdError> {
        let len = chunk.len as usize;
        if len > MAX_STRING + 14 {
            return Err(NbdError::protocol("an error that is too long"));
        }
        let payload = read_vec(&mut self.stream, len).await?;
        let malformed = || NbdError::protocol("a malformed error");
        let mut fields = Fields(&payload);
        let errno = fields.u32().filter(|errno| *errno != 0).ok_or_else(malformed)?;
        let message = usize::from(fields.u16().ok_or_else(malformed)?);
        let (message, rest) = fields.0.split_at_checked(message).ok_or_else(malformed)?;
        let at = match chunk.kind {
            wire::CHUNK_ERROR_OFFSET => Some(Fields(rest).u64().ok_or_else(malformed)?),
            _ => None,
        };
        self.shared.fail(chunk.cookie, errno, at, bounded_text(message));
        Ok(())
    }
}
