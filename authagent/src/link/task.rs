//! The slow steps of a handshake: curve multiplications, and the check of a certificate. A node runs them away
//! from its data path.
//!
//! The pattern is Noise XX: both static keys are new at each start of a node, so neither end knows the other's
//! beforehand (which rules IK and KK out), and both travel sealed. Each comes with the certificate by
//! which the node's identity vouches for it. The prologue names both identities, so that a handshake
//! that is meant for somebody else fails at its first tag.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use snow::HandshakeState;
use wire::link::{ANSWER_NOISE, HELLO_NOISE, PROOF_NOISE};

use super::session::Session;
use crate::Secret;
use crate::channel::noise;
use crate::keys::{CERTIFICATE_LEN, Ed25519Key, NodeIdentity, certified_by};

pub(super) const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
/// What every prologue begins with.
const CONTEXT: &[u8] = b"bees link 1";

/// A step of a handshake, to be run anywhere.
pub struct Task {
    pub(super) own: Arc<NodeIdentity>,
    pub(super) peer: Ed25519Key,
    /// The index that this end chose for the handshake.
    pub(super) index: u32,
    pub(super) step: Step,
}

/// Which step.
pub(super) enum Step {
    /// Make a hello.
    Begin { ephemeral: Secret },
    /// Answer a hello.
    Answer { ephemeral: Secret, hello: [u8; HELLO_NOISE] },
    /// Read an answer, make the proof.
    Conclude { state: Box<HandshakeState>, answer: [u8; ANSWER_NOISE], sender: u32 },
    /// Read a proof.
    Accept { state: Box<HandshakeState>, proof: [u8; PROOF_NOISE], sender: u32 },
}

/// What came of a [`Task`].
pub struct Finished {
    /// Who the other end proves to be.
    pub(super) peer: [u8; 32],
    pub(super) index: u32,
    pub(super) outcome: Outcome,
}

/// What came of a step.
pub(super) enum Outcome {
    Begun(Box<HandshakeState>, [u8; HELLO_NOISE]),
    Answered(Box<HandshakeState>, [u8; ANSWER_NOISE]),
    Concluded(Box<Session>, [u8; PROOF_NOISE]),
    Accepted(Box<Session>),
    /// The message was not the other end's; the handshake waits for another one.
    Again(Box<HandshakeState>),
    /// The other end proved to be somebody else, or nobody.
    WrongPeer,
    /// A key that no honest end has.
    Failed,
}

impl Task {
    /// Does it: up to four multiplications on the curve and the check of one signature.
    pub fn run(self) -> Finished {
        let (index, peer) = (self.index, self.peer.to_bytes());
        let outcome = match self.step {
            Step::Begin { ephemeral } => begin(&self.own, self.peer, ephemeral),
            Step::Answer { ephemeral, hello } => answer(&self.own, self.peer, ephemeral, &hello),
            Step::Conclude { state, answer, sender } => {
                Ok(conclude(&self.own, self.peer, state, &answer, [index, sender]))
            }
            Step::Accept { state, proof, sender } => Ok(accept(self.peer, state, &proof, [index, sender])),
        };
        Finished { peer, index, outcome: outcome.unwrap_or(Outcome::Failed) }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::Begin { .. } => "Begin",
            Step::Answer { .. } => "Answer",
            Step::Conclude { .. } => "Conclude",
            Step::Accept { .. } => "Accept",
        };
        write!(f, "{step}({:08x})", self.index)
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Finished({:08x})", self.index)
    }
}

pub(super) fn prologue(initiator: Ed25519Key, responder: Ed25519Key) -> Vec<u8> {
    [CONTEXT, &initiator.to_bytes(), &responder.to_bytes()].concat()
}

fn begin(own: &NodeIdentity, peer: Ed25519Key, ephemeral: Secret) -> Result<Outcome, snow::Error> {
    let prologue = prologue(own.public(), peer);
    let builder = noise::builder(PATTERN, &prologue, ephemeral)?.local_private_key(own.handshake())?;
    let mut state = builder.build_initiator()?;
    let mut hello = [0; HELLO_NOISE + noise::TAG_LEN];
    // Nothing is sealed yet, so there is no tag.
    state.write_message(&[], &mut hello)?;
    let hello = *hello.first_chunk().expect("longer than a hello");
    Ok(Outcome::Begun(Box::new(state), hello))
}

fn answer(
    own: &NodeIdentity,
    peer: Ed25519Key,
    ephemeral: Secret,
    hello: &[u8; HELLO_NOISE],
) -> Result<Outcome, snow::Error> {
    let prologue = prologue(peer, own.public());
    let builder = noise::builder(PATTERN, &prologue, ephemeral)?.local_private_key(own.handshake())?;
    let mut state = builder.build_responder()?;
    state.read_message(hello, &mut [])?;
    let mut answer = [0; ANSWER_NOISE];
    state.write_message(own.certificate(), &mut answer)?;
    Ok(Outcome::Answered(Box::new(state), answer))
}

fn conclude(
    own: &NodeIdentity,
    peer: Ed25519Key,
    mut state: Box<HandshakeState>,
    answer: &[u8; ANSWER_NOISE],
    indices: [u32; 2],
) -> Outcome {
    let mut certificate = [0; CERTIFICATE_LEN];
    if state.read_message(answer, &mut certificate).is_err() {
        return Outcome::Again(state);
    }
    if !is_from(&state, &certificate, peer) {
        return Outcome::WrongPeer;
    }
    let mut proof = [0; PROOF_NOISE];
    if state.write_message(own.certificate(), &mut proof).is_err() {
        return Outcome::Failed;
    }
    session(state, indices, true).map_or(Outcome::Failed, |s| Outcome::Concluded(s, proof))
}

fn accept(
    peer: Ed25519Key,
    mut state: Box<HandshakeState>,
    proof: &[u8; PROOF_NOISE],
    indices: [u32; 2],
) -> Outcome {
    let mut certificate = [0; CERTIFICATE_LEN];
    if state.read_message(proof, &mut certificate).is_err() {
        return Outcome::Again(state);
    }
    if !is_from(&state, &certificate, peer) {
        return Outcome::WrongPeer;
    }
    session(state, indices, false).map_or(Outcome::Failed, Outcome::Accepted)
}

/// Whether the other end of a handshake is `peer`, whose certificate this should be.
fn is_from(state: &HandshakeState, certificate: &[u8], peer: Ed25519Key) -> bool {
    state.get_remote_static().is_some_and(|key| certified_by(certificate, key) == Some(peer))
}

fn session(state: Box<HandshakeState>, [own, peer]: [u32; 2], initiator: bool) -> Option<Box<Session>> {
    let transport = state.into_stateless_transport_mode().ok()?;
    let peer_key = *transport.get_remote_static()?.first_chunk()?;
    Some(Box::new(Session::new(own, peer, transport, peer_key, initiator)))
}
