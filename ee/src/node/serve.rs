//! Answers other nodes' system requests: translations and downloads (seed 004, section V).
//!
//! Only neighbors are answered, and only about flows that may know of them; a request sets off at most
//! [`MAX_CHUNKS`] frames, and one that is no longer than itself where anybody may have sent it.

use nodeos::platform::Now;
use nodeos::slab::Handle;
use wire::capsule::HEADER_LEN;
use wire::system::{
    CHUNK_OVERHEAD, DownloadRequest, DownloadResponse, RESPONSE, Translation, TranslationRequest,
    TranslationResponse, decode, download_id, encode, translation_id,
};

use super::Node;
use super::charge::Labour;
use crate::counters::Count;
use crate::neighbor::NeighborId;
use crate::registry::{Object, Target};
use crate::system::sources::WINDOW;

/// Responses to one download request, at most.
pub const MAX_CHUNKS: u32 = 2 * WINDOW;

impl Node {
    /// "Which flow does this capsule belong to?"
    pub(super) fn serve_translation(&mut self, now: Now, from: NeighborId, payload: &[u8]) {
        let Some(request) = decode::<TranslationRequest>(payload) else {
            return self.system_malformed(from);
        };
        let found = self.registry.find(&request.unknown);
        match found {
            Some(Target::Flow { flow, .. }) => self.work_for(flow, Labour::Serve, |node| {
                node.answer_translation(now, from, request, found);
            }),
            _ => self.answer_translation(now, from, request, found),
        }
    }

    fn answer_translation(
        &mut self,
        now: Now,
        from: NeighborId,
        request: TranslationRequest,
        found: Option<Target>,
    ) {
        let answer = self.translate(from, found);
        let mut response = TranslationResponse { nonce: request.nonce, unknown: request.unknown, answer };
        let neighbor = &self.neighbors[from];
        // A question that may be forged was as long as this at least.
        let most =
            if neighbor.is_unproven() { neighbor.floor } else { neighbor.max_payload + HEADER_LEN as u16 };
        let mut bytes = encode(&response);
        if HEADER_LEN + bytes.len() > usize::from(most)
            && let Translation::Known { coupled, .. } = &mut response.answer
        {
            coupled.clear();
            bytes = encode(&response);
        }
        self.counters.add(Count::TranslationsServed);
        self.send_system(now, from, &translation_id(RESPONSE), &bytes);
    }

    fn translate(&self, from: NeighborId, found: Option<Target>) -> Translation {
        let Some(Target::Flow { flow, protocol, kind }) = found else {
            return Translation::Unknown;
        };
        let Some((flow, data)) = self.flows.get(flow).and_then(|f| Some((f, f.tuple.as_ref()?))) else {
            return Translation::Unknown;
        };
        if !self.flow_knows(flow, from) || flow.unserved.has(from) {
            return Translation::Refused;
        }
        Translation::Known {
            tuple: flow.hash,
            tuple_len: data.bytes.len() as u32,
            path: data.tuple.paths().swap_remove(usize::from(protocol)),
            kind: u16::from(kind),
            coupled: data.tuple.coupled(protocol.into()),
        }
    }

    /// "Send me these bytes", in a packet of `came` bytes.
    pub(super) fn serve_download(
        &mut self,
        now: Now,
        from: NeighborId,
        flow: Handle,
        object: Object,
        (payload, came): (&[u8], usize),
    ) {
        let Some(request) = decode::<DownloadRequest>(payload) else {
            return self.system_malformed(from);
        };
        let Some(flow) = self.flows.get(flow).filter(|f| f.tuple.is_some()) else { return };
        let Some(data) = flow.tuple.as_ref() else { return };
        let (part, bytes) = match object {
            Object::Tuple => (None, Some(data.bytes.clone())),
            Object::Part(at) => {
                let at = usize::from(at);
                let part = data.parts.get(at).map(|p| p.sha256);
                (part, flow.parts.get(at).and_then(Option::as_ref).map(|p| p.bytes.clone()))
            }
        };
        let id = download_id(RESPONSE, &flow.hash, part.as_ref());
        let bytes = bytes.filter(|_| self.flow_knows(flow, from) && !flow.unserved.has(from));
        self.counters.add(Count::DownloadsServed);
        let Some(bytes) = bytes else {
            let refusal = DownloadResponse::Refused { nonce: request.nonce };
            return self.send_system(now, from, &id, &encode(&refusal));
        };
        let (mut chunk, mut most) = (self.chunk_len(from), MAX_CHUNKS);
        if self.neighbors[from].is_unproven() {
            // A request that may be forged gets one answer, as long as itself at most.
            chunk = chunk.min(came.saturating_sub(HEADER_LEN + CHUNK_OVERHEAD) as u32).max(1);
            most = 1;
        }
        let total = bytes.len() as u32;
        let end = request.offset.saturating_add(request.len.min(most * chunk)).min(total);
        let mut offset = request.offset;
        while offset < end {
            let next = (offset + chunk).min(end);
            let piece = &bytes[offset as usize..next as usize];
            let response = DownloadResponse::Chunk { nonce: request.nonce, offset, total, bytes: piece };
            self.send_system(now, from, &id, &encode(&response));
            offset = next;
        }
    }

    /// Bytes of an object that fit one response to this neighbor.
    pub(super) fn chunk_len(&self, neighbor: NeighborId) -> u32 {
        u32::from(self.neighbors[neighbor].max_payload).saturating_sub(CHUNK_OVERHEAD as u32).max(1)
    }

    pub(super) fn system_malformed(&mut self, from: NeighborId) {
        self.counters.add(Count::SystemMalformed);
        self.neighbors[from].refused += 1;
    }
}
