//! The node: one state machine that ties the execution environment to NodeOS (D1).
//!
//! A platform hands in frames, finished jobs and the time, and takes out frames, jobs, log lines and
//! the next deadline; `docs/architecture.md` shows its loop. The parts of the machine:
//!
//! | module     | what it does                                                     |
//! |------------|------------------------------------------------------------------|
//! | `alive`    | who is still there                                               |
//! | `arrive`   | from an unknown capsule to a flow's parts                        |
//! | `judge`    | the Auth Agent's events and actions, admission                   |
//! | `authority` | rights of control clients, the policy, the audit log             |
//! | `discover` | neighbors that are discovered                                    |
//! | `launch`   | compiling, starting and ending a flow                            |
//! | `sense`    | what it lends to all teams: its key, its sensors, the operator's envelopes |
//! | `charge`   | who pays for work beside events                                  |
//! | `channels` | what arrives where, and cut-through channels                     |
//! | `children` | flows that a flow starts below itself                            |
//! | `cross`    | calls between flows; `services`: of the node itself                   |
//! | `groups`   | teams above those of flows: of a principal, of the system            |
//! | `store`    | blobs, and the device that they are written to                   |
//! | `replace`  | a new version of a running flow takes over from it              |
//! | `run`      | events to teams, their effects to links and sessions             |
//! | `throttle` | teams that go on with less for a while                           |
//! | `serve`    | answers to other nodes' translation and download requests        |
//! | `manage`   | control clients and what they may ask                            |
//! | `sessions` | programs that talk to protocols; `datagrams`: by UDP             |
//! | `fetch`    | protocols from a protocol server                                 |
//! | `metrics`  | numbers over HTTP; `figures`: which                              |
//! | `protect`  | links to neighbors that prove who they are                       |

mod alive;
mod arrive;
mod authority;
pub(crate) mod channels;
mod charge;
mod children;
mod cross;
mod datagrams;
mod discover;
pub(crate) mod fetch;
mod figures;
mod groups;
mod judge;
mod launch;
mod manage;
mod metrics;
pub(crate) mod protect;
mod replace;
mod run;
mod sense;
mod serve;
mod services;
mod sessions;
mod store;
mod throttle;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use authagent::agent::{AgentEvent, AuthAgent, UnknownTime};
use authagent::everything::Everything;
use authagent::source_based::SourceBased;
use nodeos::account::Account;
use nodeos::buf::{Buf, BufPool};
use nodeos::channel::OutChannel;
use nodeos::ip::StreamLimits;
use nodeos::link::LinkId;
use nodeos::net::{Net, Received, pad};
use nodeos::platform::{Entropy, Instant, Interrupter, Meter, Now, Reading, Sensors};
use nodeos::sched::Scheduler;
use nodeos::slab::Handle;
use nodeos::team::{Budget, TeamId, Teams};
use wire::advert::advert_id;
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::Erred;
use wire::id::{CapsuleId, sha256};
use wire::integrity::{Mark, OPTION_LEN};
use wire::system::{REQUEST, RESPONSE, agent_id, liveness_id, translation_id};

use crate::bans::Bans;
use crate::blob::SharedDisk;
use crate::cache::CodeCache;
use crate::config::{ConfigError, NodeConfig};
use crate::counters::{Count, Counters};
use crate::crash::Crashes;
use crate::engine::Engine;
use crate::flow::{Flow, Flows};
use crate::job::{Job, JobId, Work};
use crate::log::Log;
use crate::neighbor::{Neighbor, NeighborId, Neighbors};
use crate::registry::{Registry, Target};
use crate::sandbox::Shared;
use crate::system::liveness::Liveness;
use crate::system::translate::Questions;
use crate::uploads::Uploads;

