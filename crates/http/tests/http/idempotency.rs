use crate::support::{SHORT, edge};
use axum::Router;
use axum::body::Body;
use axum::extract::Extension;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use http_body_util::BodyExt;
use portolan_http::idempotency::{Begun, Hold, Identify, KeyedRequest, LONGEST_ANSWER, PortError, Replays};
use portolan_http::{Edge, Fault, Idempotency};
use portolan_model::RequestKey;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use uuid::Uuid;

/// Answers in memory, and failures on cue.
#[derive(Default)]
struct Store {
    known: Mutex<HashMap<String, Entry>>,
    begins: AtomicU64,
    extends: AtomicU64,
    /// How many of the next calls fail.
    failing: AtomicU64,
}

#[derive(Clone)]
struct Entry {
    request: Vec<u8>,
    held: bool,
    answer: Option<Vec<u8>>,
}

impl Store {
    fn check(&self) -> Result<(), PortError> {
        let left = self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if left.is_ok() { Err("the store is away".into()) } else { Ok(()) }
    }
}

struct Shared(Arc<Store>);

struct Held {
    store: Arc<Store>,
    name: String,
}

impl Held {
    fn with(&self, change: impl FnOnce(&mut Entry)) {
        change(self.store.known.lock().unwrap().get_mut(&self.name).unwrap());
    }
}

#[async_trait::async_trait]
impl Replays for Shared {
    async fn begin(&self, asked: &KeyedRequest<'_>) -> Result<Begun, PortError> {
        self.0.begins.fetch_add(1, Ordering::SeqCst);
        self.0.check()?;
        let name = format!("{} {} {}", asked.dialect, asked.sender, asked.key);
        let request = [asked.method.as_bytes(), asked.target.as_bytes(), asked.body].join(&b'\n');
        let mut known = self.0.known.lock().unwrap();
        let entry = known.entry(name.clone()).or_insert(Entry { request: request.clone(), held: false, answer: None });
        Ok(match &entry.answer {
            _ if entry.request != request => Begun::Mismatch,
            Some(answer) => Begun::Replay(answer.clone()),
            None if entry.held => Begun::InFlight,
            None => {
                entry.held = true;
                Begun::Fresh(Box::new(Held { store: Arc::clone(&self.0), name }))
            }
        })
    }
}

#[async_trait::async_trait]
impl Hold for Held {
    fn request(&self) -> RequestKey {
        RequestKey(Uuid::from_u128(u128::from(self.name.bytes().map(u64::from).sum::<u64>())))
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn extend(&self) -> Result<bool, PortError> {
        self.store.extends.fetch_add(1, Ordering::SeqCst);
        self.store.check()?;
        Ok(true)
    }

    async fn complete(&self, answer: &[u8]) -> Result<bool, PortError> {
        self.store.check()?;
        self.with(|entry| entry.answer = Some(answer.to_vec()));
        Ok(true)
    }

    async fn release(&self) -> Result<(), PortError> {
        self.store.check()?;
        self.with(|entry| entry.held = false);
        Ok(())
    }
}

/// The sender is who says so.
struct ByHeader;

#[async_trait::async_trait]
impl Identify for ByHeader {
    async fn sender(&self, parts: &mut Parts) -> Result<Option<String>, PortError> {
        match parts.headers.get("x-who").map(|v| v.to_str().unwrap()) {
            Some("trouble") => Err("the store is away".into()),
            who => Ok(who.map(str::to_owned)),
        }
    }
}

struct Site {
    store: Arc<Store>,
    router: Router,
}

fn site(edge: Edge, router: Router) -> Site {
    let store = Arc::new(Store::default());
    let once = Idempotency::new("test", Arc::new(Shared(Arc::clone(&store))), Arc::new(ByHeader));
    Site { router: edge.wrap(once.wrap(router)), store }
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Without what is new with every answer.
    fn core(mut self) -> Self {
        self.headers.remove("x-request-id");
        self.headers.remove("idempotency-replayed");
        self
    }
}

fn ask(method: &str, target: &str, who: Option<&str>, key: Option<&str>, body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(target);
    if let Some(who) = who {
        request = request.header("x-who", who);
    }
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

fn bob(target: &str, key: &str, body: &str) -> Request<Body> {
    ask("POST", target, Some("bob"), Some(key), body)
}

impl Site {
    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }
}

/// Counts, and says the count.
fn counting() -> Router {
    let count = Arc::new(AtomicU64::new(0));
    let handler = move |body: String| {
        let n = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let mut response = (StatusCode::CREATED, format!("{n} {body}")).into_response();
            for cookie in ["a=1; HttpOnly", "b=2"] {
                response.headers_mut().append(header::SET_COOKIE, cookie.parse().unwrap());
            }
            response.headers_mut().insert(header::LOCATION, format!("/things/{n}").parse().unwrap());
            response
        }
    };
    Router::new().route("/things", any(handler.clone())).route("/others", any(handler))
}

