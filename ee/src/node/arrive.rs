//! How a flow gets here: from an unknown capsule to a running team (seed 004, sections II.C and V).
//!
//! The steps are in [`crate::flow`]. Whatever fails ends the flow with a reason that says who erred, and
//! its identifiers are not asked for again for a short while.

use std::sync::Arc;
use std::time::Duration;

use nodeos::account::Charge;
use nodeos::buf::{BLOCK, Buf};
use nodeos::platform::{Instant, Now};
use nodeos::slab::Handle;
use nodeos::team::Team;
use wire::capsule::HEADER_LEN;
use wire::control::Erred;
use wire::id::{CapsuleId, TupleHash};
use wire::system::{
    CHUNK_OVERHEAD, DownloadRequest, DownloadResponse, REQUEST, RESPONSE, Translation, TranslationRequest,
    TranslationResponse, decode, download_id, encode, translation_id,
};
use wire::tuple::{MAX_LEN, Part, Tuple};

use super::{End, Node};
use crate::counters::Count;
use crate::flow::{Claim, Flow, PartData, Source, Stage, TupleData, tuple_bytes};
use crate::neighbor::NeighborId;
use crate::registry::{Object, Target};
use crate::system::download::{Ask, Chunk, Download, Piece, Refusal};
use crate::system::sources::WINDOW;
use crate::system::translate::{Asked, MAX_WAITING, Question, Waiting};

/// Tuples of one neighbor that are on their way or being judged.
const ARRIVING_PER_NEIGHBOR: usize = 8;
/// How long at most an identifier of a flow that is kept away is not asked about again.
const BANNED_FOR: Duration = Duration::from_secs(60);
/// How long the Auth Agent may take to judge a flow, its signature's verification included.
const JUDGE_TIME: Duration = Duration::from_secs(60);

impl Node {
    /// A capsule whose identifier nobody here knows.
    pub(super) fn unknown(&mut self, now: Now, from: NeighborId, id: CapsuleId, payload: Buf, came: usize) {
        self.counters.add(Count::Unknown);
        let Some(waiting) = self.wait(from, id, payload) else { return };
        let nonce = self.next_nonce();
        let paid = self.neighbors[from].questions_for(came);
        match self.questions.unknown(now.mono, waiting, nonce, paid) {
            Asked::Ask(neighbor, nonce) => self.ask(now, neighbor, id, nonce),
            Asked::Waits => {}
            Asked::Refused => {
                self.counters.add(Count::Refused);
                self.neighbors[from].refused += 1;
            }
            Asked::NoRoom => self.counters.add(Count::WaitingDropped),
        }
    }

    /// A capsule that waits is charged to the neighbor it came from.
    fn wait(&mut self, from: NeighborId, id: CapsuleId, payload: Buf) -> Option<Waiting> {
        match self.neighbors[from].account.charge(BLOCK as u64) {
            Ok(charge) => Some(Waiting { from, id, payload, charge }),
            Err(_) => {
                self.counters.add(Count::WaitingDropped);
                None
            }
        }
    }

    /// A capsule of a flow that is on its way here.
    pub(super) fn wait_for_flow(
        &mut self,
        now: Now,
        flow: Handle,
        from: NeighborId,
        id: CapsuleId,
        payload: Buf,
    ) {
        self.add_source(now, flow, from);
        let Some(capsule) = self.wait(from, id, payload) else { return };
        match self.flows.get_mut(flow) {
            Some(flow) if flow.waiting.len() < MAX_WAITING => flow.waiting.push(capsule),
            _ => self.counters.add(Count::WaitingDropped),
        }
    }

    fn ask(&mut self, now: Now, neighbor: NeighborId, unknown: CapsuleId, nonce: u32) {
        let request = encode(&TranslationRequest { nonce, unknown });
        self.send_system(now, neighbor, &translation_id(REQUEST), &request);
    }

