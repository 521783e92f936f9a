//! The node in memory, continued: what a protocol calls with its capsules, neighbors, soft state, timers and sessions.

use super::*;

/// The guest interface; `docs/abi` says what each function does.
#[allow(missing_docs)]
impl Node {
    pub(super) fn object(&mut self, kind: u8, payload: Vec<u8>, port: Option<usize>) -> u32 {
        let Some(t) = self.description.capsules.get(usize::from(kind)) else { return 0 };
        self.capsules.push(Some(Object { kind, payload, port, left: t.limits.counts() }));
        self.capsules.len() as u32
    }

    pub(super) fn event_capsule(&mut self, kind: Option<u8>) -> u32 {
        kind.map_or(0, |k| self.object(k, vec![], None))
    }

    pub(super) fn slot(&mut self, handle: u32) -> Result<&mut Option<Object>, Error> {
        let at = (handle as usize).checked_sub(1).ok_or(Error::BadHandle)?;
        self.capsules.get_mut(at).filter(|o| o.is_some()).ok_or(Error::BadHandle)
    }

    fn with(&mut self, handle: u32, f: impl FnOnce(&mut Object) -> Result<usize, Error>) -> i32 {
        result(self.slot(handle).and_then(|o| f(o.as_mut().ok_or(Error::BadHandle)?)))
    }

    /// Depletes an operation and takes the object out, or a copy of its payload.
    fn emit(&mut self, handle: u32, operation: usize, keep: bool) -> Result<Object, Error> {
        let slot = self.slot(handle)?;
        let object = slot.as_mut().ok_or(Error::BadHandle)?;
        if object.left[operation] == 0 {
            self.depleted += 1;
            return Err(Error::Depleted);
        }
        object.left[operation] -= 1;
        if keep {
            return Ok(Object { payload: object.payload.clone(), ..*object });
        }
        slot.take().ok_or(Error::BadHandle)
    }

    fn put_out(&mut self, port: usize, object: &Object) -> Result<usize, Error> {
        if object.payload.len() > self.max_payload {
            return Err(Error::TooLarge);
        }
        self.out.push((port, self.team.current, object.kind, object.payload.clone()));
        Ok(0)
    }

    /// The ports of a neighborhood.
    fn members(&self, neighborhood: u32) -> Result<Vec<usize>, Error> {
        match self.group(neighborhood) {
            Some(group) => Ok(group.iter().copied().filter(|port| !self.denied.contains(port)).collect()),
            None if neighborhood == NEIGHBORHOOD => {
                Ok((0..self.ports.len()).filter(|port| self.port(*port as u32 + 1).is_ok()).collect())
            }
            None => Err(Error::BadHandle),
        }
    }

    pub(super) fn port(&self, capability: u32) -> Result<usize, Error> {
        let port = (capability as usize).checked_sub(1).ok_or(Error::BadHandle)?;
        let known = port < self.ports.len() && !self.denied.contains(&port) && !self.gone.contains(&port);
        if known { Ok(port) } else { Err(Error::BadHandle) }
    }

    pub(crate) fn capsule_len(&mut self, handle: u32) -> i32 {
        self.with(handle, |o| Ok(o.payload.len()))
    }

    pub(crate) fn capsule_kind(&mut self, handle: u32) -> i32 {
        self.with(handle, |o| Ok(usize::from(o.kind)))
    }

    pub(crate) fn capsule_read(&mut self, handle: u32, offset: u32, buffer: &mut [u8]) -> i32 {
        self.with(handle, |o| copy(&o.payload, offset, buffer))
    }

    pub(crate) fn capsule_write(&mut self, handle: u32, offset: u32, bytes: &[u8]) -> i32 {
        self.with(handle, |o| {
            let at = offset as usize;
            let to = o.payload.get_mut(at..at + bytes.len()).ok_or(Error::NoRoom)?;
            to.copy_from_slice(bytes);
            Ok(0)
        })
    }

