//! The worst modules that admission lets pass, compiled and measured: the bounds in `ee::admit::bounds`
//! are chosen by this, and `docs/abi/bounds.md` states what it prints.
//!
//! `cargo test -p ee --release --test worst -- --nocapture` shows the table.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ee::admit::{admit, bounds};
use ee::job::{Done, Job, JobId, Work};
use ee::{Engine, Metering};
use wire::id::PartHash;

/// The system's allocator, which also counts.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// Safety: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(used, Relaxed);
        // Safety: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Relaxed);
        // Safety: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the worst admitted module may take, natively.
const TIME: Duration = Duration::from_secs(2);
const HEAP: usize = 32 << 20;

/// What this thread has used of a processor, whoever else is at work on the machine.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says how long a thread ran");
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
        section(6, &vector(&[vec![0x7f, 0, 0x41, 1, 0x0b], vec![0x7f, 0, 0x41, 0, 0x0b], vec![0x7f, 1, 0x41, 0, 0x0b]])),
        section(7, &vector(&exports)),
        section(10, &vector(&code)),
    ]
    .concat()
}

/// As many copies of `body` as the bounds on functions and module bytes let pass.
fn fill(params: usize, locals: u64, body: &[u8]) -> Vec<u8> {
    let each = body.len() as u64 + 12;
    let count = ((bounds::MODULE - 1024) / each).min(bounds::FUNCTIONS) as usize;
    module(params, locals, &vec![body.to_vec(); count])
}

/// `piece` repeated up to the bound on one body.
fn body(piece: &[u8]) -> Vec<u8> {
    piece.repeat((bounds::BODY as usize - 64) / piece.len())
}

fn repeated(piece: &[u8], times: u64) -> Vec<u8> {
    let times = times.min((bounds::BODY - 64) / piece.len() as u64);
    piece.repeat(times as usize)
}

