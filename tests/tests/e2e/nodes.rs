//! Nodes that are started through the Orchestrator API: the same machines in every dialect, on every database; kept
//! apart by tenant; and neither lost nor made twice when the server is killed while it makes them.

use hyper::Method;
use hyper::header::{HeaderMap, HeaderValue};
use portolan_e2e::{Api, PASSWORD, PATIENCE, Server, Site, rounds};
use portolan_http::client::Client;
use portolan_model::{Scope, Secret, VirtualMachine};
use portolan_storage::{DriverDocument, Query, StorageExt};
use portolan_storage_sql::{SqlConfig, SqlStorage};
use portolan_testkit::db::{Database, Engine};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How many nodes the dummy has at first.
const AT_FIRST: usize = 2;

fn wish(name: &str) -> Value {
    json!({ "name": name, "image": "1", "size": "1" })
}

/// The names of a caller's nodes by their ids. The dummy names its nodes itself.
async fn nodes(client: &Client) -> BTreeMap<String, String> {
    let answer = client.get("/nodes").await.unwrap().ok().unwrap();
    let body: Value = answer.json().unwrap();
    let nodes = body["nodes"].as_array().unwrap();
    let all: BTreeMap<String, String> = nodes.iter().map(|n| (text(&n["id"]), text(&n["name"]))).collect();
    assert_eq!(all.len(), nodes.len(), "an id is given twice: {nodes:#?}");
    all
}

