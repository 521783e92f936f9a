//! hello: who is there? A flood reaches every node, and every node answers along the reverse path.
//! README.md is the manual.
//!
//! | module     | what                                                                |
//! |------------|---------------------------------------------------------------------|
//! | [`format`] | what floods and answers look like                                    |
//! | [`filter`] | which answers the origin has, in 256 bytes                           |
//! | [`run`]    | a node's part in one search: parent, round, which neighbors it heard |
//! | [`held`]   | answers that a node keeps until the origin has them                  |
//! | [`origin`] | the node that searches: what it knows, and when it is done           |
#![cfg_attr(target_arch = "wasm32", no_std)]

mod filter;
mod format;
mod held;
mod origin;
mod run;
#[cfg(test)]
mod tests;

use bees_sdk::{Capsule, Neighborhood, Operation, Protocol, Session, SessionEvent, Timer, node};

use filter::Filter;
use format::{Answers, Entry, Flood, MAX_NAME};
use held::Held;
use origin::Origin;
use run::Runs;

bees_sdk::protocol! {
    name: "hello",
    state: Hello = Hello::new(),
    capsules: {
        // To all neighbors; or back to the sender, from a node at the hop limit. A node sends what
        // answers it holds in up to four capsules when a round begins.
        Flood { returns: 1, multicasts: 1, derives: 4 } -> [Answer],
        // One step toward the origin.
        Answer { sends: 1 },
    },
    events: { timer: Flood, session: Flood },
    session: true,
    params: { "hops": "64", "interval": "250", "quiet": "20", "rounds": "240" },
}

/// What this build says besides its name.
const TAG: &str = match option_env!("HELLO_TAG") {
    Some(tag) => tag,
    None => "",
};
const _: () = assert!(TAG.len() <= MAX_NAME, "HELLO_TAG is at most 32 bytes long");

/// The protocol on one node. Everything in it begins as zeros, so that the module does not carry it.
pub struct Hello {
    runs: Runs,
    held: Held,
    origin: Origin,
    neighborhood: Option<Neighborhood>,
}

