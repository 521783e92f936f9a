//! A node's control server, from afar: TCP, the Noise session of [`authagent::channel`], requests and
//! answers (`wire::control`).

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use authagent::NoEntropy;
use authagent::channel::{Client, ClientEvent};
use authagent::keys::Ed25519Key;
use wire::control::{
    Answer, AreaInfo, ChannelInfo, FlowInfo, FlowState, MAX_PIECE, Page, Request, TeamInfo, decode, encode,
};
use wire::id::TupleHash;

use crate::exit::{Code, failure};
use crate::flow::Bundle;
use crate::flow::inject::state_text;
use crate::keys::PrivateKey;
use crate::output::{plain, progress};

/// Where a node is, and what is needed to be let in.
#[derive(Debug, Clone)]
pub struct Target {
    /// What people call it.
    pub name: String,
    /// Address and port of its control server.
    pub control: String,
    /// Address and port of its session server.
    pub session: String,
    /// The key that the node must prove to have. Without it any node is believed.
    pub identity: Option<Ed25519Key>,
    /// As whom to log in.
    pub principal: String,
    /// The principal's key.
    pub key: PrivateKey,
    /// How long to wait for the node.
    pub timeout: Duration,
}

/// What a node's blob store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The areas.
    pub areas: Vec<AreaInfo>,
    /// Bytes that they take on the device, and how many they may, if there is one.
    pub device: Option<(u64, u64)>,
}

/// A logged-in connection.
pub struct Remote {
    stream: TcpStream,
    channel: Client,
    messages: VecDeque<Vec<u8>>,
    name: String,
    timeout: Duration,
    /// The node ended the connection before it said anything.
    turned_away: bool,
}

/// Entropy of this machine, in the form that the channel wants.
pub fn entropy(out: &mut [u8]) -> Result<(), NoEntropy> {
    getrandom::fill(out).map_err(|_| NoEntropy)
}

/// Connects to `address` within `timeout`.
pub fn connect(address: &str, timeout: Duration) -> Result<TcpStream> {
    let unreachable = |e: std::io::Error| failure(Code::Unreachable, format!("cannot reach {address}: {e}"));
    let addresses = address.to_socket_addrs().map_err(unreachable)?;
    let mut last = ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(unreachable)?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(unreachable(last))
}

impl Remote {
    /// Connects and logs in. A node lets only so many clients begin in a second, and turns others away
    /// before it says a word: they come again, until their time is up.
    pub fn login(target: &Target) -> Result<Self> {
        let deadline = Instant::now() + target.timeout;
        loop {
            let mut remote = Self::connect(target)?;
            match remote.enter(deadline) {
                Err(_) if remote.turned_away && Instant::now() + TURNED_AWAY < deadline => {
                    std::thread::sleep(TURNED_AWAY);
                }
                result => return result.map(|()| remote),
            }
        }
    }

    /// The same, but a node that turns us away is not asked again.
    pub fn login_once(target: &Target) -> Result<Self> {
        let mut remote = Self::connect(target)?;
        remote.enter(Instant::now() + target.timeout)?;
        Ok(remote)
    }

    fn connect(target: &Target) -> Result<Self> {
        let stream = connect(&target.control, target.timeout)?;
        let key = Box::new(target.key.clone());
        let channel = Client::new(target.identity, &target.principal, key, &entropy)
            .context("cannot start the control session")?;
        Ok(Self {
            stream,
            channel,
            messages: VecDeque::new(),
            name: target.name.clone(),
            timeout: target.timeout,
            turned_away: false,
        })
    }

    /// Goes through handshake and login.
    fn enter(&mut self, deadline: Instant) -> Result<()> {
        let mut heard = false;
        loop {
            match self.exchange(deadline) {
                Ok(true) => return Ok(()),
                Ok(false) => heard = true,
                Err(error) => {
                    self.turned_away = !heard && crate::exit::code(&error) == Code::Unreachable;
                    return Err(error);
                }
            }
        }
    }

    /// Asks and waits for the answer. A node's refusal is an error.
    pub fn ask(&mut self, request: &Request) -> Result<Answer> {
        self.channel.send(&encode(request)).with_context(|| format!("cannot ask node {}", self.name))?;
        let deadline = Instant::now() + self.timeout;
        let message = loop {
            if let Some(message) = self.messages.pop_front() {
                break message;
            }
            self.exchange(deadline)?;
        };
        match decode(&message) {
            Some(Answer::Error(e)) => Err(failure(Code::Failed, format!("node {}: {e}", self.name))),
            Some(answer) => Ok(answer),
            None => Err(self.nonsense()),
        }
    }

