//! Addresses in the tree of nodes, and the arithmetic on them.
//!
//! A node's address is its [`Path`]: the child numbers that lead to it from the root. The route between two nodes
//! follows from their addresses alone, so there are no routing tables. Owns paths, their text form, and the questions
//! that routing asks about them. Must not know frames, links or which nodes exist: a path may name no node.
//!
//! Invariants: a path has at most [`PATH_NUMBERS_MAX`] numbers; paths are sorted by their numbers, so an ancestor
//! stands before its descendants and these stand together. Start at [`Path::next_hop`] and [`Split::of`].

#[cfg(test)]
mod tests;

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::iter::FusedIterator;
use core::str::FromStr;
use sapwood_wire::limits::PATH_NUMBERS_MAX;

/// Numbers that a path stores inline: as deep as nodes place themselves.
const INLINE_NUMBERS: usize = 32;

/// A node's address in the tree: the child numbers that lead to it from the root. The root's path is empty.
///
/// As text, `/` is the root and `/3/1` is child 1 of child 3. Size: 40 bytes, plus one byte for each number of a path
/// of more than 32.
#[derive(Clone)]
pub struct Path(Numbers);

#[derive(Clone)]
enum Numbers {
    /// Number of used entries, and the entries.
    Inline(u8, [u8; INLINE_NUMBERS]),
    /// Always longer than what fits inline.
    Boxed(Box<[u8]>),
}

/// Why a text or bytes are not a valid path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// The text does not begin with a slash.
    NoSlash,
    /// The part between two slashes is not a number from 0 to 255 in plain form; holds its place, counted from 1.
    Number(usize),
    /// The path has more than [`PATH_NUMBERS_MAX`] numbers.
    TooLong,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathError::NoSlash => write!(f, "a path begins with a slash, such as / or /3/1"),
            PathError::Number(which) => {
                write!(
                    f,
                    "number {which} of the path is not a number from 0 to 255"
                )
            }
            PathError::TooLong => {
                write!(f, "a path has at most {PATH_NUMBERS_MAX} numbers")
            }
        }
    }
}

impl std::error::Error for PathError {}

/// The first hop from a node, or the side that something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hop {
    /// This node.
    Here,
    /// The parent.
    Up,
    /// The child of this number.
    Down(u8),
}

impl Path {
    /// The path of the root.
    pub const ROOT: Path = Path(Numbers::Inline(0, [0; INLINE_NUMBERS]));

    /// A path of these numbers. Errors: [`PathError::TooLong`].
    pub fn new(numbers: &[u8]) -> Result<Path, PathError> {
        if numbers.len() > PATH_NUMBERS_MAX {
            return Err(PathError::TooLong);
        }
        let mut inline = [0; INLINE_NUMBERS];
        Ok(Path(match inline.get_mut(..numbers.len()) {
            Some(start) => {
                start.copy_from_slice(numbers);
                Numbers::Inline(numbers.len() as u8, inline)
            }
            None => Numbers::Boxed(numbers.into()),
        }))
    }

    /// A part of an existing path, which is never too long.
    fn of_part(numbers: &[u8]) -> Path {
        // invariant: a part of a path is no longer than the path.
        Path::new(numbers).expect("a part of a path is a path")
    }

    /// The child numbers, starting at the root.
    pub fn numbers(&self) -> &[u8] {
        match &self.0 {
            Numbers::Inline(count, numbers) => &numbers[..usize::from(*count)],
            Numbers::Boxed(numbers) => numbers,
        }
    }

    /// Number of hops from the root.
    pub fn depth(&self) -> usize {
        self.numbers().len()
    }

    /// The path of this node's child of this number. Errors: [`PathError::TooLong`].
    pub fn child(&self, number: u8) -> Result<Path, PathError> {
        let mut numbers = [0; PATH_NUMBERS_MAX];
        let depth = self.depth();
        let own = numbers.get_mut(..=depth).ok_or(PathError::TooLong)?;
        own[..depth].copy_from_slice(self.numbers());
        own[depth] = number;
        Path::new(own)
    }

    /// The path of this node's parent. `None` for the root.
    pub fn parent(&self) -> Option<Path> {
        let (_, parent) = self.numbers().split_last()?;
        Some(Path::of_part(parent))
    }

    /// Whether this node is an ancestor of the other, or the same node.
    pub fn is_ancestor_or_same(&self, other: &Path) -> bool {
        other.numbers().starts_with(self.numbers())
    }

    /// Whether this node is an ancestor of the other.
    pub fn is_ancestor(&self, other: &Path) -> bool {
        self.depth() < other.depth() && self.is_ancestor_or_same(other)
    }

    /// Length of the common beginning of two paths: the depth of their common ancestor.
    fn shared(&self, other: &Path) -> usize {
        shared(self.numbers(), other.numbers())
    }

    /// The deepest node that is an ancestor of both, or one of them.
    pub fn common_ancestor(&self, other: &Path) -> Path {
        Path::of_part(&self.numbers()[..self.shared(other)])
    }

    /// Number of hops between two nodes: at most 510.
    pub fn distance(&self, other: &Path) -> usize {
        self.depth() + other.depth() - 2 * self.shared(other)
    }

    /// The first hop of the route to another node. Never `Up` from the root.
    pub fn next_hop(&self, there: &Path) -> Hop {
        let Some(below) = there.numbers().strip_prefix(self.numbers()) else {
            return Hop::Up;
        };
        below.first().map_or(Hop::Here, |number| Hop::Down(*number))
    }

