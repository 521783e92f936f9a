//! [`protocol!`](crate::protocol): a protocol's description, its capsule types and the module's exports.

/// Declares the protocol of a crate.
///
/// ```ignore
/// bees_sdk::protocol! {
///     name: "echo",
///     state: Echo = Echo::new(),
///     capsules: {
///         Question { multicasts: 1, derives: 1 } -> [Answer],
///         Answer { sends: 1 },
///     },
///     events: { session: Question },
///     session: true,
///     params: { "hops": "64" },
///     companions: { "tree": Capsules },
/// }
/// ```
///
/// Operations that a capsule type does not name cannot be done with it. After `->` stand the types that
/// may be derived. `events`, `session`, `params` and `companions` may be left out. Companions are named by their
/// interfaces; what enters the identifiers of their capsules stands behind ([`Coupling`](crate::describe::Coupling)).
/// The macro makes `Kind` (the capsule types, with `Kind::of(number)`), `DESCRIPTION`, and,
/// on WebAssembly, the exports, the custom section and a panic handler.
#[macro_export]
macro_rules! protocol {
    (
        name: $name:literal,
        state: $state:ty = $new:expr,
        capsules: {
            $($kind:ident { $($operation:ident: $count:expr),* $(,)? } $(-> [$($into:ident),* $(,)?])?),* $(,)?
        }
        $(, events: { $($event:ident: $brings:ident),* $(,)? })?
        $(, session: $session:literal)?
        $(, params: { $($param:literal: $value:expr),* $(,)? })?
        $(, companions: { $($interface:literal: $coupling:ident),* $(,)? })?
        $(,)?
    ) => {
        /// The capsule types, in the order of their numbers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Kind { $($kind),* }

        impl From<Kind> for u8 {
            fn from(kind: Kind) -> u8 {
                match kind {
                    $(Kind::$kind => Kind::$kind as u8),*
                }
            }
        }

        impl Kind {
            /// The type of this number.
            pub fn of(number: u8) -> Option<Self> {
                let _ = number;
                $(if number == Self::$kind as u8 { return Some(Self::$kind); })*
                None
            }
        }

        /// What this protocol is.
        pub const DESCRIPTION: $crate::describe::Description = $crate::describe::Description {
            name: $name,
            capsules: &[$($crate::describe::CapsuleType {
                name: stringify!($kind),
                #[allow(clippy::needless_update)]
                limits: $crate::describe::Limits { $($operation: $count,)* ..$crate::describe::Limits::NONE },
                derives: &[$($(Kind::$into as u8),*)?],
            }),*],
            #[allow(clippy::needless_update)]
            events: $crate::describe::Events {
                $($($event: Some(Kind::$brings as u8),)*)?
                ..$crate::describe::Events::NONE
            },
            session: false $(|| $session)?,
            params: &[$($(($param, $value)),*)?],
            companions: &[$($(($interface, $crate::describe::Coupling::$coupling)),*)?],
        };

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code)]
        mod module {
            use $crate::{
                Call, Capsule, Companion, Flow, Handover, Protocol, Session, SessionEvent, Takeover, Timer, companion,
                flow::State, handover, node::Resource, sys,
            };

            use super::*;

            static PROTOCOL: sys::Global<$state> = sys::Global::new($new);

            const SECTION_LEN: usize = DESCRIPTION.section_len();

            #[used]
            #[unsafe(link_section = "bees")]
            static SECTION: [u8; SECTION_LEN] = DESCRIPTION.section_bytes();

            #[panic_handler]
            fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
                sys::panicked(DESCRIPTION.name, info)
            }

            #[unsafe(no_mangle)]
            extern "C" fn bees_abi_1() {}

            #[unsafe(no_mangle)]
            extern "C" fn on_boot(capsule: u32) {
                PROTOCOL.with(|p| p.boot(Capsule::of_event(capsule)));
            }

            #[unsafe(no_mangle)]
            extern "C" fn on_capsule(capsule: u32, kind: u32, len: u32, from: u32) {
                let inbox = sys::inbox();
                let head = &inbox[..inbox.len().min(len as usize)];
                PROTOCOL.with(|p| p.capsule(Capsule::received(capsule, kind as u8, len, from), head));
            }

            #[unsafe(no_mangle)]
            extern "C" fn on_timer(capsule: u32, timer: u32, token: i64) {
                PROTOCOL.with(|p| p.timer(Capsule::of_event(capsule), Timer::from_bits(timer), token as u64));
            }

            #[unsafe(no_mangle)]
            extern "C" fn on_session(capsule: u32, session: u32, what: u32, len: u32) {
                let inbox = sys::inbox();
                let head = &inbox[..inbox.len().min(len as usize)];
                let event = match what {
                    0 => SessionEvent::Opened,
                    1 => SessionEvent::Packet(head, len as usize),
                    2 => SessionEvent::Closed,
                    3 => return PROTOCOL.with(|p| p.room(Session::from_bits(session))),
                    _ => return,
                };
                PROTOCOL.with(|p| p.session(Capsule::of_event(capsule), Session::from_bits(session), event));
            }

            #[unsafe(no_mangle)]
            extern "C" fn on_expiry(key_len: u32) -> u32 {
                let inbox = sys::inbox();
                PROTOCOL.with(|p| p.expiry(&inbox[..inbox.len().min(key_len as usize)]))
            }

            #[unsafe(no_mangle)]
            extern "C" fn on_warning(resource: u32) {
                if let Some(resource) = Resource::of(resource) {
                    PROTOCOL.with(|p| p.warning(resource));
                }
            }

            #[unsafe(no_mangle)]
            extern "C" fn on_companion(capsule: u32, from: u32, operation: u32, len: u32) -> i32 {
                let inbox = sys::inbox();
                let len = len as usize;
                let head = &inbox[..inbox.len().min(len)];
                let call = Call { from: Companion::from_bits(from), operation, head, len };
                companion::result(PROTOCOL.with(|p| p.companion(Capsule::of_call(capsule), call)))
            }

            #[unsafe(no_mangle)]
            extern "C" fn on_flow(flow: u32, state: u32) {
                PROTOCOL.with(|p| p.flow(Flow::from_bits(flow), State::of(state)));
            }

            #[unsafe(no_mangle)]
            extern "C" fn on_stop() {
                PROTOCOL.with(|p| p.stop());
            }

            #[unsafe(no_mangle)]
            extern "C" fn on_handover() -> i32 {
                handover::result(PROTOCOL.look(|p| p.handover(&mut Handover::begin())))
            }

            #[unsafe(no_mangle)]
            extern "C" fn on_takeover(capsule: u32, len: u32) -> i32 {
                let mut from = Takeover::begin(len as usize);
                handover::result(PROTOCOL.with(|p| p.takeover(Capsule::of_event(capsule), &mut from)))
            }
        }
    };
}