    pub(crate) fn capsule_resize(&mut self, handle: u32, len: u32) -> i32 {
        let max = self.max_payload;
        self.with(handle, |o| {
            if len as usize > max {
                return Err(Error::NoRoom);
            }
            o.payload.resize(len as usize, 0);
            Ok(0)
        })
    }

    pub(crate) fn capsule_left(&mut self, handle: u32, operation: i32) -> i32 {
        self.with(handle, |o| {
            o.left.get(operation as usize).map(|n| usize::from(*n)).ok_or(Error::BadArgument)
        })
    }

    pub(crate) fn capsule_derive(&mut self, handle: u32, kind: i32) -> i32 {
        let description = self.description;
        let from = match self.slot(handle) {
            Ok(Some(o)) => usize::from(o.kind),
            _ => return result(Err(Error::BadHandle)),
        };
        let Some(kind) = u8::try_from(kind).ok().filter(|k| description.capsules[from].derives.contains(k))
        else {
            return result(Err(Error::NotPermitted));
        };
        match self.emit(handle, 3, true) {
            Ok(_) => self.object(kind, vec![], None) as i32,
            Err(e) => result(Err(e)),
        }
    }

    pub(crate) fn capsule_send(&mut self, handle: u32, neighbor: u32, flags: i32) -> i32 {
        result(self.port(neighbor).and_then(|port| {
            let object = self.emit(handle, 1, flags & 1 != 0)?;
            self.put_out(port, &object)
        }))
    }

    pub(crate) fn capsule_return(&mut self, handle: u32, flags: i32) -> i32 {
        result(self.emit(handle, 0, flags & 1 != 0).and_then(|object| {
            let port = object.port.ok_or(Error::BadArgument)?;
            self.put_out(port, &object)
        }))
    }

    pub(crate) fn capsule_multicast(&mut self, handle: u32, neighborhood: u32, flags: i32) -> i32 {
        let members: Vec<usize> = match self.members(neighborhood) {
            Ok(members) => members,
            Err(e) => return result(Err(e)),
        };
        result(self.emit(handle, 2, flags & 1 != 0).map(|object| {
            let back = object.port.filter(|_| flags & 2 != 0);
            let reached = members.iter().filter(|p| Some(**p) != back);
            reached.filter(|p| self.put_out(**p, &object).is_ok()).count()
        }))
    }

    pub(crate) fn capsule_drop(&mut self, handle: u32) -> i32 {
        result(self.slot(handle).map(|o| {
            *o = None;
            0
        }))
    }

    pub(crate) fn cap_lookup(&mut self, whole: &[u8]) -> i32 {
        if whole == b"neighborhood" {
            return NEIGHBORHOOD as i32;
        }
        let name = whole.strip_prefix(b"neighbor/");
        if let Some(privilege) = self.privilege(whole) {
            return privilege as i32;
        }
        if let Some(companion) = self.companion_named(whole) {
            return companion;
        }
        let port = name.and_then(|n| self.ports.iter().position(|p| p.0.as_bytes() == n));
        let port = port.filter(|port| !self.denied.contains(port));
        result(port.map(|p| p + 1).ok_or(Error::NotFound))
    }

    pub(crate) fn cap_name(&mut self, capability: u32, buffer: &mut [u8]) -> i32 {
        // As a node names it: what `cap_lookup` would be asked.
        let name = |p: usize| [b"neighbor/", self.ports[p].0.as_bytes()].concat();
        if let Some(companion) = self.name_of_companion(capability) {
            return fill(companion.as_bytes(), buffer) as i32;
        }
        result(self.port(capability).map(|p| fill(&name(p), buffer)))
    }

    pub(crate) fn cap_duplicate(&mut self, capability: u32, _rights: i32) -> i32 {
        result(self.port(capability).map(|p| p + 1))
    }

    pub(crate) fn cap_drop(&mut self, capability: u32) -> i32 {
        let dropped = self.forget_flow(capability)
            || self.name_of_companion(capability).is_some()
            || self.port(capability).is_ok();
        result(if dropped { Ok(0) } else { Err(Error::BadHandle) })
    }

