//! `portolan tenant`.

use super::api::{Api, encoded};
use super::given;
use super::render::{Column, Show};
use crate::ask::confirm;
use crate::cli::TenantCommand;
use crate::error::Failure;
use serde_json::json;

const COLUMNS: &[Column] = &[
    Column { title: "TENANT", path: "name", show: Show::Text, rank: 9 },
    Column { title: "EXTERNAL ID", path: "external_id", show: Show::Text, rank: 7 },
    Column { title: "CREATED", path: "created", show: Show::Time, rank: 5 },
    Column { title: "ID", path: "id", show: Show::Text, rank: 6 },
];

pub(super) async fn run(command: TenantCommand, api: &Api) -> Result<(), Failure> {
    let at = |tenant: &str| format!("/tenants/{}", encoded(tenant));
    match command {
        TenantCommand::List => api.print_list(&api.list("/tenants", u64::MAX).await?, COLUMNS),
        TenantCommand::Show { tenant } => api.print_one(&api.get(&at(&tenant)).await?),
        TenantCommand::Add { name, external_id } => {
            let made = api.post("/tenants", &json!({ "name": name, "external_id": external_id })).await?;
            api.done(&made, format!("The tenant '{name}' is made."))
        }
        TenantCommand::Change { tenant, name, external_id } => {
            let body = given(json!({ "name": name, "external_id": external_id }));
            let changed = api.patch(&at(&tenant), &body).await?;
            api.done(&changed, format!("The tenant '{tenant}' is changed."))
        }
        TenantCommand::Remove { tenant } => {
            confirm(&format!("Remove the tenant '{tenant}'?"), api.args.yes)?;
            let gone = api.delete(&at(&tenant)).await?;
            api.done(&gone, format!("The tenant '{tenant}' is removed."))
        }
    }
}
