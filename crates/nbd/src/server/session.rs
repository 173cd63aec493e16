//! The transmission: requests of one client, worked on side by side.

use super::handshake::Agreed;
use super::reply::{self, Reply};
use super::{Phase, ServerOptions, User};
use crate::error::NbdError;
use crate::stream::{BoxStream, read_array};
use crate::wire::{self, MAX_PAYLOAD, Request};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::try_join;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

/// Requests are read through a buffer of this size; data of writes goes past it.
const BUFFER: usize = 4096;
/// In-flight bytes are counted in units of this many.
const UNIT: u32 = 1024;
/// No more is sent at a time: each such part must get through within the write time-out.
const MAX_SEND: usize = 1 << 20;

/// A reply with the room it takes, which is free again when it is sent.
struct Finished {
    reply: Reply,
    _room: [OwnedSemaphorePermit; 2],
}

/// Serves a client until it leaves, breaks the protocol, or the server stops.
pub(super) async fn run(
    agreed: Agreed,
    options: &ServerOptions,
    server: watch::Receiver<Phase>,
) -> Result<(), NbdError> {
    let (reader, writer) = tokio::io::split(agreed.stream);
    let in_flight = options.in_flight.clamp(1, 1024);
    let (sender, receiver) = mpsc::channel(in_flight);
    let units = options.in_flight_bytes.max(MAX_PAYLOAD as usize) / UNIT as usize;
    let session = Session {
        stream: BufReader::with_capacity(BUFFER, reader),
        work: Arc::new(Work { user: agreed.user, structured: agreed.structured, contexts: agreed.contexts }),
        slots: Arc::new(Semaphore::new(in_flight)),
        bytes: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
        units: u32::try_from(units).unwrap_or(u32::MAX),
        timeout: options.io_timeout,
        tasks: JoinSet::new(),
    };
    try_join(session.requests(sender, server), replies(writer, receiver, options.io_timeout)).await.map(drop)
}

/// Sends replies until there are no more.
async fn replies(
    mut stream: WriteHalf<BoxStream>,
    mut receiver: mpsc::Receiver<Finished>,
    after: Duration,
) -> Result<(), NbdError> {
    while let Some(finished) = receiver.recv().await {
        let mut pieces = finished.reply.pieces.iter().cloned().peekable();
        while let Some(piece) = pieces.next() {
            // A header leaves together with its data.
            let mut next = piece.chain(pieces.next().unwrap_or_default());
            while next.has_remaining() {
                let mut part = (&mut next).take(MAX_SEND);
                let sent = tokio::time::timeout(after, stream.write_all_buf(&mut part)).await;
                let sent = sent.map_err(|_| NbdError::Timeout { action: "send a reply", after })?;
                sent.map_err(|error| NbdError::io("send", error))?;
            }
        }
        let flushed = tokio::time::timeout(after, stream.flush()).await;
        let flushed = flushed.map_err(|_| NbdError::Timeout { action: "send a reply", after })?;
        flushed.map_err(|error| NbdError::io("send", error))?;
    }
    // The client may be gone; that it was told is enough.
    let _ = tokio::time::timeout(after, stream.shutdown()).await;
    Ok(())
}

struct Session {
    stream: BufReader<ReadHalf<BoxStream>>,
    work: Arc<Work>,
    slots: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    units: u32,
    timeout: Duration,
    tasks: JoinSet<()>,
}

impl Session {
    async fn requests(
        mut self,
        sender: mpsc::Sender<Finished>,
        mut server: watch::Receiver<Phase>,
    ) -> Result<(), NbdError> {
        let mut export = self.work.user.0.phase.subscribe();
        let ended = loop {
            tokio::select! {
                // Waiting is cancelled without losing a byte.
                waited = self.stream.fill_buf() => match waited {
                    Ok([]) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(NbdError::io("receive", error)),
                },
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if done.is_err() {
                        // A device that panicked owes a reply, which would be waited for.
                        break Err(NbdError::protocol("the device failed"));
                    }
                    continue;
                }
                _ = server.wait_for(|phase| *phase != Phase::Run) => break Ok(()),
                _ = export.wait_for(|phase| *phase != Phase::Run) => break Ok(()),
            }
            let request = match self.request().await {
                Ok(Some(request)) => request,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            // Before its data: what is promised counts as if it were there.
            let room = self.room(&request).await?;
            let payload = match self.payload(&request).await {
                Ok(payload) => payload,
                Err(error) => break Err(error),
            };
            let (work, sender) = (self.work.clone(), sender.clone());
            self.tasks.spawn(async move {
                let reply = work.answer(&request, payload).await;
                // Only fails when the client does not take replies any more.
                let _ = sender.send(Finished { reply, _room: room }).await;
            });
        };
        if ended.is_ok() {
            // What was begun is finished, also when the client has taken leave.
            while let Some(done) = self.tasks.join_next().await {
                if done.is_err() {
                    return Err(NbdError::protocol("the device failed"));
                }
            }
        }
        ended
    }

    /// Waits for room for a request among those under way.
    async fn room(&mut self, request: &Request) -> Result<[OwnedSemaphorePermit; 2], NbdError> {
        let closed = |_| NbdError::Closed;
        let slot = self.slots.clone().acquire_owned().await.map_err(closed)?;
        let len = match request.command {
            wire::CMD_READ | wire::CMD_WRITE => request.len.min(MAX_PAYLOAD),
            _ => 0,
        };
        let units = (len / UNIT + 1).min(self.units);
        let bytes = self.bytes.clone().acquire_many_owned(units).await.map_err(closed)?;
        Ok([slot, bytes])
    }

