//! The node in memory, continued: groups, privileges, cryptography and envelopes. A node here has one flow,
//! so envelopes go from it to itself; what several teams do to each other is tested with the real node.

use authagent::keys::{Ed25519Key, PublicKey, SigningKey};
use chacha20poly1305::aead::{AeadInOut, KeyInit as _, inout::InOutBuf};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use std::collections::BTreeMap;
use wire::id::{PartHash, TupleHash};
use wire::statement::{Proof, guest};
use wire::tuple::Scheme;

use super::{Node, copy, fill, mix, result};
use crate::Error;
use crate::blob::{MAX_BLOB, MAX_NAME};
use crate::flow::State;

const SENSORS: u32 = 3000;
const NODE_KEY: u32 = 3001;
const BLOBS: u32 = 3002;
const FLOWS: u32 = 3003;
const FIRST_FLOW: u32 = 5000;
/// Flows below a flow's own that it may know of.
const MAX_FLOWS: usize = 16;
/// Blobs of a flow.
const MAX_BLOBS: usize = 64;
const BACKGROUND: u32 = 3004;
const QUEUES: u32 = 3005;
/// Of the node's own services those that a test grants by name: what they answer is tested with the real node.
const LIVENESS: u32 = 3006;
const FIRST_GROUP: u32 = 2000;
const MAX_GROUPS: usize = 16;
/// Sealers are even, the unsealer of each is the next number.
const FIRST_SEALER: u32 = 4000;
const MAX_SEALERS: u32 = 1000;

/// What a node of a test has beside neighbors.
#[derive(Default)]
pub(super) struct Privileged {
    pub granted: Vec<String>,
    pub sensors: BTreeMap<String, i64>,
    /// Frames that wait for each link.
    pub waiting: u16,
    blobs: BTreeMap<Vec<u8>, Vec<u8>>,
    groups: Vec<Option<Vec<usize>>>,
    sealers: u32,
    envelopes: BTreeMap<[u8; 16], Envelope>,
    /// Flows that this one started, with their tuples; nothing where the capability was given back.
    flows: Vec<Option<(Vec<u8>, State)>>,
}

struct Envelope {
    capability: u32,
    to: Option<TupleHash>,
    seal: Seal,
}

enum Seal {
    Open,
    Pair(u32),
    Key(PublicKey),
}

impl Node {
    pub(super) fn privilege(&self, name: &[u8]) -> Option<u32> {
        let granted = self.more.granted.iter().any(|g| g.as_bytes() == name);
        match name {
            b"sensors" if granted => Some(SENSORS),
            b"node-key" if granted => Some(NODE_KEY),
            b"blobs" if granted => Some(BLOBS),
            b"flows" if granted => Some(FLOWS),
            b"background" if granted => Some(BACKGROUND),
            b"queues" if granted => Some(QUEUES),
            b"bees.liveness" if granted => Some(LIVENESS),
            _ => None,
        }
    }

    /// The ports of a group.
    pub(super) fn group(&self, handle: u32) -> Option<&[usize]> {
        let at = handle.checked_sub(FIRST_GROUP)? as usize;
        self.more.groups.get(at)?.as_deref()
    }

    fn key(&self) -> SigningKey {
        SigningKey::from_seed(&PartHash::of(self.name.as_bytes()).0)
    }

    fn hash(&self) -> TupleHash {
        TupleHash::of(self.description.name.as_bytes())
    }

    fn may(&self, handle: u32, which: u32, name: &[u8]) -> Result<(), Error> {
        if handle == which && self.privilege(name).is_some() { Ok(()) } else { Err(Error::BadHandle) }
    }

    /// What a capability's number names, if anything.
    fn exists(&self, handle: u32) -> bool {
        let sealer = |h: u32| h.checked_sub(FIRST_SEALER).is_some_and(|n| n < 2 * self.more.sealers);
        self.port(handle).is_ok()
            || self.group(handle).is_some()
            || sealer(handle)
            || self.may(handle, SENSORS, b"sensors").is_ok()
            || self.may(handle, NODE_KEY, b"node-key").is_ok()
            || self.may(handle, BLOBS, b"blobs").is_ok()
            || self.may(handle, FLOWS, b"flows").is_ok()
            || self.child(handle).is_ok()
            || self.may(handle, BACKGROUND, b"background").is_ok()
            || self.may(handle, QUEUES, b"queues").is_ok()
            || self.may(handle, LIVENESS, b"bees.liveness").is_ok()
    }

