//! Metrics for Prometheus, over HTTP on the management address: `GET /metrics`, one request for each connection.
//! Only where the configuration turns them on, because nobody has to say who he is.
//!
//! The text is made as the client reads it ([`figures`](super::figures)): a slow client costs a socket for half
//! a minute, and no memory.

use std::time::Duration;

use nodeos::net::StreamId;
use nodeos::platform::{Instant, Now};
use wire::http::{self, Error};

use super::Node;
use super::figures::Place;
use crate::counters::Count;
use crate::exposition::{CONTENT_TYPE, Text};

/// Clients at a time, on each management link.
pub(super) const MAX_SCRAPES: usize = 2;
/// How long a client may take to ask.
const ASK_TIME: Duration = Duration::from_secs(5);
/// How long it may take in all.
const SCRAPE_TIME: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Scrape {
    stream: StreamId,
    since: Instant,
    /// What has arrived of the request; `None` after it.
    head: Option<Vec<u8>>,
    /// What is to be written before anything else.
    output: Vec<u8>,
    /// What of the metrics has been made.
    place: Option<Place>,
}

/// The metrics' clients.
#[derive(Debug, Default)]
pub(super) struct Scrapes(Vec<Scrape>);

impl Scrapes {
    /// When a client that is too slow is cut off.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(Scrape::deadline).min()
    }

    /// Whether this is the stream of such a client.
    pub(super) fn has(&self, stream: StreamId) -> bool {
        self.0.iter().any(|s| s.stream == stream)
    }

    /// A client's stream is gone.
    pub(super) fn remove(&mut self, stream: StreamId) {
        self.0.retain(|s| s.stream != stream);
    }

    fn find(&mut self, stream: StreamId) -> Option<&mut Scrape> {
        self.0.iter_mut().find(|s| s.stream == stream)
    }
}

impl Scrape {
    fn deadline(&self) -> Instant {
        self.since + if self.head.is_some() { ASK_TIME } else { SCRAPE_TIME }
    }

    /// Answers what has been asked.
    fn answer(&mut self, status: &str) {
        let allow = if status.starts_with("405") { "Allow: GET\r\n" } else { "" };
        let (kind, body) = match self.place {
            Some(_) => (CONTENT_TYPE, String::new()),
            None => ("text/plain; charset=utf-8", format!("{status}\n")),
        };
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{allow}Connection: close\r\n\r\n{body}");
        self.head = None;
        self.output = head.into_bytes();
    }
}

impl Node {
    /// A client connected.
    pub(super) fn scrape_opened(&mut self, now: Now, stream: StreamId) {
        let (head, output) = (Some(Vec::new()), Vec::new());
        self.scrapes.0.push(Scrape { stream, since: now.mono, head, output, place: None });
    }

    /// A client sent something, or has read something.
    pub(super) fn scrape_ready(&mut self, now: Now, stream: StreamId) {
        let mut bytes = [0; 512];
        while let Some(scrape) = self.scrapes.find(stream)
            && let Some(head) = &mut scrape.head
        {
            let n = self.net.read(now.mono, stream, &mut bytes);
            head.extend_from_slice(&bytes[..n]);
            match http::request(head) {
                Ok(None) if n == 0 => return,
                Ok(None) => {}
                Ok(Some(asked)) => {
                    let status = match (asked.path, asked.method) {
                        ("/metrics", "GET") => "200 OK",
                        ("/metrics", _) => "405 Method Not Allowed",
                        _ => "404 Not Found",
                    };
                    scrape.place = (status == "200 OK").then(Place::default);
                    let count = if scrape.place.is_some() { Count::Scrapes } else { Count::StreamErrors };
                    scrape.answer(status);
                    self.counters.add(count);
                }
                Err(Error::Malformed) => {
                    scrape.answer("400 Bad Request");
                    self.counters.add(Count::StreamErrors);
                }
                Err(Error::TooLong) => return self.cut_scrape(now, stream),
            }
        }
        self.flush_scrape(now, stream);
    }

    /// A client will say no more; it may still read.
    pub(super) fn scrape_finished(&mut self, now: Now, stream: StreamId) {
        if self.scrapes.find(stream).is_some_and(|s| s.head.is_some()) {
            self.cut_scrape(now, stream);
        }
    }

    /// Writes on where clients have read, and cuts off who is too slow.
    pub(super) fn scrapes_due(&mut self, now: Now) {
        for at in (0..self.scrapes.0.len()).rev() {
            let scrape = &self.scrapes.0[at];
            let (stream, asked, late) = (scrape.stream, scrape.head.is_none(), now.mono >= scrape.deadline());
            if late {
                self.cut_scrape(now, stream);
            } else if asked {
                self.flush_scrape(now, stream);
            }
        }
    }

    /// Writes as much as the stream takes; after everything it is closed.
    fn flush_scrape(&mut self, now: Now, stream: StreamId) {
        let mut text = Text::default();
        // Out of the list, because its text is made of all the rest.
        let Some(at) = self.scrapes.0.iter().position(|s| s.stream == stream) else { return };
        let mut scrape = self.scrapes.0.swap_remove(at);
        loop {
            let written = self.net.write(now.mono, stream, &scrape.output);
            scrape.output.drain(..written);
            if !scrape.output.is_empty() {
                return self.scrapes.0.push(scrape);
            }
            if !scrape.place.as_mut().is_some_and(|place| self.figures(now, place, &mut text)) {
                // No event tells of the end of a stream that was closed here.
                return self.net.close(now.mono, stream);
            }
            scrape.output = text.take().into_bytes();
        }
    }

    fn cut_scrape(&mut self, now: Now, stream: StreamId) {
        self.counters.add(Count::StreamErrors);
        self.scrapes.remove(stream);
        self.net.abort(now.mono, stream);
    }
}
