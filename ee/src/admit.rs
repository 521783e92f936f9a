//! Admission: what a module must be before it is compiled (D3).
//!
//! One pass reads the module, validates it against the exact set of WebAssembly features that
//! `docs/abi/bounds.md` lists, and counts what makes a compiler slow or hungry. The bounds are such that
//! the worst module they let pass compiles within the time and the heap that the same page states;
//! `tests/worst.rs` makes such modules and measures.

use std::fmt;

use wasmparser::{
    BinaryReaderError, CompositeInnerType, ConstExpr, Export, ExternalKind, FuncToValidate, FuncType,
    FuncValidatorAllocations, FunctionBody, Global, Operator, Parser, Payload, TableInit, TypeRef, ValType,
    ValidPayload, Validator, ValidatorResources, WasmFeatures,
};
use wire::describe::{self, Description};

use crate::abi::{self, Signature, Ty};

/// The WebAssembly features that a module may use: what compilers call "lime1" without extended
/// constant expressions. Everything else is refused.
const FEATURES: WasmFeatures = WasmFeatures::FLOATS
    .union(WasmFeatures::MUTABLE_GLOBAL)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY_OPT)
    .union(WasmFeatures::CALL_INDIRECT_OVERLONG);

/// The bounds, each with its reason in `docs/abi/bounds.md`.
pub mod bounds {
    /// Bytes of a module.
    pub const MODULE: u64 = 192 * 1024;
    /// Function types.
    pub const TYPES: u64 = 256;
    /// Parameters, and results, of a function type or a block.
    pub const ARITY: u64 = 16;
    /// Imported functions.
    pub const IMPORTS: u64 = 96;
    /// Functions of the module's own.
    pub const FUNCTIONS: u64 = 2048;
    /// Bytes of one function's body.
    pub const BODY: u64 = 24 * 1024;
    /// Locals of one function, its parameters included.
    pub const LOCALS: u64 = 256;
    /// Blocks, loops and conditions in one function.
    pub const BLOCKS: u64 = 2048;
    /// Locals times blocks of one function.
    pub const LOCALS_BY_BLOCKS: u64 = 64 * 1024;
    /// Blocks inside each other.
    pub const DEPTH: u64 = 128;
    /// Targets of one branch table.
    pub const BRANCH_TABLE: u64 = 1024;
    /// Work for the compiler in one function, as [`weight`](super::weight) counts it: bounds the heap.
    pub const FUNCTION_WEIGHT: u64 = 16_000;
    /// Work for the compiler in all functions: bounds the time.
    pub const MODULE_WEIGHT: u64 = 160_000;
    /// Locals times blocks of all functions.
    pub const ALL_LOCALS_BY_BLOCKS: u64 = 1024 * 1024;
    /// Tables.
    pub const TABLES: u64 = 1;
    /// Elements of a table, and of all element segments.
    pub const ELEMENTS: u64 = 4096;
    /// Element segments.
    pub const ELEMENT_SEGMENTS: u64 = 64;
    /// Pages of 64 KiB that a memory may declare as its maximum.
    pub const PAGES: u64 = 1024;
    /// Globals.
    pub const GLOBALS: u64 = 64;
    /// Exports.
    pub const EXPORTS: u64 = 64;
    /// Data segments.
    pub const DATA_SEGMENTS: u64 = 256;
}

// A module may use the whole interface.
const _: () = assert!(abi::IMPORTS.len() as u64 <= bounds::IMPORTS);

