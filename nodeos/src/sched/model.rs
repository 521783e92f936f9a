//! What the scheduler should do, written down plainly: no heap, no entries that are put right later, every choice a
//! look at all members. A random run of the scheduler is compared with it step by step.

use super::*;
use crate::slab::Slab;
use alloc::format;
use alloc::string::String;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A team, and what competes in it.
#[derive(Debug)]
struct Node {
    parent: Option<TeamId>,
    shares: Shares,
    limit: usize,
    queue: VecDeque<u64>,
    /// Its own events do not run.
    held: bool,
    /// Its pass among its parent's members.
    pass: u128,
    /// While it has children: the pass of its own events, and of whoever was served last in it.
    inside: Option<(u128, u128)>,
}

#[derive(Debug, Default)]
struct Model {
    nodes: BTreeMap<TeamId, Node>,
    /// The pass of whoever was served last among those without a parent.
    at: u128,
    allowance: u64,
}

/// By how much so many units move a pass.
fn stride(units: u64, shares: u32) -> u128 {
    u128::from(units) * u128::from(STRIDE / u64::from(shares.max(1)))
}

/// No event is free.
fn grown(pass: u128, units: u64, shares: u32) -> u128 {
    pass + stride(units.max(1), shares)
}

impl Model {
    fn children(&self, of: Option<TeamId>) -> impl Iterator<Item = TeamId> {
        self.nodes.iter().filter(move |(_, n)| n.parent == of).map(|(id, _)| *id)
    }

    /// Events in a team and below it.
    fn pending(&self, team: TeamId) -> usize {
        self.nodes[&team].queue.len()
            + self.children(Some(team)).map(|child| self.pending(child)).sum::<usize>()
    }

    /// Of these: those that may run.
    fn ready(&self, team: TeamId) -> usize {
        self.own_ready(team) + self.children(Some(team)).map(|child| self.ready(child)).sum::<usize>()
    }

    fn own_ready(&self, team: TeamId) -> usize {
        let node = &self.nodes[&team];
        if node.held { 0 } else { node.queue.len() }
    }

    fn at(&self, group: Option<TeamId>) -> u128 {
        group.map_or(self.at, |team| self.nodes[&team].inside.map_or(0, |(_, at)| at))
    }

    fn path(&self, team: TeamId) -> Vec<TeamId> {
        let mut path: Vec<_> = core::iter::successors(Some(team), |team| self.nodes[team].parent).collect();
        path.reverse();
        path
    }

    fn add(&mut self, team: TeamId, parent: Option<TeamId>, shares: Shares, limit: usize) {
        self.remove(team);
        let parent = parent.filter(|parent| self.nodes.contains_key(parent));
        if let Some(above) = parent.and_then(|parent| self.nodes.get_mut(&parent)) {
            above.inside.get_or_insert((0, 0));
        }
        // Who is new comes later.
        let pass = self.at(parent) + stride(self.allowance, shares.among);
        let node = Node { parent, shares, limit, queue: VecDeque::new(), held: false, pass, inside: None };
        self.nodes.insert(team, node);
    }

    fn remove(&mut self, team: TeamId) -> VecDeque<u64> {
        for child in self.children(Some(team)).collect::<Vec<_>>() {
            self.remove(child);
        }
        let Some(node) = self.nodes.remove(&team) else { return VecDeque::new() };
        if let Some(above) = node.parent
            && self.children(Some(above)).next().is_none()
            && let Some(above) = self.nodes.get_mut(&above)
        {
            above.inside = None;
        }
        node.queue
    }

    fn has_room(&self, team: TeamId) -> bool {
        self.path(team).iter().all(|team| self.pending(*team) < self.nodes[team].limit)
    }

    /// Something of a team may run now: whoever of those above it had nothing to do starts no lower than where the
    /// others are, less the allowance.
    fn wake(&mut self, team: TeamId) {
        let allowance = self.allowance;
        let woken = |pass: u128, at: u128, shares| pass.max(at.saturating_sub(stride(allowance, shares)));
        for member in self.path(team) {
            let (at, idle) = (self.at(self.nodes[&member].parent), self.ready(member) == 0);
            if let Some(node) = self.nodes.get_mut(&member).filter(|_| idle) {
                node.pass = woken(node.pass, at, node.shares.among);
            }
        }
        let idle = self.own_ready(team) == 0;
        if let Some(node) = self.nodes.get_mut(&team).filter(|_| idle) {
            node.inside = node.inside.map(|(own, at)| (woken(own, at, node.shares.own), at));
        }
    }

