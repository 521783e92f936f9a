use super::*;
use crate::slab::Slab;
use proptest::prelude::*;
use std::collections::HashMap;

fn teams(n: usize) -> Vec<TeamId> {
    let mut slab = Slab::new(n);
    (0..n).map(|_| TeamId(slab.insert(()).unwrap())).collect()
}

fn among(among: u32) -> Shares {
    Shares { among, own: 1 }
}

/// Runs always-busy teams for `rounds` events; returns the units that each used.
fn run(shares: &[u32], costs: impl Fn(usize, u64) -> u64, rounds: u64) -> Vec<u64> {
    let ids = teams(shares.len());
    let mut scheduler = Scheduler::new();
    for (id, shares) in ids.iter().zip(shares) {
        scheduler.add(*id, None, among(*shares), 2);
        scheduler.push(*id, ()).unwrap();
    }
    let mut used = std::vec![0; shares.len()];
    for round in 0..rounds {
        let (id, ()) = scheduler.next().unwrap();
        scheduler.push(id, ()).unwrap();
        let units = costs(id.0.index(), round);
        used[id.0.index()] += units;
        scheduler.used(id, units);
    }
    used
}

#[test]
fn one_share_to_three_is_one_unit_to_three() {
    let used = run(&[100, 300], |team, _| [70, 1000][team], 20_000);
    let ratio = used[1] as f64 / used[0] as f64;
    assert!((2.99..3.01).contains(&ratio), "{ratio}");
}

/// A chain of four teams, each with an idle brother and with work of its own: every level divides what
/// it gets by the shares of those that are busy.
#[test]
fn a_tree_divides_level_by_level() {
    let ids = teams(9);
    let mut scheduler = Scheduler::new();
    let mut above = None;
    for level in 0..4 {
        let (team, brother) = (ids[2 * level], ids[2 * level + 1]);
        scheduler.add(team, above, Shares { among: 300, own: 100 }, 100);
        scheduler.add(brother, above, Shares { among: 500, own: 1 }, 100);
        above = Some(team);
    }
    // On top a competitor of one part to the chain's three.
    let rival = ids[8];
    scheduler.add(rival, None, among(100), 100);
    let busy = [ids[0], ids[2], ids[4], ids[6], rival];
    for id in busy {
        scheduler.push(id, ()).unwrap();
    }
    let mut used: HashMap<TeamId, u64> = HashMap::new();
    for round in 0..40_000u64 {
        let (id, ()) = scheduler.next().unwrap();
        scheduler.push(id, ()).unwrap();
        let units = 100 + round * 7919 % 900;
        *used.entry(id).or_default() += units;
        scheduler.used(id, units);
    }
    let sum: u64 = used.values().sum();
    // The chain has 3 of 4 parts; in it every team but the last keeps 1 of 4.
    let chain = 0.75f64;
    let parts = [chain / 4.0, chain * 0.75 / 4.0, chain * 0.75 * 0.75 / 4.0, chain * 0.75f64.powi(3), 0.25];
    for (id, part) in busy.iter().zip(parts) {
        let got = used[id] as f64 / sum as f64;
        assert!((got / part - 1.0).abs() < 0.02, "{id}: {got}, {part} is its due");
    }
}

#[test]
fn what_waits_below_waits_above() {
    let ids = teams(3);
    let mut scheduler = Scheduler::new();
    scheduler.add(ids[0], None, Shares::default(), 3);
    scheduler.add(ids[1], Some(ids[0]), Shares::default(), 9);
    scheduler.add(ids[2], Some(ids[1]), Shares::default(), 9);
    scheduler.push(ids[0], 'a').unwrap();
    scheduler.push(ids[1], 'b').unwrap();
    scheduler.push(ids[2], 'c').unwrap();
    assert_eq!(scheduler.push(ids[2], 'd'), Err(PushError::Full('d')));
    assert!(!scheduler.has_room(ids[1]));
    scheduler.lower_queue(ids[0], 9);
    assert!(!scheduler.has_room(ids[1]), "nothing is raised");
    scheduler.push_always(ids[2], 'd').unwrap();
    // Those below go along, with what waited for them.
    assert_eq!(scheduler.remove(ids[1]), ['b']);
    assert_eq!((scheduler.len(), scheduler.queued(ids[2])), (1, 0));
    scheduler.push(ids[0], 'e').unwrap();
    let order: Vec<char> = core::iter::from_fn(|| scheduler.next().map(|(_, event)| event)).collect();
    assert_eq!(order, ['a', 'e']);
    assert!(scheduler.has_room(ids[0]));
    scheduler.lower_queue(ids[0], 0);
    assert_eq!(scheduler.push(ids[0], 'f'), Err(PushError::Full('f')));
}

