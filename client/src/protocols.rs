//! A protocol server and its client ([`wire::server`]): signed flow tuples and their parts over TCP, for nodes that have
//! just started and for programs.
//!
//! [`Shelf`] is a folder of tuples as `bees flow build` writes them; [`serve`] answers questions about it. [`Fetcher`]
//! asks a server, and gives nothing out that does not have the hashes that the tuple names. Who signed the tuple is for
//! whoever uses it to judge.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wire::id::{PartHash, TupleHash};
use wire::server::{Head, Question, take_line};
use wire::tuple::Tuple;

use crate::exit::{Code, failure};
use crate::flow::Bundle;
use crate::output::plain;
use crate::remote::connect;

/// Clients served at a time.
const MAX_CLIENTS: usize = 64;
/// A client that asks nothing, or reads nothing, for so long is sent away.
const IDLE: Duration = Duration::from_secs(30);
/// A folder is not looked at again sooner than this.
const FRESH: Duration = Duration::from_secs(1);
/// Flows on a shelf, at most; further files are left out.
const MAX_FLOWS: usize = 1024;
/// The first digits of a hash that name a flow, at least.
const MIN_DIGITS: usize = 8;

/// The flows in a folder.
#[derive(Debug)]
pub struct Shelf {
    folder: PathBuf,
    flows: BTreeMap<String, Bundle>,
    read: Instant,
}

impl Shelf {
    /// Reads all files `*.tuple` of a folder, and their parts beside them. What cannot be read is named.
    pub fn open(folder: &Path, told: &mut dyn FnMut(String)) -> Result<Self> {
        let mut shelf = Self { folder: folder.into(), flows: BTreeMap::new(), read: Instant::now() };
        shelf.reload(told)?;
        Ok(shelf)
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Reads the folder again.
    fn reload(&mut self, told: &mut dyn FnMut(String)) -> Result<()> {
        let what = || failure(Code::Missing, format!("cannot read {}", self.folder.display()));
        let files = fs::read_dir(&self.folder).map_err(|_| what())?;
        let mut files: Vec<PathBuf> = files.filter_map(|f| f.ok().map(|f| f.path())).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == "tuple"));
        files.sort();
        self.flows.clear();
        for file in files.iter().take(MAX_FLOWS) {
            match Bundle::load(file, &[]) {
                Ok(bundle) => {
                    self.flows.insert(bundle.hash().to_string(), bundle);
                }
                Err(e) => told(format!("{} is left out: {e:#}", file.display())),
            }
        }
        self.read = Instant::now();
        Ok(())
    }

    /// The answer to a question, or why there is none.
    pub fn answer(&mut self, question: &Question) -> Result<Vec<u8>, String> {
        if self.read.elapsed() >= FRESH {
            // What is there now is served; a folder that is gone has nothing.
            self.reload(&mut |_| ()).map_err(|e| e.to_string())?;
        }
        match question {
            Question::List => {
                let line = |(hash, flow): (&String, &Bundle)| format!("{hash} {}\n", flow.tuple.main().name);
                Ok(self.flows.iter().map(line).collect::<String>().into_bytes())
            }
            Question::Tuple(flow) => self.find(flow).map(|bundle| bundle.bytes.clone()),
            Question::Part(hash) => {
                let part = self.flows.values().find_map(|flow| flow.parts.get(hash));
                part.cloned().ok_or_else(|| "no flow here has that part".into())
            }
        }
    }

    fn find(&self, selector: &str) -> Result<&Bundle, String> {
        let digits = selector.to_ascii_lowercase();
        let is_meant = |(hash, flow): &(&String, &Bundle)| {
            flow.tuple.main().name == selector || digits.len() >= MIN_DIGITS && hash.starts_with(&digits)
        };
        let mut found = self.flows.iter().filter(is_meant).map(|(_, flow)| flow);
        match (found.next(), found.next()) {
            (None, _) => Err("there is no such flow; `list` tells which there are".into()),
            (Some(flow), None) => Ok(flow),
            (Some(_), Some(_)) => Err("several flows are called so; ask for one by its hash".into()),
        }
    }
}

