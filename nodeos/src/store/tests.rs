//! The store against a model, and against devices that lose power, lie and fail.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { area: 8, total: 32 };
type State = BTreeMap<(Owner, Vec<u8>), Vec<u8>>;

fn store() -> Store {
    Store::new(Account::root(1 << 20), BOUNDS)
}

fn state(store: &Store) -> State {
    let mut state = State::new();
    for area in &store.areas {
        for blob in &area.blobs {
            state.insert((area.owner, blob.name.to_vec()), blob.data.to_vec());
        }
    }
    state
}

fn apply(state: &mut State, op: &Op) {
    match op {
        Op::Put { owner, name, data } => {
            state.insert((*owner, name.to_vec()), data.to_vec());
        }
        Op::Remove { owner, name } => {
            state.remove(&(*owner, name.to_vec()));
        }
        Op::RemoveArea { owner } => state.retain(|(o, _), _| o != owner),
    }
}

/// What a guest may do to the store.
#[derive(Debug, Clone)]
enum Change {
    Put {
        owner: u8,
        name: u8,
        len: usize,
        fill: u8,
    },
    Remove {
        owner: u8,
        name: u8,
    },
    RemoveArea {
        owner: u8,
    },
    /// The device catches up.
    Write,
    /// The node is started anew.
    Restart,
}

fn change() -> impl Strategy<Value = Change> {
    let (owner, name) = (1u8..4, 0u8..5);
    prop_oneof![
        8 => (owner.clone(), name.clone(), 0usize..1200, any::<u8>())
            .prop_map(|(owner, name, len, fill)| Change::Put { owner, name, len, fill }),
        2 => (owner.clone(), name).prop_map(|(owner, name)| Change::Remove { owner, name }),
        1 => owner.prop_map(|owner| Change::RemoveArea { owner }),
        5 => Just(Change::Write),
        1 => Just(Change::Restart),
    ]
}

/// A disk that keeps every sector write, in order.
struct Recorder {
    image: RamDisk,
    writes: Vec<(u64, Vec<u8>)>,
    /// After how many of them it was flushed.
    flushes: Vec<usize>,
}

impl Disk for Recorder {
    fn sectors(&self) -> u64 {
        self.image.sectors()
    }
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.image.read(at, into)
    }
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        for (n, sector) in (at..).zip(bytes.chunks(SECTOR)) {
            self.writes.push((n, sector.to_vec()));
        }
        self.image.write(at, bytes)
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        self.flushes.push(self.writes.len());
        Ok(())
    }
}

/// A store and the device that it writes to.
struct Rig {
    store: Store,
    writer: Writer,
    disk: Recorder,
    /// What the device holds, by the operations that were handed to it.
    written: State,
    /// After so many sector writes the device may hold any of these.
    allowed: Vec<(usize, Vec<State>)>,
    account: Account,
}

impl Rig {
    fn new(bytes: usize) -> Self {
        let mut disk = Recorder { image: RamDisk::new(bytes), writes: Vec::new(), flushes: vec![] };
        let mut store = store();
        let (writer, opened) = store.open(&mut disk).unwrap();
        assert_eq!(opened, Opened::default());
        let account = Account::root(1 << 20);
        let allowed = vec![(0, vec![State::new()])];
        Self { store, writer, disk, written: State::new(), allowed, account }
    }

    fn write(&mut self) {
        while let Some(batch) = self.store.batch() {
            let before = self.disk.writes.len();
            let mut states = vec![self.written.clone()];
            match &batch {
                Batch::Append(ops) => {
                    for op in ops {
                        apply(&mut self.written, op);
                        states.push(self.written.clone());
                    }
                }
                Batch::Rewrite(ops) => {
                    self.written.clear();
                    ops.iter().for_each(|op| apply(&mut self.written, op));
                    states.push(self.written.clone());
                }
            }
            let result = self.writer.write(&mut self.disk, &batch);
            assert_eq!(result, Ok(()));
            assert!(self.store.written(&result));
            self.allowed.push((before, states));
            self.allowed.push((self.disk.writes.len(), vec![self.written.clone()]));
        }
        assert_eq!(self.written, state(&self.store));
    }

