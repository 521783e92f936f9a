use super::*;
use core::time::Duration;
use proptest::prelude::*;
use std::collections::HashMap;
use wire::budget::Kind;

use crate::link::LinkId;

const NOW: Instant = Instant(0);

fn budget(memory: u64) -> Budget {
    Budget {
        memory,
        event: Duration::from_millis(2),
        rate: 1_000_000,
        burst: 3000,
        queue: 8,
        timers: 4,
        cache_entries: 16,
        sessions: 2,
        ..Budget::UNLIMITED
    }
}

fn create(teams: &mut Teams, parent: TeamId, name: &str, budget: Budget) -> Result<TeamId, CreateError> {
    teams.create(NOW, parent, name, budget, Donated::NOTHING)
}

fn create_top(teams: &mut Teams, name: &str, budget: Budget) -> Result<TeamId, CreateError> {
    create(teams, teams.root(), name, budget)
}

#[test]
fn ending_a_team_ends_its_children_and_gives_everything_back() {
    let mut teams = Teams::new(budget(1 << 20), 8, 2).unwrap();
    let root = teams.root();
    let idle = teams.get(root).unwrap().account().used();
    let a = create(&mut teams, root, "a", budget(1 << 16)).unwrap();
    let b = create(&mut teams, a, "b", budget(1 << 16)).unwrap();
    let c = create(&mut teams, b, "c", budget(1 << 15)).unwrap();
    let other = create(&mut teams, root, "other", budget(1 << 16)).unwrap();
    let held = teams.get(c).unwrap().account().charge(30_000).unwrap();
    assert!(teams.get(a).unwrap().account().used() > 30_000);
    assert_eq!(teams.end(NOW, a), [c, b, a]);
    assert!(teams.get(c).is_none() && teams.get(other).is_some());
    assert_eq!(create(&mut teams, b, "late", budget(1)), Err(CreateError::NoParent));
    assert!(teams.end(NOW, a).is_empty() && teams.end(NOW, root).is_empty());
    drop(held);
    teams.end(NOW, other);
    assert_eq!(teams.get(root).unwrap().account().used(), idle);
    assert!(teams.is_empty());
}

#[test]
fn count_depth_and_memory_are_bounded() {
    let mut teams = Teams::new(budget(1 << 20), 20, 2).unwrap();
    let mut parent = teams.root();
    for _ in 0..MAX_DEPTH {
        parent = create(&mut teams, parent, "nested", budget(1 << 16)).unwrap();
    }
    assert_eq!(create(&mut teams, parent, "too deep", budget(1 << 16)), Err(CreateError::TooDeep));
    assert!(matches!(
        create_top(&mut teams, "poor", budget(10)),
        Err(CreateError::Poor(Resource::Memory, _))
    ));
    while teams.len() < teams.limit() {
        create_top(&mut teams, "x", budget(1 << 16)).unwrap();
    }
    assert_eq!(create_top(&mut teams, "y", budget(1 << 16)), Err(CreateError::TooMany));
}

#[test]
fn children_share_their_parents_memory() {
    let mut teams = Teams::new(budget(1 << 20), 8, 2).unwrap();
    let parent = create_top(&mut teams, "parent", budget(21_000)).unwrap();
    let a = create(&mut teams, parent, "a", budget(21_000)).unwrap();
    let b = create(&mut teams, parent, "b", budget(21_000)).unwrap();
    let _held = teams.get(a).unwrap().account().charge(12_000).unwrap();
    assert!(teams.get(b).unwrap().account().charge(10_000).is_err());
}

