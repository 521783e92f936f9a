//! A node that has just started fetches its protocols (seed 004, section VI) from the server that its configuration
//! names, by name or hash ([`wire::server`]).
//!
//! A tuple that came is judged by the Auth Agent as if it had come from a neighbor called `server`, and the flow that it
//! grants pays for the parts, which are fetched one after the other, and for starting them. Nothing that the server says
//! is believed without its hash. It is asked one question at a time; where it does not answer, or something is amiss, it
//! is asked again after a while, and after twice that while the next time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use nodeos::account::Charge;
use nodeos::net::StreamId;
use nodeos::platform::{Instant, Now};
use nodeos::slab::Handle;
use serde::{Deserialize, Serialize};
use wire::control::Erred;
use wire::id::{PartHash, TupleHash};
use wire::server::{Head, Question, is_selector, take_line};
use wire::tuple::{MAX_LEN, Part, Tuple};

use super::{End, Node};
use crate::config::ConfigError;
use crate::counters::Count;
use crate::flow::{Flow, Source, Stage, tuple_bytes};

/// How the Auth Agent knows the server.
pub(super) const SERVER: &str = "server";
/// Flows that may be named.
const MAX_FLOWS: usize = 32;
/// How long the server may be silent.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before it is asked again, the first time and at most.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The `[server]` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSection {
    /// The protocol server.
    pub address: SocketAddr,
    /// The flows to start: names of protocols, or hashes.
    pub start: Vec<String>,
}

impl ServerSection {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        match self.start.iter().find(|flow| !is_selector(flow)) {
            Some(flow) => Err(ConfigError(format!("server.start: {flow:?} names no flow"))),
            None if self.start.len() > MAX_FLOWS => {
                Err(ConfigError(format!("server.start: at most {MAX_FLOWS} flows")))
            }
            None => Ok(()),
        }
    }
}

/// What is fetched from the protocol server.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    server: Option<SocketAddr>,
    /// What has not been started.
    wanted: VecDeque<String>,
    stream: Option<Stream>,
    /// When to ask again.
    retry: Option<Instant>,
    wait: Option<Duration>,
}

#[derive(Debug)]
struct Stream {
    id: StreamId,
    /// When a byte last came, or the last question was asked.
    heard: Instant,
    open: bool,
    input: Vec<u8>,
    asked: Option<Asked>,
}

/// A question that waits for its answer.
#[derive(Debug)]
enum Asked {
    /// The next of what is wanted: the tuple's bytes so far and what is paid for them, once its length is known.
    Tuple(Option<(usize, Charge)>),
    /// A part of a flow: whether its length was told.
    Part(Handle, PartHash, bool),
}

/// The server did not do as it was asked.
struct Amiss(String);

impl<T: std::fmt::Display> From<T> for Amiss {
    fn from(why: T) -> Self {
        Self(why.to_string())
    }
}

impl Fetches {
    pub(super) fn new(section: Option<&ServerSection>, now: Now) -> Self {
        let Some(section) = section else { return Self::default() };
        Self {
            server: Some(section.address),
            wanted: section.start.iter().cloned().collect(),
            retry: Some(now.mono),
            ..Self::default()
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let silent = self.stream.as_ref().map(|s| s.heard + PATIENCE);
        [self.retry, silent].into_iter().flatten().min()
    }

    /// Whether this is the stream to the server.
    pub(super) fn has(&self, stream: StreamId) -> bool {
        self.stream.as_ref().is_some_and(|s| s.id == stream)
    }
}

impl Node {
    /// Connects, asks, and gives up, each when it is due.
    pub(super) fn fetches_due(&mut self, now: Now) {
        let Some(server) = self.fetches.server else { return };
        if let Some(stream) = &self.fetches.stream {
            if now.mono >= stream.heard + PATIENCE {
                match stream.open && stream.asked.is_none() {
                    true => self.hang_up(now),
                    false => self.fetch_failed(now, &Amiss("it does not answer".into())),
                }
            }
            return;
        }
        if self.fetches.retry.is_none_or(|at| now.mono < at) {
            return;
        }
        self.fetches.retry = None;
        if self.fetches.wanted.is_empty() && self.fetching().is_none() {
            return;
        }
        match self.net.connect(now.mono, server) {
            Some(id) => {
                let (input, heard) = (Vec::new(), now.mono);
                self.fetches.stream = Some(Stream { id, heard, open: false, input, asked: None });
            }
            // Without an address there is no way yet; with a false one there never is.
            None => self.fetch_failed(now, &Amiss("no management link leads there".into())),
        }
    }

    /// The server answered the call.
    pub(super) fn fetch_opened(&mut self, now: Now) {
        if let Some(stream) = &mut self.fetches.stream {
            (stream.open, stream.heard) = (true, now.mono);
        }
        self.fetch_next(now);
    }

    /// The connection is gone.
    pub(super) fn fetch_closed(&mut self, now: Now) {
        self.fetches.stream = None;
        self.fetch_failed(now, &Amiss("the connection ended".into()));
    }

