//! Compiled modules by hash, shared between teams, bounded in bytes.
//!
//! What a running team uses stays; of the rest the least recently used goes first. Teams hold an [`Arc`]
//! of their code, so that taking a module out of the cache never takes it from a team.

use std::fmt;
use std::sync::Arc;

use wire::id::PartHash;

use crate::engine::Code;

/// The node's compiled modules.
#[derive(Debug)]
pub struct CodeCache {
    /// Least recently used first. Few and large: a list is searched faster than it is hashed.
    entries: Vec<Arc<Code>>,
    used: u64,
    limit: u64,
}

/// The modules in use leave too little room. The node is at its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheFull {
    /// Bytes that the module needs.
    pub wanted: u64,
    /// Bytes that the cache could make free.
    pub left: u64,
}

impl fmt::Display for CacheFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code cache: a module of {} bytes, {} left beside those in use", self.wanted, self.left)
    }
}

impl std::error::Error for CacheFull {}

impl CodeCache {
    /// An empty cache of at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { entries: Vec::new(), used: 0, limit }
    }

    /// The module of this name, if it is there.
    pub fn get(&mut self, hash: &PartHash) -> Option<Arc<Code>> {
        let at = self.entries.iter().position(|c| c.hash() == *hash)?;
        self.entries[at..].rotate_left(1);
        self.entries.last().cloned()
    }

    /// Keeps a module, and drops unused ones where room is needed. Whoever inserts should not yet hold
    /// the module elsewhere, or it counts as in use.
    pub fn insert(&mut self, code: Arc<Code>) -> Result<(), CacheFull> {
        if self.get(&code.hash()).is_some() {
            return Ok(());
        }
        let wanted = code.size();
        let unused: u64 = self.entries.iter().filter(|c| Self::idle(c)).map(|c| c.size()).sum();
        let left = self.limit.saturating_sub(self.used - unused);
        if wanted > left {
            return Err(CacheFull { wanted, left });
        }
        while self.used + wanted > self.limit
            && let Some(at) = self.entries.iter().position(Self::idle)
        {
            self.used -= self.entries.remove(at).size();
        }
        self.used += wanted;
        self.entries.push(code);
        Ok(())
    }

    /// Drops every module that no team uses.
    pub fn clear_unused(&mut self) {
        self.entries.retain(|c| !Self::idle(c));
        self.used = self.entries.iter().map(|c| c.size()).sum();
    }

    /// Bytes of the modules in the cache.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Bytes that there may be.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The modules in the cache, least recently used first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Code>> {
        self.entries.iter()
    }

    fn idle(code: &Arc<Code>) -> bool {
        Arc::strong_count(code) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, Metering};

    fn code(engine: &Engine, n: u8) -> Arc<Code> {
        let text = format!(
            r#"(module (memory (export "memory") 1 1) (global (export "bees_abi") i32 (i32.const 1))
                (global (export "bees_inbox") i32 (i32.const {n})))"#
        );
        let module = wat::parse_str(text).unwrap();
        Arc::new(engine.compile(PartHash::of(&[n]), &module).unwrap())
    }

    #[test]
    fn the_least_recently_used_goes_and_what_is_used_stays() {
        let engine = Engine::new(Metering::Epoch).unwrap();
        let hash = |n: u8| PartHash::of(&[n]);
        let size = code(&engine, 0).size();
        let mut cache = CodeCache::new(2 * size);
        cache.insert(code(&engine, 1)).unwrap();
        cache.insert(code(&engine, 2)).unwrap();
        cache.get(&hash(1)).unwrap();
        cache.insert(code(&engine, 3)).unwrap();
        assert!(cache.get(&hash(2)).is_none());
        assert_eq!((cache.used(), cache.iter().count()), (2 * size, 2));
        // The same again changes nothing.
        cache.insert(code(&engine, 3)).unwrap();
        assert_eq!(cache.used(), 2 * size);

        let (one, three) = (cache.get(&hash(1)).unwrap(), cache.get(&hash(3)).unwrap());
        assert_eq!(cache.insert(code(&engine, 4)), Err(CacheFull { wanted: size, left: 0 }));
        drop(one);
        cache.insert(code(&engine, 4)).unwrap();
        assert!(cache.get(&hash(1)).is_none());
        assert_eq!(cache.get(&hash(3)).map(|c| c.hash()), Some(three.hash()));
        drop(three);
        cache.clear_unused();
        assert_eq!((cache.used(), cache.iter().count()), (0, 0));
    }
}