#[test]
fn a_parent_lacks_what_it_donated_until_the_child_ends() {
    let all = Budget { teams: 3, teams_total: 4, compile: Duration::from_secs(1), ..budget(1 << 20) };
    let mut teams = Teams::new(all, 8, 2).unwrap();
    let root = teams.root();
    let part = Budget { memory: 1 << 18, timers: 3, compile: Duration::from_millis(600), shares: 250, ..all };
    let part = Budget { teams: 1, teams_total: 2, rate: 600_000, ..part };
    let child = teams.create(NOW, root, "child", part, Donated::ALL).unwrap();
    let left = |teams: &Teams, resource| teams.get(root).unwrap().accounts().of(resource).unwrap().left();
    assert_eq!((left(&teams, Resource::Timers), left(&teams, Resource::Compile)), (1, 400_000));
    assert_eq!(teams.get(root).unwrap().shares().own, 750);
    // One place is the child's own, one was donated to it.
    assert_eq!((left(&teams, Resource::Teams), left(&teams, Resource::TeamsTotal)), (1, 1));
    let refused = |part: Budget, donated: Resource| {
        let mut copy = Teams::new(all, 8, 2).unwrap();
        let root = copy.root();
        let first = Budget { rate: 600_000, shares: 250, ..part };
        copy.create(NOW, root, "first", first, Donated::NOTHING.and(donated)).unwrap();
        matches!(
            copy.create(NOW, root, "second", part, Donated::NOTHING.and(donated)),
            Err(CreateError::Poor(resource, _)) if resource == donated
        )
    };
    assert!(refused(Budget { timers: 3, ..part }, Resource::Timers));
    assert!(refused(Budget { rate: 400_001, ..part }, Resource::Rate));
    assert!(refused(Budget { shares: 750, ..part }, Resource::Processor));

    let account =
        |teams: &Teams, id, resource| teams.get(id).unwrap().accounts().of(resource).unwrap().clone();
    account(&teams, child, Resource::Compile).spend(100_000).unwrap();
    let memory = account(&teams, child, Resource::Memory);
    let held = memory.charge(1000).unwrap();
    assert_eq!(teams.end(NOW, child), [child]);
    // What was spent is gone, all else is back; memory when the last byte is.
    assert_eq!((left(&teams, Resource::Timers), left(&teams, Resource::Compile)), (4, 900_000));
    assert_eq!((left(&teams, Resource::Teams), left(&teams, Resource::TeamsTotal)), (3, 3));
    assert_eq!(teams.get(root).unwrap().shares().own, OWN_SHARES);
    let before = left(&teams, Resource::Memory);
    drop((held, memory));
    assert_eq!(left(&teams, Resource::Memory), before + (1 << 18));
}

#[test]
fn a_childs_deadline_is_its_parents_at_most() {
    let mut teams = Teams::new(budget(1 << 20), 8, 0).unwrap();
    let slow = Budget { event: Duration::from_secs(9), ..budget(1 << 16) };
    let child = create_top(&mut teams, "slow", slow).unwrap();
    assert_eq!(teams.get(child).unwrap().budget.event, Duration::from_millis(2));
}

fn only(kind: Kind, bound: u64) -> Budgets {
    let mut budgets = Budgets::default();
    budgets.set(kind, Some(bound));
    budgets
}

#[test]
fn a_bound_below_what_is_in_use_takes_nothing_and_gives_nothing() {
    for resource in Resource::accounts() {
        let mut teams = Teams::new(Budget::UNLIMITED, 8, 1).unwrap();
        let above = create_top(&mut teams, "above", Budget::UNLIMITED).unwrap();
        let below = create(&mut teams, above, "below", Budget::UNLIMITED).unwrap();
        let of = |teams: &Teams, id| teams.get(id).unwrap().accounts().of(resource).unwrap().clone();
        let (all, one) = (of(&teams, above), of(&teams, below));
        let idle = all.used();
        let held = one.charge(10).unwrap();
        teams.lower(NOW, above, &only(resource.kind(), idle + 5));
        assert_eq!((all.used(), all.limit()), (idle + 10, idle + 5), "{resource}");
        assert!(one.charge(1).is_err() && all.charge(1).is_err(), "{resource}");
        teams.lower(NOW, above, &only(resource.kind(), u64::MAX));
        assert!(one.charge(1).is_err(), "nothing is raised: {resource}");
        drop(held);
        assert!(one.charge(5).is_ok() && one.charge(6).is_err(), "{resource}");
    }
}