    /// Asks again what was not answered.
    pub(super) fn questions_due(&mut self, now: Now) {
        while let Some(due) = self.questions.due(now.mono) {
            match due {
                Ok((id, neighbor, nonce)) => {
                    self.counters.add(Count::Retries);
                    self.ask(now, neighbor, id, nonce);
                }
                Err(question) => {
                    self.counters.add(Count::GaveUp);
                    self.questions.refuse(now.mono, question.waiting[0].id);
                    let name = self.neighbors[question.neighbor].name.clone();
                    self.log_limited(now, || {
                        format!("peer {name} does not answer what flow a capsule belongs to")
                    });
                }
            }
        }
    }

    /// The previous hop says which flow an identifier belongs to.
    pub(super) fn translation(&mut self, now: Now, from: NeighborId, payload: &[u8]) {
        let Some(response) = decode::<TranslationResponse>(payload) else {
            return self.system_malformed(from);
        };
        let Some(question) = self.questions.answered(from, &response.unknown, response.nonce) else {
            return self.counters.add(Count::Unasked);
        };
        let Translation::Known { tuple, tuple_len, path, kind, coupled } = response.answer else {
            return self.questions.refuse(now.mono, response.unknown);
        };
        let claim = Claim { id: response.unknown, path, kind, coupled };
        self.claimed(now, from, question, tuple, tuple_len, claim);
    }

    fn claimed(
        &mut self,
        now: Now,
        from: NeighborId,
        question: Question,
        tuple: TupleHash,
        tuple_len: u32,
        claim: Claim,
    ) {
        if let Some(until) = self.bans.until(now.mono, &tuple) {
            self.counters.add(Count::Refused);
            // While the flow is kept away it is rarely asked about again; a lie keeps no other flow away.
            let its = CapsuleId::compute(&tuple, &claim.path, claim.kind, &claim.coupled) == claim.id;
            return match its {
                true => self.questions.refuse_until(until.min(now.mono + BANNED_FOR), claim.id),
                false => self.questions.refuse(now.mono, claim.id),
            };
        }
        if self.successor_of(&tuple).is_some() {
            // Its time is over here.
            self.counters.add(Count::Refused);
            return self.questions.refuse(now.mono, claim.id);
        }
        if let Some(known) = self.flows.by_hash(&tuple) {
            return self.join(now, from, known, question, claim);
        }
        let len_ok = tuple_len > 0 && tuple_len as usize <= MAX_LEN;
        // Flows without a team are few for each neighbor, so that none of them takes the whole table.
        let arrives =
            |f: &Flow| matches!(f.stage, Stage::Tuple { .. } | Stage::Judging) && f.fetched_for.is_empty();
        let source = Source::Neighbor { id: from, name: self.neighbors[from].name.clone() };
        let mine = |f: &Flow| arrives(f) && f.source == source;
        let room = self.flows.iter().filter(|(_, f)| mine(f)).count() < ARRIVING_PER_NEIGHBOR;
        let wanted = tuple_bytes(tuple_len as usize);
        let charge = if len_ok && room { self.neighbors[from].account.charge(wanted).ok() } else { None };
        let Some(charge) = charge else {
            self.counters.add(Count::Refused);
            return self.questions.refuse(now.mono, claim.id);
        };
        let id = claim.id;
        let arrival = Some((claim, question));
        if !self.fetch_tuple(now, from, (tuple, tuple_len), charge, arrival, None) {
            self.counters.add(Count::Refused);
            self.questions.refuse(now.mono, id);
        }
    }

    /// Begins to download a tuple of this hash and length, because of capsules of it or for a flow here; `false`: there
    /// are as many flows as may be.
    pub(super) fn fetch_tuple(
        &mut self,
        now: Now,
        from: NeighborId,
        (tuple, len): (TupleHash, u32),
        charge: Charge,
        because: Option<(Claim, Question)>,
        fetched_for: Option<Handle>,
    ) -> bool {
        let download = Box::new(Download::new(len, now.mono));
        let (claim, question) = because.unzip();
        let stage = Stage::Tuple { download, charge, claim };
        let source = Source::Neighbor { id: from, name: self.neighbors[from].name.clone() };
        let mut flow = Flow::new(tuple, source, stage, now.mono);
        flow.fetched_for.extend(fetched_for);
        let mut others: Vec<NeighborId> = vec![from];
        if let Some(question) = question {
            flow.arrival.translate_us = now.mono.since(question.since).as_micros() as u64;
            flow.waiting = question.waiting;
            others.extend(flow.waiting.iter().map(|capsule| capsule.from));
        }
        let Some(handle) = self.flows.add(flow) else { return false };
        self.register(handle, download_id(RESPONSE, &tuple, None), |flow| Target::DownloadResponse {
            flow,
            object: Object::Tuple,
        });
        self.arriving.push(handle);
        // Whoever sent such a capsule has the flow.
        others.into_iter().for_each(|from| self.add_source(now, handle, from));
        true
    }

