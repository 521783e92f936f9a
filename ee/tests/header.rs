//! `capsules/c/bees.h` declares what nodes link, no less and no more.

use std::collections::BTreeMap;

use ee::abi::{self, Ty};

const HEADER: &str = include_str!("../../capsules/c/bees.h");

fn ty(declaration: &str) -> Ty {
    let words = declaration.split_whitespace();
    match words.clone().any(|word| word == "int64_t") && !declaration.contains('*') {
        true => Ty::I64,
        false => Ty::I32,
    }
}

/// The parameters of `... name(a, b);`.
fn parameters(declaration: &str) -> Vec<Ty> {
    let list = declaration.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).expect("a list").0;
    if list == "void" { vec![] } else { list.split(',').map(ty).collect() }
}

/// Lines that begin with this macro: the name in it, and the declaration behind it.
fn declared(what: &str) -> BTreeMap<&'static str, &'static str> {
    let lines = HEADER.lines().filter_map(|line| line.strip_prefix(what)?.strip_prefix('('));
    lines.map(|line| line.split_once(") ").expect("a declaration")).collect()
}

#[test]
fn the_header_declares_the_imports() {
    let declared = declared("BEES_IMPORT");
    assert_eq!(declared.len(), abi::IMPORTS.len());
    for import in abi::IMPORTS {
        let declaration = declared.get(import.name).unwrap_or_else(|| panic!("no {}", import.name));
        let (result, rest) = declaration.split_once(' ').unwrap();
        assert!(rest.starts_with(&format!("bees_{}(", import.name)), "{declaration}");
        let (function, _) = rest.split_once(';').unwrap();
        assert_eq!(
            (&parameters(function)[..], &[ty(result)][..]),
            (import.params, import.results),
            "{declaration}"
        );
    }
}

#[test]
fn the_header_declares_the_handlers() {
    let declared = declared("BEES_EXPORT");
    let handlers: Vec<_> = abi::HANDLERS.iter().collect();
    assert_eq!(declared.len(), handlers.len());
    for handler in handlers {
        let declaration = declared.get(handler.name).unwrap_or_else(|| panic!("no {}", handler.name));
        let (result, function) = declaration.split_once(' ').unwrap();
        assert_eq!(parameters(function.trim_end_matches(';')), handler.params, "{declaration}");
        assert_eq!(result != "void", !handler.results.is_empty(), "{declaration}");
    }
}
