//! The states of the task engine, how they follow one another, and what each dialect calls them.

use crate::describe::Describe;
use crate::dialect::commissaire::OperationStatus;
use crate::dialect::omnistack::OmniTaskState;
use crate::dialect::vplus::{VplusTaskState, WorkflowState};
use crate::lifecycle::{IllegalTransition, Lifecycle};

crate::described_enum! {
    /// Where a task is in its life. Whether it was asked to stop, and how far it is, are kept beside the state.
    pub enum TaskState {
        /// Waits for other tasks: an earlier link of its chain.
        Blocked = "BLOCKED", "Blocked";
        /// Waits for its time, or for its window to open, or for its next attempt.
        Scheduled = "SCHEDULED", "Scheduled";
        /// Waits for a worker with a free slot.
        Ready = "READY", "Ready";
        /// A worker holds it.
        Running = "RUNNING", "Running";
        /// It failed or was cancelled, and its finished steps are being undone.
        Undoing = "UNDOING", "Undoing";
        /// Ended, all done.
        Succeeded = "SUCCEEDED", "Succeeded";
        /// Ended, not done.
        Failed = "FAILED", "Failed";
        /// Undoing failed too. An operator lets it undo again, or gives it up.
        Stuck = "STUCK", "Stuck";
        /// Ended at someone's wish.
        Cancelled = "CANCELLED", "Cancelled";
        /// Ended because its start window or deadline passed while nothing worked on it.
        Expired = "EXPIRED", "Expired";
    }
}

impl Lifecycle for TaskState {
    const MACHINE: &'static str = "task";
    const MOVES: &'static [(Self, &'static [Self])] = {
        use TaskState::*;
        &[
            // `Failed` before the start: an earlier link failed, or too many of the same run did.
            (Blocked, &[Scheduled, Ready, Failed, Cancelled, Expired]),
            (Scheduled, &[Blocked, Ready, Running, Failed, Cancelled, Expired]),
            (Ready, &[Blocked, Scheduled, Running, Failed, Cancelled, Expired]),
            // Back to `Ready`: the lease was lost; to `Scheduled`: the next attempt is later; to `Expired`: the
            // lease was lost and the deadline has passed meanwhile.
            (Running, &[Ready, Scheduled, Undoing, Succeeded, Failed, Stuck, Cancelled, Expired]),
            (Undoing, &[Failed, Stuck, Cancelled]),
            (Stuck, &[Undoing, Failed, Cancelled]),
            (Succeeded, &[]),
            (Failed, &[]),
            (Cancelled, &[]),
            (Expired, &[]),
        ]
    };
}

impl TaskState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Blocked,
        Self::Scheduled,
        Self::Ready,
        Self::Running,
        Self::Undoing,
        Self::Succeeded,
        Self::Failed,
        Self::Stuck,
        Self::Cancelled,
        Self::Expired,
    ];

    /// Whether the task has ended for good: a terminal state never changes again. `Stuck` is not terminal.
    pub fn is_terminal(self) -> bool {
        Lifecycle::is_terminal(self)
    }

    /// Whether nothing will happen to the task by itself: it has ended, or it is stuck.
    pub fn is_settled(self) -> bool {
        self == Self::Stuck || self.is_terminal()
    }

    /// Whether the task waits for its first or next run.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Blocked | Self::Scheduled | Self::Ready)
    }

    /// Whether a worker holds the task, and so a lease and a fence.
    pub fn is_held(self) -> bool {
        matches!(self, Self::Running | Self::Undoing)
    }

    /// Whether `next` may follow this state.
    pub fn can_become(self, next: Self) -> bool {
        Lifecycle::can_become(self, next)
    }

    /// `next`, where it may follow this state.
    pub fn become_(self, next: Self) -> Result<Self, IllegalTransition> {
        Lifecycle::become_(self, next)
    }

    /// What the dialects call this state.
    pub fn words(self) -> DialectWords {
        WORDS.iter().find(|row| row.0 == self).unwrap_or(&WORDS[0]).1
    }

    /// What the dialects call this state of a task that was asked to stop: vPlus shows the wish at once, while
    /// the engine still cleans up; the others have no word for it.
    pub fn words_when_cancelling(self) -> DialectWords {
        let words = self.words();
        if self.is_settled() {
            words
        } else {
            DialectWords { vplus: VplusTaskState::Cancelled, workflow: WorkflowState::Cancelled, ..words }
        }
    }

    /// The engine's states that vPlus shows as `word` (of tasks that nobody asked to stop): what a filter by
    /// state translates to.
    pub fn shown_by_vplus_as(word: VplusTaskState) -> impl Iterator<Item = Self> {
        WORDS.iter().filter(move |row| row.1.vplus == word).map(|row| row.0)
    }

    /// The engine's states that OmniStack shows as `word`.
    pub fn shown_by_omnistack_as(word: OmniTaskState) -> impl Iterator<Item = Self> {
        WORDS.iter().filter(move |row| row.1.omnistack == word).map(|row| row.0)
    }
}

