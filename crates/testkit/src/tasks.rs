//! Conformance of stores of tasks: one function a rule of [`TaskStore`], each on a fresh store.
//!
//! An adapter's test file says `portolan_testkit::task_store_conformance!(make);`, where `make` is an async function
//! without arguments that returns a fresh store as an `Arc<dyn TaskStore>`, or in a pair with what must live as
//! long (a temporary directory, a database). Every rule becomes one test.

// A rule that is broken is to panic.
#![allow(clippy::unwrap_used)]

use crate::clock::{FakeClock, SeededIds};
use portolan_model::backup::{Origin, OriginKind};
use portolan_model::query::Filter;
use portolan_model::{ChainId, Clock, IdSource, Scope, TaskId, TaskState, Timestamp};
use portolan_tasks::{
    ClaimRequest, Claimed, Enqueued, Finish, Json, Limit, NewTask, Outcome, SweepReport, Task, TaskError, TaskLinks,
    TaskQuery, TaskStore,
};
use std::sync::Arc;
use std::time::Duration;

pub mod chains;
pub mod claims;
pub mod ends;
pub mod faulty;
pub mod holds;
pub mod model;
pub mod operator;
pub mod queries;
pub mod races;
pub mod sweeps;
pub mod undo;
pub mod waits;
pub mod work;

pub use faulty::{Faulty, Op, When};
pub use model::agrees_with_model;
pub use work::{handler, undoing_handler};

/// What a maker of stores returns.
pub trait Made {
    /// The store.
    fn store(&self) -> Arc<dyn TaskStore>;
}

impl Made for Arc<dyn TaskStore> {
    fn store(&self) -> Arc<dyn TaskStore> {
        self.clone()
    }
}

impl<G> Made for (Arc<dyn TaskStore>, G) {
    fn store(&self) -> Arc<dyn TaskStore> {
        self.0.clone()
    }
}

/// One test a rule; see [`crate::tasks`].
#[macro_export]
macro_rules! task_store_conformance {
    ($make:path) => {
        $crate::task_store_conformance! { @tests $make;
            claims: a_claim_says_who_holds_what_since_when
                a_claim_keeps_to_kinds_and_limit
                claims_run_by_priority_then_wait
                a_long_wait_beats_priority
                equal_ranks_run_by_id
                nothing_starts_before_its_time
                fences_rise_over_all_tasks
                tags_must_be_served
                a_full_limit_is_passed_over
                a_limit_holds_inside_one_claim
                several_limits_are_taken_all_or_none
                each_task_brings_its_own_maximum
                every_end_of_an_attempt_gives_places_back
                a_backlog_behind_a_full_limit_is_no_wall
                the_wakeup_rings_for_claimable_work;
            holds: a_beat_extends_the_lease_and_reports_progress
                a_beat_answers_each_task_for_itself
                steps_are_recorded_once_and_outlive_the_attempt
                a_stale_fence_writes_nothing
                a_finish_counts_once
                stale_ends_do_not_stop_the_others;
            ends: success_leaves_an_output_and_whole_progress
                failure_is_final_without_retries
                a_retry_waits_until_its_time
                retries_stop_when_attempts_are_used_up
                released_attempts_do_not_count
                next_links_come_with_the_end
                next_links_that_wait_for_nobody_refuse_the_end
                a_copy_follows_while_retries_are_left
                no_copy_follows_what_could_not_start_in_time
                no_copy_follows_an_end_before_the_start
                cleaning_up_follows_every_other_end_once
                a_waiting_task_is_cancelled_at_once
                a_running_task_is_asked_to_stop
                a_wish_to_stop_outlives_retry_and_release
                a_unique_key_passes_to_the_copy;
            chains: enqueuing_again_changes_nothing
                a_unique_key_names_its_holder_until_the_end
                enqueuing_is_all_or_none
                a_task_waits_for_those_before_it
                a_late_task_sees_how_those_before_it_ended
                an_end_other_than_success_cuts_off_all_that_follow
                followers_wait_for_the_copy
                followers_of_one_that_was_there_wait_for_that_one
                scheduled_followers_keep_their_time;
            sweeps: a_lost_worker_gives_its_task_back
                a_lost_worker_uses_up_attempts
                a_lost_task_that_was_to_stop_is_cancelled
                what_did_not_start_in_time_expires
                what_was_started_once_does_not_expire
                deadlines_spare_nobody
                a_sweep_keeps_to_its_limit
                a_second_sweep_finds_nothing;
            undo: an_undo_goes_on_under_the_same_fence
                an_undo_outlives_its_worker
                an_undo_that_fails_is_stuck_until_given_up
                an_undo_is_tried_again_but_not_for_ever
                undoing_a_cancelled_task_ends_as_cancelled
                ends_that_do_not_fit_the_state_are_refused;
            operator: a_stuck_task_is_undone_again
                attempts_of_an_undo_begin_anew
                a_copy_is_made_of_what_ended
                a_copy_cleans_up_under_ids_of_its_own
                a_copy_keeps_to_the_unique_key
                a_waiting_retry_is_hastened
                nothing_else_is_retried
                operators_keep_to_their_scope
                a_stuck_task_is_abandoned;
            queries: filters_find_what_they_say
                lists_have_a_total_order
                pages_and_counts_fit_together
                unknown_fields_are_refused
                a_tenant_sees_its_own_tasks_only
                history_is_kept_until_forgotten
                pruning_takes_the_oldest_ends
                counts_follow_the_states
                nothing_of_a_task_is_lost_in_the_store;
            waits: a_reason_is_given_for_every_wait
                nodes_count_while_they_live;
            races: claimers_never_share_a_task
                limits_are_exact_under_concurrent_claims
                a_unique_key_is_won_once
                one_of_two_finishers_wins
                a_sweep_and_a_finish_exclude_each_other
                one_of_many_retries_makes_the_copy
                pruning_beside_claims_keeps_limits_exact;
            model: random_work_agrees_with_the_model;
        }
    };
    (@tests $make:path; $($module:ident: $($name:ident)+;)+) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let made = $make().await;
            $crate::tasks::$module::$name($crate::tasks::Made::store(&made)).await;
        }
    )+)+};
}

