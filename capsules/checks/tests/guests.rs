//! The built modules run, in an interpreter, on the nodes in memory of `bees_sdk::testing`: the same network
//! that the protocols' own tests use, but through the modules' imports, exports and inbox.

mod common;

use bees_sdk::describe::{CapsuleType, Coupling, Description, Events, Limits};
use bees_sdk::testing::{Link, Network};
use bees_sdk::{Call, Capsule, Error, Protocol, Session, SessionEvent, Timer, sys};
use common::module;
use wasmi::{Caller, Engine, Extern, Func, Instance, Linker, Memory, Module, Store, Val};
use wire::limits::Operation;

const MS: u64 = 1000;
const BAD_POINTER: i32 = -2;

/// A module on one node.
struct Guest {
    store: Store<()>,
    instance: Instance,
    memory: Memory,
    inbox: usize,
}

impl Guest {
    fn new(module: &Module) -> Self {
        let mut store = Store::new(module.engine(), ());
        let linker = linker(&mut store);
        let instance = linker.instantiate_and_start(&mut store, module).expect("instantiates");
        let memory = instance.get_memory(&store, "memory").expect("exports its memory");
        let inbox = match instance.get_global(&store, "bees_inbox").map(|g| g.get(&store)) {
            Some(Val::I32(at)) => at as usize,
            _ => panic!("bees_inbox is no i32"),
        };
        Self { store, instance, memory, inbox }
    }

    fn call(&mut self, handler: &str, head: &[u8], args: &[Val]) {
        self.call_for(handler, head, args, &mut []);
    }

    fn call_for(&mut self, handler: &str, head: &[u8], args: &[Val], results: &mut [Val]) {
        self.memory.data_mut(&mut self.store)[self.inbox..self.inbox + head.len()].copy_from_slice(head);
        let f =
            self.instance.get_func(&self.store, handler).unwrap_or_else(|| panic!("{handler} is exported"));
        f.call(&mut self.store, args, results).unwrap_or_else(|why| panic!("{handler}: {why}"));
    }
}

fn number(n: u32) -> Val {
    Val::I32(n as i32)
}

fn handle(capsule: &Option<Capsule>) -> Val {
    number(capsule.as_ref().map_or(0, Capsule::to_bits))
}

impl Protocol for Guest {
    fn capsule(&mut self, capsule: Capsule, head: &[u8]) {
        let from = capsule.from().map_or(0, |n| n.to_bits());
        let (kind, len) = (u32::from(capsule.kind()), capsule.len() as u32);
        self.call("on_capsule", head, &[capsule.to_bits(), kind, len, from].map(number));
    }

    fn timer(&mut self, capsule: Option<Capsule>, timer: Timer, token: u64) {
        self.call("on_timer", &[], &[handle(&capsule), number(timer.to_bits()), Val::I64(token as i64)]);
    }

    fn session(&mut self, capsule: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
        let (what, head, len) = match event {
            SessionEvent::Opened => (0, &[][..], 0),
            SessionEvent::Packet(head, len) => (1, head, len),
            SessionEvent::Closed => (2, &[][..], 0),
        };
        let session = number(session.to_bits());
        self.call("on_session", head, &[handle(&capsule), session, number(what), number(len as u32)]);
    }

    fn companion(&mut self, capsule: Option<Capsule>, call: Call<'_>) -> Result<u32, Error> {
        let numbers = [call.from.to_bits(), call.operation, call.len as u32].map(number);
        let args = [&[handle(&capsule)][..], &numbers].concat();
        let mut results = [Val::I32(0)];
        self.call_for("on_companion", call.head, &args, &mut results);
        let result = results[0].i32().expect("on_companion gives a number");
        u32::try_from(result).map_err(|_| Error::of(result))
    }
}

fn memory(caller: &mut Caller<'_, ()>) -> Memory {
    caller.get_export("memory").and_then(Extern::into_memory).expect("exports its memory")
}

fn read(caller: &mut Caller<'_, ()>, at: u32, len: u32) -> Option<Vec<u8>> {
    let memory = memory(caller);
    memory.data(&caller).get(at as usize..)?.get(..len as usize).map(<[u8]>::to_vec)
}

fn write(caller: &mut Caller<'_, ()>, at: u32, bytes: &[u8], result: i32) -> i32 {
    let memory = memory(caller);
    let to = memory.data_mut(caller).get_mut(at as usize..).and_then(|m| m.get_mut(..bytes.len()));
    match to {
        Some(to) if result >= 0 => {
            to.copy_from_slice(bytes);
            result
        }
        Some(_) => result,
        None => BAD_POINTER,
    }
}