/// What each dialect calls one state of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialectWords {
    /// A vPlus task.
    pub vplus: VplusTaskState,
    /// A vPlus workflow execution, which stands for a chain in this state.
    pub workflow: WorkflowState,
    /// An OmniStack task, which stands for a chain in this state.
    pub omnistack: OmniTaskState,
    /// A Commissaire cluster operation.
    pub commissaire: OperationStatus,
}

const fn words(v: VplusTaskState, w: WorkflowState, o: OmniTaskState, c: OperationStatus) -> DialectWords {
    DialectWords { vplus: v, workflow: w, omnistack: o, commissaire: c }
}

/// The one table of what the dialects call the engine's states. Orchestrator has no tasks: it waits for the end,
/// and answers with a result or an error.
pub const WORDS: [(TaskState, DialectWords); 10] = {
    use OmniTaskState as O;
    use OperationStatus as C;
    use VplusTaskState as V;
    use WorkflowState as W;
    [
        (TaskState::Blocked, words(V::Queued, W::Running, O::InProgress, C::InProcess)),
        (TaskState::Scheduled, words(V::Queued, W::Running, O::InProgress, C::InProcess)),
        (TaskState::Ready, words(V::Queued, W::Running, O::InProgress, C::InProcess)),
        (TaskState::Running, words(V::Running, W::Running, O::InProgress, C::InProcess)),
        (TaskState::Undoing, words(V::Running, W::Running, O::InProgress, C::InProcess)),
        (TaskState::Succeeded, words(V::Finished, W::Finished, O::Completed, C::Finished)),
        (TaskState::Failed, words(V::Failed, W::Failed, O::Failed, C::Failed)),
        (TaskState::Stuck, words(V::Failed, W::FailedWithCriticalErrors, O::Failed, C::Failed)),
        (TaskState::Cancelled, words(V::Cancelled, W::Cancelled, O::Failed, C::Failed)),
        // vPlus: a task that did not start within its window has failed, it was not cancelled.
        (TaskState::Expired, words(V::Failed, W::Failed, O::Failed, C::Failed)),
    ]
};

