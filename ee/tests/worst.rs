//! The worst modules that admission lets pass, compiled and measured: the bounds in `ee::admit::bounds`
//! are chosen by this, and `docs/abi/bounds.md` states what it prints.
//!
//! `cargo test -p ee --release --test worst -- --nocapture` shows the table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ee::admit::{admit, bounds};
use ee::job::{Done, Job, JobId, Work};
use ee::{Engine, Metering};
use peak_alloc::PeakAlloc;
use wire::id::PartHash;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What the worst admitted module may take, natively.
const TIME: Duration = Duration::from_secs(2);
const MEMORY: usize = 32 << 20;

/// What this thread has used of a processor, whoever else is at work on the machine.
fn processor_time() -> Duration {
    let stat =
        std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says how long a thread ran");
    Duration::from_nanos(stat.split(' ').next().and_then(|n| n.parse().ok()).expect("a number comes first"))
}

fn leb(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (n & 0x7f) as u8;
        n >>= 7;
        if n == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

fn section(id: u8, contents: &[u8]) -> Vec<u8> {
    [vec![id], leb(contents.len() as u64), contents.to_vec()].concat()
}

fn vector(items: &[Vec<u8>]) -> Vec<u8> {
    [leb(items.len() as u64), items.concat()].concat()
}

/// A module whose functions all have the type `[i32 * params] -> []`, `locals` further locals each, and
/// the given bodies (without locals and the final `end`).
fn module(params: usize, locals: u64, bodies: &[Vec<u8>]) -> Vec<u8> {
    let ty = [vec![0x60], leb(params as u64), vec![0x7f; params], vec![0]].concat();
    let to_i32 = vec![0x60, 1, 0x7f, 1, 0x7f];
    let code: Vec<Vec<u8>> = bodies
        .iter()
        .map(|body| {
            let locals = if locals == 0 { vec![0] } else { [vec![1], leb(locals), vec![0x7f]].concat() };
            let whole = [locals, body.clone(), vec![0x0b]].concat();
            [leb(whole.len() as u64), whole].concat()
        })
        .collect();
    let export = |name: &str, kind: u8, index: u8| {
        [leb(name.len() as u64), name.as_bytes().to_vec(), vec![kind, index]].concat()
    };
    let exports = [export("memory", 2, 0), export("bees_abi", 3, 0), export("bees_inbox", 3, 1)];
    let table = vec![0x70, 0x01, 0x80, 0x20, 0x80, 0x20];
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &vector(&[ty, to_i32])),
        section(3, &vector(&vec![vec![0]; bodies.len()])),
        section(4, &vector(&[table])),
        section(5, &vector(&[vec![1, 1, 4]])),
        section(
            6,
            &vector(&[
                vec![0x7f, 0, 0x41, 1, 0x0b],
                vec![0x7f, 0, 0x41, 0, 0x0b],
                vec![0x7f, 1, 0x41, 0, 0x0b],
            ]),
        ),
        section(7, &vector(&exports)),
        section(10, &vector(&code)),
    ]
    .concat()
}

/// Pieces repeated within all bounds: as many in a function as its bounds let pass, and as many such
/// functions as the module's.
struct Fill {
    params: usize,
    locals: u64,
    before: Vec<u8>,
    piece: Vec<u8>,
    after: Vec<u8>,
    most: u64,
}

impl Fill {
    /// Repeats `piece`, which leaves nothing on the stack; local 0 is a parameter whose last value is used.
    fn of(piece: &[u8]) -> Self {
        Self {
            params: 1,
            locals: 0,
            before: vec![],
            piece: piece.to_vec(),
            after: vec![0x20, 0, 0x24, 2],
            most: u64::MAX,
        }
    }

    fn locals(mut self, locals: u64) -> Self {
        self.locals = locals;
        self
    }

    fn around(mut self, before: &[u8], after: &[u8]) -> Self {
        self.before = before.to_vec();
        self.after.splice(0..0, after.iter().copied());
        self
    }

    fn most(mut self, most: u64) -> Self {
        self.most = most;
        self
    }

    fn make(&self, times: u64, functions: u64) -> Vec<u8> {
        let body = [self.before.clone(), self.piece.repeat(times as usize), self.after.clone()].concat();
        module(self.params, self.locals, &vec![body; functions as usize])
    }

