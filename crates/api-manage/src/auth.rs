//! Who asks: an API token, or a login and a password with every request.

use crate::Manage;
use crate::error::ApiError;
use async_trait::async_trait;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use portolan::Portolan;
use portolan_http::auth::{Credentials, credentials};
use portolan_http::idempotency::{Identify, PortError, sender_of};
use portolan_http::{Cors, OriginVerdict, Peer};
use portolan_model::{Caller, RequestKey};
use std::net::IpAddr;
use std::sync::Arc;

/// A request with valid credentials.
#[derive(Clone)]
pub(crate) struct Authenticated {
    /// Who asks.
    pub(crate) caller: Caller,
    /// Where from, where it came over a socket.
    pub(crate) peer: Option<IpAddr>,
}

impl FromRequestParts<Manage> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Manage) -> Result<Self, ApiError> {
        let known = parts.extensions.remove::<Result<Self, ApiError>>();
        let mut found = match known {
            Some(known) => known?,
            None => authenticate(parts, &state.portolan).await?,
        };
        found.caller.request = parts.extensions.get::<RequestKey>().copied();
        Ok(found)
    }
}

async fn authenticate(parts: &Parts, portolan: &Portolan) -> Result<Authenticated, ApiError> {
    // Browsers send a password that was once typed in along with whatever a page of another origin asks for.
    if Cors::default().verdict(&parts.headers) == OriginVerdict::Foreign {
        return Err(ApiError::foreign_origin());
    }
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.address.ip());
    let access = &portolan.access;
    let caller = match credentials(&parts.headers) {
        Ok(Credentials::Bearer(token)) => access.tokens.authenticate(token.reveal()).await?,
        Ok(Credentials::Basic { name, password }) => {
            access.logins.authenticate_on("manage", &name, &password, peer).await?
        }
        Ok(Credentials::None) | Err(_) => return Err(ApiError::unauthorized()),
    };
    Ok(Authenticated { caller, peer })
}

/// Tells who sends a request with an `Idempotency-Key`: the account of its credentials.
pub fn senders(portolan: Arc<Portolan>) -> Arc<dyn Identify> {
    Arc::new(Senders(portolan))
}

struct Senders(Arc<Portolan>);

#[async_trait]
impl Identify for Senders {
    async fn sender(&self, parts: &mut Parts) -> Result<Option<String>, PortError> {
        let found = authenticate(parts, &self.0).await;
        let sender = found.as_ref().ok().and_then(|found| sender_of(&found.caller));
        // The handler goes on with this: one wrong password is one failed login.
        parts.extensions.insert(found);
        Ok(sender)
    }
}