/// Serves a shelf for as long as the process runs. `told` hears who asked for what.
pub fn serve(
    listener: &TcpListener,
    shelf: Shelf,
    told: impl Fn(String) + Send + Sync + 'static,
) -> Result<()> {
    let (shelf, told) = (Arc::new(Mutex::new(shelf)), Arc::new(told));
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, or a client that is gone already.
                told(format!("cannot accept: {e}"));
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
            clients.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (shelf, told, clients) = (shelf.clone(), told.clone(), clients.clone());
        std::thread::spawn(move || {
            if let Err(e) = converse(stream, from, &shelf, &*told) {
                told(format!("{from}: {e:#}"));
            }
            clients.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Answers one client's questions.
fn converse(
    mut stream: TcpStream,
    from: SocketAddr,
    shelf: &Mutex<Shelf>,
    told: &(dyn Fn(String) + Send + Sync),
) -> Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let (mut input, mut bytes) = (Vec::new(), [0; 512]);
    loop {
        while let Some(line) = take_line(&mut input)? {
            let answer = match Question::parse(&line) {
                Ok(question) => {
                    told(format!("{from}: {question}"));
                    shelf.lock().unwrap_or_else(PoisonError::into_inner).answer(&question)
                }
                Err(e) => Err(e.to_string()),
            };
            match answer {
                Ok(answer) => {
                    stream.write_all(format!("ok {}\n", answer.len()).as_bytes())?;
                    stream.write_all(&answer)?;
                }
                Err(why) => stream.write_all(format!("error {why}\n").as_bytes())?,
            }
        }
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            n => input.extend_from_slice(&bytes[..n]),
        }
    }
}

/// A connection to a protocol server.
pub struct Fetcher {
    stream: TcpStream,
    input: Vec<u8>,
    from: String,
}

impl Fetcher {
    /// Connects to `HOST`, or `HOST:PORT`; each answer may take as long as `timeout`.
    pub fn connect(server: &str, timeout: Duration) -> Result<Self> {
        let from = with_port(server);
        let stream = connect(&from, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream, input: Vec::new(), from })
    }

    /// The flows of the server: hash and name.
    pub fn list(&mut self) -> Result<Vec<(TupleHash, String)>> {
        let bytes = self.ask(&Question::List)?;
        let text = String::from_utf8(bytes).map_err(|_| self.nonsense("a list"))?;
        let flow = |line: &str| {
            let (hash, name) = line.split_once(' ')?;
            Some((hash.parse().ok()?, name.to_string()))
        };
        text.lines().map(|line| flow(line).ok_or_else(|| self.nonsense("a list"))).collect()
    }

    /// A flow with all its parts, each of which has the hashes that the tuple names. `flow` is the name of its main
    /// protocol, its hash, or the hash's first digits: what comes is what was asked for.
    pub fn flow(&mut self, flow: &str) -> Result<Bundle> {
        let bytes = self.ask(&Question::Tuple(flow.into()))?;
        let tuple = Tuple::decode(&bytes).with_context(|| format!("the tuple from {}", self.from))?;
        let hash = TupleHash::of(&bytes).to_string();
        // A short name is no hash: a server could find a flow whose hash begins so.
        let digits = flow.len() >= MIN_DIGITS && hash.starts_with(&flow.to_ascii_lowercase());
        let is_it = tuple.main().name == flow || digits;
        if !is_it {
            return Err(self.nonsense(&format!("flow {hash:.8} instead of {flow}")));
        }
        let mut parts = HashMap::new();
        for part in tuple.parts() {
            let bytes = self.ask(&Question::Part(part.sha256))?;
            if !part.matches(&bytes) {
                return Err(self.nonsense(&format!("a part that is not {:.8}", part.sha256)));
            }
            parts.insert(PartHash::of(&bytes), bytes);
        }
        Ok(Bundle { tuple, bytes, parts })
    }

    fn ask(&mut self, question: &Question) -> Result<Vec<u8>> {
        let lost = |e: std::io::Error| failure(Code::Unreachable, format!("the connection broke: {e}"));
        self.stream.write_all(format!("{question}\n").as_bytes()).map_err(lost)?;
        let len = loop {
            if let Some(line) = take_line(&mut self.input)? {
                match Head::parse(&line)? {
                    Head::Ok(len) => break len as usize,
                    Head::Error(why) => {
                        let text = format!("{}: {question}: {}", self.from, plain(&why));
                        return Err(failure(Code::Missing, text));
                    }
                }
            }
            self.read()?;
        };
        while self.input.len() < len {
            self.read()?;
        }
        Ok(self.input.drain(..len).collect())
    }

    fn read(&mut self) -> Result<()> {
        let mut bytes = [0; 16 << 10];
        let n = self.stream.read(&mut bytes);
        match n {
            Ok(0) => Err(failure(Code::Unreachable, format!("{} closed the connection", self.from))),
            Ok(n) => {
                self.input.extend_from_slice(&bytes[..n]);
                Ok(())
            }
            Err(e) => Err(failure(Code::TimedOut, format!("{} did not answer: {e}", self.from))),
        }
    }

    fn nonsense(&self, what: &str) -> anyhow::Error {
        failure(Code::Failed, format!("{} answered with what cannot be used: {what}", self.from))
    }
}