    /// The server will say no more.
    pub(super) fn fetch_finished(&mut self, now: Now) {
        self.fetch_failed(now, &Amiss("it hung up".into()));
    }

    /// Something came from the server.
    pub(super) fn fetch_ready(&mut self, now: Now) {
        let mut bytes = [0; 2048];
        while let Some(stream) = &mut self.fetches.stream {
            let n = self.net.read(now.mono, stream.id, &mut bytes);
            if n == 0 {
                return;
            }
            stream.heard = now.mono;
            stream.input.extend_from_slice(&bytes[..n]);
            if let Err(why) = self.fetch_read(now) {
                return self.fetch_failed(now, &why);
            }
        }
    }

    /// Takes what has come; no more of it is kept than one read, and the tuple.
    fn fetch_read(&mut self, now: Now) -> Result<(), Amiss> {
        loop {
            let Some(stream) = &mut self.fetches.stream else { return Ok(()) };
            match stream.asked.take() {
                None if stream.input.is_empty() => return Ok(()),
                None => return Err("it says what nobody asked".into()),
                Some(asked @ (Asked::Tuple(None) | Asked::Part(_, _, false))) => {
                    let Some(line) = take_line(&mut stream.input)? else {
                        stream.asked = Some(asked);
                        return Ok(());
                    };
                    let asked = self.fetch_head(asked, &Head::parse(&line)?)?;
                    if let Some(stream) = &mut self.fetches.stream {
                        stream.asked = asked;
                    }
                }
                Some(Asked::Tuple(Some((len, charge)))) if stream.input.len() < len => {
                    stream.asked = Some(Asked::Tuple(Some((len, charge))));
                    return Ok(());
                }
                Some(Asked::Tuple(Some((len, charge)))) => {
                    let tuple: Vec<u8> = stream.input.drain(..len).collect();
                    self.fetched_tuple(now, tuple, charge)?;
                    self.fetch_next(now);
                }
                Some(Asked::Part(flow, hash, true)) => {
                    let taken = std::mem::take(&mut stream.input);
                    let (rest, complete) = self.fetched_piece(now, flow, &taken)?;
                    let Some(stream) = &mut self.fetches.stream else { return Ok(()) };
                    stream.input = rest.to_vec();
                    if !complete {
                        stream.asked = Some(Asked::Part(flow, hash, true));
                        return Ok(());
                    }
                    self.fetch_next(now);
                }
            }
        }
    }

    /// The first line of an answer: what is read then, if anything.
    fn fetch_head(&mut self, asked: Asked, head: &Head) -> Result<Option<Asked>, Amiss> {
        match (asked, head) {
            (Asked::Tuple(_), Head::Ok(len)) => {
                let len = *len as usize;
                if len == 0 || len > MAX_LEN {
                    return Err("its tuple has no length that a tuple may have".into());
                }
                // Until the flow's own team pays, the account of uploads does.
                let charge = self.uploads.account().charge(tuple_bytes(len) + len as u64)?;
                Ok(Some(Asked::Tuple(Some((len, charge)))))
            }
            (Asked::Part(flow, hash, _), Head::Ok(len)) => {
                match self.fetched_part(flow) {
                    Some(part) if part.sha256 == hash && part.len != *len => {
                        Err("its part has another length than the tuple names".into())
                    }
                    Some(part) if part.sha256 == hash => Ok(Some(Asked::Part(flow, hash, true))),
                    // The flow ended meanwhile: the bytes are nobody's.
                    _ => Err("its flow ended".into()),
                }
            }
            (_, Head::Error(why)) => Err(why.chars().filter(|c| !c.is_control()).collect::<String>().into()),
        }
    }

    /// A tuple is here: in front of the Auth Agent with it.
    fn fetched_tuple(&mut self, now: Now, bytes: Vec<u8>, charge: Charge) -> Result<(), Amiss> {
        let Some(selector) = self.fetches.wanted.front() else { return Ok(()) };
        let hash = TupleHash::of(&bytes);
        let tuple = Tuple::decode(&bytes).inspect_err(|_| self.counters.add(Count::BadTuple))?;
        let is_it = *selector == tuple.main().name || selector.eq_ignore_ascii_case(&hash.to_string());
        if !is_it {
            return Err(format!("it gave another flow than {selector}").into());
        }
        self.fetches.wanted.pop_front();
        if self.flows.by_hash(&hash).is_some() || self.successor_of(&hash).is_some() {
            return Ok(());
        }
        let flow = Flow::new(hash, Source::Server, Stage::Judging, now.mono);
        let Some(handle) = self.flows.add(flow) else {
            self.log_limited(now, || format!("server: no room for flow {hash:.8}"));
            return Ok(());
        };
        self.judge(now, handle, bytes.into(), tuple, charge);
        Ok(())
    }

