//! Who asks: an API token, or a login and a password with every request.

use crate::error::ApiError;
use crate::{Manage, ManageOptions};
use async_trait::async_trait;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use portolan::Portolan;
use portolan::access::AccessError;
use portolan_http::auth::{Credentials, credentials};
use portolan_http::idempotency::{Identify, PortError, sender_of};
use portolan_http::{OriginVerdict, Peer};
use portolan_model::{Caller, RequestKey};
use std::net::IpAddr;
use std::sync::Arc;

/// A request with valid credentials.
pub(crate) struct Authenticated {
    /// Who asks.
    pub(crate) caller: Caller,
    /// Where from, where it came over a socket.
    pub(crate) peer: Option<IpAddr>,
}

impl FromRequestParts<Manage> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Manage) -> Result<Self, ApiError> {
        // Browsers send a password that was once typed in along with whatever a page of another origin asks for.
        if is_foreign(parts, state) {
            return Err(ApiError::foreign_origin());
        }
        let caller = authenticate(parts, state).await?.ok_or_else(ApiError::unauthorized)?;
        let request = parts.extensions.get::<RequestKey>().copied();
        Ok(Self { caller: Caller { request, ..caller }, peer: peer(parts) })
    }
}

fn is_foreign(parts: &Parts, state: &Manage) -> bool {
    state.own_origin.verdict(&parts.headers) == OriginVerdict::Foreign
}

fn peer(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<Peer>().map(|peer| peer.address.ip())
}

/// Whose the credentials are; nobody's where there are none.
async fn authenticate(parts: &Parts, state: &Manage) -> Result<Option<Caller>, AccessError> {
    let access = &state.portolan.access;
    match credentials(&parts.headers) {
        Ok(Credentials::Bearer(token)) => access.tokens.authenticate(token.reveal()).await.map(Some),
        Ok(Credentials::Basic { name, password }) => {
            access.logins.authenticate_on("manage", &name, &password, peer(parts)).await.map(Some)
        }
        Ok(Credentials::None) | Err(_) => Ok(None),
    }
}

/// Tells who sends a request with an `Idempotency-Key`: its account.
pub fn senders(portolan: Arc<Portolan>, options: ManageOptions) -> Arc<dyn Identify> {
    Arc::new(Senders(Manage::new(portolan, options)))
}

struct Senders(Manage);

#[async_trait]
impl Identify for Senders {
    async fn sender(&self, parts: &mut Parts) -> Result<Option<String>, PortError> {
        // Foreign pages, and credentials that prove nobody, are refused by the handlers.
        if is_foreign(parts, &self.0) {
            return Ok(None);
        }
        match authenticate(parts, &self.0).await {
            Ok(caller) => Ok(caller.and_then(|caller| sender_of(&caller))),
            Err(AccessError::Unauthenticated | AccessError::Throttled { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}
