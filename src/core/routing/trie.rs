//! A trie of token wildcards: finds those that match a topic without trying each.
//!
//! One node for each token, shared by all wildcards with the same beginning. Invariant: every node except the root
//! leads to a value, so removal leaves nothing behind. Depth is bounded by the cap on tokens.

use crate::paged_slab::{PagedSlab, is_table_sparse};
use hashbrown::HashMap;
use sapwood_wire::limits::TOPIC_TOKENS_MAX;
use sapwood_wire::topic;

type Tokens = HashMap<Box<[u8]>, usize, foldhash::fast::FixedState>;

#[derive(Debug)]
struct Node<V> {
    /// Children by literal token.
    children: Tokens,
    /// The child for `*`.
    any: Option<usize>,
    /// The value of the wildcard that ends here with `>`.
    tail: Option<V>,
    /// The value of the wildcard that ends here.
    value: Option<V>,
    /// The most nodes that one topic may lead to from here on, this one included.
    width: u32,
    /// The greatest width of a child by literal token, and how many have it.
    widest: (u32, u32),
}

/// A set of wildcards with their values.
#[derive(Debug)]
pub(crate) struct Trie<V> {
    nodes: PagedSlab<Node<V>>,
    root: usize,
    seed: u64,
}

/// Most children of a node whose widths are looked at again when the widest has ended.
const CHILDREN_LOOKED_AT: usize = 4_096;

fn tokens(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|&byte| byte == b'.')
}

impl<V: Copy> Trie<V> {
    pub(crate) fn new(seed: u64) -> Trie<V> {
        let mut trie = Trie {
            nodes: PagedSlab::default(),
            root: 0,
            seed,
        };
        trie.root = trie.new_node();
        trie
    }

    fn new_node(&mut self) -> usize {
        let hasher = foldhash::fast::FixedState::with_seed(self.seed);
        self.nodes.insert(Node {
            children: HashMap::with_hasher(hasher),
            any: None,
            tail: None,
            value: None,
            width: 1,
            widest: (0, 0),
        })
    }

