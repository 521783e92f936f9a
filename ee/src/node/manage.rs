//! Control clients: the Noise channel over a TCP stream, and what a client that is logged in may ask.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use authagent::NoEntropy;
use authagent::channel::{ChannelError, Gate, Server, ServerEvent};
use authagent::keys::{Ed25519Key, NodeIdentity, PublicKey};
use nodeos::ip::StreamEvent;
use nodeos::net::StreamId;
use nodeos::platform::{Entropy, Instant, Now};
use nodeos::team::{Resource, Team, TeamId};
use serde::Serialize;
use wire::budget::Kind;
use wire::control::{
    Answer, BudgetInfo, ControlError, Erred, MAX_MESSAGE, NodeInfo, Page, ProtocolInfo, Request, TeamInfo,
    decode, encode,
};
use wire::id::{PartHash, TupleHash};
use wire::tuple::Tuple;
use wire::{CONTROL_PORT, METRICS_PORT, SESSION_PORT};

use super::authority::{Access, described, what};
use super::{End, Node};
use crate::attempts::{Attempts, origin};
#[cfg(doc)]
use crate::config::ADMIN;
use crate::config::{ConfigError, NodeConfig};
use crate::counters::Count;
use crate::engine::Code;
use crate::flow::{Flow, Source, Stage, tuple_bytes};
use crate::neighbor::Neighbors;

/// Clients connected at a time, logged in or not.
const MAX_CLIENTS: usize = 8;
/// Clients of one address that have not logged in.
const MAX_STRANGERS: usize = 2;
/// How long a client may take to log in.
const LOGIN_TIME: Duration = Duration::from_secs(5);
/// Items of a list in one answer.
const PAGE: usize = 32;
/// Bytes of a list in one answer.
const PAGE_BYTES: usize = MAX_MESSAGE - 4096;
/// Bytes that may wait for a client to read them.
const MAX_OUTPUT: usize = 4 * MAX_MESSAGE;

struct Client {
    stream: StreamId,
    from: IpAddr,
    channel: Server,
    principal: Option<String>,
    since: Instant,
    /// What it asked and has not been answered.
    requests: VecDeque<ServerEvent>,
    /// It may have asked more that has not been read.
    unread: bool,
    /// What it said last could not be read: when what came whole before it is done, it is sent away.
    failed: Option<ChannelError>,
    /// It will say no more: when all is answered, the stream is closed.
    finished: bool,
    output: VecDeque<u8>,
    closing: bool,
}

/// The control clients of a node.
#[derive(Default)]
pub(super) struct Clients {
    gate: Option<Arc<Gate>>,
    identity: Option<Ed25519Key>,
    /// The key that the configuration gives the administrator.
    pub(super) admin: Option<PublicKey>,
    pub(super) access: Access,
    attempts: Attempts,
    list: Vec<Client>,
}

impl Client {
    /// Whether it waits for an answer that can be given: one that does not read its answers gets no more.
    fn has_request(&self) -> bool {
        (self.unread || !self.requests.is_empty()) && self.output.len() <= MAX_OUTPUT && !self.closing
    }
}

impl Clients {
    /// When a client that has not logged in is sent away.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let slow = self.list.iter().filter(|c| c.principal.is_none() && !c.closing);
        slow.map(|c| c.since + LOGIN_TIME).min()
    }

    /// Whether somebody waits for an answer that can be given.
    pub(super) fn have_requests(&self) -> bool {
        self.list.iter().any(Client::has_request)
    }

    /// Who is logged in.
    pub(super) fn principals(&self) -> impl Iterator<Item = &str> {
        self.list.iter().filter_map(|c| c.principal.as_deref())
    }

    /// Whether somebody at this address may begin to log in: others must have room, too.
    fn admits(&mut self, now: Instant, from: IpAddr) -> bool {
        let theirs = |c: &&Client| c.principal.is_none() && origin(c.from) == origin(from);
        let strangers = self.list.iter().filter(theirs).count();
        self.list.len() < MAX_CLIENTS && strangers < MAX_STRANGERS && self.attempts.begin(now, from)
    }

    fn find(&mut self, stream: StreamId) -> Option<&mut Client> {
        self.list.iter_mut().find(|c| c.stream == stream)
    }
}