    /// Another identifier of a flow that is on its way already, or here.
    fn join(&mut self, now: Now, from: NeighborId, handle: Handle, question: Question, claim: Claim) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        if let Some(data) = &flow.tuple {
            // Its identifiers are entered, so one that is still unknown is not its.
            if !borne_out(&claim, &flow.hash, &data.tuple) || self.registry.find(&claim.id).is_none() {
                self.counters.add(Count::FalseTranslation);
                self.neighbors[from].refused += 1;
                return self.questions.refuse(now.mono, claim.id);
            }
            for capsule in question.waiting {
                self.capsule(now, capsule.from, capsule.id, None, capsule.payload, 0);
            }
            return;
        }
        let room = MAX_WAITING.saturating_sub(flow.waiting.len());
        flow.waiting.extend(question.waiting.into_iter().take(room));
        self.add_source(now, handle, from);
    }

    /// A neighbor has a flow that is on its way here: it is asked for what is missing of it, too.
    fn add_source(&mut self, now: Now, handle: Handle, from: NeighborId) {
        let wanted = |f: &&Flow| f.may_download() && matches!(f.source, Source::Neighbor { .. });
        let sources = self.flows.get(handle).filter(wanted).map(|f| &f.sources);
        if sources.is_none_or(|sources| sources.is_full() || sources.has(from)) {
            return;
        }
        let (nonce, chunk) = (self.next_nonce(), self.chunk_len(from));
        let each = if self.neighbors[from].is_unproven() { 1 } else { WINDOW };
        if let Some(flow) = self.flows.get_mut(handle) {
            flow.sources.add(from, nonce, chunk, each);
        }
        self.pump_download(now, handle);
    }

    /// Sends what a download asks for now; ends the flow if its sources are gone.
    fn pump_download(&mut self, now: Now, handle: Handle) {
        loop {
            let Some(flow) = self.flows.get_mut(handle) else { return };
            let (download, part) = match (&mut flow.stage, &flow.tuple) {
                (Stage::Tuple { download, .. }, _) => (download, None),
                (Stage::Download { part, download, .. }, Some(data)) => {
                    (download, Some(data.parts[*part].sha256))
                }
                _ => return,
            };
            let before = download.retries();
            let team = flow.team.as_ref().and_then(|(team, _)| self.teams.get(*team));
            let pay = |bytes| team.is_none_or(|team| team.accounts().download().spend(bytes).is_ok());
            let request = download.request(now.mono, &mut flow.sources, pay);
            let repeated = download.retries() - before;
            flow.arrival.retries += repeated;
            let id = download_id(REQUEST, &flow.hash, part.as_ref());
            (0..repeated).for_each(|_| self.counters.add(Count::Retries));
            match request {
                Ok(None) => return,
                Ok(Some(Ask { from, nonce, range })) => {
                    let request =
                        DownloadRequest { nonce, offset: range.start, len: range.end - range.start };
                    // An answer is no longer than its request where that could go to somebody else.
                    let unproven = self.neighbors[from].is_unproven();
                    let answer = HEADER_LEN + CHUNK_OVERHEAD + range.len();
                    let least = if unproven { answer } else { 0 };
                    self.send_system_in(now, from, &id, &encode(&request), least);
                }
                Err(_) => {
                    self.counters.add(Count::GaveUp);
                    let names: Vec<&str> = flow.sources.ids().map(|id| &*self.neighbors[id].name).collect();
                    let why = format!("{} stopped answering", names.join(", "));
                    return self.end_flow(now, handle, End::failed(Erred::Peer, why));
                }
            }
        }
    }

    /// Asks again for what downloads miss.
    pub(super) fn downloads_due(&mut self, now: Now) {
        let mut at = 0;
        while let Some(&handle) = self.arriving.get(at) {
            let Some(flow) = self.flows.get(handle).filter(|f| f.may_download()) else {
                self.arriving.swap_remove(at);
                continue;
            };
            if flow.download_deadline().is_some_and(|due| due <= now.mono) {
                match flow.stage {
                    Stage::Judging => {
                        self.counters.add(Count::FlowsRefused);
                        let why = "the Auth Agent does not come to a judgement";
                        self.end_flow(now, handle, End::failed(Erred::Node, why));
                    }
                    _ => self.pump_download(now, handle),
                }
            }
            at += 1;
        }
    }

    /// When [`downloads_due`](Self::downloads_due) must be called at the latest.
    pub(super) fn downloads_deadline(&self) -> Option<Instant> {
        self.arriving.iter().filter_map(|&h| self.flows.get(h)?.download_deadline()).min()
    }

    /// A chunk of something that we download.
    pub(super) fn downloaded(
        &mut self,
        now: Now,
        from: NeighborId,
        handle: Handle,
        object: Object,
        payload: &[u8],
    ) {
        let Some(response) = decode::<DownloadResponse<'_>>(payload) else {
            return self.system_malformed(from);
        };
        let Some(flow) = self.flows.get_mut(handle) else { return self.counters.add(Count::Unasked) };
        let download = match (&mut flow.stage, object) {
            (Stage::Tuple { download, .. }, Object::Tuple) => download,
            (Stage::Download { part, download, .. }, Object::Part(at)) if *part == usize::from(at) => {
                download
            }
            _ => return self.counters.add(Count::Unasked),
        };
        let before = download.retries();
        match response {
            DownloadResponse::Refused { nonce } => {
                match download.refused(now.mono, &mut flow.sources, from, nonce) {
                    Refusal::Unasked => self.counters.add(Count::Unasked),
                    Refusal::Later => self.pump_download(now, handle),
                    Refusal::Final => {
                        let name = &self.neighbors[from].name;
                        let why = format!("{name} does not give what the flow is made of");
                        self.end_flow(now, handle, End::failed(Erred::Peer, why));
                    }
                }
            }
            DownloadResponse::Chunk { nonce, offset, total, bytes } => {
                let piece = Piece { nonce, offset, total, bytes };
                let outcome = download.chunk(now.mono, &mut flow.sources, from, piece);
                let lost = download.retries() - before;
                flow.arrival.retries += lost;
                (0..lost).for_each(|_| self.counters.add(Count::Retries));
                match outcome {
                    Chunk::Ignored => self.counters.add(Count::Unasked),
                    Chunk::Progress => self.pump_download(now, handle),
                    Chunk::Complete => self.download_complete(now, handle),
                }
            }
        }
    }

    fn download_complete(&mut self, now: Now, handle: Handle) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let (download, right) = match (&flow.stage, &flow.tuple) {
            (Stage::Tuple { download, .. }, _) => (download, TupleHash::of(download.bytes()) == flow.hash),
            (Stage::Download { part, download, .. }, Some(data)) => {
                (download, data.parts[*part].matches(download.bytes()))
            }
            _ => return,
        };
        flow.arrival.bytes += download.bytes().len() as u64;
        if !right {
            return self.download_wrong(now, handle);
        }
        for liar in download.liars(&flow.sources) {
            self.lied(now, liar, Count::BadPart);
        }
        let Some(flow) = self.flows.get_mut(handle) else { return };
        match std::mem::replace(&mut flow.stage, Stage::Judging) {
            Stage::Tuple { download, charge, claim } => {
                flow.arrival.tuple_us = now.mono.since(flow.since).as_micros() as u64;
                flow.since = now.mono;
                self.tuple_arrived(now, handle, download.into_bytes(), charge, claim.as_ref());
            }
            Stage::Download { part, download, charge } => {
                self.part_kept(now, handle, part, download.into_bytes().into(), charge);
            }
            other => flow.stage = other,
        }
    }

    /// What came does not have its hashes: somebody lied. It is asked for again, of one source alone.
    fn download_wrong(&mut self, now: Now, handle: Handle) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let Source::Neighbor { id: first, .. } = flow.source else { return };
        let team = flow.team.as_ref().and_then(|(team, _)| self.teams.get(*team));
        let (download, count, why) = match (&mut flow.stage, &flow.tuple) {
            (Stage::Tuple { download, .. }, _) => {
                (download, Count::FalseTranslation, "the tuple does not have its hash".to_string())
            }
            (Stage::Download { part, download, .. }, Some(data)) => {
                let part = data.parts[*part].sha256;
                (
                    download,
                    Count::BadPart,
                    format!("part {part:.8} does not have the hashes that the tuple names"),
                )
            }
            _ => return,
        };
        let len = download.bytes().len() as u64;
        let memory = team.map_or(&self.neighbors[first].account, Team::account);
        let wrong = download.wrong(now.mono, &mut flow.sources, || memory.charge(len).ok());
        let again = wrong.again && team.is_none_or(|team| team.accounts().download().spend(len).is_ok());
        match wrong.liar {
            Some(liar) => self.lied(now, liar, count),
            None => self.counters.add(Count::Mixed),
        }
        if again {
            return self.pump_download(now, handle);
        }
        self.end_flow(now, handle, End::failed(Erred::Peer, why));
    }

    fn lied(&mut self, now: Now, liar: NeighborId, count: Count) {
        self.counters.add(count);
        let neighbor = &mut self.neighbors[liar];
        neighbor.refused += 1;
        let name = neighbor.name.clone();
        self.log_limited(now, || format!("peer {name} gave what does not have its hash"));
    }

    fn tuple_arrived(
        &mut self,
        now: Now,
        handle: Handle,
        bytes: Vec<u8>,
        charge: Charge,
        claim: Option<&Claim>,
    ) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let tuple = match Tuple::decode(&bytes) {
            Ok(tuple) => tuple,
            Err(error) => {
                self.counters.add(Count::BadTuple);
                return self.end_flow(now, handle, End::failed(Erred::Principal, error));
            }
        };
        if claim.is_some_and(|claim| !borne_out(claim, &flow.hash, &tuple)) {
            self.counters.add(Count::FalseTranslation);
            let why = "the tuple does not have the identifier that it was named for";
            return self.end_flow(now, handle, End::failed(Erred::Peer, why));
        }
        self.judge(now, handle, bytes.into(), tuple, charge);
    }

    /// Puts a decoded tuple in front of the Auth Agent.
    pub(super) fn judge(&mut self, now: Now, handle: Handle, bytes: Arc<[u8]>, tuple: Tuple, charge: Charge) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let parts = tuple.parts();
        flow.parts = parts.iter().map(|_| None).collect();
        flow.tuple = Some(TupleData { bytes, tuple: Arc::new(tuple), parts, charge });
        flow.enter(Stage::Judging, now.mono);
        if !self.arriving.contains(&handle) {
            self.arriving.push(handle);
        }
        self.tuple_seen(now, handle, None);
    }

    /// The flow is granted and has a team: gets the parts that are not here.
    pub(super) fn next_part(&mut self, now: Now, handle: Handle) {
        let Some((flow, team)) = self.flow_and_team(handle) else { return };
        let Some(data) = &flow.tuple else { return };
        let Some(at) = flow.parts.iter().position(Option::is_none) else {
            return self.compile(now, handle);
        };
        let (part, hash, source) = (data.parts[at], flow.hash, flow.source.clone());
        let Some(account) = self.teams.get(team).map(|t| t.account().clone()) else { return };
        let Ok(charge) = account.charge(part.len.into()) else {
            let why = format!("a part of {} bytes does not fit the flow's memory budget", part.len);
            return self.end_flow(now, handle, End::failed(Erred::Principal, why));
        };
        if let Some(bytes) = self.part_at_hand(&part) {
            return self.part_kept(now, handle, at, bytes, charge);
        }
        match source {
            Source::Neighbor { .. } | Source::Server => {}
            Source::Injected { .. } => {
                let why = format!("part {:.8} was not put before the flow was injected", part.sha256);
                return self.end_flow(now, handle, End::failed(Erred::Operator, why));
            }
            Source::Flow { .. } => {
                let why = format!("part {:.8} is no part of a flow here", part.sha256);
                return self.end_flow(now, handle, End::failed(Erred::Guest, why));
            }
        };
        let Some(paid) = self.teams.get(team).map(|t| t.accounts().download().clone()) else { return };
        let len = u64::from(part.len);
        if paid.spend(len).is_err() {
            // What others have used up above it is no reason to keep it away.
            if paid.own_left() < len {
                self.keep_away(now, handle);
            }
            let why = "what it needs is more than may be downloaded for it";
            return self.end_flow(now, handle, End::failed(Erred::Principal, why));
        }
        if matches!(source, Source::Server) {
            return self.fetch_part(now, handle, at, part.len, charge);
        }
        let download = Box::new(Download::new(part.len, now.mono));
        if let Some(flow) = self.flows.get_mut(handle) {
            if let Some((_, grant)) = &flow.team {
                let neighbors = &self.neighbors;
                flow.sources.retain(|from| grant.neighbors.includes(&neighbors[from].name));
            }
            // The stage's start stays that of the first part: the figure is for all of them.
            flow.stage = Stage::Download { part: at, download, charge };
        }
        self.register(handle, download_id(RESPONSE, &hash, Some(&part.sha256)), |flow| {
            Target::DownloadResponse { flow, object: Object::Part(at as u16) }
        });
        self.pump_download(now, handle);
    }

    fn part_at_hand(&mut self, part: &Part) -> Option<Arc<[u8]>> {
        let here = self.flows.part(&part.sha256).map(|p| p.bytes.clone());
        let bytes = here.or_else(|| self.uploads.take(&part.sha256).map(Arc::from))?;
        part.matches(&bytes).then_some(bytes)
    }

    /// A part from a protocol server, with the hashes that the tuple names.
    pub(super) fn part_arrived(
        &mut self,
        now: Now,
        handle: Handle,
        at: usize,
        bytes: Vec<u8>,
        charge: Charge,
    ) {
        if let Some(flow) = self.flows.get_mut(handle) {
            flow.arrival.bytes += bytes.len() as u64;
        }
        self.part_kept(now, handle, at, bytes.into(), charge);
    }

    fn part_kept(&mut self, now: Now, handle: Handle, at: usize, bytes: Arc<[u8]>, charge: Charge) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        if let Some(slot) = flow.parts.get_mut(at) {
            *slot = Some(Arc::new(PartData { bytes, charge }));
        }
        self.next_part(now, handle);
    }

    /// Enters an identifier for a flow, and remembers to take it out again.
    pub(super) fn register(&mut self, handle: Handle, id: CapsuleId, target: impl FnOnce(Handle) -> Target) {
        if self.registry.insert(id, target(handle))
            && let Some(flow) = self.flows.get_mut(handle)
        {
            flow.ids.push(id);
        }
    }
}

impl Flow {
    /// Whether it still has something to fetch.
    fn may_download(&self) -> bool {
        matches!(self.stage, Stage::Tuple { .. } | Stage::Judging | Stage::Download { .. })
    }

    /// When its download, or its judgement, must be looked at.
    fn download_deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Tuple { download, .. } | Stage::Download { download, .. } => {
                download.deadline(&self.sources)
            }
            Stage::Judging => Some(self.since + JUDGE_TIME),
            _ => None,
        }
    }
}

/// Whether the tuple really has the identifier, recomputed by the formula (D7).
fn borne_out(claim: &Claim, hash: &TupleHash, tuple: &Tuple) -> bool {
    let Some(at) = tuple.paths().iter().position(|p| *p == claim.path) else { return false };
    let coupled = tuple.coupled(at);
    usize::from(claim.kind) < tuple.body.protocols[at].capsules.len()
        && (claim.coupled.is_empty() || claim.coupled == coupled)
        && CapsuleId::compute(hash, &claim.path, claim.kind, &coupled) == claim.id
}
