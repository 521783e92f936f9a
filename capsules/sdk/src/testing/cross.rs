//! The node in memory, continued: calls between flows. A test serves interfaces to the flow, and asks it as other flows
//! would.

use std::collections::BTreeMap;

use super::{Network, Node, result, with_node};
use crate::companion::{Companion, MAX_MESSAGE};
use crate::cross::{Answer, Place, Request, result_of};
use crate::describe::Coupling;
use crate::{Capsule, Error, INBOX, Protocol};

const FIRST_INDEPENDENT: u32 = 6500;
/// Requests of a flow that are on their way.
const MAX_ASKED: usize = 8;

type Service = Box<dyn FnMut(u32, &[u8]) -> Result<(u32, Vec<u8>), Error>>;

/// What a node has for calls between flows.
#[derive(Default)]
pub(super) struct Cross {
    services: BTreeMap<String, Service>,
    /// The number of the last request, and how many are on their way.
    asked: (u32, usize),
    /// Answers that are to be told of.
    pub answers: Vec<Told>,
    /// Whose requests are not answered, by number; and the number of the last.
    open: BTreeMap<u32, [u8; 32]>,
    last: u32,
    settled: Vec<(u32, Result<u32, Error>, Vec<u8>)>,
}

/// An answer on its way to a protocol of the flow.
pub(super) struct Told {
    pub member: usize,
    companion: u32,
    number: u32,
    result: i32,
    answer: Vec<u8>,
}

impl<P: Protocol + 'static> Network<P> {
    /// Serves an interface to a node's flow from now on: an operation and a message give a result and an answer.
    pub fn serve(
        &mut self,
        at: usize,
        interface: &str,
        service: impl FnMut(u32, &[u8]) -> Result<(u32, Vec<u8>), Error> + 'static,
    ) {
        self.at(at).cross.services.insert(interface.into(), Box::new(service));
    }

    /// Asks a node's flow as the flow of this hash would; the number of its place.
    pub fn request(&mut self, at: usize, caller: [u8; 32], operation: u32, message: &[u8]) -> u32 {
        let cross = &mut self.at(at).cross;
        cross.last += 1;
        let number = cross.last;
        cross.open.insert(number, caller);
        self.call(at, 0, |p| {
            with_node(|n| n.hear(message));
            let capsule = with_node(|n| n.event_capsule(n.description.events.session));
            let head = &message[..message.len().min(INBOX)];
            let request = Request { place: Place::from_bits(number), operation, head, len: message.len() };
            p.asked(Capsule::of_event(capsule), request);
        });
        number
    }

    /// What a node's flow answered since the last time.
    pub fn settled(&mut self, at: usize) -> Vec<(u32, Result<u32, Error>, Vec<u8>)> {
        std::mem::take(&mut self.at(at).cross.settled)
    }

    /// A request of a node's flow was answered.
    pub(super) fn told(&mut self, at: usize, told: Told) {
        let Told { member, companion, number, result, answer } = told;
        self.call(at, member, |p| {
            with_node(|n| {
                n.cross.asked.1 -= 1;
                n.set_answer(answer.clone());
            });
            let (from, result) = (Companion::from_bits(companion), result_of(result));
            let head = &answer[..answer.len().min(INBOX)];
            p.answered(Answer { from, number, result, head, len: answer.len() });
        });
    }
}

impl Node {
    /// The capability for an interface that no protocol of the flow serves.
    pub(super) fn independent_named(&self, interface: &[u8]) -> Option<u32> {
        let all = self.description.companions.iter();
        let mut numbered = all.zip(FIRST_INDEPENDENT..);
        let its = |(name, coupling): &(&str, Coupling)| {
            *coupling == Coupling::Independent && name.as_bytes() == interface
        };
        numbered.find(|(companion, _)| its(companion)).map(|(_, number)| number)
    }

    /// The interface that such a capability names.
    pub(super) fn independent(&self, capability: u32) -> Option<&'static str> {
        let at = capability.checked_sub(FIRST_INDEPENDENT)? as usize;
        let companion = self.description.companions.get(at);
        companion.filter(|(_, coupling)| *coupling == Coupling::Independent).map(|(name, _)| *name)
    }

    pub(crate) fn companion_ask(&mut self, capability: u32, operation: u32, message: &[u8]) -> i32 {
        let Some(interface) = self.independent(capability) else {
            let known = self.name_of_companion(capability).is_some();
            return result(Err(if known { Error::BadArgument } else { Error::BadHandle }));
        };
        if !self.more.granted.iter().any(|name| name == interface) {
            return result(Err(Error::NotPermitted));
        }
        if message.len() > MAX_MESSAGE {
            return result(Err(Error::TooLarge));
        }
        if self.cross.asked.1 >= MAX_ASKED {
            return result(Err(Error::NoRoom));
        }
        self.cross.asked = (self.cross.asked.0 + 1, self.cross.asked.1 + 1);
        let service = self.cross.services.get_mut(interface);
        let given = service.map_or(Err(Error::Unavailable), |service| service(operation, message));
        let (result, answer) = match given {
            Ok((value, answer)) => (value as i32, answer),
            Err(error) => (-(error as i32), vec![]),
        };
        let (member, number) = (self.running(), self.cross.asked.0);
        self.cross.answers.push(Told { member, companion: capability, number, result, answer });
        number as i32
    }

    pub(crate) fn companion_settle(&mut self, call: u32, value: i32, answer: &[u8]) -> i32 {
        if answer.len() > MAX_MESSAGE {
            return result(Err(Error::TooLarge));
        }
        if self.running() != 0 || self.cross.open.remove(&call).is_none() {
            return result(Err(Error::BadHandle));
        }
        self.cross.settled.push((call, result_of(value), answer.to_vec()));
        0
    }

    pub(crate) fn companion_caller(&mut self, call: u32, hash: &mut [u8; 32]) -> i32 {
        let whose = self.cross.open.get(&call).filter(|_| self.running() == 0);
        result(whose.map(|whose| *hash = *whose).map(|()| 0).ok_or(Error::BadHandle))
    }
}
