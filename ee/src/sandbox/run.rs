//! One guest call for one event, measured and bounded.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nodeos::buf::Buf;
use nodeos::platform::Interrupter;
use nodeos::slab::Handle;
use wasmtime::{Func, Instance, Memory, Store, TypedFunc, Val, WasmParams, WasmResults};
use wire::tuple::Events;

use super::event::fault;
use super::{Effect, Event, GuestFault, NeighborId, SessionId, SessionInput, TeamState};
use crate::abi::{self, INBOX};
use crate::capsule::Object;
use crate::engine::Metering;

/// A team's code with its state.
pub(super) struct Program {
    pub run: Running,
    /// In the order of [`TeamState::instances`].
    pub instances: Vec<Protocol>,
}

/// The store, and what bounds a call into it; apart from the handlers, so that calling one copies nothing.
pub(super) struct Running {
    pub store: Store<TeamState>,
    pub interrupter: Arc<dyn Interrupter>,
    /// The deadline of one event.
    pub event: Duration,
    /// Guest calls so far.
    pub calls: u64,
}

/// One protocol's instance.
pub(super) struct Protocol {
    pub memory: Memory,
    pub inbox: usize,
    pub handlers: Handlers,
    pub events: Events,
}

/// The handlers that a module has, found once.
pub(super) struct Handlers {
    boot: Option<TypedFunc<u32, ()>>,
    capsule: Option<TypedFunc<(u32, u32, u32, u32), ()>>,
    timer: Option<TypedFunc<(u32, u32, i64), ()>>,
    session: Option<TypedFunc<(u32, u32, i32, u32), ()>>,
    pub expiry: Option<TypedFunc<u32, i32>>,
    pub warning: Option<TypedFunc<i32, ()>>,
    flow: Option<TypedFunc<(u32, i32), ()>>,
    stop: Option<TypedFunc<(), ()>>,
}

/// How often a guest is looked at within its event's time.
pub(super) const LOOKS: u32 = 4;
/// The part of an event's time that `on_stop` gets.
pub(super) const STOP_PART: u32 = 4;

impl Program {
    /// Runs the handler for an event, if there is one; the units that it took.
    pub async fn handle(&mut self, event: Event) -> Result<u64, (u64, GuestFault)> {
        match event {
            Event::Boot => {
                let main = &self.instances[0];
                let Some(f) = &main.handlers.boot else { return Ok(0) };
                let capsule = self.run.fresh(main.events.boot);
                self.run.call(f, capsule).await.map(|(units, ())| units)
            }
            Event::Capsule { kind, from, packet } => self.capsule(kind, from, packet).await,
            Event::Timer(fired) => {
                let main = &self.instances[0];
                let Some(f) = &main.handlers.timer else { return Ok(0) };
                if !self.run.store.data().timers.is_wanted(&fired) {
                    return Ok(0);
                }
                let capsule = self.run.fresh(main.events.timer);
                let params = (capsule, abi::number_of(fired.timer), fired.token);
                self.run.call(f, params).await.map(|(units, ())| units)
            }
            Event::Session { session, what } => self.session(session, what).await,
            Event::Expiry { entry } => self.expiry(entry).await,
            Event::Warning(resource) => {
                let Some(f) = &self.instances[0].handlers.warning else { return Ok(0) };
                self.run.call(f, resource as i32).await.map(|(units, ())| units)
            }
            Event::Flow { child, state } => {
                let Some(f) = &self.instances[0].handlers.flow else { return Ok(0) };
                let Some(cap) = self.run.store.data().caps.of_child(child) else { return Ok(0) };
                self.run.call(f, (abi::number_of(cap), state as i32)).await.map(|(units, ())| units)
            }
            Event::Stop => {
                self.run.event /= STOP_PART;
                let Some(f) = &self.instances[0].handlers.stop else { return Ok(0) };
                self.run.call(f, ()).await.map(|(units, ())| units)
            }
        }
    }

    /// The handler for a capsule, on the spot: what a router does all day goes no other way round.
    pub fn handle_capsule(
        &mut self,
        kind: u8,
        from: Option<NeighborId>,
        packet: Buf,
    ) -> Result<u64, (u64, GuestFault)> {
        let Some(params) = self.prepare_capsule(kind, from, packet) else { return Ok(0) };
        let Some(f) = &self.instances[0].handlers.capsule else { return Ok(0) };
        self.run.call_now(f, params).map(|(units, ())| units)
    }

    async fn capsule(
        &mut self,
        kind: u8,
        from: Option<NeighborId>,
        packet: Buf,
    ) -> Result<u64, (u64, GuestFault)> {
        let Some(params) = self.prepare_capsule(kind, from, packet) else { return Ok(0) };
        let Some(f) = &self.instances[0].handlers.capsule else { return Ok(0) };
        self.run.call(f, params).await.map(|(units, ())| units)
    }