/// The names of the machines that a vPlus session sees and that are there, by their native ids.
async fn machines(api: &Api) -> BTreeMap<String, String> {
    let vms = api.get("/virtual-machines").await;
    let there: Vec<&Value> = vms.as_array().unwrap().iter().filter(|vm| vm["present"] != false).collect();
    let all: BTreeMap<String, String> = there.iter().map(|vm| (text(&vm["uuid"]), text(&vm["name"]))).collect();
    assert_eq!(all.len(), there.len(), "a node is several machines: {there:#?}");
    all
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// The management API as `admin`; what it made.
async fn make(server: &Server, path: &str, body: &Value) -> Value {
    let ops = server.management().basic("admin", &Secret::new(PASSWORD));
    ops.post(&format!("/manage/v1{path}"), body).await.unwrap().ok().unwrap().json().unwrap()
}

/// A token of a new tenant, and a login of it.
async fn tenant(server: &Server, name: &str) -> Secret {
    make(server, "/tenants", &json!({ "name": name })).await;
    let account = json!({ "login": name, "password": PASSWORD, "role": "OPERATOR", "tenant": name });
    make(server, "/accounts", &account).await;
    let token = make(server, "/tokens", &json!({ "name": name, "role": "OPERATOR", "tenant": name })).await;
    Secret::new(text(&token["token"]))
}

/// One model behind two dialects, on a database.
async fn across(site: Site) {
    let server = site.start().await;
    let (reds, blues) = (tenant(&server, "reds").await, tenant(&server, "blues").await);
    let red = server.orchestrator().bearer(&reds);
    let started: Value = red.post("/vm/start", &wish("red-1")).await.unwrap().ok().unwrap().json().unwrap();
    let (id, name) = (text(&started["nodes"]["id"]), text(&started["nodes"]["name"]));
    server.orchestrator().bearer(&blues).post("/vm/start", &wish("blue-1")).await.unwrap().ok().unwrap();
    server.kill();

    // After a kill as before it.
    let server = site.start().await;
    let of_red = BTreeMap::from([(id.clone(), name.clone())]);
    let (red, blue) = (server.orchestrator().bearer(&reds), server.orchestrator().bearer(&blues));
    assert_eq!(nodes(&red).await, of_red);
    let of_blue = nodes(&blue).await;
    assert!(of_blue.len() == 1 && !of_blue.contains_key(&id), "{of_blue:?}");
    // In vPlus it is a machine: by a session, and by the same token.
    let mut guids = Vec::new();
    for api in [
        Api::login(server.stranger(&site), "reds", PASSWORD).await,
        Api { client: server.stranger(&site).bearer(&reds) },
    ] {
        assert_eq!(machines(&api).await, of_red);
        guids.push(text(&api.vm(&name).await["guid"]));
        assert_eq!(api.get("/session/user").await["login"].as_str().map(str::is_empty), Some(false));
    }
    assert_eq!(guids[0], guids[1]);
    // The other tenant's token sees neither the node nor the machine, and cannot touch them.
    let others = Api { client: server.stranger(&site).bearer(&blues) };
    assert_eq!(machines(&others).await, of_blue);
    let answer = others.client.get(&format!("/virtual-machines/{}", guids[0])).await.unwrap();
    assert_eq!(answer.status, 404, "{}", answer.text());
    assert_eq!(blue.put("/vm/stop", &json!({ "node": id })).await.unwrap().status, 400);
    assert_eq!(nodes(&red).await.len(), 1);
    // Who has no tenant sees all.
    let admin = server.api(&site).await;
    admin.sync().await;
    assert_eq!(machines(&admin).await, nodes(&server.orchestrator()).await);
    assert_eq!(nodes(&server.orchestrator()).await.len(), AT_FIRST + 2);
    red.put("/vm/stop", &json!({ "node": id })).await.unwrap().ok().unwrap();
    assert_eq!((nodes(&red).await.len(), machines(&others).await), (0, of_blue));
    server.stop().await;
}

/// Two accounts of one provider have the same ids, and give them again: told apart all the same. Names and users are
/// whatever people write.
async fn told_apart(mut site: Site) {
    site.set("cloud.north.driver", "dummy");
    site.set("cloud.south.driver", "dummy");
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let of = async |cloud: &str| -> BTreeMap<String, String> {
        let vms = api.get("/virtual-machines").await;
        let of_cloud = vms
            .as_array()
            .unwrap()
            .iter()
            .filter(|vm| vm["present"] != false && vm["hvManager"]["url"] == format!("dummy://{cloud}"));
        of_cloud.map(|vm| (text(&vm["uuid"]), text(&vm["guid"]))).collect()
    };
    let (north, south) = (of("north").await, of("south").await);
    assert_eq!(north.keys().collect::<Vec<_>>(), south.keys().collect::<Vec<_>>(), "the same ids");
    assert_eq!(north.len(), AT_FIRST, "{:#}", api.get("/virtual-machines").await);
    assert!(north.values().all(|guid| !south.values().any(|other| other == guid)), "{north:?} {south:?}");
    let client = server.orchestrator();
    let post = async |cloud: &str, name: &str| {
        let wish = json!({ "name": name, "image": "1", "size": "1", "keyname": "k\u{fc}rzel", "metadata": {
            "deep": [{ "er": [null, 1.5, "\u{1f6a2}"] }], "": "" } });
        let answer = client.post(&format!("/vm/start/{cloud}"), &wish).await.unwrap().ok().unwrap();
        text(&answer.json::<Value>().unwrap()["nodes"]["id"])
    };
    let long = "\u{263a}\u{fc}".repeat(127);
    let id = post("north", &long).await;
    assert_eq!(post("south", "plain").await, id, "they count alike");
    assert_ne!(of("north").await[&id], of("south").await[&id]);
    // Held in the one, free in the other.
    let user = json!({ "node": id, "user": long, "vm_type": "gal\u{e4}xy" });
    client.put("/vm/action/assign/north", &user).await.unwrap().ok().unwrap();
    let status = async |cloud: &str| {
        let status: Value = client.get(&format!("/vm/status/{cloud}")).await.unwrap().json().unwrap();
        let held = status["nodes"].as_array().unwrap().iter().find(|node| node["id_vm"] == *id).unwrap().clone();
        (text(&held["status_desc"]), text(&held["user"]))
    };
    assert_eq!(status("north").await, ("ASSIGNED".into(), long.clone()));
    assert_eq!(status("south").await, ("FREE".into(), String::new()));
    // The id of a node that was destroyed comes again: another machine, which nobody holds.
    let (before, other) = (of("north").await[&id].clone(), of("south").await);
    client.put("/vm/stop/north", &json!({ "node": id })).await.unwrap().ok().unwrap();
    assert_eq!((of("north").await.get(&id), of("south").await), (None, other.clone()));
    assert_eq!(post("north", "again").await, id);
    assert_ne!(of("north").await[&id], before);
    assert_eq!(of("south").await, other);
    assert_eq!(status("north").await, ("FREE".into(), String::new()));
    server.stop().await;
}

async fn on(engine: Engine) {
    let database = Database::fresh(engine);
    let mut site = Site::empty();
    site.set("database.url", &database.url);
    across(site).await;
    let database = Database::fresh(engine);
    let mut site = Site::empty();
    site.set("database.url", &database.url);
    told_apart(site).await;
}

#[tokio::test]
async fn a_node_is_one_machine_of_its_tenant_on_sqlite() {
    across(Site::empty()).await;
    told_apart(Site::empty()).await;
}

#[tokio::test]
async fn a_node_is_one_machine_of_its_tenant_on_postgresql() {
    on(Engine::Postgres).await;
}

#[tokio::test]
async fn a_node_is_one_machine_of_its_tenant_on_mariadb() {
    on(Engine::MariaDb).await;
}

/// Sends a request under a key.
async fn named(client: &Client, (method, path): (Method, &str), key: &str, body: &Value) -> Option<(u16, Value)> {
    let mut headers = HeaderMap::new();
    headers.insert("idempotency-key", HeaderValue::from_str(key).unwrap());
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let answer = client.send(method, path, headers, body.to_string().into()).await.ok()?;
    Some((answer.status.as_u16(), answer.json().ok()?))
}

/// Sends requests side by side, kills the server while it works on them, starts it again, and sends those that were
/// not answered until they are. Gives the answers in the order of the requests.
async fn struck(site: &Site, server: Server, after: Duration, what: Method, all: &[(String, Value)]) -> (Server, Work) {
    let path = if what == Method::POST { "/vm/start" } else { "/vm/stop" };
    let send = |server: &Server, n: usize| {
        let (client, method, (key, body)) = (server.orchestrator(), what.clone(), all[n].clone());
        async move { (n, named(&client, (method, path), &key, &body).await) }
    };
    let mut answers: Vec<Option<Value>> = vec![None; all.len()];
    let mut flying = JoinSet::new();
    (0..all.len()).for_each(|n| drop(flying.spawn(send(&server, n))));
    // A wait for an instant, not for something to happen: where the kill strikes is the point.
    tokio::time::sleep(after).await;
    server.kill();
    let mut cut = 0;
    while let Some(done) = flying.join_next().await {
        match done.unwrap() {
            (n, Some((200, answer))) => answers[n] = Some(answer),
            (_, Some((status, answer))) => panic!("{status}: {answer}"),
            (_, None) => cut += 1,
        }
    }
    let unrecorded = unrecorded(site).await;
    let server = site.start().await;
    let begin = Instant::now();
    while answers.iter().any(Option::is_none) {
        assert!(begin.elapsed() < PATIENCE, "some requests are never answered");
        (0..all.len()).filter(|n| answers[*n].is_none()).for_each(|n| drop(flying.spawn(send(&server, n))));
        while let Some(done) = flying.join_next().await {
            match done.unwrap() {
                (n, Some((200, answer))) => answers[n] = Some(answer),
                // The first sending counts as being worked on until its time is over.
                (_, Some((409, _))) => tokio::time::sleep(Duration::from_millis(50)).await,
                (_, other) => panic!("{other:?}"),
            }
        }
    }
    (server, Work { answers: answers.into_iter().flatten().collect(), cut, unrecorded })
}

/// What came of requests that were struck.
struct Work {
    answers: Vec<Value>,
    /// How many were under way when the server was killed.
    cut: usize,
    /// How many nodes had been made by then, and not recorded.
    unrecorded: usize,
}

/// How many nodes the cloud of a stopped server has that are no machine yet: made, and not recorded.
async fn unrecorded(site: &Site) -> usize {
    let store = SqlStorage::connect(SqlConfig::sqlite(&site.data().join("portolan.db"))).await.unwrap();
    let machines = store.list_of::<VirtualMachine>(Scope::All, Query::default()).await.unwrap().items;
    let documents = store.list_of::<DriverDocument>(Scope::All, Query::default()).await.unwrap().items;
    let known = |id: &str| machines.iter().any(|vm| vm.external.native_id == id && vm.observed.present);
    let made = documents.iter().filter(|d| d.key.starts_with("node-")).map(|d| text(&d.value.value["id"]));
    let made = made.filter(|id| !known(id)).count();
    store.close().await;
    made
}

#[tokio::test]
async fn starts_and_stops_that_are_killed_are_done_once() {
    /// Requests of a round.
    const AT_ONCE: usize = 12;
    let mut site = Site::empty();
    site.set("tasks.lease", "5s");
    let mut server = site.start().await;
    server.api(&site).await.sync().await;
    let (mut cut, mut unrecorded, mut span) = (0, 0, Duration::from_millis(60));
    let wanted = rounds(1);
    let mut round = 0;
    // Until kills have struck between a call of the cloud and its record so often, within bounds.
    while unrecorded < wanted as usize || round < 3 {
        assert!(round < 20 * wanted + 20, "no kill strikes between call and record: {unrecorded} in {round} rounds");
        // From right after the requests went out to about when the last is answered, in an order that mixes.
        let at = |turn: u64| span.mul_f64(((round * 7 + turn * 3) % 10) as f64 / 10.0);
        let starts: Vec<(String, Value)> =
            (0..AT_ONCE).map(|n| (format!("start-{round}-{n}"), wish(&format!("node-{round}-{n}")))).collect();
        let (next, started) = struck(&site, server, at(0), Method::POST, &starts).await;
        server = next;
        let there = nodes(&server.orchestrator()).await;
        assert_eq!(there.len(), AT_FIRST + AT_ONCE, "{there:#?}");
        let ids: BTreeSet<String> = started.answers.iter().map(|a| text(&a["nodes"]["id"])).collect();
        assert!(ids.len() == AT_ONCE && ids.iter().all(|id| there.contains_key(id)), "{ids:?} of {there:#?}");
        assert_eq!(machines(&server.api(&site).await).await, there, "a node is a machine, and nothing else is");
        // Sent once more, each is answered with its own node.
        for ((key, wish), answer) in starts.iter().zip(&started.answers) {
            let again = named(&server.orchestrator(), (Method::POST, "/vm/start"), key, wish).await;
            assert_eq!(again, Some((200, answer.clone())));
        }

        let stops: Vec<(String, Value)> =
            ids.iter().map(|id| (format!("stop-{round}-{id}"), json!({ "node": id }))).collect();
        let (next, stopped) = struck(&site, server, at(1), Method::PUT, &stops).await;
        server = next;
        let there = nodes(&server.orchestrator()).await;
        assert_eq!(there.keys().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(machines(&server.api(&site).await).await, there);
        // Kills that strike nothing come sooner.
        for work in [&started, &stopped] {
            span = span.mul_f64(if work.cut == 0 { 0.8 } else { 1.05 });
        }
        cut += started.cut + stopped.cut;
        unrecorded += started.unrecorded;
        round += 1;
    }
    println!(
        "soak: kill -9 in starts and stops of nodes: {} kills of {AT_ONCE} requests each; {cut} requests were under \
         way, {unrecorded} nodes were made and not yet recorded; none lost, none twice",
        2 * round
    );
    server.stop().await;
}

#[tokio::test]
async fn a_thousand_starts_at_once() {
    // In a development build, where it would take minutes, a part of them.
    let many = if rounds(0) == 0 { 250 } else { 1000 };
    let site = Site::empty();
    let server = site.start().await;
    let client = server.orchestrator().timeout(PATIENCE);
    let mut flying = JoinSet::new();
    for n in 0..many {
        let client = client.clone();
        flying.spawn(async move {
            loop {
                let answer = client.post("/vm/start", &wish(&format!("n-{n}"))).await.unwrap();
                let body: Value = answer.json().unwrap();
                // On a slow machine the last ones are told to ask again.
                if answer.status == 500 && text(&body["message"]).contains("send the same request again") {
                    continue;
                }
                assert_eq!(answer.status, 200, "{body}");
                return text(&body["nodes"]["id"]);
            }
        });
    }
    let mut ids = flying.join_all().await;
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), many, "two starts were answered with one node");
    let there = nodes(&client).await;
    assert_eq!(there.len(), AT_FIRST + many);
    server.api(&site).await.sync().await;
    assert_eq!(machines(&server.api(&site).await).await, there);
    server.stop().await;
}
