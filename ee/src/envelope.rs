//! Envelopes: how a capability gets from one team of a node to another (D6; seed 004, section III).
//!
//! An envelope lies in a table of the node under an unguessable name. Open ones are opened by whoever
//! says the name (or only by one flow); sealed ones need the unsealer that belongs to the sealer, or a
//! [`Proof`] signed with a key. What a team puts in is void when the team ends, takes the capability back
//! or loses it itself: all of that goes through one [`Line`]. The operator's envelopes come from the
//! configuration, sealed with a key that the node does not have; they stay, and each proof opens one once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use authagent::keys::{Ed25519Key, PublicKey};
use nodeos::account::{Account, Charge};
use wire::id::TupleHash;
use wire::statement::{EnvelopeId, Proof};

use crate::abi::Error;
use crate::sandbox::NeighborId;

/// Envelopes of a node, the operator's included.
pub const MAX_ENVELOPES: usize = 256;
/// Unopened envelopes of one team.
pub const MAX_OF_TEAM: usize = 16;
/// What a team pays for an envelope until it is opened or void, in bytes.
pub const ENVELOPE_BYTES: u64 = 512;
/// How often a capability may be handed on from team to team.
pub const MAX_HANDS: usize = 8;
/// Proofs that are remembered of each of the operator's envelopes, until they expire.
const MAX_PROOFS: usize = 64;

/// What an envelope carries, as the node knows it: positions in a team's tables mean nothing to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Thing {
    Neighbor(NeighborId),
    Group(Vec<NeighborId>),
    Privilege(Arc<str>),
    Sealer(u64),
    Unsealer(u64),
}

/// The one indirection that revocation goes through: who got a capability by way of a line loses it when
/// the line, or one that it hangs on, is cut.
#[derive(Debug, Default)]
pub(crate) struct Line {
    cut: AtomicBool,
    before: Option<Arc<Line>>,
}

impl Line {
    /// A line that hangs on `before`; `None` when the capability went through too many hands.
    pub fn after(before: Option<Arc<Self>>) -> Option<Arc<Self>> {
        let hands = std::iter::successors(before.as_deref(), |l| l.before.as_deref()).count();
        (hands < MAX_HANDS).then(|| Arc::new(Self { cut: AtomicBool::new(false), before }))
    }

    pub fn cut(&self) {
        self.cut.store(true, Ordering::Release);
    }

    pub fn is_cut(&self) -> bool {
        let mut lines = std::iter::successors(Some(self), |l| l.before.as_deref());
        lines.any(|l| l.cut.load(Ordering::Acquire))
    }
}

/// What it takes to open an envelope.
#[derive(Debug, Clone, PartialEq)]
enum Seal {
    Open,
    /// The unsealer of this number.
    Pair(u64),
    /// A proof by this key.
    Key(PublicKey),
}

struct Envelope {
    /// The team; `None`: the operator.
    maker: Option<u64>,
    content: Content,
    to: Option<TupleHash>,
    seal: Seal,
    /// Proofs of the operator's envelope that were used: flow and expiry.
    used: Vec<(TupleHash, u64)>,
    _charge: Option<Charge>,
}

/// What is in an envelope.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub thing: Thing,
    pub rights: u32,
    pub line: Arc<Line>,
}

/// Who opens an envelope, and with what.
pub(crate) struct Opener<'a> {
    pub flow: TupleHash,
    /// The number of the unsealer that the guest holds and shows.
    pub unsealer: Option<u64>,
    pub proof: &'a [u8],
    /// The node's identity, if it has one.
    pub node: Option<Ed25519Key>,
    /// Seconds since 1970, if the node knows.
    pub wall: Option<u64>,
}

/// The envelopes of a node; every team has one.
#[derive(Clone, Default)]
pub struct Envelopes(Arc<Mutex<Table>>);

/// A team as the maker of envelopes: when it goes, so does what it made.
pub(crate) struct Maker {
    table: Envelopes,
    number: u64,
}

impl Maker {
    pub fn new(table: Envelopes) -> Self {
        let number = table.number();
        Self { table, number }
    }

    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.table.forget(self.number);
    }
}

#[derive(Default)]
struct Table {
    all: BTreeMap<EnvelopeId, Envelope>,
    next: u64,
}

impl Envelopes {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no team and no pair of sealer and unsealer had before.
    pub(crate) fn number(&self) -> u64 {
        let mut table = self.table();
        table.next += 1;
        table.next
    }

    /// Keeps an envelope of the operator's, which opens with a proof by `key`.
    pub fn keep(
        &self,
        id: EnvelopeId,
        privilege: &str,
        key: PublicKey,
        to: Option<TupleHash>,
    ) -> Result<(), Error> {
        let line = Line::after(None).ok_or(Error::NoRoom)?;
        let content =
            Content { thing: Thing::Privilege(privilege.into()), rights: crate::abi::rights::ALL, line };
        let envelope =
            Envelope { maker: None, content, to, seal: Seal::Key(key), used: vec![], _charge: None };
        self.table().add(id, envelope)
    }