    /// All nodes of the route to another node, both ends included. Cost: a copy of a path for each.
    pub fn route<'a>(&'a self, there: &'a Path) -> Waypoints<'a> {
        let turn = self.shared(there);
        Waypoints {
            up: self.numbers(),
            down: there.numbers(),
            turn,
            next: 0,
            count: self.distance(there) + 1,
        }
    }
}

/// Length of the common beginning of two slices, in bytes.
fn shared(one: &[u8], other: &[u8]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

impl PartialEq for Path {
    fn eq(&self, other: &Path) -> bool {
        self.numbers() == other.numbers()
    }
}

impl Eq for Path {}

impl PartialOrd for Path {
    fn partial_cmp(&self, other: &Path) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Path {
    fn cmp(&self, other: &Path) -> Ordering {
        self.numbers().cmp(other.numbers())
    }
}

impl Hash for Path {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.numbers().hash(state);
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.depth() == 0 {
            return f.pad("/");
        }
        // At most 1,020 characters; built whole, so that a given width pads all of it.
        let mut text = String::new();
        for number in self.numbers() {
            text.push('/');
            text.push_str(itoa::Buffer::new().format(*number));
        }
        f.pad(&text)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Path {
    type Err = PathError;

    /// Parses `/` or `/3/1`. Each number has one form only: no sign, no leading zero.
    fn from_str(text: &str) -> Result<Path, PathError> {
        let rest = text.strip_prefix('/').ok_or(PathError::NoSlash)?;
        let mut numbers = [0; PATH_NUMBERS_MAX];
        if rest.is_empty() {
            return Ok(Path::ROOT);
        }
        let mut count = 0;
        for part in rest.split('/') {
            let number = read_number(part).ok_or(PathError::Number(count + 1))?;
            *numbers.get_mut(count).ok_or(PathError::TooLong)? = number;
            count += 1;
        }
        Path::new(&numbers[..count])
    }
}

fn read_number(text: &str) -> Option<u8> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok())?
}

/// The nodes of the route between two nodes, see [`Path::route`].
#[derive(Clone, Debug)]
pub struct Waypoints<'a> {
    up: &'a [u8],
    down: &'a [u8],
    /// Depth of the common ancestor, where the route turns from up to down.
    turn: usize,
    next: usize,
    count: usize,
}

impl Iterator for Waypoints<'_> {
    type Item = Path;

    fn next(&mut self) -> Option<Path> {
        if self.next == self.count {
            return None;
        }
        let climbed = self.next;
        self.next += 1;
        // Up to the common ancestor each hop removes a number, then each hop adds one.
        let climb = self.up.len() - self.turn;
        Some(match climbed.checked_sub(climb) {
            None => Path::of_part(&self.up[..self.up.len() - climbed]),
            Some(descended) => Path::of_part(&self.down[..self.turn + descended]),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.count - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Waypoints<'_> {}
impl FusedIterator for Waypoints<'_> {}

/// A set of targets, split by the first hop to each: one copy of an event for each link that leads to any of them.
///
/// All parts are slices of the given targets; nothing is copied or allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split<'a> {
    up: [&'a [Path]; 2],
    is_here: bool,
    below: &'a [Path],
    depth: usize,
}

impl<'a> Split<'a> {
    /// Splits targets, which must be sorted and distinct.
    ///
    /// Cost: two binary searches, and one pass over the targets below this node in [`children`](Split::children).
    pub fn of(here: &Path, targets: &'a [Path]) -> Split<'a> {
        debug_assert!(
            targets.is_sorted_by(|one, next| one < next),
            "targets must be sorted, each there once"
        );
        // In a sorted set, a node and its descendants are adjacent, the node first.
        let start = targets.partition_point(|target| target < here);
        let (before, rest) = targets.split_at(start);
        let end = rest.partition_point(|target| here.is_ancestor_or_same(target));
        let (inside, after) = rest.split_at(end);
        let (is_here, below) = match inside.split_first() {
            Some((first, below)) if first == here => (true, below),
            _ => (false, inside),
        };
        Split {
            up: [before, after],
            is_here,
            below,
            depth: here.depth(),
        }
    }

    /// The targets on the parent's side, sorted. Empty if `here` is the root.
    pub fn up(&self) -> impl Iterator<Item = &'a Path> + Clone + use<'a> {
        let [before, after] = self.up;
        before.iter().chain(after)
    }

    /// Whether any target is on the parent's side.
    pub fn goes_up(&self) -> bool {
        self.up.iter().any(|targets| !targets.is_empty())
    }

    /// Whether `here` itself is a target.
    pub fn is_here(&self) -> bool {
        self.is_here
    }

    /// Each child that leads to targets, in order of number, with those targets.
    pub fn children(&self) -> impl Iterator<Item = (u8, &'a [Path])> + use<'a> {
        let depth = self.depth;
        // Every descendant has a number at this depth.
        let number = move |target: &Path| target.numbers()[depth];
        self.below
            .chunk_by(move |one, next| number(one) == number(next))
            .map(move |targets| (number(&targets[0]), targets))
    }
}

/// The hops that forward a broadcast: all neighbours except the one it came from, which is [`Hop::Here`] if it was
/// published here. Never yields `Here`.
pub fn broadcast(
    has_parent: bool,
    children: impl IntoIterator<Item = u8>,
    came_by: Hop,
) -> impl Iterator<Item = Hop> {
    let up = has_parent.then_some(Hop::Up);
    let links = up.into_iter().chain(children.into_iter().map(Hop::Down));
    links.filter(move |link| *link != came_by)
}
