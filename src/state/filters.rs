//! Filters of streams: which stream keeps a topic, and whether filters meet.
//!
//! Owns a trie by tokens, and [`SharedFilters`], the one thing that workers share: filters of two streams never match
//! the same topic, on whichever worker they live. Must not know what streams keep. A filter is reserved before its
//! create or update is proposed, and released when no shard sends its topics any more. Rejected: one worker that decides
//! for all, because a create would wait for its inbox and its store, and a start would need rounds between workers; the
//! lock is held for microseconds, by workers alone, for commands that change streams.
//!
//! Start at [`SharedFilters::reserve`] and [`FilterTrie::find`].

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use sapwood_wire::topic::is_reserved;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A node's place; 0 is the root, and no child.
type NodeId = u32;

#[derive(Debug)]
struct Node<V> {
    children: HashMap<Box<[u8]>, NodeId, FixedState>,
    /// The child for `*`.
    star: NodeId,
    /// Filters that end here.
    here: Vec<V>,
    /// Filters that end here with `>`.
    tail: Vec<V>,
}

impl<V> Node<V> {
    fn new() -> Node<V> {
        Node {
            children: HashMap::with_hasher(FixedState::default()),
            star: 0,
            here: Vec::new(),
            tail: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.star == 0 && self.here.is_empty() && self.tail.is_empty()
    }
}

/// Values by filter.
#[derive(Debug)]
pub(crate) struct FilterTrie<V> {
    nodes: Vec<Node<V>>,
    free: Vec<NodeId>,
    /// For a search: nodes to look at, and where the rest of the topic begins.
    stack: Vec<(NodeId, usize)>,
}

impl<V> Default for FilterTrie<V> {
    fn default() -> FilterTrie<V> {
        FilterTrie {
            nodes: vec![Node::new()],
            free: Vec::new(),
            stack: Vec::new(),
        }
    }
}

/// The token that begins at a place, and where the next one does. None behind the last.
fn token(topic: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = topic.get(at..)?;
    let end = rest.iter().position(|&byte| byte == b'.');
    let end = end.unwrap_or(rest.len());
    Some((&rest[..end], at + end + 1))
}

impl<V> FilterTrie<V> {
    fn node(&self, id: NodeId) -> &Node<V> {
        &self.nodes[id as usize]
    }

    /// Adds a value under a filter.
    pub fn insert(&mut self, filter: &[u8], value: V) {
        let (mut id, mut at) = (0, 0);
        // Ends with the filter's tokens.
        while let Some((one, next)) = token(filter, at) {
            if one == b">" {
                self.nodes[id as usize].tail.push(value);
                return;
            }
            let child = match one {
                b"*" => self.node(id).star,
                _ => self.node(id).children.get(one).copied().unwrap_or(0),
            };
            id = match child {
                0 => self.add_child(id, one),
                child => child,
            };
            at = next;
        }
        self.nodes[id as usize].here.push(value);
    }

    fn add_child(&mut self, parent: NodeId, token: &[u8]) -> NodeId {
        let id = self.free.pop().unwrap_or(self.nodes.len() as NodeId);
        if id as usize == self.nodes.len() {
            self.nodes.push(Node::new());
        }
        let parent = &mut self.nodes[parent as usize];
        match token {
            b"*" => parent.star = id,
            _ => {
                parent.children.insert(token.into(), id);
            }
        }
        id
    }

    /// Removes the values under a filter that are meant.
    pub fn remove(&mut self, filter: &[u8], is_meant: impl Fn(&V) -> bool) {
        let (mut id, mut at) = (0, 0);
        let mut path: Vec<(NodeId, &[u8])> = Vec::new();
        // Ends with the filter's tokens.
        while let Some((one, next)) = token(filter, at) {
            if one == b">" {
                break;
            }
            let child = match one {
                b"*" => self.node(id).star,
                _ => self.node(id).children.get(one).copied().unwrap_or(0),
            };
            if child == 0 {
                return;
            }
            path.push((id, one));
            (id, at) = (child, next);
        }
        let node = &mut self.nodes[id as usize];
        let values = match token(filter, at) {
            Some(_) => &mut node.tail,
            None => &mut node.here,
        };
        values.retain(|value| !is_meant(value));
        // Ends with the path.
        while self.node(id).is_empty()
            && let Some((parent, one)) = path.pop()
        {
            let above = &mut self.nodes[parent as usize];
            match one {
                b"*" => above.star = 0,
                _ => {
                    above.children.remove(one);
                }
            }
            self.free.push(id);
            id = parent;
        }
    }

