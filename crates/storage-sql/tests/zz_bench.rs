use portolan_model::*;
use portolan_storage_sql::*;
use portolan_tasks::*;
use portolan_testkit::db::{Database, Engine};
use portolan_testkit::clock::SeededIds;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bench() {
    for engine in [Engine::Sqlite, Engine::Postgres, Engine::MariaDb] {
        let database = Database::fresh(engine);
        let s = SqlStorage::connect(SqlConfig::new(&database.url)).await.unwrap();
        let ids = SeededIds::new(5);
        let now = Timestamp::from_millis(1_795_219_200_000);
        let task = |i: u32| NewTask {
            id: TaskId::from_uuid(ids.uuid()), kind: "A".into(), tenant: None, chain: ChainId::from_uuid(ids.uuid()), priority: 50,
            run_at: now, start_by: None, deadline: None, max_attempts: 3, retries: 0, payload: serde_json::json!({"i": i}),
            links: TaskLinks::default(), after: vec![], unique_key: None,
            limits: if i % 5 == 0 { vec![Limit { key: format!("vm:{}", i % 50), max: 1000 }] } else { vec![] },
            requires: vec![], on_failure: None, origin: portolan_model::backup::Origin { kind: portolan_model::backup::OriginKind::User, id: None, name: String::new() },
        };
        let n = 6000;
        let t = Instant::now();
        for c in 0..n / 500 { s.enqueue(now, (0..500).map(|i| task(c * 500 + i)).collect()).await.unwrap(); }
        let enq = t.elapsed();
        let t = Instant::now();
        let (mut tc, mut tf) = (Duration::ZERO, Duration::ZERO);
        let mut done = 0;
        let mut rounds = vec![];
        loop {
            let t0 = Instant::now();
            let got = s.claim(now, ClaimRequest { worker: "w".into(), kinds: vec!["A".into()], serves: vec![], limit: 100, lease: Duration::from_secs(30) }).await.unwrap();
            tc += t0.elapsed();
            if got.is_empty() { break; }
            done += got.len();
            let t0 = Instant::now();
            let r = s.finish(now, got.into_iter().map(|c| Finish { held: c.task.held(), outcome: Outcome::Succeeded { output: serde_json::json!({}) }, next: vec![] }).collect()).await.unwrap();
            assert!(r.iter().all(|r| r.is_ok()));
            tf += t0.elapsed();
            rounds.push(t0.elapsed().as_millis());
        }
        println!("{engine:?}: {done} enqueue {enq:?} process {:?} claim {tc:?} finish {tf:?} last {:?}", t.elapsed(), &rounds[rounds.len()-3..]);
        let t = Instant::now();
        let q = TaskQuery { sort: portolan_model::query::Sort { field: Some("created".into()), direction: portolan_model::query::Direction::Descending }, page: portolan_model::query::Page::number(2, 50), ..Default::default() };
        assert_eq!(s.query(Scope::All, &q).await.unwrap().tasks.len(), 50);
        println!("   page {:?}", t.elapsed());
        let rss = std::fs::read_to_string("/proc/self/status").unwrap();
        println!("   {}", rss.lines().find(|l| l.starts_with("VmRSS")).unwrap());
    }
}
