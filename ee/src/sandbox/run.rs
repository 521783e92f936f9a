//! One guest call for one event, measured and bounded.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nodeos::buf::Buf;
use nodeos::platform::Interrupter;
use nodeos::slab::Handle;
use wasmtime::{Func, Global, Instance, Memory, Store, TypedFunc, Val, WasmParams, WasmResults};
use wire::tuple::Events;

use super::event::{brief, fault};
use super::{Effect, Event, GuestFault, NeighborId, SessionId, SessionInput, StartError, TeamState};
use crate::abi::{self, INBOX};
use crate::capsule::Object;
use crate::engine::{Code, Metering};

/// A team's code with its state.
pub(super) struct Program {
    pub run: Running,
    /// In the order of [`TeamState::instances`].
    pub instances: Vec<Protocol>,
}

/// The store, and what bounds a call into it; apart from the handlers, so that calling one copies nothing.
pub(super) struct Running {
    pub store: Store<TeamState>,
    interrupter: Arc<dyn Interrupter>,
    /// The deadline of one event.
    event: Duration,
    /// The same in units.
    allowance: u64,
    /// Guest calls so far.
    pub calls: u64,
}

/// One protocol's instance.
pub(super) struct Protocol {
    pub memory: Memory,
    pub inbox: usize,
    pub handlers: Handlers,
    pub events: Events,
    /// Where its stack ends, if the module says.
    pub stack: Option<Global>,
}

/// The handlers that a module has, found once.
pub(super) struct Handlers {
    boot: Handler<u32, ()>,
    capsule: Option<TypedFunc<(u32, u32, u32, u32), ()>>,
    timer: Handler<(u32, u32, i64), ()>,
    session: Handler<(u32, u32, i32, u32), ()>,
    pub expiry: Handler<u32, i32>,
    pub warning: Handler<i32, ()>,
    flow: Handler<(u32, i32), ()>,
    pub neighbor: Handler<(u32, i32), ()>,
    pub call: Handler<(u32, u32, u32, u32), ()>,
    pub answer: Handler<(u32, u32, i32, u32), ()>,
    stop: Handler<(), ()>,
    pub handover: Handler<(), i32>,
    pub takeover: Handler<(u32, u32), i32>,
}

/// Most handlers most modules do not have.
type Handler<P, R> = Option<Box<TypedFunc<P, R>>>;

/// How often a guest is looked at within its event's time.
pub(super) const LOOKS: u64 = 4;
/// Eighths of that time that it must have had itself between the first look and the one that ends it: what lies between
/// them are six.
pub(super) const OWN_EIGHTHS: u64 = 5;
/// The part of an event's time that `on_stop` gets.
pub(super) const STOP_PART: u32 = 4;

impl Program {
    /// Runs the handler for an event, if there is one; the units that it took.
    pub async fn handle(&mut self, event: Event) -> Result<u64, (u64, GuestFault)> {
        match event {
            Event::Boot => self.boot().await,
            Event::Capsule { protocol, kind, from, packet } => {
                self.capsule((protocol, kind), from, packet).await
            }
            Event::Timer(fired) => {
                let Some(protocol) = self.instances.get(usize::from(fired.owner)) else { return Ok(0) };
                let Some(f) = &protocol.handlers.timer else { return Ok(0) };
                let state = self.run.store.data_mut();
                if !state.timers.is_wanted(&fired) {
                    return Ok(0);
                }
                state.enter(fired.owner.into());
                let capsule = state.fresh(protocol.events.timer);
                let params = (capsule, abi::number_of(fired.timer), fired.token);
                self.run.call(f, params).await.map(|(units, ())| units)
            }
            Event::Session { session, what } => self.session(session, what).await,
            Event::Expiry { entry } => self.expiry(entry).await,
            Event::Warning(resource) => {
                let Some(f) = &self.instances[0].handlers.warning else { return Ok(0) };
                self.run.store.data_mut().enter(0);
                self.run.call(f, resource as i32).await.map(|(units, ())| units)
            }
            Event::Flow { child, state } => {
                let Some(f) = &self.instances[0].handlers.flow else { return Ok(0) };
                let team = self.run.store.data_mut();
                let Some(cap) = team.caps.of_child(child) else { return Ok(0) };
                team.enter(0);
                self.run.call(f, (abi::number_of(cap), state as i32)).await.map(|(units, ())| units)
            }
            Event::Neighbor { protocol, id, news } => {
                let at = usize::from(protocol);
                let Some(protocol) = self.instances.get(at) else { return Ok(0) };
                let state = self.run.store.data_mut();
                state.enter(at);
                let Some(cap) = state.heard_of(id, news) else { return Ok(0) };
                let Some(f) = &protocol.handlers.neighbor else { return Ok(0) };
                self.run.call(f, (cap, news as i32)).await.map(|(units, ())| units)
            }
            Event::Call(asked) => self.asked(*asked).await,
            Event::Answer(answered) => self.answered(*answered).await,
            Event::Stop => {
                self.run.bound(self.run.event / STOP_PART);
                // Whoever uses a companion still has it.
                let mut all = 0;
                for at in 0..self.instances.len() {
                    let Some(f) = &self.instances[at].handlers.stop else { continue };
                    self.run.store.data_mut().enter(at);
                    all += self.run.part(f, (), all).await?.0;
                    self.run.store.data_mut().leave();
                }
                Ok(all)
            }
            Event::HandOver => self.hand_over().await,
            Event::TakeOver(given) => self.take_over(*given).await,
        }
    }

