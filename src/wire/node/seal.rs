//! What a shared secret makes of a connection between nodes: Noise, as NODE.md specifies it.
//!
//! Owns keys, the two handshake messages and the cutting of the stream into messages. Must not know frames, nor where
//! randomness comes from: 32 bytes of it are an input. Invariants: after an error nothing is sealed or opened any more;
//! what was opened is what the peer sealed, in its order, without a hole. Start at [`Sealer`].

use crate::limits::{NODE_HELLO_BYTES_MAX, NODE_SECRET_BYTES_MAX, NODE_SECRET_BYTES_MIN};
use crate::node::HEADER_BYTES;
use snow::error::StateProblem;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, TransportState};
use std::fmt;

/// The protocol in the words of the Noise specification.
pub const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// Bytes of the length before each message.
pub const LENGTH_BYTES: usize = 2;

/// Bytes of the tag at a message's end.
pub const TAG_BYTES: usize = 16;

/// Bytes of the key in front of each handshake message.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// Longest message with its tag: what Noise allows, and a length of two bytes can say.
pub const MESSAGE_BYTES_MAX: usize = 65_535;

/// Most bytes of the stream that one message carries.
pub const PLAIN_BYTES_MAX: usize = MESSAGE_BYTES_MAX - TAG_BYTES;

/// Longest handshake message: a frame of HELLO or WELCOME in it. Below the number that the first two bytes of a refusal
/// are, so that one is told from the other.
pub const HANDSHAKE_BYTES_MAX: usize =
    PUBLIC_KEY_BYTES + HEADER_BYTES + NODE_HELLO_BYTES_MAX + TAG_BYTES;

/// What is hashed before a secret, so that the same bytes used elsewhere give another key.
const SECRET_DOMAIN: &[u8] = b"sapwood node secret 1\n";

/// What is hashed before entropy that was used up.
const ENTROPY_DOMAIN: &[u8] = b"sapwood node entropy 1\n";

/// What is hashed before a node's randomness for one of its connections.
const CONNECTION_DOMAIN: &[u8] = b"sapwood node connection 1\n";

/// Why bytes are no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// Nothing stands in the file, but perhaps line ends.
    Empty,
    /// Shorter than `NODE_SECRET_BYTES_MIN`; holds the length in bytes.
    Short(usize),
    /// Longer than `NODE_SECRET_BYTES_MAX`; holds the length in bytes.
    Long(usize),
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretError::Empty => write!(f, "the secret is empty"),
            SecretError::Short(length) => write!(
                f,
                "the secret has {length} bytes, at least {NODE_SECRET_BYTES_MIN} are needed; 32 random bytes are good"
            ),
            SecretError::Long(length) => write!(
                f,
                "the secret has {length} bytes, at most {NODE_SECRET_BYTES_MAX} are allowed; is this the right file?"
            ),
        }
    }
}

impl std::error::Error for SecretError {}

/// What all nodes of a tree share. Never shown.
#[derive(Clone)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// The key of a secret file's bytes. Line ends (CR, LF) at its end do not count.
    pub fn from_secret(file: &[u8]) -> Result<SecretKey, SecretError> {
        let ends = file.iter().rev();
        let ends = ends.take_while(|byte| matches!(byte, b'\r' | b'\n'));
        let secret = &file[..file.len() - ends.count()];
        match secret.len() {
            0 => Err(SecretError::Empty),
            length if length < NODE_SECRET_BYTES_MIN => Err(SecretError::Short(length)),
            length if length > NODE_SECRET_BYTES_MAX => Err(SecretError::Long(length)),
            _ => Ok(SecretKey(blake2s(SECRET_DOMAIN, secret))),
        }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// Randomness for one connection, from that of a node, which stays secret; `number` is never used twice.
pub fn derive_entropy(node: &[u8; 32], number: u64) -> [u8; 32] {
    let mut bytes = [0; 40];
    bytes[..32].copy_from_slice(node);
    bytes[32..].copy_from_slice(&number.to_le_bytes());
    blake2s(CONNECTION_DOMAIN, &bytes)
}

fn blake2s(domain: &[u8], bytes: &[u8]) -> [u8; 32] {
    let hash = DefaultResolver.resolve_hash(&HashChoice::Blake2s);
    let mut hash = hash.expect("the feature is on"); // invariant: Cargo.toml asks for it.
    let mut result = [0; 32];
    hash.input(domain);
    hash.input(bytes);
    hash.result(&mut result);
    result
}

/// Why a sealed connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// A message is shorter or longer than any of its sort; holds its length.
    Length(usize),
    /// A message was not sealed with the same secret and prologue, or was changed, repeated or left out on its way.
    Tag,
    /// As many messages as there may be under one key.
    Exhausted,
    /// Asked for what is not due: the handshake is not over, or is over, or there was an error before.
    Order,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealError::Length(length) => {
                write!(f, "a sealed message has a wrong length of {length} bytes")
            }
            SealError::Tag => write!(
                f,
                "a message cannot be opened: the other node has another secret, or somebody changed what it sent"
            ),
            SealError::Exhausted => write!(f, "the connection has carried as much as it may"),
            SealError::Order => write!(f, "the sealed connection is not at that point"),
        }
    }
}