/// Why a module was refused. Whoever built the module erred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Not a valid module, or it uses a feature that is not admitted.
    Invalid {
        /// Where in the module.
        offset: u64,
        /// What is wrong.
        text: String,
    },
    /// Over a bound.
    Bound {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
        /// How much there is (at least).
        found: u64,
        /// In which function, imports counted first.
        function: Option<u32>,
    },
    /// An import that the node does not offer.
    Import {
        /// `module.name`.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An export that is missing or not what it must be.
    Export {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something that no module may have.
    Has(&'static str),
    /// The module's description.
    Description(describe::Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { offset, text } => write!(f, "module is not valid at byte {offset}: {text}"),
            Self::Bound { what, limit, found, function } => {
                write!(f, "module has {found} {what}, {limit} are allowed")?;
                function.map_or(Ok(()), |n| write!(f, " (function {n})"))
            }
            Self::Import { name, why } => write!(f, "module imports {name}: {why}"),
            Self::Export { name, why } => write!(f, "module's export {name}: {why}"),
            Self::Has(what) => write!(f, "module has {what}"),
            Self::Description(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<BinaryReaderError> for Refusal {
    fn from(e: BinaryReaderError) -> Self {
        // The text may quote names out of the module.
        let text = e.message().chars().take(160).flat_map(char::escape_debug).collect();
        Self::Invalid { offset: e.offset() as u64, text }
    }
}

/// What admission learned about a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Address of the inbox.
    pub inbox: u32,
    /// Functions of the module's own.
    pub functions: u32,
    /// How many functions it imports.
    pub imports: u32,
    /// What the module says about itself.
    pub description: Option<Description>,
}

/// Reads `module` and judges it.
pub fn admit(module: &[u8]) -> Result<Admitted, Refusal> {
    bound("bytes", module.len() as u64, bounds::MODULE)?;
    let mut walk = Walk::new();
    let mut parser = Parser::new(0);
    parser.set_features(FEATURES);
    for payload in parser.parse_all(module) {
        walk.payload(&payload?)?;
    }
    walk.finish()
}

/// What is known after the sections read so far.
struct Walk {
    validator: Validator,
    scratch: Option<FuncValidatorAllocations>,
    types: Vec<FuncType>,
    /// The type of each function, imports first.
    functions: Vec<u32>,
    imported: u32,
    /// Start values of the globals: type, whether immutable, and the value if it is a constant.
    globals: Vec<(ValType, bool, Option<i32>)>,
    exports: Vec<(String, ExternalKind, u32)>,
    /// Smallest size of the memory in bytes.
    memory: Option<u64>,
    elements: u64,
    weight: u64,
    locals_by_blocks: u64,
    description: Option<Description>,
}

impl Walk {
    fn new() -> Self {
        Self {
            validator: Validator::new_with_features(FEATURES),
            scratch: Some(FuncValidatorAllocations::default()),
            types: Vec::new(),
            functions: Vec::new(),
            imported: 0,
            globals: Vec::new(),
            exports: Vec::new(),
            memory: None,
            elements: 0,
            weight: 0,
            locals_by_blocks: 0,
            description: None,
        }
    }

    /// Bounds come first, so that the validator never works on more than they allow.
    fn payload(&mut self, payload: &Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::TypeSection(s) => bound("types", s.count().into(), bounds::TYPES)?,
            Payload::ImportSection(s) => {
                for import in s.clone().into_imports() {
                    let import = import?;
                    let TypeRef::Func(ty) = import.ty else { return Err(foreign(&import, "not a function")) };
                    self.import(&import, ty)?;
                }
            }
            Payload::FunctionSection(s) => {
                bound("functions", s.count().into(), bounds::FUNCTIONS)?;
                for ty in s.clone() {
                    self.functions.push(ty?);
                }
            }
            Payload::TableSection(s) => {
                bound("tables", s.count().into(), bounds::TABLES)?;
                for table in s.clone() {
                    let table = table?;
                    if !matches!(table.init, TableInit::RefNull) {
                        return Err(Refusal::Has("a table with a start value"));
                    }
                    bound("table elements", table.ty.initial, bounds::ELEMENTS)?;
                }
            }
            Payload::MemorySection(s) => {
                for memory in s.clone() {
                    let memory = memory?;
                    let max = memory.maximum.ok_or(Refusal::Has("a memory without a maximum"))?;
                    bound("pages of memory", max.max(memory.initial), bounds::PAGES)?;
                    self.memory = Some(memory.initial * 65536);
                }
            }
            Payload::GlobalSection(s) => {
                bound("globals", s.count().into(), bounds::GLOBALS)?;
                for global in s.clone() {
                    self.global(&global?);
                }
            }
            Payload::ExportSection(s) => {
                bound("exports", s.count().into(), bounds::EXPORTS)?;
                for export in s.clone() {
                    let Export { name, kind, index } = export?;
                    self.exports.push((name.to_string(), kind, index));
                }
            }
            Payload::StartSection { .. } => return Err(Refusal::Has("a start function")),
            Payload::ElementSection(s) => {
                bound("element segments", s.count().into(), bounds::ELEMENT_SEGMENTS)?;
                for segment in s.clone() {
                    self.elements += match segment?.items {
                        wasmparser::ElementItems::Functions(items) => u64::from(items.count()),
                        wasmparser::ElementItems::Expressions(_, items) => u64::from(items.count()),
                    };
                    bound("elements", self.elements, bounds::ELEMENTS)?;
                }
            }
            Payload::DataSection(s) => bound("data segments", s.count().into(), bounds::DATA_SEGMENTS)?,
            Payload::CustomSection(s) if s.name() == describe::SECTION => {
                if self.description.is_some() {
                    return Err(Refusal::Has("two descriptions"));
                }
                self.description = Some(Description::decode(s.data()).map_err(Refusal::Description)?);
            }
            _ => (),
        }
        match self.validator.payload(payload)? {
            ValidPayload::Func(function, body) => self.body(function, &body)?,
            ValidPayload::Parser(_) => return Err(Refusal::Has("a module inside it")),
            ValidPayload::Ok | ValidPayload::End(_) => (),
        }
        if let Payload::TypeSection(s) = payload {
            for group in s.clone() {
                for ty in group?.into_types() {
                    let CompositeInnerType::Func(f) = ty.composite_type.inner else {
                        return Err(Refusal::Has("a type that is not a function's"));
                    };
                    bound("parameters", f.params().len() as u64, bounds::ARITY)?;
                    bound("results", f.results().len() as u64, bounds::ARITY)?;
                    self.types.push(f);
                }
            }
        }
        Ok(())
    }

    fn import(&mut self, import: &wasmparser::Import<'_>, ty: u32) -> Result<(), Refusal> {
        let known = abi::IMPORTS.iter().find(|s| import.module == abi::MODULE && s.name == import.name);
        let known = known.ok_or_else(|| foreign(import, "the node has no such function"))?;
        if !self.types.get(ty as usize).is_some_and(|f| is(f, known)) {
            return Err(foreign(import, "the function has another type"));
        }
        self.functions.push(ty);
        self.imported += 1;
        bound("imports", self.imported.into(), bounds::IMPORTS)
    }

    fn global(&mut self, global: &Global<'_>) {
        let value = constant(&global.init_expr);
        self.globals.push((global.ty.content_type, !global.ty.mutable, value));
    }

    fn body(
        &mut self,
        function: FuncToValidate<ValidatorResources>,
        body: &FunctionBody<'_>,
    ) -> Result<(), Refusal> {
        let index = function.index;
        let at = |what, found, limit| over(what, found, limit, Some(index));
        at("bytes of a function", body.as_bytes().len() as u64, bounds::BODY)?;
        let mut check = function.into_validator(self.scratch.take().unwrap_or_default());
        let params = self.functions.get(index as usize).and_then(|t| self.types.get(*t as usize));
        let mut locals = params.map_or(0, |f| f.params().len() as u64);
        let mut reader = body.get_locals_reader()?;
        for _ in 0..reader.get_count() {
            let offset = reader.original_position();
            let (count, ty) = reader.read()?;
            locals += u64::from(count);
            at("locals", locals, bounds::LOCALS)?;
            check.define_locals(offset, count, ty)?;
        }
        let (mut blocks, mut total) = (1u64, FUNCTION);
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            let offset = reader.original_position();
            let op = reader.read()?;
            match &op {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => blocks += 1,
                Operator::BrTable { targets } => {
                    at("targets of a branch table", targets.len().into(), bounds::BRANCH_TABLE)?;
                }
                _ => (),
            }
            total += weight(&op);
            at("units of work for the compiler", total, bounds::FUNCTION_WEIGHT)?;
            check.op(offset, &op)?;
            at("nested blocks", u64::from(check.control_stack_height()), bounds::DEPTH)?;
            at("blocks", blocks, bounds::BLOCKS)?;
        }
        at("locals times blocks", locals * blocks, bounds::LOCALS_BY_BLOCKS)?;
        self.locals_by_blocks += locals * blocks;
        bound("locals times blocks in all", self.locals_by_blocks, bounds::ALL_LOCALS_BY_BLOCKS)?;
        self.weight += total;
        bound("units of work for the compiler in all", self.weight, bounds::MODULE_WEIGHT)?;
        reader.finish()?;
        self.scratch = Some(check.into_allocations());
        Ok(())
    }

    fn finish(self) -> Result<Admitted, Refusal> {
        let wrong = |name: &str, why| Err(Refusal::Export { name: name.escape_debug().to_string(), why });
        let (mut memory, mut version, mut inbox) = (false, None, None);
        for (name, kind, index) in &self.exports {
            match (name.as_str(), kind) {
                ("memory", ExternalKind::Memory) => memory = true,
                ("bees_abi", ExternalKind::Global) => version = self.marker(*index),
                // LLVM gives exported globals no values of the program's choice, but it exports functions.
                ("bees_abi_1", ExternalKind::Func) => version = Some(1),
                ("bees_inbox", ExternalKind::Global) => inbox = self.marker(*index),
                ("memory" | "bees_abi" | "bees_inbox", _) => return wrong(name, "not what it must be"),
                (other, ExternalKind::Func) if other.starts_with("on_") => {
                    let Some(known) = abi::HANDLERS.iter().find(|s| s.name == other) else {
                        return wrong(name, "the node knows no such handler");
                    };
                    let ty = self.functions.get(*index as usize).and_then(|t| self.types.get(*t as usize));
                    if !ty.is_some_and(|f| is(f, known)) {
                        return wrong(name, "the handler has another type");
                    }
                }
                (other, _) if other.starts_with("bees_") || other.starts_with("on_") => {
                    return wrong(name, "the name is reserved");
                }
                _ => (),
            }
        }
        let Some(size) = self.memory.filter(|_| memory) else { return wrong("memory", "missing") };
        if version != Some(abi::VERSION) {
            return wrong("bees_abi", "must be an immutable i32 of value 1 (or a function bees_abi_1)");
        }
        let inbox = inbox.map(|at| at as u32).filter(|at| u64::from(*at) + abi::INBOX as u64 <= size);
        let Some(inbox) = inbox else {
            return wrong("bees_inbox", "must be an immutable i32, the address of 64 bytes in the memory");
        };
        let functions = self.functions.len() as u32 - self.imported;
        Ok(Admitted { inbox, imports: self.imported, functions, description: self.description })
    }

    /// The value of an immutable `i32` global.
    fn marker(&self, index: u32) -> Option<i32> {
        match self.globals.get(index as usize) {
            Some((ValType::I32, true, value)) => *value,
            _ => None,
        }
    }
}

/// What any function costs the compiler, in the units of [`weight`].
const FUNCTION: u64 = 24;

/// How much work an instruction makes for the compiler: 1 for arithmetic; more for what can trap, becomes
/// a call into the engine, or splits the code. Measured (`tests/worst.rs`), about 5 to 10 microseconds a unit.
pub fn weight(op: &Operator<'_>) -> u64 {
    use Operator as O;
    match op {
        O::CallIndirect { .. } => 40,
        O::MemoryCopy { .. } | O::MemoryFill { .. } => 32,
        O::I32TruncF32S
        | O::I32TruncF32U
        | O::I32TruncF64S
        | O::I32TruncF64U
        | O::I64TruncF32S
        | O::I64TruncF32U
        | O::I64TruncF64S
        | O::I64TruncF64U => 32,
        O::Loop { .. } | O::MemoryGrow { .. } => 24,
        O::I32DivS
        | O::I32DivU
        | O::I32RemS
        | O::I32RemU
        | O::I64DivS
        | O::I64DivU
        | O::I64RemS
        | O::I64RemU => 16,
        O::I32TruncSatF32S
        | O::I32TruncSatF32U
        | O::I32TruncSatF64S
        | O::I32TruncSatF64U
        | O::I64TruncSatF32S
        | O::I64TruncSatF32U
        | O::I64TruncSatF64S
        | O::I64TruncSatF64U => 8,
        O::BrTable { targets } => 8 + u64::from(targets.len()) / 2,
        O::If { .. } | O::Else | O::Br { .. } | O::BrIf { .. } | O::Return | O::Unreachable => 8,
        O::Call { .. } => 4,
        O::I32Load { .. }
        | O::I64Load { .. }
        | O::F32Load { .. }
        | O::F64Load { .. }
        | O::I32Load8S { .. }
        | O::I32Load8U { .. }
        | O::I32Load16S { .. }
        | O::I32Load16U { .. }
        | O::I64Load8S { .. }
        | O::I64Load8U { .. }
        | O::I64Load16S { .. }
        | O::I64Load16U { .. }
        | O::I64Load32S { .. }
        | O::I64Load32U { .. }
        | O::I32Store { .. }
        | O::I64Store { .. }
        | O::F32Store { .. }
        | O::F64Store { .. }
        | O::I32Store8 { .. }
        | O::I32Store16 { .. }
        | O::I64Store8 { .. }
        | O::I64Store16 { .. }
        | O::I64Store32 { .. } => 8,
        _ => 1,
    }
}

fn is(ty: &FuncType, known: &Signature) -> bool {
    let same = |have: &[ValType], want: &[Ty]| {
        let want = want.iter().map(|t| match t {
            Ty::I32 => ValType::I32,
            Ty::I64 => ValType::I64,
        });
        have.iter().copied().eq(want)
    };
    same(ty.params(), known.params) && same(ty.results(), known.results)
}

fn constant(init: &ConstExpr<'_>) -> Option<i32> {
    match init.get_operators_reader().read() {
        Ok(Operator::I32Const { value }) => Some(value),
        _ => None,
    }
}

fn foreign(import: &wasmparser::Import<'_>, why: &'static str) -> Refusal {
    let name = format!("{}.{}", import.module, import.name);
    Refusal::Import { name: name.chars().take(80).flat_map(char::escape_debug).collect(), why }
}

fn bound(what: &'static str, found: u64, limit: u64) -> Result<(), Refusal> {
    over(what, found, limit, None)
}

fn over(what: &'static str, found: u64, limit: u64, function: Option<u32>) -> Result<(), Refusal> {
    if found <= limit { Ok(()) } else { Err(Refusal::Bound { what, limit, found, function }) }
}
