//! Kept answers as the server wires them.

// Each test file uses a part of it.
#![allow(dead_code)]

use async_trait::async_trait;
use portolan::access;
use portolan_http::idempotency::{Begun, Hold, KeyedRequest, PortError, Replays};
use portolan_model::RequestKey;
use std::time::Duration;

pub(crate) struct Kept {
    pub(crate) replays: access::Replays,
    /// Whether the process is gone by the time there is an answer.
    pub(crate) dies: bool,
}

struct Held {
    hold: access::ReplayHold,
    dies: bool,
}

#[async_trait]
impl Replays for Kept {
    async fn begin(&self, request: &KeyedRequest<'_>) -> Result<Begun, PortError> {
        let parts = [request.method.as_bytes(), request.target.as_bytes(), request.body];
        let KeyedRequest { dialect, sender, key, .. } = *request;
        Ok(match self.replays.begin(&access::Asked { dialect, sender, key, parts: &parts }).await? {
            access::Begun::Fresh(hold) => Begun::Fresh(Box::new(Held { hold, dies: self.dies })),
            access::Begun::Answered(answer) => Begun::Replay(answer.to_vec()),
            access::Begun::InFlight => Begun::InFlight,
            access::Begun::Mismatch => Begun::Mismatch,
        })
    }
}

#[async_trait]
impl Hold for Held {
    fn request(&self) -> RequestKey {
        self.hold.request()
    }

    fn lasts(&self) -> Duration {
        self.hold.lasts()
    }

    async fn extend(&self) -> Result<bool, PortError> {
        Ok(self.hold.extend().await?)
    }

    async fn complete(&self, answer: &[u8]) -> Result<bool, PortError> {
        if self.dies { Ok(true) } else { Ok(self.hold.complete(answer).await?) }
    }

    async fn release(&self) -> Result<(), PortError> {
        Ok(self.hold.release().await?)
    }
}
