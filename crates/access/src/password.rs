//! Passwords: rules, and Argon2id hashes that are made off the executor and few at a time.

use crate::error::AccessError;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use portolan_model::{IdSource, Secret};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// The least number of characters of a password.
const MIN_CHARS: usize = 8;
/// No password is longer than this many bytes.
pub(crate) const MAX_BYTES: usize = 1024;
/// How many hashes are computed at once: each takes the memory of [`PasswordCost::memory_kib`].
const AT_ONCE: usize = 2;
/// 32 characters that are not mistaken for one another: 5 bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Characters of a generated password: 120 bits.
const GENERATED_CHARS: usize = 24;

/// What one password hash costs. Hashes made at another cost still verify, and are made anew at the next login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for PasswordCost {
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}

/// Makes and verifies password hashes.
pub struct Passwords {
    params: Params,
    ids: Arc<dyn IdSource>,
    permits: Arc<Semaphore>,
    /// Verified against where there is no account, so that this costs the same.
    dummy: Arc<str>,
    runs: AtomicU64,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").field("params", &self.params).finish_non_exhaustive()
    }
}

/// A new password of 24 characters that nobody can guess and everybody can type.
pub fn generate_password(ids: &dyn IdSource) -> Secret {
    let mut bytes = Zeroizing::new([0u8; GENERATED_CHARS]);
    ids.fill(bytes.as_mut());
    Secret::new(bytes.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect::<String>())
}

/// Fails unless the password may be set: 8 characters to 1024 bytes.
pub(crate) fn check_rules(password: &Secret) -> Result<(), AccessError> {
    let text = password.reveal();
    if text.chars().count() < MIN_CHARS {
        return Err(AccessError::Invalid(format!("a password needs at least {MIN_CHARS} characters")));
    }
    if text.len() > MAX_BYTES {
        return Err(AccessError::Invalid(format!("a password must not be longer than {MAX_BYTES} bytes")));
    }
    Ok(())
}

/// A hash that somebody else made, unless a password could never be verified against it.
pub(crate) fn checked_hash(hash: &Secret) -> Result<String, AccessError> {
    let text = hash.reveal().trim();
    let fits = PasswordHash::new(text).is_ok_and(|hash| {
        hash.algorithm.as_str() == "argon2id" && hash.hash.is_some() && Params::try_from(&hash).is_ok()
    });
    if !fits || text.len() > MAX_BYTES {
        return Err(AccessError::Invalid("the password's hash is no Argon2id hash in PHC form ($argon2id$…)".into()));
    }
    Ok(text.to_owned())
}

