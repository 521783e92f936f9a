//! The built modules are what `docs/abi` admits.

mod common;

use std::collections::BTreeMap;

use common::module;
use wasmparser::{
    CompositeInnerType, ExternalKind, Operator, Parser, Payload, TypeRef, ValType, Validator, WasmFeatures,
};

/// All protocols, or the one that `BEES_MODULE` names: `cargo xtask protocol build` checks people's own.
fn names() -> Vec<String> {
    match std::env::var("BEES_MODULE") {
        Ok(name) => vec![name],
        Err(_) => SHIPPED.map(String::from).into(),
    }
}

/// What is shipped.
const SHIPPED: [&str; 11] = [
    "hello",
    "ping",
    "probe",
    "pathfinder",
    "health",
    "multicast",
    "http",
    "benchmark",
    "telemetry",
    "template",
    "echo",
];

const PAGE: &str = include_str!("../../../docs/abi/README.md");

/// Rows of the table under a heading of the page.
fn rows(heading: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let section = PAGE.split(heading).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|l| l.starts_with('|')).skip(2);
    rows.map(|l| l.trim_matches('|').split('|').map(|c| c.trim().trim_matches('`')).collect())
}

/// What the page says of each import: parameters and result.
fn imports() -> BTreeMap<&'static str, (Vec<ValType>, ValType)> {
    let ty = |text: &str| if text.contains("i64") { ValType::I64 } else { ValType::I32 };
    let row = |r: Vec<&'static str>| {
        let params = r[1].split(',').filter(|p| *p != "-").map(ty).collect();
        (r[0], (params, ty(if r[2].starts_with("i64") { "i64" } else { "" })))
    };
    rows("## Functions").map(row).collect()
}

/// What the page says of each handler: parameters and whether it has a result.
fn handlers() -> BTreeMap<&'static str, (Vec<ValType>, bool)> {
    let row = |r: Vec<&'static str>| {
        let (params, rest) = r[1].split_once(')')?;
        let params = params.trim_matches(['`', '(']).split(',').filter(|p| !p.is_empty());
        let ty = |p: &str| if p.contains("i64") { ValType::I64 } else { ValType::I32 };
        Some((r[0], (params.map(ty).collect(), rest.contains("->"))))
    };
    rows("## Exports").filter(|r| r[0].starts_with("on_")).filter_map(row).collect()
}