impl Node {
    /// Lets the administrator in. Without entropy the node stays closed and says so.
    pub(super) fn open_control(
        &mut self,
        now: Now,
        config: &NodeConfig,
        healthy: bool,
    ) -> Result<(), ConfigError> {
        self.clients.admin = config.admin()?.map(PublicKey::from);
        self.take_operators(now);
        if self.clients.access.is_empty() {
            self.log.line(now.mono, "control is closed: the configuration names nobody who may use it");
            return Ok(());
        }
        if !healthy {
            self.log.line(now.mono, format!("control is closed: {}", nodeos::platform::EntropyError));
            return Ok(());
        }
        let entropy = entropy_of(&self.platform.entropy);
        let identity = match &self.shared.key {
            Some(key) => NodeIdentity::new((**key).clone(), &entropy),
            None => Err(NoEntropy),
        };
        let Ok(identity) = identity else {
            self.log.line(now.mono, format!("control is closed: {}", nodeos::platform::EntropyError));
            return Ok(());
        };
        self.clients.identity = Some(identity.public());
        let access = self.clients.access.clone();
        let principals = move |name: &str, scheme| access.keys(name, scheme);
        let gate = Gate { node: self.name.to_string(), identity, principals: Box::new(principals) };
        self.clients.gate = Some(Arc::new(gate));
        Ok(())
    }

    /// Serves control, session and metrics streams.
    pub(super) fn streams(&mut self, now: Now) {
        while let Some((stream, event)) = self.net.stream_event() {
            match event {
                StreamEvent::Open { port: CONTROL_PORT, peer } => self.client_opened(now, stream, peer.ip()),
                StreamEvent::Open { port: SESSION_PORT, peer } => self.line_opened(now, stream, peer.ip()),
                StreamEvent::Open { port: METRICS_PORT, .. } => self.scrape_opened(now, stream),
                StreamEvent::Open { .. } if self.fetches.has(stream) => self.fetch_opened(now),
                StreamEvent::Open { .. } => self.net.close(now.mono, stream),
                StreamEvent::Data => self.stream_ready(now, stream),
                StreamEvent::Finished => self.stream_finished(now, stream),
                StreamEvent::Closed if self.fetches.has(stream) => self.fetch_closed(now),
                StreamEvent::Closed => {
                    self.clients.list.retain(|c| c.stream != stream);
                    self.scrapes.remove(stream);
                    self.line_closed(now, stream);
                }
            }
        }
        self.lines_due(now);
        self.scrapes_due(now);
        self.clients_due(now);
        let late = |c: &Client| c.principal.is_none() && now.mono >= c.since + LOGIN_TIME;
        let slow = self.clients.list.iter().filter(|c| late(c)).map(|c| (c.stream, c.from));
        let slow: Vec<(StreamId, IpAddr)> = slow.collect();
        for (stream, from) in slow {
            self.clients.attempts.failed(now.mono, from);
            self.clients.list.retain(|c| c.stream != stream);
            self.net.abort(now.mono, stream);
        }
    }

    fn stream_ready(&mut self, now: Now, stream: StreamId) {
        match self.clients.find(stream) {
            // Each client has its turn once in a poll.
            Some(client) => client.unread = true,
            None if self.scrapes.has(stream) => self.scrape_ready(now, stream),
            None if self.fetches.has(stream) => self.fetch_ready(now),
            None => self.line_ready(now, stream),
        }
    }

    /// The other side will say no more: what is owed to it is written, then the stream is closed.
    fn stream_finished(&mut self, now: Now, stream: StreamId) {
        match self.clients.find(stream) {
            Some(client) => (client.finished, client.unread) = (true, true),
            None if self.scrapes.has(stream) => self.scrape_finished(now, stream),
            None if self.fetches.has(stream) => self.fetch_finished(now),
            None => self.line_finished(now, stream),
        }
    }

