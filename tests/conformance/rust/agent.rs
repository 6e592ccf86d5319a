//! The agent of the Rust client library: JSON commands on stdin, one JSON answer each on stdout.
//!
//! `../README.md` is its contract. It translates and decides nothing: what it is asked for is a call or two of the tokio
//! client, and what they say is the answer. Commands and failures in JSON are `json.rs`, frames `codec.rs`; start here
//! at [`Agent::run`].

mod codec;
mod json;

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io::{BufRead, Write};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use json::{Bytes, ClientCommand, Command, Connect, Failure, For, Headers, Message};
use sapwood_client::error::{PublishError, RequestError};
use sapwood_client::{Client, ConnectionEvent, Event, Events, Outgoing, Replies, Subscription};
use sapwood_wire::topic;
use serde_json::{Value, json};

/// The version of the contract.
const CONTRACT: u32 = 1;

const FEATURES: [&str; 6] = [
    "codec",
    "draining",
    "headers",
    "matches",
    "payload_max",
    "refused",
];

/// Commands that are read ahead. The runner sends one at a time.
const LINES_MAX: usize = 1;

/// The client works on this one thread too, so nothing happens between two awaits.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (lines_tx, mut lines) = tokio::sync::mpsc::channel(LINES_MAX);
    // Waiting for stdin must not keep the clients from working.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if lines_tx.blocking_send(line).is_err() {
                break;
            }
        }
    });
    let mut agent = Agent::default();
    while let Some(line) = lines.recv().await {
        let line: Value = serde_json::from_str(&line?)?;
        let mut answer = match agent.run(&line).await {
            Ok(fields) => fields,
            Err(failure) => failure.json(),
        };
        answer["id"] = line["id"].clone();
        writeln!(std::io::stdout(), "{answer}")?;
    }
    Ok(())
}

/// Clients by the names that the runner gives them.
#[derive(Default)]
struct Agent {
    clients: HashMap<String, Connected>,
}

impl Agent {
    async fn run(&mut self, line: &Value) -> Result<Value, Failure> {
        match Command::parse(line)? {
            Command::Describe => Ok(json!({
                "agent": CONTRACT,
                "library": "sapwood-client (tokio)",
                "features": FEATURES,
            })),
            Command::Connect(connect) => {
                // What an earlier scenario left under this name ends first.
                self.clients.remove(&connect.client);
                let connected = Connected::connect(&connect).await?;
                self.clients.insert(connect.client, connected);
                Ok(json!({}))
            }
            Command::Matches { filter, topic } => {
                Ok(json!({ "matches": matches(&filter.0, &topic.0) }))
            }
            Command::Decode { bytes } => Ok(json!({ "frame": codec::decode(&bytes.0)? })),
            Command::Encode { frame } => Ok(json!({ "bytes": Bytes(codec::encode(&frame)?) })),
            Command::Client { client, command } => {
                let connected = self.clients.get_mut(&client);
                connected
                    .ok_or_else(|| unknown(&client))?
                    .run(command)
                    .await
            }
        }
    }
}

/// Whether a filter matches a topic, as the library's subscriptions ask the wire package.
fn matches(filter: &[u8], topic: &[u8]) -> bool {
    match topic::is_wildcard(filter) {
        true => topic::wildcard_matches(filter, topic),
        false => filter == topic,
    }
}

fn unknown(name: &str) -> Failure {
    Failure::agent(format!("there is no {name}"))
}

/// One client, and what was made with it.
struct Connected {
    client: Client,
    events: Events,
    /// Events that were read while another one was waited for.
    happened: VecDeque<ConnectionEvent>,
    /// What the library refused at once of what was published without an answer.
    refused: VecDeque<Failure>,
    subscriptions: HashMap<String, Listener>,
    requests: HashMap<String, Replies>,
}

/// A subscription, and the message that `respond` answers.
struct Listener {
    source: Source,
    last_message: Option<sapwood_client::Message>,
}

enum Source {
    Live(Subscription),
    /// What came before the end of a client that was drained.
    Drained(VecDeque<Event>),
}

impl Connected {
    /// Connects, and keeps all connection events from the first on. `connect` of the builder would give the client only
    /// when some may have passed, such as a DRAINING right behind the WELCOME.
    async fn connect(given: &Connect) -> Result<Connected, Failure> {
        let mut builder = Client::builder().address(&given.address);
        if let Some(user) = &given.user {
            builder = builder.user(user.0.clone());
        }
        if let Some(password) = &given.password {
            builder = builder.password(password.0.clone());
        }
        if let Some(name) = &given.name {
            builder = builder.name(name);
        }
        if let Some(policy) = given.policy {
            builder = builder.policy(policy);
        }
        let client = builder.start()?;
        let mut events = client.events();
        // Ends because the one address leads to a broker or does not.
        loop {
            match events.next().await {
                Some(ConnectionEvent::Connected { .. }) => break,
                Some(ConnectionEvent::ConnectFailed { reason, .. }) => {
                    client.close();
                    return Err((&reason).into());
                }
                Some(ConnectionEvent::Closed(reason)) => return Err((&reason).into()),
                Some(_) => {}
                None => return Err(Failure::closed("the client ended")),
            }
        }
        Ok(Connected {
            client,
            events,
            happened: VecDeque::new(),
            refused: VecDeque::new(),
            subscriptions: HashMap::new(),
            requests: HashMap::new(),
        })
    }

