//! The real clock and the real randomness.

use portolan_model::{Clock, IdSource, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use uuid::Uuid;

/// The computer's clock, made to never run backwards: when the computer's time is set back, this one goes on at
/// half speed until the computer's has caught up.
#[derive(Debug)]
pub struct SystemClock(Mutex<(Timestamp, Instant)>);

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemClock {
    /// A clock that starts at the computer's time.
    pub fn new() -> Self {
        Self(Mutex::new((wall(), Instant::now())))
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let instant = Instant::now();
        let next = step(last.0, instant.saturating_duration_since(last.1), wall());
        if next > last.0 {
            *last = (next, instant);
        }
        last.0
    }
}

/// The time to show after `last`, when `passed` has gone by and the computer shows `wall`.
fn step(last: Timestamp, passed: Duration, wall: Timestamp) -> Timestamp {
    if wall >= last { wall } else { last + passed / 2 }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place where time enters; everybody else takes a Clock")]
fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(0) + since
}

/// Random bytes from the operating system, and version-7 uuids that rise strictly within one source.
#[derive(Debug)]
pub struct SystemIds {
    random: SystemRandom,
    clock: Arc<dyn Clock>,
    /// Milliseconds and counter of the last uuid.
    last: Mutex<(u64, u16)>,
}

impl SystemIds {
    /// Ids that carry the time of `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { random: SystemRandom::new(), clock, last: Mutex::new((0, 0)) }
    }
}

impl IdSource for SystemIds {
    fn uuid(&self) -> Uuid {
        let mut bytes = [0; 10];
        self.fill(&mut bytes);
        let now = u64::try_from(self.clock.now().as_millis()).unwrap_or(0);
        let (millis, count) = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            // A new millisecond begins in the lower half of the 12-bit counter, so that it seldom overflows.
            let start = u16::from_be_bytes([bytes[0], bytes[1]]) & 0x7ff;
            *last = match *last {
                (millis, _) if now > millis => (now, start),
                (millis, 0xfff..) => (millis + 1, start),
                (millis, count) => (millis, count + 1),
            };
            *last
        };
        bytes[..2].copy_from_slice(&count.to_be_bytes());
        uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }

    fn fill(&self, buffer: &mut [u8]) {
        // Nothing safe can be done without randomness: a predictable key or token would be worse than an end.
        assert!(self.random.fill(buffer).is_ok(), "the operating system gives no random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Standing;
    impl Clock for Standing {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1_795_219_200_000)
        }
    }

    #[test]
    fn uuids_rise_even_within_a_millisecond() {
        let ids = SystemIds::new(Arc::new(Standing));
        let made: Vec<_> = (0..20_000).map(|_| ids.uuid()).collect();
        assert!(made.windows(2).all(|w| w[0] < w[1]));
        assert!(made.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
    }

    #[test]
    fn time_never_runs_backwards_and_converges() {
        let at = Timestamp::from_millis;
        assert_eq!(step(at(1000), Duration::from_millis(10), at(2000)), at(2000));
        // Set back by an hour: half speed, and never less than before.
        assert_eq!(step(at(5000), Duration::from_millis(10), at(1000)), at(5005));
        assert_eq!(step(at(5000), Duration::ZERO, at(1000)), at(5000));
        let clock = SystemClock::new();
        let seen: Vec<_> = (0..1000).map(|_| clock.now()).collect();
        assert!(seen.windows(2).all(|w| w[0] <= w[1]));
    }

    #[test]
    fn bytes_differ_from_call_to_call() {
        let ids = SystemIds::new(Arc::new(Standing));
        let (mut a, mut b) = ([0; 32], [0; 32]);
        ids.fill(&mut a);
        ids.fill(&mut b);
        assert_ne!(a, b);
    }
}
