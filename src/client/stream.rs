//! Streams: what is asked of them, what they answer, and reading page by page. Both clients share this.
//!
//! Owns the requests and the reading of answers. Must not know connections or waiting. A stream stores the messages of some
//! topics under sequences that count up from 1, and gives them to whoever reads it later. Start at [`Pager`].

use crate::error::{CallError, Doubt, PublishError, StreamError};
use crate::machine::{Outcome, Placed};
use bytes::Bytes;
use sapwood_wire::headers::Headers;
use sapwood_wire::state::{
    Answer, Ask, List, Order, Outcome as Fate, PurgeOf, Read, ReadStart, Refusal, Request, Rest,
    Which,
};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

pub use sapwood_wire::state::{
    ConfigError, Discard, Durability, MessageTtl, ResumeToken, Sequence, StreamConfig, StreamInfo,
};

/// Bytes of messages that a page asks for: a few reads of the socket, so that pages follow each other without a pause
/// and a slow reader holds little.
const PAGE_BYTES: u32 = 256 * 1024;

/// Messages that a page asks for: of the smallest as many as fit.
const PAGE_MESSAGES: u32 = 8_192;

/// Bytes of the last messages of topics, which come as one page: their order is not that of sequences, so that no token
/// stands between them.
const LAST_OF_EACH_BYTES: u32 = 64 * 1024 * 1024;

/// How long a reader that follows waits at the head before it asks again: at first, and at most. Each time that nothing
/// came doubles it.
const HEAD_WAIT_MIN: Duration = Duration::from_millis(10);
/// See [`HEAD_WAIT_MIN`].
const HEAD_WAIT_MAX: Duration = Duration::from_millis(250);

/// Where reading a stream begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first message that there is.
    #[default]
    First,
    /// At the last message that there is.
    Last,
    /// Behind the last: what comes from now on.
    New,
    /// At this sequence, or the first behind it.
    Sequence(u64),
    /// At the first message that was stored at or after this time, ms since 1970.
    Time(u64),
    /// The last message of each topic, in the order of topics, then what comes later. Of at most 64 MiB of messages.
    LastOfEach,
    /// Behind the message of a token; see [`Reading::token`](crate::tokio::Reading::token).
    Resume(ResumeToken),
}

impl Start {
    fn on_wire(self) -> ReadStart {
        match self {
            Start::First => ReadStart::First,
            Start::Last => ReadStart::Last,
            Start::New => ReadStart::New,
            Start::Sequence(sequence) => ReadStart::Sequence(Sequence(sequence)),
            Start::Time(ms) => ReadStart::Time(ms),
            Start::LastOfEach => ReadStart::LastOfEach,
            Start::Resume(token) => ReadStart::Resume(token),
        }
    }
}

/// What becomes of a reader at the head, where nothing is stored behind what it has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtHead {
    /// It ends.
    #[default]
    End,
    /// It waits for more.
    Follow,
}

/// What to read of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// From where.
    pub start: Start,
    /// Topics or wildcards, at most 64; none for all.
    pub filters: Vec<Vec<u8>>,
    /// What becomes of it at the head.
    pub at_head: AtHead,
}

/// Where a message was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAt {
    /// The stream that keeps its topic.
    pub stream: String,
    /// Its number there.
    pub sequence: u64,
    /// Whether a message of the same id was stored there before, in place of this one.
    pub is_duplicate: bool,
    /// How durable it is.
    pub durability: Durability,
}

/// Which messages a purge removes; the default removes all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purge {
    /// Those of this topic or wildcard only.
    pub filter: Option<Vec<u8>>,
    /// Those before this sequence only.
    pub before: Option<u64>,
    /// But for so many of the newest.
    pub keep: u64,
}

/// A message of a stream. Cheap to clone: a view of the page that it came with.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its number.
    pub sequence: u64,
    /// When it was stored, ms since 1970.
    pub ms: u64,
    topic: Bytes,
    headers: Bytes,
    payload: Bytes,
}

impl StoredMessage {
    /// Its topic.
    pub fn topic(&self) -> &[u8] {
        &self.topic
    }

    /// Its topic as text; invalid UTF-8 is replaced.
    pub fn topic_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.topic)
    }

    /// What it carries.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload as text; invalid UTF-8 is replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.payload)
    }

    /// Its headers, names and values, in order.
    pub fn headers(&self) -> Headers<'_> {
        match self.headers.starts_with(b"NATS/1.0") {
            true => Headers::of_block(&self.headers),
            false => Headers::of_pairs(&self.headers),
        }
    }
}