    fn change(&mut self, change: &Change) {
        let area = |n: &u8| [*n; 32];
        match change {
            Change::Put { owner, name, len, fill } => {
                let data = vec![*fill; *len];
                match self.store.put(&area(owner), &self.account, &[*name], &data) {
                    Ok(()) => assert_eq!(&**self.store.get(&area(owner), &[*name]).unwrap(), &data[..]),
                    Err(e) => assert!(matches!(e, StoreError::Full | StoreError::Busy), "{e}"),
                }
            }
            Change::Remove { owner, name } => {
                let _ = self.store.remove(&area(owner), &[*name]);
            }
            Change::RemoveArea { owner } => {
                self.store.remove_area(&area(owner));
            }
            Change::Write => self.write(),
            Change::Restart => {
                self.write();
                self.store = store();
                let (writer, opened) = self.store.open(&mut self.disk).unwrap();
                assert_eq!((opened.damage, state(&self.store)), (Damage::default(), self.written.clone()));
                self.writer = writer;
                self.account = Account::root(1 << 20);
                for owner in 1..4 {
                    self.store.claim(&[owner; 32], &self.account).unwrap();
                }
            }
        }
    }
}

fn reopened(disk: &mut dyn Disk) -> (State, Opened) {
    let mut store = store();
    let (_, opened) = store.open(disk).unwrap();
    (state(&store), opened)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whenever the power goes, what was written last is there whole, or what was there before.
    #[test]
    fn any_cut_leaves_one_state_or_the_other(changes in proptest::collection::vec(change(), 1..80)) {
        let mut rig = Rig::new(MIN_DISK as usize);
        changes.iter().for_each(|c| rig.change(c));
        rig.write();
        let mut image = RamDisk::new(MIN_DISK as usize);
        let mut at = 0;
        for cut in 0..=rig.disk.writes.len() {
            while rig.allowed.get(at + 1).is_some_and(|(from, _)| *from <= cut) {
                at += 1;
            }
            // A batch of no sector's difference has both states.
            let now = rig.allowed.iter().filter(|(from, _)| *from == cut).flat_map(|(_, s)| s);
            let (found, opened) = reopened(&mut image);
            let fits = rig.allowed[at].1.iter().chain(now).any(|s| *s == found);
            prop_assert!(fits, "cut at {cut}: {:?}", found.keys());
            prop_assert_eq!(opened.damage.records, 0);
            if let Some((sector, bytes)) = rig.disk.writes.get(cut) {
                image.write(*sector, bytes).unwrap();
            }
        }
    }

    /// The power fails again and again, while what the last start found is written anew, too.
    #[test]
    fn crash_after_crash_leaves_one_state_or_the_other(
        lives in proptest::collection::vec((proptest::collection::vec(change(), 1..12), any::<usize>()), 1..20),
    ) {
        let mut image = RamDisk::new(MIN_DISK as usize);
        let mut kept = State::new();
        for (changes, cut) in lives {
            let mut rig = Rig::new(MIN_DISK as usize);
            rig.disk.image = image.clone();
            rig.store = store();
            let (writer, opened) = rig.store.open(&mut rig.disk).unwrap();
            prop_assert_eq!((opened.damage.records, state(&rig.store)), (0, kept.clone()));
            (rig.writer, rig.written) = (writer, kept);
            rig.allowed = vec![(0, vec![rig.written.clone()])];
            (1..4).for_each(|owner| rig.store.claim(&[owner; 32], &rig.account).unwrap());
            changes.iter().filter(|c| !matches!(c, Change::Restart)).for_each(|c| rig.change(c));
            rig.write();
            let cut = cut % (rig.disk.writes.len() + 1);
            rig.disk.writes[..cut].iter().for_each(|(at, bytes)| image.write(*at, bytes).unwrap());
            let found = reopened(&mut image.clone()).0;
            let last = rig.allowed.iter().rposition(|(from, _)| *from <= cut).unwrap();
            let now = rig.allowed.iter().filter(|(from, _)| *from == cut).flat_map(|(_, s)| s);
            prop_assert!(rig.allowed[last].1.iter().chain(now).any(|s| *s == found), "cut at {cut}");
            kept = found;
        }
    }

    /// A device may keep any of the sectors that were written since the last flush, and lose others.
    #[test]
    fn any_part_of_a_batch_leaves_a_state_of_it(
        changes in proptest::collection::vec(change(), 1..60), epoch in any::<usize>(),
        kept in proptest::collection::vec(any::<bool>(), 400),
    ) {
        let mut rig = Rig::new(MIN_DISK as usize);
        changes.iter().for_each(|c| rig.change(c));
        rig.change(&Change::Put { owner: 3, name: 4, len: 1000, fill: 1 });
        rig.change(&Change::Put { owner: 3, name: 3, len: 1000, fill: 2 });
        rig.write();
        let epoch = epoch % rig.disk.flushes.len();
        let from = if epoch == 0 { 0 } else { rig.disk.flushes[epoch - 1] };
        let mut image = RamDisk::new(MIN_DISK as usize);
        for (n, (at, bytes)) in rig.disk.writes[..rig.disk.flushes[epoch]].iter().enumerate() {
            if n < from || kept[n % kept.len()] {
                image.write(*at, bytes).unwrap();
            }
        }
        let (found, opened) = reopened(&mut image);
        let last = rig.allowed.iter().rposition(|(start, _)| *start <= from).unwrap();
        let after = rig.allowed[last..].iter().take_while(|(start, _)| *start <= rig.disk.flushes[epoch]);
        prop_assert!(after.flat_map(|(_, s)| s).any(|s| *s == found), "{:?}", found.keys());
        prop_assert_eq!(opened.damage.records, 0);
    }

    /// One changed bit costs at most one blob, or takes the last change back; no blob gets other bytes.
    #[test]
    fn a_changed_bit_gives_no_wrong_bytes(
        changes in proptest::collection::vec(change(), 1..40), at in any::<usize>(), bit in 0u8..8,
    ) {
        let mut rig = Rig::new(MIN_DISK as usize);
        changes.iter().for_each(|c| rig.change(c));
        rig.write();
        // The last change by itself, so that it is known.
        let before = rig.written.clone();
        rig.change(&Change::Put { owner: 1, name: 1, len: 300, fill: 7 });
        rig.write();
        let mut image = rig.disk.image.clone();
        let at = at % image.0.len();
        image.0[at] ^= 1 << bit;
        let (found, _) = reopened(&mut image);
        for (key, data) in &found {
            prop_assert!(rig.written.get(key) == Some(data) || before.get(key) == Some(data));
        }
        let lost = rig.written.iter().filter(|(key, data)| found.get(*key) != Some(data)).count();
        prop_assert!(lost <= 1, "{lost} lost");
    }

    /// Many changed bits, or anything at all: nothing panics, and no blob has bytes that nobody wrote.
    #[test]
    fn a_mess_gives_no_wrong_bytes(
        changes in proptest::collection::vec(change(), 1..40),
        flips in proptest::collection::vec((1024usize.., 0u8..8), 1..200), noise in any::<bool>(),
    ) {
        let mut rig = Rig::new(MIN_DISK as usize);
        let mut ever: Vec<State> = vec![];
        for c in &changes {
            rig.change(c);
            ever.push(state(&rig.store));
        }
        rig.write();
        let mut image = rig.disk.image.clone();
        for (at, bit) in flips {
            let at = 16 * SECTOR + at % (image.0.len() - 16 * SECTOR);
            image.0[at] ^= 1 << bit;
            if noise && at + 600 < image.0.len() {
                // A copy of something else.
                image.0.copy_within(at..at + 600, at / 2 + 16 * SECTOR / 2);
            }
        }
        let (found, _) = reopened(&mut image);
        for (key, data) in &found {
            prop_assert!(ever.iter().any(|s| s.get(key) == Some(data)));
        }
    }

    #[test]
    fn any_device_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000), offset in any::<usize>()) {
        let mut image = RamDisk::new(MIN_DISK as usize);
        let offset = offset % (image.0.len() - bytes.len());
        image.0[offset..offset + bytes.len()].copy_from_slice(&bytes);
        let mut store = store();
        match store.open(&mut image) {
            Ok(_) => prop_assert!(state(&store).is_empty()),
            Err(e) => prop_assert_eq!(e, Unusable::Foreign),
        }
    }
}