#[test]
fn events_that_were_not_counted_count_once_they_are_bounded() {
    let mut teams = Teams::new(Budget::UNLIMITED, 8, 0).unwrap();
    let above = create_top(&mut teams, "above", Budget::UNLIMITED).unwrap();
    let below = create(&mut teams, above, "below", Budget::UNLIMITED).unwrap();
    let event = |teams: &mut Teams, id| teams.get_mut(id).unwrap().count_event().is_ok();
    for id in [above, below, below] {
        assert!(event(&mut teams, id));
    }
    let mut later = Teams::new(Budget::UNLIMITED, 8, 0).unwrap();
    let late = create_top(&mut later, "late", Budget::UNLIMITED).unwrap();
    (0..9).for_each(|_| assert!(event(&mut later, late)));
    later.lower(NOW, late, &only(Kind::EventsTotal, 3));
    assert!(!event(&mut later, late), "it had more than that before");

    teams.lower(NOW, above, &only(Kind::EventsTotal, 5));
    // Another bound counts nothing twice.
    teams.lower(NOW, above, &only(Kind::EventsTotal, 5));
    teams.lower(NOW, below, &only(Kind::EventsTotal, 4));
    assert!(event(&mut teams, below) && event(&mut teams, above));
    assert!(!event(&mut teams, below) && !event(&mut teams, above));
    assert_eq!(teams.get(above).unwrap().accounts().events_total().used(), 5);
}

#[test]
fn rates_without_a_bound_get_one_while_teams_live() {
    for (kind, bound, passes) in
        [(Kind::Packets, 5, 1), (Kind::TotalRate, 10_000, 60), (Kind::Rate, 10_000, 60)]
    {
        let mut teams = Teams::new(Budget::UNLIMITED, 8, 1).unwrap();
        let above = create_top(&mut teams, "above", Budget { burst: 6000, ..Budget::UNLIMITED }).unwrap();
        let below = create(&mut teams, above, "below", Budget::UNLIMITED).unwrap();
        let running = teams.get(below).unwrap().bandwidth().clone();
        let sent = |n: usize| (0..n).filter(|_| running.take(NOW, LinkId(0), 100)).count();
        assert_eq!((sent(1000), running.available(NOW)), (1000, u64::MAX), "{kind}");
        teams.lower(NOW, above, &only(kind, bound));
        // What the one above may is all that the one below may.
        assert_eq!(sent(1000), passes, "{kind}");
    }
}

#[test]
fn shares_are_lowered_but_not_those_that_were_donated() {
    let mut teams = Teams::new(Budget::UNLIMITED, 8, 0).unwrap();
    let root = teams.root();
    let shared = create_top(&mut teams, "shared", Budget::UNLIMITED).unwrap();
    let given = Donated::NOTHING.and(Resource::Processor);
    let donated = teams.create(NOW, root, "donated", Budget::UNLIMITED, given).unwrap();
    for id in [shared, donated] {
        teams.lower(NOW, id, &only(Kind::Shares, 30));
    }
    let among = |teams: &Teams, id| teams.get(id).unwrap().shares().among;
    assert_eq!((among(&teams, shared), among(&teams, donated)), (30, DEFAULT_SHARES));
    teams.lower(NOW, shared, &only(Kind::Shares, 0));
    assert_eq!(among(&teams, shared), 1, "nobody starves");
    teams.end(NOW, donated);
    assert_eq!(teams.get(root).unwrap().shares().own, OWN_SHARES);
}