    async fn run(&mut self, command: ClientCommand) -> Result<Value, Failure> {
        match command {
            ClientCommand::Publish { message } => self.publish(&message).await?,
            ClientCommand::PublishConfirmed { message } => {
                let outgoing = message.outgoing();
                let reached = self.client.publish_message_confirmed(&outgoing).await?;
                return Ok(json!({ "count": reached.subscriptions }));
            }
            ClientCommand::Pipeline { messages } => return Ok(self.pipeline(&messages).await),
            ClientCommand::Subscribe {
                subscription,
                filter,
                group,
            } => self.subscribe(subscription, &filter, group).await?,
            ClientCommand::Unsubscribe { subscription } => {
                self.unsubscribe(&subscription).await?;
            }
            ClientCommand::Next {
                subscription,
                timeout_ms,
            } => return self.next(&subscription, timeout_ms).await,
            ClientCommand::Request { request, message } => {
                let outgoing = message.outgoing();
                let replies = self.client.request_message_many(&outgoing, None).await?;
                self.requests.insert(request, replies);
            }
            ClientCommand::NextReply {
                request,
                timeout_ms,
            } => return self.next_reply(&request, timeout_ms).await,
            ClientCommand::Respond {
                subscription,
                payload,
                last,
                headers,
            } => {
                let headers = headers.unwrap_or_default();
                self.respond(&subscription, &payload, last, &headers)
                    .await?;
            }
            ClientCommand::Ping => {
                self.client.ping().await?;
            }
            ClientCommand::Drain => self.drain().await?,
            ClientCommand::Close => self.close().await,
            ClientCommand::Wait { what, timeout_ms } => {
                let wait = self.wait(what);
                return within(timeout_ms, wait).await?;
            }
        }
        Ok(json!({}))
    }

    /// Publishes. What the library refuses at once is kept for `wait`, as if the broker had refused it later.
    async fn publish(&mut self, message: &Message) -> Result<(), Failure> {
        match self.client.publish_message(&message.outgoing()).await {
            Err(PublishError::Invalid(error)) => {
                self.refused.push_back(error.into());
                Ok(())
            }
            result => Ok(result?),
        }
    }

    /// Publishes all messages in order, then waits for the answers.
    async fn pipeline(&mut self, messages: &[Message]) -> Value {
        let client = &self.client;
        let publishes = messages.iter().map(|message| async move {
            let outgoing = message.outgoing();
            client.publish_message_confirmed(&outgoing).await
        });
        let answers = all(publishes).await.into_iter().map(|result| match result {
            Ok(reached) => json!({ "count": reached.subscriptions }),
            Err(error) => Failure::from(error).json(),
        });
        json!({ "answers": answers.collect::<Vec<_>>() })
    }

    async fn subscribe(
        &mut self,
        name: String,
        filter: &Bytes,
        group: Option<Bytes>,
    ) -> Result<(), Failure> {
        let group = group.unwrap_or_default();
        let subscription = self.client.subscription(&filter.0).group(&group.0);
        let listener = Listener {
            source: Source::Live(subscription.subscribe().await?),
            last_message: None,
        };
        self.subscriptions.insert(name, listener);
        Ok(())
    }

    /// Dropping a subscription unsubscribes, and a later answer says that this was done.
    async fn unsubscribe(&mut self, name: &str) -> Result<(), Failure> {
        self.subscriptions
            .remove(name)
            .ok_or_else(|| unknown(name))?;
        Ok(self.client.flush().await?)
    }

    async fn next(&mut self, name: &str, timeout_ms: u64) -> Result<Value, Failure> {
        let listener = self
            .subscriptions
            .get_mut(name)
            .ok_or_else(|| unknown(name))?;
        let event = match &mut listener.source {
            Source::Live(subscription) => within(timeout_ms, subscription.next()).await?,
            Source::Drained(events) => events.pop_front(),
        };
        match event {
            None => Ok(json!({ "end": true })),
            Some(Event::Message(message)) => {
                let answer = json!({ "message": Message::from(&message) });
                listener.last_message = Some(message);
                Ok(answer)
            }
            Some(Event::Gap { events }) => Ok(json!({ "gap": events })),
            Some(Event::Refused(refusal)) => Err((&refusal).into()),
            Some(Event::Reconnected) => Err(Failure::closed("another connection stands")),
            Some(other) => Err(Failure::agent(format!("{other:?} is not in the contract"))),
        }
    }