    pub(crate) fn neighborhood_list(&mut self, neighborhood: u32, list: &mut [u32]) -> i32 {
        result(self.members(neighborhood).map(|members| {
            for (to, port) in list.iter_mut().zip(&members) {
                *to = *port as u32 + 1;
            }
            members.len()
        }))
    }

    pub(crate) fn neighbor_max_payload(&mut self, neighbor: u32) -> i32 {
        result(self.port(neighbor).map(|_| self.max_payload))
    }

    pub(crate) fn neighbor_serve(&mut self, neighbor: u32, serve: bool) -> i32 {
        result(self.port(neighbor).map(|port| {
            self.unserved.retain(|p| *p != port);
            self.unserved.extend((!serve).then_some(port));
            0
        }))
    }

    pub(crate) fn neighbor_watch(&mut self, neighbor: u32, poke_us: i64, expire_us: i64) -> i32 {
        let usual = (poke_us, expire_us) == (0, 0);
        let within = poke_us >= 100_000 && expire_us / 2 >= poke_us && expire_us <= 3_600_000_000;
        result(self.port(neighbor).and_then(|port| {
            if !usual && !within {
                return Err(Error::BadArgument);
            }
            self.watched.entry((self.team.current, port)).or_insert(true);
            Ok(0)
        }))
    }

    pub(crate) fn neighbor_unwatch(&mut self, neighbor: u32) -> i32 {
        result(self.port(neighbor).map(|port| {
            self.watched.remove(&(self.team.current, port));
            0
        }))
    }

    pub(crate) fn nodes_known(&mut self, neighborhood: u32, from: u32, node: &mut [u8; 48]) -> i32 {
        if neighborhood != NEIGHBORHOOD {
            return result(Err(Error::NotPermitted));
        }
        if let Some(known) = self.known.get(from as usize) {
            *node = *known;
        }
        self.known.len() as i32
    }

    pub(crate) fn neighbor_alive(&mut self, neighbor: u32) -> i32 {
        result(self.port(neighbor).and_then(|port| {
            let alive = self.watched.get(&(self.team.current, port));
            alive.map(|alive| usize::from(*alive)).ok_or(Error::NotFound)
        }))
    }

    /// Whether the protocol that runs is told this of the neighbor at `port`; from now on it sees it, too.
    pub(super) fn hears(&mut self, port: usize, news: News) -> bool {
        if self.port(port as u32 + 1).is_err() {
            return false;
        }
        match (self.watched.get_mut(&(self.team.current, port)), news) {
            (_, News::Found | News::Gone) => true,
            (Some(alive), _) => {
                *alive = news == News::Alive;
                true
            }
            (None, _) => false,
        }
    }

    pub(crate) fn flow_end(&mut self) -> i32 {
        self.ended = true;
        0
    }

    pub(crate) fn integrity_set(&mut self, neighbor: u32, key: &[u8]) -> i32 {
        result(self.port(neighbor).and_then(|port| {
            if !(16..=64).contains(&key.len()) {
                return Err(Error::BadArgument);
            }
            self.keys.insert(port, key.to_vec());
            Ok(0)
        }))
    }

    pub(crate) fn integrity_clear(&mut self, neighbor: u32) -> i32 {
        let port = self.port(neighbor);
        result(port.and_then(|port| self.keys.remove(&port).map(|_| 0).ok_or(Error::NotFound)))
    }

    pub(crate) fn cache_put(&mut self, key: &[u8], value: &[u8], ttl_ms: u32) -> i32 {
        let now = self.now;
        self.cache.retain(|_, (_, until)| *until > now);
        if key.is_empty() || key.len() > INBOX {
            return result(Err(Error::BadArgument));
        }
        if self.cache.len() >= MAX_CACHE && !self.cache.contains_key(key) {
            return result(Err(Error::NoRoom));
        }
        self.cache.insert(key.to_vec(), (value.to_vec(), now + u64::from(ttl_ms) * 1000));
        0
    }

    pub(crate) fn cache_get(&mut self, key: &[u8], buffer: &mut [u8]) -> i32 {
        let entry = self.cache.get(key).filter(|(_, until)| *until > self.now);
        result(entry.map(|(value, _)| fill(value, buffer)).ok_or(Error::NotFound))
    }