#[tokio::test]
async fn a_repetition_gets_the_first_answer() {
    let site = site(edge(), counting());
    let first = site.send(bob("/things?a=1", "k", "body")).await;
    assert_eq!((first.status, first.text()), (201, "1 body"));
    assert!(!first.headers.contains_key("idempotency-replayed"));
    let again = site.send(bob("/things?a=1", "\"k\"", "body")).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_ne!(again.headers["x-request-id"], first.headers["x-request-id"]);
    assert_eq!(again.headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(again.core(), first.core());
    for other in [
        bob("/things?a=1", "k", "Body"),
        bob("/things?a=2", "k", "body"),
        bob("/others?a=1", "k", "body"),
        ask("PUT", "/things?a=1", Some("bob"), Some("k"), "body"),
    ] {
        assert_eq!(site.send(other).await.status, 422);
    }
    // Somebody else, another key, no key, nobody known, and methods that change nothing.
    for (n, fresh) in [
        ask("POST", "/things?a=1", Some("eve"), Some("k"), "body"),
        bob("/things?a=1", "l", "body"),
        ask("POST", "/things?a=1", Some("bob"), None, "body"),
        ask("POST", "/things?a=1", None, Some("k"), "body"),
        ask("GET", "/things?a=1", Some("bob"), Some("k"), "body"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(site.send(fresh).await.text(), format!("{} body", n + 2));
    }
}

#[tokio::test]
async fn what_is_no_key_and_what_cannot_be_looked_up() {
    let site = site(edge().body_limit(10), counting());
    for bad in ["", "a b", "\"a", "ü"] {
        let refused = site.send(bob("/things", bad, "")).await;
        assert_eq!(refused.status, 400, "{bad:?}");
        assert!(refused.text().contains("Idempotency-Key"));
    }
    let mut twice = bob("/things", "a", "");
    twice.headers_mut().append("idempotency-key", "a".parse().unwrap());
    assert_eq!(site.send(twice).await.status, 400);
    assert_eq!(site.send(ask("POST", "/things", Some("trouble"), Some("k"), "")).await.status, 503);
    assert_eq!(site.send(bob("/things", "k", "more than ten")).await.status, 413);
    assert_eq!(site.store.begins.load(Ordering::SeqCst), 0);
    site.store.failing.store(1, Ordering::SeqCst);
    assert_eq!(site.send(bob("/things", "k", "")).await.status, 503);
    assert_eq!(site.send(bob("/things", "k", "")).await.text(), "1 ", "nothing was done before");
}

/// A handler that answers when it is let.
fn waiting() -> (Router, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let (count, opened) = (Arc::new(AtomicU64::new(0)), Arc::clone(&gate));
    let handler = move || {
        let (gate, n) = (Arc::clone(&opened), count.fetch_add(1, Ordering::SeqCst) + 1);
        async move {
            gate.acquire().await.unwrap().forget();
            n.to_string()
        }
    };
    (Router::new().route("/slow", post(handler)), gate)
}

/// The answer to a request, once it is there.
async fn replayed(site: &Site, request: impl Fn() -> Request<Body>) -> Answer {
    loop {
        let answer = site.send(request()).await;
        if answer.status != 409 {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_same_request_at_the_same_time_is_told_to_wait() {
    let (router, gate) = waiting();
    let site = site(edge(), router);
    let request = || bob("/slow", "k", "");
    let first = tokio::spawn(site.router.clone().oneshot(request()));
    while site.store.begins.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let second = site.send(request()).await;
    assert_eq!((second.status, &second.headers["retry-after"]), (409, &"2".parse().unwrap()));
    assert_eq!(site.send(bob("/slow", "k", "other")).await.status, 422);
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(site.send(request()).await.text(), "1");
}

#[tokio::test]
async fn work_goes_on_without_its_client_and_its_answer_is_kept() {
    let (router, gate) = waiting();
    let site = site(edge(), router);
    let request = || bob("/slow", "k", "");
    let client = tokio::spawn(site.router.clone().oneshot(request()));
    while site.store.begins.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    gate.add_permits(1);
    let answer = replayed(&site, request).await;
    assert_eq!((answer.text(), &answer.headers["idempotency-replayed"]), ("1", &"true".parse().unwrap()));
}

#[tokio::test]
async fn work_goes_on_when_the_time_of_its_route_is_over() {
    let (router, gate) = waiting();
    let site = site(edge().timeout(Some(SHORT)), router);
    let request = || bob("/slow", "k", "");
    assert_eq!(site.send(request()).await.status, 503);
    assert_eq!(site.send(request()).await.status, 409);
    gate.add_permits(1);
    assert_eq!(replayed(&site, request).await.text(), "1");
}

#[tokio::test]
async fn some_answers_are_not_kept_and_the_next_has_the_same_name() {
    let count = Arc::new(AtomicU64::new(0));
    let handler = move |Extension(key): Extension<RequestKey>, what: String| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = format!("{n} {}", key.0);
            match what.as_str() {
                "panic" if n < u64::MAX => panic!("no"),
                "fault" => Fault::Failed.into_response(),
                status => (StatusCode::from_u16(status.parse().unwrap()).unwrap(), body).into_response(),
            }
        }
    };
    let site = site(edge(), Router::new().route("/", post(handler)));
    for what in ["500", "503", "401", "403", "407", "408", "425", "429", "panic", "fault"] {
        let (first, again) = (site.send(bob("/", what, what)).await, site.send(bob("/", what, what)).await);
        assert_eq!(first.status, again.status, "{what}");
        assert!(!again.headers.contains_key("idempotency-replayed"), "{what}");
        if let (Some((one, key)), Some((two, same))) = (first.text().split_once(' '), again.text().split_once(' ')) {
            assert!(what.parse::<u16>().is_err() || (one != two && key == same), "{what}: {first:?} {again:?}");
        }
    }
    for what in ["200", "202", "302", "400", "404", "409", "410", "422"] {
        let (first, again) = (site.send(bob("/", what, what)).await, site.send(bob("/", what, what)).await);
        assert_eq!(again.headers["idempotency-replayed"], "true", "{what}");
        assert_eq!(first.core(), again.core(), "{what}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_goes_out_once() {
    let handler = |length: String| async move { vec![b'x'; length.parse().unwrap()] };
    let site = site(edge(), Router::new().route("/", post(handler)));
    for (extra, kept) in [(0, true), (1, false)] {
        let length = (LONGEST_ANSWER + extra).to_string();
        let request = || bob("/", &length, &length);
        let first = site.send(request()).await;
        assert_eq!((first.status, first.body.len()), (200, LONGEST_ANSWER + extra));
        assert!(first.body.iter().all(|b| *b == b'x'));
        let again = site.send(request()).await;
        if kept {
            assert_eq!(again.core(), first.core());
        } else {
            assert_eq!((again.status, again.headers.get("retry-after")), (409, None));
            assert!(again.text().contains("carried out"));
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_fault_and_its_work_is_not_repeated() {
    let handler = || async {
        let pieces = [Ok("begin"), Err(std::io::Error::other("broken"))];
        Response::new(Body::from_stream(futures_util::stream::iter(pieces)))
    };
    let site = site(edge(), Router::new().route("/", post(handler)));
    assert_eq!(site.send(bob("/", "k", "")).await.status, 500);
    assert_eq!(site.send(bob("/", "k", "")).await.status, 409);
}

#[tokio::test(start_paused = true)]
async fn long_work_gives_signs_of_life_and_ends() {
    let handler = |seconds: String| async move {
        tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
        "done"
    };
    let site = site(edge().timeout(None), Router::new().route("/", post(handler)));
    assert_eq!(site.send(bob("/", "a", "95")).await.text(), "done");
    assert_eq!(site.store.extends.load(Ordering::SeqCst), 9);
    assert_eq!(site.send(bob("/", "b", "599")).await.text(), "done");
    assert_eq!(site.send(bob("/", "c", "601")).await.status, 503);
    assert!(!site.store.known.lock().unwrap()["test bob c"].held, "let go");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_for_a_moment_keeps_the_answer() {
    let (router, gate) = waiting();
    let site = site(edge(), router);
    for (failures, kept) in [(2, true), (3, false)] {
        let key = failures.to_string();
        let sending = tokio::spawn(site.router.clone().oneshot(bob("/slow", &key, "")));
        while !site.store.known.lock().unwrap().contains_key(&format!("test bob {key}")) {
            tokio::task::yield_now().await;
        }
        site.store.failing.store(failures, Ordering::SeqCst);
        gate.add_permits(1);
        assert_eq!(sending.await.unwrap().unwrap().status(), 200, "the work is done, the answer goes out");
        let again = site.send(bob("/slow", &key, "")).await;
        assert_eq!(again.status, if kept { 200 } else { 409 });
    }
}
