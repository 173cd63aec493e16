//! The lower port: a store of immutable objects with two exceptions that are compared and swapped.
//!
//! A key is a path of one to eight components; a component is 1 to 128 characters of `A-Z a-z 0-9 . _ -` and does
//! not begin with a dot. So a key can never leave the root of a directory, and stores may keep their own files
//! under names that begin with a dot.

pub mod faulty;
mod local;
mod memory;

pub use faulty::FaultyObjects;
pub use local::LocalObjects;
pub use memory::MemoryObjects;

use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;

/// Why an object could not be written, read, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// There is no object of that key.
    #[error("there is no such object")]
    NotFound,
    /// There is an object of that key already.
    #[error("the object exists already")]
    AlreadyExists,
    /// The object is not the expected version any more.
    #[error("the object has changed meanwhile")]
    Changed,
    /// The range reaches past the object's end.
    #[error("the range reaches past the object's end")]
    OutOfRange,
    /// No room left.
    #[error("no space left in the store")]
    NoSpace,
    /// The key is not one, or the store holds something else than an object there.
    #[error("not an object key: {0}")]
    InvalidKey(String),
    /// The store does not answer, or says no.
    #[error("the store cannot {action}")]
    Io {
        /// `read`, `write`, `list`, `delete`.
        action: &'static str,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

/// A version of an object that may be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etag(pub String);

/// A listed object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A store of objects. Small on purpose: whatever implements these can hold a repository.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// Writes a new object. It is durable when this returns, visible whole or not at all, and never replaces:
    /// an existing key is [`ObjectError::AlreadyExists`], and the object that is there is durable by then.
    async fn put_new(&self, key: &str, content: Bytes) -> Result<(), ObjectError>;

    /// Replaces an object if it still is the version `expected`; anything else is [`ObjectError::Changed`],
    /// a missing object too. Durable when it returns. Returns the new version.
    async fn replace(&self, key: &str, content: Bytes, expected: &Etag) -> Result<Etag, ObjectError>;

    /// Reads an object, or exactly the bytes of `range`.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError>;

    /// Reads an object and its version, for [`ObjectStore::replace`].
    async fn get_tagged(&self, key: &str) -> Result<(Bytes, Etag), ObjectError>;

    /// An object's length in bytes.
    async fn head(&self, key: &str) -> Result<u64, ObjectError>;

    /// The objects whose keys begin with `prefix`, sorted by key. A failure is an error, never a shorter list.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, ObjectError>;

    /// Removes an object; durable when it returns.
    async fn delete(&self, key: &str) -> Result<(), ObjectError>;

    /// Bytes that can still be written, where the store knows.
    async fn free_space(&self) -> Result<Option<u64>, ObjectError> {
        Ok(None)
    }
}

/// Fails unless `key` is a valid key. For adapters.
pub fn check_key(key: &str) -> Result<(), ObjectError> {
    let parts: Vec<&str> = key.split('/').collect();
    if parts.len() <= 8 && parts.iter().all(|part| is_component(part)) {
        Ok(())
    } else {
        Err(ObjectError::InvalidKey(key.chars().take(200).collect()))
    }
}

/// Fails unless `prefix` could begin a valid key. For adapters.
pub fn check_prefix(prefix: &str) -> Result<(), ObjectError> {
    let (directory, rest) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    if !directory.is_empty() {
        check_key(directory)?;
    }
    if rest.is_empty() && (prefix.is_empty() || !directory.is_empty()) || is_component(rest) {
        Ok(())
    } else {
        Err(ObjectError::InvalidKey(prefix.chars().take(200).collect()))
    }
}

/// Whether `name` may be a part of a key.
pub(crate) fn is_component(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
