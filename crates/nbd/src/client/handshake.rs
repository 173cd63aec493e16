//! The negotiation, as a client.

use super::{BlockSizes, ExportInfo, Features, ListedExport};
use crate::error::NbdError;
use crate::stream::{BoxStream, read_array, read_vec, send};
use crate::wire::{self, Fields, MAX_STRING};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// No reply to an option is longer: two strings with their lengths.
const MAX_REPLY: u32 = 2 * MAX_STRING as u32 + 64;
/// No negotiation takes more bytes of replies.
const MAX_REPLIES: usize = 4 << 20;

/// Whom TLS is spoken with.
pub(super) struct TlsPeer {
    pub(super) config: Arc<rustls::ClientConfig>,
    pub(super) name: ServerName<'static>,
}

/// What was agreed on.
#[derive(Debug, Clone)]
pub(super) struct Negotiated {
    pub(super) info: ExportInfo,
    /// The ids of the contexts, in the order of `info.contexts`.
    pub(super) context_ids: Vec<u32>,
}

/// A connection that is being negotiated.
pub(super) struct Handshake {
    stream: BoxStream,
    /// The server knows more options than the export's name.
    fixed: bool,
    no_zeroes: bool,
    /// How many bytes of replies may still come.
    budget: usize,
}

/// A reply to an option that is no error.
struct Reply {
    kind: u32,
    data: Vec<u8>,
}

impl Handshake {
    /// Greets, and starts TLS where it is wanted: nothing else is said before it.
    pub(super) async fn begin(mut stream: BoxStream, tls: Option<TlsPeer>) -> Result<Self, NbdError> {
        if u64::from_be_bytes(read_array(&mut stream).await?) != wire::MAGIC {
            return Err(NbdError::protocol("this is no NBD server"));
        }
        match u64::from_be_bytes(read_array(&mut stream).await?) {
            wire::OPTION_MAGIC => {}
            wire::OLD_STYLE_MAGIC => return Err(NbdError::Unsupported("the newstyle negotiation")),
            _ => return Err(NbdError::protocol("a greeting of no known style")),
        }
        let flags = u16::from_be_bytes(read_array(&mut stream).await?);
        let common = flags & (wire::FIXED_NEWSTYLE | wire::NO_ZEROES);
        send(&mut stream, &u32::from(common).to_be_bytes()).await?;
        let this = Self {
            stream,
            fixed: common & wire::FIXED_NEWSTYLE != 0,
            no_zeroes: common & wire::NO_ZEROES != 0,
            budget: MAX_REPLIES,
        };
        match tls {
            Some(peer) => this.start_tls(peer).await,
            None => Ok(this),
        }
    }

    pub(super) fn into_stream(self) -> BoxStream {
        self.stream
    }

    /// Says good-bye. Nobody waits for the answer.
    pub(super) async fn abort(mut self) {
        let _ = self.option(wire::OPT_ABORT, &[]).await;
    }

    /// Lists the exports.
    pub(super) async fn list(&mut self) -> Result<Vec<ListedExport>, NbdError> {
        self.option(wire::OPT_LIST, &[]).await?;
        let mut out = Vec::new();
        loop {
            let reply = self.reply(wire::OPT_LIST, "the list of exports").await?;
            match reply.kind {
                wire::REP_ACK => return Ok(out),
                wire::REP_SERVER => {
                    let mut fields = Fields(&reply.data);
                    let name = fields.counted_text().ok_or_else(|| NbdError::protocol("a malformed export name"))?;
                    let rest = fields.0.len();
                    let description = fields.text(rest).ok_or_else(|| NbdError::protocol("a malformed description"))?;
                    out.push(ListedExport { name: name.to_owned(), description: description.to_owned() });
                }
                kind => return Err(unexpected(kind)),
            }
        }
    }

