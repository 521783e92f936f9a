//! Both ends of the control channel against each other, and against whoever sits in between.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use authagent::access::LoginKeys;
use authagent::channel::{ChannelError, Client, ClientEvent, Gate, LoginFault, Server, ServerEvent};
use authagent::keys::{NodeIdentity, PublicKey, Signer, SigningKey};
use authagent::{Entropy, NoEntropy};
use proptest::prelude::*;
use wire::control::{Erred, MAX_MESSAGE};
use wire::tuple::Scheme;

/// Random enough for a test, and the same every time.
struct Random(Cell<u64>);

impl Entropy for Random {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        for byte in out {
            let next = self.0.get().wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            self.0.set(next);
            *byte = (next >> 56) as u8;
        }
        Ok(())
    }
}

fn random(seed: u64) -> Random {
    Random(Cell::new(seed))
}

fn admin() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

fn node_key() -> SigningKey {
    SigningKey::from_seed(&[2; 32])
}

fn gate() -> Arc<Gate> {
    let key = PublicKey::from(admin().public());
    Arc::new(Gate {
        node: "a".into(),
        identity: NodeIdentity::new(node_key(), &random(3)).unwrap(),
        principals: Box::new(move |name, scheme| {
            let known = name == "admin" && scheme == Scheme::Ed25519;
            let (good, decoys) = if known { (1, 0) } else { (0, 1) };
            LoginKeys { good: vec![key.clone(); good], decoys: vec![key.clone(); decoys] }
        }),
    })
}

fn server() -> Server {
    Server::new(gate(), &random(4)).unwrap()
}

fn client_as(principal: &str, key: SigningKey) -> Client {
    Client::new(Some(node_key().public()), principal, Box::new(key), &random(5)).unwrap()
}

fn client() -> Client {
    client_as("admin", admin())
}

/// What came of a conversation at each end.
#[derive(Debug, Default)]
struct Outcome {
    server: Vec<ServerEvent>,
    client: Vec<ClientEvent>,
    server_error: Option<ChannelError>,
    client_error: Option<ChannelError>,
}

/// Carries bytes to and fro until neither end has more to say. `alter` sees each direction's bytes with
/// their position in that direction's stream.
fn converse(
    client: &mut Client,
    server: &mut Server,
    mut alter: impl FnMut(bool, usize, u8) -> u8,
    piece: usize,
) -> Outcome {
    let mut o = Outcome::default();
    let (mut up, mut down) = (0, 0);
    loop {
        let to_server = client.take_output();
        let to_client = server.take_output();
        if to_server.is_empty() && to_client.is_empty() {
            return o;
        }
        let to_server: Vec<u8> = to_server.iter().enumerate().map(|(i, b)| alter(true, up + i, *b)).collect();
        let to_client: Vec<u8> =
            to_client.iter().enumerate().map(|(i, b)| alter(false, down + i, *b)).collect();
        (up, down) = (up + to_server.len(), down + to_client.len());
        for bytes in to_server.chunks(piece) {
            if o.server_error.is_none() {
                o.server_error = server.push(bytes, &mut o.server).err();
            }
        }
        for bytes in to_client.chunks(piece) {
            if o.client_error.is_none() {
                o.client_error = client.push(bytes, &mut o.client).err();
            }
        }
    }
}

fn unaltered(_: bool, _: usize, b: u8) -> u8 {
    b
}

/// Two ends that are logged in.
fn logged_in() -> (Client, Server) {
    let (mut c, mut s) = (client(), server());
    let o = converse(&mut c, &mut s, unaltered, usize::MAX);
    assert_eq!(o.server, [ServerEvent::LoggedIn { principal: "admin".into() }]);
    assert_eq!(o.client, [ClientEvent::LoggedIn { node: "a".into() }]);
    assert_eq!((o.server_error, o.client_error), (None, None));
    (c, s)
}

