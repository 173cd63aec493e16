//! A store that holds a write back until it is told to go on: a worker that is paused at the worst moment.

use async_trait::async_trait;
use bytes::Bytes;
use portolan_repository::object::{Etag, ObjectInfo};
use portolan_repository::{ObjectError, ObjectStore};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Passes everything on, but waits before it creates or replaces an object whose key begins with a prefix.
#[derive(Debug)]
pub struct GatedObjects {
    inner: Arc<dyn ObjectStore>,
    prefix: &'static str,
    reached: Semaphore,
    gate: Semaphore,
}

impl GatedObjects {
    /// Holds back writes of keys that begin with `prefix`.
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: &'static str) -> Arc<Self> {
        Arc::new(Self { inner, prefix, reached: Semaphore::new(0), gate: Semaphore::new(0) })
    }

    /// Waits until a write is held back.
    pub async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    /// Lets every write go on, also those to come.
    pub fn open(&self) {
        self.gate.add_permits(1000);
    }

    async fn wait(&self, key: &str) {
        if key.starts_with(self.prefix) {
            self.reached.add_permits(1);
            drop(self.gate.acquire().await);
        }
    }
}

#[async_trait]
impl ObjectStore for GatedObjects {
    async fn put_new(&self, key: &str, content: Bytes) -> Result<(), ObjectError> {
        self.wait(key).await;
        self.inner.put_new(key, content).await
    }

    async fn replace(&self, key: &str, content: Bytes, expected: &Etag) -> Result<Etag, ObjectError> {
        self.wait(key).await;
        self.inner.replace(key, content, expected).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        self.inner.get(key, range).await
    }

    async fn get_tagged(&self, key: &str) -> Result<(Bytes, Etag), ObjectError> {
        self.inner.get_tagged(key).await
    }

    async fn head(&self, key: &str) -> Result<u64, ObjectError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, ObjectError> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        self.inner.delete(key).await
    }
}
