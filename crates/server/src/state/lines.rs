//! What stands in an exported state: JSON lines, packed by zstd, sealed.

use super::seal::{Opening, Sealing};
use portolan_model::{IdSource, Secret, Timestamp};
use portolan_storage_sql::{DumpLine, SqlStorage};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};

/// How hard zstd tries.
const LEVEL: i32 = 3;

/// A line. It may hold the master key: not to be printed.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The first.
    Head(Head),
    /// A file of the data directory.
    File { name: String, text: String },
    /// A part of the database.
    Data(DumpLine),
    /// The last, with the number of rows before it.
    End { rows: u64 },
}

/// What the state is of.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    /// The version of the schema.
    pub(super) schema: i64,
    /// The version of the program.
    pub(super) version: String,
    /// When it was taken.
    pub(super) taken: String,
}

impl Head {
    pub(super) fn now(now: Timestamp) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { schema: SqlStorage::schema_version(), version, taken: now.to_rfc3339() }
    }
}

impl Line {
    pub(super) fn file(name: &str, text: &str) -> Self {
        Self::File { name: name.to_owned(), text: text.to_owned() }
    }
}

/// Writes lines.
pub(super) struct Writing<W: Write>(zstd::stream::write::Encoder<'static, Sealing<W>>);

impl<W: Write> Writing<W> {
    pub(super) fn begin(out: W, passphrase: &Secret, ids: &dyn IdSource) -> io::Result<Self> {
        zstd::stream::write::Encoder::new(Sealing::begin(out, passphrase, ids)?, LEVEL).map(Self)
    }

    pub(super) fn put(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, line)?;
        self.0.write_all(b"\n")
    }

    /// Ends the file; it is worth nothing without.
    pub(super) fn finish(self) -> io::Result<W> {
        self.0.finish()?.finish()
    }
}

/// Reads lines. The end is only reached when the file is whole.
pub(super) struct Reading<R: Read> {
    lines: BufReader<zstd::stream::read::Decoder<'static, BufReader<Opening<R>>>>,
    text: String,
}

impl<R: Read> Reading<R> {
    pub(super) fn begin(from: R, passphrase: &Secret) -> io::Result<Self> {
        let opening = Opening::begin(from, passphrase)?;
        let lines = BufReader::new(zstd::stream::read::Decoder::new(opening)?);
        Ok(Self { lines, text: String::new() })
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        self.text.clear();
        if self.lines.read_line(&mut self.text)? == 0 {
            return Ok(None);
        }
        serde_json::from_str(&self.text)
            .map(Some)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("a line of it cannot be understood: {e}")))
    }
}
