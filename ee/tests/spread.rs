//! A protocol spreads: its code travels from hop to hop behind its capsules, and what goes wrong on the
//! way is repaired or refused.

mod common;

use std::time::Duration;

use common::World;
use common::guest::{answer, ask, question};
use wire::control::FlowState;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn code_spreads_behind_its_capsules() {
    let mut world = World::line(3);
    let flow = ask("ask", 77);
    let hash = world.start(0, &flow);
    assert_eq!((world.state(1, hash), world.state(2, hash)), (None, None));
    let session = world.session(0, "ask");
    world.say(0, session, &question(b'c', 1));
    world.run(SECOND);
    assert_eq!(world.heard(0, session), [answer(b'c', 77, 1)], "{:?} {:?}", world.log(1), world.log(2));
    for (node, source) in [(0, None), (1, Some("a")), (2, Some("b"))] {
        let info = world.flow(node, hash).unwrap();
        assert_eq!((info.state, info.source.as_deref()), (FlowState::Running, source));
        let bytes = if node == 0 { 0 } else { (flow.tuple.len() + flow.module.len()) as u64 };
        assert_eq!(info.arrival.bytes, bytes);
    }
    assert_eq!(world.compiled, 3);
}
