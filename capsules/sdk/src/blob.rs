//! Blobs: what the node keeps for this flow until the flow ends, over a restart of the node, too, where that has
//! a disk (`docs/abi/blob.md`). Names have 1 to 64 bytes.

use crate::error::{Error, check, done};
use crate::sys;

/// The longest name, in bytes.
pub const MAX_NAME: usize = 64;
/// The longest blob, in bytes.
pub const MAX_BLOB: usize = 64 * 1024;

/// The privilege to keep blobs on the node: the flow's own area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blobs(u32);

impl Blobs {
    /// Asks for it.
    pub fn find() -> Result<Self, Error> {
        check(sys::cap_lookup(b"blobs")).map(Self)
    }

    /// Keeps a blob, in place of one of the same name.
    pub fn put(&self, name: &[u8], bytes: &[u8]) -> Result<(), Error> {
        done(sys::blob_put(self.0, name, bytes))
    }

    /// Bytes of a blob from `offset` on, as many as fit `buffer`.
    pub fn get<'a>(&self, name: &[u8], offset: usize, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let n = check(sys::blob_get(self.0, name, offset as u32, buffer))? as usize;
        buffer.get(..n).ok_or(Error::Unavailable)
    }

    /// A blob's length.
    pub fn len(&self, name: &[u8]) -> Result<usize, Error> {
        check(sys::blob_len(self.0, name)).map(|n| n as usize)
    }

    /// The name of the blob at this position in the order of names; `None` behind the last.
    pub fn name<'a>(&self, index: usize, buffer: &'a mut [u8; MAX_NAME]) -> Result<Option<&'a [u8]>, Error> {
        match check(sys::blob_list(self.0, index as u32, buffer)) {
            Ok(n) => Ok(buffer.get(..n as usize)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a blob.
    pub fn remove(&self, name: &[u8]) -> Result<(), Error> {
        done(sys::blob_remove(self.0, name))
    }

    /// The capability's number.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// The capability that came in an envelope of the operator's.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::describe::{Description, Events};
    use crate::testing::Network;
    use crate::{Capsule, Protocol, Session, SessionEvent, Text};

    const DESCRIPTION: Description = Description {
        name: "keeper",
        capsules: &[],
        events: Events { boot: None, timer: None, session: None },
        session: true,
        params: &[],
        companions: &[],
    };

    /// Counts its packets, in a blob.
    struct Keeper;

    impl Keeper {
        fn count(line: &mut Text<100>) -> Result<(), Error> {
            let blobs = Blobs::find()?;
            let mut buffer = [0; 8];
            let before = match blobs.get(b"count", 0, &mut buffer) {
                Ok(bytes) => bytes.first().copied().unwrap_or(0),
                Err(Error::NotFound) => 0,
                Err(error) => return Err(error),
            };
            let count = before + 1;
            blobs.put(b"count", &[count, 0, 0])?;
            blobs.put(b"also", b"")?;
            assert_eq!((blobs.len(b"count")?, blobs.get(b"count", 1, &mut buffer)?), (3, &[0, 0][..]));
            assert_eq!(blobs.get(b"count", 4, &mut buffer), Err(Error::BadArgument));
            let mut name = [0; MAX_NAME];
            assert_eq!(blobs.name(0, &mut name)?, Some(&b"also"[..]));
            assert_eq!(blobs.name(1, &mut name)?, Some(&b"count"[..]));
            assert_eq!(blobs.name(2, &mut name)?, None);
            assert_eq!((blobs.remove(b"also"), blobs.remove(b"also")), (Ok(()), Err(Error::NotFound)));
            assert_eq!(blobs.put(b"", b"x"), Err(Error::BadArgument));
            let envelope = crate::envelope::Envelope::new(blobs.to_bits(), None);
            assert_eq!(envelope, Err(Error::BadArgument));
            line.push("count ");
            line.push(count);
            Ok(())
        }
    }

    impl Protocol for Keeper {
        fn session(&mut self, _: Option<Capsule>, session: Session, event: SessionEvent<'_>) {
            if let SessionEvent::Packet(..) = event {
                let mut line = Text::new();
                if let Err(error) = Self::count(&mut line) {
                    line.push(error);
                }
                let _ = session.reply(line.as_bytes());
            }
        }
    }

    #[test]
    fn blobs_outlive_a_restart_and_need_the_privilege() {
        let mut net = Network::new(&DESCRIPTION, 1);
        let node = net.node("a", Keeper);
        let session = net.open(node);
        net.send(session, b"x");
        net.grant(node, "blobs");
        net.send(session, b"x");
        net.restart(node, Keeper);
        net.send(session, b"x");
        let received = net.received(session);
        assert_eq!(received[1..], ["count 1", "count 2"]);
        assert_ne!(received[0], "count 1");
    }
}
