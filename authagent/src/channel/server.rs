//! The node's end of the control channel.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use snow::{HandshakeState, TransportState};
#[cfg(doc)]
use wire::control::MAX_MESSAGE;
use wire::control::{self, Login, LoginAnswer, VERSION};
use wire::tuple::{MAX_NAME, Scheme};

use super::error::handshake_error;
use super::{
    ChannelError, HELLO_LEN, Line, LoginFault, MAX_LOGIN, REPLY_LEN, Stage, login_statement, noise, open,
    put_record, seal,
};
use crate::access::LoginKeys;
use crate::keys::{NodeIdentity, PublicKey};
use crate::{Entropy, draw};

/// Finds the keys under which a login as this principal, by this scheme, is tried.
pub type PrincipalKeys = Box<dyn Fn(&str, Scheme) -> LoginKeys + Send + Sync>;

/// What all channels of a node have in common.
pub struct Gate {
    /// The node's name, told to whoever logged in; at most [`MAX_NAME`] bytes.
    pub node: String,
    /// What the node proves.
    pub identity: NodeIdentity,
    /// Who may log in.
    pub principals: PrincipalKeys,
}

/// What a client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// It logged in.
    LoggedIn {
        /// As this principal.
        principal: String,
    },
    /// It sent a message, after the login; at most [`MAX_MESSAGE`] bytes.
    Message(Vec<u8>),
}

/// One client's channel.
pub struct Server {
    gate: Arc<Gate>,
    /// Remembers what the client must sign.
    line: Line<Vec<u8>>,
}

impl Server {
    /// A channel for a client that just connected.
    pub fn new(gate: Arc<Gate>, entropy: &dyn Entropy) -> Result<Self, ChannelError> {
        let state = noise::responder(gate.identity.handshake(), draw(entropy)?).map_err(handshake_error)?;
        Ok(Self { gate, line: Line::new(state, HELLO_LEN, MAX_LOGIN) })
    }

