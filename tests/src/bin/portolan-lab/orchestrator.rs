//! A list of a thousand nodes and a single start through the Orchestrator API, beside a bare hyper server that
//! serialises the same rows and keeps nothing.

use crate::measure::{heading, median};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use portolan_e2e::Site;
use portolan_http::client::{Client, Trust};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Starts and stops under way at once while the cloud is filled.
const AT_ONCE: usize = 16;
/// Clients of the measurement of many requests.
const CLIENTS: usize = 8;

/// A node as the list shows it; the bare server's whole knowledge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    cloud_type: String,
    extra: Map<String, Value>,
    id: String,
    name: String,
    private_ips: Vec<String>,
    provider: String,
    public_ips: Vec<String>,
    state: u8,
    uuid: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct List {
    nodes: Vec<Row>,
    status: String,
}

/// Times in milliseconds.
#[derive(Default)]
struct Times {
    list: Vec<f64>,
    start: Vec<f64>,
    per_second: Vec<f64>,
}

pub(crate) async fn run(quick: bool) -> Result<(), String> {
    let (nodes, rounds, each) = if quick { (100, 2, 10) } else { (1000, 5, 60) };
    let head = heading("Orchestrator");
    let mut site = Site::empty();
    site.set("listeners.orchestrator.addresses", "127.0.0.1:0");
    let server = site.start().await;
    let ours = server.orchestrator();
    fill(&ours, nodes).await?;
    let body = get(&ours).await?;
    let bare_server = Bare::start(&body)?;
    let bare = Client::new(&bare_server.url, Trust::Plain).map_err(|e| e.to_string())?;
    if get(&bare).await? != body {
        return Err("the bare server does not answer the same bytes".into());
    }
    let (mut with, mut without) = (Times::default(), Times::default());
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        alternate(&ours, nodes, each, &mut with).await?;
        alternate(&bare, nodes, each, &mut without).await?;
        with.per_second.push(many(&ours, quick).await?);
        without.per_second.push(many(&bare, quick).await?);
    }
    drop(bare_server);
    server.stop().await;

    println!("{head}");
    println!(
        "{nodes} nodes of the dummy cloud in SQLite, {} KiB a list; {rounds} interleaved rounds. *List after a change*: \
         a node was started or destroyed right before, and the list is checked to show it. *Lists*: {CLIENTS} clients \
         at once, nothing changes. *Start*: one POST, durable when it answers. The bare server is hyper with \
         `serde_json::to_vec_pretty` over rows in memory, in a process of its own, and keeps nothing durably.\n",
        body.len() / 1024
    );
    println!("| what | Portolan | bare hyper | ratio |\n| --- | ---: | ---: | ---: |");
    let row =
        |what: &str, ours: f64, bare: f64, ratio: f64| println!("| {what} | {ours:.2} | {bare:.2} | {ratio:.2} |");
    let (a, b) = (median(with.list), median(without.list));
    row("list after a change, ms, median", a, b, b / a);
    let (a, b) = (median(with.per_second), median(without.per_second));
    row("lists per second, median", a, b, a / b);
    let (a, b) = (median(with.start), median(without.start));
    row("start, ms, median", a, b, b / a);
    println!();
    Ok(())
}

/// Starts nodes until there are so many.
async fn fill(client: &Client, nodes: usize) -> Result<(), String> {
    let there = parsed(&get(client).await?)?.nodes.len();
    let mut left: Vec<usize> = (there..nodes).collect();
    while !left.is_empty() {
        let some: Vec<usize> = left.drain(..left.len().min(AT_ONCE)).collect();
        let starts = some.into_iter().map(|n| {
            let client = client.clone();
            tokio::spawn(async move { start(&client, &format!("bench-{n}")).await })
        });
        for started in starts.collect::<Vec<_>>() {
            started.await.map_err(|e| e.to_string())??;
        }
    }
    Ok(())
}