#[test]
fn login_and_messages_in_pieces_of_any_size() {
    for piece in [1, 2, 3, 7, 33, 34, 35, 1000] {
        let (mut c, mut s) = (client(), server());
        let o = converse(&mut c, &mut s, unaltered, piece);
        assert_eq!((&o.server_error, &o.client_error), (&None, &None));
        assert_eq!(c.identity(), Some(node_key().public()));
        c.send(b"request").unwrap();
        c.send(&[]).unwrap();
        s.send(&[7; 3000]).unwrap();
        let o = converse(&mut c, &mut s, unaltered, piece);
        let messages = [b"request".to_vec(), vec![]].map(ServerEvent::Message);
        assert_eq!(o.server, messages, "pieces of {piece}");
        assert_eq!(o.client, [ClientEvent::Message(vec![7; 3000])]);
        assert_eq!((c.finish(), s.finish()), (Ok(()), Ok(())));
    }
}

#[test]
fn both_ends_can_be_sent_to_a_job() {
    fn is_send<T: Send + 'static>() {}
    is_send::<Client>();
    is_send::<Server>();
}

#[test]
fn the_longest_message_passes_and_a_longer_one_is_not_sent() {
    let (mut c, mut s) = logged_in();
    let long: Vec<u8> = (0..MAX_MESSAGE).map(|i| i as u8).collect();
    c.send(&long).unwrap();
    s.send(&long).unwrap();
    let too_long = vec![0; MAX_MESSAGE + 1];
    assert_eq!(c.send(&too_long), Err(ChannelError::TooLong(MAX_MESSAGE + 1)));
    assert_eq!(s.send(&too_long), Err(ChannelError::TooLong(MAX_MESSAGE + 1)));
    let o = converse(&mut c, &mut s, unaltered, 4096);
    assert_eq!(o.server, [ServerEvent::Message(long.clone())]);
    assert_eq!(o.client, [ClientEvent::Message(long)]);
}

/// Every single bit-flipped byte of the whole handshake and login ends it, and nobody is logged in who
/// should not be.
#[test]
fn any_changed_byte_of_the_handshake_ends_it() {
    let (mut up, mut down) = (0, 0);
    converse(
        &mut client(),
        &mut server(),
        |to_server, at, b| {
            *(if to_server { &mut up } else { &mut down }) = at + 1;
            b
        },
        usize::MAX,
    );
    assert_eq!(down, 2 + 192 + 2 + 16 + 4, "the node's handshake message and its welcome");
    for (direction, length) in [(true, up), (false, down)] {
        for target in 0..length {
            for flip in [0x01, 0x80] {
                let alter =
                    |to_server, at, b| if (to_server, at) == (direction, target) { b ^ flip } else { b };
                let (mut c, mut s) = (client(), server());
                let o = converse(&mut c, &mut s, alter, usize::MAX);
                let here = format!("to server: {direction}, byte {target}, flip {flip}: {o:?}");
                assert_eq!(o.client, [], "{here}");
                // A record that was made longer waits for bytes that never come; the end of the stream
                // is then an error.
                let client_ended = o.client_error.is_some() || c.finish().is_err();
                assert!(client_ended, "{here}");
                let welcome = !direction && target >= 2 + 192;
                if welcome {
                    assert_eq!(o.server.len(), 1, "the node welcomed before the change: {here}");
                } else {
                    assert_eq!(o.server, [], "{here}");
                    assert!(o.server_error.is_some() || s.finish().is_err(), "{here}");
                }
            }
        }
    }
}

#[test]
fn a_wrong_key_or_name_is_refused_without_a_reason() {
    let other = SigningKey::from_seed(&[9; 32]);
    let wrong_proof = ChannelError::Login(LoginFault::WrongProof("admin".into()));
    let unknown = |n: &str| ChannelError::Login(LoginFault::UnknownPrincipal(n.into()));
    let cases = [
        ("admin", other.clone(), wrong_proof),
        ("eve", admin(), unknown("eve")),
        ("eve", node_key(), unknown("eve")),
        ("", admin(), unknown("")),
        ("ad min", admin(), ChannelError::Login(LoginFault::Malformed)),
    ];
    for (name, key, fault) in cases {
        let (mut c, mut s) = (client_as(name, key), server());
        let o = converse(&mut c, &mut s, unaltered, usize::MAX);
        assert_eq!(o.server, [], "{name}");
        assert_eq!(o.server_error, Some(fault), "{name}");
        assert_eq!((o.client, o.client_error), (vec![], Some(ChannelError::Refused)), "{name}");
        assert_eq!(s.push(b"more", &mut vec![]), Err(ChannelError::Closed));
        assert_eq!(s.send(b"x"), Err(ChannelError::Closed));
        assert_eq!((c.finish(), s.finish()), (Ok(()), Ok(())));
    }
    let long = "x".repeat(65);
    let refused = Client::new(None, &long, Box::new(admin()), &random(1));
    assert_eq!(refused.unwrap_err(), ChannelError::TooLong(65));
}