    pub(crate) fn cap_revoke(&mut self, capability: u32) -> i32 {
        if !self.exists(capability) {
            return result(Err(Error::BadHandle));
        }
        if let Some(at) = capability.checked_sub(FIRST_GROUP)
            && let Some(group) = self.more.groups.get_mut(at as usize)
        {
            *group = None;
        }
        self.more.envelopes.retain(|_, e| e.capability != capability);
        0
    }

    pub(crate) fn neighborhood_make(&mut self, list: &[u32]) -> i32 {
        let ports: Result<Vec<usize>, Error> = list.iter().map(|h| self.port(*h)).collect();
        result(ports.and_then(|mut ports| {
            ports.sort();
            ports.dedup();
            if self.more.groups.iter().flatten().count() >= MAX_GROUPS {
                return Err(Error::NoRoom);
            }
            self.more.groups.push(Some(ports));
            Ok(FIRST_GROUP as usize + self.more.groups.len() - 1)
        }))
    }

    pub(crate) fn hmac_sha256(&mut self, key: &[u8], bytes: &[u8], mac: &mut [u8; 32]) -> i32 {
        let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(key) else {
            return result(Err(Error::BadArgument));
        };
        hmac.update(bytes);
        mac.copy_from_slice(&hmac.finalize().into_bytes());
        0
    }

    pub(crate) fn signature_check(&mut self, scheme: i32, key: &[u8], bytes: &[u8], signature: &[u8]) -> i32 {
        result(public_key(scheme, key).and_then(|(scheme, key)| {
            key.verify(scheme, bytes, signature).map(|()| 0).map_err(|_| Error::WrongProof)
        }))
    }

    pub(crate) fn aead_seal(&mut self, key: &[u8; 44], beside: &[u8], buffer: &mut [u8]) -> i32 {
        let Some(len) = buffer.len().checked_sub(16).filter(|_| beside.len() <= 256) else {
            return result(Err(Error::BadArgument));
        };
        let (cipher, nonce) = cipher(key);
        let (text, place) = buffer.split_at_mut(len);
        match cipher.encrypt_inout_detached(&nonce, beside, InOutBuf::from(text)) {
            Ok(tag) => place.copy_from_slice(&tag),
            Err(_) => return result(Err(Error::BadArgument)),
        }
        (len + 16) as i32
    }

    pub(crate) fn aead_open(&mut self, key: &[u8; 44], beside: &[u8], buffer: &mut [u8]) -> i32 {
        let Some((text, tag)) = buffer.split_last_chunk_mut::<16>() else {
            return result(Err(Error::WrongProof));
        };
        let (cipher, nonce) = cipher(key);
        let tag = Tag::from(*tag);
        if cipher.decrypt_inout_detached(&nonce, beside, InOutBuf::from(&mut *text), &tag).is_err() {
            text.fill(0);
            return result(Err(Error::WrongProof));
        }
        text.len() as i32
    }

    pub(crate) fn key_sign(&mut self, key: u32, bytes: &[u8], signature: &mut [u8; 64]) -> i32 {
        result(self.may(key, NODE_KEY, b"node-key").and_then(|()| {
            if bytes.len() > wire::statement::MAX_GUEST {
                return Err(Error::TooLarge);
            }
            *signature = self.key().sign(&guest(&self.hash(), bytes));
            Ok(0)
        }))
    }

    pub(crate) fn key_public(&mut self, key: u32, public: &mut [u8; 32]) -> i32 {
        result(self.may(key, NODE_KEY, b"node-key").map(|()| {
            *public = self.key().public().to_bytes();
            0
        }))
    }

    pub(crate) fn link_waiting(&mut self, queues: u32, neighbor: u32) -> i32 {
        let may = self.may(queues, QUEUES, b"queues").and_then(|()| self.port(neighbor));
        result(may.map(|_| self.more.waiting.into()))
    }

    pub(crate) fn sensor_list(&mut self, sensors: u32, buffer: &mut [u8]) -> i32 {
        result(self.may(sensors, SENSORS, b"sensors").map(|()| {
            let names: String = self.more.sensors.keys().map(|name| format!("{name}\n")).collect();
            fill(names.as_bytes(), buffer)
        }))
    }

    pub(crate) fn sensor_read(&mut self, sensors: u32, name: &[u8], value: &mut [u8; 8]) -> i32 {
        result(self.may(sensors, SENSORS, b"sensors").and_then(|()| {
            let reading = std::str::from_utf8(name).ok().and_then(|n| self.more.sensors.get(n));
            *value = reading.ok_or(Error::NotFound)?.to_le_bytes();
            Ok(0)
        }))
    }

