//! `bees session`: a protocol's session at the terminal or in a pipe.

use std::io::{BufRead, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use wire::control::FlowState;

use super::Access;
use crate::exit::{Code, failure};
use crate::output::{Output, plain, progress};
use crate::remote::{Remote, Target};
use crate::session::{Received, Sender, Session};

/// Which session, and what to say.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The flow: its name, its hash, or the hash's first digits
    flow: String,
    /// One request, instead of the lines of the standard input
    #[arg(last = true)]
    request: Vec<String>,
    /// After the end of input, go on until no packet has come for so long, in seconds
    #[arg(short, long, default_value_t = 3.0, value_name = "SECONDS")]
    wait: f64,
    /// By UDP: packets of up to 1200 bytes, which may be lost
    #[arg(long)]
    udp: bool,
    /// End when a packet starts with this text
    #[arg(short, long, value_name = "TEXT")]
    until: Option<String>,
}

pub fn run(access: &Access, options: &Options, output: Output) -> Result<()> {
    let wait = Duration::try_from_secs_f64(options.wait)
        .map_err(|e| failure(Code::Usage, format!("--wait {}: {e}", options.wait)))?;
    let target = access.target()?;
    let open = if options.udp { Session::open_datagrams } else { Session::open };
    let mut session = open(&target.session, &options.flow, target.timeout)?;
    let mut sender = session.sender()?;
    let ended = Arc::new(AtomicBool::new(false));
    if options.request.is_empty() {
        if std::io::stdin().is_terminal() {
            progress(format!(
                "session of {}, flow {:.8}, at node {}; Ctrl-D ends",
                options.flow,
                session.flow(),
                target.name
            ));
        }
        let ended = ended.clone();
        // Ends with the process if the input never does.
        std::thread::spawn(move || {
            if let Err(e) = send_lines(&mut sender) {
                progress(format!("bees: {e:#}"));
            }
            ended.store(true, Ordering::Release);
        });
    } else {
        sender.send(options.request.join(" ").as_bytes())?;
        ended.store(true, Ordering::Release);
    }
    let (mut last, mut heard) = (Instant::now(), false);
    loop {
        let input_over = ended.load(Ordering::Acquire);
        match session.receive(Instant::now() + POLL)? {
            Received::Packet(packet) => {
                (last, heard) = (Instant::now(), true);
                print(&packet, output)?;
                if options.until.as_ref().is_some_and(|u| packet.starts_with(u.as_bytes())) {
                    return Ok(());
                }
            }
            Received::Closed => {
                if let Some(why) = end_of_flow(&target, session.flow()) {
                    return Err(failure(Code::Failed, why));
                }
                return unless_awaited(options, "the protocol closed the session", Code::Failed);
            }
            Received::Nothing if !input_over => last = Instant::now(),
            Received::Nothing if last.elapsed() >= wait => {
                if !heard && options.until.is_none() {
                    progress(format!("nothing came from {} in {} s", options.flow, options.wait));
                }
                return unless_awaited(options, "nothing more came", Code::TimedOut);
            }
            Received::Nothing => {}
        }
    }
}

/// How often to look whether the input has ended.
const POLL: Duration = Duration::from_millis(50);

/// Why a flow ended, if it did: whoever talked to it should hear of that, and not of a session's end. Who may not ask
/// the node does not.
fn end_of_flow(target: &Target, hash: &str) -> Option<String> {
    let flow = Remote::login_once(target).ok()?.find_flow(hash).ok()?;
    match &flow.state {
        FlowState::Ended(why) => Some(format!(
            "flow {} ended: {}; `bees flow show {:.8}` tells more",
            plain(&flow.name),
            plain(why),
            flow.hash
        )),
        _ => None,
    }
}

/// The session's end is an error only if a certain packet was to come first.
fn unless_awaited(options: &Options, why: &str, code: Code) -> Result<()> {
    match &options.until {
        Some(until) => Err(failure(code, format!("{why} before a packet that starts with \"{until}\""))),
        None => Ok(()),
    }
}

fn send_lines(sender: &mut Sender) -> Result<()> {
    for line in std::io::stdin().lock().split(b'\n') {
        let line = line?;
        sender.send(line.strip_suffix(b"\r").unwrap_or(&line))?;
    }
    Ok(())
}

/// A packet is a line; what is no text is shown in hexadecimal digits.
fn print(packet: &[u8], output: Output) -> Result<()> {
    let text = std::str::from_utf8(packet).ok();
    if output.is_json() {
        return output.value(&json!({ "text": text, "hex": crate::output::hex(packet) }));
    }
    match text {
        Some(text) => output.text(&format!("{}\n", text.lines().map(plain).collect::<Vec<_>>().join("\n"))),
        None => output.text(&format!("0x{}\n", crate::output::hex(packet))),
    }
}