#[test]
fn the_idle_save_nothing_up() {
    let ids = teams(2);
    let mut scheduler = Scheduler::new();
    for id in &ids {
        scheduler.add(*id, None, among(100), 2000);
    }
    for _ in 0..1000 {
        scheduler.push(ids[0], ()).unwrap();
        let (id, ()) = scheduler.next().unwrap();
        scheduler.used(id, 1000);
    }
    for _ in 0..1000 {
        scheduler.push(ids[0], ()).unwrap();
        scheduler.push(ids[1], ()).unwrap();
    }
    let mut served = [0u32; 2];
    for _ in 0..1000 {
        let (id, ()) = scheduler.next().unwrap();
        served[id.0.index()] += 1;
        scheduler.used(id, 1000);
    }
    assert!(served[0].abs_diff(served[1]) <= 2, "{served:?}");
}

#[test]
fn a_new_team_starts_where_the_others_are() {
    let ids = teams(2);
    let mut scheduler = Scheduler::new();
    scheduler.add(ids[0], None, among(1), 10);
    for _ in 0..5 {
        scheduler.push(ids[0], ()).unwrap();
    }
    for _ in 0..3 {
        let (id, ()) = scheduler.next().unwrap();
        scheduler.used(id, u64::MAX);
    }
    scheduler.add(ids[1], None, among(1), 10);
    for _ in 0..5 {
        scheduler.push(ids[1], ()).unwrap();
    }
    let order: Vec<usize> = core::iter::from_fn(|| {
        let (id, ()) = scheduler.next()?;
        scheduler.used(id, u64::MAX);
        Some(id.0.index())
    })
    .collect();
    assert_eq!(order, [1, 0, 1, 0, 1, 1, 1]);
}

/// A light member that wakes is next, before newcomers that were there first and before those that always
/// have something to do; what it may be ahead is bounded.
#[test]
fn who_uses_little_waits_for_one_event() {
    let ids = teams(12);
    let mut scheduler = Scheduler::new();
    scheduler.set_allowance(1000);
    let (light, hog) = (ids[0], ids[1]);
    scheduler.add(light, None, among(100), 100);
    scheduler.add(hog, None, among(100), 100);
    let serve = |scheduler: &mut Scheduler<()>, units: &dyn Fn(TeamId) -> u64| {
        let (id, ()) = scheduler.next().unwrap();
        scheduler.used(id, units(id));
        id
    };
    let cost = |id: TeamId| if id == light { 10 } else { 1000 };
    for _ in 0..100 {
        scheduler.push(hog, ()).unwrap();
    }
    // The light one was new once, too.
    for _ in 0..4 {
        assert_eq!(serve(&mut scheduler, &cost), hog);
    }
    for newcomers in ids[2..].chunks(5) {
        for id in newcomers {
            scheduler.add(*id, None, among(100), 1);
            scheduler.push(*id, ()).unwrap();
        }
        for _ in 0..6 {
            assert_ne!(serve(&mut scheduler, &cost), light);
            scheduler.push(light, ()).unwrap();
            assert_eq!(serve(&mut scheduler, &cost), light);
        }
    }
    // Those that come under new names and go after one event do not get ahead, however long that goes on.
    let mut served = 0;
    for round in 0..2000 {
        let id = ids[2 + round % 10];
        scheduler.add(id, None, among(100), 1);
        scheduler.push(id, ()).unwrap();
        scheduler.push(light, ()).unwrap();
        assert_eq!(serve(&mut scheduler, &cost), light);
        served += usize::from(serve(&mut scheduler, &cost) != light);
        scheduler.remove(id);
        if scheduler.queued(hog) == 0 {
            scheduler.push(hog, ()).unwrap();
        }
    }
    assert_eq!(served, 2000);
    // Once it wants all that it can get it is ahead by the allowance and no more.
    for _ in 0..80 {
        scheduler.push(light, ()).unwrap();
        scheduler.push(hog, ()).unwrap();
    }
    let first = (0..80).map(|_| serve(&mut scheduler, &|_| 1000)).filter(|id| *id == light).count();
    assert!((40..=42).contains(&first), "{first}");
}

