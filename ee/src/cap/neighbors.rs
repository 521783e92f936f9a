//! The neighbors that a team may know of, and its bandwidth on each link.

use nodeos::platform::Instant;
use nodeos::slab::Handle;
use nodeos::team::Bandwidth;

use crate::abi::Error;
use crate::sandbox::{NeighborId, NeighborRef};

/// One neighbor as the team sees it.
pub(crate) struct Neighbor {
    pub is: NeighborRef,
    gone: bool,
    /// It is gone for good; whoever has its place later is another one.
    denied: bool,
    /// Whether it is alive, as the guest was told; `None` while it is not watched.
    alive: Option<bool>,
    /// The capability that asking for it gives.
    pub(super) cap: Option<Handle>,
}

impl Neighbor {
    fn new(is: NeighborRef) -> Self {
        Self { is, gone: false, denied: false, alive: None, cap: None }
    }

    /// It is watched from now on, and counts as alive; or not any more.
    pub fn watch(&mut self, watched: bool) {
        self.alive = watched.then_some(self.alive.unwrap_or(true));
    }

    /// The guest is told whether it is alive.
    pub fn seems(&mut self, alive: bool) {
        self.alive = self.alive.map(|_| alive);
    }

    /// Whether it is alive, as the guest was told, if it is watched.
    pub fn alive(&self) -> Option<bool> {
        self.alive
    }
}

/// The neighbors that a team may know of, and its bandwidth on each link.
pub(crate) struct Neighbors {
    list: Vec<Neighbor>,
    /// Position by the node's number, for finding where a capsule came from.
    by_id: Vec<u16>,
    bandwidth: Bandwidth,
}

/// No such neighbor, in [`Neighbors::by_id`].
const NOWHERE: u16 = u16::MAX;

impl Neighbors {
    /// The bytes that the table takes.
    pub fn bytes(refs: &[NeighborRef]) -> usize {
        size_of_val(refs) / size_of::<NeighborRef>() * size_of::<Neighbor>() + Self::ids(refs) * 2
    }

    pub fn new(refs: Vec<NeighborRef>, bandwidth: Bandwidth) -> Self {
        let mut by_id = vec![NOWHERE; Self::ids(&refs)];
        for (at, r) in refs.iter().enumerate() {
            by_id[usize::from(r.id.0)] = at as u16;
        }
        let list = refs.into_iter().map(Neighbor::new).collect();
        Self { list, by_id, bandwidth }
    }

    /// The most bytes by which a table grows for the neighbor with this number.
    pub fn growth(id: NeighborId) -> u64 {
        let (place, groups) = (2 * size_of::<Neighbor>(), super::MAX_GROUPS * 8);
        (place + groups + (usize::from(id.0) + 1) * 2 * size_of::<u16>()) as u64
    }

    /// A further neighbor, or one in the place of that with the same number. One that was denied stays so as long as it
    /// has a place, wherever it is found again.
    pub fn add(&mut self, is: NeighborRef) {
        let id = usize::from(is.id.0);
        if self.by_id.len() <= id {
            self.by_id.reserve_exact(id + 1 - self.by_id.len());
            self.by_id.resize(id + 1, NOWHERE);
        }
        let denied = self.list.iter().any(|known| known.denied && known.is.name == is.name);
        let new = Neighbor { gone: denied, denied, ..Neighbor::new(is) };
        match self.list.get_mut(usize::from(self.by_id[id])) {
            Some(old) => *old = new,
            None => {
                self.by_id[id] = self.list.len() as u16;
                self.list.reserve_exact(1);
                self.list.push(new);
            }
        }
    }

    /// The position that the neighbor with this number has, or had.
    pub fn place(&self, id: NeighborId) -> Option<u16> {
        self.by_id.get(usize::from(id.0)).copied().filter(|at| *at != NOWHERE)
    }

    /// The capability, void now, that there was for a neighbor that is gone.
    pub fn left(&self, id: NeighborId) -> Option<Handle> {
        let at = *self.by_id.get(usize::from(id.0))?;
        self.list.get(usize::from(at)).filter(|n| n.gone && !n.denied)?.cap
    }

