//! A list of clients from all shards: first the clients that match a selection, then, a part at a time, the record of
//! each.
//!
//! Owns what one such call has gathered: a few words for each client that will be shown, and the records of one part at
//! most. Must not know how they are written. Start at [`Listing::new`].

use crate::command::{
    Answer, Answers, ClientId, ClientRecord, ConnId, Query, Round, Selected, Selection, ShardId,
    Sort, Subscribed,
};
use crate::limits::CALL_CLIENTS_MAX;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Clients kept beyond those that will be shown, before the rest is dropped.
const KEPT_BEYOND: usize = CALL_CLIENTS_MAX;

/// A list in progress.
#[derive(Debug)]
pub(crate) struct Listing {
    selection: Arc<Selection>,
    sort: Sort,
    /// Which of the matching clients are shown, as a range of their order.
    range: Range<usize>,
    with_subscriptions: bool,
    /// All shards have named their matching clients.
    is_selected: bool,
    /// The matching clients: all so far, later only those that are shown.
    found: Vec<Selected>,
    /// Number of matching clients.
    total: usize,
    /// The current part, as a range of `found`.
    part: Range<usize>,
}

/// What a round brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// Nothing to show.
    Nothing,
    /// These clients; if the last has more subscriptions than its record shows, they come next.
    Clients(Vec<ClientRecord>),
    /// More subscriptions of the last client, and whether still more come.
    Subscriptions(Vec<Subscribed>, bool),
}

impl Listing {
    /// A list of the clients that match a selection, and the first query for all shards.
    pub(crate) fn new(
        selection: Selection,
        sort: Sort,
        range: Range<usize>,
        with_subscriptions: bool,
    ) -> (Listing, Query) {
        let selection = Arc::new(selection);
        let first = Query::Select {
            selection: Arc::clone(&selection),
            sort,
            from: ConnId(0),
        };
        let listing = Listing {
            selection,
            sort,
            range,
            with_subscriptions,
            is_selected: false,
            found: Vec::new(),
            total: 0,
            part: 0..0,
        };
        (listing, first)
    }

    /// A list of a single client, and the round that asks for it.
    pub(crate) fn of_one(client: Selected) -> (Listing, Round) {
        let (mut listing, _) = Listing::new(Selection::default(), Sort::Id, 0..1, false);
        listing.is_selected = true;
        listing.found.push(client);
        listing.total = 1;
        // invariant: there is one client.
        let round = listing.describe_next().expect("a client to be described");
        (listing, round)
    }

    /// Number of matching clients, shown or not; known once all shards have answered.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Whether the clients that are shown are known.
    pub(crate) fn is_selected(&self) -> bool {
        self.is_selected
    }