    fn put(&mut self, team: TeamId, event: u64, in_front: bool) {
        if !self.nodes[&team].held {
            self.wake(team);
        }
        let Some(node) = self.nodes.get_mut(&team) else { return };
        if in_front { node.queue.push_front(event) } else { node.queue.push_back(event) }
    }

    fn hold(&mut self, team: TeamId, held: bool) {
        let Some(node) = self.nodes.get(&team) else { return };
        if node.held && !held && !node.queue.is_empty() {
            self.wake(team);
        }
        self.nodes.entry(team).and_modify(|node| node.held = held);
    }

    /// Whether it is this team that loses its newest event: on each level nobody has more waiting that may run. Takes
    /// it out.
    fn push_out(&mut self, team: TeamId) -> Result<u64, String> {
        let mut group = None;
        for member in self.path(team).into_iter().map(Some).chain([None]) {
            let own = group.map_or(0, |team| self.own_ready(team));
            let most = self.children(group).map(|child| self.ready(child)).fold(own, usize::max);
            let has = match member {
                Some(member) => self.ready(member),
                None if self.nodes[&team].inside.is_some() => own,
                None => break,
            };
            if has < most {
                return Err(format!("in {group:?}: {member:?} has {has}, another {most}"));
            }
            group = member;
        }
        let node = self.nodes.get_mut(&team).ok_or("no such team")?;
        node.queue.pop_back().ok_or_else(|| "no event".into())
    }

    /// Whether giving this team the next turn is right: on each level nobody who has something to do has a lower
    /// pass. Takes the event out.
    fn serve(&mut self, team: TeamId) -> Result<u64, String> {
        let mut group = None;
        for member in self.path(team).into_iter().map(Some).chain([None]) {
            let own = group.and_then(|team| self.nodes[&team].inside.filter(|_| self.own_ready(team) > 0));
            let busy = self.children(group).filter(|child| self.ready(*child) > 0);
            let passes = busy.map(|child| self.nodes[&child].pass).chain(own.map(|(own, _)| own));
            let lowest = passes.min();
            let chosen = match member {
                Some(member) => Some(self.nodes[&member].pass),
                // The team's own events, where they compete with others.
                None if self.nodes[&team].inside.is_some() => own.map(|(own, _)| own),
                None => break,
            };
            if chosen != lowest {
                return Err(format!("in {group:?}: {member:?} has {chosen:?}, the lowest is {lowest:?}"));
            }
            let served = chosen.unwrap_or(0);
            match group.and_then(|team| self.nodes.get_mut(&team)) {
                None => self.at = self.at.max(served),
                Some(node) => node.inside = node.inside.map(|(own, at)| (own, at.max(served))),
            }
            group = member;
        }
        let node = self.nodes.get_mut(&team).ok_or("no such team")?;
        node.queue.pop_front().ok_or_else(|| "no event".into())
    }

