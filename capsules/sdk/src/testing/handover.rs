//! A version of the protocol in the place of the one before, on a node in memory.

use super::companions::{Member, Team};
use super::{Network, Node, copy, result};
use crate::handover::{Handover, Takeover};
use crate::{Capsule, Error, Protocol};

/// What is on its way from one version to the next.
#[derive(Default)]
pub(super) struct Passing {
    state: Vec<u8>,
    giving: bool,
}

impl<P: Protocol + 'static> Network<P> {
    /// Another version of the protocol takes over on a node, with what the one before hands over; or does not, and
    /// that one goes on.
    pub fn replace(&mut self, at: usize, protocol: P) -> Result<(), Error> {
        self.replace_team(at, protocol, vec![])
    }

    /// The same for a protocol with companions; those start anew that are handed nothing.
    pub fn replace_team(&mut self, at: usize, protocol: P, companions: Vec<Member>) -> Result<(), Error> {
        let mut states = Vec::new();
        for member in 0..self.seen(at).seats.len() {
            self.at(at).passing = Passing { state: vec![], giving: true };
            let mut outcome = Ok(());
            self.call(at, member, |p| outcome = p.handover(&mut Handover::begin()));
            let passing = std::mem::take(&mut self.at(at).passing);
            match outcome {
                Ok(()) => states.push(Some(passing.state)),
                Err(_) if member > 0 => states.push(None),
                Err(error) => return Err(error),
            }
        }
        let team = Team::new(self.description, Box::new(protocol), companions);
        let before = self.at(at).put_aside(team);
        for member in (0..self.seen(at).seats.len()).rev() {
            let mut outcome = Ok(());
            let state = states.get_mut(member).and_then(Option::take);
            let given = state.is_some();
            let len = state.as_ref().map_or(0, Vec::len);
            self.at(at).passing = Passing { state: state.unwrap_or_default(), giving: false };
            self.call(at, member, |p| {
                let capsule = super::with_node(|n| n.event_capsule(n.description.events.boot));
                let capsule = Capsule::of_event(capsule);
                match given {
                    true => outcome = p.takeover(capsule, &mut Takeover::begin(len)),
                    false => p.boot(capsule),
                }
            });
            self.at(at).passing = Passing::default();
            if outcome.is_err() {
                self.at(at).go_back(before);
                return outcome;
            }
        }
        Ok(())
    }
}

impl Node {
    pub(crate) fn handover_write(&mut self, bytes: &[u8]) -> i32 {
        if !self.passing.giving {
            return result(Err(Error::Unavailable));
        }
        self.passing.state.extend_from_slice(bytes);
        0
    }

    pub(crate) fn handover_read(&mut self, offset: u32, buffer: &mut [u8]) -> i32 {
        if self.passing.giving || offset as usize > self.passing.state.len() {
            return 0;
        }
        result(copy(&self.passing.state, offset, buffer))
    }

    pub(crate) fn handover_session(&mut self, session: u32) -> i32 {
        let known = self.sessions.contains_key(&session);
        result(if known { Ok(session as usize) } else { Err(Error::NotFound) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::{Description, Events};
    use crate::{Session, SessionEvent, Text, Timer};

    const DESCRIPTION: Description = Description {
        name: "counter",
        capsules: &[],
        events: Events::NONE,
        session: true,
        params: &[],
        companions: &[],
    };

    crate::packed! {
        /// What passes.
        struct Count: 7 {
            packets: u32,
            session: u32,
        }
    }

    /// Counts packets, and takes a state over unless it is told not to.
    #[derive(Default)]
    struct Counter {
        packets: u32,
        first: Option<Session>,
        stubborn: bool,
        fired: u32,
    }

    impl Protocol for Counter {
        fn session(&mut self, _: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
            match event {
                SessionEvent::Opened => {
                    self.first.get_or_insert(session);
                    let _ = Timer::once(1000, 0);
                }
                SessionEvent::Packet(..) => {
                    self.packets += 1;
                    let mut line: Text<16> = Text::new();
                    line.push(self.packets);
                    let _ = self.first.unwrap_or(session).reply(line.as_bytes());
                }
                SessionEvent::Closed => {}
            }
        }

        fn timer(&mut self, _: Option<Capsule>, _: Timer, _: u64) {
            self.fired += 1;
        }

        fn handover(&self, to: &mut Handover) -> Result<(), Error> {
            let session = self.first.ok_or(Error::Unavailable)?.number();
            to.put(&Count { packets: self.packets, session })
        }

        fn takeover(&mut self, _: Option<Capsule>, from: &mut Takeover) -> Result<(), Error> {
            let count: Count = from.get()?;
            assert_eq!((from.left(), from.get::<Count>()), (0, Err(Error::BadArgument)));
            (self.packets, self.first) = (count.packets, Some(from.session(count.session)?));
            if self.stubborn { Err(Error::NotPermitted) } else { Ok(()) }
        }
    }

    #[test]
    fn a_version_takes_over_or_the_one_before_goes_on() {
        let mut net = Network::new(&DESCRIPTION, 1);
        let at = net.node("a", Counter::default());
        assert_eq!(net.replace(at, Counter::default()), Err(Error::Unavailable), "it hands nothing over");
        let session = net.open(at);
        net.send(session, b"x");
        let stubborn = Counter { stubborn: true, ..Counter::default() };
        assert_eq!(net.replace(at, stubborn), Err(Error::NotPermitted));
        net.run_until(1000);
        assert_eq!(net.protocol(at).fired, 1, "its timers are there");
        net.replace(at, Counter::default()).unwrap();
        net.send(session, b"x");
        assert_eq!(net.received(session), ["1", "2"]);
        net.open(at);
        net.replace(at, Counter::default()).unwrap();
        net.run_until(9000);
        assert_eq!(net.protocol(at).fired, 0, "timers are not handed over");
    }
}