    /// Companions first: whoever calls one finds it ready. Together they have the time of one event.
    async fn boot(&mut self) -> Result<u64, (u64, GuestFault)> {
        let mut all = 0;
        for (at, protocol) in self.instances.iter().enumerate().rev() {
            all += self.run.boot(at, protocol, all).await?;
            self.run.store.data_mut().leave();
        }
        Ok(all)
    }

    /// The handler for a capsule, on the spot: what a router does all day goes no other way round.
    pub fn handle_capsule(
        &mut self,
        (protocol, kind): (u8, u8),
        from: Option<NeighborId>,
        packet: Buf,
    ) -> Result<u64, (u64, GuestFault)> {
        let Some(params) = self.prepare_capsule((protocol, kind), from, packet) else { return Ok(0) };
        let Some(f) = &self.instances[usize::from(protocol)].handlers.capsule else { return Ok(0) };
        self.run.call_now(f, params).map(|(units, ())| units)
    }

    async fn capsule(
        &mut self,
        (protocol, kind): (u8, u8),
        from: Option<NeighborId>,
        packet: Buf,
    ) -> Result<u64, (u64, GuestFault)> {
        let Some(params) = self.prepare_capsule((protocol, kind), from, packet) else { return Ok(0) };
        let Some(f) = &self.instances[usize::from(protocol)].handlers.capsule else { return Ok(0) };
        self.run.call(f, params).await.map(|(units, ())| units)
    }

    /// What the handler for a capsule takes, if there is one.
    fn prepare_capsule(
        &mut self,
        (protocol, kind): (u8, u8),
        from: Option<NeighborId>,
        packet: Buf,
    ) -> Option<(u32, u32, u32, u32)> {
        let at = usize::from(protocol);
        let protocol = self.instances.get(at)?;
        protocol.handlers.capsule.as_ref()?;
        let state = self.run.store.data_mut();
        state.enter(at);
        let left = state.kinds().get(kind)?.limits;
        let origin = from.and_then(|id| state.neighbors.position(id));
        // Its main protocol may have told it not to talk to that one.
        if at > 0 && from.is_some() && origin.is_none() {
            return None;
        }
        let cap = origin.and_then(|at| state.caps.of_neighbor(at, &mut state.neighbors).ok());
        let len = packet.len() as u32;
        protocol.fill_inbox(&mut self.run.store, |inbox, _| {
            let n = packet.len().min(INBOX);
            inbox[..n].copy_from_slice(&packet[..n]);
        });
        let object = Object { kind, depth: 0, origin, left, payload: packet };
        let capsule = self.run.store.data_mut().objects.insert(object).ok()?;
        Some((abi::number_of(capsule), kind.into(), len, cap.map_or(0, abi::number_of)))
    }

