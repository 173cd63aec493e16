//! How each object of the model is stored.

use crate::kind::Kind;
use crate::record::{DriverDocument, Record, Replay, Secured, Setting};
use portolan_model::describe::Describe;
use portolan_model::query::Value;
use portolan_model::*;
use uuid::Uuid;

fn id<T: TypedId>(id: Option<T>) -> Value {
    id.map(TypedId::uuid).into()
}

impl Record for Account {
    type Id = AccountId;
    const KIND: Kind = Kind::Account;
    fn id(&self) -> AccountId {
        self.id
    }
    fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.login.as_str().into(), self.enabled.into()]
    }
    fn search(&self) -> String {
        self.login.to_string()
    }
    fn unique(&self) -> Vec<String> {
        vec![format!("account:{}", self.login.as_str().to_lowercase())]
    }
}

impl Record for Session {
    type Id = SessionId;
    const KIND: Kind = Kind::Session;
    fn id(&self) -> SessionId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.account.uuid().into(), self.token_hash.as_str().into(), self.expires.into()]
    }
    fn unique(&self) -> Vec<String> {
        vec![format!("session:{}", self.token_hash)]
    }
}

impl Record for Tenant {
    type Id = TenantId;
    const KIND: Kind = Kind::Tenant;
    fn id(&self) -> TenantId {
        self.id
    }
    fn tenant(&self) -> Option<TenantId> {
        Some(self.id)
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.name.as_str().into(), self.external_id.as_str().into()]
    }
    fn search(&self) -> String {
        format!("{} {}", self.name, self.external_id)
    }
    fn unique(&self) -> Vec<String> {
        vec![format!("tenant:{}", self.name.as_str().to_lowercase())]
    }
}

impl Record for Secured {
    type Id = CredentialId;
    const KIND: Kind = Kind::Secured;
    fn id(&self) -> CredentialId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.owner.as_str().into()]
    }
    fn unique(&self) -> Vec<String> {
        vec![format!("secured:{}", self.owner)]
    }
}

impl Record for Setting {
    type Id = EventId;
    const KIND: Kind = Kind::Setting;
    fn id(&self) -> EventId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        Vec::new()
    }
    fn unique(&self) -> Vec<String> {
        vec![format!("setting:{}", self.name)]
    }
}

impl Record for Platform {
    type Id = PlatformId;
    const KIND: Kind = Kind::Platform;
    fn id(&self) -> PlatformId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.name.as_str().into(), self.driver.as_str().into()]
    }
    fn search(&self) -> String {
        format!("{} {} {}", self.name, self.driver, self.url)
    }
    fn unique(&self) -> Vec<String> {
        vec![format!("platform:{}", self.name.as_str().to_lowercase())]
    }
}

impl Record for DataCenter {
    type Id = DataCenterId;
    const KIND: Kind = Kind::DataCenter;
    fn id(&self) -> DataCenterId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.name.as_str().into()]
    }
    fn unique(&self) -> Vec<String> {
        self.external.iter().map(|e| format!("external:{}", e.key())).collect()
    }
}

impl Record for Cluster {
    type Id = ClusterId;
    const KIND: Kind = Kind::Cluster;
    fn id(&self) -> ClusterId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.name.as_str().into(), id(self.external.as_ref().map(|e| e.platform)), self.present.into()]
    }
    fn search(&self) -> String {
        self.name.to_string()
    }
    fn unique(&self) -> Vec<String> {
        self.external.iter().map(|e| format!("external:{}", e.key())).collect()
    }
}

impl Record for Host {
    type Id = HostId;
    const KIND: Kind = Kind::Host;
    fn id(&self) -> HostId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        let facet = self.hypervisor.as_ref();
        vec![
            self.name.as_str().into(),
            id(facet.map(|f| f.external.platform)),
            id(self.cluster),
            facet.is_some_and(|f| f.present).into(),
        ]
    }
    fn search(&self) -> String {
        format!("{} {} {}", self.name, self.address, self.cluster_name)
    }
    fn unique(&self) -> Vec<String> {
        self.hypervisor.iter().map(|f| format!("external:{}", f.external.key())).collect()
    }
}

impl Record for Datastore {
    type Id = DatastoreId;
    const KIND: Kind = Kind::Datastore;
    fn id(&self) -> DatastoreId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.name.as_str().into(), self.external.platform.uuid().into(), id(self.cluster), self.present.into()]
    }
    fn search(&self) -> String {
        self.name.to_string()
    }
    fn unique(&self) -> Vec<String> {
        vec![format!("external:{}", self.external.key())]
    }
}

impl Record for VirtualMachine {
    type Id = VmId;
    const KIND: Kind = Kind::Vm;
    fn id(&self) -> VmId {
        self.id
    }
    fn tenant(&self) -> Option<TenantId> {
        self.settings.tenant
    }
    fn fields(&self) -> Vec<Value> {
        let (o, p) = (&self.observed, &self.protection);
        vec![
            o.name.as_str().into(),
            o.platform.uuid().into(),
            id(o.host),
            id(o.cluster),
            o.present.into(),
            id(self.settings.backup_policy),
            self.external.native_id.as_str().into(),
            o.host_name.as_str().into(),
            o.cluster_name.as_str().into(),
            o.platform_name.as_str().into(),
            p.last_backup.into(),
            p.last_size_bytes.into(),
        ]
    }
    fn search(&self) -> String {
        let o = &self.observed;
        format!(
            "{} {} {} {} {} {} {}",
            o.name,
            self.id,
            self.external.native_id,
            o.tags.join(" "),
            o.platform_name,
            o.host_name,
            o.cluster_name
        )
    }
    fn unique(&self) -> Vec<String> {
        vec![format!("external:{}", self.external.key())]
    }
    fn refs(&self) -> Vec<Uuid> {
        self.settings.backup_policy.iter().chain(&self.settings.snapshot_policy).map(|p| p.uuid()).collect()
    }
}