    /// Revokes every capability for a neighbor for good.
    pub fn deny(&mut self, id: NeighborId) {
        if let Some(at) = self.position(id) {
            let neighbor = &mut self.list[usize::from(at)];
            (neighbor.gone, neighbor.denied) = (true, true);
        }
    }

    fn ids(refs: &[NeighborRef]) -> usize {
        refs.iter().map(|r| usize::from(r.id.0) + 1).max().unwrap_or(0)
    }

    /// The position of the neighbor with this number, if the team may know of it.
    #[inline]
    pub fn position(&self, id: NeighborId) -> Option<u16> {
        self.place(id).filter(|at| !self.list[usize::from(*at)].gone)
    }

    #[inline]
    pub fn get(&self, at: u16) -> Result<&Neighbor, Error> {
        self.list.get(usize::from(at)).filter(|n| !n.gone).ok_or(Error::BadHandle)
    }

    #[inline]
    pub fn get_mut(&mut self, at: u16) -> Result<&mut Neighbor, Error> {
        self.list.get_mut(usize::from(at)).filter(|n| !n.gone).ok_or(Error::BadHandle)
    }

    pub(super) fn named(&self, name: &[u8]) -> Option<u16> {
        self.list.iter().position(|n| !n.gone && n.is.name.as_bytes() == name).map(|at| at as u16)
    }

    /// Positions, from the first to before the last; those that are gone included.
    pub fn len(&self) -> u16 {
        self.list.len() as u16
    }

    /// Revokes every capability for a neighbor.
    pub fn gone(&mut self, id: NeighborId) {
        if let Some(at) = self.position(id) {
            self.list[usize::from(at)].gone = true;
        }
    }

    /// Takes bytes of each frame to `at` away from the payload.
    pub fn reserve(&mut self, at: u16, bytes: u16) -> Result<(), Error> {
        let is = &mut self.get_mut(at)?.is;
        is.max_payload = is.max_payload.saturating_sub(bytes);
        is.overhead += bytes;
        Ok(())
    }

    /// Gives them back.
    pub fn release(&mut self, at: u16, bytes: u16) -> Result<(), Error> {
        let is = &mut self.get_mut(at)?.is;
        is.max_payload += bytes;
        is.overhead = is.overhead.saturating_sub(bytes);
        Ok(())
    }

    /// Whether `payload` bytes may go to `at`; takes nothing.
    #[inline]
    pub fn fits(&self, at: u16, payload: usize) -> Result<(), Error> {
        let max = usize::from(self.get(at)?.is.max_payload);
        if payload <= max { Ok(()) } else { Err(Error::TooLarge) }
    }

    /// Takes the bandwidth for `payload` bytes to `at`.
    #[inline]
    pub fn take(&self, now: Instant, at: u16, payload: usize) -> Result<(), Error> {
        let is = &self.get(at)?.is;
        let bytes = (payload + usize::from(is.overhead)).max(is.shortest.into());
        if self.bandwidth.take(now, is.link, bytes) { Ok(()) } else { Err(Error::NoBandwidth) }
    }

    /// Bytes that are left on the link that has the least.
    pub fn bandwidth(&self, now: Instant) -> u64 {
        self.bandwidth.available(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeos::link::LinkId;
    use nodeos::team::Budget;

    /// What pads a short frame is paid for like what is in it.
    #[test]
    fn a_padded_frame_costs_its_whole_length() {
        let far = NeighborRef {
            id: NeighborId(0),
            name: "far".into(),
            link: LinkId(0),
            max_payload: 1400,
            overhead: 66,
            shortest: 170,
        };
        let budget = Budget { rate: 1, burst: 1000, ..Budget::UNLIMITED };
        let neighbors = Neighbors::new(vec![far], Bandwidth::root(1, &budget));
        let left = |neighbors: &Neighbors| neighbors.bandwidth(Instant::ZERO);
        for (payload, costs) in [(0, 170), (104, 170), (105, 171), (400, 466)] {
            let before = left(&neighbors);
            assert_eq!(neighbors.take(Instant::ZERO, 0, payload), Ok(()));
            assert_eq!(before - left(&neighbors), costs);
        }
        assert_eq!(neighbors.take(Instant::ZERO, 0, 0), Err(Error::NoBandwidth));
    }
}
