//! What the transport needs to know and to have kept; implemented outside.

use crate::peer::Peer;
use async_trait::async_trait;
use axum::http::request::Parts;
use portolan_model::describe::Describe;
use portolan_model::{Caller, RequestKey, Scope};
use std::error::Error;
use std::time::Duration;

/// Why a port could not do what it was asked: for the log, never for a client.
pub type PortError = Box<dyn Error + Send + Sync>;

/// A request that its sender may repeat.
#[derive(Clone, Copy, Debug)]
pub struct KeyedRequest<'a> {
    /// The dialect that it speaks.
    pub dialect: &'a str,
    /// Who sends it.
    pub sender: &'a str,
    /// What the sender calls it.
    pub key: &'a str,
    /// Its method.
    pub method: &'a str,
    /// Its path and query.
    pub target: &'a str,
    /// Its body.
    pub body: &'a [u8],
}

/// Keeps answers by dialect, sender and key, for a day.
#[async_trait]
pub trait Replays: Send + Sync {
    /// Takes a request on, durably, or says what is known of it. Of several that ask at once for the same dialect,
    /// sender and key, one is told `Fresh`.
    async fn begin(&self, request: &KeyedRequest<'_>) -> Result<Begun, PortError>;
}

/// What is known of a request.
pub enum Begun {
    /// It is to be carried out, by whoever was told so.
    Fresh(Box<dyn Hold>),
    /// It was carried out: what [`Hold::complete`] was given.
    Replay(Vec<u8>),
    /// It is being carried out.
    InFlight,
    /// The key stands for another request.
    Mismatch,
}

/// The right, and the duty, to carry a request out. It ends by itself some time after its last sign of life, so
/// that the death of a process does not leave a request undone for ever.
#[async_trait]
pub trait Hold: Send + Sync {
    /// What the request is known by: the same when it is carried out anew, after a crash too.
    fn request(&self) -> RequestKey;

    /// How long the hold lasts from its last sign of life.
    fn lasts(&self) -> Duration;

    /// A sign of life. False when somebody else has taken over meanwhile.
    async fn extend(&self) -> Result<bool, PortError>;

    /// Keeps the answer, durably. False when somebody else has taken over meanwhile: nothing is kept then.
    async fn complete(&self, answer: &[u8]) -> Result<bool, PortError>;

    /// Lets go without an answer: the next of its kind is carried out at once.
    async fn release(&self) -> Result<(), PortError>;
}

/// Tells who sends a request, as the dialect's handlers would.
#[async_trait]
pub trait Identify: Send + Sync {
    /// A name of the sender that stays the same from request to request and is no one else's; [`sender_of`] makes it
    /// of a caller. None where nobody is proven to send it: then keys mean nothing. What was found out on the way
    /// may be left in the extensions for the handler.
    async fn sender(&self, parts: &mut Parts) -> Result<Option<String>, PortError>;
}

/// The name of a caller with an account. Role and scope belong to it: an answer given to a wider token of an account
/// is not replayed to a narrower one.
pub fn sender_of(caller: &Caller) -> Option<String> {
    let account = caller.account?;
    let role = caller.role.name();
    Some(match caller.scope {
        Scope::All => format!("account:{account}:{role}"),
        Scope::Tenant(tenant) => format!("account:{account}:{role}:{tenant}"),
    })
}

/// The name of a sender without an account, for dialects that are open to all: its address stands for it. None for
/// requests that came over no socket.
pub fn anonymous_sender(parts: &Parts) -> Option<String> {
    let peer = parts.extensions.get::<Peer>()?;
    Some(format!("anonymous:{}", peer.address.ip()))
}