#[test]
fn devices_of_other_kinds_are_left_alone() {
    let mut small = RamDisk::new(MIN_DISK as usize - SECTOR);
    assert_eq!(store().open(&mut small).unwrap_err(), Unusable::Small);
    let mut other = RamDisk::new(MIN_DISK as usize);
    other.0[510] = 0x55;
    let before = other.clone();
    assert_eq!(store().open(&mut other).unwrap_err(), Unusable::Foreign);
    assert_eq!(other, before);
}

#[test]
fn the_last_blob_fits_and_the_next_is_refused() {
    let account = Account::root(100_000);
    let mut store = store();
    let put = |store: &mut Store, owner: u8, name: &[u8], len| {
        store.put(&[owner; 32], &account, name, &vec![1; len])
    };
    assert_eq!(put(&mut store, 1, b"", 1), Err(StoreError::Name));
    assert_eq!(put(&mut store, 1, &[b'x'; 65], 1), Err(StoreError::Name));
    assert_eq!(put(&mut store, 1, b"x", MAX_BLOB + 1), Err(StoreError::TooLarge));
    assert_eq!(account.used(), 0);
    put(&mut store, 1, &[b'x'; 64], MAX_BLOB).unwrap();
    assert_eq!(account.used(), AREA_BYTES + BLOB_BYTES + MAX_BLOB as u64);
    // A second one of that size does not fit, the same one again does.
    assert_eq!(put(&mut store, 1, b"y", MAX_BLOB), Err(StoreError::Memory));
    put(&mut store, 1, &[b'x'; 64], MAX_BLOB - 1).unwrap();
    put(&mut store, 1, &[b'x'; 64], 0).unwrap();
    assert_eq!(account.used(), AREA_BYTES + BLOB_BYTES);
    for n in 1..BOUNDS.area {
        put(&mut store, 1, &[n as u8], 10).unwrap();
    }
    assert_eq!(put(&mut store, 1, b"y", 1), Err(StoreError::Full));
    for owner in 2..=4 {
        (0..BOUNDS.area).for_each(|n| put(&mut store, owner, &[n as u8], 1).unwrap());
    }
    assert_eq!(put(&mut store, 5, b"y", 1), Err(StoreError::Full), "all are in use");
    assert_eq!(store.remove(&[1; 32], b"none"), Err(StoreError::Missing));
    (0..=9).for_each(|owner| {
        store.remove_area(&[owner; 32]);
    });
    assert_eq!((account.used(), store.blobs, store.sectors), (0, 0, 0));
}