    fn blob(&mut self, blobs: u32, name: &[u8]) -> Result<&Vec<u8>, Error> {
        self.may(blobs, BLOBS, b"blobs")?;
        self.more.blobs.get(name).ok_or(Error::NotFound)
    }

    pub(crate) fn blob_put(&mut self, blobs: u32, name: &[u8], bytes: &[u8]) -> i32 {
        result(self.may(blobs, BLOBS, b"blobs").and_then(|()| {
            if bytes.len() > MAX_BLOB {
                return Err(Error::BadPointer);
            }
            if !(1..=MAX_NAME).contains(&name.len()) {
                return Err(Error::BadArgument);
            }
            if self.more.blobs.len() >= MAX_BLOBS && !self.more.blobs.contains_key(name) {
                return Err(Error::NoRoom);
            }
            self.more.blobs.insert(name.to_vec(), bytes.to_vec());
            Ok(0)
        }))
    }

    pub(crate) fn blob_get(&mut self, blobs: u32, name: &[u8], offset: u32, buffer: &mut [u8]) -> i32 {
        result(self.blob(blobs, name).and_then(|blob| copy(blob, offset, buffer)))
    }

    pub(crate) fn blob_len(&mut self, blobs: u32, name: &[u8]) -> i32 {
        result(self.blob(blobs, name).map(Vec::len))
    }

    pub(crate) fn blob_list(&mut self, blobs: u32, index: u32, buffer: &mut [u8]) -> i32 {
        result(self.may(blobs, BLOBS, b"blobs").and_then(|()| {
            let name = self.more.blobs.keys().nth(index as usize).ok_or(Error::NotFound)?;
            Ok(fill(name, buffer))
        }))
    }

    pub(crate) fn blob_remove(&mut self, blobs: u32, name: &[u8]) -> i32 {
        result(self.blob(blobs, name).map(drop).map(|()| {
            self.more.blobs.remove(name);
            0
        }))
    }

    fn child(&self, handle: u32) -> Result<(usize, State), Error> {
        let at = handle.checked_sub(FIRST_FLOW).ok_or(Error::BadHandle)? as usize;
        let (_, state) = self.more.flows.get(at).and_then(Option::as_ref).ok_or(Error::BadHandle)?;
        Ok((at, *state))
    }

    /// The numbers of the flows with this tuple that have not ended, which now do something else.
    pub(super) fn flow_is(&mut self, tuple: &[u8], state: State) -> Vec<u32> {
        let mut told = Vec::new();
        for (flow, number) in self.more.flows.iter_mut().zip(FIRST_FLOW..) {
            if let Some((_, was)) = flow.as_mut().filter(|(of, was)| of == tuple && *was != State::Ended) {
                *was = state;
                told.push(number);
            }
        }
        told
    }

    /// Gives the capability for a flow back; whether there was one.
    pub(super) fn forget_flow(&mut self, handle: u32) -> bool {
        self.child(handle).is_ok_and(|(at, _)| self.more.flows[at].take().is_some())
    }

    pub(crate) fn flow_start(&mut self, flows: u32, tuple: &[u8], give: u32) -> i32 {
        result(self.may(flows, FLOWS, b"flows").and_then(|()| {
            if give >> 3 != 0 {
                return Err(Error::BadArgument);
            }
            if self.more.flows.iter().flatten().count() >= MAX_FLOWS {
                return Err(Error::NoRoom);
            }
            self.more.flows.push(Some((tuple.to_vec(), State::Starting)));
            Ok(FIRST_FLOW as usize + self.more.flows.len() - 1)
        }))
    }

    pub(crate) fn flow_state(&mut self, flow: u32) -> i32 {
        result(self.child(flow).map(|(_, state)| state as usize))
    }

    pub(crate) fn flow_stop(&mut self, flow: u32, _: u32) -> i32 {
        result(self.child(flow).map(|_| 0))
    }

    pub(crate) fn flow_limit(&mut self, flow: u32, resource: i32, most: i64) -> i32 {
        result(self.child(flow).and_then(|(_, state)| match state {
            _ if !(0..3).contains(&resource) || most < 0 => Err(Error::BadArgument),
            State::Running => Ok(0),
            _ => Err(Error::Unavailable),
        }))
    }

