//! Wrong passwords, by the address they come from: after several from one address, each further attempt from there waits.
//!
//! The wait grows with each wrong one, up to a cap; the count begins anew after a minute without any. Only attempts wait,
//! and each once: so the right password is let in from everywhere, at that address a little later, and each connection
//! has one attempt for each wait. Memory is capped: the address silent for longest is forgotten first. Must not know protocols. Start at [`Guesses::until`].

use crate::command::{ClientId, ConnId};
use crate::limits::{
    GUESS_ADDRESSES_MAX, GUESS_FORGET_MS, GUESS_WAIT_MS, GUESS_WAIT_MS_MAX, GUESSES_FREE,
};
use core::net::IpAddr;
use hashbrown::HashMap;
use std::collections::BTreeSet;

const MS: u64 = 1_000_000;

/// Wrong passwords of one address.
#[derive(Clone, Copy, Debug, Default)]
struct Guesser {
    /// Since it was last silent for a minute.
    wrong: u64,
    last_ns: u64,
    /// Its next attempt waits until then.
    until_ns: u64,
    /// Wrong ones since the last notice to the operator, and when that was.
    unsaid: u64,
    said_ns: u64,
}

/// Wrong passwords by address, and the connections that wait because of them.
#[derive(Debug)]
pub(crate) struct Guesses {
    guessers: HashMap<IpAddr, Guesser, foldhash::fast::FixedState>,
    /// Connections whose attempts wait, in the order of their times.
    waiting: BTreeSet<(u64, ConnId, ClientId)>,
    /// Addresses that operators are to be told of, each with its wrong passwords since it was said last.
    pub notices: Vec<(IpAddr, u64)>,
}

/// What counts as one address: of IPv6 the network, because a host has very many in it.
fn address_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(mapped) => IpAddr::V4(mapped),
            None => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
        },
    }
}

impl Guesses {
    /// None yet. The seed keeps outsiders from choosing addresses that collide.
    pub(crate) fn new(seed: u64) -> Guesses {
        Guesses {
            guessers: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            waiting: BTreeSet::new(),
            notices: Vec::new(),
        }
    }

    /// Until when an attempt from this address waits, by the monotonic clock, if it does.
    pub(crate) fn until(&self, ip: IpAddr, now_ns: u64) -> Option<u64> {
        let guesser = self.guessers.get(&address_of(ip))?;
        Some(guesser.until_ns).filter(|&until_ns| until_ns > now_ns)
    }

    /// Notes a wrong password.
    pub(crate) fn wrong(&mut self, ip: IpAddr, now_ns: u64) {
        let ip = address_of(ip);
        if !self.guessers.contains_key(&ip) && self.guessers.len() >= GUESS_ADDRESSES_MAX {
            let oldest = self.guessers.iter().min_by_key(|(_, there)| there.last_ns);
            if let Some((&oldest, _)) = oldest {
                self.guessers.remove(&oldest);
            }
        }
        let guesser = self.guessers.entry(ip).or_default();
        if now_ns.saturating_sub(guesser.last_ns) >= GUESS_FORGET_MS * MS {
            guesser.wrong = 0;
        }
        guesser.wrong += 1;
        guesser.unsaid += 1;
        guesser.last_ns = now_ns;
        let beyond = guesser.wrong.saturating_sub(GUESSES_FREE);
        let wait_ms = beyond.saturating_mul(GUESS_WAIT_MS).min(GUESS_WAIT_MS_MAX);
        guesser.until_ns = now_ns + wait_ms * MS;
        let is_due =
            guesser.said_ns == 0 || now_ns.saturating_sub(guesser.said_ns) >= GUESS_FORGET_MS * MS;
        if beyond > 0 && is_due {
            guesser.said_ns = now_ns.max(1);
            self.notices.push((ip, std::mem::take(&mut guesser.unsaid)));
        }
    }

    /// A connection's attempt waits.
    pub(crate) fn wait(&mut self, until_ns: u64, conn: ConnId, client: ClientId) {
        self.waiting.insert((until_ns, conn, client));
    }

    /// When the next attempt may be made, by the monotonic clock.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.waiting.first().map(|&(until_ns, ..)| until_ns)
    }

    /// Takes the connections that have waited.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Vec<(ConnId, ClientId)> {
        let mut due = Vec::new();
        while self
            .next_deadline()
            .is_some_and(|until_ns| until_ns <= now_ns)
            && let Some((_, conn, client)) = self.waiting.pop_first()
        {
            due.push((conn, client));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_waits_longer_after_each_wrong_password_beyond_the_free_ones() {
        let mut guesses = Guesses::new(1);
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut now_ns = MS;
        for _ in 0..GUESSES_FREE {
            guesses.wrong(one, now_ns);
            assert_eq!(guesses.until(one, now_ns), None);
        }
        let mut waits = Vec::new();
        for _ in 0..300 {
            guesses.wrong(one, now_ns);
            let until_ns = guesses.until(one, now_ns).expect("it waits");
            assert_eq!(guesses.until(other, now_ns), None, "nobody else does");
            waits.push((until_ns - now_ns) / MS);
            now_ns = until_ns;
        }
        assert_eq!(
            waits[..3],
            [GUESS_WAIT_MS, 2 * GUESS_WAIT_MS, 3 * GUESS_WAIT_MS]
        );
        assert_eq!(waits.last(), Some(&GUESS_WAIT_MS_MAX));
        // Once a minute operators are told, of all since.
        let said: u64 = guesses.notices.iter().map(|(_, count)| count).sum();
        let minutes = now_ns / (60_000 * MS);
        assert!(guesses.notices.len() as u64 <= minutes + 1 && said > 200);
        now_ns += GUESS_FORGET_MS * MS;
        guesses.wrong(one, now_ns);
        assert_eq!(
            guesses.until(one, now_ns),
            None,
            "a minute later it begins anew"
        );
    }

    #[test]
    fn a_host_is_not_many_addresses_and_memory_is_capped() {
        let mut guesses = Guesses::new(1);
        for host in 0..=GUESSES_FREE {
            let ip = format!("2001:db8::{host:x}").parse().expect("an address");
            guesses.wrong(ip, 5);
        }
        let ip = "2001:db8::ffff".parse().expect("an address");
        assert!(guesses.until(ip, 5).is_some());
        for number in 0..2 * GUESS_ADDRESSES_MAX as u32 {
            guesses.wrong(IpAddr::V4(number.into()), 6 + u64::from(number));
        }
        assert_eq!(guesses.guessers.len(), GUESS_ADDRESSES_MAX);
    }
}