    /// All flows.
    pub fn flows(&mut self) -> Result<Vec<FlowInfo>> {
        self.pages(
            |from| Request::FlowShow { from },
            |a| if let Answer::Flows(p) = a { Some(p) } else { None },
        )
    }

    /// All teams.
    pub fn teams(&mut self) -> Result<Vec<TeamInfo>> {
        self.pages(
            |from| Request::TeamShow { from },
            |a| if let Answer::Teams(p) = a { Some(p) } else { None },
        )
    }

    /// All channels.
    pub fn channels(&mut self) -> Result<Vec<ChannelInfo>> {
        self.pages(
            |from| Request::ChannelShow { from },
            |a| if let Answer::Channels(p) = a { Some(p) } else { None },
        )
    }

    /// Ends a flow, and says so of `what`.
    pub fn stop(&mut self, flow: TupleHash, kill: bool, what: &str) -> Result<()> {
        match self.ask(&Request::FlowStop { flow, kill })? {
            Answer::Done => {
                progress(format!("{what} is {}", if kill { "killed" } else { "stopped" }));
                Ok(())
            }
            _ => Err(self.nonsense()),
        }
    }

    /// The blob store.
    pub fn kept(&mut self) -> Result<Kept> {
        let mut there = None;
        let areas = self.pages(
            |from| Request::BlobShow { from },
            |a| {
                let Answer::Blobs { areas, device } = a else { return None };
                there = device;
                Some(areas)
            },
        )?;
        Ok(Kept { areas, device: there })
    }

    /// Puts a flow's parts and injects it. `told` hears how many bytes of how many are there.
    pub fn inject(&mut self, bundle: &Bundle, mut told: impl FnMut(usize, usize)) -> Result<TupleHash> {
        let all = bundle.parts.values().map(Vec::len).sum();
        let mut there = 0;
        for (part, bytes) in &bundle.parts {
            let total = u32::try_from(bytes.len()).context("the part is too large")?;
            for (piece, at) in bytes.chunks(MAX_PIECE).zip((0..).step_by(MAX_PIECE)) {
                let request = Request::PartPut { part: *part, total, offset: at, bytes: piece.to_vec() };
                self.ask(&request)?;
                there += piece.len();
                told(there, all);
            }
        }
        match self.ask(&Request::FlowInject { tuple: bundle.bytes.clone() })? {
            Answer::Injected(hash) => Ok(hash),
            _ => Err(self.nonsense()),
        }
    }

    /// The flow that `name` names: its hash, the hash's first digits, or its name.
    pub fn find_flow(&mut self, name: &str) -> Result<FlowInfo> {
        let flows = self.flows()?;
        let by_hash = |f: &&FlowInfo| name.len() >= 4 && f.hash.to_string().starts_with(name);
        let mut found: Vec<_> = flows.iter().filter(|f| f.name == name || by_hash(f)).collect();
        // Of several, those that ended or were refused are not meant.
        let there = |f: &&FlowInfo| !matches!(f.state, FlowState::Ended(_));
        if found.len() > 1 && found.iter().any(there) {
            found.retain(there);
        }
        match found[..] {
            [flow] => Ok(flow.clone()),
            [] => {
                let mut names: Vec<&str> = flows.iter().map(|f| f.name.as_str()).collect();
                names.sort_unstable();
                names.dedup();
                let names = if names.is_empty() { "none".into() } else { names.join(" ") };
                let text = format!("node {} has no flow {name}; it has: {}", self.name, plain(&names));
                Err(failure(Code::Missing, text))
            }
            _ => {
                let line = |f: &&FlowInfo| format!("\n{:.8}  {}", f.hash, plain(&state_text(&f.state)));
                let lines: String = found.iter().map(line).collect();
                let node = &self.name;
                let text =
                    format!("{name} names more than one flow of node {node}; say which one's hash:{lines}");
                Err(failure(Code::Usage, text))
            }
        }
    }

    /// The node sent what does not belong here.
    pub fn nonsense(&self) -> anyhow::Error {
        let text = format!("node {} answered what was not asked; does it run another release?", self.name);
        failure(Code::Failed, text)
    }

