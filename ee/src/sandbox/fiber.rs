//! Events that take longer than an event may: on a fiber, in slices (D4, the paper's heavyweight model).
//!
//! The guests of a team with the privilege `background` run on a stack of their own. When a slice, as long
//! as an ordinary event's deadline, is over the guest yields at its next loop or function entry, and
//! the sandbox has nothing but its fiber until the scheduler comes back to the team. Dropping the fiber ends
//! the guest: it is unwound without running another instruction of its own, and its store goes with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use nodeos::platform::{Interrupter, Meter, Now};

use super::mailbox::Mailbox;
use super::run::{LOOKS, Program, STOP_PART};
use super::{Event, Guest, GuestFault, Outcome, Refused, Sandbox, Setup};
use crate::cap::BACKGROUND;
use crate::engine::{Engine, FIBER_STACK, Metering};

/// Bytes of a fiber beside its stack, of the guard page below it, and of what is shared with its guest, at most.
const FIBER_BYTES: u64 = 12 * 1024;

/// What a sandbox needs to run its guest in slices.
pub(super) struct Background {
    pub mailbox: Arc<Mailbox>,
    meter: Arc<dyn Meter>,
    interrupter: Arc<dyn Interrupter>,
    metering: Metering,
    /// Whether the privilege has not been taken back.
    granted: bool,
}

/// An event that is not over.
pub(super) struct Fiber {
    run: Pin<Box<dyn Future<Output = Finished> + Send>>,
    /// Slices that it may still take.
    left: u32,
    /// With as many left it has taken three quarters of its time.
    near: u32,
    /// Units of a slice.
    allowance: u64,
    /// Fuel that its slices took so far.
    fuel: u64,
}

type Finished = (Program, Result<u64, (u64, GuestFault)>);

impl Background {
    /// What a fiber takes; charged at the start, because its stack stays for the next event.
    pub fn bytes(privileges: &[String]) -> u64 {
        if is_granted(privileges) { FIBER_STACK as u64 + FIBER_BYTES } else { 0 }
    }

    pub fn new(engine: &Engine, setup: &Setup, mailbox: Option<Arc<Mailbox>>) -> Option<Self> {
        Some(Self {
            mailbox: mailbox?,
            meter: setup.meter.clone(),
            interrupter: setup.interrupter.clone(),
            metering: engine.metering(),
            granted: true,
        })
    }

    pub fn keep(&mut self, privileges: &[String]) {
        self.granted &= is_granted(privileges);
    }
}

pub(super) fn is_granted(privileges: &[String]) -> bool {
    privileges.iter().any(|p| p == BACKGROUND)
}

impl Sandbox {
    /// Begins an event on a fiber, and runs its first slice.
    pub(super) fn begin(&mut self, now: Now, event: Event) -> Outcome {
        let Some(background) = &self.background else { return Outcome::ended() };
        self.held = self.stats();
        let Guest::Idle(mut program) = std::mem::replace(&mut self.guest, Guest::Gone) else {
            return Outcome::ended();
        };
        background.mailbox.open().fuel = 0;
        let last = matches!(event, Event::Stop);
        let [event_time, all] = self.time;
        let slice = if last { event_time / STOP_PART } else { event_time };
        let slices = all.as_nanos().div_ceil(slice.as_nanos().max(1)).max(1);
        let at_once = matches!(event, Event::HandOver | Event::TakeOver(_));
        program.run.store.data_mut().at_once = at_once;
        let one = last || at_once || !background.granted;
        let micros = u64::try_from(slice.as_micros()).unwrap_or(u64::MAX);
        let left = if one { 1 } else { u32::try_from(slices).unwrap_or(u32::MAX) };
        let fiber = Fiber {
            run: Box::pin(async move {
                let result = program.handle(event).await;
                (program, result)
            }),
            left,
            near: left / 4,
            allowance: micros.saturating_mul(background.meter.per_micro().max(1)).max(1),
            fuel: 0,
        };
        self.guest = Guest::Suspended(fiber);
        self.resume(now)
    }

    /// Runs the next slice of an event that is not over.
    pub fn resume(&mut self, now: Now) -> Outcome {
        let (Guest::Suspended(mut fiber), Some(background)) =
            (std::mem::replace(&mut self.guest, Guest::Gone), &self.background)
        else {
            return Outcome::ended();
        };
        let (units, polled) = background.slice(&mut fiber, now);
        let near = fiber.left <= fiber.near;
        let fault = match polled {
            Poll::Ready((program, result)) => {
                self.guest = Guest::Idle(program);
                let outcome = self.settle(result.map(|_| units).map_err(|(_, fault)| (units, fault)));
                return Outcome { near, ..outcome };
            }
            Poll::Pending if fiber.left > 1 && background.granted => {
                fiber.left -= 1;
                self.guest = Guest::Suspended(fiber);
                return Outcome { units, end: Ok(()), refused: Refused::default(), near, more: true };
            }
            Poll::Pending => GuestFault::Deadline,
        };
        self.ended = true;
        Outcome { units, end: Err(fault), refused: Refused::default(), near, more: false }
    }

    /// The flow is to be stopped: the event that is not over gets at most a part of the slices of an event.
    pub fn hasten(&mut self) {
        if let Guest::Suspended(fiber) = &mut self.guest {
            fiber.left = fiber.left.min(fiber.near.max(1));
        }
    }

    /// Whether an event is not over: [`resume`](Self::resume) goes on with it, and nothing else can run.
    pub fn is_suspended(&self) -> bool {
        matches!(self.guest, Guest::Suspended(_))
    }
}

impl Background {
    /// Runs a fiber for one slice; the units that it took.
    fn slice(&self, fiber: &mut Fiber, now: Now) -> (u64, Poll<Finished>) {
        let start = self.meter.count();
        let mut mail = self.mailbox.open();
        mail.slice += 1;
        (mail.now, mail.allowance, mail.charged) = (now, fiber.allowance, 0);
        mail.deadline = start.saturating_add(fiber.allowance);
        // Half of what can be counted, so that sums stay within it.
        mail.later = fiber.allowance.saturating_mul((fiber.left - 1).into()).min(u64::MAX / 2);
        drop(mail);
        let mut context = Context::from_waker(Waker::noop());
        if self.metering == Metering::Epoch {
            self.interrupter.arm(fiber.allowance / LOOKS);
            let polled = fiber.run.as_mut().poll(&mut context);
            self.interrupter.disarm();
            let took = self.meter.count().saturating_sub(start);
            return (took.saturating_add(self.mailbox.open().charged), polled);
        }
        let mut fuel = 0u64;
        loop {
            let polled = fiber.run.as_mut().poll(&mut context);
            let mail = self.mailbox.open();
            if polled.is_ready() {
                return (mail.fuel.saturating_sub(fiber.fuel).saturating_add(mail.charged), polled);
            }
            // A guest that was charged past a slice yields early from then on, until it is charged again.
            fuel = fuel.saturating_add(mail.interval);
            if fuel.saturating_add(mail.charged) >= fiber.allowance {
                fiber.fuel = fiber.fuel.saturating_add(fuel);
                return (fuel.saturating_add(mail.charged), polled);
            }
        }
    }
}
