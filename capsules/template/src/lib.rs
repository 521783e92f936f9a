//! template: the smallest protocol that does something. A program on one node says a line; the programs on
//! neighboring nodes hear it.
#![cfg_attr(target_arch = "wasm32", no_std)]

use bees_sdk::{Capsule, Neighborhood, Protocol, Session, SessionEvent, log};

bees_sdk::protocol! {
    name: "template",
    state: Template = Template::new(),
    capsules: {
        // After each event one of these may go to all neighbors, once.
        Line { multicasts: 1 },
    },
    events: { session: Line },
    session: true,
}

/// The protocol on one node: the program that listens here.
pub struct Template {
    listener: Option<Session>,
}

impl Template {
    /// Nobody listens.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { listener: None }
    }
}

impl Protocol for Template {
    fn capsule(&mut self, capsule: Capsule, _: &[u8]) {
        let mut line = [0; 256];
        if let (Some(listener), Ok(line)) = (self.listener, capsule.read(0, &mut line)) {
            let _ = listener.reply(line);
        }
    }

    fn session(&mut self, capsule: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Opened => self.listener = Some(session),
            SessionEvent::Closed => self.listener = None,
            SessionEvent::Packet(..) => {
                let mut line = [0; 256];
                let (Some(mut capsule), Ok(line)) = (capsule, session.read(0, &mut line)) else { return };
                let Ok(neighbors) = Neighborhood::all() else { return };
                match capsule.set(line).and_then(|()| capsule.multicast(&neighbors)) {
                    Ok(count) => log!(Debug, "said to ", count),
                    Err(why) => log!(Warn, "not said: ", why),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bees_sdk::testing::{Link, Network};

    #[test]
    fn a_neighbor_hears_and_the_one_behind_does_not() {
        let mut net = Network::new(&DESCRIPTION, 1);
        let [a, b, c] = ["a", "b", "c"].map(|n| net.node(n, Template::new()));
        for (x, y) in [(a, b), (b, c)] {
            net.link(x, y, Link { delay_us: 100, loss: 0.0 });
        }
        let [sa, sb, sc] = [a, b, c].map(|n| net.open(n));
        net.send(sa, b"good morning");
        net.run_until(1000);
        assert_eq!(net.received(sb), ["good morning"]);
        assert!(net.received(sa).is_empty() && net.received(sc).is_empty());
    }
}