/// How long a claim of [`Kit`] holds.
pub const LEASE: Duration = Duration::from_secs(30);

/// A store with a clock, ids, and short words for what tests do all the time.
pub struct Kit {
    /// The store under test.
    pub store: Arc<dyn TaskStore>,
    /// The time.
    pub clock: FakeClock,
    /// The ids.
    pub ids: SeededIds,
}

impl Kit {
    /// A kit around a fresh store.
    pub fn new(store: Arc<dyn TaskStore>) -> Self {
        Self { store, clock: FakeClock::default(), ids: SeededIds::new(7) }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Lets time pass.
    pub fn pass(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// A plain task of this kind, due now, with one attempt and no retries.
    pub fn task(&self, kind: &str) -> NewTask {
        NewTask {
            id: TaskId::from_uuid(self.ids.uuid()),
            kind: kind.to_owned(),
            tenant: None,
            chain: ChainId::from_uuid(self.ids.uuid()),
            priority: 50,
            run_at: self.now(),
            start_by: None,
            deadline: None,
            max_attempts: 1,
            retries: 0,
            payload: serde_json::json!({ "kind": kind }),
            links: TaskLinks::default(),
            after: Vec::new(),
            unique_key: None,
            limits: Vec::new(),
            requires: Vec::new(),
            on_failure: None,
            origin: Origin { kind: OriginKind::User, id: None, name: "tester".into() },
        }
    }

    /// A plain task with a limit.
    pub fn limited(&self, kind: &str, limits: &[(&str, i32)]) -> NewTask {
        let limits = limits.iter().map(|(key, max)| Limit { key: (*key).to_owned(), max: *max }).collect();
        NewTask { limits, ..self.task(kind) }
    }

    /// Enqueues a task that is new.
    pub async fn add(&self, task: NewTask) -> TaskId {
        let id = task.id;
        let answers = self.store.enqueue(self.now(), vec![task]).await.unwrap();
        assert_eq!(answers, [Enqueued { id, added: true }]);
        id
    }

    /// A claim for the kinds `A` to `D`, `CLEAN` and `EXPORT`, serving no tags.
    pub fn request(&self, limit: u32) -> ClaimRequest {
        ClaimRequest {
            worker: "worker-1".into(),
            kinds: ["A", "B", "C", "D", "CLEAN", "EXPORT"].map(str::to_owned).to_vec(),
            serves: Vec::new(),
            limit,
            lease: LEASE,
        }
    }

    /// Claims up to `limit` tasks.
    pub async fn claim(&self, limit: u32) -> Vec<Claimed> {
        self.store.claim(self.now(), self.request(limit)).await.unwrap()
    }

    /// The ids that a claim of up to `limit` hands out.
    pub async fn claim_ids(&self, limit: u32) -> Vec<TaskId> {
        self.claim(limit).await.into_iter().map(|c| c.task.new.id).collect()
    }

    /// Claims the one task that there is to claim.
    pub async fn claim_one(&self) -> Task {
        let mut claimed = self.claim(2).await;
        assert_eq!(claimed.len(), 1, "one task should have been claimable");
        claimed.remove(0).task
    }

    /// Ends an attempt.
    pub async fn finish(&self, task: &Task, outcome: Outcome) -> Result<(), TaskError> {
        self.finish_with(task, outcome, Vec::new()).await
    }

    /// Ends an attempt and adds its next links.
    pub async fn finish_with(&self, task: &Task, outcome: Outcome, next: Vec<NewTask>) -> Result<(), TaskError> {
        let finish = Finish { held: task.held(), outcome, next };
        let mut results = self.store.finish(self.now(), vec![finish]).await.unwrap();
        assert_eq!(results.len(), 1);
        results.remove(0)
    }

    /// The task, which is there.
    pub async fn get(&self, id: TaskId) -> Task {
        self.find(id).await.unwrap_or_else(|| panic!("there should be a task {id}"))
    }

    /// The task, if it is there.
    pub async fn find(&self, id: TaskId) -> Option<Task> {
        let mut found = self.list(Filter::eq("id", id.uuid())).await;
        assert!(found.len() <= 1);
        found.pop()
    }

    /// The state of the task.
    pub async fn state(&self, id: TaskId) -> TaskState {
        self.get(id).await.state
    }

    /// All tasks that match, in the order of their ids.
    pub async fn list(&self, filter: Filter) -> Vec<Task> {
        self.store.query(Scope::All, &TaskQuery { filter, ..TaskQuery::default() }).await.unwrap().tasks
    }

    /// Sweeps, with room for everything.
    pub async fn sweep(&self) -> SweepReport {
        self.store.sweep(self.now(), 1000).await.unwrap()
    }
}

/// Success, with an output.
pub fn done() -> Outcome {
    Outcome::Succeeded { output: serde_json::json!({ "ok": true }) }
}

/// Failure for good.
pub fn failed() -> Outcome {
    Outcome::Failed { error: "it broke".into() }
}

/// Seconds.
pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Minutes.
pub fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// A text as JSON.
pub fn text(s: &str) -> Json {
    Json::String(s.to_owned())
}
