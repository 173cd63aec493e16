//! The negotiation, as a server.

use super::export::Export;
use super::{Inner, Served, User};
use crate::error::NbdError;
use crate::stream::{BoxStream, read_array, read_vec, send};
use crate::wire::{self, Fields, MAX_STRING};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// No option has more data: room for a few contexts with long names.
const MAX_OPTION: u32 = 64 << 10;
/// Who has not decided after so many options never will.
const MAX_OPTIONS: usize = 1024;

/// What a client agreed on.
pub(super) struct Agreed {
    pub(super) stream: BoxStream,
    pub(super) user: User,
    pub(super) structured: bool,
    /// The ids of the contexts that the client selected, in order.
    pub(super) contexts: Vec<u32>,
}

struct Session<'a> {
    server: &'a Inner,
    stream: BoxStream,
    no_zeroes: bool,
    secure: bool,
    structured: bool,
    /// Contexts selected, of which export.
    selected: Option<(Arc<Served>, Vec<u32>)>,
}

/// What follows an option.
enum Next {
    Option,
    Tls,
    Transmission(User),
    End,
}

/// Negotiates with a client. Nothing, when it left.
pub(super) async fn negotiate(server: &Inner, mut stream: BoxStream) -> Result<Option<Agreed>, NbdError> {
    let mut greeting = Vec::with_capacity(18);
    greeting.extend_from_slice(&wire::MAGIC.to_be_bytes());
    greeting.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
    greeting.extend_from_slice(&(wire::FIXED_NEWSTYLE | wire::NO_ZEROES).to_be_bytes());
    send(&mut stream, &greeting).await?;
    let flags = u32::from_be_bytes(read_array(&mut stream).await?);
    if flags & !u32::from(wire::FIXED_NEWSTYLE | wire::NO_ZEROES) != 0 {
        return Err(NbdError::protocol("unknown client flags"));
    }
    let no_zeroes = flags & u32::from(wire::NO_ZEROES) != 0;
    let mut session = Session { server, stream, no_zeroes, secure: false, structured: false, selected: None };
    for _ in 0..MAX_OPTIONS {
        match session.option().await? {
            Next::Option => {}
            Next::Tls => session = session.start_tls().await?,
            Next::Transmission(user) => {
                let Session { stream, structured, selected, .. } = session;
                // Contexts of another export mean nothing.
                let selected = selected.filter(|(other, _)| structured && Arc::ptr_eq(other, &user.0));
                let contexts = selected.map(|(_, ids)| ids).unwrap_or_default();
                return Ok(Some(Agreed { stream, user, structured, contexts }));
            }
            Next::End => return Ok(None),
        }
    }
    Err(NbdError::protocol("the options do not end"))
}

