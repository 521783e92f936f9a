//! What a node counts: one number per kind of happening, no strings on the way.
//!
//! A refused thing is always counted under who erred. `docs/counters.md` explains each.

use authagent::agent::Reason;
use wire::control::Counter;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// A kind of happening.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Count {
            $($(#[doc = $doc])* $variant,)*
        }

        const NAMES: &[&str] = &[$($name,)*];
        const TEXTS: &[&str] = &[$(concat!($($doc),*),)*];
    };
}

counters! {
    /// A capsule arrived from a neighbor and was handed to a team or a system protocol.
    CapsulesReceived = "capsules_received",
    /// A capsule was sent to a neighbor for a team.
    CapsulesSent = "capsules_sent",
    /// A capsule of a system protocol was sent.
    SystemSent = "system_capsules_sent",
    /// A frame could not be read as a capsule. The peer erred.
    Malformed = "peer_malformed_capsules",
    /// A capsule came from an address that is no neighbor's.
    Stranger = "peer_strangers",
    /// An unprotected frame came from a neighbor whose link is protected. The peer erred, or somebody else.
    Unprotected = "peer_unprotected_frames",
    /// A frame on a protected link was malformed, or not sealed by the neighbor. The peer erred, or somebody else.
    Forged = "peer_forged_frames",
    /// A frame on a protected link came again, or far too late.
    Replayed = "peer_replayed_frames",
    /// A frame on a protected link was for keys or a handshake that the node does not have (any more).
    StaleKeys = "peer_stale_keys",
    /// Whoever shook hands is not the neighbor, or a handshake message was changed on the way.
    HandshakesRefused = "peer_handshakes_refused",
    /// A handshake message was left unread: there were too many in that second.
    HandshakesLimited = "peer_handshakes_limited",
    /// A neighbor proved its identity, and the link to it has new keys.
    LinkKeys = "link_keys_made",
    /// A neighbor on a protected link is gone, or started anew.
    LinksDown = "links_down",
    /// A packet was dropped, or given up after a while, because its neighbor had not proven who it is.
    Unproven = "link_unproven_dropped",
    /// A capsule lacked the mark that its protocol asks for, or had a wrong one. The peer erred, or somebody else.
    IntegrityRefused = "peer_integrity_refused",
    /// A capsule with a mark came again, or far too late.
    IntegrityReplayed = "peer_integrity_replayed",
    /// An unprotected packet by UDP was too short to be answered, or asked about. The peer erred, or somebody else.
    Unpadded = "peer_unpadded",
    /// A capsule's identifier was not known.
    Unknown = "capsules_unknown",
    /// A capsule waited for its flow and was dropped for want of room.
    WaitingDropped = "capsules_waiting_dropped",
    /// A capsule belonged to an identifier that was refused a short while ago.
    Refused = "capsules_refused",
    /// A capsule came from a neighbor that its flow may not know of.
    NeighborDenied = "capsules_neighbor_denied",
    /// A team's event queue was full.
    QueueFull = "team_queue_full",
    /// A system capsule's payload could not be read. The peer erred.
    SystemMalformed = "peer_malformed_system_capsules",
    /// A system capsule answered nothing that was asked.
    Unasked = "peer_unasked_answers",
    /// A translation did not fit the tuple that it named. The peer erred.
    FalseTranslation = "peer_false_translations",
    /// A tuple could not be read. The principal erred.
    BadTuple = "principal_bad_tuples",
    /// A part did not have the hashes that the tuple names. The peer erred.
    BadPart = "peer_bad_parts",
    /// Something that came from several neighbors was wrong, and was asked for again, of one alone.
    Mixed = "downloads_mixed",
    /// A request to a previous hop was repeated.
    Retries = "download_retries",
    /// A previous hop stopped answering.
    GaveUp = "downloads_given_up",
    /// The Auth Agent refused a flow.
    FlowsRefused = "flows_refused",
    /// A flow was refused because nobody signed it. The principal erred.
    Unsigned = "principal_unsigned",
    /// A flow was refused because nobody here knows its principal.
    UnknownPrincipal = "principal_unknown",
    /// A flow was refused because its principal has no key of the signature's scheme.
    NoKey = "principal_no_key",
    /// A flow was refused because its signature is not the principal's over that body.
    BadSignature = "principal_bad_signatures",
    /// A flow was refused because the key that signed it is too weak.
    KeyTooWeak = "principal_weak_keys",
    /// A flow was refused because its tuple may not be used yet.
    NotYetValid = "principal_tuples_not_yet_valid",
    /// A flow was refused or ended because its tuple may no longer be used.
    Expired = "principal_tuples_expired",
    /// A flow was refused or ended because the node does not know the time.
    TimeUnknown = "node_time_unknown",
    /// A flow was refused because its principal's time has not begun.
    PrincipalNotYetValid = "principal_not_yet_valid",
    /// A flow was refused or ended because its principal's time is over.
    PrincipalExpired = "principal_expired",
    /// A flow was refused or ended because it needs a privilege that is not granted.
    PrivilegeDenied = "principal_privileges_denied",
    /// A flow was refused because its tuple is meant for other nodes.
    OtherNode = "principal_other_node",
    /// A flow was refused because nobody serves an interface here that it uses.
    NoCompanion = "node_companions_missing",
    /// A flow was refused because it may not serve an interface to others that it would.
    NoOffer = "principal_offers_refused",
    /// A flow was refused or ended for another reason of the Auth Agent's policy.
    PolicyDenied = "principal_policy_denied",
    /// A flow was refused or ended because a revocation names it.
    Revocations = "flows_by_revocation",
    /// A running flow was ended by the Auth Agent.
    FlowsRevoked = "flows_revoked",
    /// A running flow goes on with less.
    FlowsClamped = "flows_clamped",
    /// A flow was started.
    FlowsStarted = "flows_started",
    /// A flow ended.
    FlowsEnded = "flows_ended",
    /// A flow took over from an earlier version of itself.
    FlowsReplaced = "flows_replaced",
    /// A flow was refused because it may not take over from the one that it names. The principal erred.
    ReplacementsRefused = "principal_replacements_refused",
    /// A flow ended because it did not come to take over; the earlier version goes on.
    ReplacementsFailed = "replacements_failed",
    /// A capsule of an earlier version was given to the flow that took over from it.
    CapsulesTaken = "capsules_taken_over",
    /// A capsule of an earlier version was dropped because its type has no successor.
    CapsulesWithoutSuccessor = "capsules_without_successor",
    /// A module failed the static checks or did not compile. The principal erred.
    BadModule = "principal_bad_modules",
    /// Guest code trapped. The guest erred.
    Traps = "guest_traps",
    /// Guest code ran past its deadline. The guest erred.
    Overruns = "guest_overruns",
    /// A slice of an event in the background was over before the event.
    Slices = "background_slices",
    /// A team goes on with less for a while, for its strikes.
    Throttled = "teams_throttled",
    /// A team was ended for its strikes.
    StruckOut = "teams_struck_out",
    /// A translation request was answered.
    TranslationsServed = "translations_served",
    /// A download request was answered.
    DownloadsServed = "downloads_served",
    /// A flow's call of another flow, or of a service of the node, was answered.
    CallsAnswered = "companion_calls_answered",
    /// Such a call could not be answered by whom it was for: there is nobody, or not any more.
    CallsFailed = "companion_calls_failed",
    /// A control client failed to prove who it is.
    LoginsRefused = "operator_logins_refused",
    /// A client was sent away unheard: its address failed to log in too often, or too many try.
    LoginsLimited = "operator_logins_limited",
    /// A client asked for what its principal has no right to.
    RequestsDenied = "operator_requests_denied",
    /// A control, session or metrics stream broke its protocol, or took too long.
    StreamErrors = "client_stream_errors",
    /// The metrics were asked for.
    Scrapes = "metrics_scrapes",
    /// A session was opened.
    SessionsOpened = "sessions_opened",
    /// A program was refused a session: there is no such flow, or there are too many sessions.
    SessionsRefused = "sessions_refused",
    /// A datagram was of no session of its sender's, or could not be read. The program erred, or somebody else.
    DatagramsRefused = "client_datagrams_refused",
    /// A packet of a session by datagrams was lost here: the flow was busy, the link was, or the program silent.
    DatagramsDropped = "session_datagrams_dropped",
    /// The protocol server was not reached, or did not do as it was asked.
    FetchesFailed = "server_fetches_failed",
    /// A neighbor that the operator watches did not answer any more.
    NeighborsDown = "neighbors_down",
    /// A neighbor poked more often than it is answered. The peer erred, or somebody else.
    PokesLimited = "peer_pokes_limited",
    /// A neighbor was discovered.
    NeighborsFound = "neighbors_found",
    /// A flow was not told of a discovered neighbor: it had no memory for it, or too much waits to be told.
    NeighborsUntold = "neighbors_untold",
    /// An advert could not be read. The peer erred.
    BadAdverts = "peer_bad_adverts",
    /// An advert was refused: its name is another's, its key is not known, or there is no room. The peer erred.
    AdvertsRefused = "peer_adverts_refused",
    /// An advert was left unread: there were too many in that second.
    AdvertsLimited = "peer_adverts_limited",
    /// A frame could not be sent: no buffer, or no room for it on the link.
    SendDropped = "send_dropped",
    /// A change of the store could not be read from its device.
    StoreDamaged = "store_damaged_records",
    /// An area that no flow used made room, or had none at start.
    StoreDropped = "store_areas_dropped",
    /// The store's device failed, or could not be used.
    StoreErrors = "store_device_errors",
    /// A log line was left out by the rate limit.
    LogSuppressed = "log_suppressed",
    /// An audit line was left out by its rate limit.
    AuditSuppressed = "audit_suppressed",
}

