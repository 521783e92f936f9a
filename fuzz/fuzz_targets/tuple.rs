//! Flow tuples: one encoding each, and everything that is computed from them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::limits::worst_case;
use wire::tuple::{Extension, MAX_LEN, MAX_PROTOCOLS, Tuple};

fuzz_target!(|bytes: &[u8]| {
    let Ok(tuple) = Tuple::decode(bytes) else { return };
    assert!(bytes.len() <= MAX_LEN);
    assert_eq!(tuple.encode(), bytes);
    assert_eq!(tuple.paths().len(), tuple.body.protocols.len());
    assert!(tuple.body.protocols.len() <= MAX_PROTOCOLS);
    assert!(!tuple.main().name.is_empty());
    let _ = tuple.parts();
    // What an extension says of budgets is in the request, and nowhere else.
    assert!(tuple.body.extensions.iter().all(|e| e.tag != Extension::BUDGETS));
    assert!(tuple.body.request.budgets.named().all(|(kind, bound)| bound <= kind.most()));
    for protocol in &tuple.body.protocols {
        let _ = worst_case(&protocol.derivations(), Some(64));
    }
});
