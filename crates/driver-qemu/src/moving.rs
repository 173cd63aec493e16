//! Moves of a guest's disks to another datastore, while it runs or not.
//!
//! Disks are copied first, while nobody relies on the copies; then the guest's document says where they are, and what
//! is left of them where they were is removed. The files of a guest that is off are copied as they are, with snapshots
//! and checkpoints in them (see [`resting`]). QEMU mirrors those of one that runs (see [`live`]). A guest may be turned
//! on and off meanwhile: what is left is done the other way.
//!
//! Until the document says that a disk is in its new place, the guest has not run on the new file alone. So whatever
//! ends midway, the file that the document names is whole.

mod live;
mod resting;

use crate::QemuError;
use crate::guest::{Guest, GuestState};
use crate::layout::remove_files;
use crate::spec::{DiskSpec, GuestSpec, MoveStage, Moving, Phase};
use portolan_driver::{AbandonedMove, DriverError, HomeObserver, HomeProgress, MoveRequest};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch as watching;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Why other things have to wait.
pub(crate) const BEING_MOVED: &str = "the guest is being moved to another datastore";
/// How long the end of a guest whose monitor ended may take to be noticed.
const REST_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked how far the disks are.
const POLL: Duration = Duration::from_millis(100);
/// The longest token, in bytes.
const LONGEST_TOKEN: usize = 1024;

/// One attempt to carry a move out.
struct Attempt {
    wish: MoveRequest,
    /// Its caller does not wait any more.
    given_up: CancellationToken,
    told: watching::Sender<HomeProgress>,
}

