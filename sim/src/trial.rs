//! A protocol on trial: its built module on the nodes of a simulated lab, and what programs say to it and hear.
//!
//! ```no_run
//! # fn main() -> Result<(), sim::trial::TrialError> {
//! use sim::{lab::Lab, trial::Trial};
//!
//! let mut trial = Trial::start(&Lab::line(3), &std::fs::read("target/capsules/hello.wasm").unwrap())?;
//! let found = trial.ask("n1", "find", "done")?;
//! assert!(found.last().unwrap().ends_with("complete"));
//! # Ok(()) }
//! ```
//!
//! The flow is injected at the lab's first node; it comes to the others as its capsules do. [`script`] does the
//! same from a text file, for `bees protocol test`.

pub mod script;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use wire::control::{Answer, FlowInfo, FlowState, Request};
use wire::id::TupleHash;
use wire::tuple::{Body, Credentials, Part, Protocol, Tuple};

use crate::lab::Lab;
use crate::{Options, Session, Sim, SimError};

/// How long something may take that should happen at once, in virtual time.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What went wrong on trial.
#[derive(Debug)]
pub enum TrialError {
    /// The module is none that a node would run. Its author erred.
    Module(String),
    /// The lab has no node of this name.
    Node(String),
    /// The flow does not run on a node, and how it stands there.
    Flow {
        /// The node's name.
        node: String,
        /// What the flow does there instead, and how it failed.
        why: String,
    },
    /// A program did not hear what it waited for.
    Silence {
        /// The node's name.
        node: String,
        /// What it waited for.
        wanted: String,
        /// What it heard instead, or how the flow failed.
        why: String,
    },
    /// The simulator refused something.
    Sim(SimError),
}

