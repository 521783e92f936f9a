//! Modules that were changed at random: they are refused by name or they run within their bounds; nothing
//! panics and the engine never refuses what admission let pass.

use std::sync::LazyLock;

use ee::admit::{Refusal, admit, bounds};
use ee::engine::CompileError;
use ee::job::{Done, Job, JobId, Work};
use ee::{Engine, Metering};
use proptest::prelude::*;
use wire::id::PartHash;

const MODULE: &str = r#"(module
    (import "bees" "capsule_send" (func $send (param i32 i32 i32) (result i32)))
    (import "bees" "log" (func $log (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1 2)
    (table 2 2 funcref)
    (elem (i32.const 0) $f $g)
    (global (export "bees_abi") i32 (i32.const 1))
    (global (export "bees_inbox") i32 (i32.const 16))
    (global $n (mut i64) (i64.const 7))
    (data (i32.const 128) "some data")
    (func $f (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
    (func $g (param i32) (result i32) (i32.div_u (i32.const 100) (local.get 0)))
    (func (export "on_boot") (param $c i32) (local $i i32)
        (block $out (loop $again
            (br_if $out (i32.gt_u (local.get $i) (i32.const 9)))
            (local.set $i (call_indirect (param i32) (result i32) (local.get $i) (i32.const 0)))
            (global.set $n (i64.mul (global.get $n) (i64.extend_i32_u (local.get $i))))
            (br $again)))
        (drop (call $log (i32.const 2) (i32.const 128) (i32.const 9))))
    (func (export "on_stop")))"#;

static VALID: LazyLock<Vec<u8>> = LazyLock::new(|| wat::parse_str(MODULE).unwrap());
static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(Metering::Fuel).unwrap());

fn refusal(text: &str) -> Refusal {
    let module = wat::parse_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    admit(&module).expect_err(text)
}

/// A module with the needed exports and `more`.
fn with(more: &str) -> String {
    format!(
        r#"(module {more} (memory (export "memory") 1 2)
            (global (export "bees_abi") i32 (i32.const 1)) (global (export "bees_inbox") i32 (i32.const 0)))"#
    )
}

#[test]
fn what_is_not_admitted_is_named() {
    assert_eq!(admit(&VALID).map(|a| (a.inbox, a.functions)), Ok((16, 4)));
    let import = |text: &str| match refusal(&with(text)) {
        Refusal::Import { name, .. } => name,
        other => panic!("{other}"),
    };
    assert_eq!(import(r#"(import "env" "log" (func))"#), "env.log");
    assert_eq!(import(r#"(import "bees" "reboot" (func))"#), "bees.reboot");
    assert_eq!(import(r#"(import "bees" "log" (func (param i32)))"#), "bees.log");
    assert_eq!(import(r#"(import "bees" "log" (global i32))"#), "bees.log");
    let export = |text: &str| match refusal(text) {
        Refusal::Export { name, .. } => name,
        other => panic!("{other}"),
    };
    assert_eq!(export("(module)"), "memory");
    assert_eq!(export(&with("(func (export \"on_boot\"))")), "on_boot");
    assert_eq!(export(&with("(func (export \"on_reboot\"))")), "on_reboot");
    assert_eq!(export(&with("(func (export \"bees_abi_2\"))")), "bees_abi_2");
    let memory = "(module (memory (export \"memory\") 1 2)";
    let inbox = "(global (export \"bees_inbox\") i32 (i32.const 65473))";
    assert_eq!(export(&format!("{memory})")), "bees_abi");
    assert_eq!(export(&format!("{memory} (global (export \"bees_abi\") i32 (i32.const 2)))")), "bees_abi");
    assert_eq!(
        export(&format!("{memory} (global (export \"bees_abi\") (mut i32) (i32.const 1)))")),
        "bees_abi"
    );
    assert_eq!(export(&format!("{memory} (func (export \"bees_abi_1\")) {inbox})")), "bees_inbox");
    assert_eq!(refusal(&with("(func $s) (start $s)")), Refusal::Has("a start function"));
    assert_eq!(
        refusal("(module (memory (export \"memory\") 1))"),
        Refusal::Has("a memory without a maximum")
    );
}

#[test]
fn features_that_are_not_listed_are_refused() {
    for text in [
        "(func (param v128))",
        "(func (drop (i32.atomic.load (i32.const 0))))",
        "(func $f (return_call $f))",
        "(memory 1 2)",
        "(func (param externref))",
        "(func (result funcref) (ref.null func))",
        "(tag)",
        "(type (struct))",
        "(global i32 (i32.add (i32.const 1) (i32.const 2)))",
        "(func (param i64) (i64.add128 (local.get 0) (local.get 0) (local.get 0) (local.get 0)) (drop) (drop))",
        "(data \"passive\") (func (data.drop 0))",
        "(table 1 funcref) (func (drop (table.grow (ref.null func) (i32.const 1))))",
    ] {
        let refused = refusal(&with(text));
        assert!(matches!(refused, Refusal::Invalid { .. } | Refusal::Has(_)), "{text}: {refused}");
    }
    for text in [
        "(func (drop (i32.extend8_s (i32.const 1))))",
        "(func (drop (i32.trunc_sat_f64_s (f64.const 1))))",
        "(func (memory.copy (i32.const 0) (i32.const 0) (i32.const 0)) (memory.fill (i32.const 0) (i32.const 0) (i32.const 0)))",
        "(func (result i32 i32) (i32.const 0) (i32.const 1))",
        "(global (mut i32) (i32.const 0))",
    ] {
        let module = wat::parse_str(with(text)).unwrap();
        assert!(admit(&module).is_ok(), "{text}");
    }
}

#[test]
fn every_bound_is_kept() {
    let bound = |text: &str| match refusal(&with(text)) {
        Refusal::Bound { what, .. } => what,
        other => panic!("{other}"),
    };
    let n = |piece: &str, times: u64| piece.repeat(times as usize);
    assert_eq!(bound(&format!("(data (i32.const 0) \"{}\")", n("x", bounds::MODULE))), "bytes");
    assert_eq!(bound(&n("(func)", bounds::FUNCTIONS + 1)), "functions");
    assert_eq!(bound(&format!("(func {})", n("nop ", bounds::BODY))), "bytes of a function");
    assert_eq!(bound(&format!("(func (local {}))", n("i32 ", bounds::LOCALS + 1))), "locals");
    assert_eq!(bound(&format!("(func (param {}))", n("i32 ", bounds::ARITY + 1))), "parameters");
    assert_eq!(
        bound(&format!("(func {} {})", n("block ", bounds::DEPTH), n("end ", bounds::DEPTH))),
        "nested blocks"
    );
    assert_eq!(bound(&format!("(func {})", n("block end ", bounds::BLOCKS))), "blocks");
    assert_eq!(
        bound(&format!("(func (local {}) {})", n("i32 ", 200), n("block end ", 1000))),
        "locals times blocks"
    );
    assert_eq!(bound(&format!("(table {} funcref)", bounds::ELEMENTS + 1)), "table elements");
    assert_eq!(bound("(table 1 1 funcref) (table 1 1 funcref)"), "tables");
    assert_eq!(bound(&n("(global i32 (i32.const 0))", bounds::GLOBALS)), "globals");
    assert_eq!(bound(&n("(data (i32.const 0) \"\")", bounds::DATA_SEGMENTS + 1)), "data segments");
    let many: String = (0..bounds::TYPES + 1)
        .map(|i| format!("(type (func (param {})))", ["i32 ", "i64 "][i as usize % 2]))
        .collect();
    assert_eq!(bound(&many), "types");
    let table = format!("(func (br_table {} (i32.const 0)))", n("0 ", bounds::BRANCH_TABLE + 2));
    assert_eq!(bound(&table), "targets of a branch table");
    let heavy = n("i32.const 0 i32.load drop ", bounds::FUNCTION_WEIGHT / 10 + 1);
    assert_eq!(bound(&format!("(func {heavy})")), "units of work for the compiler");
    let heavy = n("i32.const 0 i32.load drop ", 1000);
    assert_eq!(bound(&n(&format!("(func {heavy})"), 20)), "units of work for the compiler in all");
    assert_eq!(bound(&format!("(memory 1 {})", bounds::PAGES + 1)), "pages of memory");
}

fn mutate(module: &mut Vec<u8>, edits: &[(u8, prop::sample::Index, u8)]) {
    for (what, at, byte) in edits {
        if module.is_empty() {
            return;
        }
        let at = at.index(module.len());
        match what {
            0..=3 => module[at] ^= 1 << (byte % 8),
            4 | 5 => module[at] = *byte,
            6 => module.insert(at, *byte),
            7 => drop(module.remove(at)),
            _ => module.truncate(at),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_modules_are_refused_or_compile(
        edits in prop::collection::vec((0u8..9, any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let mut module = VALID.clone();
        mutate(&mut module, &edits);
        if admit(&module).is_ok() {
            let work = Work::Compile { engine: ENGINE.clone(), hash: PartHash::of(&module), module: module.into() };
            let Done::Compiled(result) = Job::new(JobId(0), work).run().result else { panic!() };
            let engine_erred = matches!(result, Err(CompileError::Engine(_)));
            prop_assert!(!engine_erred, "{:?}", result);
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), header in any::<bool>()) {
        let mut module = if header { b"\0asm\x01\0\0\0".to_vec() } else { vec![] };
        module.extend(bytes);
        prop_assert!(admit(&module).is_err());
    }
}