    fn pages<T>(
        &mut self,
        request: impl Fn(u32) -> Request,
        mut page: impl FnMut(Answer) -> Option<Page<T>>,
    ) -> Result<Vec<T>> {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let answer = self.ask(&request(from))?;
            let Some(Page { items, next }) = page(answer) else { return Err(self.nonsense()) };
            all.extend(items);
            match next {
                // A page that does not lead on would be asked for without end.
                Some(next) if next > from => from = next,
                _ => return Ok(all),
            }
        }
    }

    /// Sends what waits and reads once. `true`: the node has let us in now.
    fn exchange(&mut self, deadline: Instant) -> Result<bool> {
        let lost = |e: std::io::Error| failure(Code::Unreachable, format!("the connection broke: {e}"));
        let output = self.channel.take_output();
        self.stream.set_write_timeout(Some(self.timeout.max(MIN_WAIT))).map_err(lost)?;
        self.stream.write_all(&output).map_err(|e| self.late(e))?;
        let left = deadline.saturating_duration_since(Instant::now());
        self.stream.set_read_timeout(Some(left.max(MIN_WAIT))).map_err(lost)?;
        let mut bytes = [0; 16 << 10];
        let n = self.stream.read(&mut bytes).map_err(|e| self.late(e))?;
        if n == 0 {
            let text = format!("node {} closed the connection", self.name);
            return Err(failure(Code::Unreachable, text));
        }
        let mut events = Vec::new();
        let result = self.channel.push(&bytes[..n], &mut events);
        let mut welcome = false;
        for event in events {
            match event {
                ClientEvent::LoggedIn { .. } => welcome = true,
                ClientEvent::Message(message) => self.messages.push_back(message),
            }
        }
        result.map_err(|e| failure(Code::Unreachable, format!("node {}: {e}", self.name)))?;
        Ok(welcome)
    }

    fn late(&self, error: std::io::Error) -> anyhow::Error {
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            failure(Code::TimedOut, format!("node {} did not answer in time", self.name))
        } else {
            failure(Code::Unreachable, format!("node {}: the connection broke: {error}", self.name))
        }
    }
}

