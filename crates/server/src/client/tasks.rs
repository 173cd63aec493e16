//! `portolan task`.

use super::api::{Api, encoded, query};
use super::nothing;
use super::render::{Column, Show, text};
use crate::ask::confirm;
use crate::cli::TaskCommand;
use crate::error::Failure;
use crate::output;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::time::Duration;

/// How often the server is asked how far something is.
const EVERY: Duration = Duration::from_secs(1);

const COLUMNS: &[Column] = &[
    Column { title: "TASK", path: "id", show: Show::Text, rank: 8 },
    Column { title: "KIND", path: "kind", show: Show::Text, rank: 9 },
    Column { title: "STATE", path: "state", show: Show::Word, rank: 9 },
    Column { title: "%", path: "progress.percent", show: Show::Number, rank: 7 },
    Column { title: "ABOUT", path: "vm_name", show: Show::Text, rank: 6 },
    Column { title: "BY", path: "origin", show: Show::Text, rank: 2 },
    Column { title: "CREATED", path: "created", show: Show::Time, rank: 5 },
    Column { title: "FINISHED", path: "finished", show: Show::Time, rank: 3 },
    Column { title: "WAITS FOR", path: "wait_reason", show: Show::Text, rank: 3 },
    Column { title: "ERROR", path: "error", show: Show::Text, rank: 4 },
];

pub(super) async fn run(command: TaskCommand, api: &Api) -> Result<(), Failure> {
    let at = |task: &str| format!("/tasks/{}", encoded(task));
    match command {
        TaskCommand::List { state, kind, platform, limit } => {
            let parameters =
                [("state", state.as_deref()), ("kind", kind.as_deref()), ("platform", platform.as_deref())];
            api.print_list(&api.list(&query("/tasks", &parameters), limit).await?, COLUMNS)
        }
        TaskCommand::Show { task, follow: false } => api.print_one(&api.get(&at(&task)).await?),
        TaskCommand::Show { task, follow: true } => follow(api, &at(&task)).await,
        TaskCommand::Cancel { task } => {
            confirm(&format!("Cancel the task {task}?"), api.args.yes)?;
            let after = api.post(&format!("{}/cancel", at(&task)), &nothing()).await?;
            let words = match ended(&after) {
                true => format!("The task is {}.", text(&after, "state").to_lowercase()),
                false => "The task is asked to stop.".to_owned(),
            };
            api.done(&after, words)
        }
        TaskCommand::Retry { task } => {
            let after = api.post(&format!("{}/retry", at(&task)), &nothing()).await?;
            api.done(&after, format!("The task {} is {}.", text(&after, "id"), text(&after, "state").to_lowercase()))
        }
        TaskCommand::Abandon { task } => {
            confirm(&format!("Give the task {task} up? What it has left behind stays."), api.args.yes)?;
            let after = api.post(&format!("{}/abandon", at(&task)), &nothing()).await?;
            api.done(&after, format!("The task is {}.", text(&after, "state").to_lowercase()))
        }
        TaskCommand::Drain { wait, undo } => drain(api, wait, undo).await,
    }
}

async fn drain(api: &Api, wait: bool, undo: bool) -> Result<(), Failure> {
    let mut now = api.put("/tasks/drain", &json!({ "draining": !undo })).await?;
    if wait {
        let bar = output::spinner("waiting for running tasks");
        while running(&now) > 0 {
            bar.set_message(format!("{} tasks run still", running(&now)));
            tokio::time::sleep(EVERY).await;
            now = api.get("/tasks/drain").await?;
            if now.get("draining").and_then(Value::as_bool) == Some(false) {
                bar.finish_and_clear();
                return Err(Failure::new("somebody has undone the draining meanwhile"));
            }
        }
        bar.finish_and_clear();
    }
    let words = match (undo, running(&now)) {
        (true, _) => "Tasks are started again.".to_owned(),
        (false, 0) => "No more tasks are started, and none runs.".to_owned(),
        (false, n) => {
            format!("No more tasks are started; {n} run still. `portolan task drain --undo` starts them again.")
        }
    };
    api.done(&now, words)
}