impl Record for Node {
    type Id = NodeId;
    const KIND: Kind = Kind::Node;
    fn id(&self) -> NodeId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.name.as_str().into(), self.last_seen.into()]
    }
    fn search(&self) -> String {
        self.name.to_string()
    }
}

impl Record for BackupDestination {
    type Id = BackupDestinationId;
    const KIND: Kind = Kind::Destination;
    fn id(&self) -> BackupDestinationId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.name.as_str().into(), self.default.into()]
    }
    fn search(&self) -> String {
        format!("{} {} {}", self.name, self.kind, self.description)
    }
    fn unique(&self) -> Vec<String> {
        vec![format!("destination:{}", self.name.as_str().to_lowercase())]
    }
}

impl Record for RecoveryPoint {
    type Id = RecoveryPointId;
    const KIND: Kind = Kind::Point;
    fn id(&self) -> RecoveryPointId {
        self.id
    }
    fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }
    fn fields(&self) -> Vec<Value> {
        vec![
            self.vm.uuid().into(),
            self.vm_name.as_str().into(),
            self.status.name().into(),
            self.backup_type.name().into(),
            self.snapshot_time.into(),
            self.created.into(),
            self.size_bytes.into(),
            self.chain.uuid().into(),
            self.platform.uuid().into(),
            id(self.host),
            id(self.parent),
        ]
    }
    fn search(&self) -> String {
        format!("{} {} {} {}", self.name, self.vm_name, self.id, self.description)
    }
}

impl Record for BackupCopy {
    type Id = BackupCopyId;
    const KIND: Kind = Kind::Copy;
    fn id(&self) -> BackupCopyId {
        self.id
    }
    fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }
    fn fields(&self) -> Vec<Value> {
        vec![
            self.point.uuid().into(),
            self.vm.uuid().into(),
            self.destination.uuid().into(),
            self.status.name().into(),
            self.created.into(),
            self.expires.into(),
        ]
    }
    fn refs(&self) -> Vec<Uuid> {
        vec![self.destination.uuid(), self.point.uuid()]
    }
}

impl Record for RestoreJob {
    type Id = RestoreJobId;
    const KIND: Kind = Kind::RestoreJob;
    fn id(&self) -> RestoreJobId {
        self.id
    }
    fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }
    fn fields(&self) -> Vec<Value> {
        vec![
            self.point.uuid().into(),
            self.vm.uuid().into(),
            self.status.name().into(),
            self.created.into(),
            self.chain.uuid().into(),
        ]
    }
    fn search(&self) -> String {
        self.target_name.clone()
    }
}

impl Record for ApiToken {
    type Id = ApiTokenId;
    const KIND: Kind = Kind::ApiToken;
    fn id(&self) -> ApiTokenId {
        self.id
    }
    fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }
    fn fields(&self) -> Vec<Value> {
        vec![
            self.name.as_str().into(),
            self.account.uuid().into(),
            self.token_hash.as_str().into(),
            self.expires.into(),
        ]
    }
    fn search(&self) -> String {
        self.name.to_string()
    }
    fn unique(&self) -> Vec<String> {
        vec![
            format!("api_token:{}", self.token_hash),
            format!("api_token:{}:{}", self.account, self.name.as_str().to_lowercase()),
        ]
    }
    fn refs(&self) -> Vec<Uuid> {
        self.tenant.iter().map(|t| t.uuid()).collect()
    }
}

impl Record for Assignment {
    type Id = AssignmentId;
    const KIND: Kind = Kind::Assignment;
    fn id(&self) -> AssignmentId {
        self.id
    }
    fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }
    fn fields(&self) -> Vec<Value> {
        vec![
            self.vm.uuid().into(),
            self.vm_name.as_str().into(),
            self.platform.uuid().into(),
            self.status.name().into(),
            self.number.into(),
            self.user.as_str().into(),
        ]
    }
    fn search(&self) -> String {
        format!("{} {} {}", self.vm_name, self.user, self.vm_type)
    }
    fn unique(&self) -> Vec<String> {
        vec![format!("assignment:{}", self.vm), format!("assignment:number:{}", self.number)]
    }
}

impl Record for DriverDocument {
    type Id = EventId;
    const KIND: Kind = Kind::DriverState;
    fn id(&self) -> EventId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.platform.uuid().into(), self.key.as_str().into()]
    }
    fn unique(&self) -> Vec<String> {
        vec![format!("driver_state:{}:{}", self.platform, self.key)]
    }
}

impl Record for Replay {
    type Id = EventId;
    const KIND: Kind = Kind::Replay;
    fn id(&self) -> EventId {
        self.id
    }
    fn fields(&self) -> Vec<Value> {
        vec![self.expires.into(), self.fingerprint.as_str().into()]
    }
}
