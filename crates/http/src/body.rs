//! Request bodies that end: by size, and by time.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep, timeout};

// Zero is a body that is fine so far.
const TOO_LARGE: u8 = 1;
const STALLED: u8 = 2;

/// What a bounded body ran into; shared with whoever shapes the answer.
#[derive(Clone, Default)]
pub(crate) struct BodyWatch(Arc<AtomicU8>);

impl BodyWatch {
    pub(crate) fn too_large(&self) -> bool {
        self.0.load(Ordering::Relaxed) == TOO_LARGE
    }

    pub(crate) fn stalled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == STALLED
    }
}

/// A body of at most a number of bytes, whose pieces may each take a bounded time.
pub(crate) struct BoundedBody {
    inner: Limited<Body>,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    watch: BodyWatch,
}

impl BoundedBody {
    pub(crate) fn bound(body: Body, limit: usize, patience: Duration) -> (Body, BodyWatch) {
        let watch = BodyWatch::default();
        if body.is_end_stream() {
            return (body, watch);
        }
        let bounded = Self { inner: Limited::new(body, limit), patience, waiting: None, watch: watch.clone() };
        (Body::new(bounded), watch)
    }
}

impl HttpBody for BoundedBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let outcome = Pin::new(&mut this.inner).poll_frame(cx);
        match &outcome {
            Poll::Pending => {
                let patience = this.patience;
                let timer = this.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
                if timer.as_mut().poll(cx).is_ready() {
                    this.watch.0.store(STALLED, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())));
                }
            }
            Poll::Ready(Some(Err(error))) if error.is::<LengthLimitError>() => {
                this.watch.0.store(TOO_LARGE, Ordering::Relaxed);
            }
            Poll::Ready(_) => this.waiting = None,
        }
        outcome
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Reads away a body that was refused by its announced length, within bounds, so that a client which writes all of it
/// before reading gets the answer instead of a reset connection.
pub(crate) async fn discard(headers: &HeaderMap, mut body: Body) {
    const AT_MOST: usize = 4 << 20;
    const WITHIN: Duration = Duration::from_secs(2);
    if headers.contains_key(header::EXPECT) {
        // Such a client asks first; reading would invite the body.
        return;
    }
    let reading = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > AT_MOST {
                break;
            }
        }
    };
    // Running out of time is fine: the connection is closed after the answer anyway.
    let _ = timeout(WITHIN, reading).await;
}
