//! Frames on their way: bytes in slots that are used again, so that a flood allocates nothing.

/// Slots of frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    slots: Vec<Vec<u8>>,
    free: Vec<u32>,
}

impl Frames {
    /// Keeps a copy of a frame and returns its slot.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Vec::new());
            (self.slots.len() - 1) as u32
        });
        let kept = &mut self.slots[slot as usize];
        kept.clear();
        kept.extend_from_slice(bytes);
        slot
    }

    /// The frame in a slot.
    pub(crate) fn get(&self, slot: u32) -> &[u8] {
        &self.slots[slot as usize]
    }

    /// The frame has arrived or was lost: its slot may be used again.
    pub(crate) fn free(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// Frames on their way.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again() {
        let mut f = Frames::default();
        let (a, b) = (f.put(b"long frame"), f.put(b"b"));
        f.free(a);
        let c = f.put(b"c");
        assert_eq!((c, f.get(c), f.get(b), f.len()), (a, &b"c"[..], &b"b"[..], 2));
    }
}