    /// Takes bytes of the stream and appends to `events` what they mean, up to an error.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<ServerEvent>) -> Result<(), ChannelError> {
        while let Some((stage, record)) = self.line.next(&mut bytes)? {
            match stage {
                Stage::Hello(state) => self.hello(*state, &record)?,
                Stage::Login(transport, statement) => {
                    events.push(self.login(transport, &statement, &record)?);
                }
                Stage::Open(transport) => {
                    events.push(ServerEvent::Message(self.line.message(transport, &record)?));
                }
            }
        }
        Ok(())
    }

    /// Seals a message of at most [`MAX_MESSAGE`] bytes for the client, once it is logged in.
    pub fn send(&mut self, message: &[u8]) -> Result<(), ChannelError> {
        self.line.send(message)
    }

    /// Bytes for the stream.
    pub fn take_output(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.line.output)
    }

    /// The stream ended; an error if it ended too early.
    pub fn finish(&self) -> Result<(), ChannelError> {
        self.line.finish()
    }

    fn hello(&mut self, mut state: HandshakeState, record: &[u8]) -> Result<(), ChannelError> {
        state.read_message(record, &mut []).map_err(handshake_error)?;
        let mut reply = [0; REPLY_LEN];
        let n = state.write_message(self.gate.identity.certificate(), &mut reply).map_err(handshake_error)?;
        put_record(&mut self.line.output, &reply[..n]);
        let statement = login_statement(state.get_handshake_hash());
        let transport = Box::new(state.into_transport_mode().map_err(handshake_error)?);
        self.line.stage = Some(Stage::Login(transport, statement));
        Ok(())
    }

    fn login(
        &mut self,
        mut transport: Box<TransportState>,
        statement: &[u8],
        record: &[u8],
    ) -> Result<ServerEvent, ChannelError> {
        let judgement = self.judge(&open(&mut transport, record)?, statement);
        let answer = match judgement {
            Ok(_) => {
                let node = self.gate.node.chars().take(MAX_NAME).collect();
                LoginAnswer::Welcome { node, version: VERSION }
            }
            Err(_) => LoginAnswer::Refused,
        };
        seal(&mut transport, &mut self.line.output, &control::encode(&answer))?;
        let principal = judgement.map_err(ChannelError::Login)?;
        self.line.stage = Some(Stage::Open(transport));
        Ok(ServerEvent::LoggedIn { principal })
    }

    /// Who logs in with this message.
    fn judge(&self, message: &[u8], statement: &[u8]) -> Result<String, LoginFault> {
        let Login { version, principal, scheme, proof } =
            control::decode(message).ok_or(LoginFault::Malformed)?;
        if version != VERSION {
            return Err(LoginFault::Version(version));
        }
        if principal.len() > MAX_NAME || !principal.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(LoginFault::Malformed);
        }
        let LoginKeys { good, decoys } = (self.gate.principals)(&principal, scheme);
        // Every key is tried, whoever it is and whichever is right, so that time tells no names.
        let proves = |key: &PublicKey| key.verify(scheme, statement, &proof).is_ok();
        let proven = good.iter().fold(false, |proven, key| proves(key) | proven);
        for key in &decoys {
            core::hint::black_box(proves(key));
        }
        match good[..] {
            [] => Err(LoginFault::UnknownPrincipal(principal)),
            _ if proven => Ok(principal),
            _ => Err(LoginFault::WrongProof(principal)),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.line).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SigningKey;
    use alloc::{string::ToString as _, vec};

    /// What a node makes of these bytes in the place of a login.
    fn log_in_with(message: &[u8]) -> Result<(), ChannelError> {
        let entropy = |out: &mut [u8]| {
            out.iter_mut().zip(1..).for_each(|(b, i)| *b = i);
            Ok(())
        };
        let key: PublicKey = SigningKey::from_seed(&[1; 32]).public().into();
        let gate = Gate {
            node: "a".into(),
            identity: NodeIdentity::new(SigningKey::from_seed(&[2; 32]), &entropy).unwrap(),
            principals: Box::new(move |_, _| LoginKeys { good: vec![key.clone()], decoys: vec![] }),
        };
        let mut server = Server::new(Arc::new(gate), &entropy).unwrap();
        let mut client = noise::initiator(draw(&entropy).unwrap()).unwrap();
        let (mut hello, mut stream, mut payload) = ([0; 48], vec![], [0; REPLY_LEN]);
        let n = client.write_message(&[], &mut hello).unwrap();
        put_record(&mut stream, &hello[..n]);
        server.push(&stream, &mut vec![]).unwrap();
        client.read_message(&server.take_output()[2..], &mut payload).unwrap();
        let mut client = client.into_transport_mode().unwrap();
        stream.clear();
        seal(&mut client, &mut stream, message).unwrap();
        let mut events = vec![];
        let result = server.push(&stream, &mut events);
        assert_eq!(events, []);
        let answer = open(&mut client, &server.take_output()[2..]).unwrap();
        assert_eq!(control::decode(&answer), Some(LoginAnswer::Refused));
        result
    }

    #[test]
    fn what_is_no_login_is_refused() {
        let login = |version, principal: &str| {
            let proof = vec![0; 64];
            Login { version, principal: principal.to_string(), scheme: Scheme::Ed25519, proof }
        };
        let malformed = Err(ChannelError::Login(LoginFault::Malformed));
        assert_eq!(log_in_with(b""), malformed);
        assert_eq!(log_in_with(&[0xff; MAX_LOGIN]), malformed);
        let mut more = control::encode(&login(VERSION, "admin"));
        more.push(0);
        assert_eq!(log_in_with(&more), malformed);
        assert_eq!(log_in_with(&control::encode(&login(VERSION, "a\nb"))), malformed);
        assert_eq!(log_in_with(&control::encode(&login(VERSION, &"x".repeat(MAX_NAME + 1)))), malformed);
        let other = VERSION + 1;
        assert_eq!(
            log_in_with(&control::encode(&login(other, "admin"))),
            Err(ChannelError::Login(LoginFault::Version(other)))
        );
        assert_eq!(
            log_in_with(&control::encode(&login(VERSION, "admin"))),
            Err(ChannelError::Login(LoginFault::WrongProof("admin".into())))
        );
    }
}
