//! Who asks, and which clouds they are served (section 3).

use crate::Orchestrator;
use crate::error::ApiError;
use crate::input::{Body, CloudName, DEFAULT, Token};
use crate::surround::style;
use crate::wire;
use crate::wire::format::{Memory, Style};
use async_trait::async_trait;
use axum::extract::{FromRequest, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Uri};
use axum::response::Response;
use portolan::Portolan;
use portolan::access::AccessError;
use portolan::driver::CloudNode;
use portolan::inventory::{CloudView, InventoryError};
use portolan_http::Peer;
use portolan_http::auth::{Credentials, credentials};
use portolan_http::idempotency::{Identify, PortError, anonymous_sender, sender_of};
use portolan_model::{Caller, RequestKey, Role, Scope, Secret};
use serde::Serialize;
use std::net::IpAddr;
use std::sync::Arc;

/// What sessions of this dialect are filed under.
pub(crate) const DIALECT: &str = "orchestrator";
/// The driver whose clouds are served to everybody.
const DUMMY: &str = "dummy";
/// The header that a token comes in.
const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// A request as it came; nobody has looked at its credentials.
pub(crate) struct Given {
    pub(crate) state: Orchestrator,
    pub(crate) body: Body,
    pub(crate) peer: Option<IpAddr>,
    uri: Uri,
    headers: HeaderMap,
    /// What the request is known by, where its sender named it.
    request: Option<RequestKey>,
}

impl FromRequest<Orchestrator> for Given {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Orchestrator) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let body = Body::read(&parts.headers, body).await?;
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.address.ip());
        let request = parts.extensions.get::<RequestKey>().copied();
        Ok(Self { state: state.clone(), body, peer, uri: parts.uri, headers: parts.headers, request })
    }
}

impl Given {
    /// The answer of a success, as the request wants it laid out.
    pub(crate) fn answer<T: Serialize + ?Sized>(&self, value: &T, memory: &Memory) -> Response {
        wire::answer(value, self.style(), memory)
    }

    /// The answer with the nodes of a cloud.
    pub(crate) fn nodes(&self, cloud: &CloudView, nodes: Vec<Arc<CloudNode>>) -> Response {
        wire::written(self.state.rendered.nodes(cloud, nodes, self.style()))
    }

    /// The tokens that the cookie holds, and then the one that is given otherwise.
    pub(crate) fn sessions(&self) -> Vec<Secret> {
        let cookies = self.state.cookies.tokens(&self.headers);
        cookies.chain(self.credentials().token().ok().flatten()).collect()
    }

    fn style(&self) -> Style {
        style(&self.headers)
    }

    fn credentials(&self) -> Presented<'_> {
        Presented { body: self.body.token(), uri: &self.uri, headers: &self.headers, peer: self.peer }
    }
}

/// Where the credentials of a request may be.
struct Presented<'a> {
    body: Option<&'a Token>,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    peer: Option<IpAddr>,
}

impl Presented<'_> {
    /// The token that is given: in the body, else in the query, else in its header.
    fn token(&self) -> Result<Option<Secret>, ApiError> {
        match self.body {
            Some(Token::Text(token)) => return Ok(Some(token.clone())),
            Some(Token::Nonsense) => return Err(ApiError::forbidden()),
            None => {}
        }
        let query = Query::<Vec<(String, String)>>::try_from_uri(self.uri).map(|Query(all)| all).unwrap_or_default();
        if let Some((_, token)) = query.into_iter().find(|(name, value)| name == "auth_token" && !value.is_empty()) {
            return Ok(Some(Secret::new(token)));
        }
        match self.headers.get(AUTH_TOKEN).map(|value| value.to_str()) {
            None | Some(Ok("")) => Ok(None),
            Some(Ok(token)) => Ok(Some(Secret::new(token.trim()))),
            Some(Err(_)) => Err(ApiError::forbidden()),
        }
    }

    /// Who asks; nobody without credentials. Credentials that are given and prove nobody are an error, but for a
    /// session that the cookie still holds after its end.
    async fn caller(&self, state: &Orchestrator) -> Result<Option<Caller>, ApiError> {
        let portolan = &state.portolan;
        if let Some(token) = self.token()? {
            return Ok(Some(caller_of_token(portolan, &token).await?));
        }
        match credentials(self.headers).map_err(|_| ApiError::forbidden())? {
            Credentials::Bearer(token) => return Ok(Some(caller_of_token(portolan, &token).await?)),
            Credentials::Basic { name, password } => {
                return Ok(Some(portolan.access.logins.authenticate_on(DIALECT, &name, &password, self.peer).await?));
            }
            Credentials::None => {}
        }
        for token in state.cookies.tokens(self.headers) {
            match portolan.access.sessions.authenticate(token.reveal(), DIALECT).await {
                Ok(caller) => return Ok(Some(caller)),
                Err(AccessError::Unauthenticated) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(None)
    }
}

/// Whoever holds a token that a client gives: of a session of this dialect, or one for programs.
async fn caller_of_token(portolan: &Portolan, token: &Secret) -> Result<Caller, AccessError> {
    match portolan.access.sessions.authenticate(token.reveal(), DIALECT).await {
        Err(AccessError::Unauthenticated) => portolan.access.tokens.authenticate(token.reveal()).await,
        found => found,
    }
}

/// A request of somebody who is served something.
pub(crate) struct Asked {
    pub(crate) given: Given,
    /// Whoever proved who they are.
    account: Option<Caller>,
}

impl FromRequest<Orchestrator> for Asked {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Orchestrator) -> Result<Self, ApiError> {
        let given = Given::from_request(request, state).await?;
        let account = given.credentials().caller(state).await?;
        if account.is_none() && state.options.auth_required {
            return Err(ApiError::forbidden());
        }
        Ok(Self { given, account })
    }
}

