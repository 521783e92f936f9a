//! Programs, where pathfinder is a flow's main protocol: lines in, lines out.

use bees_sdk::pathfinder::{HERE, MAX_BYTES, News};
use bees_sdk::session::Words;
use bees_sdk::{Capsule, Error, Session, Text, node, text};

use crate::Pathfinder;
use crate::tree::Role;

/// Programs that are told what comes.
const MOST: usize = 4;

/// The programs that have asked for something.
pub struct Programs([Option<Session>; MOST]);

impl Programs {
    pub const fn new() -> Self {
        Self([None; MOST])
    }

    /// A program is gone.
    pub fn closed(&mut self, session: Session) {
        self.0.iter_mut().filter(|s| **s == Some(session)).for_each(|s| *s = None);
    }

    /// Tells all of them; `false`: there are none.
    pub fn tell(&self, news: News, bytes: &[u8]) -> bool {
        let mut line: Text<{ MAX_BYTES + 32 }> = Text::new();
        match news {
            News::Sink { hops, .. } => {
                line.push("sink hops ");
                line.push(hops);
            }
            News::Multicast { .. } => line.push("multicast"),
            News::Lost => line.push("lost"),
        }
        for word in Words::of(bytes) {
            line.push(" ");
            line.push(word);
        }
        let told = self.0.iter().flatten().filter(|s| s.reply(line.as_bytes()).is_ok()).count();
        told > 0 && news != News::Lost
    }

    fn add(&mut self, session: Session) {
        if !self.0.contains(&Some(session))
            && let Some(free) = self.0.iter_mut().find(|s| s.is_none())
        {
            *free = Some(session);
        }
    }
}

impl Pathfinder {
    /// A program's request.
    pub(crate) fn request(&mut self, capsule: Option<Capsule>, session: Session) {
        self.programs.add(session);
        let mut line = [0; MAX_BYTES + 32];
        let Ok(line) = session.read(0, &mut line) else { return };
        let line = line.trim_ascii();
        let (verb, bytes) =
            line.split_at(line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len()));
        let bytes = bytes.trim_ascii_start();
        if verb == b"show" {
            return self.show(session);
        }
        let Some(mut capsule) = capsule else {
            let _ = session.reply(text!("error ", Error::NoMemory).as_bytes());
            return;
        };
        let done = match verb {
            b"root" => self.root(&mut capsule),
            b"sink" => self.sink_here(&mut capsule, bytes),
            b"multicast" => self.keep(bytes).and_then(|len| self.multicast(&mut capsule, len)),
            _ => {
                let _ = session.reply(b"error usage: root | show | sink TEXT | multicast TEXT");
                return;
            }
        };
        let _ = match done {
            Ok(()) => session.reply(b"ok"),
            Err(why) => session.reply(text!("error ", why).as_bytes()),
        };
    }

    /// Sends toward the root; at the root the programs here are told.
    fn sink_here(&mut self, capsule: &mut Capsule, bytes: &[u8]) -> Result<(), Error> {
        let len = self.keep(bytes)?;
        if self.sink(capsule, len)? == HERE {
            self.programs.tell(News::Sink { hops: 0, len }, bytes);
        }
        Ok(())
    }

    /// Puts what is to be sent into the buffer.
    pub(crate) fn keep(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::TooLarge);
        }
        self.buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn show(&self, session: Session) {
        let mut line: Text<200> = Text::new();
        let mut name = [0; 64];
        line.push("place ");
        match self.tree.role() {
            Role::Outside => line.push("outside"),
            Role::Root => line.push("root"),
            Role::Member => {
                line.push("member parent ");
                line.push(self.parent().and_then(|p| p.name(&mut name).ok()).unwrap_or(b"?"));
            }
        }
        if self.tree.role() != Role::Outside {
            let numbers = [
                (" hops ", self.tree.hops().into()),
                (" epoch ", self.tree.epoch()),
                (" sequence ", self.tree.sequence().into()),
                (" age ", self.tree.age(node::clock()) / 1000),
                (" interval ", self.tree.interval() / 1000),
            ];
            for (name, number) in numbers {
                line.push(name);
                line.push(number);
            }
        }
        let _ = session.reply(line.as_bytes());
    }
}
