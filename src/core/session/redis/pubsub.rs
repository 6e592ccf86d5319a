//! Commands of publish/subscribe: SUBSCRIBE, UNSUBSCRIBE and their variants, PUBLISH, PUBSUB.

use super::table::Verb;
use super::{RedisSession, RedisStep, RequestPart};
use crate::command::{Event, Filter, FilterKind, Refusal, Space};
use crate::context::Context;
use crate::limits::CHANGES_IN_A_REQUEST;
use sapwood_wire::resp::{self, Arguments, Version};
use sapwood_wire::topic;

/// The kind of filter of a command, and the first word of its confirmation.
fn subject(verb: Verb) -> (FilterKind, &'static [u8]) {
    match verb {
        Verb::Psubscribe => (FilterKind::Glob, b"psubscribe"),
        Verb::Ssubscribe => (FilterKind::ShardChannel, b"ssubscribe"),
        Verb::Unsubscribe => (FilterKind::Topic, b"unsubscribe"),
        Verb::Punsubscribe => (FilterKind::Glob, b"punsubscribe"),
        Verb::Sunsubscribe => (FilterKind::ShardChannel, b"sunsubscribe"),
        _ => (FilterKind::Topic, b"subscribe"),
    }
}

/// The count in a confirmation: shard channels are counted apart from channels and patterns.
fn confirmed_count(cx: &Context<'_>, kind: FilterKind) -> i64 {
    let count = |kind| cx.count(kind) as i64;
    match kind {
        FilterKind::ShardChannel => count(kind),
        _ => count(FilterKind::Topic) + count(FilterKind::Glob),
    }
}

/// Number of a subscription among those to one filter: there is at most one.
const NUMBER: u32 = 0;

impl RedisSession {
    pub(super) fn publish(
        &mut self,
        verb: Verb,
        arguments: Arguments<'_>,
        cx: &mut Context<'_>,
    ) -> RedisStep {
        let (Some(name), Some(payload)) = (arguments.get(1), arguments.get(2)) else {
            unreachable!("the table says that PUBLISH has three words");
        };
        let space = match verb {
            Verb::Spublish => Space::ShardChannel,
            _ => Space::Topic,
        };
        if let Err(refusal) = cx.check_topic(space, name) {
            self.refuse(refusal, cx);
            return RedisStep::Done;
        }
        match cx.publish(Event::plain(space, name, payload)) {
            None => RedisStep::Hold,
            Some(subscriptions) => {
                self.integer(cx, subscriptions as i64);
                RedisStep::Done
            }
        }
    }

    pub(super) fn subscribe(
        &mut self,
        verb: Verb,
        names: Arguments<'_>,
        cx: &mut Context<'_>,
    ) -> RedisStep {
        let (kind, word) = subject(verb);
        self.each_name(names, cx, |this, name, cx| {
            match cx.subscribe(NUMBER, Filter::plain(kind, name)) {
                Ok(_) => this.confirm(word, Some(name), kind, cx),
                Err(refusal) => this.refuse(refusal, cx),
            }
        })
    }

    pub(super) fn unsubscribe(
        &mut self,
        verb: Verb,
        names: Arguments<'_>,
        cx: &mut Context<'_>,
    ) -> RedisStep {
        let (kind, word) = subject(verb);
        if names.len() > 1 {
            return self.each_name(names, cx, |this, name, cx| {
                this.unsubscribe_one(word, name, kind, cx);
            });
        }
        // Backwards, because the last subscription takes the place of one that ends.
        let from = match self.part.next {
            0 => cx.count_all(),
            next => next as usize - 1,
        };
        if cx.count(kind) == 0 && self.part.next == 0 {
            self.confirm(word, None, kind, cx);
            return RedisStep::Done;
        }
        let (some, next) = cx.names_before(from, kind, CHANGES_IN_A_REQUEST);
        for name in some {
            self.unsubscribe_one(word, &name, kind, cx);
        }
        self.part.next = match cx.count(kind) {
            0 => 0,
            _ => next as u32 + 1,
        };
        match self.part.next {
            0 => RedisStep::Done,
            _ => RedisStep::Yield,
        }
    }

