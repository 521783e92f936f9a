//! `bees flow inject`: parts and tuple to a node, then wait until the flow runs there.

use std::time::{Duration, Instant};

use anyhow::Result;
use wire::control::{FlowInfo, FlowState};

use super::Bundle;
use crate::exit::{Code, failure};
use crate::output::{bytes, progress};
use crate::remote::Remote;

/// Injects `bundle` and waits until it runs.
pub fn inject(remote: &mut Remote, bundle: &Bundle, patience: Duration) -> Result<FlowInfo> {
    let mut sent = 0;
    let hash = remote.inject(bundle, |there, _| sent = there)?;
    progress(format!("flow {hash:.8}: {} sent", bytes((sent + bundle.bytes.len()) as u64)));
    let deadline = Instant::now() + patience;
    let mut before = None;
    loop {
        let flow = remote.flows()?.into_iter().find(|f| f.hash == hash);
        match flow {
            Some(flow) if flow.state == FlowState::Running => return Ok(flow),
            Some(FlowInfo { state: FlowState::Ended(why), .. }) => {
                return Err(failure(Code::Failed, format!("flow {hash:.8} ended: {why}")));
            }
            Some(flow) => {
                if before.as_ref() != Some(&flow.state) {
                    progress(format!("flow {hash:.8}: {}", state_text(&flow.state)));
                }
                before = Some(flow.state);
            }
            None if before.is_some() => {
                return Err(failure(
                    Code::Failed,
                    format!("flow {hash:.8} is gone; `bees node log` may say why"),
                ));
            }
            None => {}
        }
        if Instant::now() > deadline {
            return Err(failure(Code::TimedOut, format!("flow {hash:.8} does not run in time")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a flow is doing, for people.
pub fn state_text(state: &FlowState) -> String {
    match state {
        FlowState::Tuple => "waiting for its tuple".into(),
        FlowState::Judging => "being judged".into(),
        FlowState::Download => "downloading its parts".into(),
        FlowState::Compile => "being compiled".into(),
        FlowState::Standby => "waiting to take over".into(),
        FlowState::Running => "running".into(),
        FlowState::Ended(why) => format!("ended: {why}"),
    }
}