/// The imports that these modules use.
fn linker(store: &mut Store<()>) -> Linker<()> {
    let mut linker = Linker::new(store.engine());
    let mut on = |name: &str, f: Func| {
        linker.define("bees", name, f).expect("each once");
    };
    on(
        "capsule_len",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, capsule: u32| -> i32 { sys::capsule_len(capsule) }),
    );
    on(
        "capsule_kind",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, capsule: u32| -> i32 { sys::capsule_kind(capsule) }),
    );
    on(
        "capsule_read",
        Func::wrap(
            &mut *store,
            |mut c: Caller<'_, ()>, capsule: u32, offset: u32, buffer: u32, buffer_len: u32| -> i32 {
                let mut bytes = vec![0; buffer_len as usize];
                let result = sys::capsule_read(capsule, offset, &mut bytes);
                write(&mut c, buffer, &bytes, result)
            },
        ),
    );
    on(
        "capsule_write",
        Func::wrap(
            &mut *store,
            |mut c: Caller<'_, ()>, capsule: u32, offset: u32, bytes: u32, bytes_len: u32| -> i32 {
                let Some(bytes) = read(&mut c, bytes, bytes_len) else { return BAD_POINTER };
                sys::capsule_write(capsule, offset, &bytes)
            },
        ),
    );
    on(
        "capsule_resize",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, capsule: u32, len: u32| -> i32 {
            sys::capsule_resize(capsule, len)
        }),
    );
    on(
        "capsule_left",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, capsule: u32, operation: i32| -> i32 {
            sys::capsule_left(capsule, operation)
        }),
    );
    on(
        "capsule_derive",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, capsule: u32, kind: i32| -> i32 {
            sys::capsule_derive(capsule, kind)
        }),
    );
    on(
        "capsule_send",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, capsule: u32, neighbor: u32, flags: i32| -> i32 {
            sys::capsule_send(capsule, neighbor, flags)
        }),
    );
    on(
        "capsule_return",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, capsule: u32, flags: i32| -> i32 {
            sys::capsule_return(capsule, flags)
        }),
    );
    on(
        "capsule_multicast",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, capsule: u32, neighborhood: u32, flags: i32| -> i32 {
            sys::capsule_multicast(capsule, neighborhood, flags)
        }),
    );
    on(
        "cap_lookup",
        Func::wrap(&mut *store, |mut c: Caller<'_, ()>, name: u32, name_len: u32| -> i32 {
            let Some(name) = read(&mut c, name, name_len) else { return BAD_POINTER };
            sys::cap_lookup(&name)
        }),
    );
    on(
        "cap_name",
        Func::wrap(
            &mut *store,
            |mut c: Caller<'_, ()>, capability: u32, buffer: u32, buffer_len: u32| -> i32 {
                let mut bytes = vec![0; buffer_len as usize];
                let result = sys::cap_name(capability, &mut bytes);
                write(&mut c, buffer, &bytes, result)
            },
        ),
    );
    on(
        "neighbor_max_payload",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, neighbor: u32| -> i32 {
            sys::neighbor_max_payload(neighbor)
        }),
    );
    on(
        "cache_put",
        Func::wrap(
            &mut *store,
            |mut c: Caller<'_, ()>, key: u32, key_len: u32, value: u32, value_len: u32, ttl_ms: u32| -> i32 {
                let Some(key) = read(&mut c, key, key_len) else { return BAD_POINTER };
                let Some(value) = read(&mut c, value, value_len) else { return BAD_POINTER };
                sys::cache_put(&key, &value, ttl_ms)
            },
        ),
    );
    on(
        "cache_get",
        Func::wrap(
            &mut *store,
            |mut c: Caller<'_, ()>, key: u32, key_len: u32, buffer: u32, buffer_len: u32| -> i32 {
                let Some(key) = read(&mut c, key, key_len) else { return BAD_POINTER };
                let mut bytes = vec![0; buffer_len as usize];
                let result = sys::cache_get(&key, &mut bytes);
                write(&mut c, buffer, &bytes, result)
            },
        ),
    );
    on(
        "timer_set",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, after_us: i64, period_us: i64, token: i64| -> i32 {
            sys::timer_set(after_us, period_us, token)
        }),
    );
    on(
        "timer_cancel",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, timer: u32| -> i32 { sys::timer_cancel(timer) }),
    );
    on(
        "session_read",
        Func::wrap(
            &mut *store,
            |mut c: Caller<'_, ()>, session: u32, offset: u32, buffer: u32, buffer_len: u32| -> i32 {
                let mut bytes = vec![0; buffer_len as usize];
                let result = sys::session_read(session, offset, &mut bytes);
                write(&mut c, buffer, &bytes, result)
            },
        ),
    );
    on(
        "session_reply",
        Func::wrap(&mut *store, |mut c: Caller<'_, ()>, session: u32, packet: u32, packet_len: u32| -> i32 {
            let Some(packet) = read(&mut c, packet, packet_len) else { return BAD_POINTER };
            sys::session_reply(session, &packet)
        }),
    );
    on(
        "node_name",
        Func::wrap(&mut *store, |mut c: Caller<'_, ()>, buffer: u32, buffer_len: u32| -> i32 {
            let mut bytes = vec![0; buffer_len as usize];
            let result = sys::node_name(&mut bytes);
            write(&mut c, buffer, &bytes, result)
        }),
    );
    on(
        "param_get",
        Func::wrap(
            &mut *store,
            |mut c: Caller<'_, ()>, name: u32, name_len: u32, buffer: u32, buffer_len: u32| -> i32 {
                let Some(name) = read(&mut c, name, name_len) else { return BAD_POINTER };
                let mut bytes = vec![0; buffer_len as usize];
                let result = sys::param_get(&name, &mut bytes);
                write(&mut c, buffer, &bytes, result)
            },
        ),
    );
    on(
        "random",
        Func::wrap(&mut *store, |mut c: Caller<'_, ()>, buffer: u32, buffer_len: u32| -> i32 {
            let mut bytes = vec![0; buffer_len as usize];
            let result = sys::random(&mut bytes);
            write(&mut c, buffer, &bytes, result)
        }),
    );
    on(
        "log",
        Func::wrap(&mut *store, |mut c: Caller<'_, ()>, level: i32, line: u32, line_len: u32| -> i32 {
            let Some(line) = read(&mut c, line, line_len) else { return BAD_POINTER };
            sys::log(level, &line)
        }),
    );
    on(
        "sensor_read",
        Func::wrap(
            &mut *store,
            |mut c: Caller<'_, ()>, sensors: u32, name: u32, name_len: u32, out: u32| -> i32 {
                let Some(name) = read(&mut c, name, name_len) else { return BAD_POINTER };
                let mut value = [0; 8];
                let result = sys::sensor_read(sensors, &name, &mut value);
                write(&mut c, out, &value, result)
            },
        ),
    );
    on(
        "neighborhood_list",
        Func::wrap(&mut *store, |mut c: Caller<'_, ()>, from: u32, to: u32, max: u32| -> i32 {
            let mut list = vec![0; max as usize];
            let result = sys::neighborhood_list(from, &mut list);
            let bytes: Vec<u8> = list.iter().flat_map(|n| n.to_le_bytes()).collect();
            write(&mut c, to, &bytes, result)
        }),
    );
    on(
        "companion_call",
        Func::wrap(
            &mut *store,
            |mut c: Caller<'_, ()>, companion: u32, operation: u32, message: u32, message_len: u32| -> i32 {
                let Some(message) = read(&mut c, message, message_len) else { return BAD_POINTER };
                sys::companion_call(companion, operation, &message)
            },
        ),
    );
    on(
        "companion_read",
        Func::wrap(&mut *store, |mut c: Caller<'_, ()>, offset: u32, buffer: u32, len: u32| -> i32 {
            let mut bytes = vec![0; len as usize];
            let result = sys::companion_read(offset, &mut bytes);
            write(&mut c, buffer, &bytes, result)
        }),
    );
    on(
        "companion_reply",
        Func::wrap(&mut *store, |mut c: Caller<'_, ()>, answer: u32, answer_len: u32| -> i32 {
            let Some(answer) = read(&mut c, answer, answer_len) else { return BAD_POINTER };
            sys::companion_reply(&answer)
        }),
    );
    on(
        "companion_answer",
        Func::wrap(&mut *store, |mut c: Caller<'_, ()>, offset: u32, buffer: u32, len: u32| -> i32 {
            let mut bytes = vec![0; len as usize];
            let result = sys::companion_answer(offset, &mut bytes);
            write(&mut c, buffer, &bytes, result)
        }),
    );
    on(
        "companion_deny",
        Func::wrap(&mut *store, |_: Caller<'_, ()>, companion: u32, neighbor: u32| -> i32 {
            sys::companion_deny(companion, neighbor)
        }),
    );
    on(
        "companion_settle",
        Func::wrap(
            &mut *store,
            |mut c: Caller<'_, ()>, call: u32, result: i32, answer: u32, answer_len: u32| -> i32 {
                let Some(answer) = read(&mut c, answer, answer_len) else { return BAD_POINTER };
                sys::companion_settle(call, result, &answer)
            },
        ),
    );
    on("clock_mono", Func::wrap(&mut *store, |_: Caller<'_, ()>| -> i64 { sys::clock_mono() }));
    linker
}

/// What the module says of itself, for the network, which keeps its limits.
fn description(bytes: &[u8]) -> &'static Description {
    let section = wasmparser::Parser::new(0).parse_all(bytes).find_map(|p| match p.unwrap() {
        wasmparser::Payload::CustomSection(s) if s.name() == "bees" => Some(s.data().to_vec()),
        _ => None,
    });
    let d = wire::describe::Description::decode(&section.expect("has a description")).unwrap();
    let text = |s: &str| -> &'static str { s.to_string().leak() };
    let capsules: Vec<_> = d
        .capsules
        .iter()
        .map(|c| CapsuleType {
            name: text(&c.name),
            limits: Limits {
                returns: c.limits.get(Operation::Returns),
                sends: c.limits.get(Operation::Sends),
                multicasts: c.limits.get(Operation::Multicasts),
                derives: c.limits.get(Operation::Derives),
            },
            derives: c.derives.clone().leak(),
        })
        .collect();
    let params: Vec<_> =
        d.params.iter().map(|p| (text(&p.name), text(std::str::from_utf8(&p.value).unwrap()))).collect();
    let companions: Vec<_> = d
        .companions
        .iter()
        .map(|c| {
            let coupling = match c.coupling {
                wire::tuple::Coupling::Capsules => Coupling::Capsules,
                wire::tuple::Coupling::Parts => Coupling::Parts,
                wire::tuple::Coupling::Tuple => Coupling::Tuple,
            };
            (text(&c.interface), coupling)
        })
        .collect();
    Box::leak(Box::new(Description {
        name: text(&d.name),
        capsules: capsules.leak(),
        events: Events { boot: d.events.boot, timer: d.events.timer, session: d.events.session },
        session: d.session,
        params: params.leak(),
        companions: companions.leak(),
    }))
}

