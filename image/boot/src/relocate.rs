//! Applies packed relative relocations: places in the image that hold an address, counted from the
//! image's first byte, to which its real place in memory is to be added.
//!
//! hermit-entry applies the long form only, 24 bytes for each of some 10,000 places. Packed they are a
//! list of words, as `SHT_RELR` in the System V ABI has it: an even word is the address of a place; an
//! odd word is a bitmap of which of the 63 words that come next are places too.
//!
//! Plain code without the machine, so that the tests run where the image is built (xtask includes it).

use core::ops::Range;

// Tags of the dynamic section.
const DT_NULL: u64 = 0;
const DT_RELRSZ: u64 = 35;
const DT_RELR: u64 = 36;
const DT_RELRENT: u64 = 37;

const WORD: usize = 8;
/// How many words one bitmap tells of.
const MAPPED: usize = 63;

/// Adds `start` to every place that the dynamic section at `dynamic` lists. `memory` is the loaded
/// image; all addresses count from its first byte.
pub fn relocate(memory: &mut [u8], dynamic: Range<usize>, start: u64) -> Result<(), &'static str> {
    let (mut list, mut size) = (0, 0);
    for entry in dynamic.step_by(2 * WORD) {
        let (tag, value) = (word(memory, entry)?, word(memory, entry + WORD)?);
        match tag {
            DT_NULL => break,
            DT_RELR => list = value as usize,
            DT_RELRSZ => size = value as usize,
            DT_RELRENT if value != WORD as u64 => return Err("the image's relocations are not of 8 bytes"),
            _ => (),
        }
    }
    let end = list.checked_add(size).filter(|&end| end <= memory.len() && size.is_multiple_of(WORD));
    let end = end.ok_or("the image's relocations are not inside it")?;
    // The first word that the next bitmap tells of.
    let mut next = None;
    for at in (list..end).step_by(WORD) {
        let entry = word(memory, at)?;
        if entry & 1 == 0 {
            add(memory, entry as usize, start)?;
            next = Some(entry as usize + WORD);
        } else {
            let first = next.ok_or("the image's relocations start with a bitmap")?;
            for index in (0..MAPPED).filter(|index| entry >> (index + 1) & 1 == 1) {
                add(memory, first + index * WORD, start)?;
            }
            next = Some(first + MAPPED * WORD);
        }
    }
    Ok(())
}

fn add(memory: &mut [u8], at: usize, start: u64) -> Result<(), &'static str> {
    let relocated = word(memory, at)?.wrapping_add(start);
    memory[at..at + WORD].copy_from_slice(&relocated.to_le_bytes());
    Ok(())
}