    async fn session(&mut self, session: SessionId, what: SessionInput) -> Result<u64, (u64, GuestFault)> {
        let main = &self.instances[0];
        let handler = main.handlers.session.as_ref();
        let state = self.run.store.data_mut();
        let known = state.sessions.iter().find(|(_, s)| s.id == session).map(|(h, _)| h);
        let mut told = 0;
        let (number, packet, handle) = match (what, known) {
            (SessionInput::Open(outlet), None) => match handler.map(|_| state.open(session, &outlet)) {
                Some(Ok(handle)) => {
                    told = outlet.told();
                    (abi::session::OPEN, Vec::new(), handle)
                }
                other => {
                    state.refused.sessions += u16::from(other.is_some());
                    state.effects.push(Effect::CloseSession { session });
                    return Ok(0);
                }
            },
            (SessionInput::Packet(packet), Some(handle)) => (abi::session::PACKET, packet, handle),
            (SessionInput::Close, Some(handle)) => (abi::session::CLOSE, Vec::new(), handle),
            (SessionInput::Room, Some(handle)) => (abi::session::ROOM, Vec::new(), handle),
            // Opened twice, or closed by the guest in the meantime.
            _ => return Ok(0),
        };
        let Some(f) = handler else { return Ok(0) };
        let len = told.max(packet.len() as u32);
        (state.packet, state.speaking) = (packet, Some(handle));
        let closing = number == abi::session::CLOSE;
        state.enter(0);
        // What a program does not do authorises nothing.
        let asked = matches!(number, abi::session::OPEN | abi::session::PACKET);
        let capsule = if asked { state.fresh(main.events.session) } else { 0 };
        main.fill_inbox(&mut self.run.store, |inbox, state| {
            let n = state.packet.len().min(INBOX);
            inbox[..n].copy_from_slice(&state.packet[..n]);
        });
        let result = self.run.call(f, (capsule, abi::number_of(handle), number, len)).await;
        let state = self.run.store.data_mut();
        (state.packet, state.speaking) = (Vec::new(), None);
        if closing {
            state.shut(handle);
        }
        result.map(|(units, ())| units)
    }

    /// The guest may keep the entry; else it goes.
    async fn expiry(&mut self, entry: Handle) -> Result<u64, (u64, GuestFault)> {
        let state = self.run.store.data_mut();
        let Some(at) = state.soft.as_ref().and_then(|s| s.owner(entry)).map(usize::from) else {
            return Ok(0);
        };
        let Some(protocol) = self.instances.get(at) else { return Ok(0) };
        let Some(f) = &protocol.handlers.expiry else { return Ok(0) };
        let now = state.now.mono;
        // It may have been set again, kept or taken out since it was due.
        let Some(key_len) =
            state.soft.as_ref().filter(|s| s.is_over(now, entry)).and_then(|s| Some(s.key(entry)?.len()))
        else {
            return Ok(0);
        };
        state.enter(at);
        protocol.fill_inbox(&mut self.run.store, |inbox, state| {
            if let Some(key) = state.soft.as_ref().and_then(|s| s.key(entry)) {
                inbox[..key.len()].copy_from_slice(key);
            }
        });
        let result = self.run.call(f, key_len as u32).await;
        let Some(soft) = &mut self.run.store.data_mut().soft else { return result.map(|(units, _)| units) };
        let ttl = result.as_ref().map_or(0, |(_, ttl)| (*ttl).max(0) as u32);
        if soft.is_over(now, entry) && soft.refresh(now, entry, ttl).is_err() {
            soft.remove(entry);
        }
        result.map(|(units, _)| units)
    }
}

impl Running {
    pub fn new(store: Store<TeamState>, interrupter: Arc<dyn Interrupter>, event: Duration) -> Self {
        let mut made = Self { store, interrupter, event, allowance: 0, calls: 0 };
        made.bound(event);
        made
    }

    /// Events have no more than this from now on, nor more than before.
    pub fn bound(&mut self, event: Duration) {
        self.set(self.event.min(event));
    }

    /// What one event has, in units.
    pub fn allowance(&self) -> u64 {
        self.allowance
    }

    fn set(&mut self, event: Duration) {
        self.event = event;
        let micros = u64::try_from(self.event.as_micros()).unwrap_or(u64::MAX);
        self.allowance = micros.saturating_mul(self.store.data().per_micro);
    }

    /// Starts the protocol at `at`, in what earlier ones left of an event's time; the units that it took.
    pub async fn boot(
        &mut self,
        at: usize,
        protocol: &Protocol,
        before: u64,
    ) -> Result<u64, (u64, GuestFault)> {
        let Some(f) = &protocol.handlers.boot else { return Ok(0) };
        let state = self.store.data_mut();
        state.enter(at);
        let capsule = state.fresh(protocol.events.boot);
        self.part(f, capsule, before).await.map(|(units, ())| units)
    }

