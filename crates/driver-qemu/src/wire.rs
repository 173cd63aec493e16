//! Lines of JSON over a unix socket, as QMP and the guest agent speak them. The peer is not trusted: a guest may send
//! what it likes.

use serde::Deserialize;
use serde_json::Value;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// The longest line that is read.
pub(crate) const LONGEST_LINE: usize = 4 << 20;

/// Reads up to the next line feed, which is not part of the line. Nothing at the end; a line that is longer than
/// `most` or that the end cuts off is an error.
pub(crate) async fn read_line<R: AsyncBufRead + Unpin>(
    from: &mut R,
    line: &mut Vec<u8>,
    most: usize,
) -> io::Result<Option<()>> {
    line.clear();
    loop {
        let chunk = from.fill_buf().await?;
        if chunk.is_empty() {
            let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "the last line is not whole");
            return if line.is_empty() { Ok(None) } else { Err(cut) };
        }
        let (taken, whole) = match chunk.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at, true),
            None => (chunk.len(), false),
        };
        if line.len() + taken > most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
        }
        line.extend_from_slice(&chunk[..taken]);
        from.consume(taken + usize::from(whole));
        if whole {
            return Ok(Some(()));
        }
    }
}

/// Also `null` is an answer.
pub(crate) fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// What both say in place of an answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Refusal {
    #[serde(default)]
    pub(crate) class: String,
    #[serde(default)]
    pub(crate) desc: String,
}

/// The path of a socket in an open directory: paths of sockets may not be longer than 107 bytes, and this one never is.
pub(crate) fn socket_in(directory: BorrowedFd<'_>, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded() {
        let mut line = Vec::new();
        let mut from = tokio::io::BufReader::with_capacity(3, &b"one\n\ntwo too long\nthree"[..]);
        assert_eq!(read_line(&mut from, &mut line, 5).await.unwrap(), Some(()));
        assert_eq!(line, b"one");
        assert_eq!(read_line(&mut from, &mut line, 5).await.unwrap(), Some(()));
        assert_eq!(line, b"");
        assert_eq!(read_line(&mut from, &mut line, 5).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut from = &b"cut"[..];
        assert_eq!(read_line(&mut from, &mut line, 5).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut from = &b""[..];
        assert_eq!(read_line(&mut from, &mut line, 5).await.unwrap(), None);
    }
}