#[derive(Debug, Clone)]
enum Op {
    Create { memory: u64, timers: u16, shares: u32, rate: u64, donated: u16 },
    End,
    Hold { bytes: u64, few: u64 },
    Spend { amount: u64 },
    Release,
    Lower { kind: prop::sample::Index, bound: u64 },
}

/// What is had for a while and comes back, beside memory, of which teams themselves take some.
const KEPT: [Resource; 3] = [Resource::Timers, Resource::Sessions, Resource::CacheEntries];
/// What is spent.
const SPENT: [Resource; 4] =
    [Resource::TimersTotal, Resource::EventsTotal, Resource::Download, Resource::Compile];

fn ops() -> impl Strategy<Value = Vec<(prop::sample::Index, Op)>> {
    let op = prop_oneof![
        3 => (20_000u64..200_000, 0u16..40, 1u32..400, 0u64..400_000, any::<u16>()).prop_map(
            |(memory, timers, shares, rate, donated)| Op::Create { memory, timers, shares, rate, donated }
        ),
        1 => Just(Op::End),
        3 => (0u64..50_000, 0u64..10).prop_map(|(bytes, few)| Op::Hold { bytes, few }),
        2 => (0u64..1000).prop_map(|amount| Op::Spend { amount }),
        1 => Just(Op::Release),
        1 => (any::<prop::sample::Index>(), 0u64..500_000).prop_map(|(kind, bound)| Op::Lower { kind, bound }),
    ];
    proptest::collection::vec((any::<prop::sample::Index>(), op), 1..150)
}