    /// Gives each client its turn: writes what did not fit before, and goes on with what it asks where it reads
    /// its answers.
    fn clients_due(&mut self, now: Now) {
        for at in 0..self.clients.list.len() {
            let Some(client) = self.clients.list.get(at) else { return };
            if !client.output.is_empty() || client.closing || client.has_request() {
                let stream = client.stream;
                self.client_ready(now, stream);
            }
        }
    }

    fn client_opened(&mut self, now: Now, stream: StreamId, from: IpAddr) {
        let Some(gate) = self.clients.gate.clone() else { return self.net.abort(now.mono, stream) };
        if !self.clients.admits(now.mono, from) {
            self.counters.add(Count::LoginsLimited);
            self.log_limited(now, || format!("control: {from} has to wait"));
            return self.net.abort(now.mono, stream);
        }
        match Server::new(gate, &entropy_of(&self.platform.entropy)) {
            Ok(channel) => self.clients.list.push(Client {
                stream,
                from,
                channel,
                principal: None,
                since: now.mono,
                requests: VecDeque::new(),
                unread: false,
                failed: None,
                finished: false,
                output: VecDeque::new(),
                closing: false,
            }),
            Err(_) => self.net.abort(now.mono, stream),
        }
    }

    /// Disconnects the clients of a principal.
    pub(super) fn send_away(&mut self, now: Now, principal: &str) {
        let theirs = self.clients.list.iter().filter(|c| c.principal.as_deref() == Some(principal));
        let streams: Vec<StreamId> = theirs.map(|c| c.stream).collect();
        self.clients.list.retain(|c| !streams.contains(&c.stream));
        streams.into_iter().for_each(|stream| self.net.abort(now.mono, stream));
        self.audit(now, || format!("{principal} disconnected: the policy changed"));
    }

    /// Answers one request of a client, and reads on when there is none: whoever asks much does not make others
    /// wait for all of it.
    fn client_ready(&mut self, now: Now, stream: StreamId) {
        let mut bytes = [0; 4096];
        let mut events = Vec::new();
        loop {
            let Some(client) = self.clients.find(stream) else { return };
            // Back-pressure: a client that does not read its answers is not read either.
            if client.output.len() > MAX_OUTPUT || client.closing {
                break;
            }
            if let Some(event) = client.requests.pop_front() {
                client.unread = true;
                self.client_event(now, stream, event);
                break;
            }
            if let Some(error) = client.failed.take() {
                self.client_failed(now, stream, &error);
                break;
            }
            let n = self.net.read(now.mono, stream, &mut bytes);
            let Some(client) = self.clients.find(stream) else { return };
            client.unread = n > 0;
            if n == 0 {
                client.closing = client.finished;
                break;
            }
            client.failed = client.channel.push(&bytes[..n], &mut events).err();
            client.requests.extend(events.drain(..));
        }
        self.flush_client(now, stream);
    }

    fn client_event(&mut self, now: Now, stream: StreamId, event: ServerEvent) {
        let answer = match event {
            ServerEvent::LoggedIn { principal } => {
                let Some(client) = self.clients.find(stream) else { return };
                client.principal = Some(principal.clone());
                let from = client.from;
                self.clients.attempts.succeeded(from);
                self.audit(now, || format!("login {principal} from {from}"));
                return;
            }
            ServerEvent::Message(message) => match decode::<Request>(&message) {
                Some(request) => {
                    // A message comes after the login, or not at all.
                    let Some(principal) = self.clients.find(stream).and_then(|c| c.principal.clone()) else {
                        return;
                    };
                    self.control(now, &principal, request)
                }
                None => {
                    failed(Erred::Operator, "the request cannot be read: is the client of the same release?")
                }
            },
        };
        // Where what the client said last could not be read the channel takes no answers, and ends soon.
        if let Some(client) = self.clients.find(stream)
            && client.channel.send(&encode(&answer)).is_err()
            && client.failed.is_none()
        {
            client.closing = true;
        }
    }

