//! What the node has to say in numbers (`docs/metrics.md`), written a few lines at a time: a scrape of a thousand
//! teams holds nobody up and needs no room for its text. Each line is of the moment when it is written.

use nodeos::account::Account;
use nodeos::link::{Link, LinkId};
use nodeos::platform::Now;
use nodeos::team::{Resource, Team, TeamId};
use wire::control::{LinkInfo, Protection};

use super::Node;
use crate::exposition::{Kind, Text, Value};
use crate::neighbor::NeighborId;

/// Samples written at a time.
const AT_ONCE: usize = 16;

/// How far a scrape has come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    table: u8,
    family: usize,
    /// The first member that has not been written.
    member: usize,
}

/// A family of samples, one for each member that has a value.
struct Family<M> {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    value: fn(&View<'_>, &M) -> Option<Value>,
}

/// A node at a moment.
struct View<'a> {
    node: &'a Node,
    now: Now,
}

const fn counter<M>(
    name: &'static str,
    help: &'static str,
    value: fn(&View<'_>, &M) -> Option<Value>,
) -> Family<M> {
    Family { name, help, kind: Kind::Counter, value }
}

const fn gauge<M>(
    name: &'static str,
    help: &'static str,
    value: fn(&View<'_>, &M) -> Option<Value>,
) -> Family<M> {
    Family { name, help, kind: Kind::Gauge, value }
}

/// Of the node as a whole.
const NODE: &[Family<()>] = &[
    gauge("bees_uptime_seconds", "Time since the node started.", |v, ()| {
        Some(Value::Micros(v.now.mono.since(v.node.started).as_micros() as u64))
    }),
    counter("bees_cpu_seconds_total", "Processor time of the node itself.", |v, ()| {
        Some(v.time(v.node.busy))
    }),
    counter("bees_unchargeable_cpu_seconds_total", "Of it: charged to no team.", |v, ()| {
        Some(v.time(v.node.unchargeable()))
    }),
    gauge("bees_buffers_lent", "Packet buffers in use.", |v, ()| n(v.node.platform.buffers.lent())),
    gauge("bees_buffers_limit", "Packet buffers that there are.", |v, ()| n(v.node.platform.buffers.limit())),
    gauge("bees_flows", "Flows here.", |v, ()| n(v.node.flows.count().0 as usize)),
    gauge("bees_flows_limit", "Flows that may be here.", |v, ()| n(v.node.flows.count().1 as usize)),
    gauge("bees_code_bytes", "Compiled code, shared by teams.", |v, ()| count(v.node.cache.used())),
    gauge("bees_code_saved_bytes", "What teams are charged for it beyond what it takes.", |v, ()| {
        count(v.node.code_saved())
    }),
    gauge("bees_jobs_waiting", "Slow work that nobody has begun.", |v, ()| n(v.node.jobs.len())),
    gauge("bees_store_areas", "Areas of the blob store.", |v, ()| {
        n(v.node.shared.blobs.store().count_all().0)
    }),
    gauge("bees_store_blobs", "Blobs in them.", |v, ()| n(v.node.shared.blobs.store().count_all().1)),
    gauge("bees_store_device_bytes", "Bytes of blobs on the store's device.", |v, ()| {
        Some(Value::Count(v.node.shared.blobs.store().device_use()?.0))
    }),
    gauge("bees_store_device_limit_bytes", "Bytes that may be there.", |v, ()| {
        Some(Value::Count(v.node.shared.blobs.store().device_use()?.1))
    }),
    counter("bees_net_cut_through_capsules_total", "Capsules that took a cut-through channel.", |v, ()| {
        count(v.node.net.counters().cut_through)
    }),
    counter("bees_net_ip_frames_total", "Frames for the IP interfaces.", |v, ()| {
        count(v.node.net.counters().ip)
    }),
    counter("bees_net_foreign_frames_total", "Frames for other stations.", |v, ()| {
        count(v.node.net.counters().not_ours)
    }),
    counter("bees_net_unknown_frames_total", "Frames of unknown type.", |v, ()| {
        count(v.node.net.counters().unknown_type)
    }),
    counter("bees_net_closed_port_packets_total", "UDP packets to ports where nothing listens.", |v, ()| {
        count(v.node.net.counters().closed_ports)
    }),
    counter("bees_net_malformed_frames_total", "Frames with a wrong length, checksum or source.", |v, ()| {
        count(v.node.net.counters().malformed)
    }),
    counter("bees_net_fragments_total", "Fragments of IP packets, refused.", |v, ()| {
        count(v.node.net.counters().fragments)
    }),
    counter("bees_net_session_datagrams_total", "Datagrams of sessions.", |v, ()| {
        count(v.node.net.counters().datagrams)
    }),
    counter(
        "bees_net_session_datagrams_dropped_total",
        "Datagrams of sessions that were dropped, because too many waited.",
        |v, ()| count(v.node.net.counters().datagrams_dropped),
    ),
    counter("bees_net_next_hop_dropped_total", "Packets whose next hop did not answer.", |v, ()| {
        count(v.node.net.counters().hops.dropped)
    }),
];

/// Of each link.
const LINK: &[Family<LinkInfo>] = &[
    counter("bees_link_received_frames_total", "Frames received.", |_, l| count(l.received.0)),
    counter("bees_link_received_bytes_total", "Bytes received.", |_, l| count(l.received.1)),
    counter("bees_link_sent_frames_total", "Frames sent.", |_, l| count(l.sent.0)),
    counter("bees_link_sent_bytes_total", "Bytes sent.", |_, l| count(l.sent.1)),
    counter("bees_link_dropped_frames_total", "Frames dropped on the way out.", |_, l| count(l.dropped)),
    gauge("bees_link_waiting_frames", "Frames that wait to be sent.", |_, l| count(l.waiting.into())),
    gauge("bees_link_mtu_bytes", "Largest frame payload.", |_, l| count(l.mtu.into())),
    gauge("bees_link_rate_bytes_per_second", "Bound on what is sent.", |_, l| Some(Value::Count(l.rate?))),
];

/// Of each neighbor.
const NEIGHBOR: &[Family<NeighborId>] = &[
    counter("bees_neighbor_received_capsules_total", "Capsules received from it.", |v, id| {
        count(v.node.neighbors[*id].received)
    }),
    counter("bees_neighbor_sent_capsules_total", "Capsules sent to it.", |v, id| {
        count(v.node.neighbors[*id].sent)
    }),
    counter("bees_neighbor_refused_capsules_total", "Capsules from it that were refused.", |v, id| {
        count(v.node.neighbors[*id].refused)
    }),
    gauge("bees_neighbor_silence_seconds", "Time since it was last heard.", |v, id| {
        let silent = v.now.mono.since(v.node.neighbors[*id].last_heard?);
        Some(Value::Micros(silent.as_micros() as u64))
    }),
    gauge("bees_neighbor_protected", "1 while it has proven who it is.", |v, id| {
        let protection = v.node.neighbors[*id].guard.protection(v.now.mono);
        n(usize::from(matches!(protection, Protection::Protected { .. })))
    }),
    gauge("bees_neighbor_alive", "1 while it answers, if it is watched.", |v, id| {
        n(usize::from(v.node.alive(v.now, *id)?.up))
    }),
    gauge("bees_neighbor_memory_bytes", "Memory that its capsules of unknown flows take.", |v, id| {
        count(v.node.neighbors[*id].account.used())
    }),
];

/// Of each team.
const TEAM: &[Family<TeamId>] = &[
    gauge("bees_team_memory_bytes", "Memory in use, also below it where shared.", |v, id| {
        count(v.team(*id)?.account().used())
    }),
    gauge("bees_team_memory_peak_bytes", "The most that ever was.", |v, id| {
        count(v.team(*id)?.account().peak())
    }),
    gauge("bees_team_memory_limit_bytes", "What may be.", |v, id| limit(v.team(*id)?.account())),
    counter(
        "bees_team_cpu_seconds_total",
        "Processor time; the root's is what no team was charged.",
        |v, id| {
            let did = v.node.did(*id)?.units;
            Some(v.time(v.team(*id)?.parent().map_or_else(|| v.node.unchargeable(), |_| did)))
        },
    ),
    counter("bees_team_start_cpu_seconds_total", "Of it: compiling and starting.", |v, id| {
        Some(v.time(v.node.did(*id)?.start_units))
    }),
    counter("bees_team_serve_cpu_seconds_total", "Of it: answering other nodes.", |v, id| {
        Some(v.time(v.node.did(*id)?.serve_units))
    }),
    counter("bees_team_events_total", "Events handled.", |v, id| count(v.node.did(*id)?.events)),
    counter("bees_team_dropped_events_total", "Events dropped because its queue was full.", |v, id| {
        count(v.node.did(*id)?.dropped)
    }),
    gauge("bees_team_waiting_events", "Events that wait.", |v, id| n(v.node.waiting(*id))),
    counter("bees_team_sent_bytes_total", "Bytes sent on links.", |v, id| count(v.node.sent_by(*id))),
    counter("bees_team_refused_total", "Operations refused for want of budget.", |v, id| {
        count(v.node.did(*id)?.refused)
    }),
    counter("bees_team_throttled_seconds_total", "Time in which its budgets held it back.", |v, id| {
        Some(Value::Micros(v.team(*id)?.throttled(v.now.mono).as_micros() as u64))
    }),
    gauge("bees_team_strikes", "Strikes that stand.", |v, id| n(v.team(*id)?.conduct.strikes() as usize)),
    counter("bees_flow_received_capsules_total", "Capsules that the flow processed.", |v, id| {
        count(v.capsules(*id)?.0)
    }),
    counter("bees_flow_sent_capsules_total", "Capsules that it sent.", |v, id| count(v.capsules(*id)?.1)),
    counter("bees_flow_refused_capsules_total", "Its capsules that were refused.", |v, id| {
        count(v.capsules(*id)?.2)
    }),
];

/// Of each team's accounts.
const RESOURCE: &[Family<(TeamId, Resource)>] = &[
    gauge("bees_team_resource_used", "In use or spent: bytes, seconds or a number.", |v, (id, resource)| {
        Some(amount(*resource, v.team(*id)?.accounts().of(*resource)?.used()))
    }),
    gauge("bees_team_resource_limit", "Bound on it, if it has one of its own.", |v, (id, resource)| {
        let limit = v.team(*id)?.accounts().of(*resource)?.limit();
        (limit != u64::MAX).then(|| amount(*resource, limit))
    }),
];

/// Of each team on each link.
const TEAM_LINK: &[Family<(TeamId, LinkId)>] = &[counter(
    "bees_team_link_dropped_frames_total",
    "Frames of it that the link had no room for.",
    |v, (id, link)| count(v.node.net.link(*link)?.dropped_of(*id)),
)];

impl Node {
    /// Writes the next few lines; `false`: there are no more.
    pub(super) fn figures(&self, now: Now, at: &mut Place, out: &mut Text) -> bool {
        let view = View { node: self, now };
        match at.table {
            0 => match self.counters.described(at.family) {
                Some((name, help, value)) => {
                    let name = format!("bees_{name}_total");
                    out.family(&name, help, Kind::Counter);
                    out.sample(&name, &[], Value::Count(value));
                    at.family += 1;
                }
                None => at.next_table(),
            },
            1 => {
                let release = env!("CARGO_PKG_VERSION");
                let labels = [
                    ("node", self.name.to_string()),
                    ("release", release.to_string()),
                    ("platform", self.platform.name.to_string()),
                    ("agent", self.agent.agent.name().to_string()),
                ];
                out.family(INFO, "What the node is; always 1.", Kind::Gauge);
                out.sample(INFO, &labels, Value::Count(1));
                at.next_table();
            }
            2 => view.write(NODE, at, out, [(0, ())], |()| Vec::new()),
            3 => {
                let links = (0..).zip(self.net.link_infos());
                view.write(LINK, at, out, links, |link| vec![("link", link.name.clone())]);
            }
            4 => {
                let link = |id| self.net.link(id).map_or("", |link| link.name()).to_string();
                let labels = |id: &NeighborId| {
                    let neighbor = &self.neighbors[*id];
                    vec![("neighbor", neighbor.name.to_string()), ("link", link(neighbor.out.link))]
                };
                view.write(NEIGHBOR, at, out, self.neighbors.iter().map(|(id, _)| (id.0.into(), id)), labels);
            }
            5 => {
                // Numbered by their places in the table, where others may come and go meanwhile.
                let teams = self.teams.iter().map(|(id, _)| (id.0.index(), id));
                view.write(TEAM, at, out, teams, |id| view.labels(*id));
            }
            6 => {
                let all = self.teams.iter().map(|(id, _)| id).flat_map(|id| {
                    let number = move |r: Resource| id.0.index() * Resource::ALL.len() + r as usize;
                    Resource::accounts().map(move |resource| (number(resource), (id, resource)))
                });
                view.write(RESOURCE, at, out, all, |(id, resource)| {
                    let mut labels = view.labels(*id);
                    labels.push(("resource", resource.name().to_string()));
                    labels
                });
            }
            7 => {
                let links = self.net.links();
                // There may be many: those that have been written are not counted again.
                let first = at.member / links.max(1);
                let rest = self.teams.iter().skip_while(|(id, _)| id.0.index() < first);
                let all = rest.flat_map(|(id, _)| {
                    let number = move |link: usize| id.0.index() * links + link;
                    (0..links).map(move |link| (number(link), (id, LinkId(link as u16))))
                });
                view.write(TEAM_LINK, at, out, all, |(id, link)| {
                    let mut labels = view.labels(*id);
                    labels.push(("link", self.net.link(*link).map_or("", Link::name).to_string()));
                    labels
                });
            }
            _ => return false,
        }
        true
    }
}

const INFO: &str = "bees_node_info";

impl Place {
    fn next_table(&mut self) {
        *self = Self { table: self.table + 1, ..Self::default() };
    }
}

impl View<'_> {
    /// Writes a family's head and its next members. They have numbers that grow.
    fn write<M>(
        &self,
        families: &[Family<M>],
        at: &mut Place,
        out: &mut Text,
        members: impl IntoIterator<Item = (usize, M)>,
        labels: impl Fn(&M) -> Vec<(&'static str, String)>,
    ) {
        let Some(family) = families.get(at.family) else { return at.next_table() };
        if at.member == 0 {
            out.family(family.name, family.help, family.kind);
        }
        let first = at.member;
        let mut rest = members.into_iter().skip_while(|(number, _)| *number < first);
        for (number, member) in rest.by_ref().take(AT_ONCE) {
            if let Some(value) = (family.value)(self, &member) {
                out.sample(family.name, &labels(&member), value);
            }
            at.member = number + 1;
        }
        if rest.next().is_none() {
            *at = Place { family: at.family + 1, member: 0, ..*at };
        }
    }

    fn team(&self, id: TeamId) -> Option<&Team> {
        self.node.teams.get(id)
    }

    fn labels(&self, id: TeamId) -> Vec<(&'static str, String)> {
        let flow = self.node.flows.by_team(id).and_then(|h| self.node.flows.get(h));
        let name = self.team(id).map(|team| team.name.to_string());
        vec![
            ("team", id.0.raw().to_string()),
            ("name", name.unwrap_or_default()),
            ("flow", flow.map(|f| format!("{:.8}", f.hash)).unwrap_or_default()),
        ]
    }

    /// Capsules that the flow of a team processed, sent and was refused.
    fn capsules(&self, id: TeamId) -> Option<(u64, u64, u64)> {
        Some(self.node.flows.get(self.node.flows.by_team(id)?)?.capsules)
    }

    fn time(&self, units: u64) -> Value {
        Value::Micros(self.node.time_of(units).as_micros() as u64)
    }
}

fn n(number: usize) -> Option<Value> {
    count(number as u64)
}

fn count(number: u64) -> Option<Value> {
    Some(Value::Count(number))
}

/// An account's own limit, if it has one.
fn limit(account: &Account) -> Option<Value> {
    Some(account.limit()).filter(|limit| *limit != u64::MAX).map(Value::Count)
}

/// An account's number in its unit.
fn amount(resource: Resource, number: u64) -> Value {
    match resource {
        Resource::Compile => Value::Micros(number),
        _ => Value::Count(number),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names() -> Vec<(&'static str, Kind)> {
        fn of<M>(families: &[Family<M>]) -> impl Iterator<Item = (&'static str, Kind)> {
            families.iter().map(|f| (f.name, f.kind))
        }
        of(NODE)
            .chain(of(LINK))
            .chain(of(NEIGHBOR))
            .chain(of(TEAM))
            .chain(of(RESOURCE))
            .chain(of(TEAM_LINK))
            .collect()
    }

    #[test]
    fn every_family_is_documented_and_named_by_the_conventions() {
        let text = include_str!("../../../docs/metrics.md");
        let counters = crate::counters::Counters::default();
        let counted =
            (0..).map_while(|at| counters.described(at)).map(|(name, ..)| format!("bees_{name}_total"));
        let mut all: BTreeSet<String> = counted.collect();
        for (name, kind) in names().into_iter().chain([(INFO, Kind::Gauge)]) {
            assert!(text.contains(&format!("`{name}`")), "docs/metrics.md lacks {name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            let sound = name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase());
            assert!(name.starts_with("bees_") && sound, "{name}");
            assert!(all.insert(name.into()), "two families are called {name}");
        }
    }
}
