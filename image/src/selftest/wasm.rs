//! WebAssembly: compile on the node, run, trap, be interrupted.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nodeos::platform::Interrupter;
use wasmtime::{
    Config, Engine, Instance, Linker, Module, Store, Trap, TypedFunc, UpdateDeadline, WasmParams, WasmResults,
};

use super::{Options, check, faults};
use crate::Machine;
use crate::clock::tsc;
use crate::interrupt::Watchdog;
use crate::stacks::Stacks;

static GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.wasm"));
/// A module that takes long to compile.
pub static BIG: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/big.wasm"));

/// The engine as the node uses it.
pub fn engine() -> Result<Engine, String> {
    let mut config = Config::new();
    config
        .signals_based_traps(false)
        .memory_reservation(0)
        .memory_guard_size(0)
        .memory_reservation_for_growth(1 << 20)
        .max_wasm_stack(256 << 10)
        .epoch_interruption(true)
        .with_host_stack(Arc::new(Stacks));
    Engine::new(&config).map_err(|error| format!("{error:#}"))
}

/// The store's data with which the host function does not come back.
const TOO_DEEP: u64 = u64::MAX;

struct Guest {
    store: Store<u64>,
    instance: Instance,
    module: Module,
}

impl Guest {
    fn new(engine: &Engine) -> Result<Self, wasmtime::Error> {
        let module = Module::new(engine, GUEST)?;
        let mut linker = Linker::new(engine);
        linker.func_wrap("test", "host", |mut caller: wasmtime::Caller<'_, u64>, x: i32| {
            if *caller.data() == TOO_DEEP {
                return black_box(faults::recurse(0)) as i32;
            }
            *caller.data_mut() += 1;
            x + 1
        })?;
        let mut store = Store::new(engine, 0);
        store.set_epoch_deadline(1);
        let instance = linker.instantiate(&mut store, &module)?;
        Ok(Self { store, instance, module })
    }

    fn function<P: WasmParams, R: WasmResults>(&mut self, name: &str) -> Result<TypedFunc<P, R>, String> {
        self.instance.get_typed_func(&mut self.store, name).map_err(|error| error.to_string())
    }

    fn trap<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &str,
        arguments: P,
    ) -> Result<Option<Trap>, String> {
        match self.function::<P, R>(name)?.call(&mut self.store, arguments) {
            Ok(_) => Ok(None),
            Err(error) => Ok(error.downcast_ref().copied()),
        }
    }
}

/// Everything a guest needs.
pub fn run(machine: &mut Machine, _: &Options) -> Result<(), String> {
    let console = machine.console;
    let clock = machine.clock;
    let start = tsc();
    let engine = engine()?;
    console.line(format_args!("engine: {} us", clock.micros(tsc() - start)));
    for _ in 0..2 {
        let start = tsc();
        Module::new(&engine, GUEST).map_err(|error| error.to_string())?;
        console.line(format_args!("compile: {} us", clock.micros(tsc() - start)));
    }
    let start = tsc();
    let mut guest = Guest::new(&engine).map_err(|error| format!("{error:#}"))?;
    console.line(format_args!("compile and instantiate: {} us", clock.micros(tsc() - start)));

    let add = guest.function::<(i32, i32), i32>("add")?;
    check(add.call(&mut guest.store, (40, 2)).ok() == Some(42), "40 + 2")?;
    let nearest = guest.function::<(f64, f64), f64>("nearest")?;
    check(nearest.call(&mut guest.store, (1.5, 3.1)).ok() == Some(5.0), "1.5 * 3.1")?;

    const CALLS: i32 = 100_000;
    let start = tsc();
    for n in 0..CALLS {
        black_box(add.call(&mut guest.store, (n, 1)).map_err(|error| error.to_string())?);
    }
    let into = clock.micros(tsc() - start) * 1000 / CALLS as u64;
    let ask = guest.function::<i32, i32>("ask")?;
    let start = tsc();
    let asked = ask.call(&mut guest.store, CALLS).map_err(|error| error.to_string())?;
    let out = clock.micros(tsc() - start) * 1000 / CALLS as u64;
    console.line(format_args!("call into the guest {into} ns, out of it {out} ns"));
    check(asked == CALLS && *guest.store.data() == CALLS as u64, "calls of the host")?;

    let traps = [
        (guest.trap::<_, i32>("divide", (1, 0))?, Trap::IntegerDivisionByZero),
        (guest.trap::<_, i32>("divide", (i32::MIN, -1))?, Trap::IntegerOverflow),
        (guest.trap::<_, i32>("load", -8)?, Trap::MemoryOutOfBounds),
        (guest.trap::<_, i32>("deep", 1)?, Trap::StackOverflow),
    ];
    for (found, expected) in traps {
        check(found == Some(expected), format_args!("{found:?} instead of {expected:?}"))?;
    }

    let ticking = engine.clone();
    let watchdog = Arc::new(
        Watchdog::start(clock, move || ticking.increment_epoch()).map_err(|error| error.to_string())?,
    );
    for limit in [2_000, 20_000, 2_000] {
        guest.store.set_epoch_deadline(1);
        let start = tsc();
        watchdog.arm(clock.cycles(limit));
        let trap = guest.trap::<(), ()>("forever", ())?;
        watchdog.disarm();
        let after = clock.micros(tsc() - start);
        console.line(format_args!("endless loop with {limit} us: {trap:?} after {after} us"));
        check(trap == Some(Trap::Interrupt), "not interrupted")?;
        check(after >= limit, "interrupted too early")?;
    }

    // Modules come and go: their memory is heap memory again afterwards.
    drop(guest);
    for _ in 0..20 {
        drop(Guest::new(&engine).map_err(|error| format!("{error:#}"))?);
    }
    let start = tsc();
    let big = Module::new(&engine, BIG).map_err(|error| format!("{error:#}"))?;
    console.line(format_args!(
        "a module of {} KiB: compiled in {} ms to {} KiB",
        BIG.len() >> 10,
        clock.micros(tsc() - start) / 1000,
        (big.image_range().end as usize - big.image_range().start as usize) >> 10
    ));
    Ok(())
}