    /// The part that a flow fetches.
    fn fetched_part(&self, handle: Handle) -> Option<Part> {
        let flow = self.flows.get(handle)?;
        let Stage::Fetch { part, .. } = flow.stage else { return None };
        flow.tuple.as_ref()?.parts.get(part).copied()
    }

    /// A piece of a part: what is left of the bytes, and whether the part is complete.
    fn fetched_piece<'a>(
        &mut self,
        now: Now,
        handle: Handle,
        piece: &'a [u8],
    ) -> Result<(&'a [u8], bool), Amiss> {
        let Some(part) = self.fetched_part(handle) else { return Err("its flow ended".into()) };
        let Some(flow) = self.flows.get_mut(handle) else { return Err("its flow ended".into()) };
        let Stage::Fetch { bytes, .. } = &mut flow.stage else { return Err("its flow ended".into()) };
        let n = piece.len().min(part.len as usize - bytes.len());
        bytes.extend_from_slice(&piece[..n]);
        let complete = bytes.len() == part.len as usize;
        if complete && !part.matches(bytes) {
            self.counters.add(Count::BadPart);
            let why = format!("part {:.8} does not have the hashes that the tuple names", part.sha256);
            return Err(why.into());
        }
        if complete
            && let Stage::Fetch { part, bytes, charge } = std::mem::replace(&mut flow.stage, Stage::Judging)
        {
            self.part_arrived(now, handle, part, bytes, charge);
            // A tuple alone is not enough: it is fetched anew whenever a part does not come.
            if self.flows.get(handle).is_some() && self.fetched_part(handle).is_none() {
                self.fetches.wait = None;
            }
        }
        Ok((&piece[n..], complete))
    }

    /// A flow that was granted needs a part.
    pub(super) fn fetch_part(&mut self, now: Now, handle: Handle, at: usize, len: u32, charge: Charge) {
        if let Some(flow) = self.flows.get_mut(handle) {
            flow.stage = Stage::Fetch { part: at, bytes: Vec::with_capacity(len as usize), charge };
        }
        if self.fetches.stream.is_none() && self.fetches.retry.is_none() {
            self.fetches.retry = Some(now.mono);
        }
        self.fetch_next(now);
    }

    /// The first flow that fetches a part.
    fn fetching(&self) -> Option<(Handle, Part)> {
        self.flows.iter().find_map(|(handle, _)| Some((handle, self.fetched_part(handle)?)))
    }

    /// Asks the next question, or hangs up.
    fn fetch_next(&mut self, now: Now) {
        let part = self.fetching();
        let judged = |f: &Flow| f.source == Source::Server && matches!(f.stage, Stage::Judging);
        let is_judged = self.flows.iter().any(|(_, f)| judged(f));
        let Some(stream) = &mut self.fetches.stream else { return };
        if !stream.open || stream.asked.is_some() {
            return;
        }
        let (question, asked) = match (part, self.fetches.wanted.front()) {
            (Some((flow, part)), _) => (Question::Part(part.sha256), Asked::Part(flow, part.sha256, false)),
            (None, Some(wanted)) => (Question::Tuple(wanted.clone()), Asked::Tuple(None)),
            // It is needed soon, and there is no other before this one has been closed by both sides.
            (None, None) if is_judged => return,
            (None, None) => return self.hang_up(now),
        };
        let line = format!("{question}\n");
        let id = stream.id;
        (stream.asked, stream.heard) = (Some(asked), now.mono);
        if self.net.write(now.mono, id, line.as_bytes()) < line.len() {
            self.fetch_failed(now, &Amiss("the connection ended".into()));
        }
    }

    fn hang_up(&mut self, now: Now) {
        if let Some(stream) = self.fetches.stream.take() {
            self.net.close(now.mono, stream.id);
        }
    }

    /// Hangs up, and tries again later. A flow whose part did not come ends: it is fetched anew.
    fn fetch_failed(&mut self, now: Now, why: &Amiss) {
        self.counters.add(Count::FetchesFailed);
        if let Some(stream) = self.fetches.stream.take() {
            self.net.abort(now.mono, stream.id);
        }
        let wait = self.fetches.wait.map_or(FIRST_WAIT, |wait| (2 * wait).min(LONGEST_WAIT));
        (self.fetches.wait, self.fetches.retry) = (Some(wait), Some(now.mono + wait));
        // Whoever is first must not keep the others from being fetched.
        self.fetches.wanted.rotate_left(usize::from(self.fetches.wanted.len() > 1));
        let (text, seconds) = (&why.0, wait.as_secs());
        self.log_limited(now, || format!("server: {text}; asked again in {seconds} s"));
        while let Some((flow, _)) = self.fetching() {
            if let Some(hash) = self.flows.get(flow).map(|f| f.hash.to_string()) {
                self.fetches.wanted.push_back(hash);
            }
            self.end_flow(now, flow, End::failed(Erred::Peer, format!("the protocol server: {text}")));
        }
    }
}
