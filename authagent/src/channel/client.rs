//! A program's end of the control channel.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use snow::{HandshakeState, TransportState};
#[cfg(doc)]
use wire::control::MAX_MESSAGE;
use wire::control::{self, Login, LoginAnswer, VERSION};
use wire::tuple::MAX_NAME;

use super::error::handshake_error;
use super::{
    ChannelError, HELLO_LEN, Line, MAX_LOGIN_ANSWER, REPLY_LEN, Stage, login_statement, noise, open,
    put_record, seal,
};
use crate::keys::{CERTIFICATE_LEN, Ed25519Key, Signer, certified_by};
use crate::{Entropy, draw};

/// What the node did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// It accepted the login; messages may be sent.
    LoggedIn {
        /// The node's name, as it says.
        node: String,
    },
    /// It sent a message, after the login; at most [`MAX_MESSAGE`] bytes.
    Message(Vec<u8>),
}

/// A channel to a node.
pub struct Client {
    expected: Option<Ed25519Key>,
    found: Option<Ed25519Key>,
    principal: String,
    signer: Box<dyn Signer>,
    line: Line<()>,
}

impl Client {
    /// A channel to a node that is to be `expected`, to log in as `principal`.
    ///
    /// Without an expected identity every node is accepted; ask [`identity`](Self::identity) whose it is
    /// before anything is entrusted to it.
    pub fn new(
        expected: Option<Ed25519Key>,
        principal: &str,
        signer: Box<dyn Signer>,
        entropy: &dyn Entropy,
    ) -> Result<Self, ChannelError> {
        if principal.len() > MAX_NAME {
            return Err(ChannelError::TooLong(principal.len()));
        }
        let mut state = noise::initiator(draw(entropy)?).map_err(handshake_error)?;
        let mut hello = [0; HELLO_LEN + noise::TAG_LEN];
        let n = state.write_message(&[], &mut hello).map_err(handshake_error)?;
        let mut line = Line::new(state, REPLY_LEN, MAX_LOGIN_ANSWER);
        put_record(&mut line.output, &hello[..n]);
        Ok(Self { expected, found: None, principal: principal.into(), signer, line })
    }

    /// The identity that the node proved, once it did.
    pub fn identity(&self) -> Option<Ed25519Key> {
        self.found
    }

    /// Takes bytes of the stream and appends to `events` what they mean, up to an error.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<ClientEvent>) -> Result<(), ChannelError> {
        while let Some((stage, record)) = self.line.next(&mut bytes)? {
            match stage {
                Stage::Hello(state) => self.reply(*state, &record)?,
                Stage::Login(transport, ()) => events.push(self.answer(transport, &record)?),
                Stage::Open(transport) => {
                    events.push(ClientEvent::Message(self.line.message(transport, &record)?));
                }
            }
        }
        Ok(())
    }

    /// Seals a message of at most [`MAX_MESSAGE`] bytes for the node, once logged in.
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

    fn reply(&mut self, mut state: HandshakeState, record: &[u8]) -> Result<(), ChannelError> {
        let mut certificate = [0; CERTIFICATE_LEN];
        let n = state.read_message(record, &mut certificate).map_err(handshake_error)?;
        let found = state
            .get_remote_static()
            .and_then(|handshake| certified_by(&certificate[..n], handshake))
            .ok_or(ChannelError::Certificate)?;
        self.found = Some(found);
        if let Some(expected) = self.expected
            && expected != found
        {
            return Err(ChannelError::WrongNode { expected, found });
        }
        let login = Login {
            version: VERSION,
            principal: self.principal.clone(),
            scheme: self.signer.scheme(),
            proof: self.signer.sign(&login_statement(state.get_handshake_hash()))?,
        };
        let mut transport = Box::new(state.into_transport_mode().map_err(handshake_error)?);
        seal(&mut transport, &mut self.line.output, &control::encode(&login))?;
        self.line.stage = Some(Stage::Login(transport, ()));
        Ok(())
    }

    fn answer(
        &mut self,
        mut transport: Box<TransportState>,
        record: &[u8],
    ) -> Result<ClientEvent, ChannelError> {
        match control::decode(&open(&mut transport, record)?) {
            Some(LoginAnswer::Welcome { node, version: VERSION }) => {
                self.line.stage = Some(Stage::Open(transport));
                Ok(ClientEvent::LoggedIn { node })
            }
            Some(LoginAnswer::Welcome { version, .. }) => Err(ChannelError::Version(version)),
            Some(LoginAnswer::Refused) => Err(ChannelError::Refused),
            None => Err(ChannelError::Answer),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.line).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{NodeIdentity, SigningKey};
    use alloc::vec;

    fn counting(from: u8) -> impl Fn(&mut [u8]) -> Result<(), crate::NoEntropy> {
        move |out| {
            out.iter_mut().zip(from..).for_each(|(b, i)| *b = i);
            Ok(())
        }
    }

    /// What a client makes of a node with this certificate, or with this answer to the login.
    fn meet(certificate: Option<&[u8]>, answer: &[u8]) -> Result<(), ChannelError> {
        let identity = NodeIdentity::new(SigningKey::from_seed(&[2; 32]), &counting(1)).unwrap();
        let mut node = noise::responder(identity.handshake(), draw(&counting(40)).unwrap()).unwrap();
        let signer = Box::new(SigningKey::from_seed(&[1; 32]));
        let mut client = Client::new(None, "admin", signer, &counting(80)).unwrap();
        let (mut reply, mut stream) = ([0; REPLY_LEN], vec![]);
        node.read_message(&client.take_output()[2..], &mut []).unwrap();
        let n = node.write_message(certificate.unwrap_or(identity.certificate()), &mut reply).unwrap();
        put_record(&mut stream, &reply[..n]);
        client.push(&stream, &mut vec![])?;
        let mut node = node.into_transport_mode().unwrap();
        open(&mut node, &client.take_output()[2..]).unwrap();
        stream.clear();
        seal(&mut node, &mut stream, answer).unwrap();
        let mut events = vec![];
        let result = client.push(&stream, &mut events);
        assert_eq!(events.is_empty(), result.is_err());
        result
    }

    #[test]
    fn a_certificate_for_another_key_or_of_no_node_is_refused() {
        let other = NodeIdentity::new(SigningKey::from_seed(&[2; 32]), &counting(7)).unwrap();
        let welcome = control::encode(&LoginAnswer::Welcome { node: "a".into(), version: VERSION });
        assert_eq!(meet(None, &welcome), Ok(()));
        assert_eq!(meet(Some(other.certificate()), &welcome), Err(ChannelError::Certificate));
        assert_eq!(meet(Some(&[0; CERTIFICATE_LEN]), &welcome), Err(ChannelError::Certificate));
        assert_eq!(meet(Some(&[]), &welcome), Err(ChannelError::Length(REPLY_LEN - CERTIFICATE_LEN)));
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_refused() {
        assert_eq!(meet(None, b""), Err(ChannelError::Answer));
        assert_eq!(meet(None, &[7; MAX_LOGIN_ANSWER]), Err(ChannelError::Answer));
        assert_eq!(meet(None, &control::encode(&LoginAnswer::Refused)), Err(ChannelError::Refused));
        let other = control::encode(&LoginAnswer::Welcome { node: "a".into(), version: VERSION + 1 });
        assert_eq!(meet(None, &other), Err(ChannelError::Version(VERSION + 1)));
    }
}