    async fn next_reply(&mut self, name: &str, timeout_ms: u64) -> Result<Value, Failure> {
        let replies = self.requests.get_mut(name).ok_or_else(|| unknown(name))?;
        // Ends because the replies end, or the time.
        let next = async {
            loop {
                match replies.next().await {
                    // The contract has no gaps among replies.
                    Some(Err(RequestError::Gap { .. })) => {}
                    reply => break reply,
                }
            }
        };
        match within(timeout_ms, next).await? {
            None => Ok(json!({ "end": true })),
            Some(reply) => Ok(json!({ "message": Message::from(&reply?) })),
        }
    }

    async fn respond(
        &mut self,
        name: &str,
        payload: &Bytes,
        last: bool,
        headers: &Headers,
    ) -> Result<(), Failure> {
        let listener = self.subscriptions.get(name).ok_or_else(|| unknown(name))?;
        let request = listener.last_message.as_ref();
        let request = request.ok_or_else(|| Failure::agent("there is nothing to respond to"))?;
        if headers.is_empty() {
            match last {
                true => self.client.reply(request, &payload.0).await?,
                false => self.client.reply_part(request, &payload.0).await?,
            }
            return Ok(());
        }
        let topic = request.reply();
        let topic = topic.ok_or_else(|| Failure::agent("no reply is asked for"))?;
        let mut reply = Outgoing::new(topic, &payload.0);
        for (name, value) in headers {
            reply = reply.header(&name.0, &value.0);
        }
        let reply = if last { reply.end() } else { reply };
        Ok(self.client.publish_message(&reply).await?)
    }

    /// Drains, which ends the client: the library waits until each subscription is read to its end, so they are read
    /// here, and what they gave waits for `next`. It also waits for replies until their time is over, so the requests
    /// that are open are given up.
    async fn drain(&mut self) -> Result<(), Failure> {
        self.requests.clear();
        let client = self.client.clone();
        let drained = tokio::spawn(async move { client.drain().await });
        let mut reading = Vec::new();
        for (name, listener) in self.subscriptions.drain() {
            let rest = tokio::spawn(read_to_end(listener.source));
            reading.push((name, rest, listener.last_message));
        }
        for (name, rest, last_message) in reading {
            let source = Source::Drained(rest.await.map_err(Failure::agent)?);
            let listener = Listener {
                source,
                last_message,
            };
            self.subscriptions.insert(name, listener);
        }
        Ok(drained.await.map_err(Failure::agent)??)
    }

    async fn close(&mut self) {
        self.client.close();
        // Ends because a client that is closed has no more events.
        while self.events.next().await.is_some() {}
    }

    /// Waits until this has happened.
    async fn wait(&mut self, what: For) -> Result<Value, Failure> {
        if let (For::Refused, Some(failure)) = (what, self.refused.pop_front()) {
            return Ok(json!({ "code": failure.code }));
        }
        let mut index = 0;
        // Ends because events end with the client, or with the time.
        loop {
            if index == self.happened.len() {
                let event = self.events.next().await;
                let event = event.ok_or_else(|| Failure::closed("the client has ended"))?;
                self.happened.push_back(event);
            }
            if let Some(answer) = answer_to(what, &self.happened[index]) {
                self.happened.remove(index);
                return Ok(answer);
            }
            index += 1;
        }
    }
}

/// What `wait` answers when this event has come, if it waits for it.
fn answer_to(what: For, event: &ConnectionEvent) -> Option<Value> {
    match (what, event) {
        (For::Draining, ConnectionEvent::Draining { within }) => {
            Some(json!({ "milliseconds": within.as_millis() as u64 }))
        }
        (For::Refused, ConnectionEvent::Refused(refusal)) => {
            Some(json!({ "code": refusal.number }))
        }
        (For::Closed, ConnectionEvent::Disconnected { reason }) => {
            Some(json!({ "code": json::disconnect_code(reason) }))
        }
        (For::Closed, ConnectionEvent::Closed(reason)) => {
            Some(json!({ "code": json::close_code(reason) }))
        }
        _ => None,
    }
}

async fn read_to_end(source: Source) -> VecDeque<Event> {
    match source {
        Source::Drained(events) => events,
        Source::Live(mut subscription) => {
            let mut events = VecDeque::new();
            // Ends because the client that is drained ends, after its time-out at the latest.
            while let Some(event) = subscription.next().await {
                events.push_back(event);
            }
            events
        }
    }
}

async fn within<T>(timeout_ms: u64, future: impl Future<Output = T>) -> Result<T, Failure> {
    let timeout = Duration::from_millis(timeout_ms);
    let result = tokio::time::timeout(timeout, future).await;
    result.map_err(|_| Failure::timeout())
}

/// The results of all futures, which are begun in their order before any is waited for.
async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut is_ready = true;
        for (future, result) in pending.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(output) => *result = Some(output),
                    Poll::Pending => is_ready = false,
                }
            }
        }
        if is_ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    results.into_iter().flatten().collect()
}
