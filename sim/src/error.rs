//! What can go wrong with a simulation, and who erred.

use std::fmt;

use ee::config::ConfigError;
use ee::engine::EngineError;
use ee::node::SessionError;
use wire::control::ControlError;

use crate::lab::LabError;

/// A simulation was not made, or a node did not do what it was asked.
#[derive(Debug)]
pub enum SimError {
    /// The lab cannot be used. The operator erred.
    Lab(LabError),
    /// A node does not take its configuration. The operator erred.
    Config {
        /// The node's name.
        node: String,
        /// What is wrong.
        error: ConfigError,
    },
    /// The engine does not start.
    Engine(EngineError),
    /// The node has crashed and was not restarted, or there is no such node.
    Down(usize),
    /// The node refused a request.
    Refused(ControlError),
    /// The session was refused or is over.
    Session(SessionError),
}

impl fmt::Display for SimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lab(e) => write!(f, "lab: {e}"),
            Self::Config { node, error } => write!(f, "node {node}: {error}"),
            Self::Engine(e) => e.fmt(f),
            Self::Down(node) => write!(f, "node number {node} does not run"),
            Self::Refused(e) => e.fmt(f),
            Self::Session(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for SimError {}

impl From<LabError> for SimError {
    fn from(e: LabError) -> Self {
        Self::Lab(e)
    }
}

impl From<EngineError> for SimError {
    fn from(e: EngineError) -> Self {
        Self::Engine(e)
    }
}

impl From<SessionError> for SimError {
    fn from(e: SessionError) -> Self {
        Self::Session(e)
    }
}
