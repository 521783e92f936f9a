//! Topologies of any size: nodes `n1`, `n2`, ...; links named after their ends.

use std::collections::HashSet;

use super::{DEFAULT_MTU, Defaults, Lab, Link, Node};
use crate::medium::Shape;
use crate::random::Random;

impl Lab {
    /// `n` nodes and no links yet.
    pub fn empty(name: &str, n: usize) -> Self {
        let nodes = (1..=n)
            .map(|i| Node { name: format!("n{i}"), memory: None, disk: None, policy: None, start: vec![] })
            .collect();
        Self {
            name: name.into(),
            defaults: Defaults::default(),
            nodes,
            links: Vec::new(),
            principals: Vec::new(),
            injects: Vec::new(),
        }
    }

    /// Adds a perfect link between two nodes and returns its position.
    pub fn connect(&mut self, a: usize, b: usize) -> usize {
        let name = format!("n{}-n{}", a + 1, b + 1);
        let link = Link {
            name,
            ends: [a, b],
            udp: false,
            mtu: DEFAULT_MTU,
            shape: Shape::default(),
            protect: None,
            discover: false,
        };
        self.links.push(link);
        self.links.len() - 1
    }

    /// A row of `n` nodes.
    pub fn line(n: usize) -> Self {
        let mut lab = Self::empty(&format!("line{n}"), n);
        for b in 1..n {
            lab.connect(b - 1, b);
        }
        lab
    }

    /// A row of `n` nodes with its ends joined; below three nodes there is nothing to join.
    pub fn ring(n: usize) -> Self {
        let mut lab = Self { name: format!("ring{n}"), ..Self::line(n) };
        if n > 2 {
            lab.connect(n - 1, 0);
        }
        lab
    }

    /// A first node to which all others are linked, `n` in all.
    pub fn star(n: usize) -> Self {
        let mut lab = Self::empty(&format!("star{n}"), n);
        for b in 1..n {
            lab.connect(0, b);
        }
        lab
    }

    /// `width` times `height` nodes, each linked to those beside, above and below it.
    pub fn grid(width: usize, height: usize) -> Self {
        let mut lab = Self::empty(&format!("grid{width}x{height}"), width * height);
        for at in 0..width * height {
            if at % width + 1 < width {
                lab.connect(at, at + 1);
            }
            if at + width < width * height {
                lab.connect(at, at + width);
            }
        }
        lab
    }

    /// `n` nodes that are all connected, with `degree` links per node on average (at least what
    /// connects them, at most what there are pairs), drawn from `seed`.
    pub fn random(n: usize, degree: usize, seed: u64) -> Self {
        let mut lab = Self::empty(&format!("random{n}"), n);
        let mut random = Random::new(seed, 0);
        let mut linked = HashSet::new();
        let mut used = vec![0; n];
        let mut draw = |below: usize| random.below(below as u64) as usize;
        for b in 1..n {
            // A full node passes the newcomer on to the next one that has room.
            let first = draw(b);
            let a =
                (0..b).map(|i| (first + i) % b).find(|&a| used[a] < super::MAX_NODE_LINKS).unwrap_or(first);
            linked.insert((a, b));
            used[a] += 1;
            used[b] += 1;
            lab.connect(a, b);
        }
        let wanted = (n * degree / 2).min(n * n.saturating_sub(1) / 2);
        // Draws that meet a linked pair or a full node are in vain; their number is bounded.
        for _ in 0..wanted * 64 {
            if lab.links.len() >= wanted {
                break;
            }
            let (x, y) = (draw(n), draw(n));
            let (a, b) = (x.min(y), x.max(y));
            if a != b && used[a].max(used[b]) < super::MAX_NODE_LINKS && linked.insert((a, b)) {
                used[a] += 1;
                used[b] += 1;
                lab.connect(a, b);
            }
        }
        lab
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Number of nodes that can be reached from the first one.
    fn reached(lab: &Lab) -> usize {
        let mut seen = vec![false; lab.nodes.len()];
        let mut left = vec![0];
        while let Some(at) = left.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            for link in &lab.links {
                if let Some(i) = link.ends.iter().position(|&e| e == at) {
                    left.push(link.ends[1 - i]);
                }
            }
        }
        seen.iter().filter(|&&s| s).count()
    }

    #[test]
    fn shapes_have_their_links() {
        assert_eq!(Lab::line(1).links.len(), 0);
        assert_eq!(Lab::line(5).links.len(), 4);
        assert_eq!(Lab::ring(5).links.len(), 5);
        assert_eq!(Lab::ring(2).links.len(), 1);
        assert_eq!(Lab::star(5).links.len(), 4);
        assert_eq!(Lab::grid(3, 4).links.len(), 2 * 4 + 3 * 3);
        for lab in [Lab::line(7), Lab::ring(7), Lab::star(7), Lab::grid(3, 3)] {
            lab.check().map_err(|f| f.text).unwrap();
            assert_eq!(reached(&lab), lab.nodes.len(), "{}", lab.name);
        }
    }

    proptest! {
        #[test]
        fn random_labs_are_connected_and_reproducible(n in 1usize..150, degree in 0usize..8, seed in any::<u64>()) {
            let lab = Lab::random(n, degree, seed);
            prop_assert!(lab.check().is_ok());
            prop_assert_eq!(reached(&lab), n);
            prop_assert!(lab.links.len() <= (n * degree / 2).max(n - 1));
            prop_assert_eq!(lab, Lab::random(n, degree, seed));
        }
    }
}
