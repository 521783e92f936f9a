//! The graph of derivations: its worst case ends, whatever the graph.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::limits::{Derivation, Limits, MAX_DEPTH, Operation, worst_case};
use wire::tuple::MAX_CAPSULE_TYPES;

fuzz_target!(|bytes: &[u8]| {
    let Some((&depth, bytes)) = bytes.split_first() else { return };
    let types: Vec<(Limits, Vec<u8>)> = bytes
        .chunks_exact(12)
        .take(MAX_CAPSULE_TYPES)
        .map(|piece| {
            let count = |i: usize| u16::from_le_bytes([piece[2 * i], piece[2 * i + 1]]);
            let limits = (0..).zip(Operation::ALL).fold(Limits::NONE, |l, (i, op)| l.with(op, count(i)));
            let known = bytes.len() / 12;
            (
                limits,
                piece[8..].iter().map(|b| (usize::from(*b) % known.min(MAX_CAPSULE_TYPES)) as u8).collect(),
            )
        })
        .collect();
    let graph: Vec<Derivation<'_>> =
        types.iter().map(|(limits, into)| Derivation { limits: *limits, into }).collect();
    let depth = (depth > 0).then_some(u32::from(depth) % (MAX_DEPTH as u32 + 1));
    match worst_case(&graph, depth) {
        Ok(worst) => assert_eq!(worst.len(), graph.len()),
        Err(kind) => assert!(kind < graph.len() && depth.is_none()),
    }
});
