//! The operator's desk: the node's management link ends in this program, with a TCP/IP stack and a logged-in
//! control client, in the same thread as everything else that the measurement does.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use authagent::channel::{Client, ClientEvent};
use authagent::keys::SigningKey;
use client::lab::wire::gateway::{Connection, Ends, Gateway};
use client::remote::entropy;
use ee::config::ADMIN;
use host::link::{Batch, Link, Received};
use nodeos::buf::BufPool;
use wire::control::{Answer, MAX_PIECE, Request, decode, encode};

use super::flows::Guest;

const CONTROL: u16 = 3322;
/// Microseconds between two looks at the stack when no frame comes.
const TICK: u64 = 1000;

/// The management link, and who works there.
pub struct Desk {
    link: Link,
    gateway: Gateway,
    connection: Connection,
    channel: Client,
    entered: bool,
    waiting: usize,
    unsent: VecDeque<u8>,
    answers: VecDeque<Answer>,
    start: Instant,
    looked: u64,
}

impl Desk {
    /// A desk that begins to log in with the administrator's `key`.
    pub fn new(link: Link, ends: Ends, key: SigningKey) -> Result<Self> {
        let mut gateway = Gateway::new(ends, 1, 0);
        let connection = gateway.open(0, CONTROL);
        let channel = Client::new(None, ADMIN, Box::new(key), &entropy)?;
        Ok(Self {
            link,
            gateway,
            connection,
            channel,
            entered: false,
            waiting: 0,
            unsent: VecDeque::new(),
            answers: VecDeque::new(),
            start: Instant::now(),
            looked: 0,
        })
    }

    /// Whether the node let us in.
    pub fn entered(&self) -> bool {
        self.entered
    }

    /// Requests that are not answered yet.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Puts a request on its way.
    pub fn ask(&mut self, request: &Request) -> Result<()> {
        self.channel.send(&encode(request)).context("the control channel")?;
        self.waiting += 1;
        Ok(())
    }

    /// Puts a flow's parts and injects it; returns how many requests that takes.
    pub fn inject(&mut self, guest: &Guest) -> Result<usize> {
        let before = self.waiting;
        for (part, bytes) in &guest.parts {
            let total = u32::try_from(bytes.len())?;
            for (piece, offset) in bytes.chunks(MAX_PIECE).zip((0..).step_by(MAX_PIECE)) {
                self.ask(&Request::PartPut { part: *part, total, offset, bytes: piece.to_vec() })?;
            }
        }
        self.ask(&Request::FlowInject { tuple: guest.tuple.clone() })?;
        Ok(self.waiting - before)
    }

    /// The next answer.
    pub fn answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// Opens another connection to the node.
    pub fn open(&mut self, port: u16) -> Connection {
        let now = self.now();
        self.gateway.open(now, port)
    }

    /// The stack, for connections of one's own, and the time that it goes by.
    pub fn gateway(&mut self) -> (&mut Gateway, u64) {
        let now = self.now();
        (&mut self.gateway, now)
    }

    /// Takes what came, sends what is to be sent.
    pub fn serve(&mut self, pool: &BufPool, batch: &mut Batch) -> Result<()> {
        let (gateway, mut came) = (&mut self.gateway, false);
        let mut take = |frame: nodeos::buf::Buf| {
            gateway.frame(&frame);
            came = true;
        };
        while self.link.receive(batch, pool, &mut take) == Received::More {}
        self.unsent.extend(self.channel.take_output());
        let now = self.now();
        if !came && self.unsent.is_empty() && now < self.looked + TICK {
            return Ok(());
        }
        self.looked = now;
        self.gateway.poll(now);
        self.gateway.look_after(&mut self.connection, now);
        self.exchange()?;
        self.gateway.poll(now);
        while self.link.has_room()
            && let Some(frame) = self.gateway.transmit()
        {
            self.link.queue(pool.copy_of(&frame).context("no packet buffer")?);
        }
        self.link.flush(batch);
        Ok(())
    }

    fn exchange(&mut self) -> Result<()> {
        let socket = self.gateway.socket(&self.connection);
        let mut events = Vec::new();
        while socket.can_recv() {
            let channel = &mut self.channel;
            let taken = socket.recv(|bytes| (bytes.len(), channel.push(bytes, &mut events)));
            taken.context("the control connection")?.context("the control channel")?;
        }
        for event in events {
            match event {
                ClientEvent::LoggedIn { .. } => self.entered = true,
                ClientEvent::Message(message) => {
                    let Some(answer) = decode(&message) else { bail!("the node answers nonsense") };
                    self.waiting = self.waiting.saturating_sub(1);
                    self.answers.push_back(answer);
                }
            }
        }
        self.unsent.extend(self.channel.take_output());
        while socket.can_send() && !self.unsent.is_empty() {
            let sent = socket.send_slice(self.unsent.as_slices().0).context("the control connection")?;
            self.unsent.drain(..sent);
            if sent == 0 {
                break;
            }
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}
