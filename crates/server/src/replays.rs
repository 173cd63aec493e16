//! Kept answers: the transport's port over the use cases of access.

use async_trait::async_trait;
use portolan_access as access;
use portolan_http::idempotency::{Begun, Hold, KeyedRequest, PortError, Replays};
use portolan_model::RequestKey;
use std::sync::Arc;
use std::time::Duration;

/// Keeps the answers of every dialect's listener in the store.
pub fn kept(replays: access::Replays) -> Arc<dyn Replays> {
    Arc::new(Kept(replays))
}

struct Kept(access::Replays);

struct Held(access::ReplayHold);

#[async_trait]
impl Replays for Kept {
    async fn begin(&self, request: &KeyedRequest<'_>) -> Result<Begun, PortError> {
        let parts = [request.method.as_bytes(), request.target.as_bytes(), request.body];
        let KeyedRequest { dialect, sender, key, .. } = *request;
        let begun = self.0.begin(&access::Asked { dialect, sender, key, parts: &parts }).await?;
        Ok(match begun {
            access::Begun::Fresh(hold) => Begun::Fresh(Box::new(Held(hold))),
            access::Begun::Answered(answer) => Begun::Replay(answer.to_vec()),
            access::Begun::InFlight => Begun::InFlight,
            access::Begun::Mismatch => Begun::Mismatch,
        })
    }
}

#[async_trait]
impl Hold for Held {
    fn request(&self) -> RequestKey {
        self.0.request()
    }

    fn lasts(&self) -> Duration {
        self.0.lasts()
    }

    async fn extend(&self) -> Result<bool, PortError> {
        Ok(self.0.extend().await?)
    }

    async fn complete(&self, answer: &[u8]) -> Result<bool, PortError> {
        Ok(self.0.complete(answer).await?)
    }

    async fn release(&self) -> Result<(), PortError> {
        Ok(self.0.release().await?)
    }
}
