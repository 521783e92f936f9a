//! Between flows: what other flows of the node, or the node itself, do for this one, and what this one does for them.
//!
//! A protocol names the interface among its companions, as [`Independent`](crate::describe::Coupling::Independent),
//! and needs the privilege of that name. It finds it with [`Companion::find`] and asks with [`Companion::request`];
//! the answer comes in an event of its own, [`Protocol::answered`](crate::Protocol::answered).
//!
//! A flow that serves others says so where it is built (`bees flow build --offer INTERFACE`) and needs the privilege
//! `offer`. Their requests come to [`Protocol::asked`](crate::Protocol::asked).

use crate::companion::Companion;
use crate::error::{Error, check, done};
use crate::sys;

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Whom it was asked of.
    pub from: Companion,
    /// The number that [`Companion::request`] gave.
    pub number: u32,
    /// What came of it. [`Error::Unavailable`]: nobody serves the interface, or not any more.
    pub result: Result<u32, Error>,
    /// The answer's beginning, at most [`INBOX`](crate::INBOX) bytes.
    pub head: &'a [u8],
    /// Length of the answer, in bytes.
    pub len: usize,
}

/// What another flow wants.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The place for its answer.
    pub place: Place,
    /// What is wanted: a number that the two agree on.
    pub operation: u32,
    /// The message's beginning, at most [`INBOX`](crate::INBOX) bytes.
    pub head: &'a [u8],
    /// Length of the message, in bytes.
    pub len: usize,
}

/// Where the answer to a request goes, in this event or in a later one. Of those that are not answered a flow has 64 at
/// most; more requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

impl Companion {
    /// Asks another flow, or the node; the number by which the answer is known. Eight may be on their way.
    pub fn request(&self, operation: u32, message: &[u8]) -> Result<u32, Error> {
        check(sys::companion_ask(self.to_bits(), operation, message))
    }
}

impl Answer<'_> {
    /// Copies the answer from `offset` on.
    pub fn read<'a>(&self, offset: usize, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        crate::companion::answer(offset, buffer)
    }
}

impl Request<'_> {
    /// Copies the message from `offset` on.
    pub fn read<'a>(&self, offset: usize, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let n = check(sys::companion_read(offset as u32, buffer))? as usize;
        buffer.get(..n).ok_or(Error::Unavailable)
    }
}

impl Place {
    /// The hash of the flow that asks.
    pub fn caller(self) -> Result<[u8; 32], Error> {
        let mut hash = [0; 32];
        done(sys::companion_caller(self.0, &mut hash)).map(|()| hash)
    }

    /// Answers, once.
    pub fn answer(self, result: Result<u32, Error>, answer: &[u8]) -> Result<(), Error> {
        done(sys::companion_settle(self.0, crate::companion::result(result), answer))
    }

    /// The number.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The place of this number.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// What a number that came with an answer means.
pub fn result_of(number: i32) -> Result<u32, Error> {
    check(number)
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::describe::{Coupling, Description, Events};
    use crate::testing::Network;
    use crate::{Capsule, Protocol, Session, SessionEvent};

    const ASKS: Description = Description {
        name: "asks",
        capsules: &[],
        events: Events::NONE,
        session: true,
        params: &[],
        companions: &[("ops.clock", Coupling::Independent)],
    };

    /// Asks what a program says of the clock, and tells it what that says. For others it turns letters round, those of
    /// operation 2 at the next request.
    #[derive(Default)]
    struct Asks(Option<Session>, Option<Place>);

    impl Protocol for Asks {
        fn session(&mut self, _: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
            let SessionEvent::Packet(packet, _) = event else { return };
            self.0 = Some(session);
            let asked = Companion::find("ops.clock").and_then(|clock| {
                assert_eq!(clock.call(1, packet), Err(Error::NotFound), "it is no protocol of this flow");
                clock.request(1, packet)
            });
            if let Err(error) = asked {
                let _ = session.reply(error.name().as_bytes());
            }
        }

        fn answered(&mut self, answer: Answer<'_>) {
            assert_eq!(Ok(answer.from), Companion::find("ops.clock"));
            let mut buffer = [0; 100];
            let said = answer.read(0, &mut buffer).unwrap();
            let session = self.0.unwrap();
            let _ = match answer.result {
                Ok(n) => session.reply(&[said, b" ", &[b'0' + n as u8]].concat()),
                Err(error) => session.reply(error.name().as_bytes()),
            };
        }

        fn asked(&mut self, _: Option<Capsule>, request: Request<'_>) {
            if let Some(late) = self.1.take() {
                late.answer(Err(Error::Unavailable), b"").unwrap();
                assert_eq!(late.answer(Ok(0), b""), Err(Error::BadHandle));
            }
            assert_eq!(request.place.caller().unwrap(), [7; 32]);
            let mut buffer = [0; 100];
            let mut said = request.read(0, &mut buffer).unwrap().to_vec();
            said.reverse();
            match request.operation {
                1 => request.place.answer(Ok(said.len() as u32), &said).unwrap(),
                _ => self.1 = Some(request.place),
            }
        }
    }

    #[test]
    fn another_flow_is_asked_and_answers_later() {
        let mut net = Network::new(&ASKS, 1);
        let a = net.node("a", Asks::default());
        let session = net.open(a);
        net.send(session, b"when");
        net.grant(a, "ops.clock");
        net.send(session, b"when");
        net.run_until(1);
        net.serve(a, "ops.clock", |operation, message| Ok((operation + 1, [message, b"!"].concat())));
        (0..9).for_each(|_| net.send(session, b"when"));
        net.run_until(2);
        let mut expected = vec!["NOT_PERMITTED", "UNAVAILABLE", "NO_ROOM"];
        expected.extend(["when! 2"; 8]);
        assert_eq!(net.received(session), expected);
    }

    #[test]
    fn others_are_served_at_once_or_later() {
        let mut net = Network::new(&ASKS, 1);
        let a = net.node("a", Asks::default());
        let first = net.request(a, [7; 32], 1, b"abc");
        let late = net.request(a, [7; 32], 2, b"abc");
        assert_eq!(net.settled(a), [(first, Ok(3), b"cba".to_vec())]);
        let last = net.request(a, [7; 32], 1, b"x");
        assert_eq!(net.settled(a), [(late, Err(Error::Unavailable), vec![]), (last, Ok(1), b"x".to_vec())]);
    }
}