    /// Carries out the next names of a request.
    fn each_name(
        &mut self,
        names: Arguments<'_>,
        cx: &mut Context<'_>,
        each: impl Fn(&mut RedisSession, &[u8], &mut Context<'_>),
    ) -> RedisStep {
        let first = (self.part.next as usize).max(1);
        let end = names.len().min(first + CHANGES_IN_A_REQUEST);
        for name in (first..end).filter_map(|place| names.get(place)) {
            each(self, name, cx);
        }
        if end < names.len() {
            self.part.next = end as u32;
            return RedisStep::Yield;
        }
        self.part = RequestPart::default();
        RedisStep::Done
    }

    fn unsubscribe_one(&self, word: &[u8], name: &[u8], kind: FilterKind, cx: &mut Context<'_>) {
        cx.unsubscribe(NUMBER, Filter::plain(kind, name));
        self.confirm(word, Some(name), kind, cx);
    }

    /// Writes a confirmation. It is a push, so it is written even if replies are not wanted.
    fn confirm(&self, word: &[u8], name: Option<&[u8]>, kind: FilterKind, cx: &mut Context<'_>) {
        let count = confirmed_count(cx, kind);
        let version = self.version;
        cx.reply(|out| {
            resp::push(out, version, 3);
            resp::bulk(out, word);
            match name {
                Some(name) => resp::bulk(out, name),
                None => resp::null(out, version),
            }
            resp::integer(out, count);
        });
    }

    fn refuse(&self, refusal: Refusal, cx: &mut Context<'_>) {
        self.error(cx, format!("ERR {refusal}").as_bytes());
    }

    pub(super) fn pubsub(
        &mut self,
        verb: Verb,
        arguments: Arguments<'_>,
        cx: &mut Context<'_>,
    ) -> RedisStep {
        match verb {
            Verb::PubsubNumpat => {
                let count = cx.active_globs() as i64;
                self.integer(cx, count);
            }
            Verb::PubsubNumsub | Verb::PubsubShardnumsub => {
                let kind = match verb {
                    Verb::PubsubNumsub => FilterKind::Topic,
                    _ => FilterKind::ShardChannel,
                };
                let counts: Vec<(&[u8], u64)> = arguments
                    .iter()
                    .skip(2)
                    .map(|name| (name, cx.listeners(Filter::plain(kind, name))))
                    .collect();
                self.write(cx, |out| {
                    resp::array(out, counts.len() * 2);
                    for (name, count) in counts {
                        resp::bulk(out, name);
                        resp::integer(out, count as i64);
                    }
                });
            }
            _ => return self.active_channels(verb, arguments, cx),
        }
        RedisStep::Done
    }

    fn active_channels(
        &mut self,
        verb: Verb,
        arguments: Arguments<'_>,
        cx: &mut Context<'_>,
    ) -> RedisStep {
        if arguments.len() > 3 {
            let word = super::shown(arguments.get(1).unwrap_or_default(), 128);
            let text = [
                b"ERR unknown subcommand or wrong number of arguments for '",
                word,
                b"'. Try PUBSUB HELP.",
            ];
            self.error(cx, &text.concat());
            return RedisStep::Done;
        }
        let pattern = arguments.get(2);
        if let Some(Err(error)) = pattern.map(topic::check_name) {
            // Bounds the cost of matching, which is the product of both lengths for every name.
            self.refuse(Refusal::Name(error), cx);
            return RedisStep::Done;
        }
        let kind = match verb {
            Verb::PubsubChannels => FilterKind::Topic,
            _ => FilterKind::ShardChannel,
        };
        self.ask_names(kind, pattern, cx)
    }

    /// Whether PING is answered in the form for subscribers.
    pub(super) fn pings_as_subscriber(&self, cx: &Context<'_>) -> bool {
        self.version == Version::Two && cx.listens()
    }
}
