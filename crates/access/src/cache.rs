//! A small cache of what was proven lately: bounded, by age and by number.

use portolan_model::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A keyed hash of what was proven.
pub(crate) type Key = [u8; 32];

/// Values that are good for a while after they were put. Entries age alike, so the oldest is the first to go.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    ttl: Duration,
    most: usize,
    inner: Mutex<Inner<V>>,
}

#[derive(Debug)]
struct Inner<V> {
    entries: HashMap<Key, Entry<V>>,
    order: VecDeque<(Key, u64)>,
    next: u64,
    /// Counts removals; see [`Cache::mark`].
    removals: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    put: Timestamp,
    number: u64,
}

impl<V: Clone> Cache<V> {
    pub(crate) fn new(ttl: Duration, most: usize) -> Self {
        let inner = Inner { entries: HashMap::new(), order: VecDeque::new(), next: 0, removals: 0 };
        Self { ttl, most, inner: Mutex::new(inner) }
    }

    /// The value, if it is fresh.
    pub(crate) fn get(&self, key: &Key, now: Timestamp) -> Option<V> {
        let inner = self.lock();
        let entry = inner.entries.get(key)?;
        // What was put in the future, by a clock that has since been set back, is not fresh either.
        (entry.put <= now && now.since(entry.put) < self.ttl).then(|| entry.value.clone())
    }

    /// A mark to read before the truth is read: what is put with it after a removal is not kept, since the
    /// removal may have been about just that.
    pub(crate) fn mark(&self) -> u64 {
        self.lock().removals
    }

    /// Keeps a value that was read after `mark`.
    pub(crate) fn put(&self, mark: u64, key: Key, value: V, now: Timestamp) {
        let mut inner = self.lock();
        if inner.removals != mark || self.most == 0 {
            return;
        }
        let number = inner.next;
        inner.next += 1;
        inner.entries.insert(key, Entry { value, put: now, number });
        inner.order.push_back((key, number));
        while let Some(&(oldest, number)) = inner.order.front() {
            let entry = inner.entries.get(&oldest).filter(|entry| entry.number == number);
            let stale = entry.is_none_or(|entry| now.since(entry.put) >= self.ttl);
            if !stale && inner.entries.len() <= self.most {
                break;
            }
            if entry.is_some() {
                inner.entries.remove(&oldest);
            }
            inner.order.pop_front();
        }
        // Replaced and removed entries leave their places in the queue; those behind a fresh one pile up.
        if inner.order.len() > 2 * self.most + 16 {
            let Inner { entries, order, .. } = &mut *inner;
            order.retain(|(key, number)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
    }

    pub(crate) fn remove(&self, key: &Key) {
        let mut inner = self.lock();
        inner.removals += 1;
        inner.entries.remove(key);
    }

    pub(crate) fn remove_if(&self, condition: impl Fn(&V) -> bool) {
        let mut inner = self.lock();
        inner.removals += 1;
        inner.entries.retain(|_, entry| !condition(&entry.value));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Key {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    #[test]
    fn entries_age_and_the_oldest_go_first() {
        let cache = Cache::new(Duration::from_secs(5), 3);
        let now = Timestamp::from_millis(0);
        for n in 0..10 {
            cache.put(cache.mark(), key(n), n, now + Duration::from_millis(n));
        }
        let soon = now + Duration::from_secs(1);
        assert_eq!([6, 7, 8, 9].map(|n| cache.get(&key(n), soon)), [None, Some(7), Some(8), Some(9)]);
        assert_eq!(cache.get(&key(9), now + Duration::from_millis(5009)), None);
        assert_eq!(cache.get(&key(9), now), None, "the clock was set back");
    }

    #[test]
    fn replacing_for_ever_stays_bounded() {
        let cache = Cache::new(Duration::from_secs(5), 3);
        let now = Timestamp::from_millis(0);
        for n in 0..10_000 {
            cache.put(cache.mark(), key(n % 2), n, now);
        }
        let inner = cache.lock();
        assert!(inner.entries.len() == 2 && inner.order.len() <= 22);
    }

    #[test]
    fn what_was_read_before_a_removal_is_not_kept() {
        let cache = Cache::new(Duration::from_secs(5), 3);
        let now = Timestamp::from_millis(0);
        let mark = cache.mark();
        cache.remove(&key(1));
        cache.put(mark, key(1), 1, now);
        assert_eq!(cache.get(&key(1), now), None);
        cache.put(cache.mark(), key(1), 1, now);
        cache.remove_if(|n| *n == 1);
        assert_eq!(cache.get(&key(1), now), None);
    }
}