impl std::error::Error for SealError {}

impl From<snow::Error> for SealError {
    fn from(error: snow::Error) -> SealError {
        match error {
            snow::Error::State(StateProblem::Exhausted) => SealError::Exhausted,
            snow::Error::State(_) => SealError::Order,
            _ => SealError::Tag,
        }
    }
}

/// What was made of some input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// So many bytes of it were taken.
    pub consumed: usize,
    /// More can be taken once so many bytes stand behind those.
    pub needed: usize,
}

/// One side of a sealed connection.
///
/// The dialer calls [`write_handshake`](Sealer::write_handshake) with its HELLO and
/// [`read_handshake`](Sealer::read_handshake), the acceptor the other way round; then both
/// [`seal`](Sealer::seal) and [`open`](Sealer::open). Cost: about 1 ns a byte; the handshake about 0.1 ms a side.
///
/// ```
/// use sapwood_wire::node::hello::{Dial, prologue};
/// use sapwood_wire::node::seal::{Sealer, SecretKey};
/// let key = SecretKey::from_secret(b"not so very secret\n")?;
/// let prologue = prologue(&Dial { versions: (1, 1), sealed: true, lane: 0 }, 1);
/// let mut dialer = Sealer::dial(&key, &prologue, [1; 32]); // Of the system's randomness, in life.
/// let mut acceptor = Sealer::accept(&key, &prologue, [2; 32]);
/// let (mut hello, mut welcome, mut sealed) = (Vec::new(), Vec::new(), Vec::new());
/// let mut opened = Vec::new();
/// dialer.write_handshake(b"HELLO,", &mut hello)?;
/// acceptor.read_handshake(&hello, &mut opened)?;
/// acceptor.write_handshake(b" WELCOME", &mut welcome)?;
/// dialer.read_handshake(&welcome, &mut opened)?;
/// dialer.seal(b" and more", &mut sealed)?;
/// acceptor.open(&sealed, &mut opened)?;
/// assert_eq!(opened, b"HELLO, WELCOME and more");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sealer {
    state: State,
    is_confirmed: bool,
}

enum State {
    Handshake(Box<HandshakeState>),
    Transport(Box<TransportState>),
    Broken,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Handshake(_) => "handshake",
            State::Transport(_) => "transport",
            State::Broken => "broken",
        };
        write!(f, "Sealer({state})")
    }
}

impl Sealer {
    /// The side that dialed. `entropy` must be random, and used once.
    pub fn dial(key: &SecretKey, prologue: &[u8], entropy: [u8; 32]) -> Sealer {
        let state = builder(key, prologue, entropy).and_then(Builder::build_initiator);
        Sealer::new(state)
    }

    /// The side that was dialed. `entropy` must be random, and used once.
    pub fn accept(key: &SecretKey, prologue: &[u8], entropy: [u8; 32]) -> Sealer {
        let state = builder(key, prologue, entropy).and_then(Builder::build_responder);
        Sealer::new(state)
    }

    fn new(state: Result<HandshakeState, snow::Error>) -> Sealer {
        let state = state.expect("all that the pattern asks for"); // invariant: the builder below gives it.
        Sealer {
            state: State::Handshake(Box::new(state)),
            is_confirmed: false,
        }
    }

