//! `bees multicast send|join`: a program that is a group's source, and one that is a member (`capsules/multicast`).

use std::io::{BufRead, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::Result;
use nodeos::units::parse_time;
use serde_json::json;

use super::Access;
use crate::exit::{Code, failure};
use crate::output::{Output, hex, plain, progress};
use crate::session::{Received, Sender, Session};

/// What a program is of a group.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Be the source: each line of input goes to all members that want it
    Send {
        #[command(flatten)]
        group: Group,
        /// Wait until somebody wants something, at most so long
        #[arg(long, value_parser = parse_time, value_name = "TIME")]
        patience: Option<Duration>,
        /// One payload, instead of the lines of the standard input
        #[arg(last = true)]
        payload: Vec<String>,
    },
    /// Be a member: print what comes
    Join {
        #[command(flatten)]
        group: Group,
        /// What is wanted: TEXT or x:HEX that payloads begin with (16 bytes), and @RATE for so many in a second; at most 4.
        /// Without any, everything
        terms: Vec<String>,
        /// End after so many payloads
        #[arg(short, long, value_name = "TIMES")]
        count: Option<u64>,
        /// End with an error when nothing has come for so long
        #[arg(short, long, value_parser = parse_time, value_name = "TIME")]
        wait: Option<Duration>,
    },
}

/// Which group, of which flow.
#[derive(Debug, clap::Args)]
pub struct Group {
    /// The group's name
    group: String,
    /// The flow: its name, its hash, or the hash's first digits
    #[arg(long, default_value = "multicast")]
    flow: String,
}

/// The longest name of a group, in bytes.
const MAX_NAME: usize = 32;
/// Between two looks whether somebody wants something.
const LOOK: Duration = Duration::from_millis(200);

pub fn run(access: &Access, verb: &Verb, output: Output) -> Result<()> {
    match verb {
        Verb::Send { group, patience, payload } => {
            let mut program = Program::open(access, group)?;
            program.request(b"source")?;
            if let Some(patience) = patience {
                program.await_members(*patience)?;
            }
            if !payload.is_empty() {
                return program.send(payload.join(" ").as_bytes());
            }
            if std::io::stdin().is_terminal() {
                progress(format!("each line goes to the members of {}; Ctrl-D ends", group.group));
            }
            for line in std::io::stdin().lock().split(b'\n') {
                let line = line?;
                program.send(line.strip_suffix(b"\r").unwrap_or(&line))?;
            }
            Ok(())
        }
        Verb::Join { group, terms, count, wait } => {
            let mut program = Program::open(access, group)?;
            let terms: Vec<String> = terms.iter().map(|term| word(term)).collect();
            program.sender.send(format!("join {} {}", group.group, terms.join(" ")).as_bytes())?;
            program.ok()?;
            program.print(count.unwrap_or(u64::MAX), *wait, output)
        }
    }
}

/// A term as one word, whatever it begins with.
fn word(term: &str) -> String {
    let (text, rate) = term.find('@').map_or((term, ""), |at| term.split_at(at));
    match text.bytes().all(|b| b.is_ascii_graphic()) {
        true => term.to_string(),
        false => format!("x:{}{rate}", hex(text.as_bytes())),
    }
}

/// A program's session with the protocol.
struct Program {
    session: Session,
    sender: Sender,
    group: String,
    patience: Duration,
}

/// A payload as a member gets it.
#[derive(Debug, PartialEq, Eq)]
struct Payload<'a> {
    number: u64,
    hops: u64,
    bytes: &'a [u8],
}

impl Program {
    fn open(access: &Access, group: &Group) -> Result<Self> {
        if !(1..=MAX_NAME).contains(&group.group.len()) || !group.group.bytes().all(|b| b.is_ascii_graphic())
        {
            let text = format!("{:?}: a group's name has 1 to {MAX_NAME} letters and no blanks", group.group);
            return Err(failure(Code::Usage, text));
        }
        let target = access.target()?;
        let session = Session::open(&target.session, &group.flow, target.timeout)?;
        let (sender, group) = (session.sender()?, group.group.clone());
        Ok(Self { session, sender, group, patience: target.timeout })
    }

    /// The next packet before a deadline, if there is one.
    fn packet(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        match self.session.receive(deadline)? {
            Received::Packet(packet) => Ok(Some(packet)),
            Received::Nothing => Ok(None),
            Received::Closed => Err(failure(Code::Failed, "the protocol closed the session")),
        }
    }

