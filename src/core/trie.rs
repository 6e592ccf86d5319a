//! Token wildcards, kept so that a topic finds those that match without trying each.
//!
//! A node a token, shared by all wildcards that begin alike. Invariant: every node but the root
//! leads to a value, so removal leaves nothing behind. Depth is bounded by the cap on tokens.

use hashbrown::HashMap;
use sapwood_wire::topic;

type Tokens = HashMap<Box<[u8]>, usize, foldhash::fast::FixedState>;

#[derive(Debug)]
struct Node<V> {
    /// By the next token, if it is literal.
    children: Tokens,
    /// Where a `*` leads.
    any: Option<usize>,
    /// The value of the wildcard that ends with `>` here.
    tail: Option<V>,
    /// The value of the wildcard that ends here.
    value: Option<V>,
}

/// Wildcards and their values.
#[derive(Debug)]
pub(crate) struct Trie<V> {
    nodes: slab::Slab<Node<V>>,
    root: usize,
    seed: u64,
}

fn tokens(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|&byte| byte == b'.')
}

impl<V: Copy> Trie<V> {
    pub(crate) fn new(seed: u64) -> Trie<V> {
        let mut trie = Trie {
            nodes: slab::Slab::new(),
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
        // The way down, so that nodes that lead nowhere can be taken away on the way back.
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
                    self.nodes[parent].children.remove(literal);
                }
            }
            at = parent;
        }
    }

    /// Calls `each` with the value of every wildcard that matches `name`.
    ///
    /// Level by level, without recursion: the work is bounded by the nodes that fit.
    pub(crate) fn matching(&self, name: &[u8], each: &mut impl FnMut(V)) {
        if self.nodes.len() == 1 && self.nodes[self.root].tail.is_none() {
            return;
        }
        let mut level = vec![self.root];
        let mut next_level = Vec::new();
        let mut is_first = true;
        for token in tokens(name) {
            // Reserved names are seen only by wildcards whose first token is literal.
            let hidden = is_first && topic::is_reserved(name);
            is_first = false;
            for &at in &level {
                let node = &self.nodes[at];
                if !hidden {
                    node.tail.into_iter().for_each(&mut *each);
                    next_level.extend(node.any);
                }
                next_level.extend(node.children.get(token));
            }
            std::mem::swap(&mut level, &mut next_level);
            next_level.clear();
            if level.is_empty() {
                return;
            }
        }
        for &at in &level {
            self.nodes[at].value.into_iter().for_each(&mut *each);
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
}