    pub(crate) fn cache_refresh(&mut self, key: &[u8], ttl_ms: u32) -> i32 {
        let now = self.now;
        let entry = self.cache.get_mut(key).filter(|(_, until)| *until > now);
        result(entry.ok_or(Error::NotFound).map(|(_, until)| {
            *until = now + u64::from(ttl_ms) * 1000;
            0
        }))
    }

    pub(crate) fn cache_remove(&mut self, key: &[u8]) -> i32 {
        result(self.cache.remove(key).map(|_| 0).ok_or(Error::NotFound))
    }

    pub(crate) fn timer_set(&mut self, after_us: i64, period_us: i64, token: i64) -> i32 {
        let (Ok(after), Ok(period)) = (u64::try_from(after_us), u64::try_from(period_us)) else {
            return result(Err(Error::BadArgument));
        };
        if self.timers.len() >= MAX_TIMERS {
            return result(Err(Error::NoRoom));
        }
        let timer = self.next_timer;
        self.next_timer += 1;
        self.timers.insert(timer, (period, token as u64));
        self.set.push((self.team.current, timer, self.now + after));
        timer as i32
    }

    pub(crate) fn timer_cancel(&mut self, timer: u32) -> i32 {
        result(self.timers.remove(&timer).map(|_| 0).ok_or(Error::BadHandle))
    }

    pub(crate) fn session_read(&mut self, _session: u32, offset: u32, buffer: &mut [u8]) -> i32 {
        result(copy(&self.packet, offset, buffer))
    }

    pub(crate) fn session_reply(&mut self, session: u32, packet: &[u8]) -> i32 {
        result(self.sessions.get_mut(&session).ok_or(Error::BadHandle).map(|s| {
            s.push(packet.to_vec());
            0
        }))
    }

    pub(crate) fn session_close(&mut self, session: u32) -> i32 {
        result(self.sessions.remove(&session).map(|_| 0).ok_or(Error::BadHandle))
    }

    pub(crate) fn node_name(&mut self, buffer: &mut [u8]) -> i32 {
        fill(self.name.as_bytes(), buffer) as i32
    }

    pub(crate) fn flow_hash(&mut self, hash: &mut [u8; 32]) -> i32 {
        *hash = wire::id::PartHash::of(self.description.name.as_bytes()).0;
        0
    }

    pub(crate) fn param_get(&mut self, name: &[u8], buffer: &mut [u8]) -> i32 {
        let value = std::str::from_utf8(name).ok().and_then(|n| self.params.get(n));
        result(value.map(|v| fill(v, buffer)).ok_or(Error::NotFound))
    }

    pub(crate) fn data_read(&mut self, _name: &[u8], _offset: u32, _buffer: &mut [u8]) -> i32 {
        result(Err(Error::NotFound))
    }

    pub(crate) fn clock_mono(&mut self) -> i64 {
        self.now as i64
    }

    pub(crate) fn clock_wall(&mut self) -> i64 {
        i64::from(result(Err(Error::Unavailable)))
    }

    pub(crate) fn random(&mut self, buffer: &mut [u8]) -> i32 {
        for b in buffer {
            self.random = mix(self.random);
            *b = self.random as u8;
        }
        0
    }

    pub(crate) fn log(&mut self, _level: i32, line: &[u8]) -> i32 {
        self.log.push(String::from_utf8_lossy(line).into_owned());
        0
    }

    pub(crate) fn budget_left(&mut self, _resource: i32) -> i64 {
        i64::from(i32::MAX)
    }

    pub(crate) fn hash_sha256(&mut self, bytes: &[u8], hash: &mut [u8; 32]) -> i32 {
        *hash = wire::id::PartHash::of(bytes).0;
        0
    }

    pub(crate) fn hash_md5(&mut self, bytes: &[u8], hash: &mut [u8; 16]) -> i32 {
        *hash = wire::id::md5(bytes);
        0
    }
}
