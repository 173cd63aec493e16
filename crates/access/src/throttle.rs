//! Slowing down failures: token buckets per login and address, and per address.

use portolan_model::Timestamp;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many failures are free, and how fast they are forgiven.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// So many failures at once.
    pub burst: u32,
    /// And one more after each such time.
    pub refill: Duration,
}

/// How failures are slowed down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throttling {
    /// For one login from one address.
    pub login: Bucket,
    /// For all logins from one address: hashing is dear, whatever the login.
    pub peer: Bucket,
    /// How many buckets are remembered at the most.
    pub remembered: usize,
}

impl Default for Throttling {
    fn default() -> Self {
        Self {
            login: Bucket { burst: 10, refill: Duration::from_secs(6) },
            peer: Bucket { burst: 100, refill: Duration::from_millis(250) },
            remembered: 20_000,
        }
    }
}

/// The state of one bucket.
#[derive(Debug, Clone, Copy)]
struct Level {
    rule: Bucket,
    tokens: f64,
    at: Timestamp,
}

impl Level {
    fn at(self, now: Timestamp) -> Self {
        let gained = now.since(self.at).as_secs_f64() / self.rule.refill.as_secs_f64().max(1e-6);
        // A clock that jumped back gives nothing, and takes nothing.
        Self { tokens: (self.tokens + gained).min(f64::from(self.rule.burst)), at: now, ..self }
    }

    fn is_full(&self) -> bool {
        self.tokens >= f64::from(self.rule.burst)
    }

    fn wait(&self) -> Duration {
        self.rule.refill.mul_f64((1.0 - self.tokens).max(0.0)).max(Duration::from_millis(1))
    }
}

type Key = [u8; 32];

/// The buckets. An attempt takes its tokens before the password is looked at, so that many guesses at once do not
/// slip through, and gets them back when it turns out right.
#[derive(Debug)]
pub(crate) struct Throttle {
    rules: Throttling,
    /// Keys buckets, so that an entry's size does not depend on what was typed.
    hash_key: Key,
    levels: Mutex<HashMap<Key, Level>>,
}

/// The tokens that an attempt holds. They stay spent unless they are given back.
#[derive(Debug)]
#[must_use]
pub(crate) struct Attempt([Key; 2]);

impl Throttle {
    pub(crate) fn new(rules: Throttling, hash_key: Key) -> Self {
        Self { rules, hash_key, levels: Mutex::new(HashMap::new()) }
    }

    /// Takes the tokens of one attempt, or says how long to wait.
    pub(crate) fn take(&self, login: &str, peer: Option<IpAddr>, now: Timestamp) -> Result<Attempt, Duration> {
        let peer = place(peer);
        let keys = [self.key(login.as_bytes(), &peer, b'l'), self.key(b"", &peer, b'p')];
        let rules = [self.rules.login, self.rules.peer];
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = [0, 1].map(|i| {
            let rule = rules[i];
            let new = Level { rule, tokens: f64::from(rule.burst), at: now };
            levels.get(&keys[i]).map_or(new, |level| level.at(now))
        });
        let wait = found.iter().filter(|level| level.tokens < 1.0).map(Level::wait).max();
        if let Some(wait) = wait {
            return Err(wait);
        }
        for (key, level) in keys.iter().zip(&mut found) {
            level.tokens -= 1.0;
            if !levels.contains_key(key) {
                make_room(&mut levels, self.rules.remembered, now);
            }
            levels.insert(*key, *level);
        }
        Ok(Attempt(keys))
    }

    /// Gives the tokens of an attempt back: it was no failure.
    pub(crate) fn give_back(&self, attempt: Attempt, now: Timestamp) {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        for key in attempt.0 {
            if let Some(level) = levels.get_mut(&key) {
                *level = level.at(now);
                level.tokens += 1.0;
                if level.is_full() {
                    levels.remove(&key);
                }
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn key(&self, login: &[u8], peer: &[u8; 16], what: u8) -> Key {
        *blake3::Hasher::new_keyed(&self.hash_key).update(&[what]).update(peer).update(login).finalize().as_bytes()
    }
}

/// Makes room for one more bucket: those that are full again go first, then the one with the fewest failures, so
/// that many new names do not wash away what is known of a persistent one.
fn make_room(levels: &mut HashMap<Key, Level>, most: usize, now: Timestamp) {
    if levels.len() < most.max(2) {
        return;
    }
    levels.retain(|_, level| !level.at(now).is_full());
    if levels.len() >= most.max(2) {
        let missing = |level: &Level| f64::from(level.rule.burst) - level.at(now).tokens;
        let least = levels.iter().min_by(|a, b| missing(a.1).total_cmp(&missing(b.1))).map(|(key, _)| *key);
        least.and_then(|key| levels.remove(&key));
    }
}

/// Who counts as one address: an IPv6 customer has a whole /64.
pub(crate) fn place(peer: Option<IpAddr>) -> [u8; 16] {
    match peer.map(|ip| ip.to_canonical()) {
        None => [0; 16],
        Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(ip)) => {
            let mut octets = ip.octets();
            octets[8..].fill(0);
            octets
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(remembered: usize) -> Throttle {
        let login = Bucket { burst: 3, refill: Duration::from_secs(10) };
        let peer = Bucket { burst: 6, refill: Duration::from_secs(1) };
        Throttle::new(Throttling { login, peer, remembered }, [1; 32])
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_bucket_empties_and_refills() {
        let (t, now) = (throttle(100), Timestamp::from_millis(0));
        for _ in 0..3 {
            let _spent = t.take("bob", ip("10.0.0.1"), now).unwrap();
        }
        assert_eq!(t.take("bob", ip("10.0.0.1"), now).unwrap_err(), Duration::from_secs(10));
        let later = now + Duration::from_secs(4);
        assert_eq!(t.take("bob", ip("10.0.0.1"), later).unwrap_err().as_millis(), 6000);
        assert!(t.take("bob", ip("10.0.0.2"), now).is_ok(), "another address is not touched");
        assert!(t.take("bob", ip("10.0.0.1"), now + Duration::from_secs(10)).is_ok());
        assert!(
            t.take("bob", ip("10.0.0.1"), Timestamp::from_millis(-60_000)).is_err(),
            "a clock set back gives nothing"
        );
    }

    #[test]
    fn an_address_is_bounded_whatever_the_login() {
        let (t, now) = (throttle(100), Timestamp::from_millis(0));
        for n in 0..6 {
            let _spent = t.take(&format!("user{n}"), ip("2001:db8::1"), now).unwrap();
        }
        assert!(t.take("another", ip("2001:db8::ffff:1"), now).is_err(), "a /64 is one place");
        assert!(t.take("another", ip("2001:db8:0:1::1"), now).is_ok());
        assert!(t.take("another", None, now).is_ok());
    }

    #[test]
    fn what_is_given_back_is_forgotten() {
        let (t, now) = (throttle(100), Timestamp::from_millis(0));
        for _ in 0..50 {
            let attempt = t.take("bob", None, now).unwrap();
            t.give_back(attempt, now);
        }
        assert_eq!(t.len(), 0);
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_worst() {
        let (t, now) = (throttle(50), Timestamp::from_millis(0));
        for _ in 0..3 {
            let _spent = t.take("victim", ip("10.9.9.9"), now).unwrap();
        }
        for n in 0..500u32 {
            let _spent = t.take("x", Some(IpAddr::V4(n.into())), now);
        }
        assert!(t.len() <= 50);
        assert!(t.take("victim", ip("10.9.9.9"), now).is_err());
    }
}
