//! Commands that are answered by calls to shards: INFO, CLIENT LIST, CLIENT KILL, PUBSUB CHANNELS.
//!
//! Pipelined calls go out at once; each has its reply slot. As the length of a reply comes before it, the reply is
//! spooled: it counts as output while it grows. Start at [`RedisSession::answered`].

use super::table::Verb;
use super::{RedisSession, RedisStep};
use crate::command::{
    Answer, Answers, CallError, CallId, ConnId, FilterKind, Query, Round, Selected, Selection,
    Sort, Written,
};
use crate::context::Context;
use crate::session::listing::{Listed, Listing};
use sapwood_wire::resp;
use std::sync::Arc;

/// A call that is not answered yet.
#[derive(Debug)]
pub(super) struct PendingCall {
    /// Whether the client wants the reply (CLIENT REPLY).
    is_wanted: bool,
    reply: PendingReply,
}

/// What a call is for, and what it has gathered.
#[derive(Debug)]
pub(super) enum PendingReply {
    Info(Vec<String>),
    ClientList(Listing),
    Names {
        kind: FilterKind,
        pattern: Option<Arc<[u8]>>,
        count: usize,
    },
    Kill {
        selection: Arc<Selection>,
        count: u64,
        /// Old form with an address alone: answered with OK or an error rather than a number.
        is_by_address: bool,
    },
}

/// Next step after the answers of a round.
enum AfterRound {
    Ask(Round),
    /// The reply is whole: this head comes before what was spooled.
    End(Vec<u8>),
}

/// Whether a command may go out before earlier calls are answered: it is a call itself, and changes nothing.
pub(super) fn is_call(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Info
            | Verb::ClientInfo
            | Verb::ClientList
            | Verb::PubsubChannels
            | Verb::PubsubShardchannels
    )
}

impl RedisSession {
    pub(super) fn ask_info(&mut self, sections: Vec<String>, cx: &mut Context<'_>) -> RedisStep {
        let call = cx.ask_all(&Query::Counters, Written::Spooled);
        self.pend(call, PendingReply::Info(sections))
    }

    pub(super) fn ask_clients(&mut self, selection: Selection, cx: &mut Context<'_>) -> RedisStep {
        let (listing, first) = Listing::new(selection, Sort::Id, 0..usize::MAX, false);
        let call = cx.ask_all(&first, Written::Spooled);
        self.pend(call, PendingReply::ClientList(listing))
    }

    /// Asks for this client's own record (CLIENT INFO).
    pub(super) fn ask_itself(&mut self, cx: &mut Context<'_>) -> RedisStep {
        let (listing, round) = Listing::of_one(Selected {
            rank: 0,
            client: cx.client(),
            shard: cx.settings().shard,
            conn: cx.conn(),
        });
        let call = cx.ask(round, Written::Spooled);
        self.pend(call, PendingReply::ClientList(listing))
    }

    pub(super) fn ask_names(
        &mut self,
        kind: FilterKind,
        pattern: Option<&[u8]>,
        cx: &mut Context<'_>,
    ) -> RedisStep {
        let pattern = pattern.map(Arc::from);
        let round = names_round(kind, &pattern, 0, cx);
        let call = cx.ask(round, Written::Spooled);
        let reply = PendingReply::Names {
            kind,
            pattern,
            count: 0,
        };
        self.pend(call, reply)
    }

    /// Closes clients; later commands wait until that is done.
    pub(super) fn ask_kill(
        &mut self,
        selection: Selection,
        is_by_address: bool,
        cx: &mut Context<'_>,
    ) -> RedisStep {
        let selection = Arc::new(selection);
        let query = Query::Kill {
            selection: Arc::clone(&selection),
            from: ConnId(0),
        };
        let call = cx.ask_all(&query, Written::Short);
        let reply = PendingReply::Kill {
            selection,
            count: 0,
            is_by_address,
        };
        match self.pend(call, reply) {
            RedisStep::Done => {
                cx.wait_for_calls();
                RedisStep::Wait
            }
            step => step,
        }
    }

    fn pend(&mut self, call: Option<CallId>, reply: PendingReply) -> RedisStep {
        let Some(call) = call else {
            return RedisStep::Hold;
        };
        let is_wanted = self.is_reply_wanted();
        self.pending.put(call, PendingCall { is_wanted, reply });
        RedisStep::Done
    }

