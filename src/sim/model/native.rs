//! What native requests do, and what they are answered with.

use super::{Model, ShardModel, forget};
use crate::command::{Filter, NO_GROUP};
use crate::expect::What;
use crate::native::Request;
use crate::{Failure, fail};
use sapwood_core::Protocol;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::native::When;
use std::collections::BTreeSet;

impl Model {
    /// Carries a request out; all but what closes the connection is counted.
    pub(super) fn native_request(&mut self, key: usize, request: &Request) -> Result<(), Failure> {
        match *request {
            Request::Hello { policy } => {
                let conn = self.conn(key);
                conn.authenticated = true;
                conn.stream.policy = policy.unwrap_or(conn.stream.policy);
                self.owe(key, What::Welcome { id: key as u64 + 1 });
            }
            Request::Message(ref event) => {
                self.publish(key, event)?;
            }
            Request::Publish {
                request,
                when,
                ref event,
            } => {
                let count = self.publish(key, event)?;
                if when == When::Always || count == 0 {
                    self.owe_ack(key, request, count);
                }
            }
            Request::Subscribe { request, sub } => {
                let Some(id) = self.add_subscription(key, sub.number, sub.filter) else {
                    let code = ErrorCode::SubscriptionsFull;
                    self.owe(key, What::Refused { request, code });
                    return Ok(());
                };
                let count = self.conn(key).subscriptions.len() as u64;
                let subscription = Some(id);
                self.owe(
                    key,
                    What::Ack {
                        request,
                        count,
                        subscription,
                    },
                );
            }
            Request::Unsubscribe { request, sub } => {
                self.drop_subscription(key, sub.number, sub.filter);
                let count = self.conn(key).subscriptions.len() as u64;
                self.owe_ack(key, request, count);
            }
            Request::Ping { request } => self.owe_ack(key, request, 0),
            Request::Drain { request } => self.begin_drain(key, request),
            Request::Refused { request, code } => self.owe(key, What::Refused { request, code }),
        }
        Ok(())
    }

    /// Members of groups leave at once, because others take their turns. The other subscriptions are
    /// gone for who publishes from now on, and hear what is on its way until all shards know that.
    fn begin_drain(&mut self, key: usize, request: u32) {
        let many = self.shards.len() > 1;
        let conn = self.conn(key);
        let shard = conn.shard;
        let all = std::mem::take(&mut conn.subscriptions);
        conn.draining = Some((request, all.len() as u64));
        conn.barrier |= many && !all.is_empty();
        let (plain, members): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|sub| sub.filter.2 == NO_GROUP);
        let ShardModel { table, leaving, .. } = &mut self.shards[shard];
        members.iter().for_each(|sub| forget(table, sub.filter));
        for sub in &plain {
            forget(table, sub.filter);
            *leaving.entry(sub.filter).or_default() += 1;
        }
        self.conn(key).subscriptions = plain;
        if !self.conn(key).barrier {
            self.end_drain(key);
        }
    }

    /// Answers a DRAIN whose events have all come.
    pub(super) fn end_drain(&mut self, key: usize) {
        if let Some((request, count)) = self.conn(key).draining {
            self.leave(key);
            self.owe_ack(key, request, count);
        }
    }

    fn owe_ack(&mut self, key: usize, request: u32, count: u64) {
        let subscription = None;
        self.owe(
            key,
            What::Ack {
                request,
                count,
                subscription,
            },
        );
    }

    /// Compares a connection's subscriptions, each with its number, with what they should be.
    pub(crate) fn check_subscriptions(
        &mut self,
        key: usize,
        wanted: BTreeSet<(Filter, u32)>,
    ) -> Result<(), Failure> {
        let subscriptions = self.conn(key).subscriptions.iter();
        let found = subscriptions.map(|sub| (sub.filter, sub.number));
        let found: BTreeSet<(Filter, u32)> = found.collect();
        match found == wanted {
            true => Ok(()),
            false => fail(
                "machine",
                format!("client {key} is subscribed to {found:?}, not {wanted:?}"),
            ),
        }
    }

    /// The shard's native clients are told that the node ends.
    pub(crate) fn announced(&mut self, shard: usize, milliseconds: u32) -> u64 {
        let mut told = 0;
        for key in self.shards[shard].open.clone() {
            let conn = self.conn(key);
            if conn.protocol == Protocol::Native && conn.authenticated {
                self.owe(key, What::Draining(milliseconds));
                told += 1;
            }
        }
        told
    }
}
