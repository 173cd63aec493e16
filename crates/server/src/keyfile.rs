//! Key files of repositories, as operators keep them.

use crate::error::{Failure, OrFail};
use portolan_repository::RepositoryKey;
use std::path::Path;

/// No key file is longer, in bytes.
const MOST: u64 = 64 * 1024;

/// The recovery key in a file. Lines that begin with `#` are ignored.
///
/// # Errors
/// When the file cannot be read, or holds no recovery key.
pub fn recovery(path: &Path) -> Result<RepositoryKey, Failure> {
    RepositoryKey::recovery(&read(path)?).map_err(|e| {
        Failure::new(format!("{} does not hold a recovery key", path.display()))
            .because(e)
            .hint("it is sixty letters and digits in groups of five; one that was mistyped does not pass its checksum")
    })
}

/// The key in a file: 32 bytes in hexadecimal, or a passphrase.
///
/// # Errors
/// When the file cannot be read, or is empty.
pub fn key(path: &Path) -> Result<RepositoryKey, Failure> {
    let text = read(path)?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::new(format!("the key file {} is empty", path.display())));
    }
    Ok(hex(text).map_or_else(|| RepositoryKey::passphrase(text), RepositoryKey::raw))
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn read(path: &Path) -> Result<String, Failure> {
    let what = || format!("the key file {} cannot be read", path.display());
    if std::fs::metadata(path).or_fail(what)?.len() > MOST {
        return Err(Failure::new(what()).because("it is longer than any key"));
    }
    let text = std::fs::read_to_string(path).or_fail(what)?;
    Ok(text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n"))
}
