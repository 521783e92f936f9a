//! Noise handshakes (of the control channel, and of links), on the crates that the rest of the node uses.
//!
//! `snow` runs the protocol; the four primitives below are what it runs on. Its own default set would
//! bring a second generation of the same crates into the image and a random source that the node does
//! not know. The ephemeral secret of a handshake is drawn beforehand and handed over once.

use alloc::boxed::Box;

use chacha20poly1305::aead::{AeadInOut, KeyInit, inout::InOutBuf};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use curve25519_dalek::MontgomeryPoint;
use sha2::{Digest, Sha256};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use wire::control::LOGIN_CONTEXT;
use zeroize::Zeroizing;

use crate::Secret;

/// The handshake: the client stays anonymous, the node sends its static key.
pub(super) const PATTERN: &str = "Noise_NX_25519_ChaChaPoly_SHA256";
/// Length of an authentication tag, in bytes.
pub(crate) const TAG_LEN: usize = 16;
/// Length of a key, in bytes.
pub(crate) const KEY_LEN: usize = 32;

/// The client's side. The prologue is [`LOGIN_CONTEXT`], so that two versions never agree on keys.
pub(super) fn initiator(ephemeral: Secret) -> Result<HandshakeState, Error> {
    builder(PATTERN, LOGIN_CONTEXT, ephemeral)?.build_initiator()
}

/// The node's side, with its handshake key.
pub(super) fn responder(handshake: &[u8; KEY_LEN], ephemeral: Secret) -> Result<HandshakeState, Error> {
    builder(PATTERN, LOGIN_CONTEXT, ephemeral)?.local_private_key(handshake)?.build_responder()
}

/// What a handshake of this pattern starts from, with a secret that was drawn for it.
pub(crate) fn builder<'a>(
    pattern: &str,
    prologue: &'a [u8],
    ephemeral: Secret,
) -> Result<Builder<'a>, Error> {
    Builder::with_resolver(pattern.parse()?, Box::new(Primitives(ephemeral))).prologue(prologue)
}

/// X25519, ChaCha20-Poly1305 and SHA-256, and one secret.
struct Primitives(Secret);

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.0.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<X25519>::default() as _)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| Box::<Sha>::default() as _)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::<ChaChaPoly>::default() as _)
    }
}

/// Gives one secret once, then nothing.
struct Once(Option<Secret>);

impl Random for Once {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        let secret = self.0.take().filter(|s| s.len() == out.len()).ok_or(Error::Rng)?;
        out.copy_from_slice(&secret[..]);
        Ok(())
    }
}

/// X25519 (RFC 7748). A point of small order, which makes the result zero, is refused.
#[derive(Default)]
struct X25519 {
    secret: Secret,
    public: [u8; KEY_LEN],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, secret: &[u8]) {
        self.secret.copy_from_slice(secret);
        self.public = MontgomeryPoint::mul_base_clamped(*self.secret).to_bytes();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut secret = Secret::default();
        rng.try_fill_bytes(&mut secret[..])?;
        self.set(&secret[..]);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.secret[..]
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public = *public.first_chunk().ok_or(Error::Input)?;
        let out = out.first_chunk_mut().ok_or(Error::Input)?;
        let shared = Zeroizing::new(MontgomeryPoint(public).mul_clamped(*self.secret).to_bytes());
        if *shared == [0; KEY_LEN] {
            return Err(Error::Dh);
        }
        *out = *shared;
        Ok(())
    }
}

/// SHA-256 (FIPS 180-4).
#[derive(Default)]
struct Sha(Sha256);

impl Hash for Sha {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.0.finalize_reset());
    }
}

/// ChaCha20-Poly1305 (RFC 8439) with Noise's nonce: four zero bytes, then the counter, low byte first.
#[derive(Default)]
struct ChaChaPoly(Zeroizing<[u8; KEY_LEN]>);