impl Session<'_> {
    async fn option(&mut self) -> Result<Next, NbdError> {
        let raw: [u8; 16] = read_array(&mut self.stream).await?;
        let mut fields = Fields(&raw);
        let (magic, option, len) = (fields.u64(), fields.u32(), fields.u32());
        let (Some(wire::OPTION_MAGIC), Some(option), Some(len)) = (magic, option, len) else {
            return Err(NbdError::protocol("this is no option"));
        };
        if len > MAX_OPTION {
            return Err(NbdError::protocol("an option that is too long"));
        }
        let data = read_vec(&mut self.stream, len as usize).await?;
        let tls_first = self.server.options.tls.is_some() && !self.secure;
        if tls_first && !matches!(option, wire::OPT_STARTTLS | wire::OPT_ABORT) {
            if option == wire::OPT_EXPORT_NAME {
                return Err(NbdError::Tls("a client that does without".into()));
            }
            return self.error(option, wire::ERR_TLS_REQD, "TLS is required").await;
        }
        match option {
            wire::OPT_EXPORT_NAME => self.export_name(&data).await,
            wire::OPT_ABORT => {
                self.reply(option, wire::REP_ACK, &[]).await?;
                Ok(Next::End)
            }
            wire::OPT_LIST | wire::OPT_STARTTLS | wire::OPT_STRUCTURED_REPLY if !data.is_empty() => {
                self.error(option, wire::ERR_INVALID, "this option has no data").await
            }
            wire::OPT_LIST => self.list().await,
            wire::OPT_STARTTLS if tls_first => {
                self.reply(option, wire::REP_ACK, &[]).await?;
                Ok(Next::Tls)
            }
            wire::OPT_STARTTLS if self.secure => self.error(option, wire::ERR_INVALID, "TLS is on already").await,
            wire::OPT_STARTTLS => self.error(option, wire::ERR_POLICY, "this server has no TLS").await,
            wire::OPT_INFO | wire::OPT_GO => self.go(option, &data).await,
            wire::OPT_STRUCTURED_REPLY => {
                self.structured = true;
                self.ack(option).await
            }
            wire::OPT_LIST_META_CONTEXT | wire::OPT_SET_META_CONTEXT => self.contexts(option, &data).await,
            _ => self.error(option, wire::ERR_UNSUP, "").await,
        }
    }

    async fn start_tls(self) -> Result<Self, NbdError> {
        let config = self.server.options.tls.clone().ok_or_else(|| NbdError::Tls("not configured".into()))?;
        let accepted = TlsAcceptor::from(config).accept(self.stream).await;
        let stream = accepted.map_err(|error| NbdError::Tls(error.to_string()))?;
        // Whatever was said before may have been said by anybody.
        Ok(Self { stream: Box::new(stream), secure: true, structured: false, selected: None, ..self })
    }

    async fn export_name(&mut self, data: &[u8]) -> Result<Next, NbdError> {
        let name = std::str::from_utf8(data).map_err(|_| NbdError::protocol("a name that is no text"))?;
        // There is no way to say no but to hang up.
        let served = self.server.find(name).ok_or_else(|| NbdError::UnknownExport(name.chars().take(200).collect()))?;
        let mut out = Vec::with_capacity(134);
        out.extend_from_slice(&served.export.device.size().to_be_bytes());
        out.extend_from_slice(&served.export.flags(self.structured).to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        let user = User::new(served);
        send(&mut self.stream, &out).await?;
        Ok(Next::Transmission(user))
    }

    async fn list(&mut self) -> Result<Next, NbdError> {
        for served in self.server.all() {
            let Export { name, description, .. } = &served.export;
            let mut data = Vec::with_capacity(4 + name.len() + description.len());
            wire::put_text(&mut data, name);
            data.extend_from_slice(description.as_bytes());
            self.reply(wire::OPT_LIST, wire::REP_SERVER, &data).await?;
        }
        self.ack(wire::OPT_LIST).await
    }

    async fn go(&mut self, option: u32, data: &[u8]) -> Result<Next, NbdError> {
        let Some((name, wanted)) = parse_go(data) else {
            return self.error(option, wire::ERR_INVALID, "malformed").await;
        };
        let Some(served) = self.server.find(name) else {
            return self.error(option, wire::ERR_UNKNOWN, "no such export").await;
        };
        let export = &served.export;
        let mut info = Vec::from(wire::INFO_EXPORT.to_be_bytes());
        info.extend_from_slice(&export.device.size().to_be_bytes());
        info.extend_from_slice(&export.flags(self.structured).to_be_bytes());
        self.reply(option, wire::REP_INFO, &info).await?;
        for (kind, text) in [(wire::INFO_NAME, &export.name), (wire::INFO_DESCRIPTION, &export.description)] {
            if wanted.contains(&kind) {
                let mut info = Vec::from(kind.to_be_bytes());
                info.extend_from_slice(text.as_bytes());
                self.reply(option, wire::REP_INFO, &info).await?;
            }
        }
        if wanted.contains(&wire::INFO_BLOCK_SIZE) {
            let mut info = Vec::from(wire::INFO_BLOCK_SIZE.to_be_bytes());
            for size in [1, super::PREFERRED_BLOCK, wire::MAX_PAYLOAD] {
                info.extend_from_slice(&size.to_be_bytes());
            }
            self.reply(option, wire::REP_INFO, &info).await?;
        }
        if option == wire::OPT_INFO {
            return self.ack(option).await;
        }
        let user = User::new(served);
        self.reply(option, wire::REP_ACK, &[]).await?;
        Ok(Next::Transmission(user))
    }

    async fn contexts(&mut self, option: u32, data: &[u8]) -> Result<Next, NbdError> {
        if option == wire::OPT_SET_META_CONTEXT {
            // A new selection replaces the old one, even when it fails.
            self.selected = None;
        }
        if !self.structured {
            return self.error(option, wire::ERR_INVALID, "structured replies come first").await;
        }
        let Some((name, queries)) = parse_contexts(data) else {
            return self.error(option, wire::ERR_INVALID, "malformed").await;
        };
        let Some(served) = self.server.find(name) else {
            return self.error(option, wire::ERR_UNKNOWN, "no such export").await;
        };
        let list = option == wire::OPT_LIST_META_CONTEXT;
        let asked = |context: &str| {
            let space = |query: &&str| list && query.ends_with(':') && context.starts_with(*query);
            list && queries.is_empty() || queries.iter().any(|query| *query == context || space(query))
        };
        let mut ids = Vec::new();
        for (id, context) in served.export.contexts().enumerate() {
            if !asked(context) {
                continue;
            }
            let id = id as u32;
            ids.push(id);
            // In a list, ids mean nothing.
            let mut reply = Vec::from(if list { 0 } else { id }.to_be_bytes());
            reply.extend_from_slice(context.as_bytes());
            self.reply(option, wire::REP_META_CONTEXT, &reply).await?;
        }
        if !list {
            self.selected = Some((served, ids));
        }
        self.ack(option).await
    }

    async fn ack(&mut self, option: u32) -> Result<Next, NbdError> {
        self.reply(option, wire::REP_ACK, &[]).await?;
        Ok(Next::Option)
    }

    async fn error(&mut self, option: u32, kind: u32, text: &str) -> Result<Next, NbdError> {
        self.reply(option, kind, text.as_bytes()).await?;
        Ok(Next::Option)
    }

    async fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> Result<(), NbdError> {
        let mut out = Vec::with_capacity(20 + data.len());
        out.extend_from_slice(&wire::OPTION_REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        out.extend_from_slice(data);
        send(&mut self.stream, &out).await
    }
}

/// An export's name, and what a client wants to know of it.
fn parse_go(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.counted_text()?;
    let count = usize::from(fields.u16()?);
    if fields.0.len() != count * 2 {
        return None;
    }
    let wanted: Option<Vec<u16>> = (0..count).map(|_| fields.u16()).collect();
    Some((name, wanted?))
}

/// An export's name, and queries for contexts.
fn parse_contexts(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut fields = Fields(data);
    let name = fields.counted_text()?;
    let count = fields.u32()? as usize;
    // Each has a length at least.
    if count > fields.0.len() / 4 {
        return None;
    }
    let queries: Option<Vec<&str>> = (0..count).map(|_| fields.counted_text()).collect();
    fields.0.is_empty().then_some((name, queries?))
}

const _: () = assert!(MAX_STRING < MAX_OPTION as usize);