    /// Asks for structured replies; whether the server has them.
    pub(super) async fn structured_replies(&mut self) -> Result<bool, NbdError> {
        if !self.fixed {
            return Ok(false);
        }
        self.option(wire::OPT_STRUCTURED_REPLY, &[]).await?;
        match self.reply(wire::OPT_STRUCTURED_REPLY, "structured replies").await {
            Ok(Reply { kind: wire::REP_ACK, .. }) => Ok(true),
            Ok(reply) => Err(unexpected(reply.kind)),
            Err(NbdError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Names of the contexts that match `queries`.
    pub(super) async fn list_contexts(&mut self, export: &str, queries: &[String]) -> Result<Vec<String>, NbdError> {
        let found = self.contexts(wire::OPT_LIST_META_CONTEXT, export, queries, usize::MAX).await?;
        Ok(found.into_iter().map(|(_, name)| name).collect())
    }

    /// Opens the export, or with [`wire::OPT_INFO`] only asks about it.
    pub(super) async fn open(
        &mut self,
        export: &str,
        contexts: &[String],
        option: u32,
    ) -> Result<Negotiated, NbdError> {
        if export.len() > MAX_STRING {
            return Err(NbdError::Invalid("the export's name is too long".into()));
        }
        let structured = self.structured_replies().await?;
        let mut found =
            if structured && !contexts.is_empty() { self.select_contexts(export, contexts).await? } else { Vec::new() };
        let (size, flags, blocks) = if self.fixed {
            match self.go(export, option).await {
                Err(NbdError::Refused { code: wire::ERR_UNSUP, .. }) if option == wire::OPT_GO => {
                    self.export_name(export).await?
                }
                other => other?,
            }
        } else {
            self.export_name(export).await?
        };
        if size == 0 || i64::try_from(size).is_err() {
            return Err(NbdError::protocol(format!("an export of {size} bytes")));
        }
        found.sort_by_key(|(_, name)| contexts.iter().position(|asked| asked == name));
        let (context_ids, contexts) = found.into_iter().unzip();
        let info = ExportInfo { size, features: Features::of(flags), blocks, contexts, structured };
        Ok(Negotiated { info, context_ids })
    }

    async fn start_tls(mut self, peer: TlsPeer) -> Result<Self, NbdError> {
        if !self.fixed {
            return Err(NbdError::Tls("the server is too old for it".into()));
        }
        self.option(wire::OPT_STARTTLS, &[]).await?;
        match self.reply(wire::OPT_STARTTLS, "TLS").await {
            Ok(Reply { kind: wire::REP_ACK, data }) if data.is_empty() => {}
            Ok(reply) => return Err(unexpected(reply.kind)),
            Err(NbdError::Refused { code, message, .. }) => {
                return Err(NbdError::Tls(format!("the server refused with code {code:#x}: {message}")));
            }
            Err(error) => return Err(error),
        }
        let connected = TlsConnector::from(peer.config).connect(peer.name, self.stream).await;
        let stream = connected.map_err(|error| NbdError::Tls(error.to_string()))?;
        Ok(Self { stream: Box::new(stream), ..self })
    }

    /// Selects contexts; ids and names of those that the server has.
    async fn select_contexts(&mut self, export: &str, wanted: &[String]) -> Result<Vec<(u32, String)>, NbdError> {
        let found = match self.contexts(wire::OPT_SET_META_CONTEXT, export, wanted, wanted.len()).await {
            Ok(found) => found,
            // Opening the export tells better what is wrong.
            Err(NbdError::Refused { .. } | NbdError::UnknownExport(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        for (index, (id, name)) in found.iter().enumerate() {
            if !wanted.contains(name) {
                return Err(NbdError::protocol("a metadata context that nobody asked for"));
            }
            if found[..index].iter().any(|(other, seen)| other == id || seen == name) {
                return Err(NbdError::protocol("a metadata context twice"));
            }
        }
        Ok(found)
    }

    async fn contexts(
        &mut self,
        option: u32,
        export: &str,
        queries: &[String],
        most: usize,
    ) -> Result<Vec<(u32, String)>, NbdError> {
        if export.len() > MAX_STRING || queries.iter().any(|query| query.len() > MAX_STRING) {
            return Err(NbdError::Invalid("a name is too long".into()));
        }
        let mut data = Vec::new();
        wire::put_text(&mut data, export);
        data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
        for query in queries {
            wire::put_text(&mut data, query);
        }
        self.option(option, &data).await?;
        let mut out = Vec::new();
        loop {
            let reply = self.reply(option, "metadata contexts").await.map_err(|error| name_export(error, export))?;
            match reply.kind {
                wire::REP_ACK => return Ok(out),
                wire::REP_META_CONTEXT if out.len() < most => {
                    let mut fields = Fields(&reply.data);
                    let id = fields.u32();
                    let rest = fields.0.len();
                    match (id, fields.text(rest)) {
                        (Some(id), Some(name)) => out.push((id, name.to_owned())),
                        _ => return Err(NbdError::protocol("a malformed metadata context")),
                    }
                }
                wire::REP_META_CONTEXT => return Err(NbdError::protocol("too many metadata contexts")),
                kind => return Err(unexpected(kind)),
            }
        }
    }

    async fn go(&mut self, export: &str, option: u32) -> Result<(u64, u16, BlockSizes), NbdError> {
        let mut data = Vec::new();
        wire::put_text(&mut data, export);
        data.extend_from_slice(&1u16.to_be_bytes());
        data.extend_from_slice(&wire::INFO_BLOCK_SIZE.to_be_bytes());
        self.option(option, &data).await?;
        let mut found = None;
        let mut blocks = BlockSizes::default();
        let malformed = || NbdError::protocol("malformed information on the export");
        loop {
            let reply = self.reply(option, "the export").await.map_err(|error| name_export(error, export))?;
            match reply.kind {
                wire::REP_ACK => {
                    let (size, flags) = found.ok_or_else(|| NbdError::protocol("no information on the export"))?;
                    return Ok((size, flags, blocks));
                }
                wire::REP_INFO => {
                    let mut fields = Fields(&reply.data);
                    match fields.u16().ok_or_else(malformed)? {
                        wire::INFO_EXPORT => {
                            let size = fields.u64().ok_or_else(malformed)?;
                            found = Some((size, fields.u16().ok_or_else(malformed)?));
                        }
                        wire::INFO_BLOCK_SIZE => blocks = block_sizes(&mut fields).ok_or_else(malformed)?,
                        // Names, descriptions and what later versions bring.
                        _ => continue,
                    }
                    if !fields.0.is_empty() {
                        return Err(malformed());
                    }
                }
                kind => return Err(unexpected(kind)),
            }
        }
    }

    /// The way into an export of servers that do not know [`wire::OPT_GO`]. They close the connection when they do
    /// not know the name.
    async fn export_name(&mut self, export: &str) -> Result<(u64, u16, BlockSizes), NbdError> {
        self.option(wire::OPT_EXPORT_NAME, export.as_bytes()).await?;
        let unknown = |error| match error {
            NbdError::Closed => NbdError::UnknownExport(export.to_owned()),
            other => other,
        };
        let size = u64::from_be_bytes(read_array(&mut self.stream).await.map_err(unknown)?);
        let flags = u16::from_be_bytes(read_array(&mut self.stream).await?);
        if !self.no_zeroes {
            read_array::<124>(&mut self.stream).await?;
        }
        Ok((size, flags, BlockSizes::default()))
    }

    async fn option(&mut self, option: u32, data: &[u8]) -> Result<(), NbdError> {
        let mut out = Vec::with_capacity(16 + data.len());
        out.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        out.extend_from_slice(data);
        send(&mut self.stream, &out).await
    }

    /// The next reply to `option`. Errors of the server are [`NbdError::Refused`] and the like.
    async fn reply(&mut self, option: u32, called: &'static str) -> Result<Reply, NbdError> {
        let raw: [u8; 20] = read_array(&mut self.stream).await?;
        let mut fields = Fields(&raw);
        let (magic, about, kind, len) = (fields.u64(), fields.u32(), fields.u32(), fields.u32());
        let (Some(kind), Some(len)) = (kind, len) else { return Err(NbdError::Closed) };
        if magic != Some(wire::OPTION_REPLY_MAGIC) || about != Some(option) {
            return Err(NbdError::protocol("a reply to no option"));
        }
        if len > MAX_REPLY {
            return Err(NbdError::protocol(format!("a reply of {len} bytes to an option")));
        }
        let left = self.budget.checked_sub(raw.len() + len as usize);
        self.budget = left.ok_or_else(|| NbdError::protocol("the negotiation does not end"))?;
        let data = read_vec(&mut self.stream, len as usize).await?;
        if kind & wire::REP_ERROR == 0 {
            return Ok(Reply { kind, data });
        }
        let message = bounded_text(&data);
        Err(match kind {
            wire::ERR_UNKNOWN => NbdError::UnknownExport(String::new()),
            wire::ERR_TLS_REQD => NbdError::Tls(format!("the server requires it: {message}")),
            code => NbdError::Refused { option: called, code, message },
        })
    }
}

fn name_export(error: NbdError, export: &str) -> NbdError {
    match error {
        NbdError::UnknownExport(_) => NbdError::UnknownExport(export.to_owned()),
        other => other,
    }
}

fn unexpected(kind: u32) -> NbdError {
    NbdError::protocol(format!("a reply of kind {kind} to an option"))
}

/// A peer's text for people: no control characters, and not too long.
pub(super) fn bounded_text(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw).chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The block sizes, if they make sense.
fn block_sizes(fields: &mut Fields<'_>) -> Option<BlockSizes> {
    let (minimum, preferred, maximum) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let sound = minimum.is_power_of_two()
        && minimum <= 64 << 10
        && preferred.is_power_of_two()
        && preferred >= minimum
        && maximum >= minimum
        && (maximum == u32::MAX || maximum % minimum == 0);
    sound.then_some(BlockSizes { minimum, preferred, maximum })
}