    /// A value whose filter matches a topic.
    ///
    /// Cost: a look-up for each token, and one more at each `*` on the way; no more nodes than there are.
    pub fn find(&mut self, topic: &[u8]) -> Option<&V> {
        if is_reserved(topic) {
            return None;
        }
        let mut stack = std::mem::take(&mut self.stack);
        stack.clear();
        stack.push((0, 0));
        let mut found = None;
        // Ends: each node is looked at once, for a search goes down one way to it.
        while let Some((id, at)) = stack.pop() {
            let node = self.node(id);
            let Some((one, next)) = token(topic, at) else {
                if !node.here.is_empty() {
                    found = Some((id, false));
                    break;
                }
                continue;
            };
            if !node.tail.is_empty() {
                found = Some((id, true));
                break;
            }
            if node.star != 0 {
                stack.push((node.star, next));
            }
            if let Some(&child) = node.children.get(one) {
                stack.push((child, next));
            }
        }
        self.stack = stack;
        let (id, is_tail) = found?;
        let node = self.node(id);
        match is_tail {
            true => node.tail.first(),
            false => node.here.first(),
        }
    }

    /// A value of those that count, whose filter matches a topic that this filter matches too.
    ///
    /// Cost: a look at each node that the filter may meet, at most all.
    pub fn overlapping(&self, filter: &[u8], counts: impl Fn(&V) -> bool) -> Option<&V> {
        /// Everything below is met.
        const ALL: usize = usize::MAX;
        let mut stack = vec![(0, 0)];
        // Ends: each node is looked at once.
        while let Some((id, at)) = stack.pop() {
            let node: &Node<V> = self.node(id);
            let below = node.children.values().copied();
            let below = below.chain((node.star != 0).then_some(node.star));
            if at == ALL {
                let mut met = node.here.iter().chain(&node.tail);
                if let Some(found) = met.find(|value| counts(value)) {
                    return Some(found);
                }
                stack.extend(below.map(|child| (child, ALL)));
                continue;
            }
            let Some((one, next)) = token(filter, at) else {
                if let Some(found) = node.here.iter().find(|value| counts(value)) {
                    return Some(found);
                }
                continue;
            };
            if let Some(found) = node.tail.iter().find(|value| counts(value)) {
                return Some(found);
            }
            match one {
                b">" => stack.extend(below.map(|child| (child, ALL))),
                b"*" => stack.extend(below.map(|child| (child, next))),
                _ => {
                    stack.extend((node.star != 0).then_some((node.star, next)));
                    stack.extend(node.children.get(one).map(|&child| (child, next)));
                }
            }
        }
        None
    }

    /// How many nodes are in use.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}

#[derive(Debug)]
struct Holder {
    reservation: u64,
    name: Arc<[u8]>,
}

#[derive(Debug, Default)]
struct Taken {
    trie: FilterTrie<Holder>,
    next: u64,
}

/// The filters of all streams of a data directory, held by all its workers.
#[derive(Clone, Debug, Default)]
pub struct SharedFilters(Arc<Mutex<Taken>>);

/// Filters that one stream holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    number: u64,
    filters: Vec<Vec<u8>>,
}

impl SharedFilters {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing is left half done in there that would matter: whoever panicked stops its worker.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes filters for a stream of this name, or says which other one has one that matches the same topics. A stream may
    /// hold several reservations: the log decides which creates and updates of one name count.
    pub(crate) fn reserve(
        &self,
        name: &Arc<[u8]>,
        filters: &[Vec<u8>],
    ) -> Result<Reservation, Arc<[u8]>> {
        let mut taken = self.lock();
        for filter in filters {
            let is_other = |holder: &Holder| holder.name != *name;
            if let Some(other) = taken.trie.overlapping(filter, is_other) {
                return Err(other.name.clone());
            }
        }
        Ok(taken.hold(name, filters))
    }

