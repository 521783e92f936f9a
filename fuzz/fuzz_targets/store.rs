//! A device with a store on it, damaged: it is read or refused, and a store that was opened goes on.
//!
//! Input: pieces (`fuzz::pieces`). The first makes the device: its bytes are blobs that a sound store wrote. Each further one
//! is written over the device, at the sector of its number.
#![no_main]

use fuzz::pieces;
use libfuzzer_sys::fuzz_target;
use nodeos::account::Account;
use nodeos::store::{Bounds, MIN_DISK, RamDisk, SECTOR, Store};

const BOUNDS: Bounds = Bounds { area: 8, total: 64 };

fn store() -> Store {
    Store::new(Account::root(1 << 20), BOUNDS)
}

fuzz_target!(|bytes: &[u8]| {
    let mut pieces = pieces(bytes);
    let mut disk = RamDisk::new(MIN_DISK as usize);
    let account = Account::root(1 << 20);
    let mut sound = store();
    let (mut writer, _) = sound.open(&mut disk).expect("zeros are a new device");
    for (n, blob) in pieces.next().map_or(&[][..], |(_, bytes)| bytes).chunks(700).enumerate() {
        let _ = sound.put(&[n as u8 % 3; 32], &account, &[n as u8 % 5 + 1], blob);
        if n % 2 == 0
            && let Some(batch) = sound.batch()
        {
            let result = writer.write(&mut disk, &batch);
            assert!(result.is_ok() && sound.written(&result));
        }
    }
    for (sector, bytes) in pieces {
        let at = usize::from(sector) % (disk.0.len() / SECTOR) * SECTOR;
        let len = bytes.len().min(disk.0.len() - at);
        disk.0[at..at + len].copy_from_slice(&bytes[..len]);
    }
    let mut opened = store();
    let Ok((mut writer, _)) = opened.open(&mut disk) else { return };
    let _ = opened.put(&[9; 32], &account, b"new", b"content");
    while let Some(batch) = opened.batch() {
        let result = writer.write(&mut disk, &batch);
        let _ = opened.written(&result);
    }
    if opened.has_device() && opened.get(&[9; 32], b"new").is_some() {
        let mut again = store();
        again.open(&mut disk).expect("what was just written");
        assert_eq!(again.get(&[9; 32], b"new").map(|blob| &**blob), Some(&b"content"[..]));
    }
});