impl Guest {
    /// Moves the disks. See [`portolan_driver::Hypervisor::move_machine`]. When the caller gives up, this ends where
    /// that is safe.
    pub(crate) async fn move_to(
        self: &Arc<Self>,
        wish: MoveRequest,
        observer: &HomeObserver<'_>,
    ) -> Result<(), DriverError> {
        let given_up = CancellationToken::new();
        let _given_up = given_up.clone().drop_guard();
        let (told, mut heard) = watching::channel(HomeProgress { done: 0, total: 0 });
        let (guest, attempt) = (self.clone(), Attempt { wish, given_up, told });
        let mut work = std::pin::pin!(self.shared.detached(async move { guest.move_now(&attempt).await }));
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    let last = *heard.borrow();
                    if done.is_ok() && last.total > 0 {
                        observer(HomeProgress { done: last.total, ..last });
                    }
                    return done;
                }
                Ok(()) = heard.changed() => observer(*heard.borrow_and_update()),
            }
        }
    }

    async fn move_now(self: &Arc<Self>, attempt: &Attempt) -> Result<(), DriverError> {
        if !self.begin_move(&attempt.wish).await? {
            return Ok(());
        }
        while self.spec().is_moving() {
            if self.copy_resting(attempt).await? {
                break;
            }
            self.comes_out_of(&[GuestState::Pending, GuestState::Starting]).await?;
            let Err(error) = self.mirror(attempt).await else { break };
            // Mirrors end with QEMU: the guest was turned off, or is not to be had.
            let mut seen = self.observe();
            let rests = timeout(REST_LIMIT, seen.wait_for(|seen| seen.state == GuestState::Stopped));
            if attempt.given_up.is_cancelled() || self.qmp().is_ok() || !matches!(rests.await, Ok(Ok(_))) {
                return Err(error);
            }
        }
        let _turn = self.turn.lock().await;
        Ok(self.remove_left().await?)
    }

    /// Writes down that the move is begun, or that this attempt goes on with it. Says whether there is anything to do.
    async fn begin_move(self: &Arc<Self>, wish: &MoveRequest) -> Result<bool, DriverError> {
        if wish.token.is_empty() || wish.token.len() > LONGEST_TOKEN {
            return Err(DriverError::Malformed("the move's token is too long, or empty".into()));
        }
        // Before its turn: whoever is older, and has it, gives way.
        self.admit_move(&wish.token, wish.fence).await?;
        let _turn = self.turn.lock().await;
        self.is_of(&wish.incarnation)?;
        if let Some(moving) = self.spec().moving {
            if moving.token == wish.token {
                self.holds_move(wish)?;
                if moving.datastore != wish.datastore {
                    let to = &moving.datastore;
                    return Err(DriverError::Conflict(format!("'{}' is a move to the datastore '{to}'", wish.token)));
                }
                self.come_through().await?;
                return Ok(true);
            }
            // Nobody goes on with it.
            self.end_move().await?;
        }
        let spec = self.spec();
        may_move(&spec)?;
        let (layout, name) = (self.shared.layout.clone(), wish.datastore.clone());
        let known = self.files(move || Ok(layout.datastore_names()?.contains(&name))).await?;
        if !known {
            return Err(DriverError::NotFound { what: "datastore", id: wish.datastore.clone() });
        }
        if spec.disks.iter().all(|disk| disk.datastore == wish.datastore) {
            return Ok(false);
        }
        let moving = Moving {
            token: wish.token.clone(),
            fence: wish.fence,
            datastore: wish.datastore.clone(),
            stage: MoveStage::Copying,
            go_on: false,
            left: Vec::new(),
        };
        self.change(|spec| spec.moving = Some(moving)).await?;
        Ok(true)
    }

    /// Lets in whoever has the newest fence, and nobody older from then on.
    async fn admit_move(&self, token: &str, fence: i64) -> Result<(), DriverError> {
        match self.spec().moving.filter(|moving| moving.token == token) {
            Some(moving) if moving.fence > fence => Err(DriverError::Fenced),
            Some(moving) if moving.fence < fence => {
                let newest = |moving: &mut Moving| moving.fence = moving.fence.max(fence);
                Ok(self.change(|spec| spec.moving.iter_mut().for_each(newest)).await?)
            }
            _ => Ok(()),
        }
    }

    fn is_of(&self, incarnation: &str) -> Result<GuestSpec, DriverError> {
        let spec = self.spec();
        if spec.phase == Phase::Deleting || spec.incarnation != incarnation {
            return Err(DriverError::NotFound { what: "guest", id: spec.id });
        }
        Ok(spec)
    }

    /// The guest, where the move is still this attempt's.
    fn holds_move(&self, wish: &MoveRequest) -> Result<GuestSpec, DriverError> {
        let spec = self.is_of(&wish.incarnation)?;
        match &spec.moving {
            Some(moving) if moving.token == wish.token && moving.fence <= wish.fence => Ok(spec),
            _ => Err(DriverError::Fenced),
        }
    }

    /// Lets go of the move of that token. See [`portolan_driver::Hypervisor::abandon_move`].
    pub(crate) async fn abandon_move(self: &Arc<Self>, wish: AbandonedMove) -> Result<(), DriverError> {
        let guest = self.clone();
        let work = async move {
            guest.admit_move(&wish.token, wish.fence).await?;
            let _turn = guest.turn.lock().await;
            let spec = guest.is_of(&wish.incarnation)?;
            match spec.moving.filter(|moving| moving.token == wish.token) {
                Some(moving) if moving.fence > wish.fence => Err(DriverError::Fenced),
                Some(_) => guest.end_move().await,
                None => Ok(()),
            }
        };
        match self.shared.detached(work).await {
            Err(DriverError::NotFound { .. }) => Ok(()),
            done => done,
        }
    }

    /// Ends a move where it is: disks that are in their new places stay there, and nothing is left of the others. The
    /// turn is held.
    pub(crate) async fn end_move(&self) -> Result<(), DriverError> {
        if self.spec().moving.is_none() {
            return Ok(());
        }
        self.come_through().await?;
        let spec = self.spec();
        if spec.is_moving() {
            if self.pid().is_some() {
                self.end_mirrors(&spec).await?;
            }
            self.remove_copies(&spec).await?;
        }
        let left = |spec: &mut GuestSpec| spec.moving.iter_mut().for_each(|moving| moving.stage = MoveStage::Switched);
        self.change(left).await?;
        Ok(self.remove_left().await?)
    }

    /// Ends a switch that was cut off: with QEMU, which knows how far it is, or, where that is gone, where the disks
    /// were. The turn is held.
    async fn come_through(&self) -> Result<(), DriverError> {
        let Some(moving) = self.spec().moving else { return Ok(()) };
        if moving.stage != MoveStage::Switching && !moving.go_on {
            return Ok(());
        }
        if self.pid().is_some() {
            if moving.stage == MoveStage::Switching {
                // What it did not bring about is no failure of whoever comes after it.
                return self.hand_over().await.map(drop);
            }
            self.qmp()?.cont().await.map_err(QemuError::from)?;
        }
        let back = |moving: &mut Moving| {
            moving.go_on = false;
            if moving.stage == MoveStage::Switching {
                moving.stage = MoveStage::Copying;
            }
        };
        Ok(self.change(|spec| spec.moving.iter_mut().for_each(back)).await?)
    }

    /// Ends what another Portolan left of a move: a guest that stands still goes on, and files that nobody needs are
    /// removed. Copying goes on when somebody asks for that.
    pub(crate) async fn recover_move(self: Arc<Self>) {
        if self.spec().moving.is_none() {
            return;
        }
        let _turn = self.turn.lock().await;
        let recovered = async {
            self.come_through().await?;
            Ok::<_, DriverError>(self.remove_left().await?)
        };
        if let Err(error) = recovered.await {
            tracing::warn!(guest = self.id(), %error, "a move that was cut off could not be ended");
        }
    }

    /// Removes what disks have left behind that are in their new places, and forgets the move.
    async fn remove_left(&self) -> Result<(), QemuError> {
        let Some(moving) = self.spec().moving.filter(|moving| moving.stage == MoveStage::Switched) else {
            return Ok(());
        };
        if let Err(error) = self.close_left().await {
            // They take room until the guest is turned off, and nothing else.
            tracing::warn!(guest = self.id(), %error, "QEMU keeps disks open where they were");
        }
        self.settles(&moving).await?;
        let left: Vec<_> = moving.left.iter().map(|left| self.shared.layout.file(self.id(), left)).collect();
        self.files(move || remove_files(&left)).await?;
        self.change(|spec| spec.moving = None).await
    }

    /// Makes what is in the new places durable: what was left behind is the only other copy.
    async fn settles(&self, moving: &Moving) -> Result<(), QemuError> {
        let disks: Vec<_> = self.spec().disks.into_iter().filter(|disk| disk.datastore == moving.datastore).collect();
        if self.pid().is_some() {
            let qmp = self.qmp()?;
            for disk in &disks {
                crate::block::flush(&qmp, &disk.node()).await?;
            }
            return Ok(());
        }
        let files: Vec<_> = disks.iter().map(|disk| self.shared.layout.file(self.id(), &disk.placed())).collect();
        self.files(move || files.iter().try_for_each(|file| crate::layout::sync_file(file))).await
    }

    /// Removes copies that are not in use.
    async fn remove_copies(&self, spec: &GuestSpec) -> Result<(), QemuError> {
        let copy = |disk: &DiskSpec| self.shared.layout.file(self.id(), &disk.placed());
        let copies: Vec<_> = spec.to_move().iter().map(|(_, there)| copy(there)).collect();
        self.files(move || remove_files(&copies)).await
    }
}