    /// Whether the peer is known to speak now, and is no recording: for the dialer once the handshake is over, for the
    /// acceptor once a first message was opened behind it.
    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// Whether the handshake is over, so that [`Sealer::seal`] and [`Sealer::open`] are due.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Transport(_))
    }

    /// Appends this side's handshake message around a payload: its frame of HELLO or WELCOME. Nothing is appended on an
    /// error.
    pub fn write_handshake(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let start = out.len();
        let result = self.try_write_handshake(payload, out);
        self.end(result, start, out)
    }

    fn try_write_handshake(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let State::Handshake(handshake) = &mut self.state else {
            return Err(SealError::Order);
        };
        let length = PUBLIC_KEY_BYTES + payload.len() + TAG_BYTES;
        if length > HANDSHAKE_BYTES_MAX {
            return Err(SealError::Length(length));
        }
        let message = room(out, length);
        let written = handshake.write_message(payload, message)?;
        assert_eq!(written, length, "a handshake of another pattern");
        self.pass_on()
    }

    /// Reads the other side's handshake message and appends its payload, if it is whole; else nothing is consumed.
    /// Nothing is appended on an error.
    pub fn read_handshake(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Opened, SealError> {
        let start = out.len();
        let result = self.try_read_handshake(input, out);
        self.end(result, start, out)
    }

    fn try_read_handshake(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Opened, SealError> {
        let State::Handshake(handshake) = &mut self.state else {
            return Err(SealError::Order);
        };
        let least = PUBLIC_KEY_BYTES + TAG_BYTES;
        let message = match split(input, least, HANDSHAKE_BYTES_MAX)? {
            Ok(message) => message,
            Err(needed) => {
                let consumed = 0;
                return Ok(Opened { consumed, needed });
            }
        };
        let start = out.len();
        out.resize(start + message.len() - least, 0);
        handshake.read_message(message, &mut out[start..])?;
        self.pass_on()?;
        Ok(Opened {
            consumed: LENGTH_BYTES + message.len(),
            needed: LENGTH_BYTES,
        })
    }

    /// Goes over to the stream when both handshake messages were dealt with.
    fn pass_on(&mut self) -> Result<(), SealError> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Handshake(handshake) if handshake.is_handshake_finished() => {
                self.is_confirmed = handshake.is_initiator();
                let transport = handshake.into_transport_mode()?;
                self.state = State::Transport(Box::new(transport));
            }
            other => self.state = other,
        }
        Ok(())
    }

    /// Appends bytes of the stream, cut into messages. Nothing is appended on an error.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let start = out.len();
        let result = self.try_seal(plain, out);
        self.end(result, start, out)
    }

    fn try_seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let State::Transport(transport) = &mut self.state else {
            return Err(SealError::Order);
        };
        let messages = plain.len().div_ceil(PLAIN_BYTES_MAX);
        out.reserve(plain.len() + messages * (LENGTH_BYTES + TAG_BYTES));
        for part in plain.chunks(PLAIN_BYTES_MAX) {
            let message = room(out, part.len() + TAG_BYTES);
            transport.write_message(part, message)?;
        }
        Ok(())
    }

    /// Opens all messages that are whole, and appends what they carry. On an error nothing is appended, so that what
    /// stands before a message that was changed is lost with the connection.
    pub fn open(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Opened, SealError> {
        let start = out.len();
        let result = self.try_open(input, out);
        self.end(result, start, out)
    }

    fn try_open(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Opened, SealError> {
        let State::Transport(transport) = &mut self.state else {
            return Err(SealError::Order);
        };
        let mut consumed = 0;
        // Ends because each round consumes a message.
        loop {
            // A message that carries nothing would be work for nothing.
            let message = match split(&input[consumed..], TAG_BYTES + 1, MESSAGE_BYTES_MAX)? {
                Ok(message) => message,
                Err(needed) => return Ok(Opened { consumed, needed }),
            };
            let start = out.len();
            out.resize(start + message.len() - TAG_BYTES, 0);
            transport.read_message(message, &mut out[start..])?;
            self.is_confirmed = true;
            consumed += LENGTH_BYTES + message.len();
        }
    }

    /// After an error nothing goes on, and nothing half done stays.
    fn end<T>(
        &mut self,
        result: Result<T, SealError>,
        start: usize,
        out: &mut Vec<u8>,
    ) -> Result<T, SealError> {
        if result.is_err() {
            self.state = State::Broken;
            out.truncate(start);
        }
        result
    }
}

/// Appends a length and room for a message of it.
fn room(out: &mut Vec<u8>, length: usize) -> &mut [u8] {
    out.extend_from_slice(&(length as u16).to_le_bytes());
    let start = out.len();
    out.resize(start + length, 0);
    &mut out[start..]
}

/// The message at the front of the input, or how many bytes must stand.
fn split(input: &[u8], least: usize, most: usize) -> Result<Result<&[u8], usize>, SealError> {
    let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else {
        return Ok(Err(LENGTH_BYTES));
    };
    let length = usize::from(u16::from_le_bytes(*length));
    if length < least || length > most {
        return Err(SealError::Length(length));
    }
    Ok(rest.get(..length).ok_or(LENGTH_BYTES + length))
}

fn builder<'a>(
    key: &'a SecretKey,
    prologue: &'a [u8],
    entropy: [u8; 32],
) -> Result<Builder<'a>, snow::Error> {
    let params: NoiseParams = NOISE.parse()?;
    let resolver = Box::new(Given { entropy });
    Builder::with_resolver(params, resolver)
        .psk(0, &key.0)?
        .prologue(prologue)
}

/// Takes everything from snow but randomness.
struct Given {
    entropy: [u8; 32],
}

impl CryptoResolver for Given {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Drawn {
            block: self.entropy,
            used: 0,
        }))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// The entropy, and its hashes behind it. The pattern draws 32 bytes, an ephemeral key, and never more.
struct Drawn {
    block: [u8; 32],
    used: usize,
}

impl Random for Drawn {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        for byte in out {
            if self.used == self.block.len() {
                self.block = blake2s(ENTROPY_DOMAIN, &self.block);
                self.used = 0;
            }
            *byte = self.block[self.used];
            self.used += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