    fn used(&mut self, team: TeamId, units: u64) {
        if let Some(node) = self.nodes.get_mut(&team) {
            node.inside = node.inside.map(|(own, at)| (grown(own, units, node.shares.own), at));
        }
        for member in if self.nodes.contains_key(&team) { self.path(team) } else { Vec::new() } {
            if let Some(node) = self.nodes.get_mut(&member) {
                node.pass = grown(node.pass, units, node.shares.among);
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Add {
        parent: Option<usize>,
        among: u32,
        own: u32,
        limit: usize,
    },
    Remove,
    Push,
    Always,
    Shares {
        among: u32,
        own: u32,
    },
    Late {
        units: u64,
    },
    /// Its own events run no more, or again.
    Hold(bool),
    /// The newest event of the longest queue goes.
    PushOut,
    /// Of three of its own events one goes, or none, or all.
    Withdraw(u64),
    /// The next event, and what it costs; whether it is put back as one that is not over.
    Serve {
        units: u64,
        back: bool,
    },
}

const TEAMS: usize = 8;

fn ops() -> impl Strategy<Value = Vec<(usize, Op)>> {
    let shares = || (0u32..40, 0u32..40);
    let op = prop_oneof![
        2 => (proptest::option::of(0..TEAMS), shares(), 1usize..9)
            .prop_map(|(parent, (among, own), limit)| Op::Add { parent, among, own, limit }),
        1 => Just(Op::Remove),
        8 => Just(Op::Push),
        2 => Just(Op::Always),
        1 => shares().prop_map(|(among, own)| Op::Shares { among, own }),
        1 => (0u64..5000).prop_map(|units| Op::Late { units }),
        2 => proptest::bool::ANY.prop_map(Op::Hold),
        1 => Just(Op::PushOut),
        1 => (0u64..5).prop_map(Op::Withdraw),
        9 => (0u64..5000, proptest::bool::weighted(0.2)).prop_map(|(units, back)| Op::Serve { units, back }),
    ];
    proptest::collection::vec((0..TEAMS, op), 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    /// Every choice that the scheduler makes is one that the model allows, and unless two members are level there
    /// is only one; queues, bounds and counts are the same.
    #[test]
    fn every_choice_is_the_models(ops in ops(), allowance in prop_oneof![Just(0), 0u64..20_000]) {
        let mut slab = Slab::new(TEAMS);
        let ids: Vec<TeamId> = (0..TEAMS).map(|_| TeamId(slab.insert(()).unwrap())).collect();
        let (mut scheduler, mut model) = (Scheduler::new(), Model { allowance, ..Model::default() });
        scheduler.set_allowance(allowance);
        for (event, (team, op)) in (0u64..).zip(ops) {
            let id = ids[team];
            match op {
                Op::Add { parent, among, own, limit } => {
                    // A parent is made before its children and has a lower number, so that there is no circle.
                    let parent = parent.filter(|parent| *parent < team).map(|parent| ids[parent]);
                    scheduler.add(id, parent, Shares { among, own }, limit);
                    model.add(id, parent, Shares { among, own }, limit);
                }
                Op::Remove => prop_assert_eq!(scheduler.remove(id), model.remove(id)),
                Op::Push | Op::Always => {
                    let there = model.nodes.contains_key(&id);
                    let fits = there && (matches!(op, Op::Always) || model.has_room(id));
                    let pushed = match op {
                        Op::Always => scheduler.push_always(id, event),
                        _ => scheduler.push(id, event),
                    };
                    prop_assert_eq!(pushed.is_ok(), fits);
                    if fits { model.put(id, event, false); }
                }
                Op::Shares { among, own } => {
                    scheduler.set_shares(id, Shares { among, own });
                    model.nodes.entry(id).and_modify(|node| node.shares = Shares { among, own });
                }
                Op::Late { units } => {
                    scheduler.used(id, units);
                    model.used(id, units);
                }
                Op::Hold(held) => {
                    if held { scheduler.hold(id) } else { scheduler.release(id) }
                    model.hold(id, held);
                }
                Op::PushOut => match scheduler.push_out() {
                    Some((who, got)) => prop_assert_eq!(model.push_out(who), Ok(got)),
                    None => prop_assert!(model.nodes.keys().all(|id| model.own_ready(*id) == 0)),
                },
                Op::Withdraw(which) => {
                    let goes = |event: &u64| which == 4 || event % 3 == which;
                    let its = model.nodes.get_mut(&id).map(|node| &mut node.queue);
                    let gone: Vec<u64> = its.iter().flat_map(|q| q.iter().copied().filter(|e| goes(e))).collect();
                    its.into_iter().for_each(|queue| queue.retain(|event| !goes(event)));
                    prop_assert_eq!(scheduler.withdraw(id, goes), gone);
                }
                Op::Serve { units, back } => match scheduler.next() {
                    Some((who, got)) => {
                        prop_assert_eq!(model.serve(who), Ok(got));
                        scheduler.used(who, units);
                        model.used(who, units);
                        if back {
                            scheduler.put_back(who, got).unwrap();
                            model.put(who, got, true);
                        }
                    }
                    None => prop_assert!(model.nodes.keys().all(|id| model.own_ready(*id) == 0)),
                },
            }
            prop_assert_eq!(scheduler.len(), model.nodes.values().map(|n| n.queue.len()).sum::<usize>());
            prop_assert_eq!(scheduler.busy(), model.nodes.keys().filter(|id| model.own_ready(**id) > 0).count());
            prop_assert!(model.nodes.keys().all(|id| scheduler.has_room(*id) == model.has_room(*id)));
            prop_assert!(model.nodes.keys().all(|id| scheduler.pending(*id) == model.pending(*id)));
        }
    }
}