#[test]
fn queues_are_bounded_and_ended_teams_are_forgotten() {
    let ids = teams(2);
    let mut scheduler = Scheduler::new();
    scheduler.add(ids[0], None, among(1), 2);
    assert_eq!(scheduler.push(ids[1], 'x'), Err(PushError::NoTeam('x')));
    scheduler.push(ids[0], 'a').unwrap();
    scheduler.push(ids[0], 'b').unwrap();
    assert_eq!(scheduler.push(ids[0], 'c'), Err(PushError::Full('c')));
    assert_eq!(scheduler.remove(ids[0]), ['a', 'b']);
    assert!(scheduler.remove(ids[0]).is_empty());
    assert_eq!((scheduler.len(), scheduler.next()), (0, None));
    for _ in 0..1000 {
        scheduler.add(ids[1], None, among(1), 1);
        scheduler.push(ids[1], 'y').unwrap();
    }
    assert!(scheduler.top.busy.len() <= 1, "entries of removed teams do not pile up");
}

#[test]
fn slots_of_a_queue_are_paid_for() {
    let id = teams(1)[0];
    let mut scheduler = Scheduler::<u64>::new();
    let slot = Scheduler::<u64>::slot_bytes(1) as u64;
    let account = Account::root(12 * slot);
    scheduler.add(id, None, Shares::default(), 100);
    scheduler.charge_queue(id, &account).unwrap();
    let pushed = (0..100).take_while(|n| scheduler.push(id, *n).is_ok()).count();
    // Eight, and for a moment the four before them.
    assert_eq!((pushed, account.used(), account.peak()), (8, 8 * slot, 12 * slot));
    assert_eq!(scheduler.push(id, 8), Err(PushError::Full(8)));
    scheduler.push_always(id, 8).unwrap();
    assert_eq!(core::iter::from_fn(|| scheduler.next()).map(|(_, n)| n).collect::<Vec<_>>().len(), 9);
    scheduler.push(id, 9).unwrap();
    assert_eq!(scheduler.remove(id), [9]);
    assert_eq!(account.used(), 0);
    // Where nothing can be paid for what is due finds a slot in an empty queue, and only there.
    let poor = Account::root(0);
    scheduler.add(id, None, Shares::default(), 100);
    scheduler.charge_queue(id, &poor).unwrap();
    assert!(scheduler.push(id, 1).is_err() && scheduler.has_slot(id));
    scheduler.push_always(id, 1).unwrap();
    assert!(!scheduler.has_slot(id) && scheduler.next() == Some((id, 1)) && scheduler.has_slot(id));
    // A rush leaves nothing behind.
    let account = Account::root(1 << 20);
    scheduler.add(id, None, Shares::default(), 1000);
    scheduler.charge_queue(id, &account).unwrap();
    (0..1000).for_each(|n| scheduler.push(id, n).unwrap());
    assert!(account.used() >= 1000 * slot);
    while scheduler.next().is_some() {}
    assert_eq!(account.used(), 0);
}

