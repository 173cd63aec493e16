//! What was noted lately, so that it is noted now and then only.

use portolan_model::Timestamp;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Remembers when something was noted last, of so many things at the most: while there are more, the rest is not noted
/// at all, so that whoever makes up new ones cannot fill the store.
#[derive(Debug)]
pub(crate) struct Lately<K> {
    every: Duration,
    most: usize,
    noted: Mutex<HashMap<K, Timestamp>>,
}

impl<K: Eq + Hash> Lately<K> {
    pub(crate) fn new(every: Duration, most: usize) -> Self {
        Self { every, most, noted: Mutex::default() }
    }

    /// Whether it is time to note this again; then it counts as noted.
    pub(crate) fn is_due(&self, key: K, now: Timestamp) -> bool {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back notes again.
        let fresh = |at: &Timestamp| *at <= now && now.since(*at) < self.every;
        if noted.get(&key).is_some_and(fresh) {
            return false;
        }
        if noted.len() >= self.most {
            noted.retain(|_, at| fresh(at));
        }
        let room = noted.len() < self.most;
        if room {
            noted.insert(key, now);
        }
        room
    }

    /// It could not be noted after all.
    pub(crate) fn forget(&self, key: &K) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_due_now_and_then_and_only_so_many() {
        let lately = Lately::new(Duration::from_secs(60), 2);
        let at = |s: i64| Timestamp::from_millis(s * 1000);
        assert!(lately.is_due("a", at(0)) && !lately.is_due("a", at(59)));
        assert!(lately.is_due("a", at(60)) && lately.is_due("b", at(100)));
        assert!(!lately.is_due("c", at(100)), "there are two already");
        assert!(lately.is_due("c", at(120)), "one of them was long ago");
        lately.forget(&"c");
        assert!(lately.is_due("c", at(121)));
        assert!(lately.is_due("c", at(-500)), "the clock was set back");
    }
}