impl fmt::Debug for StoredMessage {
    /// Without the payload, which can be long and private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredMessage")
            .field("sequence", &self.sequence)
            .field("topic", &self.topic_text())
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// What a reader of a stream gets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamEvent {
    /// A message.
    Message(StoredMessage),
    /// Messages that should stand here are gone: deleted, or older than the stream keeps.
    Gap {
        /// From this sequence.
        from: u64,
        /// To before this one.
        before: u64,
    },
    /// The resume token means nothing any more, because the stream was made anew or restored: forget what was read. What
    /// follows begins at the first message.
    Reset,
}

impl StreamEvent {
    /// The message, if it is one.
    pub fn message(self) -> Option<StoredMessage> {
        match self {
            StreamEvent::Message(message) => Some(message),
            _ => None,
        }
    }
}

/// What a reader does next.
pub(crate) enum Step {
    /// Gives this.
    Give(StreamEvent),
    /// Asks for a page, and hands the answer in.
    Ask,
    /// Waits, then asks for a page.
    WaitAndAsk(Duration),
    /// Ends.
    End,
}

/// Reads a stream page by page.
#[derive(Clone, Debug)]
pub(crate) struct Pager {
    stream: Vec<u8>,
    options: ReadOptions,
    page: VecDeque<StreamEvent>,
    /// Where to go on behind the page.
    token: Option<ResumeToken>,
    is_at_head: bool,
    /// Whether the page is in the order of sequences.
    is_in_order: bool,
    wait: Duration,
}

impl Pager {
    pub(crate) fn new(stream: &[u8], options: ReadOptions) -> Pager {
        Pager {
            stream: stream.to_vec(),
            options,
            page: VecDeque::new(),
            token: None,
            is_at_head: false,
            is_in_order: true,
            wait: HEAD_WAIT_MIN,
        }
    }

    pub(crate) fn next(&mut self) -> Step {
        match (self.page.pop_front(), self.is_at_head, self.options.at_head) {
            (Some(event), ..) => Step::Give(event),
            (None, false, _) => Step::Ask,
            (None, true, AtHead::End) => Step::End,
            (None, true, AtHead::Follow) => {
                let wait = self.wait;
                self.wait = (2 * wait).min(HEAD_WAIT_MAX);
                Step::WaitAndAsk(wait)
            }
        }
    }

    /// Where a reader goes on that has taken all that was given; none before the first page, and among the last messages
    /// of topics.
    pub(crate) fn token(&self) -> Option<ResumeToken> {
        let left = self.page.iter().find_map(|event| match event {
            StreamEvent::Message(next) => Some(next.sequence),
            _ => None,
        });
        match (self.token?, left) {
            (token, None) => Some(token),
            (_, Some(_)) if !self.is_in_order => None,
            (token, Some(next)) => Some(ResumeToken {
                sequence: Sequence(next - 1),
                ..token
            }),
        }
    }

    pub(crate) fn request(&self) -> Vec<u8> {
        let start = match self.token {
            Some(token) => ReadStart::Resume(token),
            None => self.options.start.on_wire(),
        };
        let (messages, bytes) = match start {
            ReadStart::LastOfEach => (u32::MAX, LAST_OF_EACH_BYTES),
            _ => (PAGE_MESSAGES, PAGE_BYTES),
        };
        body(
            Order::Now,
            Ask::Read(Read {
                stream: &self.stream,
                start,
                filters: self.options.filters.iter().map(Vec::as_slice).collect(),
                messages,
                bytes,
            }),
        )
    }

    /// Takes a page in. After an error nothing has changed, so that it may be asked for again.
    pub(crate) fn handle(&mut self, outcome: Outcome) -> Result<(), StreamError> {
        let parts = answered(outcome)?;
        let (mut page, mut end) = (VecDeque::new(), None);
        for part in &parts {
            let Answer::Page(read) = read(part)? else {
                return Err(StreamError::NotUnderstood);
            };
            if read.head.is_reset {
                page.push_back(StreamEvent::Reset);
            }
            if let Some((from, before)) = read.head.gap {
                page.push_back(StreamEvent::Gap {
                    from: from.0,
                    before: before.0,
                });
            }
            let messages = read.messages.map(|message| stored(part, &message));
            page.extend(messages.map(StreamEvent::Message));
            end = read.head.end;
        }
        let end = end.ok_or(StreamError::NotUnderstood)?;
        let is_in_order = self.token.is_some() || self.options.start != Start::LastOfEach;
        if !is_in_order && end.rest == Rest::More {
            return Err(StreamError::TooManyTopics);
        }
        self.is_in_order = is_in_order;
        if !page.is_empty() {
            self.wait = HEAD_WAIT_MIN;
        }
        self.page = page;
        self.token = Some(end.token);
        self.is_at_head = end.rest == Rest::Done;
        Ok(())
    }
}