proptest! {
    /// Whatever is donated, shared, made, used and ended: nothing is used beyond its limit anywhere, what
    /// is in a team adds up, of every kind, and in the end everything but what was spent is back.
    #[test]
    fn no_unit_is_made_or_lost(ops in ops()) {
        let all = Budget {
            timers: 100,
            sessions: 80,
            cache_entries: 90,
            compile: Duration::from_millis(20),
            download: 20_000,
            timers_total: 15_000,
            events_total: 18_000,
            ..budget(2 << 20)
        };
        let mut teams = Teams::new(all, 30, 2).unwrap();
        let root = teams.root();
        let idle = teams.get(root).unwrap().account().used();
        let mut alive = std::vec![root];
        let mut held: Vec<(TeamId, Charge)> = Vec::new();
        let mut lowered: Vec<TeamId> = Vec::new();
        // What a team has spent, and those below it that have ended.
        let mut spent: HashMap<(TeamId, Resource), u64> = HashMap::new();
        for (at, op) in ops {
            let id = alive[at.index(alive.len())];
            match op {
                Op::Create { memory, timers, shares, rate, donated } => {
                    let part = Budget {
                        memory,
                        timers,
                        sessions: timers / 2,
                        cache_entries: timers / 3,
                        shares,
                        rate,
                        compile: Duration::from_millis(5),
                        download: 4000,
                        timers_total: 3000,
                        events_total: 5000,
                        ..all
                    };
                    let donated = Resource::ALL.into_iter().filter(|r| donated & 1 << *r as u16 != 0);
                    let donated = donated.fold(Donated::NOTHING, Donated::and);
                    alive.extend(teams.create(NOW, id, "t", part, donated));
                }
                Op::End => {
                    let below: Vec<(TeamId, TeamId)> =
                        teams.below(id).into_iter().filter_map(|id| Some((id, teams.get(id)?.parent()?))).collect();
                    let ended = teams.end(NOW, id);
                    alive.retain(|id| !ended.contains(id));
                    held.retain(|(id, _)| !ended.contains(id));
                    for ((gone, above), resource) in below.into_iter().flat_map(|pair| SPENT.map(|r| (pair, r))) {
                        let its = spent.remove(&(gone, resource)).unwrap_or(0);
                        *spent.entry((above, resource)).or_default() += its;
                    }
                }
                Op::Hold { bytes, few } => {
                    let team = teams.get(id).unwrap();
                    for resource in KEPT.into_iter().chain([Resource::Memory]) {
                        let amount = if resource == Resource::Memory { bytes } else { few };
                        held.extend(team.accounts().of(resource).unwrap().charge(amount).ok().map(|c| (id, c)));
                    }
                }
                Op::Spend { amount } => {
                    for resource in SPENT {
                        let account = teams.get(id).unwrap().accounts().of(resource).unwrap();
                        *spent.entry((id, resource)).or_default() += if account.spend(amount).is_ok() { amount } else { 0 };
                    }
                }
                Op::Release => held.truncate(held.len() / 2),
                Op::Lower { kind, bound } if id != root => {
                    teams.lower(NOW, id, &only(Kind::ALL[kind.index(Kind::ALL.len())], bound));
                    lowered.push(id);
                }
                Op::Lower { .. } => {}
            }
            for (id, team) in teams.iter() {
                let children = || teams.iter().filter(|(_, t)| t.parent() == Some(id)).map(|(_, t)| t);
                let donated: u32 =
                    children().filter(|t| t.donated().has(Resource::Processor)).map(|t| t.shares().among).sum();
                prop_assert_eq!(team.shares().own + donated, OWN_SHARES);
                for resource in Resource::accounts() {
                    let account = team.accounts().of(resource).unwrap();
                    // Nothing is taken from whom is allowed less.
                    let fits = account.used() <= account.limit() || lowered.contains(&id);
                    prop_assert!(fits, "{resource} of {}", team.name);
                }
                for resource in KEPT.into_iter().chain(SPENT) {
                    let account = |t: &Team| t.accounts().of(resource).unwrap().clone();
                    let inside: u64 = children().map(|t| {
                        if account(t).is_donated() { account(t).limit() } else { account(t).used() }
                    }).sum();
                    let own: u64 = held.iter().filter(|(h, c)| *h == id && c.account().is(&account(team))).map(|(_, c)| c.bytes()).sum();
                    let spent = spent.get(&(id, resource)).copied().unwrap_or(0);
                    let (used, known) = (account(team).used(), inside + own + spent);
                    // Who was allowed less of what it was donated keeps it to its end; its donor lacks it until then.
                    let less = teams.iter().any(|(below, t)| t.parent() == Some(id) && lowered.contains(&below));
                    prop_assert!(used == known || less && used > known, "{resource} of {}: {used}, {known}", team.name);
                }
            }
            // Who shares bandwidth has none of its own; the others have, together, all that there is.
            let own = teams.iter().filter(|(id, t)| *id == root || t.donated().has(Resource::Rate));
            let sums = own.fold([0, 0], |sums, (_, t)| {
                let rates = t.bandwidth().rates();
                [sums[0] + rates[0], sums[1] + rates[1]]
            });
            // What was lowered of it is nobody's until the team has ended.
            if lowered.is_empty() {
                prop_assert_eq!(sums, [1_000_000; 2]);
            } else {
                prop_assert!(sums.iter().all(|sum| *sum <= 1_000_000), "{sums:?}");
            }
        }
        held.clear();
        let left: Vec<((TeamId, Resource), u64)> = spent.into_iter().collect();
        let mut spent = HashMap::new();
        for ((_, resource), amount) in left {
            *spent.entry((root, resource)).or_insert(0) += amount;
        }
        for id in alive.split_off(1) {
            teams.end(NOW, id);
        }
        prop_assert!(teams.is_empty());
        let (id_of_root, root) = (root, teams.get(root).unwrap());
        prop_assert_eq!(root.account().used(), idle);
        for resource in Resource::accounts().filter(|r| ![Resource::Memory, Resource::TeamsTotal].contains(r)) {
            let spent = spent.get(&(id_of_root, resource)).copied().unwrap_or(0);
            prop_assert_eq!(root.accounts().of(resource).unwrap().used(), spent, "{}", resource);
        }
        prop_assert_eq!(root.bandwidth().rates(), std::vec![1_000_000, 1_000_000]);
    }
}

