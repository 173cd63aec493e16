//! Who asks: an API token, or a login and a password with every request.

use crate::Manage;
use crate::error::ApiError;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use portolan_http::auth::{Credentials, credentials};
use portolan_http::{OriginVerdict, Peer};
use portolan_model::Caller;
use std::net::IpAddr;

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
        if state.own_origin.verdict(&parts.headers) == OriginVerdict::Foreign {
            return Err(ApiError::foreign_origin());
        }
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.address.ip());
        let access = &state.portolan.access;
        let caller = match credentials(&parts.headers) {
            Ok(Credentials::Bearer(token)) => access.tokens.authenticate(token.reveal()).await?,
            Ok(Credentials::Basic { name, password }) => {
                access.logins.authenticate_on("manage", &name, &password, peer).await?
            }
            Ok(Credentials::None) | Err(_) => return Err(ApiError::unauthorized()),
        };
        Ok(Self { caller, peer })
    }
}