/// A principal whose key is of another scheme than the node can check.
struct Rsa;

impl Signer for Rsa {
    fn scheme(&self) -> Scheme {
        Scheme::RsaPssSha256
    }

    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, NoEntropy> {
        Ok(vec![0xaa; wire::tuple::MAX_SIGNATURE])
    }
}

#[test]
fn the_longest_login_fits_and_an_unknown_scheme_is_refused() {
    let name = "p".repeat(wire::tuple::MAX_NAME);
    let mut c = Client::new(None, &name, Box::new(Rsa), &random(5)).unwrap();
    let mut s = server();
    let o = converse(&mut c, &mut s, unaltered, usize::MAX);
    assert_eq!(o.server_error, Some(ChannelError::Login(LoginFault::UnknownPrincipal(name))));
    assert_eq!(o.client_error, Some(ChannelError::Refused));
}

#[test]
fn another_node_is_not_logged_in_to() {
    let expected = SigningKey::from_seed(&[8; 32]).public();
    let mut c = Client::new(Some(expected), "admin", Box::new(admin()), &random(5)).unwrap();
    let mut s = server();
    let o = converse(&mut c, &mut s, unaltered, usize::MAX);
    let found = node_key().public();
    assert_eq!(o.client_error, Some(ChannelError::WrongNode { expected, found }));
    assert_eq!(o.server, [], "the client showed no login to the wrong node");
    assert_eq!(s.finish(), Err(ChannelError::Truncated));
}

#[test]
fn without_an_expected_identity_the_proven_one_is_told() {
    let mut c = Client::new(None, "admin", Box::new(admin()), &random(5)).unwrap();
    assert_eq!(c.identity(), None);
    let o = converse(&mut c, &mut server(), unaltered, usize::MAX);
    assert_eq!(o.client.len(), 1);
    assert_eq!(c.identity(), Some(node_key().public()));
}

/// Signs as the administrator the first time, and shows the same proof again ever after.
#[derive(Clone, Default)]
struct Stolen(Arc<Mutex<Option<Vec<u8>>>>);