impl From<TaskState> for crate::query::Value {
    fn from(state: TaskState) -> Self {
        Self::Text(state.name().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_one_row_in_every_table() {
        for state in TaskState::ALL {
            assert_eq!(WORDS.iter().filter(|row| row.0 == state).count(), 1, "{state}");
            assert_eq!(TaskState::MOVES.iter().filter(|row| row.0 == state).count(), 1, "{state}");
            assert_eq!(TaskState::TABLE.iter().filter(|row| row.0 == state).count(), 1, "{state}");
            assert!(!state.can_become(state), "{state} stays by not moving");
        }
        assert_eq!(TaskState::TABLE.len(), TaskState::ALL.len());
    }

    #[test]
    fn the_words_are_those_of_the_dialects() {
        let table: Vec<_> = WORDS
            .iter()
            .map(|(s, w)| (s.name(), w.vplus.name(), w.workflow.name(), w.omnistack.name(), w.commissaire.name()))
            .collect();
        assert_eq!(
            table,
            [
                ("BLOCKED", "QUEUED", "RUNNING", "IN_PROGRESS", "in_process"),
                ("SCHEDULED", "QUEUED", "RUNNING", "IN_PROGRESS", "in_process"),
                ("READY", "QUEUED", "RUNNING", "IN_PROGRESS", "in_process"),
                ("RUNNING", "RUNNING", "RUNNING", "IN_PROGRESS", "in_process"),
                ("UNDOING", "RUNNING", "RUNNING", "IN_PROGRESS", "in_process"),
                ("SUCCEEDED", "FINISHED", "FINISHED", "COMPLETED", "finished"),
                ("FAILED", "FAILED", "FAILED", "FAILED", "failed"),
                ("STUCK", "FAILED", "FAILED_WITH_CRITICAL_ERRORS", "FAILED", "failed"),
                ("CANCELLED", "CANCELLED", "CANCELLED", "FAILED", "failed"),
                ("EXPIRED", "FAILED", "FAILED", "FAILED", "failed"),
            ]
        );
    }

    #[test]
    fn a_dialect_never_takes_back_an_end() {
        // Once a dialect shows an end, no permitted move may show anything but that end.
        for (from, followers) in TaskState::MOVES {
            for to in *followers {
                let (a, b) = (from.words(), to.words());
                if a.omnistack != OmniTaskState::InProgress && *from != TaskState::Stuck {
                    assert_eq!(a.omnistack, b.omnistack, "{from} → {to}");
                }
            }
        }
    }

    #[test]
    fn every_state_can_be_reached_and_can_end() {
        for start in TaskState::ALL {
            let mut seen = vec![start];
            let mut next = 0;
            while next < seen.len() {
                for follower in seen[next].followers() {
                    if !seen.contains(follower) {
                        seen.push(*follower);
                    }
                }
                next += 1;
            }
            assert!(seen.iter().any(|s| s.is_terminal()), "{start} never ends");
            if start == TaskState::Blocked {
                assert_eq!(seen.len(), TaskState::ALL.len(), "unreachable states");
            }
        }
    }

    #[test]
    fn ends_are_final_and_errors_say_which_move() {
        for end in [TaskState::Succeeded, TaskState::Failed, TaskState::Cancelled, TaskState::Expired] {
            assert!(end.is_terminal() && end.is_settled());
            for next in TaskState::ALL {
                assert!(end.become_(next).is_err());
            }
        }
        assert!(!TaskState::Stuck.is_terminal() && TaskState::Stuck.is_settled());
        let error = TaskState::Succeeded.become_(TaskState::Running).unwrap_err();
        assert_eq!(error.to_string(), "a task cannot go from SUCCEEDED to RUNNING");
    }

    #[test]
    fn a_wish_to_stop_shows_at_once_in_vplus_alone() {
        let words = TaskState::Running.words_when_cancelling();
        assert_eq!((words.vplus.name(), words.omnistack.name()), ("CANCELLED", "IN_PROGRESS"));
        assert_eq!(TaskState::Succeeded.words_when_cancelling(), TaskState::Succeeded.words());
    }

    #[test]
    fn filters_by_a_dialects_word_find_every_state_once() {
        let mut found: Vec<_> =
            VplusTaskState::TABLE.iter().flat_map(|row| TaskState::shown_by_vplus_as(row.0)).collect();
        found.sort();
        assert_eq!(found, TaskState::ALL);
        let found: Vec<_> = TaskState::shown_by_omnistack_as(OmniTaskState::Completed).collect();
        assert_eq!(found, [TaskState::Succeeded]);
    }
}
