//! Streams of the blocking client.
//!
//! Owns the handles [`Stream`] and [`Reading`]. Must not know requests and answers: `stream.rs` makes and reads them. Start
//! at [`Client::stream`].

use super::Client;
use super::park::wait;
use crate::error::StreamError;
use crate::machine::{Machine, Outcome, Token};
use crate::message::Outgoing;
use crate::stream::{
    self, Creation, Lister, Pager, Purge, ReadOptions, ResumeToken, Step, StoredAt, StoredMessage,
    StreamConfig, StreamEvent, StreamInfo,
};
use std::thread;

impl Client {
    /// A stream of this name, whether it exists or not. Nothing is asked yet.
    pub fn stream(&self, name: impl AsRef<[u8]>) -> Stream {
        Stream {
            client: self.clone(),
            name: name.as_ref().into(),
        }
    }

    /// All streams whose names begin so, by name.
    pub fn streams(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<StreamInfo>, StreamError> {
        let mut lister = Lister::new(prefix.as_ref());
        let mut all = Vec::new();
        // Ends because each page begins behind the one before.
        while let Some(request) = lister.request() {
            all.extend(lister.handle(self.ask_state(&request)?)?);
        }
        Ok(all)
    }

    /// Asks the state plane.
    fn ask_state(&self, body: &[u8]) -> Result<Outcome, StreamError> {
        let start = |machine: &mut Machine, now, token: Token| machine.call(now, token, body);
        let ((), operation) = wait(|cx| self.shared().poll_start(cx, start))?;
        Ok(wait(|cx| operation.poll_outcome(cx)))
    }
}

/// A stream of the broker. If the connection breaks, what was asked for ends as [`StreamError::Unknown`]: it may or may not
/// have been done.
#[derive(Clone, Debug)]
pub struct Stream {
    client: Client,
    name: Box<[u8]>,
}

impl Stream {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Creates it; its name takes the place of that in the configuration. One that exists with this configuration is no
    /// error. From the return on, what is published to its topics is stored.
    pub fn create(&self, config: &StreamConfig) -> Result<Creation, StreamError> {
        let request = stream::create(&self.name, config);
        stream::created(self.client.ask_state(&request)?)
    }

    /// Gives it another configuration.
    pub fn update(&self, config: &StreamConfig) -> Result<(), StreamError> {
        let request = stream::update(&self.name, config);
        stream::updated(self.client.ask_state(&request)?)
    }

    /// Publishes to a topic that a stream keeps, and returns once it is stored, as durably as the stream promises. If no
    /// stream keeps the topic, nothing is published.
    pub fn publish(
        &self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<StoredAt, StreamError> {
        self.publish_message(&Outgoing::new(&topic, &payload))
    }

    /// Publishes a message with headers, as [`publish`](Stream::publish) does. `Nats-Msg-Id` is an id by which it is stored
    /// once within the stream's window.
    pub fn publish_message(&self, message: &Outgoing<'_>) -> Result<StoredAt, StreamError> {
        let parts = message.parts();
        let start = |machine: &mut Machine, now, token| machine.publish_stored(now, token, &parts);
        let shared = self.client.shared();
        let ((), operation) = wait(|cx| shared.poll_start(cx, start))?;
        stream::stored_at(wait(|cx| operation.poll_outcome(cx)))
    }

    /// What it is, and holds.
    pub fn info(&self) -> Result<StreamInfo, StreamError> {
        let request = stream::info(&self.name);
        stream::informed(self.client.ask_state(&request)?)
    }

    /// Removes messages; gives how many.
    pub fn purge(&self, purge: &Purge) -> Result<u64, StreamError> {
        let request = stream::purge(&self.name, purge);
        stream::purged(self.client.ask_state(&request)?)
    }

    /// Ends it with all it holds; gives how many messages that were.
    pub fn delete(&self) -> Result<u64, StreamError> {
        let request = stream::delete(&self.name);
        stream::deleted(self.client.ask_state(&request)?)
    }

    /// Removes one message.
    pub fn delete_message(&self, sequence: u64) -> Result<(), StreamError> {
        let request = stream::delete_message(&self.name, sequence);
        stream::message_deleted(self.client.ask_state(&request)?)
    }

    /// The message of a sequence.
    pub fn get(&self, sequence: u64) -> Result<StoredMessage, StreamError> {
        let request = stream::get(&self.name, sequence);
        stream::got(self.client.ask_state(&request)?)
    }

    /// The last message of a topic.
    pub fn last_of(&self, topic: impl AsRef<[u8]>) -> Result<StoredMessage, StreamError> {
        let request = stream::last_of(&self.name, topic.as_ref());
        stream::got(self.client.ask_state(&request)?)
    }

    /// Reads it from a start. Nothing is asked before the first [`next`](Iterator::next).
    pub fn read(&self, options: ReadOptions) -> Reading {
        Reading {
            pager: Pager::new(&self.name, options),
            client: self.client.clone(),
        }
    }
}

/// The messages of a stream, in order, a page at a time. A page is asked for when the one before is used up, so that what
/// is not read is not fetched.
#[derive(Debug)]
pub struct Reading {
    client: Client,
    pager: Pager,
}

impl Reading {
    /// Where to go on behind what was given; `None` before the first page.
    pub fn token(&self) -> Option<ResumeToken> {
        self.pager.token()
    }
}

/// Blocks until the next event. Ends at the head, unless it follows. After an error the next call asks again, from behind
/// what was given.
impl Iterator for Reading {
    type Item = Result<StreamEvent, StreamError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Ends because each round gives something, or takes a page in that has something or is at the head.
        loop {
            match self.pager.next() {
                Step::Give(event) => return Some(Ok(event)),
                Step::End => return None,
                Step::Ask => {}
                Step::WaitAndAsk(wait) => thread::sleep(wait),
            }
            let answered = self.client.ask_state(&self.pager.request());
            if let Err(error) = answered.and_then(|outcome| self.pager.handle(outcome)) {
                return Some(Err(error));
            }
        }
    }
}
