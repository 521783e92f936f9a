//! The WebAssembly engine: wasmtime with Cranelift, set up so that guest code is bounded in time, stack
//! and memory, and without signals, guard pages or reservations, so that it runs on Hermit as on Linux.
//!
//! One engine serves all nodes of a process. What stops a guest that does not end is either the epoch
//! (a platform calls [`InterruptHandle::interrupt`] from its [`nodeos::platform::Interrupter`]) or fuel, which is
//! counted and therefore the same in every run: the simulator's choice.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wasmtime::{Config, Instance, InstancePre, Linker, Module, StackCreator, Store, WasmFeatures};
use wire::id::PartHash;

use crate::admit::{self, Admitted, Refusal};
use crate::guest::{self, CALL, Calls};
use crate::sandbox::TeamState;

/// Bytes of native stack that guest code may use.
pub const STACK: usize = 128 * 1024;
/// Bytes of a fiber's stack: what guest code may use, and room for the host function that it calls last.
pub const FIBER_STACK: usize = STACK + 128 * 1024;
/// Bytes that an idle store and its one instance take beside memory, table and what grows with the
/// number of functions (measured by `tests/heap.rs`).
pub const STORE_BYTES: u64 = 6 * 1024 + 512;
/// The same for each further instance of a store.
pub const INSTANCE_BYTES: u64 = 2 * 1024;
/// Bytes of an instance for each of its own functions, at most.
pub const FUNCTION_BYTES: u64 = 40;
/// The same for each function that it imports.
pub const IMPORT_BYTES: u64 = 88;

/// How guest code is measured and stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metering {
    /// By the platform's meter, stopped by the platform's interrupter.
    Epoch,
    /// By counting instructions: slower, and the same in every run.
    Fuel,
}

/// The node's build or platform does not fit the engine.
#[derive(Debug)]
pub struct EngineError(String);

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebAssembly engine: {}", self.0)
    }
}

impl std::error::Error for EngineError {}

impl From<wasmtime::Error> for EngineError {
    fn from(e: wasmtime::Error) -> Self {
        Self(format!("{e:#}"))
    }
}

/// The engine with the guest interface. Cloning gives another name for the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    engine: wasmtime::Engine,
    linker: Linker<TeamState>,
    /// The same for guests on fibers.
    on_fibers: Linker<TeamState>,
    metering: Metering,
}

impl Engine {
    /// Sets the engine up. Takes some milliseconds; once per process is enough.
    pub fn new(metering: Metering) -> Result<Self, EngineError> {
        Self::with(metering, &settings(Some(metering)))
    }

    /// The same with fibers' stacks from `stacks`, for a platform where the engine's own have no guard page.
    pub fn with_stacks(metering: Metering, stacks: Arc<dyn StackCreator>) -> Result<Self, EngineError> {
        Self::with(metering, settings(Some(metering)).with_host_stack(stacks))
    }

    fn with(metering: Metering, config: &Config) -> Result<Self, EngineError> {
        let engine = wasmtime::Engine::new(config)?;
        let [mut linker, mut on_fibers] = [Linker::new(&engine), Linker::new(&engine)];
        guest::link(&mut linker, Calls::Direct)?;
        guest::link(&mut on_fibers, Calls::OnFiber)?;
        Ok(Self(Arc::new(Inner { engine, linker, on_fibers, metering })))
    }

    /// What stops a guest past its deadline.
    pub fn interrupter_handle(&self) -> InterruptHandle {
        InterruptHandle(self.0.engine.clone())
    }

    /// How guest code is measured and stopped.
    pub fn metering(&self) -> Metering {
        self.0.metering
    }

    pub(crate) fn raw(&self) -> &wasmtime::Engine {
        &self.0.engine
    }

    #[cfg(test)]
    pub(crate) fn linker(&self) -> &Linker<TeamState> {
        &self.0.linker
    }