    fn client_failed(&mut self, now: Now, stream: StreamId, error: &ChannelError) {
        let Some(client) = self.clients.find(stream) else { return };
        client.closing = true;
        if client.principal.is_some() {
            self.counters.add(Count::StreamErrors);
            return self.log_limited(now, || format!("{}: control: {error}", error.erred()));
        }
        let from = client.from;
        self.clients.attempts.failed(now.mono, from);
        self.counters.add(Count::LoginsRefused);
        self.audit(now, || format!("login from {from} refused: {error}"));
    }

    fn flush_client(&mut self, now: Now, stream: StreamId) {
        let Some(client) = self.clients.list.iter_mut().find(|c| c.stream == stream) else { return };
        client.output.extend(client.channel.take_output());
        loop {
            let (front, _) = client.output.as_slices();
            if front.is_empty() {
                break;
            }
            let n = self.net.write(now.mono, stream, front);
            client.output.drain(..n);
            if n == 0 {
                return;
            }
        }
        if client.closing {
            self.net.close(now.mono, stream);
            // No event tells of the end of a stream that was closed here.
            self.clients.list.retain(|c| c.stream != stream);
        }
    }

    /// What a logged-in client may ask; [`ADMIN`] may ask everything.
    pub fn control(&mut self, now: Now, principal: &str, request: Request) -> Answer {
        if !self.authorised(now, principal, &request) {
            return failed(Erred::Operator, format!("{principal} has no right here to {}", what(&request)));
        }
        match request {
            Request::NodeShow => Answer::Node(self.node_info(now)),
            Request::LinkShow => Answer::Links(self.net.link_infos()),
            Request::NeighborShow => {
                let link = |id| self.net.link(id).map_or("", |link| link.name());
                let info = |(id, n): (_, &crate::neighbor::Neighbor)| {
                    Neighbors::info(n, link(n.out.link), now.mono, self.alive(now, id))
                };
                Answer::Neighbors(self.neighbors.iter().map(info).collect())
            }
            Request::TeamShow { from } => {
                Answer::Teams(page(self.teams.iter(), from, |(id, team)| self.team_info(now, id, team)))
            }
            Request::FlowShow { from } => {
                let running = self.flows.iter().filter_map(|(handle, _)| self.flow_info(handle));
                let all = running.chain(self.flows.ended().cloned());
                Answer::Flows(page(all.filter(|f| self.visible(now, principal, f)), from, |info| info))
            }
            Request::FlowTuple { flow } => {
                let data = self.flows.by_hash(&flow).and_then(|h| self.flows.get(h)?.tuple.as_ref());
                match data {
                    Some(data) => Answer::Tuple(data.bytes.to_vec()),
                    None => failed(Erred::Operator, "there is no such flow here"),
                }
            }
            Request::ProtocolShow => Answer::Protocols(self.protocol_infos()),
            Request::Log { from } => Answer::Log(self.log.since(from)),
            Request::PartPut { part, total, offset, bytes } => {
                match self.uploads.put(now.mono, part, total, offset, &bytes) {
                    Ok(()) => Answer::Done,
                    Err(error) => failed(Erred::Operator, error),
                }
            }
            Request::FlowInject { tuple } => self.inject(now, principal, tuple),
            Request::FlowStop { flow, kill } => self.stop(now, principal, flow, kill),
            Request::FlowLimit { flow, budgets } => match self.flows.by_hash(&flow) {
                Some(handle) if self.flow_and_team(handle).is_some() => {
                    self.limit_flow(now, handle, &budgets);
                    Answer::Done
                }
                _ => failed(Erred::Operator, "there is no such flow here, or it has no team yet"),
            },
            Request::PolicyShow => self.policy_show(),
            Request::PolicyLoad { text } => self.policy_load(now, principal, text),
            Request::FlowRevoke { revocation } => self.flow_revoke(now, principal, &revocation),
            Request::BlobShow { from } => self.blob_show(from),
            Request::BlobRemove { area, name } => self.blob_remove(now, principal, area, name.as_deref()),
            Request::ChannelShow { from } => self.channel_show(now, from),
            Request::ChannelAdd { from, capsule, to, flow } => {
                self.channel_add(now, principal, (&from, capsule, &to), flow)
            }
            Request::ChannelRemove { from, capsule } => self.channel_remove(now, principal, &from, capsule),
            Request::KnownShow { from } => {
                Answer::Known(page(self.known_nodes(now).into_iter(), from, |node| node))
            }
            Request::NeighborEvents { from } => Answer::NeighborEvents(self.news.since(from)),
            Request::NeighborWatch { from, poke_us, expire_us } => {
                self.program_watches(now, principal, from, (poke_us, expire_us))
            }
        }
    }

