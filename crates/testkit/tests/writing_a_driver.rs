//! The example of `docs/drivers/writing.md`: a driver for a small rental service, whole, and the suite run on it.
//!
//! The service rents out machines by number. It knows three calls, keeps one label with each machine, and uses the
//! numbers again.

use async_trait::async_trait;
use portolan_driver::{
    Capability, CapabilitySet, CloudDriver, CloudError, CloudErrorKind, CloudInfo, CloudNode, CloudPage, CreateNode,
    CreatedNode, Cursor, Extra, NodeRef, ProviderDetail, kind_of_status,
};
use portolan_model::dialect::libcloud::NodeState;
use portolan_testkit::cloud::{self, CloudFixture, Repeated};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The driver. `client` stands for whatever talks to the provider.
struct RentalDriver {
    client: Arc<RentalService>,
}

#[async_trait]
impl CloudDriver for RentalDriver {
    fn info(&self) -> CloudInfo {
        CloudInfo { provider: "rental", display_name: "Rental Service", host: "rental.example".to_owned() }
    }

    // Section 2: what the provider does, and nothing else. It takes no token of ours, so that a second creation would
    // make a second machine: no `IdempotentCreate`.
    fn capabilities(&self) -> CapabilitySet {
        CapabilitySet::of(&[Capability::CreateNode, Capability::DestroyNode])
    }

    // Section 9: the provider's own marker leads from page to page.
    async fn list_nodes(&self, from: Option<&Cursor>) -> Result<CloudPage<Arc<CloudNode>>, CloudError> {
        let after = from.map(|cursor| cursor.0.parse()).transpose();
        let after = after.map_err(|_| CloudError::new(CloudErrorKind::Invalid, "no such marker"))?;
        let (machines, more) = self.client.list(after).map_err(refused)?;
        let next = machines.last().filter(|_| more).map(|last| Cursor(last.rented.to_string()));
        Ok(CloudPage { items: machines.into_iter().map(node).map(Arc::new).collect(), next })
    }

    // Section 8: the token goes out with the creation, and comes back with every list.
    async fn create_node(&self, wish: &CreateNode) -> Result<CreatedNode, CloudError> {
        if wish.auth.is_some() {
            return Err(CloudError::unsupported("machines are rented without a login"));
        }
        let made = self.client.rent(&wish.name, &wish.token).map_err(refused)?;
        Ok(CreatedNode { node: node(made), password: None })
    }

    // Section 3: numbers are used again, so the time of renting goes along and is checked.
    async fn destroy_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        let (Ok(number), Ok(rented)) = (node.id.parse(), node.incarnation.parse()) else {
            return Err(CloudError::not_found("machine", &node.id));
        };
        self.client.give_back(number, rented).map_err(refused)
    }
}

fn node(machine: Machine) -> CloudNode {
    // Section 4: a word that nobody has heard of is kept.
    let state = match machine.condition {
        "ready" => NodeState::Running,
        "unpacking" => NodeState::Pending,
        _ => NodeState::Unknown,
    };
    let mut extra = Extra::new();
    if state == NodeState::Unknown {
        extra.insert("state".to_owned(), machine.condition.into());
    }
    CloudNode {
        id: machine.number.to_string(),
        incarnation: machine.rented.to_string(),
        name: machine.name,
        state,
        public_ips: Vec::new(),
        private_ips: Vec::new(),
        size: None,
        image: None,
        created: None,
        token: Some(machine.label).filter(|label| !label.is_empty()),
        extra,
    }
}

// Section 5: one place that maps the provider's refusals.
fn refused(status: u16) -> CloudError {
    let detail = ProviderDetail { status: Some(status), ..ProviderDetail::default() };
    CloudError::new(kind_of_status(status, false), "the rental service refused").said(detail)
}

/// The provider, as far as this example needs one.
#[derive(Default)]
struct RentalService {
    machines: Mutex<Vec<Machine>>,
    rentals: AtomicU64,
}

#[derive(Clone)]
struct Machine {
    number: u32,
    /// Counts rentals: never the same twice.
    rented: u64,
    name: String,
    label: String,
    condition: &'static str,
}

impl RentalService {
    const PAGE: usize = 10;

    fn list(&self, after: Option<u64>) -> Result<(Vec<Machine>, bool), u16> {
        let mut machines = self.machines.lock().map_err(|_| 500_u16)?;
        let rest = machines.iter().filter(|machine| after.is_none_or(|after| machine.rented > after));
        let mut page: Vec<_> = rest.take(Self::PAGE + 1).cloned().collect();
        let more = page.len() > Self::PAGE;
        page.truncate(Self::PAGE);
        machines.iter_mut().for_each(|machine| machine.condition = "ready");
        Ok((page, more))
    }

    fn rent(&self, name: &str, label: &str) -> Result<Machine, u16> {
        if name.is_empty() || name.len() > 255 {
            return Err(400);
        }
        let mut machines = self.machines.lock().map_err(|_| 500_u16)?;
        let number = (1..).find(|n| machines.iter().all(|machine| machine.number != *n)).ok_or(507_u16)?;
        let rented = self.rentals.fetch_add(1, Ordering::SeqCst) + 1;
        let (name, label) = (name.to_owned(), label.to_owned());
        let machine = Machine { number, rented, name, label, condition: "unpacking" };
        machines.push(machine.clone());
        Ok(machine)
    }

    fn give_back(&self, number: u32, rented: u64) -> Result<(), u16> {
        let mut machines = self.machines.lock().map_err(|_| 500_u16)?;
        let at = machines.iter().position(|machine| machine.number == number && machine.rented == rented);
        machines.remove(at.ok_or(404_u16)?);
        Ok(())
    }
}

/// Section 10: two accounts of the service.
#[derive(Default)]
struct Fixture {
    first: Arc<RentalService>,
    second: Arc<RentalService>,
}

impl CloudFixture for Fixture {
    fn driver(&self) -> Arc<dyn CloudDriver> {
        Arc::new(RentalDriver { client: self.first.clone() })
    }

    fn other_account(&self) -> Arc<dyn CloudDriver> {
        Arc::new(RentalDriver { client: self.second.clone() })
    }
}

#[tokio::test]
async fn conforms() {
    cloud::all(Fixture::default).await;
}

#[tokio::test]
async fn conforms_behind_repetition() {
    cloud::all(|| Repeated(Fixture::default())).await;
}