proptest! {
    /// Whatever events cost, always-busy teams get work in proportion to their shares, to within a
    /// few of the costliest events.
    #[test]
    fn work_follows_shares(shares in proptest::collection::vec(1u32..50, 2..6), seed in any::<u64>()) {
        let cost = |team: usize, round: u64| {
            let mix = (seed ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(team as u32 + 7);
            1 + mix % 1000
        };
        let used = run(&shares, cost, 30_000);
        let per_share: Vec<f64> = used.iter().zip(&shares).map(|(u, s)| *u as f64 / f64::from(*s)).collect();
        let (low, high) = per_share.iter().fold((f64::MAX, 0f64), |(l, h), v| (l.min(*v), h.max(*v)));
        prop_assert!(high - low <= 2000.0, "{per_share:?}");
    }

    /// In any tree, members that are always busy get work by their shares: every team's part is what
    /// its ancestors leave it.
    #[test]
    fn work_follows_the_tree(
        parents in proptest::collection::vec(any::<prop::sample::Index>(), 1..7),
        shares in proptest::collection::vec((1u32..20, 1u32..20), 8),
        seed in any::<u64>(),
    ) {
        let n = parents.len() + 1;
        let ids = teams(n);
        let mut scheduler = Scheduler::new();
        // The parent of each team is one before it; the first has none.
        let above: Vec<Option<usize>> =
            core::iter::once(None).chain(parents.iter().enumerate().map(|(at, p)| Some(p.index(at + 1)))).collect();
        for at in 0..n {
            let (among, own) = shares[at];
            scheduler.add(ids[at], above[at].map(|p| ids[p]), Shares { among, own }, 99);
            scheduler.push(ids[at], ()).unwrap();
        }
        let mut part = std::vec![1.0f64; n];
        for at in 0..n {
            let siblings = |p: usize| (0..n).filter(|c| above[*c] == Some(p)).map(|c| shares[c].0).sum::<u32>();
            if let Some(p) = above[at] {
                // What the parent was left for all of its members, itself included.
                part[at] = part[p] * f64::from(shares[at].0) / f64::from(shares[p].1 + siblings(p));
            }
        }
        let own = |at: usize| {
            let children = (0..n).filter(|c| above[*c] == Some(at)).map(|c| shares[c].0).sum::<u32>();
            if children == 0 { part[at] } else { part[at] * f64::from(shares[at].1) / f64::from(shares[at].1 + children) }
        };
        let mut used = std::vec![0u64; n];
        for round in 0..60_000u64 {
            let (id, ()) = scheduler.next().unwrap();
            scheduler.push(id, ()).unwrap();
            let units = 1 + (seed ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1000;
            used[id.0.index()] += units;
            scheduler.used(id, units);
        }
        let sum: u64 = used.iter().sum();
        for (at, used) in used.into_iter().enumerate() {
            let error = used as f64 - own(at) * sum as f64;
            // A few of the costliest events on each level.
            prop_assert!(error.abs() < 1000.0 * 2.0 * n as f64, "{at}: {error} of {sum}, tree {above:?} {shares:?}");
        }
    }

    /// Whoever is held back waits, in whatever tree, and nobody else does.
    #[test]
    fn only_who_is_held_back_waits(
        parents in proptest::collection::vec(any::<prop::sample::Index>(), 1..7),
        ops in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8, 0u64..100), 1..300),
    ) {
        let n = parents.len() + 1;
        let ids = teams(n);
        let mut scheduler = Scheduler::new();
        let mut model: Vec<(VecDeque<usize>, bool)> = std::vec![Default::default(); n];
        for at in 0..n {
            let above = at.checked_sub(1).map(|p| ids[parents[p].index(at)]);
            scheduler.add(ids[at], above, Shares { among: 1 + at as u32, own: 7 }, 1000);
        }
        for (number, (at, op, units)) in ops.into_iter().enumerate() {
            let at = at.index(n);
            match op {
                0..=2 => {
                    scheduler.push(ids[at], number).unwrap();
                    model[at].0.push_back(number);
                }
                3..=5 => {
                    let how = if op == 3 { Scheduler::hold } else { Scheduler::release };
                    how(&mut scheduler, ids[at]);
                    model[at].1 = op == 3;
                }
                _ => match scheduler.next() {
                    Some((id, event)) => {
                        let (queue, held) = &mut model[id.0.index()];
                        prop_assert!(!*held);
                        prop_assert_eq!(queue.pop_front(), Some(event));
                        scheduler.used(id, units);
                    }
                    None => prop_assert!(model.iter().all(|(queue, held)| *held || queue.is_empty())),
                },
            }
            let busy = model.iter().filter(|(queue, held)| !held && !queue.is_empty()).count();
            prop_assert_eq!(scheduler.busy(), busy);
        }
        ids.iter().for_each(|id| scheduler.release(*id));
        let left: usize = model.iter().map(|(queue, _)| queue.len()).sum();
        prop_assert_eq!(scheduler.len(), left);
        prop_assert_eq!(core::iter::from_fn(|| scheduler.next()).count(), left);
    }

    /// Events come out once, in order within their team, and the counts agree.
    #[test]
    fn nothing_is_lost_or_reordered(ops in proptest::collection::vec((0usize..5, 0u8..7, 0u64..100), 1..400)) {
        let ids = teams(5);
        let mut scheduler = Scheduler::new();
        let mut model: HashMap<TeamId, VecDeque<u64>> = HashMap::new();
        for (n, (team, op, units)) in (0u64..).zip(ops) {
            let id = ids[team];
            match op {
                0 => {
                    scheduler.add(id, None, among(1 + team as u32), 4);
                    model.insert(id, VecDeque::new());
                }
                1 => {
                    let left = scheduler.remove(id);
                    prop_assert_eq!(left, model.remove(&id).unwrap_or_default());
                }
                2 | 3 => match (scheduler.push(id, n), model.get_mut(&id)) {
                    (Ok(()), Some(queue)) => queue.push_back(n),
                    (Err(PushError::Full(_)), Some(queue)) => prop_assert!(queue.len() >= 4),
                    (Err(PushError::NoTeam(_)), None) => (),
                    (other, _) => prop_assert!(false, "{:?}", other),
                },
                4 => scheduler.used(id, units),
                5 => match (scheduler.put_back(id, n), model.get_mut(&id)) {
                    (Ok(()), Some(queue)) => queue.push_front(n),
                    (Err(PushError::NoTeam(_)), None) => (),
                    (other, _) => prop_assert!(false, "{:?}", other),
                },
                _ => match scheduler.next() {
                    Some((id, event)) => prop_assert_eq!(model.get_mut(&id).and_then(VecDeque::pop_front), Some(event)),
                    None => prop_assert!(model.values().all(VecDeque::is_empty)),
                },
            }
            prop_assert_eq!(scheduler.len(), model.values().map(VecDeque::len).sum::<usize>());
            prop_assert_eq!(scheduler.busy(), model.values().filter(|queue| !queue.is_empty()).count());
            prop_assert_eq!(scheduler.queued(id), model.get(&id).map_or(0, VecDeque::len));
        }
    }
}