/// A guest on a fiber yields when its slice is over and goes on where it was; in the middle it can be ended, and
/// then its stack is heap memory again.
pub fn fiber(machine: &mut Machine, _: &Options) -> Result<(), String> {
    const SLICE: u64 = 2_000;
    const CALLS: i32 = 5_000_000;
    let (console, clock) = (machine.console, machine.clock);
    let engine = engine()?;
    let ticking = engine.clone();
    let watchdog = Watchdog::start(clock, move || ticking.increment_epoch());
    let watchdog = Arc::new(watchdog.map_err(|error| error.to_string())?);
    let mut context = Context::from_waker(Waker::noop());
    let mut guest = Guest::new(&engine).map_err(|error| format!("{error:#}"))?;
    guest.store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));

    let ask = guest.function::<i32, i32>("ask")?;
    let (start, mut slices, mut longest) = (tsc(), 1, 0);
    let asked = {
        let mut call = pin!(ask.call_async(&mut guest.store, CALLS));
        loop {
            let slice = tsc();
            watchdog.arm(clock.cycles(SLICE));
            let polled = call.as_mut().poll(&mut context);
            watchdog.disarm();
            longest = longest.max(clock.micros(tsc() - slice));
            match polled {
                Poll::Ready(result) => break result.map_err(|error| format!("{error:#}"))?,
                Poll::Pending => slices += 1,
            }
        }
    };
    let all = clock.micros(tsc() - start);
    console.line(format_args!("{all} us of work in {slices} slices, the longest of {longest} us"));
    check(asked == CALLS && *guest.store.data() == CALLS as u64, "calls of the host")?;
    check(slices > 2, "it did not yield")?;
    drop(guest);

    // Each has a stack of 2 MiB; together they are more than there is memory.
    for _ in 0..100 {
        let mut guest = Guest::new(&engine).map_err(|error| format!("{error:#}"))?;
        guest.store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        let forever = guest.function::<(), ()>("forever")?;
        let mut call = pin!(forever.call_async(&mut guest.store, ()));
        engine.increment_epoch();
        check(call.as_mut().poll(&mut context).is_pending(), "it came back")?;
    }
    Ok(())
}

/// A host function that overflows the fiber's stack: ends the machine.
pub fn fiber_overflow(_: &mut Machine, _: &Options) -> Result<(), String> {
    let mut guest = Guest::new(&engine()?).map_err(|error| format!("{error:#}"))?;
    let ask = guest.function::<i32, i32>("ask")?;
    *guest.store.data_mut() = TOO_DEEP;
    let mut call = pin!(ask.call_async(&mut guest.store, 1));
    let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    Err(format!("it came back: {:?}", polled.map(|result| result.map_err(|error| format!("{error:#}")))))
}

/// Compiled guest code is not writable: ends the machine.
pub fn code_write(_: &mut Machine, _: &Options) -> Result<(), String> {
    let mut guest = Guest::new(&engine()?).map_err(|error| format!("{error:#}"))?;
    let add = guest.function::<(i32, i32), i32>("add")?;
    check(add.call(&mut guest.store, (1, 1)).ok() == Some(2), "1 + 1")?;
    let text = guest.module.text().as_ptr();
    // Safety: none; the processor must refuse it.
    unsafe { black_box(text).cast_mut().write_volatile(0xc3) };
    Ok(())
}