    fn inject(&mut self, now: Now, principal: &str, bytes: Vec<u8>) -> Answer {
        let tuple = match Tuple::decode(&bytes) {
            Ok(tuple) => tuple,
            Err(error) => return failed(Erred::Operator, error),
        };
        let hash = TupleHash::of(&bytes);
        if self.flows.by_hash(&hash).is_some() {
            return failed(Erred::Operator, "this flow is here already");
        }
        if let Some(new) = self.successor_of(&hash) {
            let why =
                format!("flow {new:.8} took over from it here; to go back build it anew, replacing that one");
            return failed(Erred::Operator, why);
        }
        // Until the flow's own team pays, the uploads' account does.
        let Ok(charge) = self.uploads.account().charge(tuple_bytes(bytes.len())) else {
            return failed(Erred::Operator, "too much waits to be injected");
        };
        self.bans.lift(now.mono, &hash);
        self.flows.forget(&hash);
        let flow =
            Flow::new(hash, Source::Injected { principal: principal.to_string() }, Stage::Judging, now.mono);
        let Some(handle) = self.flows.add(flow) else {
            return failed(Erred::Node, "there are as many flows as may be: stop one");
        };
        self.judge(now, handle, bytes.into(), tuple, charge);
        Answer::Injected(hash)
    }

    fn stop(&mut self, now: Now, principal: &str, hash: TupleHash, kill: bool) -> Answer {
        let Some(handle) = self.flows.by_hash(&hash) else {
            return failed(Erred::Operator, "there is no such flow here");
        };
        self.bans.until_lifted(hash, principal);
        let end = End::by(principal, kill);
        if let Some(flow) = self.flows.get(handle) {
            let flow = described(self, flow);
            self.audit(now, || format!("{flow}: {}", end.why));
        }
        self.end_flow(now, handle, end);
        Answer::Done
    }

    fn node_info(&self, now: Now) -> NodeInfo {
        NodeInfo {
            name: self.name.to_string(),
            release: env!("CARGO_PKG_VERSION").into(),
            platform: self.platform.name.into(),
            identity: self.clients.identity.map(|k| k.to_bytes()).unwrap_or_default(),
            agent: self.agent.agent.name().into(),
            uptime_us: now.mono.since(self.started).as_micros() as u64,
            wall: now.wall,
            memory: (self.memory.used(), self.memory.limit()),
            buffers: (self.platform.buffers.lent() as u32, self.platform.buffers.limit() as u32),
            flows: self.flows.count(),
            code: (self.cache.used(), self.code_saved()),
            counters: self.counters.list(),
        }
    }

    /// What sharing compiled code saves: each flow that runs it is charged all of it, and it is here once.
    pub(super) fn code_saved(&self) -> u64 {
        let users = self.users();
        let others = |code: &Code| users.get(&code.hash()).map_or(0, |n| u64::from(n - 1));
        self.cache.iter().map(|code| code.size() * others(code)).sum()
    }

    /// How many protocols of flows run each module.
    fn users(&self) -> HashMap<PartHash, u32> {
        let mut users = HashMap::new();
        for (_, flow) in self.flows.iter() {
            let running = matches!(flow.stage, Stage::Running { .. });
            for code in flow.code.iter().filter(|_| running) {
                *users.entry(code.hash()).or_default() += 1;
            }
        }
        users
    }