#[test]
fn they_are_plain_webassembly_with_one_page() {
    let features = WasmFeatures::WASM1
        | WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::SATURATING_FLOAT_TO_INT;
    for name in names() {
        let Some(bytes) = module(&name) else { continue };
        Validator::new_with_features(features).validate_all(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut memories = vec![];
        for payload in Parser::new(0).parse_all(&bytes) {
            match payload.unwrap() {
                Payload::StartSection { .. } => panic!("{name} has a start function"),
                Payload::MemorySection(s) => memories.extend(s.into_iter().map(Result::unwrap)),
                Payload::TableSection(s) => {
                    for table in s {
                        let ty = table.unwrap().ty;
                        assert_eq!(Some(ty.initial), ty.maximum, "{name}: the table cannot grow");
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    for op in body.get_operators_reader().unwrap() {
                        assert!(
                            !matches!(op.unwrap(), Operator::MemoryGrow { .. }),
                            "{name} grows its memory"
                        );
                    }
                }
                Payload::CustomSection(s) => assert_eq!(s.name(), "bees", "{name}"),
                _ => {}
            }
        }
        let [memory] = memories[..] else { panic!("{name} has {} memories", memories.len()) };
        assert_eq!((memory.initial, memory.maximum), (1, Some(1)), "{name}");
        assert!(bytes.len() < 32 * 1024, "{name}: {} bytes", bytes.len());
    }
}

#[test]
fn imports_and_exports_fit_the_page() {
    let (imports, handlers) = (imports(), handlers());
    assert!(imports.len() > 30 && handlers.len() > 5);
    for name in names() {
        let Some(bytes) = module(&name) else { continue };
        let (mut types, mut functions, mut exports) = (vec![], vec![], BTreeMap::new());
        let mut globals = vec![];
        for payload in Parser::new(0).parse_all(&bytes) {
            match payload.unwrap() {
                Payload::TypeSection(s) => {
                    for ty in s.into_iter().flat_map(|group| group.unwrap().into_types()) {
                        let CompositeInnerType::Func(f) = ty.composite_type.inner else { panic!() };
                        types.push((f.params().to_vec(), f.results().to_vec()));
                    }
                }
                Payload::ImportSection(s) => {
                    for import in s.into_imports() {
                        let import = import.unwrap();
                        let TypeRef::Func(at) = import.ty else { panic!("{name} imports {}", import.name) };
                        assert_eq!(import.module, "bees");
                        let (params, result) = imports.get(import.name).expect(import.name);
                        assert_eq!(&types[at as usize].0, params, "{name}: {}", import.name);
                        assert_eq!(types[at as usize].1, [*result], "{name}: {}", import.name);
                        functions.push(at);
                    }
                }
                Payload::FunctionSection(s) => functions.extend(s.into_iter().map(Result::unwrap)),
                Payload::GlobalSection(s) => globals.extend(s.into_iter().map(|g| g.unwrap().ty)),
                Payload::ExportSection(s) => {
                    for export in s {
                        let export = export.unwrap();
                        exports.insert(export.name, (export.kind, export.index as usize));
                    }
                }
                _ => {}
            }
        }
        assert_eq!(exports["memory"].0, ExternalKind::Memory);
        let (kind, marker) = exports["bees_abi_1"];
        assert_eq!(kind, ExternalKind::Func);
        assert_eq!(types[functions[marker] as usize], (vec![], vec![]));
        let (kind, inbox) = exports["bees_inbox"];
        assert_eq!(kind, ExternalKind::Global);
        assert!(globals[inbox].content_type == ValType::I32 && !globals[inbox].mutable, "{name}");
        let mut found = 0;
        for (export, (_, at)) in exports.iter().filter(|e| e.0.starts_with("on_")) {
            let (params, result) = handlers.get(export).unwrap_or_else(|| panic!("{name}: {export}"));
            let (p, r) = &types[functions[*at] as usize];
            assert_eq!((p, r.len()), (params, usize::from(*result)), "{name}: {export}");
            found += 1;
        }
        assert!(found >= 1, "{name} has no handler");
    }
}

#[test]
fn descriptions_are_read_by_wire() {
    for name in names() {
        let Some(bytes) = module(&name) else { continue };
        let section = Parser::new(0).parse_all(&bytes).find_map(|payload| match payload.unwrap() {
            Payload::CustomSection(s) if s.name() == "bees" => Some(s.data().to_vec()),
            _ => None,
        });
        let d = wire::describe::Description::decode(&section.expect(&name)).unwrap();
        assert_eq!(d.name, name);
        let types: Vec<_> = d.capsules.iter().map(|c| (c.limits, c.derives.clone())).collect();
        let graph: Vec<_> =
            types.iter().map(|(limits, into)| wire::limits::Derivation { limits: *limits, into }).collect();
        let worst = wire::limits::worst_case(&graph, None).expect("no cycle of derivations");
        let most = worst.into_iter().max().unwrap_or(0);
        let stated = match name.as_str() {
            "hello" => 6,
            "ping" => 3,
            "probe" | "telemetry" | "echo" => 2,
            "health" => 0,
            "multicast" => 18,
            "http" => 96,
            "benchmark" => 130,
            "template" | "pathfinder" => 1,
            _ => continue,
        };
        // What health sends its companion carries.
        assert!(d.session && d.capsules.is_empty() == (name == "health"));
        assert_eq!(most, stated, "{name}'s README states this");
    }
}