/// A cloud, and as whom the request acts on it.
pub(crate) struct At {
    pub(crate) caller: Caller,
    pub(crate) cloud: CloudView,
}

impl Asked {
    /// The use cases.
    pub(crate) fn portolan(&self) -> &Portolan {
        &self.given.state.portolan
    }

    /// Whoever proved who they are.
    pub(crate) fn authenticated(&self) -> Result<&Caller, ApiError> {
        self.account.as_ref().ok_or_else(ApiError::forbidden)
    }

    /// The caller for use cases.
    pub(crate) fn caller(&self) -> Caller {
        let caller = self.account.clone().unwrap_or_else(|| Caller {
            account: None,
            session: None,
            token: None,
            login: "anonymous".into(),
            role: Role::Operator,
            scope: Scope::All,
            request: None,
        });
        Caller { request: self.given.request, ..caller }
    }

    /// Whether a cloud is served to this request.
    pub(crate) fn is_served(&self, cloud: &CloudView) -> bool {
        self.account.is_some() || self.given.state.options.open || cloud.driver == DUMMY
    }

    /// The cloud of that name, if it is served to this request.
    pub(crate) async fn at(&self, name: &CloudName) -> Result<At, ApiError> {
        self.find(name).await?.ok_or_else(ApiError::no_cloud)
    }

    /// The same, with nothing for a cloud that is not there.
    pub(crate) async fn find(&self, name: &CloudName) -> Result<Option<At>, ApiError> {
        let name = match name {
            CloudName::Unreadable => return Ok(None),
            CloudName::Default => self.given.state.options.default_cloud.as_deref().unwrap_or(DEFAULT),
            CloudName::Named(name) => name,
        };
        let caller = self.caller();
        match self.portolan().inventory.cloud_named(&caller, name).await {
            Ok(cloud) if self.is_served(&cloud) => Ok(Some(At { caller, cloud })),
            Ok(_) => Err(ApiError::forbidden()),
            Err(InventoryError::Unknown { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// Tells who sends a request with an `Idempotency-Key` (section 2.4): its account, else its address.
pub(crate) struct Senders(pub(crate) Orchestrator);

#[async_trait]
impl Identify for Senders {
    async fn sender(&self, parts: &mut Parts) -> Result<Option<String>, PortError> {
        // Whoever logs in wants a session that lives, and whoever logs out one that ends.
        if parts.uri.path().starts_with("/api/v1/auth") {
            return Ok(None);
        }
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.address.ip());
        let given = Presented { body: None, uri: &parts.uri, headers: &parts.headers, peer };
        match given.caller(&self.0).await {
            Ok(Some(caller)) => Ok(sender_of(&caller)),
            // Also of a token in the body: an equal body holds the same one.
            Ok(None) => Ok(anonymous_sender(parts)),
            // The handler says so.
            Err(e) if e.is_forbidden() => Ok(None),
            Err(e) => Err(e.message().into()),
        }
    }
}