/// However often it is asked who has the most waiting, and whatever happens in between, what is remembered for that
/// stays in proportion to the teams.
#[test]
fn what_is_remembered_of_lengths_is_bounded() {
    let ids = teams(40);
    let mut scheduler = Scheduler::new();
    for (at, id) in ids.iter().enumerate() {
        // The last ten are below the first.
        let parent = (at >= 30).then_some(ids[0]);
        scheduler.add(*id, parent, Shares::default(), usize::MAX);
    }
    let mut most = 0;
    for n in 0..40_000usize {
        let id = ids[n * 7919 % 40];
        for _ in 0..n % 5 {
            scheduler.push(id, n).unwrap();
        }
        most = most.max(scheduler.top.lengths.as_ref().map_or(0, |lengths| lengths.len()));
        match n % 7 {
            0..3 => drop(scheduler.push_out()),
            3 => scheduler.hold(id),
            4 => scheduler.release(id),
            _ => (0..n % 3).for_each(|_| {
                if let Some((team, _)) = scheduler.next() {
                    scheduler.used(team, 100);
                }
            }),
        }
        if n % 50 == 0 {
            while scheduler.len() > 100 {
                assert!(scheduler.push_out().is_some() || scheduler.busy() == 0);
                ids.iter().for_each(|id| scheduler.release(*id));
            }
        }
    }
    let inside = scheduler.teams[ids[0].0.index()].as_ref().unwrap().group.as_ref().unwrap();
    for group in [&scheduler.top, inside] {
        let listed = group.lengths.as_ref().map_or(0, |lengths| lengths.len());
        assert!(listed <= 2 * 40 + REPLACED, "{listed} entries");
    }
    assert!((41..=2 * 40 + REPLACED).contains(&most), "{most} entries");
}