    /// A call that has what earlier ones left of an event's time; the units that it took.
    pub async fn part<P: Params, R: Answer>(
        &mut self,
        f: &TypedFunc<P, R>,
        params: P,
        before: u64,
    ) -> Result<(u64, R), (u64, GuestFault)> {
        let whole = self.event;
        let took = Duration::from_micros(before / self.store.data().per_micro);
        self.set(whole.saturating_sub(took));
        let result = self.call(f, params).await;
        self.set(whole);
        result.map_err(|(units, fault)| (before + units, fault))
    }

    /// One guest call, measured and bounded. On a fiber the slices are measured, not the call.
    pub async fn call<P: Params, R: Answer>(
        &mut self,
        f: &TypedFunc<P, R>,
        params: P,
    ) -> Result<(u64, R), (u64, GuestFault)> {
        if self.store.data().mailbox.is_some() {
            self.calls += 1;
            let result = self.call_on_fiber(*f.func(), params.list()).await;
            return result.map(|list| (0, R::of(&list))).map_err(|e| (0, fault(&e)));
        }
        self.call_now(f, params)
    }

    /// A plain call.
    fn call_now<P: WasmParams, R: WasmResults>(
        &mut self,
        f: &TypedFunc<P, R>,
        params: P,
    ) -> Result<(u64, R), (u64, GuestFault)> {
        self.calls += 1;
        let state = self.store.data_mut();
        state.charged = 0;
        state.allowance = self.allowance;
        let (result, units) = match state.metering {
            Metering::Epoch => {
                let start = state.meter.count();
                state.deadline = start.saturating_add(state.allowance);
                state.seen = 0;
                self.interrupter.arm(self.allowance / LOOKS);
                let result = f.call(&mut self.store, params);
                self.interrupter.disarm();
                let state = self.store.data();
                let took = state.meter.count().saturating_sub(start);
                // A guest that comes to its end has not worked much longer than it may: what is above that was
                // somebody else's, who had the processor meanwhile.
                let most = if result.is_ok() { state.allowance.saturating_mul(2) } else { u64::MAX };
                (result, took.min(most).saturating_add(state.charged))
            }
            Metering::Fuel => {
                let allowance = state.allowance;
                let result = self.store.set_fuel(allowance).and_then(|()| f.call(&mut self.store, params));
                (result, allowance - self.store.get_fuel().unwrap_or(0).min(allowance))
            }
        };
        result.map(|r| (units, r)).map_err(|e| (units, fault(&e)))
    }

    /// The same for all handlers, so that it is there once: their types make no difference to a fiber.
    fn call_on_fiber(&mut self, f: Func, params: Vec<Val>) -> Pending<'_> {
        Box::pin(async move {
            let mut results = vec![Val::I32(0); f.ty(&self.store).results().len()];
            let state = self.store.data_mut();
            state.read_mail();
            if state.metering == Metering::Epoch {
                let result = f.call_async(&mut self.store, &params, &mut results).await;
                let state = self.store.data();
                if let Some(mailbox) = state.mailbox.as_ref().filter(|_| state.at_once) {
                    mailbox.open().charged = state.charged;
                }
                return result.map(|()| results);
            }
            if state.at_once {
                let took = state.mailbox.as_ref().map_or(0, |mailbox| mailbox.open().fuel);
                let left = state.allowance.saturating_sub(took);
                self.store.set_fuel(left)?;
                self.store.fuel_async_yield_interval(None)?;
                let result = f.call_async(&mut self.store, &params, &mut results).await;
                let fuel = left - self.store.get_fuel()?.min(left);
                if let Some(mailbox) = &self.store.data().mailbox {
                    mailbox.open().fuel += fuel;
                }
                return result.map(|()| results);
            }
            state.interval = state.allowance;
            let interval = state.interval;
            if let Some(mailbox) = &state.mailbox {
                mailbox.open().interval = interval;
            }
            self.store.set_fuel(u64::MAX)?;
            self.store.fuel_async_yield_interval(Some(interval))?;
            let result = f.call_async(&mut self.store, &params, &mut results).await;
            let fuel = u64::MAX - self.store.get_fuel()?;
            if let Some(mailbox) = &self.store.data().mailbox {
                // Boot and stop are a call for each protocol.
                let mut mail = mailbox.open();
                mail.fuel = mail.fuel.saturating_add(fuel);
            }
            result.map(|()| results)
        })
    }
}

type Pending<'a> = Pin<Box<dyn Future<Output = wasmtime::Result<Vec<Val>>> + Send + 'a>>;

/// What a handler takes, one by one.
pub(super) trait Params: WasmParams {
    fn list(self) -> Vec<Val>;
}