    /// What the handler for a capsule takes, if there is one.
    fn prepare_capsule(
        &mut self,
        kind: u8,
        from: Option<NeighborId>,
        packet: Buf,
    ) -> Option<(u32, u32, u32, u32)> {
        let main = &self.instances[0];
        main.handlers.capsule.as_ref()?;
        let state = self.run.store.data_mut();
        let left = state.kinds().get(kind)?.limits;
        let origin = from.and_then(|id| state.neighbors.position(id));
        let cap = origin.and_then(|at| state.caps.of_neighbor(at, &mut state.neighbors).ok());
        let len = packet.len() as u32;
        main.fill_inbox(&mut self.run.store, |inbox, _| {
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
        let known = state.sessions.iter().find(|(_, s)| **s == session).map(|(h, _)| h);
        let (number, packet, handle) = match (what, known) {
            (SessionInput::Open, None) => match handler.map(|_| state.open(session)) {
                Some(Ok(handle)) => (abi::session::OPEN, Vec::new(), handle),
                other => {
                    state.refused.sessions += u16::from(other.is_some());
                    state.effects.push(Effect::CloseSession { session });
                    return Ok(0);
                }
            },
            (SessionInput::Packet(packet), Some(handle)) => (abi::session::PACKET, packet, handle),
            (SessionInput::Close, Some(handle)) => (abi::session::CLOSE, Vec::new(), handle),
            // Opened twice, or closed by the guest in the meantime.
            _ => return Ok(0),
        };
        let Some(f) = handler else { return Ok(0) };
        let len = packet.len() as u32;
        (state.packet, state.speaking) = (packet, Some(handle));
        let closing = number == abi::session::CLOSE;
        let capsule = if closing { 0 } else { self.run.fresh(main.events.session) };
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
        let main = &self.instances[0];
        let Some(f) = &main.handlers.expiry else { return Ok(0) };
        let state = self.run.store.data_mut();
        let now = state.now.mono;
        // It may have been set again, kept or taken out since it was due.
        let Some(key_len) =
            state.soft.as_ref().filter(|s| s.is_over(now, entry)).and_then(|s| Some(s.key(entry)?.len()))
        else {
            return Ok(0);
        };
        main.fill_inbox(&mut self.run.store, |inbox, state| {
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
    /// A capsule object of `kind` with an empty payload, for an event that replenishes one; 0 if none.
    fn fresh(&mut self, kind: Option<u8>) -> u32 {
        let state = self.store.data_mut();
        let Some((kind, left)) = kind.and_then(|k| Some((k, state.kinds().get(k)?.limits))) else { return 0 };
        let object = state.buffer().map(|payload| Object { kind, depth: 0, origin: None, left, payload });
        match object.and_then(|o| state.objects.insert(o)) {
            Ok(handle) => abi::number_of(handle),
            Err(error) => {
                state.answer(Err(error));
                0
            }
        }
    }

    /// One guest call, measured and bounded. On a fiber the slices are measured, not the call.
    async fn call<P: Params, R: Answer>(
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
        state.allowance =
            u64::try_from(self.event.as_micros()).unwrap_or(u64::MAX).saturating_mul(state.per_micro);
        let (result, units) = match state.metering {
            Metering::Epoch => {
                let start = state.meter.count();
                state.deadline = start.saturating_add(state.allowance);
                state.seen = 0;
                self.interrupter.arm(self.event / LOOKS);
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
                f.call_async(&mut self.store, &params, &mut results).await?;
                return Ok(results);
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
                mailbox.open().fuel = fuel;
            }
            result.map(|()| results)
        })
    }
}

type Pending<'a> = Pin<Box<dyn Future<Output = wasmtime::Result<Vec<Val>>> + Send + 'a>>;

/// What a handler takes, one by one.
trait Params: WasmParams {
    fn list(self) -> Vec<Val>;
}

/// What it gives.
trait Answer: WasmResults {
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
    /// Lets `fill` write what a handler is about; the inbox lies in the memory, as admission saw.
    fn fill_inbox(&self, store: &mut Store<TeamState>, fill: impl FnOnce(&mut [u8; INBOX], &TeamState)) {
        let (memory, state) = self.memory.data_and_store_mut(store);
        if let Some(inbox) = memory.get_mut(self.inbox..).and_then(|m| m.first_chunk_mut()) {
            fill(inbox, state);
        }
    }
}

impl Handlers {
    pub fn find(instance: &Instance, store: &mut Store<TeamState>) -> wasmtime::Result<Self> {
        fn get<P: WasmParams, R: WasmResults>(
            instance: &Instance,
            store: &mut Store<TeamState>,
            name: &str,
        ) -> wasmtime::Result<Option<TypedFunc<P, R>>> {
            instance.get_func(&mut *store, name).map(|f| f.typed(&*store)).transpose()
        }
        Ok(Self {
            boot: get(instance, store, "on_boot")?,
            capsule: get(instance, store, "on_capsule")?,
            timer: get(instance, store, "on_timer")?,
            session: get(instance, store, "on_session")?,
            expiry: get(instance, store, "on_expiry")?,
            warning: get(instance, store, "on_warning")?,
            flow: get(instance, store, "on_flow")?,
            stop: get(instance, store, "on_stop")?,
        })
    }
}