    /// The answer to a request.
    fn answer(&mut self) -> Result<Vec<u8>> {
        let deadline = Instant::now() + self.patience;
        loop {
            let late = || failure(Code::TimedOut, "the protocol did not answer in time");
            let packet = self.packet(deadline)?.ok_or_else(late)?;
            match packet.split(|b| *b == b' ').next().unwrap_or(&[]) {
                // News that came in between.
                b"found" | b"lost" => {}
                b"deposed" => return Err(failure(Code::Failed, "another program became the group's source")),
                _ => return Ok(packet),
            }
        }
    }

    fn ok(&mut self) -> Result<()> {
        let answer = self.answer()?;
        if answer.split(|b| *b == b' ').next() == Some(b"ok") {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&answer);
        let why = text.strip_prefix("error ").unwrap_or("the protocol answered nonsense");
        Err(failure(Code::Failed, plain(why)))
    }

    fn request(&mut self, verb: &[u8]) -> Result<()> {
        self.sender.send(&[verb, b" ", self.group.as_bytes()].concat())?;
        self.ok()
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.sender.send(&[b"send ", self.group.as_bytes(), b" ", payload].concat())?;
        self.ok()
    }

    /// Waits until somebody wants something of the group.
    fn await_members(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            self.sender.send(b"show")?;
            let mut wanted = false;
            loop {
                let line = self.answer()?;
                let line = String::from_utf8_lossy(&line);
                if line.starts_with("done") {
                    break;
                }
                wanted |= line.starts_with(&format!("group {} ", self.group)) && !line.contains(" terms 0 ");
            }
            if wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(failure(Code::TimedOut, "nobody wants anything of the group"));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Prints what comes, until so many payloads have.
    fn print(&mut self, count: u64, wait: Option<Duration>, output: Output) -> Result<()> {
        let mut left = count;
        let mut last = Instant::now();
        while left > 0 {
            let deadline =
                wait.map_or_else(|| Instant::now() + Duration::from_secs(3600), |wait| last + wait);
            let Some(packet) = self.packet(deadline)? else {
                if wait.is_some() {
                    return Err(failure(Code::TimedOut, "nothing more came"));
                }
                continue;
            };
            let Some(payload) = Payload::read(&packet) else {
                progress(plain(&String::from_utf8_lossy(&packet)));
                continue;
            };
            (left, last) = (left - 1, Instant::now());
            let text = std::str::from_utf8(payload.bytes).ok();
            if output.is_json() {
                let hex = hex(payload.bytes);
                output.value(
                    &json!({ "number": payload.number, "hops": payload.hops, "text": text, "hex": hex }),
                )?;
            } else {
                let shown = text.map_or_else(|| format!("0x{}", hex(payload.bytes)), plain);
                output.text(&format!("{shown}\n"))?;
            }
        }
        Ok(())
    }
}

impl<'a> Payload<'a> {
    /// Reads `data GROUP NUMBER HOPS BYTES`.
    fn read(packet: &'a [u8]) -> Option<Self> {
        let mut words = packet.splitn(5, |b| *b == b' ');
        let number = |word: Option<&[u8]>| std::str::from_utf8(word?).ok()?.parse().ok();
        words.next().filter(|w| *w == b"data")?;
        words.next()?;
        Some(Self { number: number(words.next())?, hops: number(words.next())?, bytes: words.next()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_term_stays_one_word() {
        let words = ["sport/", "two words", "x:6162@5", "größer @7", "\t"].map(word);
        assert_eq!(words, ["sport/", "x:74776f20776f726473", "x:6162@5", "x:6772c3b6c39f657220@7", "x:09"]);
    }

    #[test]
    fn payloads_keep_their_blanks() {
        let read = Payload::read(b"data news 7 2  two  words ").unwrap();
        assert_eq!(read, Payload { number: 7, hops: 2, bytes: b" two  words " });
        assert_eq!(Payload::read(b"data news 7 2 ").unwrap().bytes, b"");
        for wrong in [&b"found news hops 2"[..], b"data news 7 2", b"data news x 2 y", b""] {
            assert_eq!(Payload::read(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn any_packet_is_read_or_not(packet in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Payload::read(&packet);
            let _ = Payload::read(&[b"data ", &packet[..]].concat());
        }
    }
}
