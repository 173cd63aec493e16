//! A store in memory.

use super::{Etag, ObjectError, ObjectInfo, ObjectStore, check_key, check_prefix};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Objects in memory, for tests and for embedders that want no disk. Keeps nothing after the process.
#[derive(Debug, Default)]
pub struct MemoryObjects {
    state: Mutex<State>,
    capacity: Option<u64>,
}

#[derive(Debug, Default, Clone)]
struct State {
    objects: BTreeMap<String, (Bytes, u64)>,
    version: u64,
    used: u64,
}

impl MemoryObjects {
    /// An empty store without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that holds up to `bytes` bytes.
    pub fn with_capacity(bytes: u64) -> Self {
        Self { state: Mutex::default(), capacity: Some(bytes) }
    }

    /// A copy that goes its own way from here: the store as a crash at this instant would leave it.
    pub fn fork(&self) -> Self {
        Self { state: Mutex::new(self.lock().clone()), capacity: self.capacity }
    }

    /// Changes an object behind everybody's back, as rotting media would. False when there is none.
    pub fn tamper(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.lock();
        let Some((content, _)) = state.objects.get_mut(key) else { return false };
        let mut bytes = content.to_vec();
        change(&mut bytes);
        *content = bytes.into();
        true
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, state: &mut State, key: &str, content: Bytes) -> Result<Etag, ObjectError> {
        let before = state.objects.get(key).map_or(0, |(old, _)| old.len() as u64);
        let used = state.used - before + content.len() as u64;
        if self.capacity.is_some_and(|most| used > most) {
            return Err(ObjectError::NoSpace);
        }
        state.used = used;
        state.version += 1;
        let version = state.version;
        // A copy of its own, so that a slice of a large buffer does not keep the buffer.
        state.objects.insert(key.to_owned(), (Bytes::copy_from_slice(&content), version));
        Ok(Etag(version.to_string()))
    }
}

#[async_trait]
impl ObjectStore for MemoryObjects {
    async fn put_new(&self, key: &str, content: Bytes) -> Result<(), ObjectError> {
        check_key(key)?;
        let mut state = self.lock();
        if state.objects.contains_key(key) {
            return Err(ObjectError::AlreadyExists);
        }
        self.store(&mut state, key, content).map(drop)
    }

    async fn replace(&self, key: &str, content: Bytes, expected: &Etag) -> Result<Etag, ObjectError> {
        check_key(key)?;
        let mut state = self.lock();
        match state.objects.get(key) {
            Some((_, version)) if version.to_string() == expected.0 => self.store(&mut state, key, content),
            _ => Err(ObjectError::Changed),
        }
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        check_key(key)?;
        let state = self.lock();
        let (content, _) = state.objects.get(key).ok_or(ObjectError::NotFound)?;
        match range {
            None => Ok(content.clone()),
            Some(r) if r.start <= r.end && r.end <= content.len() as u64 => {
                Ok(content.slice(r.start as usize..r.end as usize))
            }
            Some(_) => Err(ObjectError::OutOfRange),
        }
    }

    async fn get_tagged(&self, key: &str) -> Result<(Bytes, Etag), ObjectError> {
        check_key(key)?;
        let state = self.lock();
        let (content, version) = state.objects.get(key).ok_or(ObjectError::NotFound)?;
        Ok((content.clone(), Etag(version.to_string())))
    }

    async fn head(&self, key: &str) -> Result<u64, ObjectError> {
        check_key(key)?;
        self.lock().objects.get(key).map(|(content, _)| content.len() as u64).ok_or(ObjectError::NotFound)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, ObjectError> {
        check_prefix(prefix)?;
        let state = self.lock();
        Ok(state
            .objects
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, (content, _))| ObjectInfo { key: key.clone(), bytes: content.len() as u64 })
            .collect())
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        check_key(key)?;
        let mut state = self.lock();
        let (content, _) = state.objects.remove(key).ok_or(ObjectError::NotFound)?;
        state.used -= content.len() as u64;
        Ok(())
    }

    async fn free_space(&self) -> Result<Option<u64>, ObjectError> {
        let used = self.lock().used;
        Ok(self.capacity.map(|most| most.saturating_sub(used)))
    }
}