impl Passwords {
    /// Hashes at `cost`, with salts from `ids`.
    pub fn new(cost: PasswordCost, ids: Arc<dyn IdSource>) -> Result<Self, AccessError> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
            .map_err(|e| AccessError::Invalid(format!("the cost of passwords is out of range: {e}")))?;
        let (m, t, p) = (cost.memory_kib, cost.passes, cost.lanes);
        let (salt, hash) = (STANDARD_NO_PAD.encode([7; 16]), STANDARD_NO_PAD.encode([0; 32]));
        let dummy = format!("$argon2id$v=19$m={m},t={t},p={p}${salt}${hash}").into();
        Ok(Self { params, ids, permits: Arc::new(Semaphore::new(AT_ONCE)), dummy, runs: AtomicU64::new(0) })
    }

    /// The hash of a password in PHC form, with a fresh salt.
    pub async fn hash(&self, password: &Secret) -> Result<String, AccessError> {
        let mut salt = [0; 16];
        self.ids.fill(&mut salt);
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone());
        let hashed = self
            .run(password, move |password| {
                argon.hash_password_with_salt(password, &salt).map(|hash: PasswordHash| hash.to_string())
            })
            .await?;
        hashed.map_err(|e| AccessError::Internal(format!("the password cannot be hashed: {e}")))
    }

    /// Whether the password is the one that `hash` was made of, in time that does not depend on where they
    /// differ. Without a hash, or with one that cannot be read, it takes as long and is false.
    pub async fn verify(&self, password: &Secret, hash: Option<&str>) -> Result<bool, AccessError> {
        let real = hash.filter(|hash| PasswordHash::new(hash).is_ok());
        if hash.is_some() && real.is_none() {
            tracing::error!("a stored password hash cannot be read");
        }
        let against: Arc<str> = real.map_or_else(|| self.dummy.clone(), Into::into);
        let same = self
            .run(password, move |password| {
                PasswordHash::new(&against).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
            })
            .await?;
        Ok(same && real.is_some())
    }

    /// Whether a hash was made at another cost than the present one.
    pub fn is_outdated(&self, hash: &str) -> bool {
        let Ok(hash) = PasswordHash::new(hash) else { return true };
        let other = Params::try_from(&hash).map(|params| {
            params.m_cost() != self.params.m_cost()
                || params.t_cost() != self.params.t_cost()
                || params.p_cost() != self.params.p_cost()
        });
        hash.algorithm.as_str() != "argon2id" || other.unwrap_or(true)
    }

    /// How many hashes were computed so far.
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Computes on a blocking thread. The permit goes along: when the caller goes away the computation does not,
    /// and must keep its place until it is done.
    async fn run<T, F>(&self, password: &Secret, compute: F) -> Result<T, AccessError>
    where
        T: Send + 'static,
        F: FnOnce(&[u8]) -> T + Send + 'static,
    {
        let gone = |e: &dyn fmt::Display| AccessError::Internal(format!("the password hash was not computed: {e}"));
        let password = Zeroizing::new(password.reveal().to_owned());
        let permit = self.permits.clone().acquire_owned().await.map_err(|e| gone(&e))?;
        self.runs.fetch_add(1, Ordering::Relaxed);
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            compute(password.as_bytes())
        });
        task.await.map_err(|e| gone(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[derive(Debug, Default)]
    struct Counting(AtomicU64);
    impl IdSource for Counting {
        fn uuid(&self) -> Uuid {
            Uuid::nil()
        }
        fn fill(&self, buffer: &mut [u8]) {
            let n = self.0.fetch_add(1, Ordering::Relaxed);
            let bytes = blake3::hash(&n.to_le_bytes());
            buffer.iter_mut().zip(bytes.as_bytes().iter().cycle()).for_each(|(to, from)| *to = *from);
        }
    }

    fn passwords(memory_kib: u32) -> Passwords {
        let cost = PasswordCost { memory_kib, passes: 1, lanes: 1 };
        Passwords::new(cost, Arc::new(Counting::default())).unwrap()
    }

    #[tokio::test]
    async fn hashes_verify_and_say_when_they_are_outdated() {
        let (old, new) = (passwords(64), passwords(128));
        let secret = Secret::new("pässwörd 🔑");
        let hash = old.hash(&secret).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"));
        assert!(new.verify(&secret, Some(&hash)).await.unwrap());
        assert!(!new.verify(&Secret::new("passwort"), Some(&hash)).await.unwrap());
        assert!(new.is_outdated(&hash) && !old.is_outdated(&hash) && old.is_outdated("rubbish"));
        assert_ne!(hash, old.hash(&secret).await.unwrap(), "salts are fresh");
    }

    #[tokio::test]
    async fn no_account_costs_a_hash_and_is_never_right() {
        let passwords = passwords(64);
        assert!(PasswordHash::new(&passwords.dummy).is_ok());
        assert!(!passwords.is_outdated(&passwords.dummy), "the dummy costs what a real one does");
        for hash in [None, Some("rubbish")] {
            let before = passwords.runs();
            assert!(!passwords.verify(&Secret::new(""), hash).await.unwrap());
            assert_eq!(passwords.runs(), before + 1);
        }
    }

    #[test]
    fn rules_and_generated_passwords() {
        assert!(check_rules(&Secret::new("1234567")).is_err());
        assert!(check_rules(&Secret::new("äöüäöüäö")).is_ok(), "characters count, not bytes");
        assert!(check_rules(&Secret::new("x".repeat(MAX_BYTES + 1))).is_err());
        let made = generate_password(&Counting::default());
        assert_eq!(made.reveal().len(), GENERATED_CHARS);
        assert!(made.reveal().bytes().all(|b| ALPHABET.contains(&b)));
    }

    #[test]
    fn costs_out_of_range_are_refused() {
        let cost = PasswordCost { memory_kib: 1, passes: 0, lanes: 1 };
        assert!(matches!(Passwords::new(cost, Arc::new(Counting::default())), Err(AccessError::Invalid(_))));
    }
}
