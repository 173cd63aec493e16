//! A wrapper that fails on cue, for tests of crash points.

use super::{Etag, ObjectError, ObjectInfo, ObjectStore};
use async_trait::async_trait;
use bytes::Bytes;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// On which side of its effect an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// It has no effect.
    Before,
    /// It takes effect, and nobody is told.
    After,
}

/// What happens after the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The store works again: a hiccup.
    Recover,
    /// Every later operation fails too, without effect: a crash.
    StayDown,
}

/// A store that fails one operation, counted from 1 in the order in which they begin.
#[derive(Debug)]
pub struct FaultyObjects {
    inner: Arc<dyn ObjectStore>,
    count: AtomicU64,
    fail_at: u64,
    when: When,
    then: Then,
}

impl FaultyObjects {
    /// Fails the operation number `fail_at`; 0 fails none and only counts.
    pub fn new(inner: Arc<dyn ObjectStore>, fail_at: u64, when: When, then: Then) -> Self {
        Self { inner, count: AtomicU64::new(0), fail_at, when, then }
    }

    /// How many operations have begun.
    pub fn operations(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    async fn run<T>(&self, operation: impl Future<Output = Result<T, ObjectError>> + Send) -> Result<T, ObjectError> {
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        let broken = || ObjectError::Io { action: "answer", source: std::io::Error::other("injected failure") };
        if self.fail_at == 0 || number < self.fail_at {
            operation.await
        } else if number == self.fail_at {
            if self.when == When::After {
                operation.await?;
            }
            Err(broken())
        } else if self.then == Then::StayDown {
            Err(broken())
        } else {
            operation.await
        }
    }
}

#[async_trait]
impl ObjectStore for FaultyObjects {
    async fn put_new(&self, key: &str, content: Bytes) -> Result<(), ObjectError> {
        self.run(self.inner.put_new(key, content)).await
    }

    async fn replace(&self, key: &str, content: Bytes, expected: &Etag) -> Result<Etag, ObjectError> {
        self.run(self.inner.replace(key, content, expected)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        self.run(self.inner.get(key, range)).await
    }

    async fn get_tagged(&self, key: &str) -> Result<(Bytes, Etag), ObjectError> {
        self.run(self.inner.get_tagged(key)).await
    }

    async fn head(&self, key: &str) -> Result<u64, ObjectError> {
        self.run(self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, ObjectError> {
        self.run(self.inner.list(prefix)).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        self.run(self.inner.delete(key)).await
    }

    async fn free_space(&self) -> Result<Option<u64>, ObjectError> {
        self.run(self.inner.free_space()).await
    }
}