impl ChaChaPoly {
    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&(*self.0).into())
    }

    fn nonce(counter: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        nonce.into()
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; KEY_LEN]) {
        *self.0 = *key;
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (body, rest) = out.split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let tag = self
            .cipher()
            .encrypt_inout_detached(&Self::nonce(nonce), authtext, InOutBuf::from(body))
            .expect("a Noise message is far shorter than what one nonce covers");
        rest[..TAG_LEN].copy_from_slice(&tag);
        plaintext.len() + TAG_LEN
    }

    fn decrypt(&self, nonce: u64, authtext: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (body, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Error::Decrypt)?;
        let out = out.get_mut(..body.len()).ok_or(Error::Decrypt)?;
        out.copy_from_slice(body);
        self.cipher()
            .decrypt_inout_detached(&Self::nonce(nonce), authtext, InOutBuf::from(out), &Tag::from(*tag))
            .map_err(|_| Error::Decrypt)?;
        Ok(body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| std::format!("{b:02x}")).collect()
    }

    fn secret(first: u8) -> Secret {
        Secret::new(core::array::from_fn(|i| first + i as u8))
    }

    /// What another implementation of Noise (Python's noiseprotocol 0.3.1) made of the same keys.
    #[test]
    fn agrees_with_another_implementation() {
        let mut client = initiator(secret(0)).unwrap();
        let mut node = responder(&secret(0x40), secret(0x80)).unwrap();
        let (mut sent, mut got) = (vec![0; 200], vec![0; 200]);

        let n = client.write_message(&[], &mut sent).unwrap();
        assert_eq!(hex(&sent[..n]), "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f");
        node.read_message(&sent[..n], &mut got).unwrap();

        let n = node.write_message(b"certificate", &mut sent).unwrap();
        assert_eq!(
            hex(&sent[..n]),
            "493e82fc74464a59268817623d2053c5eb8e2cc4a988b4fee179ec6b010d531debe14ea4896e5c3e71fb7aedeff9170b\
             dfc2515a14974357e78b7f734eb2d0fcb70cac2ddce900571318b0bd6c0e61a8faadbe342b0273f140986de2c4fe7309\
             c8ed37d1076c859aa33e2a"
        );
        let n = client.read_message(&sent[..n], &mut got).unwrap();
        assert_eq!(&got[..n], b"certificate");
        let hash = "eec69cf65a70b8fa8111f95c50f7fbecb37082c04e16dda9e6ddf9087ce8b934";
        assert_eq!(
            (hex(client.get_handshake_hash()), hex(node.get_handshake_hash())),
            (hash.into(), hash.into())
        );

        let mut client = client.into_transport_mode().unwrap();
        let mut node = node.into_transport_mode().unwrap();
        let mut seal = |t: &mut snow::TransportState, m: &[u8]| {
            let n = t.write_message(m, &mut sent).unwrap();
            hex(&sent[..n])
        };
        assert_eq!(seal(&mut client, b"one"), "96a6b4641aaf50a6bda267134bf006d90a5afa");
        assert_eq!(seal(&mut client, b"two"), "213713fd98c3a4471672cff1fdef7834900ad4");
        assert_eq!(seal(&mut node, b"three"), "a5b132800b7a1a24c3fdb3e6f9d2f260c2a3584b04");
    }

    #[test]
    fn a_point_of_small_order_and_a_second_draw_are_refused() {
        let mut dh = X25519::default();
        dh.set(&[9; 32]);
        let mut out = [0; 56];
        assert_eq!(dh.dh(&[0; 32], &mut out), Err(Error::Dh));
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(dh.dh(&one, &mut out), Err(Error::Dh));
        assert_eq!(dh.dh(&[9; 31], &mut out), Err(Error::Input));
        let mut once = Once(Some(Secret::new([3; 32])));
        let mut drawn = [0; 32];
        assert_eq!(once.try_fill_bytes(&mut drawn), Ok(()));
        assert_eq!(drawn, [3; 32]);
        assert_eq!(once.try_fill_bytes(&mut drawn), Err(Error::Rng));
    }
}