impl GuestSpec {
    /// The disks that are not in their new places yet, as they are and as they will be, with the guest running.
    fn to_move(&self) -> Vec<(DiskSpec, DiskSpec)> {
        let Some(moving) = &self.moving else { return Vec::new() };
        let disks = self.disks.iter().filter(|disk| disk.datastore != moving.datastore);
        disks.map(|disk| (disk.clone(), disk.moved_to(&moving.datastore, true))).collect()
    }

    /// Those disks are in their new places.
    fn has_moved(&mut self, ids: &[String], runs: bool) {
        let Some(moving) = &mut self.moving else { return };
        for disk in self.disks.iter_mut().filter(|disk| ids.contains(&disk.id)) {
            moving.left.push(disk.placed());
            *disk = disk.moved_to(&moving.datastore, runs);
        }
        let all = self.disks.iter().all(|disk| disk.datastore == moving.datastore);
        moving.stage = if all { MoveStage::Switched } else { MoveStage::Copying };
    }
}

fn may_move(spec: &GuestSpec) -> Result<(), DriverError> {
    let conflict = |why: &str| Err(DriverError::Conflict(why.to_owned()));
    if spec.phase != Phase::Ready {
        return conflict("the guest is not made yet");
    }
    if spec.is_remote_at_all() {
        return conflict("the guest's data is in a backup still: bring it home first");
    }
    if spec.reverting.is_some() {
        return conflict("the guest goes back to a snapshot just now");
    }
    Ok(())
}

/// Nobody hears it.
fn given_up() -> DriverError {
    DriverError::Conflict("the move was given up".into())
}