#[test]
fn who_takes_an_ended_teams_place_has_spent_what_that_one_did() {
    let mut teams = Teams::new(Budget { memory: 1 << 20, ..Budget::UNLIMITED }, 8, 1).unwrap();
    let root = teams.root();
    let idle = teams.get(root).unwrap().account().used();
    let bounds = Budget { timers_total: 5, ..budget(1 << 16) };
    let a = create(&mut teams, root, "a", bounds).unwrap();
    let child = create(&mut teams, a, "child", bounds).unwrap();
    teams.get(child).unwrap().accounts().timers_total().spend(3).unwrap();
    let before = teams.get(a).unwrap().accounts().clone();
    teams.end(NOW, a);
    assert_eq!(teams.get(root).unwrap().account().used(), idle);
    // What is paid late counts.
    before.timers_total().spend(1).unwrap();
    let b = teams.create_again(NOW, root, "b", bounds, &before).unwrap();
    let child = create(&mut teams, b, "child", bounds).unwrap();
    let team = teams.get(child).unwrap();
    team.accounts().timers_total().spend(1).unwrap();
    assert!(team.accounts().timers_total().spend(1).is_err());
    assert!(!team.bandwidth().take(NOW, LinkId(0), 100), "no burst");
    assert!(team.bandwidth().take(NOW + Duration::from_millis(1), LinkId(0), 1000));
    assert_eq!(teams.get(root).unwrap().accounts().timers_total().used(), 5, "each once");
    // The limits are new.
    let before = teams.get(b).unwrap().accounts().clone();
    teams.end(NOW, b);
    let more = Budget { timers_total: 7, ..bounds };
    let c = teams.create_again(NOW, root, "c", more, &before).unwrap();
    teams.get(c).unwrap().accounts().timers_total().spend(2).unwrap();
    assert!(teams.get(c).unwrap().accounts().timers_total().spend(1).is_err());
    teams.end(NOW, c);
    assert_eq!(teams.get(root).unwrap().account().used(), idle);
}

/// A principal's total, and three flows that share it.
#[test]
fn who_fills_a_shared_total_alone_is_struck_and_those_beside_it_are_not() {
    let mut teams = Teams::new(budget(1 << 20), 8, 1).unwrap();
    let total = create_top(&mut teams, "total", budget(100_000)).unwrap();
    let [hog, half, small] =
        ["hog", "half", "small"].map(|name| create(&mut teams, total, name, budget(1 << 20)).unwrap());
    // The charges that a team got, in pieces of 1000 bytes, and what the policy says of those that it did not.
    let mut ask = |team: TeamId, times: u16| {
        let team = teams.get_mut(team).unwrap();
        let charges: Vec<_> = (0..times).filter_map(|_| team.account().charge(1000).ok()).collect();
        let refused = times - charges.len() as u16;
        (charges, team.refused(NOW, Resource::Memory, refused))
    };
    let (some, verdict) = ask(small, 10);
    assert_eq!((some.len(), verdict), (10, Verdict::Go));
    let (all, verdict) = ask(hog, 200);
    assert!(all.len() > 70 && matches!(verdict, Verdict::Throttle(_)), "{} {verdict:?}", all.len());
    for _ in 0..100 {
        assert_eq!(ask(small, 100).1, Verdict::Go, "others have used it up");
    }
    // Two that have about half each: none of them has the other's, and whoever has less than half is not to blame.
    drop(all);
    let (halfs, _) = ask(half, 45);
    assert_eq!(halfs.len(), 45);
    let (rest, verdict) = ask(hog, 60);
    assert!(rest.len() < 45 && verdict == Verdict::Go, "{} {verdict:?}", rest.len());
    assert_eq!(ask(half, 100).1, Verdict::Go);
    drop(some);
}