    /// Judges a module and compiles it. Takes long: see [`crate::job`].
    pub(crate) fn compile(&self, hash: PartHash, module: &[u8]) -> Result<Code, CompileError> {
        let admitted = admit::admit(module)?;
        let failed = |e: wasmtime::Error| CompileError::Engine(format!("{e:#}"));
        let module = Module::from_binary(&self.0.engine, module).map_err(failed)?;
        let range = module.image_range();
        let image = (range.end as usize - range.start as usize) as u64;
        let pre = self.0.linker.instantiate_pre(&module).map_err(failed)?;
        // Only those that call a companion differ.
        let calls = module.imports().any(|import| import.name() == CALL);
        let on_fiber = match calls {
            true => Some(self.0.on_fibers.instantiate_pre(&module).map_err(failed)?),
            false => None,
        };
        let size = image + CODE_BYTES + u64::from(admitted.functions) * CODE_FUNCTION_BYTES;
        Ok(Code { hash, pre, on_fiber, image, size, admitted })
    }
}

/// Bytes of a compiled module beside its image and what grows with its functions, at most.
const CODE_BYTES: u64 = 16 * 1024;
/// Bytes of a compiled module beside its image for each of its functions, at most.
const CODE_FUNCTION_BYTES: u64 = 72;

/// A compiled module, shared by all teams that run it. A clone shares the machine code.
#[derive(Clone)]
pub struct Code {
    hash: PartHash,
    pre: InstancePre<TeamState>,
    on_fiber: Option<InstancePre<TeamState>>,
    image: u64,
    size: u64,
    admitted: Admitted,
}

impl Code {
    /// The module's name.
    pub fn hash(&self) -> PartHash {
        self.hash
    }

    /// Bytes that the compiled module takes. Each team that runs it is charged all of them (D4).
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of it that are machine code and constants, in whole pages.
    pub fn image(&self) -> u64 {
        self.image
    }

    /// What admission learned.
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// Makes an instance, for a guest that runs on a fiber or not. No guest code runs.
    pub(crate) fn instantiate(
        &self,
        store: &mut Store<TeamState>,
        on_fiber: bool,
    ) -> wasmtime::Result<Instance> {
        if !on_fiber {
            return self.pre.instantiate(store);
        }
        // A store in which one module's functions may wait takes no other in the plain way.
        let pre = self.on_fiber.as_ref().unwrap_or(&self.pre);
        match pin!(pre.instantiate_async(store)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(instance) => instance,
            Poll::Pending => Err(wasmtime::Error::msg("it did not come to an end")),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({:.8}, {} bytes)", self.hash, self.size)
    }
}

/// Why there is no code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompileError {
    /// The module is not admitted. Whoever built it erred.
    Refused(Refusal),
    /// The engine could not compile an admitted module. The node erred.
    Engine(String),
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(r) => write!(f, "module refused: {r}"),
            Self::Engine(text) => write!(f, "the node could not compile the module: {text}"),
        }
    }
}

impl std::error::Error for CompileError {}

impl From<Refusal> for CompileError {
    fn from(r: Refusal) -> Self {
        Self::Refused(r)
    }
}

/// Makes running guest code look at its deadline. May be used from any thread and from a signal handler.
#[derive(Clone)]
pub struct InterruptHandle(wasmtime::Engine);

impl InterruptHandle {
    /// Guest code that is past its deadline stops at its next loop or function entry; other guest code
    /// goes on.
    pub fn interrupt(&self) {
        self.0.increment_epoch();
    }
}

/// The engine's settings; `None`: nothing measures or stops guest code, for who wants to know what that costs.
pub fn settings(metering: Option<Metering>) -> Config {
    let mut c = Config::new();
    // No signal handlers, no address space beyond what is used: neither exists on Hermit.
    c.signals_based_traps(false);
    c.memory_reservation(0).memory_guard_size(0).memory_reservation_for_growth(0);
    c.memory_init_cow(false);
    c.max_wasm_stack(STACK).async_stack_size(FIBER_STACK);
    // Admission has refused everything else; here the compiler is told the same.
    for off in [
        WasmFeatures::RELAXED_SIMD,
        WasmFeatures::SIMD,
        WasmFeatures::TAIL_CALL,
        WasmFeatures::MULTI_MEMORY,
        WasmFeatures::MEMORY64,
        WasmFeatures::EXTENDED_CONST,
    ] {
        c.wasm_features(off, false);
    }
    // A trap is reported with the names of a few functions; nothing is kept for more than that.
    c.generate_address_map(false).native_unwind_info(false);
    c.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(4));
    match metering {
        None => &mut c,
        Some(Metering::Epoch) => c.epoch_interruption(true),
        // The simulator's results must not depend on the machine's NaNs either.
        Some(Metering::Fuel) => c.consume_fuel(true).cranelift_nan_canonicalization(true),
    };
    c
}
