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
}

/// A set of wildcards with their values.
#[derive(Debug)]
pub(crate) struct Trie<V> {
    nodes: PagedSlab<Node<V>>,
    root: usize,
    seed: u64,
}

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
        })
    }

    /// Bytes of the hash tables.
    #[cfg(test)]
    pub(crate) fn tables_bytes(&self) -> usize {
        let nodes = self.nodes.iter();
        nodes.map(|(_, node)| node.children.allocation_size()).sum()
    }

    pub(crate) fn insert(&mut self, wildcard: &[u8], value: V) {
        let mut at = self.root;
        let mut rest = tokens(wildcard).peekable();
        while let Some(token) = rest.next() {
            if token == b">" && rest.peek().is_none() {
                self.nodes[at].tail = Some(value);
                return;
            }
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
            self.nodes.remove(at);
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
            at = parent;
        }
    }

    /// Calls `each` with the value of every wildcard that matches `name`.
    ///
    /// Depth-first, without recursion or allocation: the work is bounded by the matching nodes. Where both a `*` and a
    /// literal token match, the `*` branch is put aside; on one path that happens at most once for each token.
    pub(crate) fn matching(&self, name: &[u8], each: &mut impl FnMut(V)) {
        if self.nodes.len() == 1 && self.nodes[self.root].tail.is_none() {
            return;
        }
        let is_reserved = topic::is_reserved(name);
        let mut aside = [(0, 0); TOPIC_TOKENS_MAX];
        let mut aside_count = 0;
        let mut next = Some((self.root, 0));
        while let Some((at, start)) = next.take() {
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
