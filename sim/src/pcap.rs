//! Capture files that Wireshark, tshark and tcpdump read: pcap 2.4, link type Ethernet, microseconds.

use std::io::{self, Write};

/// Magic number of a file with microsecond times.
const MAGIC: u32 = 0xa1b2_c3d4;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;
/// Longest frame kept, in bytes.
const SNAP_LEN: u32 = 65_535;

/// Writes frames to a capture file. Buffering is the underlying writer's business.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Starts a capture file.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut header = Vec::with_capacity(24);
        header.extend_from_slice(&MAGIC.to_le_bytes());
        header.extend_from_slice(&2u16.to_le_bytes());
        header.extend_from_slice(&4u16.to_le_bytes());
        header.extend_from_slice(&[0; 8]);
        header.extend_from_slice(&SNAP_LEN.to_le_bytes());
        header.extend_from_slice(&ETHERNET.to_le_bytes());
        out.write_all(&header)?;
        Ok(Self { out })
    }

    /// Appends a frame seen at `time_us` (microseconds since 1970, or since the start of the run).
    pub fn frame(&mut self, time_us: u64, bytes: &[u8]) -> io::Result<()> {
        let kept = &bytes[..bytes.len().min(SNAP_LEN as usize)];
        let mut header = [0; 16];
        header[0..4].copy_from_slice(&((time_us / 1_000_000) as u32).to_le_bytes());
        header[4..8].copy_from_slice(&((time_us % 1_000_000) as u32).to_le_bytes());
        header[8..12].copy_from_slice(&(kept.len() as u32).to_le_bytes());
        header[12..16].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.out.write_all(&header)?;
        self.out.write_all(kept)
    }

    /// Hands on what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_as_the_format_says() {
        let mut bytes = Vec::new();
        let mut w = Writer::new(&mut bytes).unwrap();
        w.frame(3_000_007, b"frame").unwrap();
        w.flush().unwrap();
        assert_eq!(bytes.len(), 24 + 16 + 5);
        assert_eq!(bytes[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(bytes[24..40], [3, 0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(&bytes[40..], b"frame");
    }
}