    /// Takes the answers of a round: spools them, and asks on or ends the reply.
    pub(crate) fn answered(
        &mut self,
        call: CallId,
        answers: Result<Answers, CallError>,
        cx: &mut Context<'_>,
    ) {
        let mut one = self.pending.take(call);
        let next = match answers {
            Ok(answers) => self.take_answers((call, &mut one), answers, cx),
            Err(error) => Err(format!("ERR {error}")),
        };
        let mut head = match next {
            Ok(AfterRound::Ask(round)) => {
                cx.ask_on(call, round);
                return self.pending.put(call, one);
            }
            Ok(AfterRound::End(head)) => head,
            Err(text) => {
                cx.counters().errors += 1;
                cx.drop_spooled(call);
                let mut reply = Vec::new();
                resp::error(&mut reply, text.as_bytes());
                reply
            }
        };
        if !one.is_wanted {
            cx.drop_spooled(call);
            head.clear();
        }
        cx.end_call(call, &head);
    }

    /// Takes the answers of a round; gives the next step, or the error to reply.
    fn take_answers(
        &mut self,
        (call, one): (CallId, &mut PendingCall),
        answers: Answers,
        cx: &mut Context<'_>,
    ) -> Result<AfterRound, String> {
        let (is_wanted, version) = (one.is_wanted, self.version);
        let mut head = Vec::new();
        match &mut one.reply {
            PendingReply::Info(sections) => {
                let text = self.info(sections, answers, cx);
                resp::verbatim(&mut head, version, text.as_bytes());
            }
            PendingReply::ClientList(listing) => {
                let (listed, next) = listing.answered(answers);
                cx.reserve(call, listing.kept_bytes());
                if let Listed::Clients(records) = listed {
                    let user = cx.settings().user();
                    spool(call, is_wanted, cx, |out| {
                        for record in &records {
                            super::client::write_record(record, user, out);
                        }
                    })?;
                }
                if let Some(round) = next {
                    return Ok(AfterRound::Ask(round));
                }
                let length = cx.spool(call, |_| {});
                cx.spool(call, |out| out.extend_from_slice(b"\r\n"));
                resp::verbatim_header(&mut head, version, length);
            }
            PendingReply::Names {
                kind,
                pattern,
                count,
            } => {
                let mut next = None;
                for (_, answer) in answers {
                    let Answer::Names { names, next: from } = answer else {
                        unreachable!("{answer:?} are no names");
                    };
                    *count += names.len();
                    next = from;
                    spool(call, is_wanted, cx, |out| {
                        names.iter().for_each(|name| resp::bulk(out, name));
                    })?;
                }
                if let Some(from) = next {
                    return Ok(AfterRound::Ask(names_round(*kind, pattern, from, cx)));
                }
                resp::array(&mut head, *count);
            }
            PendingReply::Kill {
                selection,
                count,
                is_by_address,
            } => {
                let round = count_killed(selection, count, answers);
                if !round.is_empty() {
                    return Ok(AfterRound::Ask(round));
                }
                match (*is_by_address, *count) {
                    (true, 0) => return Err("ERR No such client".to_string()),
                    (true, _) => resp::simple(&mut head, "OK"),
                    (false, count) => resp::integer(&mut head, count as i64),
                }
            }
        }
        Ok(AfterRound::End(head))
    }
}

/// Adds the clients that shards have closed; gives the round for those that have looked at a part of theirs.
fn count_killed(selection: &Arc<Selection>, count: &mut u64, answers: Answers) -> Round {
    let mut round = Round::new();
    for (shard, answer) in answers {
        let Answer::Killed {
            count: closed,
            next,
        } = answer
        else {
            unreachable!("{answer:?} says nobody was closed");
        };
        *count += closed;
        let selection = Arc::clone(selection);
        round.extend(next.map(|from| (shard, Query::Kill { selection, from })));
    }
    round
}

/// The round for the next names; it asks this shard only, as every shard knows the names of all.
fn names_round(
    kind: FilterKind,
    pattern: &Option<Arc<[u8]>>,
    from: usize,
    cx: &Context<'_>,
) -> Round {
    let query = Query::ActiveNames {
        kind,
        pattern: pattern.clone(),
        from,
    };
    vec![(cx.settings().shard, query)]
}

/// Spools a part of a reply, if the client wants it; refuses a reply longer than the cap on one outbox.
fn spool(
    call: CallId,
    is_wanted: bool,
    cx: &mut Context<'_>,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Result<(), String> {
    if !is_wanted {
        return Ok(());
    }
    let cap = cx.settings().limits.outbox_bytes_max;
    match cx.spool(call, encode) <= cap {
        true => Ok(()),
        false => Err(format!(
            "ERR the reply is longer than {cap} bytes, the most that may wait for a client; ask for less, by a pattern, a type or ids"
        )),
    }
}