/// a - b - c, all with this module.
fn line3(name: &str) -> Option<Network<Guest>> {
    let bytes = module(name)?;
    let module = Module::new(&Engine::default(), &bytes).unwrap();
    let mut net = Network::new(description(&bytes), 1);
    let nodes = ["a", "b", "c"].map(|n| net.node(n, Guest::new(&module)));
    for pair in nodes.windows(2) {
        net.link(pair[0], pair[1], Link { delay_us: MS, loss: 0.0 });
    }
    Some(net)
}

/// What the program on a gets for its request.
fn ask(name: &str, request: &str) -> Option<Vec<String>> {
    let mut net = line3(name)?;
    let session = net.open(0);
    net.send(session, request.as_bytes());
    net.run_until(20_000 * MS);
    assert!(net.log().is_empty(), "{:?}", net.log());
    assert_eq!(net.counters().depleted, 0);
    Some(net.received(session))
}

#[test]
fn hello_finds_all() {
    let Some(lines) = ask("hello", "find") else { return };
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[2].starts_with("node c hops 2 us 4000 via b round 1"), "{lines:?}");
    assert_eq!(lines[3], "done rounds 2 nodes 3 ms 252 complete");
}

#[test]
fn ping_gets_answers() {
    let Some(lines) = ask("ping", "ping c count 3 interval 100") else { return };
    assert_eq!(lines[1], "64 bytes from c: seq=1 hops=2 time=4.000 ms");
    assert_eq!(lines.last().unwrap(), "done sent 3 received 3");
}