impl Signer for Stolen {
    fn scheme(&self) -> Scheme {
        Scheme::Ed25519
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, NoEntropy> {
        Ok(self.0.lock().unwrap().get_or_insert_with(|| admin().sign(message).into()).clone())
    }
}

/// A login made for one handshake is worth nothing in another, even to the node that it was made for.
#[test]
fn a_login_cannot_be_passed_on() {
    let evil = Gate {
        node: "evil".into(),
        identity: NodeIdentity::new(SigningKey::from_seed(&[6; 32]), &random(7)).unwrap(),
        principals: Box::new(|_, _| LoginKeys { good: vec![admin().public().into()], decoys: vec![] }),
    };
    let mut evil = Server::new(Arc::new(evil), &random(8)).unwrap();
    let proof = Stolen::default();
    let mut victim = Client::new(None, "admin", Box::new(proof.clone()), &random(5)).unwrap();
    let o = converse(&mut victim, &mut evil, unaltered, usize::MAX);
    assert_eq!(o.server.len(), 1, "the evil node has a valid proof for its own handshake");
    let mut thief = Client::new(None, "admin", Box::new(proof), &random(9)).unwrap();
    let o = converse(&mut thief, &mut server(), unaltered, usize::MAX);
    assert_eq!(o.server_error, Some(ChannelError::Login(LoginFault::WrongProof("admin".into()))));
}

#[test]
fn repeated_moved_left_out_and_reflected_records_end_the_channel() {
    let records = |c: &mut Client| -> Vec<Vec<u8>> {
        (0..3u8)
            .map(|i| {
                c.send(&[i; 10]).unwrap();
                c.take_output()
            })
            .collect()
    };
    for order in [&[0, 0][..], &[1], &[0, 2], &[0, 1, 0], &[0, 1, 2, 2]] {
        let (mut c, mut s) = logged_in();
        let records = records(&mut c);
        let mut events = vec![];
        let (last, first) = order.split_last().unwrap();
        for &i in first {
            assert_eq!(s.push(&records[i], &mut events), Ok(()));
        }
        assert_eq!(s.push(&records[*last], &mut events), Err(ChannelError::Record), "{order:?}");
        assert_eq!(events.len(), first.len());
        assert_eq!(s.push(&records[0], &mut events), Err(ChannelError::Closed));
    }
    let (mut c, mut s) = logged_in();
    let own = records(&mut c).concat();
    assert_eq!(c.push(&own, &mut vec![]), Err(ChannelError::Record), "its own records");
    let (_, mut other) = logged_in_with(77);
    assert_eq!(other.push(&own, &mut vec![]), Err(ChannelError::Record), "another channel's records");
    let mut events = vec![];
    assert_eq!(s.push(&[&own[..], &own[..]].concat(), &mut events), Err(ChannelError::Record));
    assert_eq!(events.len(), 3, "what came before the error is delivered");
}

fn logged_in_with(seed: u64) -> (Client, Server) {
    let (mut c, mut s) = (client(), Server::new(gate(), &random(seed)).unwrap());
    assert_eq!(converse(&mut c, &mut s, unaltered, usize::MAX).server.len(), 1);
    (c, s)
}

#[test]
fn nothing_is_sent_before_the_login() {
    let (mut c, mut s) = (client(), server());
    assert_eq!(c.send(b"x"), Err(ChannelError::NotLoggedIn));
    assert_eq!(s.send(b"x"), Err(ChannelError::NotLoggedIn));
    s.push(&c.take_output(), &mut vec![]).unwrap();
    assert_eq!(s.send(b"x"), Err(ChannelError::NotLoggedIn));
    c.push(&s.take_output(), &mut vec![]).unwrap();
    assert_eq!(c.send(b"x"), Err(ChannelError::NotLoggedIn));
}

#[test]
fn a_second_handshake_message_is_no_login() {
    let (mut c, mut s) = (client(), server());
    let hello = c.take_output();
    s.push(&hello, &mut vec![]).unwrap();
    assert_eq!(s.push(&hello, &mut vec![]), Err(ChannelError::Record));
    assert!(matches!(s.push(&[], &mut vec![]), Err(ChannelError::Closed)));
}

#[test]
fn wrong_lengths_are_refused_at_once_at_every_stage() {
    let refused = |r, n| assert_eq!(r, Err(ChannelError::Length(n)));
    for n in [0u16, 31, 33, 48, 65535] {
        refused(server().push(&n.to_be_bytes(), &mut vec![]), n.into());
    }
    for n in [0u16, 191, 193, 65535] {
        refused(client().push(&n.to_be_bytes(), &mut vec![]), n.into());
    }
    for n in [0u16, 15, 617, 60_016, 65535] {
        let (mut c, mut s) = (client(), server());
        s.push(&c.take_output(), &mut vec![]).unwrap();
        refused(s.push(&n.to_be_bytes(), &mut vec![]), n.into());
    }
    for n in [0u16, 15, 60_017, 65535] {
        let (mut c, mut s) = logged_in();
        refused(s.push(&n.to_be_bytes(), &mut vec![]), n.into());
        refused(c.push(&n.to_be_bytes(), &mut vec![]), n.into());
    }
}

#[test]
fn an_early_end_of_the_stream_is_an_error() {
    assert_eq!(client().finish(), Err(ChannelError::Truncated));
    assert_eq!(server().finish(), Err(ChannelError::Truncated));
    let (mut c, mut s) = logged_in();
    c.send(b"cut short").unwrap();
    let mut bytes = c.take_output();
    bytes.pop();
    s.push(&bytes, &mut vec![]).unwrap();
    assert_eq!(s.finish(), Err(ChannelError::Truncated));
}

#[test]
fn without_entropy_there_is_no_handshake() {
    let broken = |_: &mut [u8]| Err(NoEntropy);
    let stuck = |out: &mut [u8]| {
        out.fill(0);
        Ok(())
    };
    for entropy in [&broken as &dyn Entropy, &stuck] {
        let server = Server::new(gate(), entropy).unwrap_err();
        let client = Client::new(None, "admin", Box::new(admin()), entropy).unwrap_err();
        assert_eq!((server, client), (ChannelError::Entropy, ChannelError::Entropy));
        assert!(NodeIdentity::new(node_key(), entropy).is_err());
        assert!(SigningKey::generate(entropy).is_err());
    }
    assert_eq!(ChannelError::Entropy.erred(), Erred::Node);
}

#[test]
fn a_point_of_small_order_gets_no_answer() {
    let mut s = server();
    let hello = [&[0, 32][..], &[0; 32]].concat();
    assert_eq!(s.push(&hello, &mut vec![]), Err(ChannelError::Handshake));
    assert!(s.take_output().is_empty());
}

#[test]
fn errors_name_who_erred_and_are_readable() {
    let key = node_key().public();
    let blame = [
        (ChannelError::Length(3), Erred::Peer),
        (ChannelError::Record, Erred::Peer),
        (ChannelError::WrongNode { expected: key, found: key }, Erred::Peer),
        (ChannelError::Refused, Erred::Principal),
        (ChannelError::Login(LoginFault::WrongProof("x".into())), Erred::Principal),
        (ChannelError::Login(LoginFault::Version(9)), Erred::Peer),
        (ChannelError::NotLoggedIn, Erred::Node),
    ];
    for (error, erred) in blame {
        assert_eq!(error.erred(), erred, "{error}");
        assert!(error.to_string().len() > 10);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..700),
        length in prop_oneof![Just(32u16), Just(192), 0u16..70, any::<u16>()],
    ) {
        let stream = [&length.to_be_bytes()[..], &bytes].concat();
        let (mut events, mut answers) = (vec![], vec![]);
        let _ = server().push(&stream, &mut events);
        prop_assert!(events.is_empty());
        let _ = client().push(&stream, &mut answers);
        prop_assert!(answers.is_empty());
        // After a good hello, and after a login.
        let (mut c, mut s) = (client(), server());
        s.push(&c.take_output(), &mut events).unwrap();
        let _ = s.push(&stream, &mut events);
        let (mut c, mut s) = logged_in();
        let _ = (s.push(&stream, &mut events), c.push(&stream, &mut answers));
        prop_assert!(events.is_empty() && answers.is_empty());
    }

