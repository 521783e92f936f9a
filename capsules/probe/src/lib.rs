//! probe: how are you? A flood reaches every node; each reads the sensors that the program asked for and
//! reports them, or, where its flow may not read them, only passes on what others say. README.md is the manual.
//!
//! | module     | what                                              |
//! |------------|---------------------------------------------------|
//! | [`format`] | what questions and reports look like               |
//! | [`search`] | the node that asks: what it knows, when it is done |
#![cfg_attr(target_arch = "wasm32", no_std)]

mod format;
mod search;
#[cfg(test)]
mod tests;

use bees_sdk::{Capsule, Neighborhood, Protocol, Sensors, Session, SessionEvent, Timer, node, route};

use format::{MAX_NAME, MAX_REPORT, Question, Report};
use search::Search;

bees_sdk::protocol! {
    name: "probe",
    state: Probe = Probe::new(),
    capsules: {
        // To all neighbors, once a round; and a node's own report.
        Ask { multicasts: 1, derives: 1 } -> [Tell],
        // One step toward who asked.
        Tell { sends: 1 },
    },
    events: { timer: Ask, session: Ask },
    session: true,
    params: { "sensors": "uptime-microseconds", "hops": "64", "interval": "250", "quiet": "10", "rounds": "60" },
}

/// How long the way to who asked is kept.
const ROUTE_MS: u32 = 30_000;
/// How long a question is remembered.
const SEEN_MS: u32 = 10_000;

/// The protocol on one node.
pub struct Probe {
    me: u64,
    search: Search,
}

impl Probe {
    /// Asks nobody.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { me: 0, search: Search::new() }
    }

    /// This node's number.
    fn me(&mut self) -> u64 {
        if self.me == 0 {
            self.me = node::id();
        }
        self.me
    }

    /// A question: answer it, and pass it on.
    fn ask(&mut self, mut capsule: Capsule) {
        let mut buffer = [0; Question::MAX];
        let (Ok(bytes), Some(from)) = (capsule.read(0, &mut buffer), capsule.from()) else { return };
        let Some(question) = Question::parse(bytes) else { return };
        let first = route::first_seen(question.origin, question.number(), SEEN_MS);
        if question.origin == self.me() || !first {
            return;
        }
        let _ = route::learn(question.origin, from, ROUTE_MS);
        let question = Question { hops: question.hops + 1, ..question };
        let mut report = [0; MAX_REPORT];
        let report = own_report(&question, &mut report);
        if let Ok(mut tell) = capsule.derive(Kind::Tell)
            && tell.set(report).is_ok()
        {
            let _ = tell.send(&from);
        }
        if question.hops < question.limit
            && capsule.write(Question::HOPS, &[question.hops]).is_ok()
            && let Ok(all) = Neighborhood::all()
        {
            let _ = capsule.multicast_onward(&all);
        }
    }

    /// Somebody's report: it is for a program here, or goes one step on.
    fn tell(&mut self, capsule: Capsule) {
        let mut buffer = [0; MAX_REPORT];
        let Ok(bytes) = capsule.read(0, &mut buffer) else { return };
        let Some(report) = Report::parse(bytes) else { return };
        if report.origin == self.me() {
            self.search.learn(&report);
        } else if let Some(next) = route::next(report.origin).filter(|next| Some(*next) != capsule.from()) {
            let _ = capsule.send(&next);
        }
    }

    /// Asks again: what was lost comes in the next round.
    fn round(&mut self, mut capsule: Capsule) {
        let me = self.me();
        let Some(question) = self.search.next_round(me) else { return };
        let mut buffer = [0; Question::MAX];
        if let Ok(all) = Neighborhood::all()
            && capsule.set(question.pack(&mut buffer)).is_ok()
        {
            let _ = capsule.multicast(&all);
        }
        let mut report = [0; MAX_REPORT];
        if let Some(report) = Report::parse(own_report(&question, &mut report)) {
            self.search.learn(&report);
        }
    }
}

/// What this node says: its sensors' values, if the flow may read them.
fn own_report<'a>(question: &Question<'_>, buffer: &'a mut [u8; MAX_REPORT]) -> &'a [u8] {
    let mut name = [0; MAX_NAME];
    let name = node::name(&mut name).unwrap_or(b"?");
    let sensors = Sensors::find().ok();
    let values = sensors.map(|sensors| question.sensors().map(move |name| sensors.read(name).ok()));
    format::pack_report(question, name, values, buffer)
}

impl Protocol for Probe {
    fn capsule(&mut self, capsule: Capsule, _: &[u8]) {
        match Kind::of(capsule.kind()) {
            Some(Kind::Ask) => self.ask(capsule),
            Some(Kind::Tell) => self.tell(capsule),
            None => {}
        }
    }

    fn timer(&mut self, capsule: Option<Capsule>, _: Timer, token: u64) {
        if let Some(capsule) = capsule
            && self.search.is(token)
        {
            self.round(capsule);
        }
    }

    fn session(&mut self, capsule: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Opened => {}
            SessionEvent::Closed => self.search.closed(session),
            SessionEvent::Packet(..) => {
                let mut line = [0; 256];
                let line = session.read(0, &mut line).unwrap_or(&[]);
                if self.search.request(session, line)
                    && let Some(capsule) = capsule
                {
                    self.round(capsule);
                }
            }
        }
    }
}