    /// Searches for the largest counts that are still admitted.
    fn module(&self) -> Vec<u8> {
        let largest = |ok: &dyn Fn(u64) -> bool, most: u64| {
            let (mut low, mut high) = (1, most + 1);
            while low + 1 < high {
                let mid = low.midpoint(high);
                if ok(mid) { low = mid } else { high = mid }
            }
            low
        };
        let times = largest(&|n| admit(&self.make(n, 1)).is_ok(), self.most.min(bounds::BODY));
        let functions = largest(&|n| admit(&self.make(times, n)).is_ok(), bounds::FUNCTIONS);
        self.make(times, functions)
    }
}

fn nasty() -> Vec<(&'static str, Vec<u8>)> {
    let mut list = Vec::new();
    let mut add = |name, fill: Fill| list.push((name, fill.module()));
    add("many small functions", Fill::of(&[0x20, 0, 0x10, 0]).most(1));
    add("chained loads", Fill::of(&[0x20, 0, 0x28, 2, 0, 0x21, 0]));
    add("64-bit stores", Fill::of(&[0x20, 0, 0x42, 1, 0x37, 3, 0]));
    add("memory.copy", Fill::of(&[0x20, 0, 0x20, 0, 0x20, 0, 0xfc, 10, 0, 0]));
    add("memory.fill", Fill::of(&[0x20, 0, 0x20, 0, 0x20, 0, 0xfc, 11, 0]));
    add("calls", Fill::of(&[0x20, 0, 0x10, 0]));
    add("indirect calls", Fill::of(&[0x20, 0, 0x20, 0, 0x11, 0, 0]));
    add("indirect calls with results", Fill::of(&[0x20, 0, 0x20, 0, 0x11, 1, 0, 0x21, 0]));
    add("memory.grow", Fill::of(&[0x20, 0, 0x40, 0, 0x21, 0]));
    add("memory.size", Fill::of(&[0x3f, 0, 0x20, 0, 0x6a, 0x21, 0]));
    add("globals", Fill::of(&[0x23, 2, 0x20, 0, 0x6a, 0x24, 2]));
    add("additions", Fill::of(&[0x20, 0, 0x41, 3, 0x6a, 0x21, 0]));
    add("divisions", Fill::of(&[0x20, 0, 0x20, 0, 0x6d, 0x21, 0]));
    add("64-bit remainders", Fill::of(&[0x20, 0, 0xad, 0x20, 0, 0xad, 0x82, 0xa7, 0x21, 0]));
    add("popcount, rotations", Fill::of(&[0x20, 0, 0x69, 0x20, 0, 0x77, 0x21, 0]));
    add("saturating conversions", Fill::of(&[0x20, 0, 0xb7, 0xfc, 2, 0x21, 0]));
    add("64-bit unsigned conversions", Fill::of(&[0x20, 0, 0xb8, 0xfc, 7, 0xba, 0xfc, 3, 0x21, 0]));
    add("trapping conversions", Fill::of(&[0x20, 0, 0xb7, 0xaa, 0x21, 0]));
    add("roots and rounding", Fill::of(&[0x20, 0, 0xb7, 0x9f, 0x9e, 0x9b, 0xfc, 2, 0x21, 0]));
    add("selects", Fill::of(&[0x20, 0, 0x41, 5, 0x20, 0, 0x1b, 0x21, 0]));
    add("traps", Fill::of(&[0x20, 0, 0x04, 0x40, 0, 0x0b]));
    add("early returns", Fill::of(&[0x20, 0, 0x04, 0x40, 0x0f, 0x0b]));
    add("ifs with results", Fill::of(&[0x20, 0, 0x04, 0x7f, 0x20, 0, 0x05, 0x41, 1, 0x0b, 0x21, 0]));
    add("loops one after the other", Fill::of(&[0x03, 0x40, 0x20, 0, 0x0d, 0, 0x0b]));
    // Many values at once, which all live to the end.
    let deep = 1500;
    add(
        "values on the stack",
        Fill::of(&[0x20, 0, 0x28, 2, 0])
            .most(1)
            .around(&[0x20, 0, 0x69].repeat(deep), &[&[0x6a; 1500][..], &[0x21, 0]].concat()),
    );
    // Each local is set in the arm of a condition: a value that joins after every one of them.
    for (plain, looped, locals) in [
        ("conditions over 30 locals", "the same in a loop (30)", 30u8),
        ("conditions over 120 locals", "the same in a loop (120)", 120),
    ] {
        let piece: Vec<u8> = (0..locals)
            .flat_map(|i| {
                let j = ((u16::from(i) * 7 + 3) % u16::from(locals)) as u8;
                [0x20, i, 0x04, 0x40, 0x20, j, 0x41, 1, 0x6a, 0x21, j, 0x0b]
            })
            .collect();
        add(plain, Fill::of(&piece).locals(locals.into()));
        add(looped, Fill::of(&piece).locals(locals.into()).around(&[0x03, 0x40], &[0x20, 0, 0x0d, 0, 0x0b]));
    }
    let depth = bounds::DEPTH as usize - 2;
    let close = [0x20, 0, 0x0d, 0, 0x0b].repeat(depth);
    add(
        "nested blocks",
        Fill::of(&[0x01]).most(1).around(&[0x02, 0x40].repeat(depth), &[0x0b].repeat(depth)),
    );
    add("nested loops", Fill::of(&[0x01]).most(1).around(&[0x03, 0x40].repeat(depth), &close));
    let sets: Vec<u8> = (0..100u8).flat_map(|i| [0x20, i, 0x41, 1, 0x6a, 0x21, (i + 1) % 100]).collect();
    add(
        "nested loops over 100 locals",
        Fill::of(&sets).locals(99).most(1).around(&[0x03, 0x40].repeat(depth), &close),
    );
    let piece = [&[0x03, 0x40][..], &sets, &[0x20, 0, 0x0d, 0, 0x0b]].concat();
    add("loops over 100 locals", Fill::of(&piece).locals(99));
    let table = |targets: u64| {
        let labels: Vec<u8> = (0..targets).map(|i| (i % 100) as u8).collect();
        [vec![0x20, 0, 0x0e], leb(targets), labels, vec![0]].concat()
    };
    let big = table(bounds::BRANCH_TABLE);
    add(
        "branch tables",
        Fill::of(&[0x01]).most(1).around(&[&[0x02, 0x40].repeat(100)[..], &big].concat(), &[0x0b; 100]),
    );
    let arms = [0x0b, 0x20, 1, 0x41, 1, 0x6a, 0x21, 2].repeat(100);
    add(
        "branch tables over 200 locals",
        Fill::of(&[0x01]).locals(200).most(1).around(&[&[0x02, 0x40].repeat(100)[..], &big].concat(), &arms),
    );
    let one = [&[0x02, 0x40].repeat(100)[..], &table(100), &[0x0b; 100]].concat();
    add("several branch tables", Fill::of(&one));
    list
}

