//! Waiting for a guest to show that it is ready.

use crate::guest::{Guest, GuestState};
use crate::settings::LONGEST_WAIT;
use portolan_driver::{DriverError, Readiness, Ready};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How often it is looked.
const POLL: Duration = Duration::from_millis(50);
/// How long an agent may take for an answer before it is asked again.
const AGENT_TRY: Duration = Duration::from_secs(2);
/// How much of the console is looked at, at its end: more than the longest console.
const MOST_CONSOLE: u64 = 9 << 20;
/// How much of the console is told when the guest did not become ready.
const TOLD_CONSOLE: u64 = 2000;

impl Guest {
    pub(super) async fn becomes_ready(
        &self,
        begun: Instant,
        within: Duration,
        sign: &Ready,
    ) -> Result<Readiness, DriverError> {
        let within = within.min(LONGEST_WAIT);
        let until = Instant::now() + within;
        let mut seen = self.observe();
        let stopped = async {
            let gone = seen.wait_for(|seen| matches!(seen.state, GuestState::Stopped | GuestState::Failed)).await;
            gone.map(|seen| seen.reason.clone().unwrap_or_default()).unwrap_or_default()
        };
        let came = async {
            match sign {
                Ready::Agent => self.agent_answers().await,
                Ready::Console(words) => self.console_says(words).await,
            }
        };
        let reason = tokio::select! {
            came = timeout_at(until, came) => match came {
                Ok(()) => return Ok(Readiness::Reached(begun.elapsed())),
                Err(_) => match sign {
                    Ready::Agent => format!("its agent did not answer within {} s", within.as_secs()),
                    Ready::Console(words) => {
                        format!("its console did not say '{words}' within {} s", within.as_secs())
                    }
                },
            },
            reason = stopped => format!("it stopped: {reason}"),
        };
        let path = self.console();
        let told = tokio::task::spawn_blocking(move || end_of(&path, TOLD_CONSOLE)).await.unwrap_or_default();
        let console = String::from_utf8_lossy(&told);
        let console = console.chars().filter(|c| !c.is_control() || *c == '\n').collect();
        Ok(Readiness::Missed { reason, console })
    }

    async fn agent_answers(&self) {
        loop {
            if let Ok(mut agent) = self.agent(AGENT_TRY).await
                && agent.ping().await.is_ok()
            {
                return;
            }
            sleep(POLL).await;
        }
    }

    async fn console_says(&self, words: &str) {
        let path = self.console();
        let mut length = None;
        loop {
            let (now, place) = (std::fs::metadata(&path).ok().map(|file| file.len()), path.clone());
            if now != length {
                length = now;
                let read = tokio::task::spawn_blocking(move || end_of(&place, MOST_CONSOLE)).await;
                let text = read.unwrap_or_default();
                if words.is_empty() || text.windows(words.len()).any(|part| part == words.as_bytes()) {
                    return;
                }
            }
            sleep(POLL).await;
        }
    }
}

fn end_of(path: &Path, most: u64) -> Vec<u8> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}
