//! A page of the list of all streams, put together from those of all workers.
//!
//! Owns what was found so far. Invariants: it keeps at most one page, by name; no name before its end is missing, because
//! it ends where a worker's own page ended. Start at [`Listing::answered`].

use super::route::Page;
use super::{Following, config, request_of};
use crate::command::{Query, ShardId};
use crate::context::Context;
use bytes::Bytes;
use sapwood_wire::limits::ANSWER_PART_BYTES;
use sapwood_wire::state::{Ask, List, Rest, StreamInfo};
use serde_json::{Value, json};

/// A page in progress.
#[derive(Debug)]
pub(in super::super) struct Listing {
    page: Page,
    /// The worker that is asked now, and the last one's successor.
    worker: u16,
    end: u16,
    found: Vec<StreamInfo>,
    /// Whether there are streams behind those found.
    rest: Rest,
}

fn bytes_of(info: &StreamInfo) -> usize {
    let filters = info.config.filters.iter().map(Vec::len);
    size_of::<StreamInfo>() + info.config.name.len() + filters.sum::<usize>()
}

impl Listing {
    pub(super) fn new(page: Page, cx: &Context<'_>) -> Listing {
        let settings = cx.settings();
        Listing {
            page,
            worker: settings.shards,
            end: settings.shards + settings.workers,
            found: Vec::new(),
            rest: Rest::Done,
        }
    }

    /// The first worker to be asked, and what.
    pub(super) fn first(&self) -> (ShardId, Bytes) {
        let list = List {
            after: &self.page.after,
            prefix: &self.page.prefix,
            most: self.page.limit,
        };
        (ShardId(self.worker), request_of(Ask::List(list)))
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.found.iter().map(bytes_of).sum()
    }

    /// Takes the page of one worker.
    pub(super) fn answered(&mut self, infos: Vec<StreamInfo>, rest: Rest) -> Following {
        self.merge(infos, rest);
        self.worker += 1;
        if self.worker < self.end {
            let (worker, request) = self.first();
            return Following::Ask(vec![(worker, Query::State(request))]);
        }
        let streams: Vec<Value> = self.found.iter().map(config::value_of).collect();
        let mut shown = json!({"streams": streams, "more": self.rest == Rest::More});
        if self.rest == Rest::More
            && let Some(last) = self.found.last()
        {
            shown["after"] = String::from_utf8_lossy(&last.config.name).into();
        }
        Following::Reply(200, shown.to_string().into_bytes())
    }

    fn merge(&mut self, infos: Vec<StreamInfo>, rest: Rest) {
        // Names behind the last of a page that is not the whole are not known yet.
        let last = |infos: &[StreamInfo]| infos.last().map(|info| info.config.name.clone());
        let ends = [(self.rest, last(&self.found)), (rest, last(&infos))];
        let ends = ends.into_iter().filter(|(rest, _)| *rest == Rest::More);
        let end = ends.filter_map(|(_, name)| name).min();
        self.found.extend(infos);
        self.found.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        let mut bytes = 0;
        let fits = self.found.iter().take_while(|info| {
            let is_before = bytes < ANSWER_PART_BYTES;
            bytes += bytes_of(info);
            is_before && end.as_ref().is_none_or(|end| info.config.name <= *end)
        });
        let count = fits.count().min(usize::from(self.page.limit));
        if count < self.found.len() || end.is_some() {
            self.rest = Rest::More;
        }
        self.found.truncate(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sapwood_wire::state::{Lineage, PartitionId, Sequence, StreamConfig, StreamNumber};

    fn infos(names: &[&str]) -> Vec<StreamInfo> {
        let each = names.iter().map(|name| StreamInfo {
            lineage: Lineage(1),
            partition: PartitionId(0),
            number: StreamNumber(1),
            messages: 0,
            bytes: 0,
            first: Sequence(1),
            last: Sequence(0),
            first_ms: 0,
            last_ms: 0,
            config: StreamConfig {
                name: name.as_bytes().to_vec(),
                ..StreamConfig::default()
            },
        });
        each.collect()
    }

    /// Names, and whether there are more.
    type Names = (&'static [&'static str], Rest);

    #[test]
    fn a_page_ends_where_any_workers_page_ends() {
        let (done, more) = (Rest::Done, Rest::More);
        let cases: [[Names; 3]; 5] = [
            [
                (&["a", "d"], done),
                (&["b"], done),
                (&["a", "b", "d"], done),
            ],
            [
                (&["a", "d"], more),
                (&["b", "e"], done),
                (&["a", "b", "d"], more),
            ],
            [
                (&["a", "d"], more),
                (&["b", "c"], more),
                (&["a", "b", "c"], more),
            ],
            [
                (&["a", "b", "c"], done),
                (&["d"], done),
                (&["a", "b", "c"], more),
            ],
            [(&[], done), (&[], done), (&[], done)],
        ];
        for [one, other, (wanted, rest)] in cases {
            for is_swapped in [false, true] {
                let mut listing = Listing {
                    page: Page {
                        after: Vec::new(),
                        prefix: Vec::new(),
                        limit: 3,
                    },
                    worker: 0,
                    end: 2,
                    found: Vec::new(),
                    rest: Rest::Done,
                };
                let mut pages = [one, other];
                if is_swapped {
                    pages.reverse();
                }
                for (names, rest) in pages {
                    listing.merge(infos(names), rest);
                }
                assert_eq!(listing.found, infos(wanted), "{one:?} {other:?}");
                assert_eq!(listing.rest, rest, "{one:?} {other:?}");
            }
        }
    }
}
