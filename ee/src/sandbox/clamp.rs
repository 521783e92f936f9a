//! Lowering the terms of a team that runs.

use nodeos::team::Budget;
use wire::grant::Grant;

use super::{Guest, NeighborId, NeighborRef, Sandbox, StartError};
use crate::cap::Neighbors;
use crate::capsule::Kinds;

impl Sandbox {
    /// Goes on under lower terms, in the middle of an event as well. Where the team holds more than a budget
    /// allows now it keeps that, and gets nothing more until it has given back enough; soft state beyond it
    /// goes, the least recently used first. Memory and bandwidth are the team's to bound. An error if what the
    /// flow declares does not fit the new terms at all: it cannot go on.
    pub fn clamp(&mut self, grant: &Grant, budget: &Budget) -> Result<(), StartError> {
        self.time = [budget.event, budget.background];
        if let Some(background) = &mut self.background {
            background.keep(&grant.privileges);
        }
        if let Guest::Idle(program) = &mut self.guest {
            program.run.bound(budget.event);
            return program.run.store.data_mut().lower(grant, budget);
        }
        Kinds::all(&self.tuple, grant)?;
        if let Some(background) = &self.background {
            background.mailbox.lower(grant, budget);
        }
        self.withhold(&grant.privileges);
        Ok(())
    }

    /// Revokes every capability for privileges that are not among `kept`, and what other teams got of them
    /// by envelopes.
    pub fn withhold(&mut self, kept: &[String]) {
        if let Some(background) = &mut self.background {
            background.keep(kept);
        }
        match (&mut self.guest, &self.background) {
            (Guest::Idle(program), _) => program.run.store.data_mut().each(|caps, _| caps.withhold(kept)),
            (_, Some(background)) => background.mailbox.withhold(kept),
            (_, None) => {}
        }
    }

    /// Revokes every capability for a neighbor.
    pub fn neighbor_gone(&mut self, id: NeighborId) {
        match (&mut self.guest, &self.background) {
            (Guest::Idle(program), _) => program.run.store.data_mut().neighbor_gone(id),
            (_, Some(background)) => background.mailbox.neighbor_gone(id),
            (_, None) => {}
        }
    }

    /// The team may know of a further neighbor, or of one again, in the middle of an event as well. `false`: its memory
    /// has no room for that.
    pub fn neighbor_found(&mut self, is: &NeighborRef) -> bool {
        let known = match (&self.guest, &self.background) {
            (Guest::Idle(program), _) => program.run.store.data().neighbors.place(is.id).is_some(),
            (_, Some(background)) => background.mailbox.has_place(is.id),
            (_, None) => return false,
        };
        let bytes = Neighbors::growth(is.id) * self.tuple.body.protocols.len() as u64;
        let charge = match known {
            true => None,
            false => match self.charge.account().charge(bytes) {
                Ok(charge) => Some(charge),
                Err(_) => return false,
            },
        };
        match (&mut self.guest, &self.background) {
            (Guest::Idle(program), background) => {
                background.iter().for_each(|background| background.mailbox.knows(is.id));
                program.run.store.data_mut().neighbor_found(is, charge);
            }
            (_, Some(background)) => background.mailbox.neighbor_found(is, charge),
            (_, None) => {}
        }
        true
    }

    /// Whether a protocol, which is not in the middle of an event, may know of a neighbor; which it watches from now on,
    /// or not any more.
    pub fn watches(&mut self, protocol: u8, id: NeighborId, watched: Option<bool>) -> bool {
        let Guest::Idle(program) = &mut self.guest else { return false };
        let neighbors = program.run.store.data_mut().neighbors_of(protocol.into());
        let known = neighbors.and_then(|all| all.get_mut(all.position(id)?).ok());
        known.map(|known| watched.into_iter().for_each(|watched| known.watch(watched))).is_some()
    }

    /// A neighbor that was found is none any more; whether the team knew it.
    pub fn neighbor_left(&mut self, id: NeighborId) -> bool {
        self.with_integrity(|keys| keys.clear(id));
        match (&mut self.guest, &self.background) {
            (Guest::Idle(program), _) => {
                let state = program.run.store.data_mut();
                let known = state.neighbors.place(id).is_some();
                state.neighbor_left(id);
                known
            }
            (_, Some(background)) => background.mailbox.neighbor_left(id),
            (_, None) => false,
        }
    }
}
