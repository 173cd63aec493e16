//! One request with a key, from the look at what is known of it to the answer that is kept.

use super::answer::{self, Gathered, decode, encode, gather, is_kept};
use super::port::{Begun, Hold, KeyedRequest, Replays};
use super::whole;
use crate::fault::Fault;
use axum::body::Body;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use std::any::Any;
use std::convert::Infallible;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long a handler may work, whoever waits for it.
const PATIENCE: Duration = Duration::from_secs(600);
/// Pauses before the answer is offered to the store once more.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// What a handler panicked with.
pub(super) type Panic = Box<dyn Any + Send>;

pub(super) struct Work {
    pub(super) replays: Arc<dyn Replays>,
    pub(super) dialect: Arc<str>,
    pub(super) sender: String,
    pub(super) key: String,
    pub(super) parts: Parts,
    pub(super) body: Bytes,
    pub(super) next: Next,
}

impl Work {
    pub(super) async fn run(mut self) -> Result<Response, Panic> {
        let request = KeyedRequest {
            dialect: &self.dialect,
            sender: &self.sender,
            key: &self.key,
            method: self.parts.method.as_str(),
            target: self.parts.uri.path_and_query().map_or("/", |p| p.as_str()),
            body: &self.body,
        };
        let hold = match self.replays.begin(&request).await {
            Ok(Begun::Fresh(hold)) => hold,
            Ok(Begun::Replay(kept)) => return Ok(decode(&kept)),
            Ok(Begun::InFlight) => return Ok(Fault::RequestInFlight.into_response()),
            Ok(Begun::Mismatch) => return Ok(Fault::KeyReused.into_response()),
            Err(error) => {
                tracing::error!(error = &*error, "a request with a key could not be taken on");
                return Ok(Fault::Unavailable.into_response());
            }
        };
        self.parts.extensions.insert(hold.request());
        let handling = AssertUnwindSafe(self.next.run(whole(self.parts, self.body))).catch_unwind();
        let working = async {
            match timeout(PATIENCE, handling).await {
                Ok(Ok(response)) => Ok(settle(&*hold, response).await),
                Ok(Err(panic)) => {
                    release(&*hold).await;
                    Err(panic)
                }
                Err(_) => {
                    release(&*hold).await;
                    Ok(Fault::TimedOut.into_response())
                }
            }
        };
        tokio::select! {
            biased;
            outcome = working => outcome,
            never = keep_alive(&*hold) => match never {},
        }
    }
}

/// Gives signs of life. Beside the work, never in between: the store may be busy with the work itself.
async fn keep_alive(hold: &dyn Hold) -> Infallible {
    loop {
        sleep(hold.lasts() / 3).await;
        match hold.extend().await {
            Ok(true) => {}
            Ok(false) => {
                // Nobody can tell what the handler has done: it goes on, and whoever took over finds what it began.
                tracing::warn!("somebody else has taken a request with a key over");
                return pending().await;
            }
            Err(error) => tracing::warn!(error = &*error, "no sign of life for a request with a key"),
        }
    }
}

/// Keeps the answer, or that there was one, and only then lets it go out.
async fn settle(hold: &dyn Hold, response: Response) -> Response {
    if !is_kept(&response) {
        release(hold).await;
        return response;
    }
    let (parts, body) = response.into_parts();
    match gather(body).await {
        Gathered::Whole(bytes) => {
            complete(hold, &encode(&parts, Some(&bytes))).await;
            Response::from_parts(parts, Body::from(bytes))
        }
        Gathered::Long(body) => {
            tracing::info!(limit = answer::LONGEST_ANSWER, "an answer is too long to be kept");
            complete(hold, &encode(&parts, None)).await;
            Response::from_parts(parts, body)
        }
        Gathered::Broken => {
            complete(hold, &encode(&parts, None)).await;
            Fault::Failed.into_response()
        }
    }
}

/// The work is done whatever comes of this: the answer goes out even when it cannot be kept.
async fn complete(hold: &dyn Hold, kept: &[u8]) {
    let mut pauses = PAUSES.into_iter();
    loop {
        match hold.complete(kept).await {
            Ok(true) => return,
            Ok(false) => {
                tracing::warn!("an answer was not kept: somebody else has taken its request over");
                return;
            }
            Err(error) => match pauses.next() {
                Some(pause) => sleep(pause).await,
                None => {
                    tracing::error!(error = &*error, "an answer could not be kept");
                    return;
                }
            },
        }
    }
}

async fn release(hold: &dyn Hold) {
    if let Err(error) = hold.release().await {
        // It ends by itself.
        tracing::warn!(error = &*error, "a request with a key could not be let go");
    }
}