    /// Bytes of memory that it takes.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.found.capacity() * size_of::<Selected>()
    }

    /// Takes the answers of a round. Gives what is shown, and the next round unless this was the last.
    pub(crate) fn answered(&mut self, answers: Answers) -> (Listed, Option<Round>) {
        if !self.is_selected {
            return (Listed::Nothing, self.select(answers));
        }
        let mut records = Vec::new();
        for (shard, answer) in answers {
            match answer {
                Answer::Described(described) => records.extend(described),
                Answer::Subscribed { listens_to, next } => {
                    let next_round = match next {
                        Some(from) => Some(self.ask_subscriptions(from)),
                        None => self.describe_next(),
                    };
                    return (
                        Listed::Subscriptions(listens_to, next.is_some()),
                        next_round,
                    );
                }
                answer => unreachable!("{shard:?} answers {answer:?}"),
            }
        }
        let part = &self.found[self.part.clone()];
        records.sort_by_cached_key(|record| {
            let mut part = part.iter();
            part.position(|selected| selected.client == record.id)
        });
        let listens_next = records.last().and_then(|record| record.listens_next);
        let round = match listens_next {
            Some(from) => Some(self.ask_subscriptions(from)),
            None => self.describe_next(),
        };
        (Listed::Clients(records), round)
    }

    /// Takes the matching clients of a round; gives the next round, if any.
    fn select(&mut self, answers: Answers) -> Option<Round> {
        let mut round = Round::new();
        for (shard, answer) in answers {
            let Answer::Selected { found, next } = answer else {
                unreachable!("{shard:?} answers {answer:?}");
            };
            self.total += found.len();
            self.found.extend(found);
            if let Some(from) = next {
                let query = Query::Select {
                    selection: Arc::clone(&self.selection),
                    sort: self.sort,
                    from,
                };
                round.push((shard, query));
            }
        }
        if self.found.len() > self.range.end.saturating_mul(2).saturating_add(KEPT_BEYOND) {
            self.keep_first();
        }
        if !round.is_empty() {
            return Some(round);
        }
        self.keep_first();
        self.found.drain(..self.range.start.min(self.found.len()));
        self.found.shrink_to_fit();
        self.is_selected = true;
        self.describe_next()
    }

    fn keep_first(&mut self) {
        self.found
            .sort_unstable_by_key(|client| (Reverse(client.rank), client.client));
        self.found.truncate(self.range.end);
    }

    /// The round for the next part, if there is one.
    fn describe_next(&mut self) -> Option<Round> {
        // One client at a time, as it may have many subscriptions, which come after its record.
        let most = if self.with_subscriptions {
            1
        } else {
            CALL_CLIENTS_MAX
        };
        let start = self.part.end;
        self.part = start..(start + most).min(self.found.len());
        let mut each: BTreeMap<ShardId, Vec<(ConnId, ClientId)>> = BTreeMap::new();
        for client in &self.found[self.part.clone()] {
            let of_shard = each.entry(client.shard).or_default();
            of_shard.push((client.conn, client.client));
        }
        let with_subscriptions = self.with_subscriptions;
        let round = each.into_iter().map(|(shard, clients)| {
            let query = Query::Describe {
                clients,
                with_subscriptions,
            };
            (shard, query)
        });
        let round: Round = round.collect();
        (!round.is_empty()).then_some(round)
    }

    fn ask_subscriptions(&self, from: usize) -> Round {
        // With subscriptions, a part is a single client.
        let Selected {
            client,
            shard,
            conn,
            ..
        } = self.found[self.part.start];
        vec![(shard, Query::SubscriptionsOf { conn, client, from })]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Form, Volume};
    use core::net::SocketAddr;

    fn selected(rank: u64, client: u64, shard: u16) -> Selected {
        Selected {
            rank,
            client: ClientId(client),
            shard: ShardId(shard),
            conn: ConnId(client as u32),
        }
    }

    fn record(client: u64, listens_next: Option<usize>) -> ClientRecord {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        ClientRecord {
            id: ClientId(client),
            shard: ShardId(0),
            peer: nowhere,
            local: nowhere,
            name: Vec::new(),
            library: Default::default(),
            age_s: 0,
            idle_s: 0,
            subscriptions: [0; 3],
            queued: None,
            output: (0, 0),
            lost: 0,
            published: Volume::default(),
            delivered: Volume::default(),
            form: Form::Nats,
            listens_to: Vec::new(),
            listens_next,
            database: 0,
            version: 0,
            command: "",
            no_evict: false,
        }
    }

    /// Answers rounds until the list ends, as shards with these clients would; gives the clients shown, and the most
    /// clients of one round.
    fn run(listing: &mut Listing, first: Query, each: &[Vec<Selected>]) -> (Vec<u64>, usize) {
        let shards = (0..each.len() as u16).map(ShardId);
        let mut round: Option<Round> = Some(shards.map(|shard| (shard, first.clone())).collect());
        let (mut shown, mut most) = (Vec::new(), 0);
        while let Some(asked) = round {
            let answers = asked.into_iter().map(|(shard, query)| {
                let own = &each[usize::from(shard.0)];
                let answer = match query {
                    Query::Select { from, .. } => {
                        // Three clients at a time.
                        let (start, end) = (from.slot(), own.len().min(from.slot() + 3));
                        Answer::Selected {
                            found: own[start..end].to_vec(),
                            next: (end < own.len()).then_some(ConnId(end as u32)),
                        }
                    }
                    Query::Describe { clients, .. } => {
                        most = most.max(clients.len());
                        // The first client of each shard has gone.
                        let there = clients.iter().filter(|(_, client)| client.0 >= 2);
                        Answer::Described(there.map(|&(_, id)| record(id.0, None)).collect())
                    }
                    query => panic!("not asked here: {query:?}"),
                };
                (shard, answer)
            });
            let (listed, next) = listing.answered(answers.collect());
            if let Listed::Clients(records) = listed {
                shown.extend(records.iter().map(|record| record.id.0));
            }
            round = next;
        }
        (shown, most)
    }

    #[test]
    fn lists_come_in_their_order_across_shards_and_parts() {
        let of_shard = |shard: u16| {
            let clients = (0..400).map(move |client| client * 2 + u64::from(shard));
            clients
                .map(move |client| selected(0, client, shard))
                .collect()
        };
        let each = [of_shard(0), of_shard(1)];
        let all = Selection::default;
        let (mut listing, first) = Listing::new(all(), Sort::Id, 0..usize::MAX, false);
        let (shown, most) = run(&mut listing, first, &each);
        assert_eq!(shown, (2..800).collect::<Vec<u64>>());
        assert_eq!(listing.total(), 800);
        assert!(most <= CALL_CLIENTS_MAX);
        let (mut listing, first) = Listing::new(all(), Sort::Id, 10..15, false);
        assert_eq!(run(&mut listing, first, &each).0, [10, 11, 12, 13, 14]);
        assert_eq!(listing.total(), 800);
        assert!(listing.kept_bytes() < 16 * size_of::<Selected>());
    }

    #[test]
    fn the_largest_come_first() {
        let each = [
            vec![selected(5, 10, 0), selected(9, 12, 0), selected(1, 14, 0)],
            vec![selected(7, 11, 1), selected(9, 13, 1)],
        ];
        let (mut listing, first) = Listing::new(Selection::default(), Sort::Idle, 1..4, false);
        assert_eq!(run(&mut listing, first, &each).0, [13, 11, 10]);
    }

    #[test]
    fn many_subscriptions_come_in_parts_behind_their_client() {
        let (mut listing, _) = Listing::new(Selection::default(), Sort::Id, 0..9, true);
        let found = vec![selected(0, 3, 0), selected(0, 4, 0)];
        let answer = Answer::Selected { found, next: None };
        let (_, round) = listing.answered(vec![(ShardId(0), answer)]);
        assert!(matches!(
            round.as_deref(),
            Some([(
                ShardId(0),
                Query::Describe {
                    with_subscriptions: true,
                    ..
                }
            )])
        ));
        let answer = Answer::Described(vec![record(3, Some(50))]);
        let (_, round) = listing.answered(vec![(ShardId(0), answer)]);
        let more = Query::SubscriptionsOf {
            conn: ConnId(3),
            client: ClientId(3),
            from: 50,
        };
        assert_eq!(round, Some(vec![(ShardId(0), more)]));
        let listens_to = vec![Subscribed {
            name: Box::from(&b"a"[..]),
            group: None,
            named: None,
        }];
        let answer = Answer::Subscribed {
            listens_to: listens_to.clone(),
            next: None,
        };
        let (listed, round) = listing.answered(vec![(ShardId(0), answer)]);
        assert_eq!(listed, Listed::Subscriptions(listens_to, false));
        assert!(matches!(
            round.as_deref(),
            Some([(_, Query::Describe { .. })])
        ));
    }
}