    fn team_info(&self, now: Now, id: TeamId, team: &Team) -> TeamInfo {
        let per_micro = self.platform.meter.per_micro().max(1);
        let did = self.did(id).unwrap_or_default();
        TeamInfo {
            id: id.0.raw(),
            parent: team.parent().map(|p| p.0.raw()),
            name: team.name.to_string(),
            flow: self.flows.by_team(id).and_then(|h| Some(self.flows.get(h)?.hash)),
            memory: (team.account().used(), team.account().peak(), team.account().limit()),
            // The root has no code: its part is what nobody could be charged for.
            cpu_us: team.parent().map_or_else(|| self.unchargeable(), |_| did.units) / per_micro,
            work_us: (did.start_units / per_micro, did.serve_units / per_micro),
            shares: (team.shares().among, team.shares().own),
            budgets: self.budget_infos(id, team),
            event_us: team.budget.event.as_micros() as u32,
            events: (did.events, self.waiting(id) as u32, did.dropped),
            sent: (self.sent_by(id), Some(team.budget.rate)),
            refused: did.refused,
            throttled_us: team.throttled(now.mono).as_micros() as u64,
            strikes: team.conduct.strikes(),
        }
    }

    /// What a team may use, and of what is counted how much it does.
    fn budget_infos(&self, id: TeamId, team: &Team) -> Vec<BudgetInfo> {
        let bound = |n: u64| Some(n).filter(|n| *n != u64::MAX);
        let info = |kind| {
            let resource = Resource::ALL.into_iter().find(|resource| resource.kind() == kind);
            let held = resource.is_some_and(|resource| team.donated().has(resource));
            let (used, limit, donated) = match resource.and_then(|r| team.accounts().of(r)) {
                Some(account) => (Some(account.used()), account.limit(), account.is_donated()),
                None => (None, team.budget.of(kind), held),
            };
            let used = if kind == Kind::Queue { Some(self.waiting(id) as u64) } else { used };
            BudgetInfo { kind, used, limit: bound(limit), donated }
        };
        Kind::ALL.into_iter().map(info).collect()
    }

    fn protocol_infos(&self) -> Vec<ProtocolInfo> {
        let users = self.users();
        let info = |code: &Code| ProtocolInfo {
            code: code.hash(),
            len: self.flows.part(&code.hash()).map_or(0, |part| part.bytes.len() as u32),
            compiled: code.size(),
            users: users.get(&code.hash()).copied().unwrap_or(0),
        };
        self.cache.iter().map(|code| info(code)).collect()
    }
}

pub(super) fn failed(erred: Erred, text: impl ToString) -> Answer {
    Answer::Error(ControlError { erred, text: text.to_string() })
}

/// What is told of as many members of a list as fit one answer, and one at least. Of the others nothing is made.
pub(super) fn page<S, T: Serialize>(
    list: impl Iterator<Item = S>,
    from: u32,
    info: impl FnMut(S) -> T,
) -> Page<T> {
    let from = from as usize;
    let mut items: Vec<T> = list.skip(from).take(PAGE + 1).map(info).collect();
    let mut bytes = 0;
    let fit = items.iter().take(PAGE).take_while(|item| {
        bytes += encode(item).len();
        bytes <= PAGE_BYTES
    });
    let fit = fit.count().max(1).min(items.len());
    let more = items.len() > fit;
    items.truncate(fit);
    Page { next: more.then_some((from + fit) as u32), items }
}

/// The platform's entropy in the form that the agent's crate asks for.
pub(super) fn entropy_of(entropy: &Arc<dyn Entropy>) -> impl Fn(&mut [u8]) -> Result<(), NoEntropy> + use<> {
    let entropy = entropy.clone();
    move |out: &mut [u8]| entropy.fill(out).map_err(|_| NoEntropy)
}