fn stored(part: &Bytes, message: &sapwood_wire::state::StoredMessage<'_>) -> StoredMessage {
    StoredMessage {
        sequence: message.sequence.0,
        ms: message.ms,
        topic: part.slice_ref(message.topic),
        headers: part.slice_ref(message.headers),
        payload: part.slice_ref(message.body),
    }
}

/// The body of a CALL.
fn body(order: Order, ask: Ask<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    Request { order, ask }.write(&mut out);
    out
}

pub(crate) fn create(name: &[u8], config: &StreamConfig) -> Vec<u8> {
    let config = StreamConfig {
        name: name.to_vec(),
        ..config.clone()
    };
    body(Order::Now, Ask::Create(config))
}

pub(crate) fn update(name: &[u8], config: &StreamConfig) -> Vec<u8> {
    let config = StreamConfig {
        name: name.to_vec(),
        ..config.clone()
    };
    body(Order::Now, Ask::Update(config))
}

pub(crate) fn info(name: &[u8]) -> Vec<u8> {
    body(Order::BehindWrites, Ask::Info(name))
}

pub(crate) fn delete(name: &[u8]) -> Vec<u8> {
    body(Order::Now, Ask::Delete(name))
}

pub(crate) fn delete_message(name: &[u8], sequence: u64) -> Vec<u8> {
    body(Order::Now, Ask::DeleteMessage(name, Sequence(sequence)))
}

pub(crate) fn get(name: &[u8], sequence: u64) -> Vec<u8> {
    let which = Which::Sequence(Sequence(sequence));
    body(Order::BehindWrites, Ask::Get(name, which))
}

pub(crate) fn last_of(name: &[u8], topic: &[u8]) -> Vec<u8> {
    body(Order::BehindWrites, Ask::Get(name, Which::LastOf(topic)))
}

pub(crate) fn purge(name: &[u8], purge: &Purge) -> Vec<u8> {
    let of = PurgeOf {
        stream: name,
        filter: purge.filter.as_deref(),
        before: Sequence(purge.before.unwrap_or(u64::MAX)),
        keep: purge.keep,
    };
    body(Order::Now, Ask::Purge(of))
}

/// Lists streams page by page, by name.
#[derive(Clone, Debug)]
pub(crate) struct Lister {
    prefix: Vec<u8>,
    /// Behind which name the next page begins; `None` after the last.
    after: Option<Vec<u8>>,
}

impl Lister {
    pub(crate) fn new(prefix: &[u8]) -> Lister {
        Lister {
            prefix: prefix.to_vec(),
            after: Some(Vec::new()),
        }
    }

    /// The next page to ask for.
    pub(crate) fn request(&self) -> Option<Vec<u8>> {
        let list = List {
            after: self.after.as_deref()?,
            prefix: &self.prefix,
            most: u16::MAX,
        };
        Some(body(Order::Now, Ask::List(list)))
    }

    /// The streams of a page. Each worker of the broker gives its own part, sorted; where one of them has more, what
    /// stands behind its last name comes with the next page.
    pub(crate) fn handle(&mut self, outcome: Outcome) -> Result<Vec<StreamInfo>, StreamError> {
        let mut all = Vec::new();
        let mut end: Option<Vec<u8>> = None;
        for part in &answered(outcome)? {
            let Answer::List(infos, rest) = read(part)? else {
                return Err(StreamError::NotUnderstood);
            };
            if rest == Rest::More {
                let last = infos.last().ok_or(StreamError::NotUnderstood)?;
                let last = last.config.name.clone();
                end = Some(end.map_or(last.clone(), |end| end.min(last)));
            }
            all.extend(infos);
        }
        if let Some(end) = &end {
            all.retain(|info| info.config.name <= *end);
        }
        all.sort_by(|one, other| one.config.name.cmp(&other.config.name));
        self.after = end;
        Ok(all)
    }
}

/// Whether a stream was made by a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// It was.
    New,
    /// It existed, with the same configuration.
    Existing,
}

/// The parts of an answer.
fn answered(outcome: Outcome) -> Result<Vec<Bytes>, StreamError> {
    match outcome {
        Outcome::Answered(parts) => Ok(parts),
        Outcome::Refused(refusal) => Err(refused(refusal)),
        Outcome::Unknown(doubt) => Err(StreamError::Unknown(doubt)),
        Outcome::TimedOut => Err(StreamError::Unknown(Doubt::TimedOut)),
        Outcome::Closed(reason) => Err(StreamError::Closed(reason)),
        Outcome::Acknowledged(_) | Outcome::Stored(_) => Err(StreamError::NotUnderstood),
    }
}