#[test]
fn an_area_is_paid_for_by_who_claims_it() {
    let mut rig = Rig::new(MIN_DISK as usize);
    for owner in 1..4 {
        rig.change(&Change::Put { owner, name: 1, len: 1000, fill: owner });
    }
    // What waits for the device is paid for, too, until it is written.
    let each = AREA_BYTES + BLOB_BYTES + 1000;
    assert_eq!(rig.account.used(), 3 * (each + 1000 + WAITING_BYTES));
    rig.write();
    assert_eq!(rig.account.used(), 3 * each);
    let own = Account::root(2 * each);
    let mut store = Store::new(own.clone(), BOUNDS);
    let (_, opened) = store.open(&mut rig.disk).unwrap();
    assert_eq!((opened.blobs, opened.areas, opened.dropped), (2, 2, 1), "the oldest made room");
    assert_eq!((store.get(&[1; 32], &[1]), own.used()), (None, 2 * each));
    let (poor, team) = (Account::root(each - 1), Account::root(each));
    assert_eq!(store.claim(&[3; 32], &poor), Err(StoreError::Memory));
    assert_eq!((poor.used(), own.used()), (0, 2 * each));
    store.claim(&[3; 32], &team).unwrap();
    assert_eq!((team.used(), own.used()), (each, each));
    assert_eq!(store.areas().filter(|a| a.claimed).map(|a| a.owner).collect::<Vec<_>>(), [[3; 32]]);
    assert!(store.remove_area(&[3; 32]) && !store.remove_area(&[3; 32]));
    assert_eq!(team.used(), 0);
}