use alive::{News, Programs};
use charge::{Compilation, Labour};
use cross::Crossings;
use datagrams::Dialogs;
use discover::Discover;
use fetch::Fetches;
use groups::Groups;
use judge::AgentHost;
use manage::Clients;
use metrics::{MAX_SCRAPES, Scrapes};
use protect::Links;
use run::Queued;
use sessions::Sessions;
pub use sessions::{SessionError, SessionId};
use store::Storage;
use throttle::Throttles;

/// What a platform lends to a node.
#[derive(Clone)]
pub struct Platform {
    /// `hermit`, `linux` or `sim`.
    pub name: &'static str,
    /// Counts work.
    pub meter: Arc<dyn Meter>,
    /// Stops guests.
    pub interrupter: Arc<dyn Interrupter>,
    /// Random bytes fit for keys.
    pub entropy: Arc<dyn Entropy>,
    /// What the machine measures of itself.
    pub sensors: Arc<dyn Sensors>,
    /// Compiles and runs guests.
    pub engine: Engine,
    /// Packet buffers; the platform receives into the same supply.
    pub buffers: BufPool,
    /// Where blobs outlive the node, if there is such a place.
    pub disk: Option<SharedDisk>,
}

/// Bytes that one neighbor's capsules may occupy before a team exists that pays for them.
const NEIGHBOR_ACCOUNT: u64 = 256 * 1024;
/// Teams that are no flow's: that of the operator's own cut-through channels.
const SYSTEM_TEAMS: usize = 1;
/// Bytes that uploads of control clients may occupy.
const UPLOAD_ACCOUNT: u64 = 4 << 20;

/// A node.
pub struct Node {
    name: Arc<str>,
    platform: Platform,
    started: Instant,
    /// The time when the platform last handed in a frame or let the node work.
    clock: Instant,
    memory: Account,
    budget: Budget,
    net: Net,
    log: Log,
    counters: Counters,
    neighbors: Neighbors,
    links: Links,
    liveness: Liveness,
    news: News,
    programs: Programs,
    discover: Discover,
    teams: Teams,
    groups: Groups,
    sched: Scheduler<Queued>,
    registry: Registry,
    flows: Flows,
    /// Flows that download, or did a moment ago.
    arriving: Vec<Handle>,
    /// When flows' next timers or expiries are due: one entry for each flow at most.
    wakes: BTreeSet<(Instant, Handle)>,
    throttles: Throttles,
    /// Flows in the middle of an event in the background.
    suspended: usize,
    /// A long event was put off until what short ones want sent is on its way.
    postponed: bool,
    /// Flows that end when the event that they are in the middle of is over.
    endings: BTreeMap<Handle, End>,
    cache: CodeCache,
    agent: AgentHost,
    questions: Questions,
    bans: Bans,
    crashes: Crashes,
    uploads: Uploads,
    jobs: VecDeque<Job>,
    next_job: JobId,
    /// What the platform compiles.
    compiler: Option<JobId>,
    sessions: Sessions,
    dialogs: Dialogs,
    fetches: Fetches,
    scrapes: Scrapes,
    clients: Clients,
    crossings: Crossings,
    shared: Shared,
    storage: Storage,
    /// The operator's own readings.
    given: Vec<Reading>,
    /// When the sensors are read again.
    sense_at: Instant,
    /// Units of work that the node did in all, and those of them that a team was charged for.
    busy: u64,
    /// It has been at work since then.
    since: Option<u64>,
    charged: u64,
    /// Who pays for cut-through channels that are no flow's, while there are any.
    channels: Option<TeamId>,
    /// What is compiled, or waits for the compiler.
    compiling: Vec<Compilation>,
    /// Flows whose code is there, and that are about to be started.
    ready: VecDeque<Handle>,
    /// Flows that stand by to take over from the one that they name.
    swaps: Vec<Handle>,
    /// Until when flows get capsules of the one that they took over from: an entry for each that they did.
    drains: BTreeSet<(Instant, Handle)>,
    /// A secret, and how many numbers were made of it.
    nonces: ([u8; 16], u64),
}