/// Lists after each of `each` starts and `each` stops, checking that every list shows what was done right before.
async fn alternate(client: &Client, nodes: usize, each: usize, times: &mut Times) -> Result<(), String> {
    for _ in 0..each {
        let begin = Instant::now();
        let node = start(client, "one-more").await?;
        times.start.push(begin.elapsed().as_secs_f64() * 1e3);
        expect(client, nodes + 1, times).await?;
        let answer = client.put("/vm/stop", &json!({ "node": node })).await.map_err(|e| e.to_string())?;
        answer.ok().map_err(|e| e.to_string())?;
        expect(client, nodes, times).await?;
    }
    Ok(())
}

async fn expect(client: &Client, nodes: usize, times: &mut Times) -> Result<(), String> {
    let begin = Instant::now();
    let body = get(client).await?;
    times.list.push(begin.elapsed().as_secs_f64() * 1e3);
    let found = parsed(&body)?.nodes.len();
    if found == nodes { Ok(()) } else { Err(format!("a stale list: {found} nodes instead of {nodes}")) }
}

/// Lists per second by several clients at once.
async fn many(client: &Client, quick: bool) -> Result<f64, String> {
    let span = Duration::from_millis(if quick { 300 } else { 2000 });
    let begin = Instant::now();
    let clients = (0..CLIENTS).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut count = 0_u32;
            while begin.elapsed() < span {
                get(&client).await?;
                count += 1;
            }
            Ok::<_, String>(count)
        })
    });
    let mut sum = 0;
    for count in clients.collect::<Vec<_>>() {
        sum += count.await.map_err(|e| e.to_string())??;
    }
    Ok(f64::from(sum) / begin.elapsed().as_secs_f64())
}

async fn start(client: &Client, name: &str) -> Result<String, String> {
    let wish = json!({ "name": name, "image": "1", "size": "1" });
    let answer = client.post("/vm/start", &wish).await.map_err(|e| e.to_string())?;
    let body: Value = answer.ok().map_err(|e| e.to_string())?.json().map_err(|e| e.to_string())?;
    body["nodes"]["id"].as_str().map(str::to_owned).ok_or_else(|| format!("no node: {body}"))
}

async fn get(client: &Client) -> Result<Bytes, String> {
    let answer = client.get("/nodes").await.map_err(|e| e.to_string())?;
    Ok(answer.ok().map_err(|e| e.to_string())?.body)
}

fn parsed(body: &[u8]) -> Result<List, String> {
    serde_json::from_slice(body).map_err(|e| e.to_string())
}

/// The bare server as a child process.
struct Bare {
    child: Child,
    url: String,
}

impl Bare {
    fn start(list: &[u8]) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut child = Command::new(own)
            .arg("bare")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        child.stdin.take().ok_or("no input")?.write_all(list).map_err(|e| e.to_string())?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("no output")?;
        BufReader::new(out).read_line(&mut line).map_err(|e| e.to_string())?;
        Ok(Self { child, url: line.trim().to_owned() })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bare server: takes the list from its input, prints its address, serves until it is killed.
pub(crate) async fn bare() -> Result<(), String> {
    let list: List = serde_json::from_reader(std::io::stdin().lock()).map_err(|e| e.to_string())?;
    let rows = Arc::new(Mutex::new(list.nodes));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
    println!("http://{}", listener.local_addr().map_err(|e| e.to_string())?);
    loop {
        let (stream, _) = listener.accept().await.map_err(|e| e.to_string())?;
        let rows = Arc::clone(&rows);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&rows), request));
            // A client that hangs up ends its connection only.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(rows: Arc<Mutex<Vec<Row>>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let method = request.method().clone();
    request.into_body().collect().await?;
    let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
    let body = match method {
        Method::POST => {
            let mut row = rows[0].clone();
            row.id = (rows.len() + 1).to_string();
            rows.push(row.clone());
            serde_json::to_vec_pretty(&json!({ "nodes": row, "status": "ok" }))
        }
        Method::PUT => {
            rows.pop();
            serde_json::to_vec_pretty(&json!({ "result": "deleted", "status": "ok" }))
        }
        _ => serde_json::to_vec_pretty(&Borrowed { nodes: &rows, status: "ok" }),
    };
    let response = Response::builder().header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from(body.unwrap_or_default()))).unwrap_or_default())
}

#[derive(Serialize)]
struct Borrowed<'a> {
    nodes: &'a [Row],
    status: &'a str,
}