#[test]
fn unclaimed_areas_make_room_for_the_living() {
    let mut rig = Rig::new(MIN_DISK as usize);
    rig.store.put(&NODE, &rig.account, b"identity", &[1; 64]).unwrap();
    for owner in 1..4 {
        rig.change(&Change::Put { owner, name: 1, len: 5000, fill: owner });
        rig.write();
    }
    let mut store = store();
    store.open(&mut rig.disk).unwrap();
    let account = Account::root(1 << 20);
    store.claim(&[1; 32], &account).unwrap();
    let (used, most) = store.device_use().unwrap();
    assert!(used + 6000 > most, "{used} of {most}");
    store.put(&[9; 32], &account, b"new", &[9; 5000]).unwrap();
    // 1 is in use, 2 is the oldest of the others.
    let left: Vec<u8> = store.areas().map(|a| a.owner[0]).collect();
    assert_eq!((left, store.take_dropped()), (vec![0, 1, 3, 9], 1));
    store.put(&[9; 32], &account, b"more", &[9; 5000]).unwrap();
    assert_eq!(store.put(&[9; 32], &account, b"most", &[9; 6000]), Err(StoreError::Full));
    assert!(store.get(&NODE, b"identity").is_some());
}

#[test]
fn who_changes_too_fast_waits_for_the_device() {
    let mut rig = Rig::new(1 << 20);
    for n in 0..MAX_WAITING {
        rig.store.put(&[1; 32], &rig.account, b"x", &[n as u8]).unwrap();
    }
    assert_eq!(rig.store.put(&[1; 32], &rig.account, b"x", b""), Err(StoreError::Busy));
    assert_eq!(rig.store.remove(&[1; 32], b"x"), Err(StoreError::Busy));
    rig.store.put(&[2; 32], &rig.account, b"x", b"").unwrap();
    // The end of a team waits for nothing, and gives everything back, while a batch is on its way.
    let batch = rig.store.batch().unwrap();
    rig.store.put(&[1; 32], &rig.account, b"y", &[1; 999]).unwrap();
    assert!(rig.store.remove_area(&[1; 32]) && rig.store.remove_area(&[2; 32]));
    assert_eq!(rig.account.used(), 0);
    let result = rig.writer.write(&mut rig.disk, &batch);
    assert!(rig.store.written(&result));
    rig.write_only();
    assert!(reopened(&mut rig.disk).0.is_empty());
}

impl Rig {
    fn write_only(&mut self) {
        while let Some(batch) = self.store.batch() {
            let result = self.writer.write(&mut self.disk, &batch);
            self.store.written(&result);
        }
    }
}

/// Fails every write from the `good`-th sector on, until it is mended.
struct Failing {
    image: RamDisk,
    good: usize,
}

impl Disk for Failing {
    fn sectors(&self) -> u64 {
        self.image.sectors()
    }
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.image.read(at, into)
    }
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        for (n, sector) in (at..).zip(bytes.chunks(SECTOR)) {
            self.good = self.good.checked_sub(1).ok_or_else(|| DiskError::new("worn out"))?;
            self.image.write(n, sector)?;
        }
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

#[test]
fn a_device_that_fails_now_and_then_catches_up() {
    let account = Account::root(1 << 20);
    for good in 0..12 {
        let mut disk = Failing { image: RamDisk::new(MIN_DISK as usize), good: 1000 };
        let mut store = store();
        let (mut writer, _) = store.open(&mut disk).unwrap();
        let mut write = |store: &mut Store, disk: &mut Failing| {
            let batch = store.batch().expect("something to write");
            let result = writer.write(disk, &batch);
            (result.is_ok(), store.written(&result))
        };
        store.put(&[1; 32], &account, b"a", &[1; 600]).unwrap();
        assert_eq!(write(&mut store, &mut disk), (true, true));
        disk.good = good;
        store.put(&[1; 32], &account, b"b", &[2; 3000]).unwrap();
        let mut written = write(&mut store, &mut disk).0;
        if !written {
            let (found, _) = reopened(&mut disk.image);
            assert_eq!(found.get(&([1; 32], b"a".to_vec())), Some(&vec![1; 600]), "what was there is there");
            written = write(&mut store, &mut disk).0;
        }
        disk.good = 1000;
        if !written {
            assert_eq!(write(&mut store, &mut disk), (true, true));
        }
        assert!(store.batch().is_none());
        assert_eq!(reopened(&mut disk.image).0, state(&store));
    }
}

