//! How the network is at the moment: how long bytes take, what is lost, and which ways are cut.
//!
//! Must not know nodes but by their numbers. Start at [`Weather::is_cut`].

/// What cuts ways between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// From one node to another; the other way is as before.
    Way { from: usize, to: usize },
    /// Both ways between two nodes.
    Pair { one: usize, other: usize },
    /// Both ways between two nodes, for so many nanoseconds, then not for as many, and so on.
    Flap {
        one: usize,
        other: usize,
        period_ns: u64,
    },
    /// Everything that a node says.
    Mute { node: usize },
    /// Everything that a node is told.
    Deaf { node: usize },
    /// Both ways between two parts of the nodes.
    Parts { sides: Vec<bool> },
    /// From the nodes of the second part to those of the first.
    PartsOneWay { sides: Vec<bool> },
}

/// A cut and its time.
#[derive(Clone, Debug)]
struct Trouble {
    cut: Cut,
    since_ns: u64,
    until_ns: u64,
}

impl Trouble {
    fn is_on(&self, now_ns: u64) -> bool {
        let is_down = match self.cut {
            Cut::Flap { period_ns, .. } => {
                let periods = now_ns.saturating_sub(self.since_ns) / period_ns;
                periods.is_multiple_of(2)
            }
            _ => true,
        };
        is_down && now_ns < self.until_ns
    }

    fn covers(&self, from: usize, to: usize) -> bool {
        match &self.cut {
            Cut::Way {
                from: one,
                to: other,
            } => (from, to) == (*one, *other),
            Cut::Pair { one, other } | Cut::Flap { one, other, .. } => {
                (from, to) == (*one, *other) || (from, to) == (*other, *one)
            }
            Cut::Mute { node } => from == *node,
            Cut::Deaf { node } => to == *node,
            Cut::Parts { sides } => sides[from] != sides[to],
            Cut::PartsOneWay { sides } => sides[from] && !sides[to],
        }
    }
}

/// How the network is at the moment.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// Least and most time that bytes take, in nanoseconds.
    pub delay_ns: (u64, u64),
    /// Of a hundred parts, how many are lost and sent again.
    pub loss_percent: usize,
    troubles: Vec<Trouble>,
    now_ns: u64,
}

impl Weather {
    pub(super) fn new(now_ns: u64) -> Weather {
        Weather {
            delay_ns: (200_000, 1_000_000),
            loss_percent: 0,
            troubles: Vec::new(),
            now_ns,
        }
    }

    /// Cuts ways for so long, in nanoseconds.
    pub(crate) fn cut(&mut self, cut: Cut, lasts_ns: u64) {
        self.troubles.push(Trouble {
            cut,
            since_ns: self.now_ns,
            until_ns: self.now_ns.saturating_add(lasts_ns),
        });
    }

    /// Lets time pass; whether a way that was cut is open now.
    pub(super) fn pass(&mut self, now_ns: u64) -> bool {
        let before_ns = std::mem::replace(&mut self.now_ns, now_ns);
        let opens = |trouble: &Trouble| trouble.is_on(before_ns) && !trouble.is_on(now_ns);
        let is_opened = self.troubles.iter().any(opens);
        self.troubles.retain(|trouble| now_ns < trouble.until_ns);
        is_opened
    }

    /// Ends all cuts, delays and losses.
    pub(super) fn clear(&mut self) {
        *self = Weather::new(self.now_ns);
    }

    /// How many cuts there are.
    pub(crate) fn cuts(&self) -> usize {
        self.troubles.len()
    }

    /// Whether nothing goes this way.
    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        let mut on = self
            .troubles
            .iter()
            .filter(|trouble| trouble.is_on(self.now_ns));
        on.any(|trouble| trouble.covers(from, to))
    }
}