/// What it gives.
pub(super) trait Answer: WasmResults {
    fn of(list: &[Val]) -> Self;
}

fn int(n: u32) -> Val {
    Val::I32(n.cast_signed())
}

impl Params for () {
    fn list(self) -> Vec<Val> {
        vec![]
    }
}

impl Params for u32 {
    fn list(self) -> Vec<Val> {
        vec![int(self)]
    }
}

impl Params for i32 {
    fn list(self) -> Vec<Val> {
        vec![Val::I32(self)]
    }
}

impl Params for (u32, u32) {
    fn list(self) -> Vec<Val> {
        [self.0, self.1].map(int).into()
    }
}

impl Params for (u32, i32) {
    fn list(self) -> Vec<Val> {
        vec![int(self.0), Val::I32(self.1)]
    }
}

impl Params for (u32, u32, i64) {
    fn list(self) -> Vec<Val> {
        vec![int(self.0), int(self.1), Val::I64(self.2)]
    }
}

impl Params for (u32, u32, u32, u32) {
    fn list(self) -> Vec<Val> {
        [self.0, self.1, self.2, self.3].map(int).into()
    }
}

impl Params for (u32, u32, i32, u32) {
    fn list(self) -> Vec<Val> {
        vec![int(self.0), int(self.1), Val::I32(self.2), int(self.3)]
    }
}

impl Answer for () {
    fn of(_: &[Val]) -> Self {}
}

impl Answer for i32 {
    fn of(list: &[Val]) -> Self {
        list.first().and_then(Val::i32).unwrap_or(0)
    }
}

impl Protocol {
    /// What the node calls in an instance.
    pub fn found(
        instance: &Instance,
        code: &Code,
        at: usize,
        store: &mut Store<TeamState>,
    ) -> Result<Self, StartError> {
        let failed = |e: wasmtime::Error| StartError::Instantiate(brief(&format!("{e:#}")));
        let memory = instance.get_memory(&mut *store, "memory");
        let memory = memory.ok_or_else(|| StartError::Instantiate("the module has no memory".into()))?;
        let handlers = Handlers::find(instance, store).map_err(failed)?;
        let inbox = code.admitted().inbox as usize;
        let entry = get(instance, store, "on_companion").map_err(failed)?;
        let state = &mut store.data_mut().instances[at];
        (state.memory, state.inbox, state.entry) = (Some(memory), inbox, entry);
        let events = state.events;
        let stack = Self::stack_pointer(instance, store);
        Ok(Self { memory, inbox, handlers, events, stack })
    }

    /// Lets `fill` write what a handler is about; the inbox lies in the memory, as admission saw.
    pub fn fill_inbox(&self, store: &mut Store<TeamState>, fill: impl FnOnce(&mut [u8; INBOX], &TeamState)) {
        let (memory, state) = self.memory.data_and_store_mut(store);
        if let Some(inbox) = memory.get_mut(self.inbox..).and_then(|m| m.first_chunk_mut()) {
            fill(inbox, state);
        }
    }
}

impl Handlers {
    pub fn find(instance: &Instance, store: &mut Store<TeamState>) -> wasmtime::Result<Self> {
        Ok(Self {
            boot: handler(instance, store, "on_boot")?,
            capsule: get(instance, store, "on_capsule")?,
            timer: handler(instance, store, "on_timer")?,
            session: handler(instance, store, "on_session")?,
            expiry: handler(instance, store, "on_expiry")?,
            warning: handler(instance, store, "on_warning")?,
            flow: handler(instance, store, "on_flow")?,
            neighbor: handler(instance, store, "on_neighbor")?,
            call: handler(instance, store, "on_call")?,
            answer: handler(instance, store, "on_answer")?,
            stop: handler(instance, store, "on_stop")?,
            handover: handler(instance, store, "on_handover")?,
            takeover: handler(instance, store, "on_takeover")?,
        })
    }

    /// Whether programs can talk to it.
    pub fn hears_programs(&self) -> bool {
        self.session.is_some()
    }
}

fn get<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &mut Store<TeamState>,
    name: &str,
) -> wasmtime::Result<Option<TypedFunc<P, R>>> {
    instance.get_func(&mut *store, name).map(|f| f.typed(&*store)).transpose()
}

fn handler<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &mut Store<TeamState>,
    name: &str,
) -> wasmtime::Result<Handler<P, R>> {
    Ok(get(instance, store, name)?.map(Box::new))
}