/// `HOST` with the usual port, if it has none.
fn with_port(server: &str) -> String {
    let alone = server.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, wire::SERVER_PORT).to_string());
    match alone {
        Some(address) => address,
        None if server.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => server.into(),
        None => format!("{server}:{}", wire::SERVER_PORT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;
    use crate::flow::build::tests::bundle;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// A server of the folder.
    fn server(folder: &Path) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shelf = Shelf::open(folder, &mut |_| ()).unwrap();
        std::thread::spawn(move || serve(&listener, shelf, |_| ()));
        address
    }

    #[test]
    fn a_flow_comes_whole_by_name_and_by_hash() {
        let scratch = Scratch::new("shelf");
        let flow = bundle();
        flow.save(&scratch.0.join("x.tuple")).unwrap();
        crate::files::write(&scratch.0.join("noise.tuple"), b"noise").unwrap();
        let server = server(&scratch.0);
        let mut fetcher = Fetcher::connect(&server, TIMEOUT).unwrap();
        let name = flow.tuple.main().name.clone();
        assert_eq!(fetcher.list().unwrap(), [(flow.hash(), name.clone())]);
        for selector in [&name, &flow.hash().to_string(), &flow.hash().to_string()[..8].to_string()] {
            let got = fetcher.flow(selector).unwrap();
            assert_eq!((got.bytes, got.parts), (flow.bytes.clone(), flow.parts.clone()));
        }
        let e = fetcher.flow("nothing").unwrap_err();
        assert_eq!(crate::exit::code(&e), Code::Missing);
        assert_eq!(fetcher.list().unwrap().len(), 1, "the connection goes on");
    }

    #[test]
    fn a_new_file_is_served_and_two_of_a_name_are_told_apart() {
        let scratch = Scratch::new("shelf-new");
        let mut shelf = Shelf::open(&scratch.0, &mut |_| ()).unwrap();
        assert!(shelf.is_empty());
        let (one, mut two) = (bundle(), bundle());
        two.tuple.body.nonce[0] ^= 1;
        two.bytes = two.tuple.encode();
        one.save(&scratch.0.join("one.tuple")).unwrap();
        two.save(&scratch.0.join("two.tuple")).unwrap();
        shelf.read -= FRESH;
        let name = one.tuple.main().name.clone();
        let why = shelf.answer(&Question::Tuple(name)).unwrap_err();
        assert!(why.contains("by its hash"), "{why}");
        assert_eq!(shelf.answer(&Question::Tuple(two.hash().to_string())), Ok(two.bytes));
        assert_eq!(shelf.len(), 2);
    }

    /// A server that gives these answers, one to each question.
    fn liar(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut input, mut bytes) = (Vec::new(), [0; 100]);
            for answer in answers {
                while take_line(&mut input).unwrap().is_none() {
                    let n = stream.read(&mut bytes).unwrap();
                    input.extend_from_slice(&bytes[..n]);
                }
                stream.write_all(&answer).unwrap();
            }
        });
        address
    }

    #[test]
    fn lies_are_not_believed() {
        let flow = bundle();
        let ok = |bytes: &[u8]| [format!("ok {}\n", bytes.len()).as_bytes(), bytes].concat();
        let part = flow.parts.values().next().unwrap();
        let mut changed = part.clone();
        changed[0] ^= 1;
        let ask = |answers: Vec<Vec<u8>>, name: &str| {
            Fetcher::connect(&liar(answers), TIMEOUT).unwrap().flow(name).map(drop).map_err(|e| e.to_string())
        };
        let name = flow.tuple.main().name.as_str();
        assert_eq!(ask(vec![ok(&flow.bytes), ok(part)], name), Ok(()));
        assert!(ask(vec![ok(&flow.bytes), ok(&changed)], name).unwrap_err().contains("a part that is not"));
        assert!(ask(vec![ok(&flow.bytes)], "other").unwrap_err().contains("instead of other"));
        assert!(ask(vec![ok(b"noise")], name).is_err());
        let screen = ask(vec![b"error \x1b[2Jit is \x07\xc2\x9bgone\n".to_vec()], name).unwrap_err();
        assert!(screen.contains("it is") && !screen.chars().any(char::is_control), "{screen:?}");
        assert!(ask(vec![b"ok 99999999\n".to_vec()], name).is_err());
        assert!(ask(vec![b"ok 10\nabc".to_vec()], name).unwrap_err().contains("closed the connection"));
        assert!(ask(vec![vec![b'x'; 1000]], name).is_err());
    }

    #[test]
    fn a_client_that_asks_nonsense_is_told_so() {
        let scratch = Scratch::new("shelf-nonsense");
        let mut stream = TcpStream::connect(server(&scratch.0)).unwrap();
        stream.write_all(b"give me all\n").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"error");
        stream.write_all(&[b'x'; 1000]).unwrap();
        let mut rest = Vec::new();
        // Cut off, with or without a reset.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 100);
    }

    #[test]
    fn a_port_is_added_where_there_is_none() {
        for (given, meant) in [
            ("host", "host:3325"),
            ("host:1", "host:1"),
            ("10.0.0.1", "10.0.0.1:3325"),
            ("fd00::1", "[fd00::1]:3325"),
            ("[fd00::1]:7", "[fd00::1]:7"),
        ] {
            assert_eq!(with_port(given), meant);
        }
    }
}