#[test]
fn a_device_that_keeps_failing_is_given_up() {
    let account = Account::root(1 << 20);
    let mut disk = Failing { image: RamDisk::new(MIN_DISK as usize), good: 0 };
    let mut store = store();
    let (mut writer, _) = store.open(&mut disk).unwrap();
    store.put(&[1; 32], &account, b"a", b"1").unwrap();
    let mut tries = 0;
    while let Some(batch) = store.batch() {
        tries += 1;
        let result = writer.write(&mut disk, &batch);
        assert_eq!(store.written(&result), tries < 3);
    }
    assert_eq!((tries, store.has_device()), (3, false));
    store.put(&[1; 32], &account, b"b", b"2").unwrap();
    assert!(store.batch().is_none());
    assert_eq!(&**store.get(&[1; 32], b"a").unwrap(), b"1");
    store.remove_area(&[1; 32]);
    assert_eq!(account.used(), 0);
}

/// What a guest stores is no record, even if it looks like one and what is before it is damaged.
#[test]
fn a_blob_does_not_pass_for_a_record() {
    let mut rig = Rig::new(1 << 20);
    rig.store.put(&[1; 32], &rig.account, b"mine", &[5; 10]).unwrap();
    rig.write();
    // The very bytes of records of this log, for another area, at each place where a sector could begin.
    let op = Op::Put { owner: [2; 32], name: (*b"forged").into(), data: Arc::new([6; 10]) };
    let mut forged = Vec::new();
    for sequence in 1..8 {
        let place = record::Place { generation: 1, sequence, settled: sequence - 1, tags: [0; record::TAGS] };
        record::emit(&op, &place, &mut forged);
    }
    for shift in [0, 8, 248, 256, 264, 504] {
        let blob: Vec<u8> = vec![0; shift].into_iter().chain(forged.iter().copied()).collect();
        rig.store.put(&[1; 32], &rig.account, b"evil", &blob).unwrap();
        rig.write();
        let mut image = rig.disk.image.clone();
        let heads: Vec<usize> =
            (0..image.0.len() / SECTOR).filter(|s| image.0[s * SECTOR..].starts_with(b"BEESBLOB")).collect();
        for head in heads {
            image.0[head * SECTOR + 100] ^= 1;
            let (found, _) = reopened(&mut image);
            assert!(found.keys().all(|(owner, _)| *owner == [1; 32]), "{shift}");
            image.0[head * SECTOR + 100] ^= 1;
        }
    }
}

#[test]
fn either_superblock_is_enough() {
    let mut rig = Rig::new(MIN_DISK as usize);
    // Full more than once.
    for n in 0..90 {
        rig.change(&Change::Put { owner: 1, name: n % 5, len: 1000, fill: n });
        rig.write();
        for at in [0, 8 * SECTOR] {
            let mut image = rig.disk.image.clone();
            image.0[at + 40] ^= 1;
            assert_eq!(reopened(&mut image).0, rig.written, "{n} {at}");
        }
    }
    let mut image = rig.disk.image.clone();
    image.0[40] ^= 1;
    image.0[8 * SECTOR + 40] ^= 1;
    assert_eq!(store().open(&mut image).unwrap_err(), Unusable::Foreign);
}

#[test]
fn damage_in_the_middle_is_told_and_costs_one_blob() {
    let mut rig = Rig::new(1 << 20);
    for (name, len) in [(1, 10), (2, 2000), (3, 10), (2, 1500), (4, 10)] {
        rig.change(&Change::Put { owner: 1, name, len, fill: name });
        rig.write();
    }
    // The log: a rewrite with 1, then four records appended. The second of the two about blob 2 is damaged, in its
    // first sector and in its last.
    let sectors: Vec<usize> = {
        let image = &rig.disk.image.0;
        (0..image.len() / SECTOR).filter(|s| image[s * SECTOR..].starts_with(b"BEESBLOB")).collect()
    };
    assert_eq!(sectors.len(), 5);
    for sector in [sectors[3], sectors[4] - 1] {
        let mut image = rig.disk.image.clone();
        image.0[sector * SECTOR + 60] ^= 1;
        let mut store = store();
        let (_, opened) = store.open(&mut image).unwrap();
        assert_eq!(opened.damage, Damage { records: 1, unknown: 0, torn: false });
        let names: Vec<u8> = state(&store).keys().map(|(_, name)| name[0]).collect();
        assert_eq!(names, [1, 3, 4], "the older content of 2 does not come back");
        assert_eq!(store.areas().map(|a| a.damaged).collect::<Vec<_>>(), [1]);
    }
}
