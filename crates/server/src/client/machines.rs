//! `portolan machine`.

use super::api::{Api, encoded, query};
use super::render::{Column, Show};
use super::tasks::begun;
use super::{given, nothing};
use crate::ask::confirm;
use crate::cli::MachineCommand;
use crate::error::Failure;
use serde_json::{Value, json};

const COLUMNS: &[Column] = &[
    Column { title: "MACHINE", path: "name", show: Show::Text, rank: 9 },
    Column { title: "POWER", path: "power", show: Show::Word, rank: 8 },
    Column { title: "PLATFORM", path: "platform_name", show: Show::Text, rank: 7 },
    Column { title: "HOST", path: "host_name", show: Show::Text, rank: 3 },
    Column { title: "CPUS", path: "cpus", show: Show::Number, rank: 4 },
    Column { title: "MEMORY", path: "memory_bytes", show: Show::Bytes, rank: 5 },
    Column { title: "PRESENT", path: "present", show: Show::Flag, rank: 2 },
    Column { title: "LAST SEEN", path: "last_seen", show: Show::Time, rank: 2 },
    Column { title: "ID", path: "id", show: Show::Text, rank: 6 },
];

const SNAPSHOTS: &[Column] = &[
    Column { title: "SNAPSHOT", path: "id", show: Show::Text, rank: 9 },
    Column { title: "NAME", path: "name", show: Show::Text, rank: 8 },
    Column { title: "MEMORY", path: "memory", show: Show::Flag, rank: 5 },
    Column { title: "CREATED", path: "created", show: Show::Time, rank: 7 },
];

pub(super) async fn run(command: MachineCommand, api: &Api) -> Result<(), Failure> {
    let at = |machine: &str| format!("/machines/{}", encoded(machine));
    let power = async |machine: &str, body: Value, follow| {
        let task = api.post(&format!("{}/power", at(machine)), &body).await?;
        begun(api, &task, follow).await
    };
    match command {
        MachineCommand::List { platform, gone, limit } => {
            let parameters = [("platform", platform.as_deref()), ("gone", gone.then_some("true"))];
            api.print_list(&api.list(&query("/machines", &parameters), limit).await?, COLUMNS)
        }
        MachineCommand::Show { machine } => api.print_one(&api.get(&at(&machine)).await?),
        MachineCommand::Start { machine, task } => power(&machine, json!({ "action": "start" }), task.follow).await,
        MachineCommand::Stop { machine, within, force, task } => {
            let body = match force {
                true => {
                    confirm(&format!("Pull the plug of '{machine}'?"), api.args.yes)?;
                    json!({ "action": "off" })
                }
                false => json!({ "action": "shutdown", "within_seconds": within }),
            };
            power(&machine, body, task.follow).await
        }
        MachineCommand::Reboot { machine, force, task } => {
            if force {
                confirm(&format!("Press the reset button of '{machine}'?"), api.args.yes)?;
            }
            power(&machine, json!({ "action": if force { "reset" } else { "reboot" } }), task.follow).await
        }
        MachineCommand::Clone { machine, name, datastore, task } => {
            let body = given(json!({ "name": name, "datastore": datastore }));
            begun(api, &api.post(&format!("{}/clone", at(&machine)), &body).await?, task.follow).await
        }
        MachineCommand::Move { machine, datastore, task } => {
            let body = json!({ "datastore": datastore });
            begun(api, &api.post(&format!("{}/move", at(&machine)), &body).await?, task.follow).await
        }
        MachineCommand::Snapshots { machine } => {
            api.print_list(&api.get(&format!("{}/snapshots", at(&machine))).await?, SNAPSHOTS)
        }
        MachineCommand::Snapshot { machine, name, memory, task } => {
            let body = json!({ "name": name, "memory": memory });
            begun(api, &api.post(&format!("{}/snapshots", at(&machine)), &body).await?, task.follow).await
        }
        MachineCommand::Revert { machine, snapshot, task } => {
            let lost = format!("Make '{machine}' what it was at {snapshot}? What was written since is lost.");
            confirm(&lost, api.args.yes)?;
            let path = format!("{}/snapshots/{}/revert", at(&machine), encoded(&snapshot));
            begun(api, &api.post(&path, &nothing()).await?, task.follow).await
        }
        MachineCommand::RemoveSnapshot { machine, snapshot, task } => {
            confirm(&format!("Delete the snapshot {snapshot} of '{machine}'?"), api.args.yes)?;
            let path = format!("{}/snapshots/{}", at(&machine), encoded(&snapshot));
            begun(api, &api.delete(&path).await?, task.follow).await
        }
    }
}
