//! A store of objects that breaks, or waits, when a test says so.

use async_trait::async_trait;
use bytes::Bytes;
use portolan::repository::object::{Etag, ObjectInfo};
use portolan::repository::{MemoryObjects, ObjectError, ObjectStore};
use std::future::Future;
use std::ops::Range;
use std::sync::Mutex;
use tokio::sync::{Notify, watch};

#[derive(Debug)]
pub(crate) struct BreakableObjects {
    inner: MemoryObjects,
    state: Mutex<State>,
    /// Rung when the store breaks.
    pub(crate) broke: Notify,
    /// How many new objects wait.
    pub(crate) arrived: watch::Sender<u64>,
    open: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// Operations to go until it breaks, and whether the last one takes effect.
    fuse: Option<(u64, bool)>,
    down: bool,
    hold: Option<&'static str>,
}

impl BreakableObjects {
    pub(crate) fn new() -> Self {
        Self {
            inner: MemoryObjects::new(),
            state: Mutex::default(),
            broke: Notify::new(),
            arrived: watch::Sender::new(0),
            open: watch::Sender::new(true),
        }
    }

    /// Breaks for good at the `k`-th operation from now, which takes effect where `after` says so.
    pub(crate) fn break_at(&self, k: u64, after: bool) {
        self.state.lock().unwrap().fuse = Some((k, after));
    }

    pub(crate) fn set_down(&self, down: bool) {
        *self.state.lock().unwrap() = State { down, ..State::default() };
    }

    /// New objects of this prefix wait until they are let go of.
    pub(crate) fn hold(&self, prefix: &'static str) {
        self.state.lock().unwrap().hold = Some(prefix);
        self.open.send_replace(false);
    }

    /// Those that wait go on; later ones do not wait.
    pub(crate) fn let_go(&self) {
        self.no_more();
        self.open.send_replace(true);
    }

    /// Later ones do not wait; those that do, go on waiting.
    pub(crate) fn no_more(&self) {
        self.state.lock().unwrap().hold = None;
    }

    /// Flips a bit in the middle of every object of this prefix. Says how many there are.
    pub(crate) async fn damage(&self, prefix: &str) -> usize {
        let listed = self.inner.list(prefix).await.unwrap();
        for object in &listed {
            let mut content = self.inner.get(&object.key, None).await.unwrap().to_vec();
            let middle = content.len() / 2;
            content[middle] ^= 1;
            self.inner.delete(&object.key).await.unwrap();
            self.inner.put_new(&object.key, content.into()).await.unwrap();
        }
        listed.len()
    }

    async fn run<T>(&self, operation: impl Future<Output = Result<T, ObjectError>> + Send) -> Result<T, ObjectError> {
        let broken = || ObjectError::Io { action: "answer", source: std::io::Error::other("broken") };
        let fate = {
            let mut state = self.state.lock().unwrap();
            match state.fuse.take() {
                _ if state.down => Some(false),
                Some((1, after)) => {
                    state.down = true;
                    Some(after)
                }
                Some((k, after)) => {
                    state.fuse = Some((k - 1, after));
                    None
                }
                None => None,
            }
        };
        let Some(after) = fate else { return operation.await };
        if after {
            operation.await?;
        }
        self.broke.notify_one();
        Err(broken())
    }
}

#[async_trait]
impl ObjectStore for BreakableObjects {
    async fn put_new(&self, key: &str, content: Bytes) -> Result<(), ObjectError> {
        let held = self.state.lock().unwrap().hold.is_some_and(|prefix| key.starts_with(prefix));
        if held {
            let mut open = self.open.subscribe();
            self.arrived.send_modify(|n| *n += 1);
            let _ = open.wait_for(|open| *open).await;
        }
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
}
