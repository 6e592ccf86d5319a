//! Addresses in the tree of nodes, and the arithmetic on them.
//!
//! A node's address is its [`Path`]: the numbers of the children that lead to it from the root. So the way from any node to
//! any other follows from the two addresses alone; nobody keeps a table of routes. Owns paths, their text and the
//! questions that routing asks of them. Must not know frames, links or who is there: a path may name nobody.
//!
//! Invariants: a path has at most [`PATH_NUMBERS_MAX`] numbers; paths are sorted by their numbers, so an ancestor stands
//! before its descendants and these stand together. Start at [`Path::next_hop`] and [`Split::of`].

#[cfg(test)]
mod tests;

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::iter::FusedIterator;
use core::str::FromStr;
use sapwood_wire::limits::PATH_NUMBERS_MAX;

/// Numbers that a path holds without memory of its own: as deep as nodes place themselves.
const INLINE_NUMBERS: usize = 32;

/// A node's place: the child numbers that lead to it from the root, whose own path is empty.
///
/// As text `/` is the root and `/3/1` child 1 of child 3. Size: 40 bytes, and the numbers once more where there are more
/// than 32.
#[derive(Clone)]
pub struct Path(Numbers);

#[derive(Clone)]
enum Numbers {
    /// As many of them as the first field says.
    Inline(u8, [u8; INLINE_NUMBERS]),
    /// Always more than fit inline.
    Boxed(Box<[u8]>),
}

/// Why a text or bytes are no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// The text does not begin with a slash.
    NoSlash,
    /// What stands between two slashes is not a number from 0 to 255 as it is written; holds which one, counted from 1.
    Number(usize),
    /// More numbers than a path may have.
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

/// The first step from a node, or whence something came to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hop {
    /// The node itself.
    Here,
    /// Its parent.
    Up,
    /// Its child of this number.
    Down(u8),
}

impl Path {
    /// The root's.
    pub const ROOT: Path = Path(Numbers::Inline(0, [0; INLINE_NUMBERS]));

    /// The path of these numbers. Errors: [`PathError::TooLong`].
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

    /// A part of a path from its root, which is never too long.
    fn of_part(numbers: &[u8]) -> Path {
        // invariant: a part of a path is no longer than the path.
        Path::new(numbers).expect("a part of a path is a path")
    }

    /// The child numbers from the root on.
    pub fn numbers(&self) -> &[u8] {
        match &self.0 {
            Numbers::Inline(count, numbers) => &numbers[..usize::from(*count)],
            Numbers::Boxed(numbers) => numbers,
        }
    }

    /// Hops from the root.
    pub fn depth(&self) -> usize {
        self.numbers().len()
    }

    /// The path of its child of this number. Errors: [`PathError::TooLong`].
    pub fn child(&self, number: u8) -> Result<Path, PathError> {
        let mut numbers = [0; PATH_NUMBERS_MAX];
        let depth = self.depth();
        let own = numbers.get_mut(..=depth).ok_or(PathError::TooLong)?;
        own[..depth].copy_from_slice(self.numbers());
        own[depth] = number;
        Path::new(own)
    }

    /// The path of its parent; the root has none.
    pub fn parent(&self) -> Option<Path> {
        let (_, parent) = self.numbers().split_last()?;
        Some(Path::of_part(parent))
    }

    /// Whether a node stands on the way from the root to another, or is that one.
    pub fn is_ancestor_or_same(&self, other: &Path) -> bool {
        other.numbers().starts_with(self.numbers())
    }

    /// Whether a node stands on the way from the root to another, and is not that one.
    pub fn is_ancestor(&self, other: &Path) -> bool {
        self.depth() < other.depth() && self.is_ancestor_or_same(other)
    }

    /// How many numbers two paths begin with together: the depth of their common ancestor.
    fn shared(&self, other: &Path) -> usize {
        shared(self.numbers(), other.numbers())
    }

    /// The deepest node that both stand below, or are.
    pub fn common_ancestor(&self, other: &Path) -> Path {
        Path::of_part(&self.numbers()[..self.shared(other)])
    }

    /// Hops from one node to another: at most 510.
    pub fn distance(&self, other: &Path) -> usize {
        self.depth() + other.depth() - 2 * self.shared(other)
    }

    /// The first step of the way to another node. Never up from the root.
    pub fn next_hop(&self, there: &Path) -> Hop {
        let Some(below) = there.numbers().strip_prefix(self.numbers()) else {
            return Hop::Up;
        };
        below.first().map_or(Hop::Here, |number| Hop::Down(*number))
    }

    /// Every node of the way to another, this one first and that one last. Cost: a copy of a path for each.
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

/// How many bytes two slices begin with together.
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
        // At most 1,020 characters; written whole, so that a width given for it blocked.
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

    /// Reads `/` or `/3/1`. A number is written in one way only: no sign, no leading zero.
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

/// The nodes of the way from one to another; see [`Path::route`].
#[derive(Clone, Debug)]
pub struct Waypoints<'a> {
    up: &'a [u8],
    down: &'a [u8],
    /// Depth of the common ancestor, where the way turns.
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
        // Up to the turn the way loses a number with each hop, then it gains one.
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

/// A set of targets, taken apart by the first step to each: one copy on each link that leads to any of them.
///
/// All parts are pieces of the slice that was given, so nothing is copied or allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split<'a> {
    up: [&'a [Path]; 2],
    is_here: bool,
    below: &'a [Path],
    depth: usize,
}

impl<'a> Split<'a> {
    /// Takes targets apart that are sorted, each there once.
    ///
    /// Cost: two binary searches here, and one pass over the targets below in [`children`](Split::children).
    pub fn of(here: &Path, targets: &'a [Path]) -> Split<'a> {
        debug_assert!(
            targets.is_sorted_by(|one, next| one < next),
            "targets must be sorted, each there once"
        );
        // A node and all that stand below it are neighbours in a sorted set, the node first.
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

    /// The targets that the parent leads to, sorted. None where `here` is the root.
    pub fn up(&self) -> impl Iterator<Item = &'a Path> + Clone + use<'a> {
        let [before, after] = self.up;
        before.iter().chain(after)
    }

    /// Whether there is any that the parent leads to.
    pub fn goes_up(&self) -> bool {
        self.up.iter().any(|targets| !targets.is_empty())
    }

    /// Whether `here` is a target itself.
    pub fn is_here(&self) -> bool {
        self.is_here
    }

    /// Each child that leads to targets, in order of number, and those targets.
    pub fn children(&self) -> impl Iterator<Item = (u8, &'a [Path])> + use<'a> {
        let depth = self.depth;
        // What stands below has a number at this depth.
        let number = move |target: &Path| target.numbers()[depth];
        self.below
            .chunk_by(move |one, next| number(one) == number(next))
            .map(move |targets| (number(&targets[0]), targets))
    }
}

/// The links on which what is meant for every node goes on: all but the one that it came by, which is
/// [`Hop::Here`] where it was published here. Never `Here`.
pub fn broadcast(
    has_parent: bool,
    children: impl IntoIterator<Item = u8>,
    came_by: Hop,
) -> impl Iterator<Item = Hop> {
    let up = has_parent.then_some(Hop::Up);
    let links = up.into_iter().chain(children.into_iter().map(Hop::Down));
    links.filter(move |link| *link != came_by)
}