#[test]
fn probe_reads_where_it_may() {
    let Some(mut net) = line3("probe") else { return };
    net.grant(2, "sensors");
    net.set_sensor(2, "temp-millicelsius", 42);
    let session = net.open(0);
    net.send(session, b"read temp-millicelsius");
    net.run_until(5_000 * MS);
    let lines = net.received(session);
    let expected = [
        "node a hops 0 router",
        "node b hops 1 router",
        "node c hops 2 temp-millicelsius 42",
        "done rounds 11 nodes 3 ms 2750",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn benchmark_loses_nothing() {
    let Some(lines) = ask("benchmark", "send c count 500 rate 5000 size 1000") else { return };
    assert!(lines[0].starts_with("result target c sent 500 received 500 "), "{lines:?}");
    assert!(lines[0].contains(" relays 1 "), "{lines:?}");
}

#[test]
fn template_is_heard_next_door() {
    let Some(mut net) = line3("template") else { return };
    let sessions = [0, 1, 2].map(|n| net.open(n));
    net.send(sessions[0], b"good morning");
    net.run_until(10 * MS);
    assert_eq!(net.received(sessions[1]), ["good morning"]);
    assert!(net.received(sessions[2]).is_empty());
    assert_eq!(net.log(), ["a: said to 1"]);
}

#[test]
fn echo_in_c_comes_back_from_every_neighbor() {
    let Some(mut net) = line3("echo") else { return };
    let session = net.open(1);
    net.send(session, b"hello");
    net.run_until(10 * MS);
    let mut heard = net.received(session);
    heard.sort();
    let from = |name: &str| format!("hello from {name}, us 2000");
    assert_eq!(heard, [from("a"), from("c")]);
}
