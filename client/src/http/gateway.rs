//! The gateway's program: it has a session with `http` on the gateway's node, fetches what it is asked for from the servers
//! that it may ask, and gives the pieces.

use std::sync::mpsc::{Sender as Out, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::head::split;
use super::message::Get;
use super::origin::{Object, answer, fetch};
use super::shelf::{Shelf, Step};
use crate::exit::{Code, failure};
use crate::output::{plain, progress};
use crate::session::{Received, Session};

/// Objects that are fetched at once, and that wait for that.
const FETCHERS: usize = 8;
const QUEUE: usize = 64;

/// The servers that a gateway may ask.
#[derive(Debug, Clone)]
pub struct Hosts(Vec<String>);

/// What the program hears.
enum Event {
    Packet(Vec<u8>),
    Fetched(String, Object),
    Ended(anyhow::Error),
}

impl Hosts {
    /// `HOST`, `HOST:PORT`, or `*` for all of them.
    pub fn new(list: &[String]) -> Self {
        Self(list.iter().map(|host| host.to_ascii_lowercase()).collect())
    }

    /// Whether a URL's server is one of them.
    pub fn allow(&self, url: &str) -> bool {
        let Some((authority, _)) = split(url) else { return false };
        let host =
            authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(authority, |(h, _)| h);
        self.0.iter().any(|one| one == "*" || one == host || one == authority)
    }
}

/// Is the gateway until the session ends, or until it fails. `timeout`: for the protocol to answer.
pub fn serve(mut session: Session, hosts: &Hosts, timeout: Duration) -> Result<()> {
    let mut sender = session.sender()?;
    sender.send(b"serve")?;
    let deadline = Instant::now() + timeout;
    match session.receive(deadline)? {
        Received::Packet(packet) if packet == b"ok" => {}
        Received::Packet(packet) => {
            return Err(failure(Code::Failed, plain(&String::from_utf8_lossy(&packet))));
        }
        Received::Nothing => return Err(failure(Code::TimedOut, "the protocol did not answer in time")),
        Received::Closed => return Err(failure(Code::Failed, "the protocol closed the session")),
    }
    let (out, events) = channel();
    let fetchers = start_fetchers(&out);
    thread::spawn(move || listen(session, &out));
    let mut shelf = Shelf::default();
    progress("this is the gateway");
    for event in events {
        match event {
            Event::Packet(packet) => {
                let Some(get) = Get::read(&packet) else {
                    let text = String::from_utf8_lossy(&packet).into_owned();
                    return Err(failure(Code::Failed, plain(&text)));
                };
                match shelf.get(&get, Instant::now()) {
                    Step::Send(packet) => sender.send(&packet)?,
                    Step::Wait => {}
                    Step::Fetch if !hosts.allow(&get.url) => {
                        let object = answer(403, "the gateway may not ask this server");
                        for packet in shelf.put(&get.url, object, Instant::now()).0 {
                            sender.send(&packet)?;
                        }
                    }
                    Step::Fetch => {
                        if let Err(TrySendError::Full((url, _))) = fetchers.try_send((get.url, get.reload)) {
                            for packet in
                                shelf.put(&url, answer(503, "too much is fetched"), Instant::now()).0
                            {
                                sender.send(&packet)?;
                            }
                        }
                    }
                }
            }
            Event::Fetched(url, object) => {
                let (packets, again) = shelf.put(&url, object, Instant::now());
                for packet in packets {
                    sender.send(&packet)?;
                }
                if again && let Err(TrySendError::Full((url, _))) = fetchers.try_send((url, false)) {
                    for packet in shelf.put(&url, answer(503, "too much is fetched"), Instant::now()).0 {
                        sender.send(&packet)?;
                    }
                }
            }
            Event::Ended(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads the session's packets until it ends.
fn listen(mut session: Session, out: &Out<Event>) {
    loop {
        let event = match session.receive(Instant::now() + Duration::from_secs(3600)) {
            Ok(Received::Packet(packet)) => Event::Packet(packet),
            Ok(Received::Nothing) => continue,
            Ok(Received::Closed) => Event::Ended(failure(Code::Failed, "the protocol closed the session")),
            Err(error) => Event::Ended(error),
        };
        let over = matches!(event, Event::Ended(_));
        if out.send(event).is_err() || over {
            return;
        }
    }
}

/// Threads that fetch what they are given.
fn start_fetchers(out: &Out<Event>) -> SyncSender<(String, bool)> {
    let (give, take) = sync_channel::<(String, bool)>(QUEUE);
    let take = Arc::new(Mutex::new(take));
    for _ in 0..FETCHERS {
        let (take, out) = (take.clone(), out.clone());
        thread::spawn(move || {
            loop {
                let next = take.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
                let Ok((url, reload)) = next else { return };
                let object = fetch(&url, reload);
                if out.send(Event::Fetched(url, object)).is_err() {
                    return;
                }
            }
        });
    }
    give
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_these_servers_are_asked() {
        let hosts = Hosts::new(&["Example.org".into(), "127.0.0.1:8000".into(), "[::1]".into()]);
        for url in
            ["http://example.org/x", "http://example.org:81/", "http://127.0.0.1:8000/", "http://[::1]:5/"]
        {
            assert!(hosts.allow(url), "{url}");
        }
        for url in ["http://127.0.0.1/", "http://127.0.0.1:80/", "http://example.org.evil/", "nonsense"] {
            assert!(!hosts.allow(url), "{url}");
        }
        assert!(Hosts::new(&["*".into()]).allow("http://any/"));
    }
}