impl From<&Reason> for Count {
    fn from(reason: &Reason) -> Self {
        match reason {
            Reason::Unsigned => Self::Unsigned,
            Reason::UnknownPrincipal(_) => Self::UnknownPrincipal,
            Reason::NoKey { .. } => Self::NoKey,
            Reason::BadSignature { .. } => Self::BadSignature,
            Reason::KeyTooWeak { .. } => Self::KeyTooWeak,
            Reason::NotYetValid { .. } => Self::NotYetValid,
            Reason::Expired { .. } => Self::Expired,
            Reason::TimeUnknown => Self::TimeUnknown,
            Reason::PrincipalNotYetValid { .. } => Self::PrincipalNotYetValid,
            Reason::PrincipalExpired { .. } => Self::PrincipalExpired,
            Reason::Privilege { .. } => Self::PrivilegeDenied,
            Reason::OtherNode => Self::OtherNode,
            Reason::NoCompanion { .. } => Self::NoCompanion,
            Reason::NoOffer { .. } => Self::NoOffer,
            Reason::Revoked { .. } => Self::Revocations,
            Reason::Policy(_) => Self::PolicyDenied,
        }
    }
}

/// All counters of a node.
#[derive(Debug, Clone)]
pub struct Counters {
    values: [u64; NAMES.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { values: [0; NAMES.len()] }
    }
}

impl Counters {
    /// Adds one.
    #[inline]
    pub fn add(&mut self, count: Count) {
        self.values[count as usize] += 1;
    }

    /// The value of one counter.
    pub fn get(&self, count: Count) -> u64 {
        self.values[count as usize]
    }

    /// All of them with their names.
    pub fn list(&self) -> Vec<Counter> {
        let pair = |(name, &value): (&&str, &u64)| Counter { name: (*name).to_string(), value };
        NAMES.iter().zip(&self.values).map(pair).collect()
    }

    /// The name, the meaning and the value of the counter at this place in the list.
    pub fn described(&self, at: usize) -> Option<(&'static str, &'static str, u64)> {
        Some((NAMES.get(at)?, TEXTS.get(at)?.trim_ascii(), *self.values.get(at)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_documented() {
        let text = include_str!("../../docs/counters.md");
        for name in NAMES {
            assert!(text.contains(&format!("`{name}`")), "docs/counters.md lacks {name}");
        }
    }
}