    /// Takes the filters of a stream that exists.
    pub(crate) fn hold(&self, name: &Arc<[u8]>, filters: &[Vec<u8>]) -> Reservation {
        self.lock().hold(name, filters)
    }

    /// Gives filters back.
    pub(crate) fn release(&self, reservation: Reservation) {
        let mut taken = self.lock();
        for filter in &reservation.filters {
            let is_it = |holder: &Holder| holder.reservation == reservation.number;
            taken.trie.remove(filter, is_it);
        }
    }
}

impl Taken {
    fn hold(&mut self, name: &Arc<[u8]>, filters: &[Vec<u8>]) -> Reservation {
        self.next += 1;
        let number = self.next;
        for filter in filters {
            let holder = Holder {
                reservation: number,
                name: name.clone(),
            };
            self.trie.insert(filter, holder);
        }
        Reservation {
            number,
            filters: filters.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sapwood_wire::topic::{check_wildcard, wildcard_matches, wildcards_overlap};

    fn names() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("(a|b|\\*|)(\\.(a|b|c|\\*|)){0,3}(\\.>)?|>", 0..12)
    }

    proptest! {
        #[test]
        fn finds_and_meets_what_a_comparison_with_each_filter_does(
            filters in names(), removed in names(), asked in names(), topic in "(a|b|c|)(\\.(a|b|c|)){0,4}",
        ) {
            let legal = |all: Vec<String>| {
                all.into_iter().filter(|one| check_wildcard(one.as_bytes()).is_ok()).collect::<Vec<_>>()
            };
            let (filters, removed, asked) = (legal(filters), legal(removed), legal(asked));
            let mut trie = FilterTrie::default();
            for (number, filter) in filters.iter().enumerate() {
                trie.insert(filter.as_bytes(), number);
            }
            for filter in &removed {
                trie.remove(filter.as_bytes(), |_| true);
            }
            let there: Vec<_> = filters.iter().enumerate().filter(|(_, one)| !removed.contains(one)).collect();
            let found = trie.find(topic.as_bytes()).copied();
            let matching = |one: &&(usize, &String)| wildcard_matches(one.1.as_bytes(), topic.as_bytes());
            match found {
                Some(number) => prop_assert!(there.iter().filter(matching).any(|one| one.0 == number)),
                None => prop_assert_eq!(there.iter().find(matching), None),
            }
            for filter in &asked {
                let meets = |one: &&(usize, &String)| {
                    !one.0.is_multiple_of(3) && wildcards_overlap(one.1.as_bytes(), filter.as_bytes())
                };
                match trie.overlapping(filter.as_bytes(), |number| !number.is_multiple_of(3)) {
                    Some(number) => prop_assert!(there.iter().filter(meets).any(|one| one.0 == *number)),
                    None => prop_assert_eq!(there.iter().find(meets), None),
                }
            }
            for (_, filter) in there {
                trie.remove(filter.as_bytes(), |_| true);
            }
            prop_assert_eq!(trie.len(), 1);
        }
    }

    #[test]
    fn names_of_the_broker_match_no_filter() {
        let mut trie = FilterTrie::default();
        trie.insert(b">", ());
        trie.insert(b"*.a", ());
        assert_eq!(trie.find(b"$KV.a"), None);
        assert_eq!(trie.find(b"KV.a"), Some(&()));
    }

    #[test]
    fn filters_that_another_stream_holds_are_refused_until_they_are_released() {
        let shared = SharedFilters::default();
        let (one, two): (Arc<[u8]>, Arc<[u8]>) = (b"one"[..].into(), b"two"[..].into());
        let held = shared
            .reserve(&one, &[b"a.*".to_vec(), b"b".to_vec()])
            .unwrap();
        assert_eq!(shared.reserve(&two, &[b"a.>".to_vec()]), Err(one.clone()));
        // Of one name there may be several: the log decides.
        let again = shared.reserve(&one, &[b"a.x".to_vec()]).unwrap();
        shared.release(held);
        assert_eq!(shared.reserve(&two, &[b"a.>".to_vec()]), Err(one));
        shared.release(again);
        assert!(shared.reserve(&two, &[b"a.>".to_vec()]).is_ok());
    }
}