fn word(memory: &[u8], at: usize) -> Result<u64, &'static str> {
    let bytes = memory.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map(|bytes| u64::from_le_bytes(*bytes)).ok_or("a relocation of the image is not inside it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An image of 4 KiB: dynamic section, list, and from here on places.
    const PLACES: usize = 2048;
    const LIST: usize = 256;
    const START: u64 = 0x20_0000;

    /// An image with this list. Every word from PLACES on holds its own address.
    fn image(list: &[u64]) -> Vec<u8> {
        let mut words = vec![DT_RELRENT, 8, DT_RELR, LIST as u64, DT_RELRSZ, (list.len() * WORD) as u64];
        words.resize(LIST / WORD, DT_NULL);
        words.extend(list);
        words.resize(PLACES / WORD, 0);
        words.extend((PLACES..4096).step_by(WORD).map(|at| at as u64));
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn relocated(list: &[u64]) -> Result<Vec<u8>, &'static str> {
        let mut memory = image(list);
        relocate(&mut memory, 0..LIST, START)?;
        Ok(memory)
    }

    /// The list that names these places, in ascending order.
    fn pack(places: &[usize]) -> Vec<u64> {
        let mut list = Vec::new();
        let mut places = places.iter().copied().peekable();
        while let Some(place) = places.next() {
            list.push(place as u64);
            let mut first = place + WORD;
            loop {
                let mut bitmap = 1;
                while let Some(next) = places.next_if(|&next| next < first + MAPPED * WORD) {
                    bitmap |= 2 << ((next - first) / WORD);
                }
                if bitmap == 1 {
                    break;
                }
                list.push(bitmap);
                first += MAPPED * WORD;
            }
        }
        list
    }

    #[test]
    fn addresses_and_bitmaps_name_places() {
        let place = PLACES as u64;
        let memory = relocated(&[place, 0b1011, place + 1024]).unwrap();
        for at in (PLACES..4096).step_by(WORD) {
            let named = [0, 8, 24, 1024].contains(&(at - PLACES));
            let expected = at as u64 + if named { START } else { 0 };
            assert_eq!(word(&memory, at), Ok(expected), "{at:#x}");
        }
        // The second of two bitmaps tells of the words behind those of the first.
        let memory = relocated(&[place, 1, 0b11]).unwrap();
        let at = PLACES + WORD + MAPPED * WORD;
        assert_eq!(word(&memory, at), Ok(at as u64 + START));
    }

    #[test]
    fn an_image_without_a_list_stays_as_it_is() {
        let mut memory = vec![0; 64];
        relocate(&mut memory, 0..64, START).unwrap();
        assert_eq!(memory, [0; 64]);
        assert_eq!(relocated(&[]).unwrap(), image(&[]));
    }

    #[test]
    fn what_is_outside_of_the_image_is_refused() {
        // The place, the last word of a bitmap, a bitmap of nothing.
        assert!(relocated(&[4088]).is_ok());
        assert!(relocated(&[4090]).is_err());
        assert!(relocated(&[u64::MAX - 1]).is_err());
        assert!(relocated(&[4080, 0b11]).is_ok());
        assert!(relocated(&[4080, 0b101]).is_err());
        assert!(relocated(&[0b11]).is_err());
        // The list and the dynamic section themselves.
        for (index, value) in [(1, 24), (3, 4088), (3, u64::MAX), (5, 4096), (5, 12)] {
            let mut memory = image(&[PLACES as u64, 3]);
            memory[index * WORD..][..WORD].copy_from_slice(&u64::to_le_bytes(value));
            assert!(relocate(&mut memory, 0..LIST, START).is_err(), "{index} {value}");
        }
        assert!(relocate(&mut [0; 20], 0..20, START).is_ok(), "the end is before what is missing");
        assert!(relocate(&mut [1; 20], 0..20, START).is_err());
        assert!(relocate(&mut [1; 16], 64..80, START).is_err());
    }

    proptest! {
        #[test]
        fn packed_places_are_all_found(named in proptest::collection::btree_set(0..2048_usize / WORD, 0..200)) {
            let places: Vec<usize> = named.iter().map(|index| PLACES + index * WORD).collect();
            let memory = relocated(&pack(&places)).unwrap();
            for at in (PLACES..4096).step_by(WORD) {
                let expected = at as u64 + if places.contains(&at) { START } else { 0 };
                prop_assert_eq!(word(&memory, at), Ok(expected));
            }
        }

        #[test]
        fn nothing_makes_it_panic(
            mut memory in proptest::collection::vec(any::<u8>(), 0..400),
            tags in proptest::collection::vec((34..38_u64, 0..300_u64), 0..6),
            dynamic in 0..500_usize,
            length in 0..500_usize,
        ) {
            for (entry, (tag, value)) in memory.chunks_exact_mut(2 * WORD).zip(tags) {
                entry[..WORD].copy_from_slice(&tag.to_le_bytes());
                entry[WORD..].copy_from_slice(&value.to_le_bytes());
            }
            let _ = relocate(&mut memory.clone(), 0..memory.len(), START);
            let _ = relocate(&mut memory, dynamic..dynamic + length, START);
        }
    }
}
