//! health: how is everybody? The agent spreads to every node that the flow may run on, reads its sensors now and then,
//! and reports them, signed with the node's key, to the server: the node where a program said `serve`. Where it may
//! not read sensors it only carries others' reports. The way there, and its spreading, is its companion's,
//! pathfinder. README.md is the manual.
//!
//! | module     | what                                            |
//! |------------|-------------------------------------------------|
//! | [`format`] | what a report looks like                         |
//! | [`server`] | who reported last, what is believed, what is told |
#![cfg_attr(target_arch = "wasm32", no_std)]

mod format;
mod server;
#[cfg(test)]
mod tests;

use bees_sdk::companion::Call;
use bees_sdk::pathfinder::{HERE, News, Pathfinder, Terms};
use bees_sdk::session::{Words, parse};
use bees_sdk::{Capsule, Error, Protocol, Sensors, Session, SessionEvent, Timer, node, text};

use format::MAX_REPORT;
use server::{Rules, Server};

bees_sdk::protocol! {
    name: "health",
    state: Health = Health::new(),
    capsules: {},
    events: {},
    session: true,
    params: {
        "poll-frequency": "5000", "interval": "1000", "timeout": "5000", "report-freshness": "30",
        "health-retention": "60", "algorithm": "any", "ignored-features": "",
    },
    companions: { "pathfinder": Parts },
}

/// The timer that is set again after the first report.
const FIRST: u64 = 0;
const EVERY: u64 = 1;
/// The longest list of ignored sensors, in bytes.
const MAX_IGNORED: usize = 256;

/// The agent on one node.
pub struct Health {
    sequence: u32,
    server: Server,
    report: [u8; MAX_REPORT],
}

impl Health {
    /// Has reported nothing.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { sequence: 0, server: Server::new(), report: [0; MAX_REPORT] }
    }

    /// Reads the sensors and reports them, if the flow may and somebody listens.
    fn sample(&mut self) {
        let (Ok(sensors), Ok(way)) = (Sensors::find(), Pathfinder::find()) else { return };
        let mut list = [0; MAX_IGNORED];
        let list = node::param("ignored-features", &mut list).unwrap_or(&[]);
        let ignored = |name: &[u8]| Words::of(list).any(|prefix| name.starts_with(prefix));
        let mut buffer = [0; MAX_REPORT];
        let report = format::pack(self.sequence + 1, &sensors, ignored, &mut buffer);
        match way.sink(report) {
            Ok(HERE) => self.server.take(report, 0, &rules()),
            Ok(_) => {}
            // Nobody is there yet: it is no report that was lost.
            Err(Error::NotFound) => return,
            Err(why) => bees_sdk::log!(Warn, "a report could not be sent: ", why),
        }
        self.sequence += 1;
    }

    fn request(&mut self, session: Session, line: &[u8]) {
        let mut words = Words::of(line);
        let done = match words.next().unwrap_or(b"") {
            b"serve" => Pathfinder::find().and_then(|way| way.root()).map_err(Error::name),
            b"watch" if self.server.watch(session) => Ok(()),
            b"watch" => Err("enough programs watch"),
            b"list" => return self.server.list(session, words.next().and_then(parse).unwrap_or(0) as usize),
            b"stats" => return self.server.done(session),
            _ => Err("usage: serve | watch | list [FROM] | stats"),
        };
        let _ = match done {
            Ok(()) => session.reply(b"ok"),
            Err(why) => session.reply(text!("error ", why).as_bytes()),
        };
    }
}

/// What the flow's parameters say is believed.
fn rules() -> Rules {
    let mut algorithm = [0; 8];
    Rules {
        freshness: node::param_number("report-freshness").unwrap_or(30).into(),
        retention: node::param_number("health-retention").unwrap_or(60),
        signed: node::param("algorithm", &mut algorithm) == Ok(b"ed25519"),
    }
}

impl Protocol for Health {
    fn boot(&mut self, _: Option<Capsule>) {
        let param = |name, or| node::param_number(name).unwrap_or(or);
        let interval_ms = param("interval", 1000).max(1);
        let expiry = param("timeout", 5000).div_ceil(interval_ms).clamp(2, 100) as u8;
        let terms = Terms { interval_ms, expiry, repeats: 1 };
        if let Err(why) = Pathfinder::find().and_then(|way| way.configure(&terms)) {
            bees_sdk::log!(Error, "no pathfinder: ", why);
        }
        // Not all nodes at the same moment.
        let mut random = [0; 4];
        let _ = node::random(&mut random);
        let poll = u64::from(param("poll-frequency", 5000).max(100)) * 1000;
        if let Err(why) = Timer::once(u64::from(u32::from_le_bytes(random)) % poll, FIRST) {
            bees_sdk::log!(Error, "no timer: ", why);
        }
    }

    fn timer(&mut self, _: Option<Capsule>, _: Timer, token: u64) {
        if token == FIRST {
            let poll = u64::from(node::param_number("poll-frequency").unwrap_or(5000).max(100)) * 1000;
            if let Err(why) = Timer::every(poll, EVERY) {
                bees_sdk::log!(Error, "no timer: ", why);
            }
        }
        self.sample();
    }

    fn companion(&mut self, _: Option<Capsule>, call: Call<'_>) -> Result<u32, Error> {
        match News::of(&call).ok_or(Error::BadArgument)? {
            News::Sink { hops, .. } => {
                let bytes = call.read(News::BYTES, &mut self.report)?;
                self.server.take(bytes, hops, &rules());
                Ok(0)
            }
            // Without the server there is nothing to do here: 0 ends the flow on this node.
            News::Multicast { .. } | News::Lost => Ok(0),
        }
    }

    fn room(&mut self, session: Session) {
        self.server.room(session);
    }

    fn session(&mut self, _: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Opened => {}
            SessionEvent::Closed => self.server.closed(session),
            SessionEvent::Packet(..) => {
                let mut line = [0; 64];
                let line = session.read(0, &mut line).unwrap_or(&[]);
                self.request(session, line);
            }
        }
    }
}