impl fmt::Display for TrialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(why) => write!(f, "a node would not run the module: {why}"),
            Self::Node(name) => write!(f, "the lab has no node {name}"),
            Self::Flow { node, why } => write!(f, "the flow does not run at {node}: {why}"),
            Self::Silence { node, wanted, why } => {
                write!(f, "the program at {node} waited for \"{wanted}\": {why}")
            }
            Self::Sim(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for TrialError {}

impl From<SimError> for TrialError {
    fn from(e: SimError) -> Self {
        Self::Sim(e)
    }
}

/// The tuple of a module as the module describes itself; with another nonce it is another flow.
pub fn tuple(module: &[u8], nonce: u8) -> Result<Vec<u8>, TrialError> {
    let body = Body::new([nonce; 16], vec![protocol(module)?]);
    Ok(Tuple { body, credentials: Credentials::None }.encode())
}

/// A module's protocol as the module describes itself; who serves the interfaces of its companions is open.
pub fn protocol(module: &[u8]) -> Result<Protocol, TrialError> {
    let admitted = ee::admit::admit(module).map_err(|e| TrialError::Module(e.to_string()))?;
    let undescribed = || TrialError::Module("it has no section that describes it".into());
    let description = admitted.description.ok_or_else(undescribed)?;
    let code = Part::of(module).ok_or_else(|| TrialError::Module("it is too long".into()))?;
    Ok(Protocol {
        capsules: description.capsules,
        events: description.events,
        session: description.session,
        params: description.params,
        companions: description.companions,
        ..Protocol::new(&description.name, code)
    })
}

/// A flow in a simulated lab, and a program beside each node that may talk to it.
pub struct Trial {
    sim: Sim,
    names: Vec<String>,
    flow: TupleHash,
    programs: Vec<Program>,
}

/// A program beside a node.
#[derive(Default)]
struct Program {
    session: Option<Session>,
    heard: VecDeque<String>,
}

impl Trial {
    /// Makes the lab and injects the module at its first node, with everything as the module describes it.
    pub fn start(lab: &Lab, module: &[u8]) -> Result<Self, TrialError> {
        let tuple = tuple(module, 1)?;
        let mut sim = Sim::new(lab, 1, Options::default())?;
        let names: Vec<String> = lab.nodes.iter().map(|node| node.name.clone()).collect();
        let flow = sim.inject(0, &tuple, &[module])?;
        let programs = names.iter().map(|_| Program::default()).collect();
        let mut trial = Self { sim, names, flow, programs };
        trial.open_at(0)?;
        Ok(trial)
    }

    /// Opens a session at a node, as soon as the flow runs there; whoever says something does so by itself.
    pub fn open(&mut self, node: &str) -> Result<(), TrialError> {
        let at = self.at(node)?;
        self.open_at(at).map(|_| ())
    }

    /// A program says a line.
    pub fn say(&mut self, node: &str, line: &str) -> Result<(), TrialError> {
        let at = self.at(node)?;
        let session = self.open_at(at)?;
        Ok(self.sim.send(session, line.as_bytes())?)
    }

    /// A program waits for a line that contains `text`, at most [`PATIENCE`]; the lines up to it, that one last.
    pub fn hear(&mut self, node: &str, text: &str) -> Result<Vec<String>, TrialError> {
        self.wait_for(node, text, |line| line.contains(text))
    }

    /// A program says a line and waits for one that begins with `end`; the answer with that line.
    pub fn ask(&mut self, node: &str, line: &str, end: &str) -> Result<Vec<String>, TrialError> {
        self.say(node, line)?;
        self.wait_for(node, end, |line| line.starts_with(end))
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        self.sim.run_for(time);
    }

    /// How the flow stands on a node, if the node knows it.
    pub fn flow(&mut self, node: &str) -> Result<Option<FlowInfo>, TrialError> {
        let at = self.at(node)?;
        self.flow_at(at)
    }

    /// The simulation, for faults of links and nodes.
    pub fn sim(&mut self) -> &mut Sim {
        &mut self.sim
    }

    fn wait_for(
        &mut self,
        node: &str,
        wanted: &str,
        is_it: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, TrialError> {
        let at = self.at(node)?;
        let session = self.open_at(at)?;
        let mut told: Vec<String> = Vec::new();
        let program = &mut self.programs[at];
        let come = self.sim.run_until(PATIENCE, |sim| {
            let new = sim.received(session).unwrap_or_default();
            program.heard.extend(new.iter().map(|packet| String::from_utf8_lossy(packet).into_owned()));
            while let Some(line) = program.heard.pop_front() {
                told.push(line);
                if told.last().is_some_and(|line| is_it(line)) {
                    return true;
                }
            }
            false
        });
        if come {
            return Ok(told);
        }
        let stands = self.stands(at)?;
        let heard = if told.is_empty() { "it heard nothing".into() } else { format!("it heard {told:?}") };
        Err(TrialError::Silence {
            node: node.into(),
            wanted: wanted.into(),
            why: format!("{heard}; {stands}"),
        })
    }

    fn open_at(&mut self, at: usize) -> Result<Session, TrialError> {
        if let Some(session) = self.programs[at].session {
            return Ok(session);
        }
        let (name, mut opened) = (self.flow.to_string(), None);
        self.sim.run_until(PATIENCE, |sim| {
            opened = sim.session(at, &name).ok();
            opened.is_some()
        });
        let Some(session) = opened else {
            return Err(TrialError::Flow { node: self.names[at].clone(), why: self.stands(at)? });
        };
        self.programs[at].session = Some(session);
        Ok(session)
    }

    /// What the flow does on a node, and how it failed there.
    fn stands(&mut self, at: usize) -> Result<String, TrialError> {
        let Some(flow) = self.flow_at(at)? else { return Ok("the flow never came here".into()) };
        let state = match flow.state {
            FlowState::Ended(why) => format!("the flow ended: {why}"),
            FlowState::Running => "the flow runs".into(),
            other => format!("the flow is at {other:?}"),
        };
        Ok(state)
    }

    fn flow_at(&mut self, at: usize) -> Result<Option<FlowInfo>, TrialError> {
        let Answer::Flows(page) = self.sim.control(at, Request::FlowShow { from: 0 })? else {
            return Ok(None);
        };
        Ok(page.items.into_iter().rfind(|flow| flow.hash == self.flow))
    }

    fn at(&self, node: &str) -> Result<usize, TrialError> {
        let at = self.names.iter().position(|name| name == node);
        at.ok_or_else(|| TrialError::Node(node.into()))
    }
}