    pub(crate) fn seal_make(&mut self, pair: &mut [u32; 2]) -> i32 {
        if self.more.sealers >= MAX_SEALERS {
            return result(Err(Error::NoRoom));
        }
        let sealer = FIRST_SEALER + 2 * self.more.sealers;
        self.more.sealers += 1;
        *pair = [sealer, sealer + 1];
        0
    }

    pub(crate) fn envelope_make(&mut self, capability: u32, flow: &[u8], id: &mut [u8; 16]) -> i32 {
        if !self.exists(capability) {
            return result(Err(Error::BadHandle));
        }
        if capability == BLOBS || self.child(capability).is_ok() {
            return result(Err(Error::BadArgument));
        }
        let to = match flow {
            [] => None,
            flow => match flow.try_into() {
                Ok(hash) => Some(TupleHash(hash)),
                Err(_) => return result(Err(Error::BadArgument)),
            },
        };
        for byte in id.iter_mut() {
            self.random = mix(self.random);
            *byte = self.random as u8;
        }
        self.more.envelopes.insert(*id, Envelope { capability, to, seal: Seal::Open });
        0
    }

    pub(crate) fn envelope_seal(&mut self, id: &[u8; 16], sealer: u32) -> i32 {
        if !self.exists(sealer) || sealer < FIRST_SEALER || sealer % 2 == 1 {
            return result(Err(Error::BadHandle));
        }
        self.close(id, Seal::Pair(sealer + 1))
    }

    pub(crate) fn envelope_lock(&mut self, id: &[u8; 16], scheme: i32, key: &[u8]) -> i32 {
        match public_key(scheme, key) {
            Ok((_, key)) => self.close(id, Seal::Key(key)),
            Err(e) => result(Err(e)),
        }
    }

    fn close(&mut self, id: &[u8; 16], seal: Seal) -> i32 {
        result(match self.more.envelopes.get_mut(id) {
            None => Err(Error::NotFound),
            Some(envelope) if !matches!(envelope.seal, Seal::Open) => Err(Error::BadArgument),
            Some(envelope) => {
                envelope.seal = seal;
                Ok(0)
            }
        })
    }

    /// The clock on the wall is unknown here, so that no proof expires.
    pub(crate) fn envelope_open(&mut self, id: &[u8; 16], unsealer: u32, proof: &[u8]) -> i32 {
        let (flow, node) = (self.hash(), self.key().public().to_bytes());
        let opened = self.more.envelopes.get(id).ok_or(Error::NotFound).and_then(|envelope| {
            if envelope.to.is_some_and(|to| to != flow) {
                return Err(Error::NotPermitted);
            }
            match &envelope.seal {
                Seal::Open => Ok(envelope.capability),
                Seal::Pair(needed) if *needed == unsealer => Ok(envelope.capability),
                Seal::Pair(_) => Err(Error::NotPermitted),
                Seal::Key(key) => {
                    let proof = Proof::decode(proof).ok_or(Error::WrongProof)?;
                    let statement = Proof::statement(&node, id, &flow, proof.expiry);
                    let right = key.verify(proof.scheme, &statement, &proof.signature);
                    right.map(|()| envelope.capability).map_err(|_| Error::WrongProof)
                }
            }
        });
        result(opened.map(|capability| {
            self.more.envelopes.remove(id);
            capability as usize
        }))
    }

    pub(crate) fn envelope_void(&mut self, id: &[u8; 16]) -> i32 {
        result(self.more.envelopes.remove(id).map(|_| 0).ok_or(Error::NotFound))
    }
}

fn public_key(scheme: i32, key: &[u8]) -> Result<(Scheme, PublicKey), Error> {
    let scheme = u8::try_from(scheme).ok().and_then(Scheme::of).ok_or(Error::BadArgument)?;
    let key = match scheme {
        Scheme::Ed25519 => key.try_into().ok().and_then(|k| Ed25519Key::from_bytes(k).ok()).map(Into::into),
        Scheme::RsaPssSha256 => PublicKey::from_spki(key).ok().filter(|key| key.scheme() == scheme),
    };
    Ok((scheme, key.ok_or(Error::BadArgument)?))
}

fn cipher(key_and_nonce: &[u8; 44]) -> (ChaCha20Poly1305, Nonce) {
    let (mut key, mut nonce) = ([0; 32], [0; 12]);
    key.copy_from_slice(&key_and_nonce[..32]);
    nonce.copy_from_slice(&key_and_nonce[32..]);
    (ChaCha20Poly1305::new(&key.into()), nonce.into())
}