fn refused(refusal: crate::error::Refusal) -> StreamError {
    match refusal.code() {
        Some(sapwood_wire::error::ErrorCode::Unknown) => StreamError::Failed(refusal.to_string()),
        _ => StreamError::Refused(refusal),
    }
}

fn declined(refusal: Refusal, stream: &[u8]) -> StreamError {
    match refusal {
        Refusal::Unknown => StreamError::Failed(refusal.to_string()),
        _ => StreamError::Declined(refusal, String::from_utf8_lossy(stream).into_owned()),
    }
}

/// One part, unless it is a refusal.
fn read(part: &Bytes) -> Result<Answer<'_>, StreamError> {
    match Answer::read(part).map_err(|_| StreamError::NotUnderstood)? {
        Answer::Refused(refusal, stream) => Err(declined(refusal, stream)),
        answer => Ok(answer),
    }
}

/// Reads an answer of one part.
fn single<T>(
    outcome: Outcome,
    take: impl FnOnce(&Bytes, Answer<'_>) -> Option<T>,
) -> Result<T, StreamError> {
    let parts = answered(outcome)?;
    let [part] = &parts[..] else {
        return Err(StreamError::NotUnderstood);
    };
    take(part, read(part)?).ok_or(StreamError::NotUnderstood)
}

pub(crate) fn created(outcome: Outcome) -> Result<Creation, StreamError> {
    single(outcome, |_, answer| match answer {
        Answer::Created(sapwood_wire::state::Creation::New) => Some(Creation::New),
        Answer::Created(sapwood_wire::state::Creation::Existing) => Some(Creation::Existing),
        _ => None,
    })
}

pub(crate) fn updated(outcome: Outcome) -> Result<(), StreamError> {
    single(outcome, |_, answer| {
        matches!(answer, Answer::Updated).then_some(())
    })
}

pub(crate) fn informed(outcome: Outcome) -> Result<StreamInfo, StreamError> {
    single(outcome, |_, answer| match answer {
        Answer::Info(info) => Some(info),
        _ => None,
    })
}

pub(crate) fn deleted(outcome: Outcome) -> Result<u64, StreamError> {
    single(outcome, |_, answer| match answer {
        Answer::Deleted(messages) => Some(messages),
        _ => None,
    })
}

pub(crate) fn purged(outcome: Outcome) -> Result<u64, StreamError> {
    single(outcome, |_, answer| match answer {
        Answer::Purged(messages) => Some(messages),
        _ => None,
    })
}

pub(crate) fn message_deleted(outcome: Outcome) -> Result<(), StreamError> {
    single(outcome, |_, answer| {
        matches!(answer, Answer::MessageDeleted).then_some(())
    })
}

pub(crate) fn got(outcome: Outcome) -> Result<StoredMessage, StreamError> {
    single(outcome, |part, answer| match answer {
        Answer::Message(message) => Some(stored(part, &message)),
        _ => None,
    })
}

pub(crate) fn stored_at(outcome: Outcome) -> Result<StoredAt, StreamError> {
    let Placed {
        stream,
        durability,
        fate,
    } = match outcome {
        Outcome::Stored(placed) => placed,
        other => return Err(answered(other).err().unwrap_or(StreamError::NotUnderstood)),
    };
    let (sequence, is_duplicate) = match fate {
        Fate::Stored(sequence) => (sequence, false),
        Fate::Duplicate(sequence) => (sequence, true),
        Fate::Refused(refusal) => return Err(declined(refusal, &stream)),
    };
    Ok(StoredAt {
        stream: String::from_utf8_lossy(&stream).into_owned(),
        sequence: sequence.0,
        is_duplicate,
        durability,
    })
}

impl From<CallError> for StreamError {
    fn from(error: CallError) -> StreamError {
        match error {
            CallError::TooLong(bytes) => StreamError::TooLong(bytes),
            CallError::Closed(reason) => StreamError::Closed(reason),
            // The clients wait for room.
            CallError::Full => StreamError::NotUnderstood,
        }
    }
}

impl From<PublishError> for StreamError {
    fn from(error: PublishError) -> StreamError {
        match error {
            PublishError::Invalid(error) => StreamError::Invalid(error),
            PublishError::Refused(refusal) => refused(refusal),
            PublishError::Unknown(doubt) => StreamError::Unknown(doubt),
            PublishError::Closed(reason) => StreamError::Closed(reason),
            PublishError::Full => StreamError::NotUnderstood,
        }
    }
}