    /// Puts an open envelope of the team `maker` on the table.
    pub(crate) fn make(
        &self,
        maker: u64,
        account: &Account,
        id: EnvelopeId,
        content: Content,
        to: Option<TupleHash>,
    ) -> Result<(), Error> {
        let mut table = self.table();
        // What was revoked takes nobody's place.
        table.all.retain(|_, e| !e.content.line.is_cut());
        if table.all.values().filter(|e| e.maker == Some(maker)).count() >= MAX_OF_TEAM {
            return Err(Error::NoRoom);
        }
        let charge = account.charge(ENVELOPE_BYTES).map_err(|_| Error::NoMemory)?;
        let envelope = Envelope {
            maker: Some(maker),
            content,
            to,
            seal: Seal::Open,
            used: vec![],
            _charge: Some(charge),
        };
        table.add(id, envelope)
    }

    /// Seals an open envelope of `maker`'s: only the unsealer `number` opens it from now on.
    pub(crate) fn seal(&self, maker: u64, id: &EnvelopeId, number: u64) -> Result<(), Error> {
        self.table().close(maker, id, Seal::Pair(number))
    }

    /// Seals an open envelope of `maker`'s with a key.
    pub(crate) fn lock(&self, maker: u64, id: &EnvelopeId, key: PublicKey) -> Result<(), Error> {
        self.table().close(maker, id, Seal::Key(key))
    }

    /// Takes an envelope of `maker`'s off the table.
    pub(crate) fn void(&self, maker: u64, id: &EnvelopeId) -> Result<(), Error> {
        let mut table = self.table();
        table.of(maker, id)?;
        table.all.remove(id);
        Ok(())
    }

    /// What the opener would get. Nothing changes until [`spend`](Self::spend).
    pub(crate) fn look(&self, id: &EnvelopeId, opener: &Opener<'_>) -> Result<Content, Error> {
        let mut table = self.table();
        if table.all.get(id).is_some_and(|e| e.content.line.is_cut()) {
            table.all.remove(id);
        }
        let envelope = table.all.get(id).ok_or(Error::NotFound)?;
        if envelope.to.is_some_and(|to| to != opener.flow) {
            return Err(Error::NotPermitted);
        }
        match &envelope.seal {
            Seal::Open => {}
            Seal::Pair(number) if opener.unsealer == Some(*number) => {}
            Seal::Pair(_) => return Err(Error::NotPermitted),
            Seal::Key(key) => envelope.prove(id, key, opener)?,
        }
        Ok(envelope.content.clone())
    }

    /// The envelope was opened: a team's is gone, of the operator's the proof is used up.
    pub(crate) fn spend(&self, id: &EnvelopeId, opener: &Opener<'_>) {
        let mut table = self.table();
        match (table.all.get_mut(id), Proof::decode(opener.proof)) {
            (Some(kept), Some(proof)) if kept.maker.is_none() => {
                kept.used.retain(|(_, expiry)| opener.wall.is_none_or(|wall| *expiry >= wall));
                kept.used.push((opener.flow, proof.expiry));
            }
            _ => {
                table.all.remove(id);
            }
        }
    }

    fn forget(&self, maker: u64) {
        self.table().all.retain(|_, e| e.maker != Some(maker));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table().all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    fn add(&mut self, id: EnvelopeId, envelope: Envelope) -> Result<(), Error> {
        if self.all.len() >= MAX_ENVELOPES || self.all.contains_key(&id) {
            return Err(Error::NoRoom);
        }
        self.all.insert(id, envelope);
        Ok(())
    }

    fn of(&mut self, maker: u64, id: &EnvelopeId) -> Result<&mut Envelope, Error> {
        // Others' envelopes do not exist for whoever did not make them.
        self.all.get_mut(id).filter(|e| e.maker == Some(maker)).ok_or(Error::NotFound)
    }

    fn close(&mut self, maker: u64, id: &EnvelopeId, seal: Seal) -> Result<(), Error> {
        let envelope = self.of(maker, id)?;
        if envelope.seal != Seal::Open {
            return Err(Error::BadArgument);
        }
        envelope.seal = seal;
        Ok(())
    }
}

impl Envelope {
    /// Checks a proof. Whether it was used before is looked at first: that costs no signature.
    fn prove(&self, id: &EnvelopeId, key: &PublicKey, opener: &Opener<'_>) -> Result<(), Error> {
        let (Some(node), Some(wall)) = (opener.node, opener.wall) else { return Err(Error::Unavailable) };
        let proof = Proof::decode(opener.proof).ok_or(Error::WrongProof)?;
        if proof.expiry < wall || self.used.contains(&(opener.flow, proof.expiry)) {
            return Err(Error::WrongProof);
        }
        if self.used.iter().filter(|(_, expiry)| *expiry >= wall).count() >= MAX_PROOFS {
            return Err(Error::NoRoom);
        }
        let statement = Proof::statement(&node.to_bytes(), id, &opener.flow, proof.expiry);
        key.verify(proof.scheme, &statement, &proof.signature).map_err(|_| Error::WrongProof)
    }
}