#[test]
fn the_worst_module_compiles_in_time_and_heap() {
    let mut over = Vec::new();
    // Fuel adds code to every block, epochs to every loop and function; the worse one counts.
    let nasty = nasty();
    for metering in [Metering::Epoch, Metering::Fuel] {
        let engine = Engine::new(metering).unwrap();
        println!(
            "\n{:<42} {:>8} {:>9} {:>9} {:>9} {:>9}",
            format!("{metering:?}"),
            "bytes",
            "admit ms",
            "total ms",
            "heap KiB",
            "code KiB"
        );
        for (name, module) in &nasty {
            let bytes: Arc<[u8]> = module.as_slice().into();
            let start = Instant::now();
            admit(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            let admitted = start.elapsed();
            let hash = PartHash::of(&bytes);
            let work = Work::Compile { engine: engine.clone(), hash, module: bytes.clone() };
            let job = Job::new(JobId(0), work);
            HEAP.reset_peak_usage();
            let base = HEAP.current_usage();
            // On a small stack: the platform's compiling thread has no more.
            let thread = std::thread::Builder::new().stack_size(1 << 20);
            let (done, time) = thread.spawn(move || (job.run(), processor_time())).unwrap().join().unwrap();
            let heap = HEAP.peak_usage() - base;
            let Done::Compiled(result) = done.result else { panic!("{name}") };
            let code = result.unwrap_or_else(|e| panic!("{name}: {e}"));
            println!(
                "{name:<42} {:>8} {:>9.1} {:>9.1} {:>9} {:>9}",
                bytes.len(),
                admitted.as_secs_f64() * 1e3,
                time.as_secs_f64() * 1e3,
                heap >> 10,
                code.size() >> 10
            );
            if time >= TIME || heap >= MEMORY {
                over.push(*name);
            }
        }
    }
    assert!(over.is_empty(), "over {TIME:?} or {MEMORY} bytes: {over:?}");
}
