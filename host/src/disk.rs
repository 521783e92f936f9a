//! A file as the node's disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nodeos::store::{Disk, DiskError, SECTOR};

/// A file of whole sectors: an ordinary one, or a block device.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    sectors: u64,
}

impl FileDisk {
    /// Opens a file that is there. One that another process uses as its disk is refused.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        file.try_lock().map_err(|_| io::Error::other("another process uses it"))?;
        // The length of a block device is where its end is.
        let bytes = (&file).seek(SeekFrom::End(0))?;
        Ok(Self { file, sectors: bytes / SECTOR as u64 })
    }
}

impl Disk for FileDisk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.file.read_exact_at(into, at * SECTOR as u64).map_err(DiskError::new)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_all_at(bytes, at * SECTOR as u64).map_err(DiskError::new)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(DiskError::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_stay_where_they_were_written() {
        let path = std::env::temp_dir().join(format!("bees-disk-{}", std::process::id()));
        std::fs::write(&path, vec![0; 10 * SECTOR + 7]).unwrap();
        let mut disk = FileDisk::open(&path).unwrap();
        assert_eq!(disk.sectors(), 10);
        disk.write(3, &[5; 2 * SECTOR]).unwrap();
        disk.flush().unwrap();
        assert!(FileDisk::open(&path).is_err(), "it has its user");
        drop(disk);
        let mut disk = FileDisk::open(&path).unwrap();
        let mut sector = [0; SECTOR];
        for (at, byte) in [(2, 0), (3, 5), (4, 5), (5, 0)] {
            disk.read(at, &mut sector).unwrap();
            assert_eq!(sector, [byte; SECTOR]);
        }
        assert!(disk.read(11, &mut sector).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