fn nasty() -> Vec<(&'static str, Vec<u8>)> {
    let mut list = Vec::new();
    let mut add = |name, module| list.push((name, module));
    add("many empty functions", fill(0, 0, &[]));
    add("small functions that call each other", fill(0, 0, &[0x10, 0, 0x10, 1, 0x10, 2]));
    // i32.const 0; i32.load: each load is a bounds check.
    add("loads", fill(0, 0, &body(&[0x41, 0, 0x28, 2, 0, 0x1a])));
    add("chained loads", fill(1, 0, &body(&[0x20, 0, 0x28, 2, 0, 0x21, 0])));
    add("64-bit stores", fill(1, 0, &body(&[0x20, 0, 0x42, 1, 0x37, 3, 0])));
    add("bytes copied with memory.copy", fill(1, 0, &body(&[0x20, 0, 0x20, 0, 0x20, 0, 0xfc, 10, 0, 0])));
    add("calls", fill(0, 0, &body(&[0x10, 0])));
    add("indirect calls", fill(1, 0, &body(&[0x20, 0, 0x41, 0, 0x11, 0, 0])));
    add("memory.grow", fill(0, 0, &body(&[0x41, 0, 0x40, 0, 0x1a])));
    add("globals", fill(0, 0, &body(&[0x23, 2, 0x24, 2])));
    add("divisions", fill(1, 0, &body(&[0x20, 0, 0x20, 0, 0x6d, 0x21, 0])));
    add("popcount and rotations", fill(1, 0, &body(&[0x20, 0, 0x69, 0x20, 0, 0x77, 0x21, 0])));
    add("conversions to integers", fill(1, 0, &body(&[0x20, 0, 0xb7, 0xfc, 2, 0x21, 0])));
    add("trapping conversions", fill(1, 0, &body(&[0x20, 0, 0xb7, 0xaa, 0x21, 0])));
    add("floats", fill(1, 0, &body(&[0x20, 0, 0xb7, 0x9c, 0x9f, 0xfc, 6, 0xa7, 0x21, 0])));
    // One value on the stack for each constant, all added at the end: long live ranges.
    let deep = [repeated(&[0x20, 0], 6000), vec![0x6a; 5999.min((bounds::BODY as usize - 64) / 2 - 1)], vec![0x1a]].concat();
    add("values on the stack", fill(1, 0, &deep[..deep.len().min(bounds::BODY as usize - 64)].to_vec()));
    for (name, locals) in [("conditions with 32 locals", 32u64), ("conditions with 200 locals", 200)] {
        let blocks = (bounds::LOCALS_BY_BLOCKS / (locals + 1)).min(bounds::BLOCKS) - 2;
        // local.get a; if; local.get b; i32.const 1; i32.add; local.set b; end
        let piece: Vec<u8> = (0..blocks)
            .flat_map(|i| {
                let (a, b) = (leb(i % (locals + 1)), leb((i * 7 + 3) % (locals + 1)));
                [vec![0x20], a, vec![0x04, 0x40, 0x20], b.clone(), vec![0x41, 1, 0x6a, 0x21], b, vec![0x0b]].concat()
            })
            .collect();
        let cut = piece.len() <= bounds::BODY as usize - 64;
        if cut {
            add(name, fill(1, locals, &piece));
        }
        // The same inside a loop: every local is a value that goes round.
        let around = [vec![0x03, 0x40], piece, vec![0x20, 0, 0x0d, 0, 0x0b]].concat();
        if around.len() <= bounds::BODY as usize - 64 {
            add(if locals == 32 { "the same in a loop, 32" } else { "the same in a loop, 200" }, fill(1, locals, &around));
        }
    }
    let nested = |open: &[u8], inner: &[u8], close: &[u8]| {
        let depth = bounds::DEPTH as usize - 2;
        [open.repeat(depth), inner.to_vec(), close.repeat(depth)].concat()
    };
    add("nested blocks", fill(1, 0, &nested(&[0x02, 0x40], &[], &[0x0b])));
    add("nested loops", fill(1, 0, &nested(&[0x03, 0x40], &[], &[0x20, 0, 0x0d, 0, 0x0b])));
    let sets: Vec<u8> = (0..100u8).flat_map(|i| [0x20, i, 0x41, 1, 0x6a, 0x21, (i + 1) % 100]).collect();
    add("nested loops over 100 locals", fill(1, 99, &nested(&[0x03, 0x40], &sets, &[0x20, 0, 0x0d, 0, 0x0b])));
    // Loops one after the other, each of which uses all locals.
    let piece = [vec![0x03, 0x40], sets.clone(), vec![0x20, 0, 0x0d, 0, 0x0b]].concat();
    add("loops over 100 locals", fill(1, 99, &body(&piece)));
    // br_table with as many targets as there may be, to 100 nested blocks.
    let table = |targets: u64| {
        let labels: Vec<u8> = (0..targets).map(|i| (i % 100) as u8).collect();
        [vec![0x20, 0, 0x0e], leb(targets), labels, vec![0]].concat()
    };
    let big = [[0x02, 0x40].repeat(100), table(bounds::BRANCH_TABLE), vec![0x0b; 100]].concat();
    add("branch tables", fill(1, 0, &big));
    let over_locals = [[0x02, 0x40].repeat(100), table(bounds::BRANCH_TABLE), [&[0x0b][..], &[0x20, 1, 0x41, 1, 0x6a, 0x21, 2]].concat().repeat(100)].concat();
    add("branch tables over locals", fill(1, 200, &over_locals));
    let several = [[0x02, 0x40].repeat(100), [table(1024), vec![0x0b]].concat().repeat(4), vec![0x0b; 96]].concat();
    add("several branch tables", fill(1, 0, &several));
    // select and if with results
    add("selects", fill(1, 0, &body(&[0x20, 0, 0x20, 0, 0x20, 0, 0x1b, 0x21, 0])));
    let ifs = [0x20, 0, 0x04, 0x7f, 0x20, 0, 0x05, 0x41, 1, 0x0b, 0x21, 0];
    add("ifs with results", fill(1, 0, &repeated(&ifs, bounds::BLOCKS - 2)));
    let early = [0x20, 0, 0x04, 0x40, 0x0f, 0x0b];
    add("early returns", fill(1, 0, &repeated(&early, bounds::BLOCKS - 2)));
    list
}

#[test]
fn the_worst_module_compiles_in_time_and_heap() {
    let mut over = Vec::new();
    // Fuel adds code to every block, epochs to every loop and function; the worse one counts.
    for metering in [Metering::Epoch, Metering::Fuel] {
        let engine = Engine::new(metering).unwrap();
        println!("\n{:<42} {:>8} {:>9} {:>9} {:>9} {:>9}", format!("{metering:?}"), "bytes", "admit ms", "total ms", "heap KiB", "code KiB");
        for (name, module) in nasty() {
            let bytes: Arc<[u8]> = module.into();
            let start = Instant::now();
            admit(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            let admitted = start.elapsed();
            let hash = PartHash::of(&bytes);
            let work = Work::Compile { engine: engine.clone(), hash, module: bytes.clone() };
            let job = Job::new(JobId(0), work);
            let base = USED.load(Relaxed);
            PEAK.store(base, Relaxed);
            // On a small stack: the platform's compiling thread has no more.
            let thread = std::thread::Builder::new().stack_size(1 << 20);
            let (done, time) = thread.spawn(move || (job.run(), processor_time())).unwrap().join().unwrap();
            let heap = PEAK.load(Relaxed) - base;
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
            if time >= TIME || heap >= HEAP {
                over.push(name);
            }
        }
    }
    assert!(over.is_empty(), "over {TIME:?} or {HEAP} bytes: {over:?}");
}