/// How long to wait before a node that turned us away is asked again.
const TURNED_AWAY: Duration = Duration::from_millis(100);
/// A socket's timeout may not be 0.
const MIN_WAIT: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use authagent::access::LoginKeys;
    use authagent::channel::{Gate, Server, ServerEvent};
    use authagent::keys::{NodeIdentity, PublicKey, SigningKey};
    use std::net::TcpListener;
    use std::sync::Arc;
    use wire::control::{Arrival, ControlError, Erred};
    use wire::id::PartHash;
    use wire::tuple::{Scheme, Tuple};

    const ADMIN: [u8; 32] = [1; 32];
    const NODE: [u8; 32] = [2; 32];

    /// A node's control server for one client, which answers as `answer` says.
    fn node(mut answer: impl FnMut(Request) -> Answer + Send + 'static) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let admin = PublicKey::from(SigningKey::from_seed(&ADMIN).public());
            let gate = Gate {
                node: "a".into(),
                identity: NodeIdentity::new(SigningKey::from_seed(&NODE), &entropy).unwrap(),
                principals: Box::new(move |name: &str, _: Scheme| {
                    let good = if name == "admin" { vec![admin.clone()] } else { vec![] };
                    LoginKeys { good, decoys: vec![] }
                }),
            };
            let mut server = Server::new(Arc::new(gate), &entropy).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 1000];
            loop {
                let n = stream.read(&mut bytes).unwrap_or(0);
                let mut events = Vec::new();
                let result = server.push(&bytes[..n], &mut events);
                for event in events {
                    if let ServerEvent::Message(message) = event {
                        server.send(&encode(&answer(decode(&message).unwrap()))).unwrap();
                    }
                }
                stream.write_all(&server.take_output()).unwrap();
                if n == 0 || result.is_err() {
                    return;
                }
            }
        });
        Target {
            name: "a".into(),
            session: address.clone(),
            control: address,
            identity: Some(SigningKey::from_seed(&NODE).public()),
            principal: "admin".into(),
            key: SigningKey::from_seed(&ADMIN).into(),
            timeout: Duration::from_secs(10),
        }
    }

    fn flow(n: u8) -> FlowInfo {
        FlowInfo {
            hash: TupleHash([n; 32]),
            name: "hello".into(),
            state: FlowState::Running,
            principal: None,
            injected_by: None,
            team: None,
            source: None,
            grant: None,
            arrival: Arrival::default(),
            capsules: (0, 0, 0),
            sessions: 0,
            crashes: vec![],
            replaces: None,
            replaced_by: None,
        }
    }

    #[test]
    fn lists_come_in_pages() {
        let target = node(|request| match request {
            Request::FlowShow { from: 0 } => Answer::Flows(Page { items: vec![flow(1)], next: Some(1) }),
            // A page that leads back ends the list.
            Request::FlowShow { from: 1 } => {
                let named = |n, state| FlowInfo { name: "again".into(), state, ..flow(n) };
                let ended = named(3, FlowState::Ended("refused".into()));
                let items = vec![flow(2), ended, named(4, FlowState::Running)];
                Answer::Flows(Page { items, next: Some(1) })
            }
            _ => Answer::Done,
        });
        let mut remote = Remote::login(&target).unwrap();
        let hashes: Vec<_> = remote.flows().unwrap().iter().map(|f| f.hash).collect();
        assert_eq!(hashes, [1, 2, 3, 4].map(|n| TupleHash([n; 32])));
        assert_eq!(remote.find_flow("0202").unwrap().hash, TupleHash([2; 32]));
        assert_eq!(crate::exit::code(&remote.find_flow("hello").unwrap_err()), Code::Usage);
        assert_eq!(remote.find_flow("again").unwrap().hash, TupleHash([4; 32]), "the other one ended");
        assert_eq!(crate::exit::code(&remote.find_flow("other").unwrap_err()), Code::Missing);
        assert!(remote.teams().unwrap_err().to_string().contains("answered what was not asked"));
    }

    #[test]
    fn parts_go_in_pieces_before_the_tuple() {
        let part: Vec<u8> = (0..MAX_PIECE * 2 + 10).map(|n| (n / 3) as u8).collect();
        let hash = PartHash::of(&part);
        let mut there = Vec::new();
        let target = node(move |request| match request {
            Request::PartPut { part, total, offset, bytes } => {
                assert_eq!((part, offset as usize), (hash, there.len()));
                there.extend(bytes);
                assert!(there.len() <= total as usize);
                Answer::Done
            }
            Request::FlowInject { tuple } if PartHash::of(&there) == hash => {
                Answer::Injected(TupleHash::of(&tuple))
            }
            _ => Answer::Error(ControlError { erred: Erred::Operator, text: "a part is missing".into() }),
        });
        let mut remote = Remote::login(&target).unwrap();
        let tuple = Tuple {
            body: wire::tuple::Body::new([0; 16], vec![]),
            credentials: wire::tuple::Credentials::None,
        };
        let bundle = Bundle { bytes: tuple.encode(), tuple, parts: [(hash, part.clone())].into() };
        let mut told = Vec::new();
        assert_eq!(remote.inject(&bundle, |there, all| told.push((there, all))).unwrap(), bundle.hash());
        assert_eq!((told.len(), told[2]), (3, (part.len(), part.len())));
        let error = remote.ask(&Request::NodeShow).unwrap_err();
        assert_eq!(error.to_string(), "node a: a part is missing (blame: operator)");
    }

    #[test]
    fn only_the_right_keys_open_the_door() {
        let code = |target: &Target| crate::exit::code(&Remote::login(target).err().unwrap());
        let stranger = Target { key: SigningKey::from_seed(&[9; 32]).into(), ..node(|_| Answer::Done) };
        assert_eq!(code(&stranger), Code::Unreachable);
        let other = Some(SigningKey::from_seed(&[9; 32]).public());
        assert_eq!(code(&Target { identity: other, ..node(|_| Answer::Done) }), Code::Unreachable);
        let closed = Target { control: "127.0.0.1:1".into(), ..node(|_| Answer::Done) };
        assert_eq!(code(&closed), Code::Unreachable);
    }

    /// A node turns clients away that come too fast; who waits is let in.
    #[test]
    fn who_is_turned_away_comes_again() {
        let target = node(|_| Answer::Done);
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let busy = Target { control: door.local_addr().unwrap().to_string(), ..target.clone() };
        let behind = target.control.clone();
        std::thread::spawn(move || {
            for _ in 0..2 {
                drop(door.accept().unwrap());
            }
            let (mut client, _) = door.accept().unwrap();
            let mut node = TcpStream::connect(behind).unwrap();
            let (mut back, mut answers) = (client.try_clone().unwrap(), node.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
            std::io::copy(&mut client, &mut node).unwrap_or_default();
        });
        assert_eq!(crate::exit::code(&Remote::login_once(&busy).err().unwrap()), Code::Unreachable);
        let mut remote = Remote::login(&busy).unwrap();
        assert_eq!(remote.ask(&Request::NodeShow).unwrap(), Answer::Done);
    }

    #[test]
    fn a_silent_node_takes_no_longer_than_agreed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let control = listener.local_addr().unwrap().to_string();
        let target = Target { control, timeout: Duration::from_millis(50), ..node(|_| Answer::Done) };
        let started = Instant::now();
        assert_eq!(crate::exit::code(&Remote::login(&target).err().unwrap()), Code::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
