//! Talks to a protocol of a node: `session NODE:PORT FLOW [--udp] REQUEST...`. Ends when nothing has come for three
//! seconds. NODE:PORT is the node's session server: in a lab 127.0.0.1 and the port that `bees lab inspect` shows as
//! SESSION.
//!
//! ```text
//! cargo run -p client --example session -- 127.0.0.1:3323 hello find
//! ```

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use client::session::{Received, Session};

fn main() -> Result<()> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let udp = words.iter().any(|word| word == "--udp");
    words.retain(|word| word != "--udp");
    let [address, flow, request @ ..] = &words[..] else {
        bail!("which node's session server, and which flow? NODE:PORT FLOW [--udp] REQUEST...");
    };
    let open = if udp { Session::open_datagrams } else { Session::open };
    let mut session = open(address, flow, Duration::from_secs(10))?;
    session.send(request.join(" ").as_bytes())?;
    loop {
        match session.receive(Instant::now() + Duration::from_secs(3))? {
            Received::Packet(packet) => println!("{}", String::from_utf8_lossy(&packet).trim_end()),
            Received::Nothing | Received::Closed => return Ok(()),
        }
    }
}
