//! Cryptography for guests is the standards': vectors of RFCs and of openssl through the guest interface.

mod common;

use authagent::keys::PublicKey;
use common::puppet::{House, OUT, OWN};
use ee::abi::Error;
use ee::sandbox::Shared;

const RSA: &str = include_str!("../../authagent/src/keys/testdata/rsa2048.pem");
const SIGNED_BY_RSA: &[u8] = include_bytes!("../../authagent/src/keys/testdata/rsa2048.sig");

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Where the next piece of what the guest was given lies, and how long it is.
fn places<'a>(pieces: &'a [&'a [u8]]) -> impl Iterator<Item = (i64, i64)> + 'a {
    pieces.iter().scan(OWN, |at, piece| {
        let place = (*at, piece.len() as i64);
        *at += place.1;
        Some(place)
    })
}

/// The result of a signature check.
fn check(scheme: i64, key: &[u8], bytes: &[u8], signature: &[u8]) -> i64 {
    let pieces = [key, bytes, signature];
    let places: Vec<i64> = places(&pieces).flat_map(|(at, len)| [at, len]).collect();
    let arguments = [&[scheme][..], &places].concat();
    let mut team = House::new(Shared::default()).team(1, &[]);
    team.run(&pieces.concat(), &[("signature_check", &arguments)]).0[0]
}

#[test]
fn signatures_are_checked_as_rfc_8032_and_openssl_make_them() {
    // RFC 8032, section 7.1, test 2.
    let key = unhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
    let signature = unhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
         085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    );
    let rsa = PublicKey::from_text(RSA).unwrap().to_spki();
    let signed = b"signed by openssl";
    assert_eq!(check(0, &key, &[0x72], &signature), 0);
    assert_eq!(check(1, &rsa, signed, SIGNED_BY_RSA), 0);
    let wrong = i64::from(Error::WrongProof.code());
    assert_eq!(check(0, &key, &[0x73], &signature), wrong);
    assert_eq!(check(0, &key, &[0x72], &signature[1..]), wrong);
    assert_eq!(check(1, &rsa, b"signed by nobody", SIGNED_BY_RSA), wrong);
    let bad = i64::from(Error::BadArgument.code());
    for (scheme, key) in [(0, &rsa[..]), (1, &key[..]), (1, &rsa[1..]), (2, &key), (-1, &key), (0, &[0; 32])]
    {
        assert_eq!(check(scheme, key, signed, SIGNED_BY_RSA), bad, "scheme {scheme}");
    }
}

#[test]
fn hmac_is_that_of_rfc_4231() {
    // Section 4.3.
    let pieces: [&[u8]; 2] = [b"Jefe", b"what do ya want for nothing?"];
    let places: Vec<i64> = places(&pieces).flat_map(|(at, len)| [at, len]).chain([OUT]).collect();
    let mut team = House::new(Shared::default()).team(1, &[]);
    let (results, seen) = team.run(&pieces.concat(), &[("hmac_sha256", &places)]);
    assert_eq!(results[0], 0);
    let mac = unhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    assert_eq!(seen[..32], mac);
}

#[test]
fn sealing_is_that_of_rfc_8439_and_what_was_changed_does_not_open() {
    // Section 2.8.2.
    let key_and_nonce = [
        unhex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"),
        unhex("070000004041424344454647"),
    ]
    .concat();
    let beside = unhex("50515253c0c1c2c3c4c5c6c7");
    let text =
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                 sunscreen would be it.";
    let call = |name: &str, bytes: &[u8]| {
        let pieces = [&key_and_nonce[..], &beside, bytes];
        let places: Vec<(i64, i64)> = places(&pieces).collect();
        let [(key, _), (beside, beside_len), (bytes, len)] = places[..] else { panic!() };
        let mut team = House::new(Shared::default()).team(1, &[]);
        let (results, seen) =
            team.run(&pieces.concat(), &[(name, &[key, beside, beside_len, bytes, len, OUT])]);
        (results[0], seen)
    };
    let (len, sealed) = call("aead_seal", text);
    assert_eq!(len, text.len() as i64 + 16);
    let sealed = sealed[..text.len() + 16].to_vec();
    assert_eq!(sealed[..16], unhex("d31a8d34648e60db7b86afbc53ef7ec2"));
    assert_eq!(sealed[text.len()..], unhex("1ae10b594f09e26a7e902ecbd0600691"));
    let (len, opened) = call("aead_open", &sealed);
    assert_eq!((len, &opened[..text.len()]), (text.len() as i64, &text[..]));
    for bit in (0..sealed.len() * 8).step_by(97) {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(call("aead_open", &changed).0, i64::from(Error::WrongProof.code()), "bit {bit}");
    }
}
