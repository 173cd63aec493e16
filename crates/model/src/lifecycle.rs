//! Checked state machines: an enum beside the table of its permitted moves.

use crate::describe::Describe;

/// An enum whose values follow one another by a table of permitted moves.
///
/// Staying in a state is not a move: who repeats a step asks `==` first.
pub trait Lifecycle: Describe {
    /// What the machine is called in errors, `backup`.
    const MACHINE: &'static str;
    /// From every state the states that may follow it. A state without a row, or with an empty one, is terminal.
    const MOVES: &'static [(Self, &'static [Self])];

    /// The states that may follow this one.
    fn followers(self) -> &'static [Self] {
        Self::MOVES.iter().find(|row| row.0 == self).map_or(&[], |row| row.1)
    }

    /// Whether `next` may follow this state.
    fn can_become(self, next: Self) -> bool {
        self.followers().contains(&next)
    }

    /// Whether nothing follows this state.
    fn is_terminal(self) -> bool {
        self.followers().is_empty()
    }

    /// `next`, where it may follow this state.
    fn become_(self, next: Self) -> Result<Self, IllegalTransition> {
        if self.can_become(next) { Ok(next) } else { Err(IllegalTransition::new(Self::MACHINE, self, next)) }
    }

    /// Moves the state held in `place`, which keeps its value on an error.
    fn advance(place: &mut Self, next: Self) -> Result<(), IllegalTransition> {
        *place = place.become_(next)?;
        Ok(())
    }
}

/// A move that the machine's table does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {machine} cannot go from {from} to {to}")]
pub struct IllegalTransition {
    /// The machine.
    pub machine: &'static str,
    /// The state it is in.
    pub from: &'static str,
    /// The state that was asked for.
    pub to: &'static str,
}

impl IllegalTransition {
    /// The error for a move of `machine`.
    pub fn new<S: Describe>(machine: &'static str, from: S, to: S) -> Self {
        Self { machine, from: from.name(), to: to.name() }
    }
}
