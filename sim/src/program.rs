//! Programs beside a node: they inject flows, hold sessions and ask what `bees` asks, without a network
//! in between.

use ee::config::ADMIN;
use ee::node::{SessionError, SessionId};
use wire::control::{Answer, ControlError, Erred, MAX_PIECE, Request};
use wire::id::{PartHash, TupleHash};

use crate::error::SimError;
use crate::world::Sim;

/// A session between a program and a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    node: usize,
    life: u32,
    id: SessionId,
}

impl Sim {
    /// Asks a node what a logged-in administrator may ask.
    pub fn control(&mut self, at: usize, request: Request) -> Result<Answer, SimError> {
        let now = self.time();
        let node = self.stations.get_mut(at).and_then(|s| s.node.as_mut()).ok_or(SimError::Down(at))?;
        let answer = node.control(now, ADMIN, request);
        self.settle(at);
        match answer {
            Answer::Error(error) => Err(SimError::Refused(error)),
            answer => Ok(answer),
        }
    }

    /// Puts a flow's parts and its tuple into a node.
    pub fn inject(&mut self, at: usize, tuple: &[u8], parts: &[&[u8]]) -> Result<TupleHash, SimError> {
        for bytes in parts {
            let (part, total) = (PartHash::of(bytes), bytes.len() as u32);
            for (piece, offset) in bytes.chunks(MAX_PIECE).zip((0..).step_by(MAX_PIECE)) {
                let bytes = piece.to_vec();
                self.control(at, Request::PartPut { part, total, offset, bytes })?;
            }
        }
        match self.control(at, Request::FlowInject { tuple: tuple.to_vec() })? {
            Answer::Injected(hash) => Ok(hash),
            other => Err(SimError::Refused(ControlError {
                erred: Erred::Node,
                text: format!("the answer to an injection was {other:?}"),
            })),
        }
    }

    /// Opens a session with a flow, by the name of its main protocol or by its hash.
    pub fn session(&mut self, at: usize, flow: &str) -> Result<Session, SimError> {
        let now = self.time();
        let station = self.stations.get_mut(at).ok_or(SimError::Down(at))?;
        let life = station.life;
        let id = station.node.as_mut().ok_or(SimError::Down(at))?.session_open(now, flow)?;
        self.settle(at);
        Ok(Session { node: at, life, id })
    }

    /// Sends a packet to the protocol.
    pub fn send(&mut self, session: Session, packet: &[u8]) -> Result<(), SimError> {
        let now = self.time();
        self.session_node(session)?.session_send(now, session.id, packet)?;
        self.settle(session.node);
        Ok(())
    }

    /// The packets that the protocol sent since the last call.
    pub fn received(&mut self, session: Session) -> Result<Vec<Vec<u8>>, SimError> {
        let node = self.session_node(session)?;
        let mut packets = Vec::new();
        while let Some(packet) = node.session_packet(session.id)? {
            packets.push(packet);
        }
        Ok(packets)
    }

    /// Ends a session.
    pub fn close(&mut self, session: Session) {
        let now = self.time();
        if let Ok(node) = self.session_node(session) {
            node.session_close(now, session.id);
            self.settle(session.node);
        }
    }

    fn session_node(&mut self, session: Session) -> Result<&mut ee::node::Node, SimError> {
        let station = self.stations.get_mut(session.node).ok_or(SimError::Down(session.node))?;
        if station.life != session.life {
            return Err(SimError::Session(SessionError::Closed));
        }
        station.node.as_mut().ok_or(SimError::Down(session.node))
    }
}