    /// Reads a request's header. Nothing, when the client takes leave.
    async fn request(&mut self) -> Result<Option<Request>, NbdError> {
        let raw = in_time(self.timeout, read_array(&mut self.stream)).await?;
        let request = Request::decode(&raw).ok_or_else(|| NbdError::protocol("this is no request"))?;
        if request.command == wire::CMD_WRITE && request.len > MAX_PAYLOAD {
            return Err(NbdError::protocol(format!("a write of {} bytes", request.len)));
        }
        Ok((request.command != wire::CMD_DISC).then_some(request))
    }

    /// Reads the data that follows a request, if any does.
    async fn payload(&mut self, request: &Request) -> Result<Bytes, NbdError> {
        if request.command != wire::CMD_WRITE || request.len == 0 {
            return Ok(Bytes::new());
        }
        let mut data = BytesMut::with_capacity(request.len as usize);
        let mut room = (&mut data).limit(request.len as usize);
        let stream = &mut self.stream;
        in_time(self.timeout, async {
            while room.has_remaining_mut() {
                let read = stream.read_buf(&mut room).await;
                if read.map_err(|error| NbdError::io("receive", error))? == 0 {
                    return Err(NbdError::Closed);
                }
            }
            Ok(())
        })
        .await?;
        Ok(data.freeze())
    }
}

/// Gives up on a client that began a request and does not go on.
async fn in_time<T>(after: Duration, work: impl Future<Output = Result<T, NbdError>>) -> Result<T, NbdError> {
    let late = Err(NbdError::Timeout { action: "receive a request", after });
    tokio::time::timeout(after, work).await.unwrap_or(late)
}

/// What it takes to answer requests.
struct Work {
    user: User,
    structured: bool,
    contexts: Vec<u32>,
}

impl Work {
    async fn answer(&self, request: &Request, payload: Bytes) -> Reply {
        let error = |errno, text| Reply::error(request, self.structured, errno, text);
        if let Err((errno, text)) = self.check(request) {
            return error(errno, text);
        }
        let export = &self.user.0.export;
        let device = &export.device;
        let range = request.offset..request.offset + u64::from(request.len);
        let empty = range.is_empty();
        let done = match request.command {
            wire::CMD_READ => reply::read(export, request, self.structured).await.map(Some),
            wire::CMD_BLOCK_STATUS => reply::status(export, request, &self.contexts).await.map(Some),
            wire::CMD_FLUSH => device.flush().await.map(|()| None),
            _ if empty => Ok(None),
            wire::CMD_WRITE => device.write(request.offset, payload).await.map(|()| None),
            wire::CMD_WRITE_ZEROES => device.zero(range).await.map(|()| None),
            _ => device.trim(range).await.map(|()| None),
        };
        let done = match done {
            Ok(None) if request.flags & wire::FLAG_FUA != 0 => device.flush().await.map(|()| None),
            other => other,
        };
        match done {
            Ok(Some(reply)) => reply,
            Ok(None) => Reply::done(request, self.structured),
            Err(failure) => {
                let (errno, text) = reply::errno(&failure);
                tracing::warn!(
                    export = %export.name,
                    command = request.command,
                    offset = request.offset,
                    len = request.len,
                    error = &failure as &dyn std::error::Error,
                    "a request on an NBD export failed"
                );
                error(errno, text)
            }
        }
    }

    /// Says no to what may not be asked.
    fn check(&self, request: &Request) -> Result<(), (u32, &'static str)> {
        let device = &self.user.0.export.device;
        let allowed = match request.command {
            wire::CMD_READ if self.structured => wire::FLAG_DF,
            wire::CMD_READ => 0,
            wire::CMD_WRITE | wire::CMD_TRIM => wire::FLAG_FUA,
            wire::CMD_WRITE_ZEROES => wire::FLAG_FUA | wire::FLAG_NO_HOLE,
            wire::CMD_FLUSH => 0,
            wire::CMD_BLOCK_STATUS if !self.contexts.is_empty() => wire::FLAG_REQ_ONE,
            _ => return Err((wire::EINVAL, "no such command")),
        };
        // Some clients set this on everything once they may.
        if request.flags & !(allowed | wire::FLAG_FUA) != 0 {
            return Err((wire::EINVAL, "no such flags"));
        }
        let changes = matches!(request.command, wire::CMD_WRITE | wire::CMD_WRITE_ZEROES | wire::CMD_TRIM);
        if changes && device.is_read_only() {
            return Err((wire::EPERM, "read-only"));
        }
        if request.command == wire::CMD_FLUSH {
            return Ok(());
        }
        let end = request.offset.checked_add(u64::from(request.len));
        if end.is_none_or(|end| end > device.size()) {
            return Err((if changes { wire::ENOSPC } else { wire::EINVAL }, "past the end"));
        }
        match request.command {
            wire::CMD_READ if request.len > MAX_PAYLOAD => Err((wire::EINVAL, "too long")),
            wire::CMD_READ | wire::CMD_BLOCK_STATUS if request.len == 0 => Err((wire::EINVAL, "nothing to tell")),
            _ => Ok(()),
        }
    }
}
