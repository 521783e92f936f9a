//! The control channel's server: bytes of a stranger, of one who shakes hands, and of one who logged in.
#![no_main]

use std::sync::{Arc, OnceLock};

use authagent::NoEntropy;
use authagent::access::LoginKeys;
use authagent::channel::{Client, ClientEvent, Gate, Server, ServerEvent};
use authagent::keys::{NodeIdentity, PublicKey, SigningKey};
use fuzz::{Sequence, pieces};
use libfuzzer_sys::fuzz_target;
use nodeos::platform::Entropy;
use wire::control::MAX_MESSAGE;

static ENTROPY: OnceLock<Sequence> = OnceLock::new();

fn entropy(out: &mut [u8]) -> Result<(), NoEntropy> {
    ENTROPY.get_or_init(Sequence::default).fill(out).map_err(|_| NoEntropy)
}

fn gate() -> Arc<Gate> {
    static GATE: OnceLock<Arc<Gate>> = OnceLock::new();
    let make = || {
        let admin = PublicKey::from(SigningKey::from_seed(&[2; 32]).public());
        let identity = NodeIdentity::new(SigningKey::from_seed(&[1; 32]), &entropy).expect("entropy");
        let principals = Box::new(move |name: &str, _| {
            let keys = vec![admin.clone()];
            if name == "admin" {
                LoginKeys { good: keys, decoys: vec![] }
            } else {
                LoginKeys { good: vec![], decoys: keys }
            }
        });
        Arc::new(Gate { node: "n".into(), identity, principals })
    };
    GATE.get_or_init(make).clone()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&stage, bytes)) = bytes.split_first() else { return };
    let mut server = Server::new(gate(), &entropy).expect("entropy");
    let key = Box::new(SigningKey::from_seed(&[2; 32]));
    let mut client = Client::new(None, "admin", key, &entropy).expect("entropy");
    let (mut heard, mut told): (Vec<ServerEvent>, Vec<ClientEvent>) = Default::default();
    // A real client goes so far; then the fuzzer's bytes follow.
    for _ in 0..stage % 3 {
        server.push(&client.take_output(), &mut heard).expect("an honest client");
        client.push(&server.take_output(), &mut told).expect("an honest server");
    }
    let logged_in = stage % 3 == 2;
    assert_eq!(!heard.is_empty(), logged_in);
    for (_, piece) in pieces(bytes) {
        let result = server.push(piece, &mut heard);
        assert!(server.take_output().len() <= 2 * (MAX_MESSAGE + 100));
        if result.is_err() {
            break;
        }
    }
    // Nobody logs in, or says a thing, without the key.
    assert_eq!(heard.len(), usize::from(logged_in));
    let _ = server.finish();
});
