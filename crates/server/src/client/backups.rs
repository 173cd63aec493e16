//! `portolan backup`.

use super::api::{Api, encoded, query};
use super::given;
use super::render::{Column, Show};
use super::tasks::begun;
use crate::ask::confirm;
use crate::cli::BackupCommand;
use crate::error::Failure;
use serde_json::json;

const COLUMNS: &[Column] = &[
    Column { title: "BACKUP", path: "id", show: Show::Text, rank: 9 },
    Column { title: "MACHINE", path: "machine_name", show: Show::Text, rank: 8 },
    Column { title: "TYPE", path: "type", show: Show::Word, rank: 6 },
    Column { title: "STATUS", path: "status", show: Show::Word, rank: 8 },
    Column { title: "MOMENT", path: "moment", show: Show::Time, rank: 7 },
    Column { title: "SIZE", path: "size_bytes", show: Show::Bytes, rank: 5 },
    Column { title: "STORED", path: "stored_bytes", show: Show::Bytes, rank: 3 },
    Column { title: "VERIFIED", path: "last_verified", show: Show::Time, rank: 3 },
    Column { title: "BOOTED", path: "trial.booted", show: Show::Flag, rank: 4 },
    Column { title: "INFO", path: "status_info", show: Show::Text, rank: 1 },
];

pub(super) async fn run(command: BackupCommand, api: &Api) -> Result<(), Failure> {
    let at = |backup: &str| format!("/backups/{}", encoded(backup));
    match command {
        BackupCommand::List { machine, limit } => {
            let path = query("/backups", &[("machine", machine.as_deref())]);
            api.print_list(&api.list(&path, limit).await?, COLUMNS)
        }
        BackupCommand::Show { backup } => api.print_one(&api.get(&at(&backup)).await?),
        BackupCommand::Run { machine, full, destination, task } => {
            let kind = if full { "FULL" } else { "INCREMENTAL" };
            let body = given(json!({ "type": kind, "destination": destination }));
            begun(api, &api.post(&format!("/machines/{}/backup", encoded(&machine)), &body).await?, task.follow).await
        }
        BackupCommand::Restore { backup, to, task } => {
            let mut body = given(json!({
                "name": to.name, "platform": to.platform, "datastore": to.datastore, "destination": to.destination,
            }));
            let path = if to.instant { "instant-restore" } else { "restore" };
            if to.overwrite {
                confirm("Put the backup in the place of the machine of that name?", api.args.yes)?;
                body["overwrite"] = true.into();
                body["power_off"] = to.power_off.into();
            }
            begun(api, &api.post(&format!("{}/{path}", at(&backup)), &body).await?, task.follow).await
        }
        BackupCommand::Try { backup, console, within, platform, task } => {
            let body = given(json!({ "console": console, "within_seconds": within, "platform": platform }));
            begun(api, &api.post(&format!("{}/trial", at(&backup)), &body).await?, task.follow).await
        }
    }
}