impl Hello {
    /// Nothing heard, nothing asked.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { runs: Runs::new(), held: Held::new(), origin: Origin::new(), neighborhood: None }
    }

    fn neighborhood(&mut self) -> Option<Neighborhood> {
        if self.neighborhood.is_none() {
            self.neighborhood = Neighborhood::all().ok();
        }
        self.neighborhood
    }

    /// A flood: note the neighbor; if its round is new here, answer and pass it on.
    fn flood(&mut self, mut capsule: Capsule, head: &[u8]) {
        let (Some(flood), Some(from)) = (Flood::parse(head), capsule.from()) else { return };
        if self.origin.is(flood.run) {
            if self.runs.heard(flood.run, from, flood.sender) {
                self.update_origin();
            }
            return;
        }
        let new_round = self.runs.enter(&flood, from);
        let Some(run) = self.runs.get(flood.run) else { return };
        let onward = Flood { hops: run.hops, sender: node::id(), ..flood };
        if new_round {
            let mut filter = Filter::new();
            if capsule.read(Flood::HEADER, filter.bytes_mut()).is_ok_and(|b| b.len() == Filter::LEN) {
                self.answer(&mut capsule, flood.run, &filter);
            }
        }
        if onward.hops >= onward.limit {
            // The neighbors beyond are not asked; those before must know that we were.
            if flood.hops < flood.limit && onward.write(&mut capsule).is_ok() {
                let _ = capsule.return_to_sender();
            }
        } else if new_round
            && onward.write(&mut capsule).is_ok()
            && let Some(neighborhood) = self.neighborhood()
        {
            // Also back: it tells the parent that we were reached.
            let _ = capsule.multicast(&neighborhood);
        }
    }

    /// Sends to the parent what the origin lacks: this node's answer and those that it holds for others.
    fn answer(&mut self, capsule: &mut Capsule, run: u64, filter: &Filter) {
        let neighborhood = self.neighborhood();
        let Some(run) = self.runs.get(run) else { return };
        let parent = run.parent();
        let limit = parent.and_then(|p| p.max_payload().ok()).unwrap_or(0);
        let mut answers = Answers::new(run.id, limit);
        let mut own = [0; Entry::MAX];
        let entry = run.own_entry(neighborhood, TAG, &mut own);
        if !filter.has(entry.id, entry.heard, run.round) {
            answers.add(entry.bytes);
        }
        for held in self.held.of(run.id) {
            held.acknowledged = filter.has(held.id, held.heard, run.round);
            if held.acknowledged {
                continue;
            }
            if !answers.add(held.bytes()) {
                if !send(capsule, &mut answers, parent) {
                    return;
                }
                answers.add(held.bytes());
            }
            held.round = run.round;
        }
        if !answers.is_empty() {
            send(capsule, &mut answers, parent);
        }
    }

    /// Answers on their way: hold them, and pass them to the parent unless this round already did.
    fn relay(&mut self, capsule: Capsule) {
        let mut buffer = [0; Answers::MAX];
        let Ok(payload) = capsule.read(0, &mut buffer) else { return };
        let Some((id, entries)) = Answers::parse(payload) else { return };
        if self.origin.is(id) {
            for entry in entries {
                self.origin.learn(&entry);
            }
            self.origin.finish_if_closed();
            return;
        }
        let Some(run) = self.runs.get(id) else { return };
        let mut news = false;
        for entry in entries {
            news |= self.held.keep(id, run.round, &entry);
        }
        if news && let Some(parent) = run.parent() {
            // What is lost or refused here goes again when the next round begins.
            let _ = capsule.send(&parent);
        }
    }

    /// The origin heard a neighbor: its own answer has changed.
    fn update_origin(&mut self) {
        let neighborhood = self.neighborhood();
        if let Some(run) = self.runs.get(self.origin.run()) {
            let mut own = [0; Entry::MAX];
            let packed = run.own_entry(neighborhood, TAG, &mut own);
            if let Some(entry) = Entry::parse(&mut bees_sdk::bytes::Reader::new(packed.bytes)) {
                self.origin.learn(&entry);
            }
            self.origin.finish_if_closed();
        }
    }

    /// Begins the search's next round.
    fn next_round(&mut self, mut capsule: Capsule) {
        let Some(flood) = self.origin.next_round() else { return };
        self.runs.begin(&flood);
        let mut payload = [0; Flood::HEADER + Filter::LEN];
        payload[..Flood::HEADER].copy_from_slice(&flood.bytes());
        payload[Flood::HEADER..].copy_from_slice(self.origin.filter().bytes());
        if let Some(neighborhood) = self.neighborhood()
            && capsule.set(&payload).is_ok()
        {
            let _ = capsule.multicast(&neighborhood);
        }
        if flood.round == 1 {
            self.update_origin();
        }
    }
}

/// Sends collected answers in a capsule derived from the flood; `false`: no more this round.
fn send(capsule: &mut Capsule, answers: &mut Answers, parent: Option<bees_sdk::Neighbor>) -> bool {
    let Some(parent) = parent.filter(|_| capsule.left(Operation::Derives) > 0) else { return false };
    let Ok(mut answer) = capsule.derive(Kind::Answer) else { return false };
    let sent = answer.set(answers.bytes()).and_then(|()| answer.send(&parent)).is_ok();
    answers.clear();
    sent
}

impl Protocol for Hello {
    fn capsule(&mut self, capsule: Capsule, head: &[u8]) {
        match Kind::of(capsule.kind()) {
            Some(Kind::Flood) => self.flood(capsule, head),
            Some(Kind::Answer) => self.relay(capsule),
            None => {}
        }
    }

    fn timer(&mut self, capsule: Option<Capsule>, _: Timer, token: u64) {
        if let Some(capsule) = capsule
            && self.origin.is(token)
        {
            self.next_round(capsule);
        }
    }

    fn session(&mut self, capsule: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Opened => {}
            SessionEvent::Closed => self.origin.closed(session),
            SessionEvent::Packet(..) => {
                let mut line = [0; 128];
                let line = session.read(0, &mut line).unwrap_or(&[]);
                if self.origin.request(session, line)
                    && let Some(capsule) = capsule
                {
                    self.next_round(capsule);
                }
            }
        }
    }
}