fn running(drain: &Value) -> u64 {
    drain.get("running").and_then(Value::as_u64).unwrap_or(0)
}

/// Says which task has been begun, or shows it until its chain has ended; then its last link is printed.
pub(super) async fn begun(api: &Api, task: &Value, whole: bool) -> Result<(), Failure> {
    let (id, chain) = (text(task, "id"), text(task, "chain"));
    if !whole {
        return api.done(task, format!("Begun; `portolan task show {id} --follow` shows how far it is."));
    }
    let at = |task: &Value| format!("/tasks/{}", encoded(&text(task, "id")));
    let mut last = watch(api, &at(task)).await?;
    // What follows in the chain, but for listings at its end, which are nobody's to wait for.
    while went_well(&last).is_ok() {
        let links = api.list(&query("/tasks", &[("chain", Some(&chain))]), u64::MAX).await?;
        let links = links.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let own = |t: &&Value| text(t, "kind") != portolan_model::task_kind::INVENTORY_SYNC;
        match links.iter().filter(own).find(|t| !ended(t)) {
            Some(next) => last = watch(api, &at(next)).await?,
            None => {
                // It may have come and gone between two looks. Links are listed newest first.
                last = links.iter().find(own).cloned().unwrap_or(last);
                break;
            }
        }
    }
    api.print_one(&last)?;
    went_well(&last)
}

/// Shows a task's progress until it ends, and then the task.
async fn follow(api: &Api, path: &str) -> Result<(), Failure> {
    let task = watch(api, path).await?;
    api.print_one(&task)?;
    went_well(&task)
}

/// Shows a task's progress until it ends.
async fn watch(api: &Api, path: &str) -> Result<Value, Failure> {
    let mut task = api.get(path).await?;
    let bar = bar(&text(&task, "kind"));
    while !ended(&task) {
        show(&bar, &task);
        tokio::time::sleep(EVERY).await;
        task = api.get(path).await?;
    }
    bar.finish_and_clear();
    Ok(task)
}

fn went_well(task: &Value) -> Result<(), Failure> {
    match text(task, "state").as_str() {
        "SUCCEEDED" => Ok(()),
        "STUCK" => Err(Failure::new("the task is stuck")
            .hint("`portolan task retry` lets it undo again, `portolan task abandon` gives it up")),
        state => Err(Failure::new(format!("the task ended as {}", state.to_lowercase()))),
    }
}

/// A bar over bytes for the kinds of tasks that count them, else over whatever they count.
fn bar(kind: &str) -> ProgressBar {
    use portolan_model::task_kind as kinds;
    match [
        kinds::EXPORT,
        kinds::STORE,
        kinds::RESTORE,
        kinds::IMPORT,
        kinds::CLONE,
        kinds::MOVE,
        kinds::INSTANT_RESTORE,
    ]
    .contains(&kind)
    {
        true => output::bytes_bar(kind),
        false => output::count_bar(kind),
    }
}

fn show(bar: &ProgressBar, task: &Value) {
    let number = |name: &str| task.pointer(&format!("/progress/{name}")).and_then(Value::as_u64).unwrap_or(0);
    bar.set_length(number("total"));
    bar.set_position(number("done"));
    let (kind, state, message) = (text(task, "kind"), text(task, "state"), text(task, "progress.message"));
    let message = match (state.as_str(), message.is_empty()) {
        ("RUNNING" | "UNDOING", true) => kind,
        ("RUNNING" | "UNDOING", false) => format!("{kind}: {message}"),
        (state, _) => format!("{kind} is {}", state.to_lowercase()),
    };
    bar.set_message(message);
}

/// Whether nothing more happens to a task by itself.
fn ended(task: &Value) -> bool {
    matches!(text(task, "state").as_str(), "SUCCEEDED" | "FAILED" | "STUCK" | "CANCELLED" | "EXPIRED")
}