/// How and why a flow ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Whether the flow's own clean-up runs.
    graceful: bool,
    /// Whether what it still had to say is said when it has ended.
    heard: bool,
    /// Why, for people.
    why: String,
}

impl End {
    fn failed(erred: Erred, why: impl fmt::Display) -> Self {
        Self { graceful: false, heard: false, why: format!("{erred}: {why}") }
    }

    fn killed(why: impl Into<String>) -> Self {
        Self { graceful: false, heard: false, why: why.into() }
    }

    /// Somebody wants it: at once, or after the flow's own clean-up.
    fn by(who: &str, kill: bool) -> Self {
        Self {
            graceful: !kill,
            heard: !kill,
            why: format!("{} by {who}", if kill { "killed" } else { "stopped" }),
        }
    }
}

impl Node {
    /// Makes a node from its configuration.
    pub fn new(config: &NodeConfig, platform: Platform, now: Now) -> Result<Self, ConfigError> {
        config.check()?;
        let bad = |text: String| ConfigError(text);
        // Table keys and nonces need no fine entropy; without any the node still runs, but makes no keys.
        // Nonces are seen by others, so they share no seed with the rest.
        let (mut seed, mut secret) = ([0; 16], [0; 16]);
        let healthy = platform.entropy.fill(&mut seed).and(platform.entropy.fill(&mut secret)).is_ok();
        let [a, b] = [0, 8].map(|at| u64::from_le_bytes(seed[at..at + 8].try_into().expect("eight bytes")));
        let measured = config.control.as_ref().is_some_and(|c| c.metrics);
        let streams =
            StreamLimits { metrics: if measured { MAX_SCRAPES } else { 0 }, ..StreamLimits::default() };
        let net = Net::new(&config.links, platform.buffers.clone(), a, streams).map_err(|e| bad(e.0))?;
        let flows = usize::from(config.node.flows);
        // The event's deadline is a bound for all; of the rest the root has everything that there is.
        let budget = Budget::DEFAULT.with(&config.team.0);
        let root = Budget { memory: config.node.memory.0, event: budget.event, ..Budget::UNLIMITED };
        // Each flow may have a team above its own.
        let limit = 2 * flows + 1 + SYSTEM_TEAMS;
        let teams = Teams::new(root, limit, config.links.len()).map_err(|e| bad(e.to_string()))?;
        let memory = teams.get(teams.root()).map(|t| t.account().clone()).expect("a new table has its root");
        let agent: Box<dyn AuthAgent> = match config.policy()? {
            None => Box::new(Everything::new(UnknownTime::Refuse)),
            Some(policy) => Box::new(SourceBased::new(policy)),
        };
        let mut node = Self {
            name: config.node.name.as_str().into(),
            started: now.mono,
            clock: now.mono,
            budget,
            net,
            log: Log::default(),
            counters: Counters::default(),
            neighbors: Neighbors::default(),
            links: Links::new(&platform.entropy),
            liveness: Liveness::default(),
            news: News::default(),
            programs: Programs::new(config.liveness.least.0),
            discover: Discover::new(now, config, &memory, b)?,
            teams,
            groups: Groups::new(&config.system),
            sched: Scheduler::new(),
            registry: Registry::new(b),
            flows: Flows::new(flows),
            arriving: Vec::new(),
            wakes: BTreeSet::new(),
            throttles: Throttles::default(),
            suspended: 0,
            postponed: false,
            endings: BTreeMap::new(),
            cache: CodeCache::new(config.node.memory.0),
            agent: AgentHost::new(agent, config.node.policy.clone().unwrap_or_default()),
            questions: Questions::default(),
            bans: Bans::default(),
            crashes: Crashes::default(),
            uploads: Uploads::new(memory.child(Some(UPLOAD_ACCOUNT))),
            jobs: VecDeque::new(),
            next_job: JobId(0),
            compiler: None,
            sessions: Sessions::default(),
            dialogs: Dialogs::new(healthy.then_some(&secret)),
            fetches: Fetches::new(config.server.as_ref(), now),
            scrapes: Scrapes::default(),
            clients: Clients::default(),
            crossings: Crossings::new(flows),
            shared: Shared::default(),
            storage: Storage::new(&memory, &config.store),
            given: Vec::new(),
            sense_at: now.mono,
            busy: 0,
            since: None,
            charged: 0,
            channels: None,
            compiling: Vec::new(),
            ready: VecDeque::new(),
            swaps: Vec::new(),
            drains: BTreeSet::new(),
            nonces: (secret, 0),
            memory,
            platform,
        };
        let event = u64::try_from(budget.event.as_micros()).unwrap_or(u64::MAX);
        node.sched.set_allowance(event.saturating_mul(node.platform.meter.per_micro()));
        node.share(now, config, healthy)?;
        node.shared.nodes = node.discover.machine.nodes();
        node.register_system();
        node.add_neighbors(config)?;
        node.watch_neighbors(now, config);
        node.open_control(now, config, healthy)?;
        node.protect(now, config, healthy)?;
        node.open_channels(now, config)?;
        node.log.line(now.mono, format!("node {} on {}", node.name, node.platform.name));
        node.tell_idle_totals(now);
        let names: Vec<Arc<str>> = node.neighbors.iter().map(|(_, n)| n.name.clone()).collect();
        for name in names {
            node.tell_agent(now, AgentEvent::NeighborUp { name: &name, identity: None });
        }
        Ok(node)
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A frame arrived on a link.
    pub fn frame(&mut self, now: Now, link: LinkId, frame: Buf) {
        self.begin();
        self.clock = now.mono;
        self.received(now, link, frame);
    }

    fn received(&mut self, now: Now, link: LinkId, frame: Buf) {
        let Some(Received { link, from, packet }) = self.net.frame(now.mono, link, frame) else { return };
        if self.discover.machine.is_on(link) && self.advertised(now, link, from, &packet) {
            return;
        }
        let Some(from) = self.neighbors.find(link, from) else {
            return self.counters.add(Count::Stranger);
        };
        let Some(packet) = self.unseal(now, from, packet) else { return };
        let neighbor = &mut self.neighbors[from];
        neighbor.last_heard = Some(now.mono);
        let Ok(capsule) = Capsule::parse(&packet) else {
            neighbor.refused += 1;
            return self.counters.add(Count::Malformed);
        };
        neighbor.received += 1;
        let came = packet.len();
        let mut payload = packet;
        payload.pull_front(capsule.payload_at);
        if payload.set_len(capsule.payload_len).is_ok() {
            self.capsule(now, from, capsule.id, capsule.mark.as_ref(), payload, came);
        }
    }

    /// A job ended.
    pub fn job_done(&mut self, now: Now, done: crate::job::JobDone) {
        self.begin();
        self.work_done(now, done);
    }

    /// Does what is due. `true`: there is more to do, call again soon.
    pub fn poll(&mut self, now: Now) -> bool {
        self.begin();
        let more = self.do_due(now);
        self.pause();
        more
    }

    fn do_due(&mut self, now: Now) -> bool {
        self.clock = now.mono;
        self.net.poll(now.mono);
        self.links_due(now);
        self.discover_due(now);
        self.liveness_due(now);
        self.streams(now);
        self.dialogs_due(now);
        self.fetches_due(now);
        self.questions_due(now);
        self.downloads_due(now);
        self.agent_due(now);
        self.uploads.due(now.mono);
        self.sense(now);
        self.throttles_due(now);
        self.drains_due(now);
        let more = self.timers_due(now)
            | self.start_ready(now)
            | self.run_teams(now)
            | self.swaps_due(now)
            | self.attend_all();
        self.store_due(now);
        self.net.poll(now.mono);
        more || self.clients.have_requests() || self.lines_wait()
    }

    /// The next frame to send on a link.
    pub fn transmit(&mut self, now: Now, link: LinkId) -> Option<Buf> {
        self.net.transmit(now.mono, link)
    }

    /// The next job to run elsewhere. Compilations are given out one at a time: what waits here can still be
    /// forgotten when nobody wants it any more, and shorter work does not wait for all of them.
    pub fn job(&mut self) -> Option<Job> {
        let is_compilation = |job: &Job| matches!(job.work(), Work::Compile { .. });
        let free = self.compiler.is_none();
        let at = self.jobs.iter().position(|job| free || !is_compilation(job))?;
        let job = self.jobs.remove(at)?;
        if is_compilation(&job) {
            self.compiler = Some(job.id());
        }
        Some(job)
    }

    /// The next line for the console.
    pub fn log_line(&mut self) -> Option<wire::control::LogEntry> {
        self.log.next_for_console()
    }

    /// When [`poll`](Self::poll) must be called at the latest, if nothing else happens.
    pub fn deadline(&self, now: Now) -> Option<Instant> {
        let candidates = [
            self.net.deadline(now.mono),
            self.links.deadline(),
            self.liveness.deadline(),
            self.discover.deadline(),
            self.questions.deadline(),
            self.downloads_deadline(),
            self.agent.deadline(),
            self.wakes.first().map(|(at, _)| *at),
            self.throttles.deadline(),
            self.drains_deadline(),
            self.clients.deadline(),
            self.sessions.deadline(),
            self.dialogs.deadline(),
            self.fetches.deadline(),
            self.scrapes.deadline(),
            self.uploads.deadline(),
        ];
        candidates.into_iter().flatten().min()
    }

    /// How many links there are; their identifiers are 0 to this.
    pub fn links(&self) -> usize {
        self.net.links()
    }

    /// `came`: bytes of the packet with its padding; 0 for what waited.
    fn capsule(
        &mut self,
        now: Now,
        from: NeighborId,
        id: CapsuleId,
        mark: Option<&Mark>,
        payload: Buf,
        came: usize,
    ) {
        match self.registry.find(&id) {
            Some(Target::Flow { flow, protocol, kind }) => {
                self.for_flow(now, (flow, protocol, kind), from, id, mark, payload);
            }
            Some(Target::Replaced { flow, to }) => {
                self.for_successor(now, (flow, to), from, id, mark, payload);
            }
            Some(Target::TranslationRequest | Target::DownloadRequest { .. } | Target::Poke) | None
                if came < usize::from(self.neighbors[from].floor) =>
            {
                self.neighbors[from].refused += 1;
                self.counters.add(Count::Unpadded);
            }
            Some(Target::TranslationRequest) => self.serve_translation(now, from, &payload),
            Some(Target::Advert) => self.sealed_advert(now, from, &payload),
            Some(Target::Poke) => self.poked(now, from, &payload),
            Some(Target::PokeReturned) => self.poke_returned(now, from, &payload),
            Some(Target::TranslationResponse) => self.translation(now, from, &payload),
            Some(Target::DownloadRequest { flow, object }) => {
                self.work_for(flow, Labour::Serve, |node| {
                    node.serve_download(now, from, flow, object, (&payload, came));
                });
            }
            Some(Target::DownloadResponse { flow, object }) => {
                self.downloaded(now, from, flow, object, &payload);
            }
            Some(Target::Agent) => {
                let name = self.neighbors[from].name.clone();
                self.tell_agent(now, AgentEvent::Capsule { from: &name, payload: &payload });
            }
            None => self.unknown(now, from, id, payload, came),
        }
    }

    /// Sends a system protocol's capsule.
    fn send_system(&mut self, now: Now, to: NeighborId, id: &CapsuleId, payload: &[u8]) {
        self.send_system_in(now, to, id, payload, 0);
    }

    /// Sends a system protocol's capsule in a packet of at least so many bytes.
    fn send_system_in(&mut self, now: Now, to: NeighborId, id: &CapsuleId, payload: &[u8], least: usize) {
        let payload = self.platform.buffers.copy_of(payload);
        let sent = payload.is_some_and(|buf| self.send_padded(now, TeamId::ROOT, to, id, None, buf, least));
        self.counters.add(if sent { Count::SystemSent } else { Count::SendDropped });
    }

    /// Puts the capsule header in front of a team's payload and hands it to the neighbor's channel, with zeros behind a
    /// packet of less than `least` bytes: the packet's own length cuts them off again.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "all that makes a packet")]
    fn send_padded(
        &mut self,
        now: Now,
        team: TeamId,
        to: NeighborId,
        id: &CapsuleId,
        mark: Option<&Mark>,
        mut payload: Buf,
        least: usize,
    ) -> bool {
        let len = payload.len();
        let option = if mark.is_some() { OPTION_LEN } else { 0 };
        if len + option > usize::from(self.neighbors[to].max_payload) {
            return false;
        }
        let Ok(header) = payload.push_front(HEADER_LEN + option) else { return false };
        match mark {
            Some(mark) => Capsule::emit_marked(header, id, mark, len),
            None => Capsule::emit_header(header, id, len),
        }
        let sent = pad(&mut payload, least.max(self.neighbors[to].floor.into()))
            && self.pass(now, team, to, payload);
        self.neighbors[to].sent += u64::from(sent);
        sent
    }

    fn add_job(&mut self, work: Work) -> JobId {
        let id = self.next_job;
        self.next_job = JobId(id.0 + 1);
        self.jobs.push_back(Job::new(id, work).measured_by(self.platform.meter.clone()));
        id
    }

    /// Writes a line about what others decide how often it happens.
    fn log_limited(&mut self, now: Now, text: impl FnOnce() -> String) {
        if !self.log.limited(now.mono, text) {
            self.counters.add(Count::LogSuppressed);
        }
    }

    /// Marks a question. Who has seen others of them cannot guess it, and so cannot answer in another's place.
    fn next_nonce(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next_long_nonce();
        u32::from_le_bytes([a, b, c, d])
    }

    /// The same where whoever guesses may try for long.
    fn next_long_nonce(&mut self) -> [u8; 8] {
        let (secret, count) = &mut self.nonces;
        *count += 1;
        let mut input = [0; 24];
        input[..16].copy_from_slice(secret);
        input[16..].copy_from_slice(&count.to_le_bytes());
        let [a, b, c, d, e, f, g, h, ..] = sha256(&input);
        [a, b, c, d, e, f, g, h]
    }

    fn flow_and_team(&self, handle: Handle) -> Option<(&Flow, TeamId)> {
        let flow = self.flows.get(handle)?;
        Some((flow, flow.team.as_ref()?.0))
    }

    fn register_system(&mut self) {
        self.registry.insert(translation_id(REQUEST), Target::TranslationRequest);
        self.registry.insert(translation_id(RESPONSE), Target::TranslationResponse);
        self.registry.insert(liveness_id(REQUEST), Target::Poke);
        self.registry.insert(liveness_id(RESPONSE), Target::PokeReturned);
        self.registry.insert(advert_id(), Target::Advert);
        self.registry.insert(agent_id(), Target::Agent);
    }

    fn add_neighbors(&mut self, config: &NodeConfig) -> Result<(), ConfigError> {
        for n in &config.neighbors {
            let link =
                config.links.iter().position(|l| l.name == n.link).expect("checked with the configuration");
            let out = OutChannel { link: LinkId(link as u16), to: n.address };
            let account = self.memory.child(Some(NEIGHBOR_ACCOUNT));
            let neighbor = Neighbor::new(&n.name, out, config.links[link].mtu, account);
            self.neighbors.add(neighbor);
        }
        Ok(())
    }
}

fn label(flow: &Flow) -> String {
    format!("{} {:.8}", if flow.name().is_empty() { "?" } else { flow.name() }, flow.hash)
}