    #[test]
    fn messages_arrive_whole_and_in_order(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 0..8),
        piece in 1usize..3000,
    ) {
        let (mut c, mut s) = logged_in();
        for m in &messages {
            c.send(m).unwrap();
            s.send(m).unwrap();
        }
        let o = converse(&mut c, &mut s, unaltered, piece);
        prop_assert_eq!(o.server, messages.iter().cloned().map(ServerEvent::Message).collect::<Vec<_>>());
        prop_assert_eq!(o.client, messages.into_iter().map(ClientEvent::Message).collect::<Vec<_>>());
    }

    #[test]
    fn a_changed_or_cut_stream_delivers_only_what_came_before(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6),
        at in any::<prop::sample::Index>(),
        flip in 0u8..8,
    ) {
        let (mut c, mut s) = logged_in();
        messages.iter().for_each(|m| c.send(m).unwrap());
        let mut stream = c.take_output();
        let at = at.index(stream.len());
        stream[at] ^= 1 << flip;
        let mut events = vec![];
        let result = s.push(&stream, &mut events);
        prop_assert!(result.is_err() || s.finish().is_err());
        prop_assert!(events.len() < messages.len());
        for (event, message) in events.iter().zip(&messages) {
            prop_assert_eq!(event, &ServerEvent::Message(message.clone()));
        }
    }
}
