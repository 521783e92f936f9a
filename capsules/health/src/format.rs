//! What a report looks like; numbers are little endian.
//!
//! ```text
//! 1, signed?: 0 or 1, node's name: a length byte and at most 32 bytes, sequence (4),
//! seconds since 1970 or 0 (8), sensors: a count, and for each a length byte, its name, its value (8);
//! if signed: the node's public key (32), its signature over all before the key (64)
//! ```

use bees_sdk::bytes::{Reader, Writer};
use bees_sdk::{NodeKey, Sensors, node};

/// The longest name of a node, in bytes.
pub const MAX_NAME: usize = 32;
/// The longest report without its signature: what a node signs is 1024 bytes at most.
const MAX_BODY: usize = 1000;
const SIGNATURE: usize = 32 + 64;
/// The longest report, in bytes.
pub const MAX_REPORT: usize = MAX_BODY + SIGNATURE;
/// What a node puts before what it signs for a flow (`docs/abi/key.md`), and the flow's hash.
const CONTEXT: &[u8; 12] = b"bees guest 1";

/// A node's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report<'a> {
    /// The node's name.
    pub name: &'a [u8],
    /// How many it has sent, this one included.
    pub sequence: u32,
    /// When, in seconds since 1970; 0: the node does not know.
    pub wall: u64,
    /// Sensors and values, as they are packed.
    sensors: &'a [u8],
    /// The key that signed it, and that signature.
    proof: Option<(&'a [u8; 32], &'a [u8; 64])>,
    /// All that is signed.
    body: &'a [u8],
}

impl<'a> Report<'a> {
    /// Reads a report; `None` when it is none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let (kind, signed) = (r.u8()?, r.u8()?);
        let name = r.short(MAX_NAME)?;
        let (sequence, wall, count) = (r.u32()?, r.u64()?, r.u8()?);
        let sensors = r.rest();
        for _ in 0..count {
            let name = r.short(bees_sdk::privilege::MAX_SENSOR)?;
            r.u64().filter(|_| is_word(name))?;
        }
        let rest = r.rest();
        let sensors = &sensors[..sensors.len() - rest.len()];
        let body = &bytes[..bytes.len() - rest.len()];
        let proof = match signed {
            0 if rest.is_empty() => None,
            1 if rest.len() == SIGNATURE => Some((rest.first_chunk()?, rest.last_chunk()?)),
            _ => return None,
        };
        let fits = kind == 1 && is_word(name) && body.len() <= MAX_BODY;
        fits.then_some(Self { name, sequence, wall, sensors, proof, body })
    }

    /// The sensors' names and values.
    pub fn sensors(&self) -> impl Iterator<Item = (&'a [u8], i64)> + use<'a> {
        let mut r = Reader::new(self.sensors);
        core::iter::from_fn(move || Some((r.short(usize::MAX)?, r.u64()? as i64)))
    }

    /// A short name for the key that signed it; 0: nobody did. [`Report::is_sound`] says whether it did.
    pub fn key(&self) -> u64 {
        self.proof.map_or(0, |(key, _)| node::short_hash(key).max(1))
    }

    /// The key's first bytes.
    pub fn key_head(&self) -> Option<[u8; 8]> {
        self.proof.and_then(|(key, _)| key.first_chunk().copied())
    }

    /// Whether the signature, if there is one, is right.
    pub fn is_sound(&self) -> bool {
        use bees_sdk::crypto::{Scheme, verify};
        let (Some((key, signature)), Ok(hash)) = (self.proof, node::flow_hash()) else {
            return self.proof.is_none();
        };
        let mut signed = [0; CONTEXT.len() + 32 + MAX_BODY];
        let mut w = Writer::new(&mut signed);
        w.put(CONTEXT);
        w.put(&hash);
        w.put(self.body);
        let signed = w.finish().unwrap_or(&[]);
        verify(Scheme::Ed25519, key, signed, signature).is_ok()
    }
}

/// Whether it is a name as nodes and sensors have one: else it could pretend to be more of the line that programs get.
fn is_word(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_graphic)
}

/// Packs what this node's sensors say but for those that `ignored` names, and has it signed if the flow may.
pub fn pack<'b>(
    sequence: u32,
    sensors: &Sensors,
    ignored: impl Fn(&[u8]) -> bool,
    buffer: &'b mut [u8; MAX_REPORT],
) -> &'b [u8] {
    let key = NodeKey::find().ok();
    let public = key.and_then(|key| key.public().ok());
    let mut name = [0; MAX_NAME];
    let mut names = [0; 2048];
    let mut w = Writer::new(buffer);
    w.put(&[1, u8::from(public.is_some())]);
    w.short(node::name(&mut name).unwrap_or(b"?"));
    w.u32(sequence);
    w.u64(node::wall_clock().unwrap_or(0));
    let (count_at, mut count) = (w.len(), 0);
    w.u8(0);
    for name in sensors.names(&mut names).unwrap_or(&[]).split(|b| *b == b'\n') {
        let fits = w.len() + 1 + name.len() + 8 <= MAX_BODY && count < u8::MAX;
        if fits
            && !name.is_empty()
            && !ignored(name)
            && let Ok(value) = sensors.read(name)
        {
            w.short(name);
            w.u64(value as u64);
            count += 1;
        }
    }
    let len = w.len();
    buffer[count_at] = count;
    let Some((key, public)) = key.zip(public) else { return &buffer[..len] };
    let Ok(signature) = key.sign(&buffer[..len]) else {
        // Unsigned, then.
        buffer[1] = 0;
        return &buffer[..len];
    };
    buffer[len..len + 32].copy_from_slice(&public);
    buffer[len + 32..len + SIGNATURE].copy_from_slice(&signature);
    &buffer[..len + SIGNATURE]
}
