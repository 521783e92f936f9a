use super::*;
use crate::describe::{CapsuleType, Coupling, Description, Events, Limits};
use crate::testing::{Link, Member, Network, TestSession};
use crate::{Capsule, Neighborhood, Protocol, Session, SessionEvent, Timer, cache};

const SEND: u32 = 1;
const ARRIVED: u32 = 2;
const SEEN: u32 = 3;
const WHO: u32 = 4;

const CARRIED: CapsuleType =
    CapsuleType { name: "Carried", limits: Limits { multicasts: 1, ..Limits::NONE }, derives: &[] };

const CARRIER: Description = Description {
    name: "carrier",
    capsules: &[CARRIED],
    events: Events { boot: None, timer: None, session: Some(0) },
    session: false,
    params: &[("mark", "<")],
    companions: &[],
};

/// A layer in between, with nothing of its own but what it serves.
const LAYER: Description =
    Description { name: "layer", companions: &[("carrier", Coupling::Tuple)], ..CARRIER };

const MAIN: Description = Description {
    name: "main",
    capsules: &[],
    events: Events { boot: None, timer: None, session: None },
    session: true,
    params: &[("mark", "-")],
    companions: &[("carrier", Coupling::Capsules)],
};

/// What a program says goes through the companion; what comes by it the program gets.
#[derive(Default)]
struct Main(Option<Session>);

impl Protocol for Main {
    fn session(&mut self, _: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        self.0 = Some(session);
        let Ok(carrier) = Companion::find("carrier") else { return };
        let SessionEvent::Packet(packet, _) = event else { return };
        let mut buffer = [0; 32];
        let said = match packet {
            b"deny b" => carrier.deny(Neighbor::find("b").unwrap()).map(|()| &b"denied"[..]),
            b"seen" => carrier.ask(SEEN, b"", &mut buffer),
            // Nobody is entered in the middle of something.
            b"who" => carrier.ask(WHO, b"", &mut buffer),
            packet => {
                let said = carrier.call(SEND, packet).and_then(|_| answer(1, &mut buffer));
                // The one capsule of this event is used up.
                assert_eq!(carrier.call(SEND, packet), Err(Error::Unavailable));
                said
            }
        };
        let _ = session.reply(said.unwrap_or_else(|error| error.name().as_bytes()));
    }

    fn companion(&mut self, capsule: Option<Capsule>, call: Call<'_>) -> Result<u32, Error> {
        assert!(capsule.is_none() && call.operation == ARRIVED);
        let mut buffer = [0; 100];
        self.0.ok_or(Error::NotFound)?.reply(call.read(0, &mut buffer)?)?;
        Ok(0)
    }
}

/// Carries messages next door.
#[derive(Default)]
struct Carrier {
    booted: bool,
    fired: u32,
}

impl Protocol for Carrier {
    fn boot(&mut self, _: Option<Capsule>) {
        self.booted = true;
        // The main protocol's soft state is another.
        cache::put(b"key", b"carrier", 60_000).unwrap();
        Timer::every(1_000_000, 7).unwrap();
    }

    fn timer(&mut self, _: Option<Capsule>, _: Timer, token: u64) {
        self.fired += token as u32;
    }

    fn capsule(&mut self, _: Capsule, head: &[u8]) {
        let parent = Companion::parent().unwrap();
        assert_eq!(parent.call(ARRIVED, head), Ok(0));
    }

    fn companion(&mut self, capsule: Option<Capsule>, call: Call<'_>) -> Result<u32, Error> {
        match call.operation {
            SEND => {
                let mut capsule = capsule.ok_or(Error::Unavailable)?;
                capsule.set(call.head)?;
                let reached = capsule.multicast(&Neighborhood::all()?)?;
                call.reply(&[b'+', b'0' + reached as u8])?;
                Ok(reached)
            }
            SEEN => {
                let mut buffer = [0; 8];
                let names = [Neighbor::find("b").is_ok(), Neighbor::find("c").is_ok()];
                call.reply(crate::node::param("mark", &mut buffer)?)?;
                call.reply(if names == [true, true] {
                    &b"both"[..]
                } else if names[1] {
                    b"c"
                } else {
                    b"?"
                })?;
                Ok(0)
            }
            WHO => {
                call.reply(call.from.call(SEND, b"").unwrap_err().name().as_bytes())?;
                Ok(0)
            }
            _ => Err(Error::BadArgument),
        }
    }
}

/// Hands calls on, both ways.
struct Layer;

impl Protocol for Layer {
    fn companion(&mut self, _: Option<Capsule>, call: Call<'_>) -> Result<u32, Error> {
        let mut buffer = [0; 100];
        let other = if call.from == Companion::parent()? {
            Companion::find("carrier")?
        } else {
            Companion::parent()?
        };
        let result = other.call(call.operation, call.read(0, &mut buffer)?)?;
        call.reply(answer(0, &mut buffer)?)?;
        Ok(result)
    }
}

/// b - a - c
fn net(member: fn() -> Member) -> (Network<Main>, [TestSession; 3]) {
    let mut net = Network::new(&MAIN, 1);
    let [a, b, c] = ["a", "b", "c"].map(|name| net.team(name, Main::default(), vec![member()]));
    for other in [b, c] {
        net.link(a, other, Link { delay_us: 1000, loss: 0.0 });
    }
    let sessions = [a, b, c].map(|at| net.open(at));
    (net, sessions)
}

fn carrier() -> Member {
    Member::new("carrier", &CARRIER, Carrier::default())
}

fn layered() -> Member {
    Member::new("carrier", &LAYER, Layer).with(carrier())
}

#[test]
fn a_message_goes_down_across_and_up() {
    // The main protocol does not know how many there are below it.
    for (member, path) in
        [(carrier as fn() -> Member, "carrier"), (layered as fn() -> Member, "carrier/carrier")]
    {
        let (mut net, [a, b, c]) = net(member);
        net.send(a, b"hello");
        net.run_until(10_000);
        assert_eq!([a, b, c].map(|s| net.received(s)), [vec!["2"], vec!["hello"], vec!["hello"]], "{path}");
        net.send(a, b"who");
        assert_eq!(net.received(a)[1], "UNAVAILABLE");
        net.run_until(3_500_000);
        let carrier: &Carrier = net.companion(0, path);
        assert_eq!((carrier.booted, carrier.fired), (true, 21));
        assert_eq!(net.counters().depleted, 0);
    }
}

#[test]
fn what_is_denied_is_denied_to_all_below() {
    for member in [carrier as fn() -> Member, layered as fn() -> Member] {
        let (mut net, [a, b, c]) = net(member);
        net.send(a, b"seen");
        net.send(a, b"deny b");
        net.send(a, b"seen");
        net.send(a, b"to c only");
        net.run_until(10_000);
        assert_eq!(net.received(a), ["both", "denied", "c", "1"]);
        assert_eq!([b, c].map(|s| net.received(s).len()), [0, 1]);
        // Nor does what comes from there get in.
        net.send(b, b"to a");
        net.run_until(20_000);
        assert_eq!(net.received(a).len(), 4);
    }
}

#[test]
fn results_are_numbers_or_errors() {
    assert_eq!([result(Ok(7)), result(Ok(u32::MAX)), result(Err(Error::NotFound))], [7, i32::MAX, -8]);
}