    /// Number of nodes besides the root.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - 1
    }

    /// The most nodes that any topic leads to. At most twice what it is while wide wildcards have ended under a node of
    /// very many.
    pub(crate) fn width(&self) -> u32 {
        self.nodes[self.root].width
    }

    /// A child's width, by this token, was `before` and is `now` (0: there is none): corrects those of the nodes on the
    /// way to it, from the last.
    fn widen(&mut self, way: &[(usize, &[u8])], mut before: u32, mut now: u32) {
        for &(at, token) in way.iter().rev() {
            if before == now {
                return;
            }
            if token != b"*" {
                self.child_widened(at, before, now);
            }
            let node = &self.nodes[at];
            let any = node.any.map_or(0, |any| self.nodes[any].width);
            let width = node.widest.0.saturating_add(any).saturating_add(1);
            before = std::mem::replace(&mut self.nodes[at].width, width);
            now = width;
        }
    }

    fn child_widened(&mut self, at: usize, before: u32, now: u32) {
        let (most, count) = &mut self.nodes[at].widest;
        if before == *most {
            *count = count.saturating_sub(1);
        }
        if now == *most {
            *count += 1;
        } else if now > *most {
            (*most, *count) = (now, 1);
        }
        // Else the old greatest width stays as an upper bound until fewer are left.
        if *count == 0 && self.nodes[at].children.len() <= CHILDREN_LOOKED_AT {
            let widths = self.nodes[at].children.values();
            let widths = widths.map(|&child| self.nodes[child].width);
            let most = widths.clone().max().unwrap_or(0);
            let count = widths.filter(|&width| width == most).count() as u32;
            self.nodes[at].widest = (most, count);
        }
    }

    /// Bytes of the hash tables.
    #[cfg(test)]
    pub(crate) fn tables_bytes(&self) -> usize {
        let nodes = self.nodes.iter();
        nodes.map(|(_, node)| node.children.allocation_size()).sum()
    }

    pub(crate) fn insert(&mut self, wildcard: &[u8], value: V) {
        let mut at = self.root;
        let mut way: Vec<(usize, &[u8])> = Vec::new();
        let mut rest = tokens(wildcard).peekable();
        while let Some(token) = rest.next() {
            if token == b">" && rest.peek().is_none() {
                self.nodes[at].tail = Some(value);
                return;
            }
            way.push((at, token));
            let next = match token {
                b"*" => self.nodes[at].any,
                literal => self.nodes[at].children.get(literal).copied(),
            };
            at = match next {
                Some(next) => next,
                None => {
                    let new = self.new_node();
                    match token {
                        b"*" => self.nodes[at].any = Some(new),
                        literal => {
                            self.nodes[at].children.insert(literal.into(), new);
                        }
                    }
                    self.widen(&way, 0, 1);
                    new
                }
            };
        }
        self.nodes[at].value = Some(value);
    }

    pub(crate) fn remove(&mut self, wildcard: &[u8]) {
        // The path from the root, so that empty nodes can be removed on the way back.
        let mut way: Vec<(usize, &[u8])> = Vec::new();
        let mut at = self.root;
        let mut rest = tokens(wildcard).peekable();
        let mut is_tail = false;
        while let Some(token) = rest.next() {
            if token == b">" && rest.peek().is_none() {
                is_tail = true;
                break;
            }
            way.push((at, token));
            let next = match token {
                b"*" => self.nodes[at].any,
                literal => self.nodes[at].children.get(literal).copied(),
            };
            let Some(next) = next else { return };
            at = next;
        }
        match is_tail {
            true => self.nodes[at].tail = None,
            false => self.nodes[at].value = None,
        }
        while let Some((parent, token)) = way.pop() {
            let node = &self.nodes[at];
            let leads_on = !node.children.is_empty() || node.any.is_some();
            if leads_on || node.tail.is_some() || node.value.is_some() {
                return;
            }
            let width = self.nodes.remove(at).width;
            match token {
                b"*" => self.nodes[parent].any = None,
                literal => {
                    let children = &mut self.nodes[parent].children;
                    children.remove(literal);
                    let bytes = size_of::<(Box<[u8]>, usize)>();
                    if is_table_sparse(children.len(), children.allocation_size(), bytes) {
                        children.shrink_to(2 * children.len());
                    }
                }
            }
            way.push((parent, token));
            self.widen(&way, width, 0);
            way.pop();
            at = parent;
        }
    }

    /// Calls `each` with the value of every wildcard that matches `name`. Gives the number of nodes it led to.
    ///
    /// Depth-first, without recursion or allocation: the work is bounded by the matching nodes. Where both a `*` and a
    /// literal token match, the `*` branch is put aside; on one path that happens at most once for each token.
    pub(crate) fn matching(&self, name: &[u8], each: &mut impl FnMut(V)) -> u64 {
        if self.nodes.len() == 1 && self.nodes[self.root].tail.is_none() {
            return 0;
        }
        let mut visited = 0;
        let is_reserved = topic::is_reserved(name);
        let mut aside = [(0, 0); TOPIC_TOKENS_MAX];
        let mut aside_count = 0;
        let mut next = Some((self.root, 0));
        while let Some((at, start)) = next.take() {
            visited += 1;
            let node = &self.nodes[at];
            if start > name.len() {
                node.value.into_iter().for_each(&mut *each);
            } else {
                let rest = &name[start..];
                let length = rest.iter().position(|&byte| byte == b'.');
                let token = &rest[..length.unwrap_or(rest.len())];
                let behind = start + token.len() + 1;
                next = node.children.get(token).map(|&child| (child, behind));
                // A wildcard matches reserved names only if its first token is literal.
                if start > 0 || !is_reserved {
                    node.tail.into_iter().for_each(&mut *each);
                    let any = node.any.map(|any| (any, behind));
                    if let (Some(any), Some(_)) = (any, next) {
                        aside[aside_count] = any;
                        aside_count += 1;
                    }
                    next = next.or(any);
                }
            }
            if next.is_none() && aside_count > 0 {
                aside_count -= 1;
                next = Some(aside[aside_count]);
            }
        }
        visited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_leaves_no_nodes_behind() {
        let mut trie = Trie::new(1);
        let names: [&[u8]; 6] = [b"a.b.c", b"a.*.c", b"a.>", b">", b"*.*.*", b"a.b"];
        for (value, name) in names.iter().enumerate() {
            trie.insert(name, value);
        }
        let mut found = Vec::new();
        trie.matching(b"a.b.c", &mut |value| found.push(value));
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2, 3, 4]);
        for name in names {
            trie.remove(name);
        }
        assert_eq!(trie.nodes.len(), 1, "only the root is left");
    }

    #[test]
    fn the_width_is_the_most_nodes_that_a_topic_leads_to() {
        let mut trie = Trie::new(1);
        for number in 0..10_000 {
            trie.insert(format!("user.{number}.*.name").as_bytes(), number);
        }
        assert_eq!(trie.width(), 5, "many that part once are no wider than one");
        trie.insert(b"user.*.x.name", 0);
        assert_eq!(trie.width(), 8);
        // Each token is a literal or a star: all ways match.
        let ways = |number: usize| {
            let tokens = (0..10).map(|bit| if number >> bit & 1 == 0 { "a" } else { "*" });
            tokens.collect::<Vec<&str>>().join(".")
        };
        for number in 0..1_024 {
            trie.insert(ways(number).as_bytes(), number);
        }
        let topic = ["a"; 10].join(".");
        let visited = trie.matching(topic.as_bytes(), &mut |_| {});
        assert_eq!((visited, trie.width()), (2_047, 2_047));
        for number in 0..1_024 {
            trie.remove(ways(number).as_bytes());
        }
        assert_eq!(trie.width(), 8);
        for number in 0..10_000 {
            trie.remove(format!("user.{number}.*.name").as_bytes());
        }
        trie.remove(b"user.*.x.name");
        assert_eq!((trie.width(), trie.len()), (1, 0));
    }

    #[test]
    fn a_topic_of_the_most_tokens_finds_wildcards_that_part_at_each() {
        let mut trie = Trie::new(1);
        let literal = ["a"; TOPIC_TOKENS_MAX];
        // At each token, a `*` and a literal branch both match.
        for place in 0..TOPIC_TOKENS_MAX {
            let mut tokens = literal;
            tokens[place] = "*";
            trie.insert(tokens.join(".").as_bytes(), place);
        }
        let mut found = Vec::new();
        trie.matching(literal.join(".").as_bytes(), &mut |value| found.push(value));
        found.sort_unstable();
        assert!(found.into_iter().eq(0..TOPIC_TOKENS_MAX));
    }
}
