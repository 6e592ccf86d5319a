//! MULTI, EXEC and DISCARD: commands are queued, then carried out one after the other.
//!
//! EXEC may have to wait between two commands. Events of other clients that come meanwhile follow its array, which
//! clients read as one value, even if the connection ended that subscription inside it; events that it publishes to
//! itself are inside, as in redis-server 7.0.

use super::calls::is_call;
use super::table::{Spec, Verb};
use super::{RedisSession, RedisStep};
use crate::context::Context;
use sapwood_wire::resp::{self, Arguments};
use std::collections::VecDeque;

/// A command queued for EXEC.
#[derive(Debug)]
struct Queued {
    spec: &'static Spec,
    ranges: Vec<(u32, u32)>,
    bytes: Vec<u8>,
}

/// The commands between MULTI and EXEC, and those that EXEC has yet to carry out.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    queue: VecDeque<Queued>,
    /// Number of commands queued, including those that EXEC has carried out.
    commands: usize,
    bytes: usize,
    /// A command was refused: EXEC will carry out none.
    failed: bool,
    executing: bool,
}

impl Transaction {
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    pub(super) fn is_executing(&self) -> bool {
        self.executing
    }

    pub(super) fn has_next(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.commands
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl RedisSession {
    /// Whether this command is queued for EXEC rather than carried out.
    pub(super) fn is_queued(&self, verb: Verb) -> bool {
        let at_once = matches!(
            verb,
            Verb::Exec | Verb::Discard | Verb::Multi | Verb::Watch | Verb::Quit | Verb::Reset
        );
        self.transaction.is_some() && !at_once
    }

    pub(super) fn queue(
        &mut self,
        spec: &'static Spec,
        arguments: Arguments<'_>,
        cx: &mut Context<'_>,
    ) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        if transaction.failed {
            // EXEC will carry out none, so nothing is kept; redis-server replies the same.
            return self.simple(cx, "QUEUED");
        }
        let size = arguments.iter().map(<[u8]>::len).sum::<usize>() + 8 * arguments.len() + 64;
        let cap = cx.settings().limits.transaction_bytes_max;
        if transaction.bytes + size > cap {
            transaction.fail();
            let text = format!("ERR the transaction is larger than {cap} bytes, DISCARD it");
            self.error(cx, text.as_bytes());
            return;
        }
        let mut bytes = Vec::new();
        let mut ranges = Vec::with_capacity(arguments.len());
        for argument in arguments.iter() {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(argument);
            ranges.push((start, bytes.len() as u32));
        }
        transaction.bytes += size;
        transaction.commands += 1;
        transaction.queue.push_back(Queued {
            spec,
            ranges,
            bytes,
        });
        self.simple(cx, "QUEUED");
    }

    pub(super) fn multi(&mut self, cx: &mut Context<'_>) {
        if self.transaction.is_some() {
            self.error(cx, b"ERR MULTI calls can not be nested");
            return;
        }
        self.transaction = Some(Box::default());
        self.simple(cx, "OK");
    }

    pub(super) fn discard(&mut self, cx: &mut Context<'_>) {
        match self.transaction.take() {
            None => self.error(cx, b"ERR DISCARD without MULTI"),
            Some(_) => self.simple(cx, "OK"),
        }
    }

    pub(super) fn watch(&mut self, cx: &mut Context<'_>) {
        if self.transaction.is_some() {
            self.error(cx, b"ERR WATCH inside MULTI is not allowed");
            return;
        }
        self.simple(cx, "OK");
    }

    /// Writes the head of EXEC's array; [`continue_exec`](Self::continue_exec) carries out the commands.
    pub(super) fn begin_exec(&mut self, cx: &mut Context<'_>) {
        let Some(mut transaction) = self.transaction.take() else {
            self.error(cx, b"ERR EXEC without MULTI");
            return;
        };
        if transaction.failed {
            self.error(
                cx,
                b"EXECABORT Transaction discarded because of previous errors.",
            );
            return;
        }
        self.write(cx, |out| resp::array(out, transaction.commands));
        transaction.executing = true;
        self.transaction = Some(transaction);
    }

    /// Carries out the next command of a transaction in progress.
    ///
    /// The transaction is kept until its last command is answered, for CLIENT LIST.
    pub(super) fn continue_exec(&mut self, cx: &mut Context<'_>) -> RedisStep {
        let next = self
            .transaction
            .as_mut()
            .and_then(|transaction| transaction.queue.pop_front());
        let Some(queued) = next else {
            if cx.must_wait_for_calls() {
                return RedisStep::Wait;
            }
            self.transaction = None;
            cx.end_reply();
            return RedisStep::Done;
        };
        let arguments = Arguments::new(&queued.ranges, &queued.bytes);
        if queued.spec.verb == Verb::Ssubscribe {
            self.error(
                cx,
                b"ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client",
            );
            return RedisStep::Done;
        }
        let step = match !is_call(queued.spec.verb) && cx.must_wait_for_calls() {
            true => RedisStep::Hold,
            false => self.execute(queued.spec, arguments, cx),
        };
        if let (RedisStep::Hold | RedisStep::Yield, Some(transaction)) =
            (&step, &mut self.transaction)
        {
            transaction.queue.push_front(queued);
        }
        step
    }
}
