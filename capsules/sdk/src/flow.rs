//! Flows below this one (`docs/abi/flow.md`): a flow with the privilege may start others, which live on its
//! budget and end with it.

use crate::error::{Error, check, done};
use crate::node::Resource;
use crate::sys;

/// The privilege to start flows below one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flows(u32);

/// A flow that this one started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow(u32);

/// What a flow that this one started is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is judged, or its code is compiled.
    Starting,
    /// It runs.
    Running,
    /// It has ended, or was never let in.
    Ended,
}

impl State {
    /// The state of this number.
    pub fn of(number: u32) -> Self {
        match number {
            0 => Self::Starting,
            1 => Self::Running,
            _ => Self::Ended,
        }
    }
}

impl Flows {
    /// Asks for it.
    pub fn find() -> Result<Self, Error> {
        check(sys::cap_lookup(b"flows")).map(Self)
    }

    /// Has the node start the flow of these tuple's bytes when the event has ended; its parts must be on the
    /// node, as this flow's data parts are. Of the resources in `give` it gets what its tuple asks for to
    /// itself; the rest it shares with this flow. [`Protocol::flow`](crate::Protocol::flow) tells how it
    /// went.
    pub fn start(&self, tuple: &[u8], give: &[Resource]) -> Result<Flow, Error> {
        let give = give.iter().fold(0, |bits, resource| bits | 1 << *resource as u32);
        check(sys::flow_start(self.0, tuple, give)).map(Flow)
    }

    /// The capability's number.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The capability that came in an envelope.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// Ends this flow on this node when the event is over, after its clean-up.
pub fn end() -> Result<(), Error> {
    done(sys::flow_end())
}

impl Flow {
    /// What it is doing.
    pub fn state(&self) -> Result<State, Error> {
        check(sys::flow_state(self.0)).map(State::of)
    }

    /// Ends it when the event has ended, after its own clean-up.
    pub fn stop(&self) -> Result<(), Error> {
        done(sys::flow_stop(self.0, 0))
    }

    /// Ends it when the event has ended; not one instruction of it runs any more.
    pub fn kill(&self) -> Result<(), Error> {
        done(sys::flow_stop(self.0, 1))
    }

    /// Lowers what it may use: bytes, microseconds of an event, bytes per second on a link. Nothing is ever
    /// raised.
    pub fn limit(&self, resource: Resource, most: u64) -> Result<(), Error> {
        done(sys::flow_limit(self.0, resource as i32, most.min(i64::MAX as u64) as i64))
    }

    /// Gives the capability back. The flow goes on.
    pub fn forget(self) -> Result<(), Error> {
        done(sys::cap_drop(self.0))
    }

    /// The capability's number.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The flow of a capability's number.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::describe::{Description, Events};
    use crate::testing::Network;
    use crate::{Capsule, Protocol, Session, SessionEvent};

    const DESCRIPTION: Description = Description {
        name: "starter",
        capsules: &[],
        events: Events { boot: None, timer: None, session: None },
        session: true,
        params: &[],
        companions: &[],
    };

    /// Starts a flow for a packet, and restarts it when it ends.
    #[derive(Default)]
    struct Starter {
        session: Option<Session>,
        seen: Vec<State>,
    }

    impl Protocol for Starter {
        fn session(&mut self, _: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
            if let SessionEvent::Packet(tuple, _) = event {
                self.session = Some(session);
                let started = Flows::find().and_then(|flows| flows.start(tuple, &[Resource::Memory]));
                let answer = match started {
                    Ok(flow) => {
                        assert_eq!(flow.state(), Ok(State::Starting));
                        assert_eq!(flow.limit(Resource::Memory, 1), Err(Error::Unavailable));
                        "starting"
                    }
                    Err(_) => "refused",
                };
                let _ = session.reply(answer.as_bytes());
            }
        }

        fn flow(&mut self, flow: Flow, state: State) {
            self.seen.push(state);
            let answer = match state {
                State::Running => flow.limit(Resource::Memory, 1000).map(|()| "running"),
                _ => flow.forget().and(flow.state().map(|_| "still there").or(Ok("ended"))),
            };
            if let Some(session) = self.session {
                let _ = session.reply(answer.unwrap_or("?").as_bytes());
            }
        }
    }

    #[test]
    fn the_parent_hears_of_what_it_started() {
        let mut net = Network::new(&DESCRIPTION, 1);
        let node = net.node("a", Starter::default());
        let session = net.open(node);
        net.send(session, b"tuple");
        net.grant(node, "flows");
        net.send(session, b"tuple");
        net.flow_is(node, b"tuple", State::Running);
        net.flow_is(node, b"tuple", State::Ended);
        assert_eq!(net.received(session), ["refused", "starting", "running", "ended"]);
    }
}
