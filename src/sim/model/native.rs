//! What native requests do, and what they are answered with.

use super::Model;
use crate::Failure;
use crate::expect::What;
use crate::native::Request;
use sapwood_core::Protocol;
use sapwood_wire::error::ErrorCode;
use sapwood_wire::native::When;

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
            Request::Drain { request } => {
                let count = self.conn(key).subscriptions.len() as u64;
                self.leave(key);
                self.owe_ack(key, request, count);
            }
            Request::Refused { request, code } => self.owe(key, What::Refused { request, code }),
        }
        Ok(())
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
