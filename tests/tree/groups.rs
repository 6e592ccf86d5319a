//! Groups with members on several nodes: turns go by the number of members, wherever they are.

use std::time::Duration;

use sapwood_wire::native;

use crate::common::native::{Event, Frame, NativeClient};
use crate::common::resp::RawClient;
use crate::load::{alone, counter, wait_until};
use crate::nodes::{Ear, MIXES, PROBE, Tree, until_native_heard};

const EVENTS: usize = 3_000;

/// Publishes numbered events; gives how many each listener took, once all were.
fn shares(publisher: &mut NativeClient, ears: &[&Ear], events: usize) -> Vec<usize> {
    for number in 0..events {
        publisher.publish(&Event::new("work", format!("{number}")));
    }
    let mut taken = vec![false; events];
    let mut shares = vec![0; ears.len()];
    let mut idle = 0;
    while shares.iter().sum::<usize>() < events {
        let before: usize = shares.iter().sum();
        for (share, ear) in shares.iter_mut().zip(ears) {
            while let Some(event) = ear.within(Duration::from_millis(1)) {
                let number: usize = String::from_utf8(event.payload).unwrap().parse().unwrap();
                assert!(
                    !std::mem::replace(&mut taken[number], true),
                    "{number} came twice"
                );
                *share += 1;
            }
        }
        idle = if shares.iter().sum::<usize>() == before {
            idle + 1
        } else {
            0
        };
        let missing = taken.iter().filter(|&&taken| !taken).count();
        assert!(idle < 1_000, "{missing} events are nobody's: {shares:?}");
    }
    for ear in ears {
        ear.hears_nothing();
    }
    shares
}

fn are_near(shares: &[usize], wanted: &[usize], off_max: usize) {
    let mut pairs = shares.iter().zip(wanted);
    let are_near = pairs.all(|(share, wanted)| share.abs_diff(*wanted) <= off_max);
    assert!(are_near, "{shares:?} of each, and {wanted:?} was due");
}

#[test]
fn three_members_on_three_nodes_take_a_third_each() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(7, shards, &[]);
        let node = |path| &tree.nodes[tree.at(path)];
        let members = [
            Ear::member(node("/0/1"), "crew", "work"),
            Ear::nats(node("/1/0"), "work", "crew"),
            Ear::member(node("/1"), "crew", "work"),
        ];
        let mut publisher = NativeClient::connect(node("/0/0").native_port());
        until_native_heard(&mut publisher, "work", &members);
        let shares = shares(&mut publisher, &members.each_ref(), EVENTS);
        are_near(&shares, &[1_000; 3], 1);
    }
}

#[test]
fn turns_go_by_members_and_not_by_nodes() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(7, shards, &[]);
        let node = |path| &tree.nodes[tree.at(path)];
        let members: Vec<Ear> = ["/1/0", "/0/1", "/0/1", "/0/1"]
            .map(|path| Ear::member(node(path), "crew", "work"))
            .into();
        let mut publisher = NativeClient::connect(node("/0/0").native_port());
        until_native_heard(&mut publisher, "work", &members);
        let shares = shares(&mut publisher, &members.iter().collect::<Vec<_>>(), EVENTS);
        println!("one member and three, {shards:?} shards: {shares:?}");
        are_near(&shares[..1], &[EVENTS / 4], 1);
        // Which of two shards' members takes a turn is for their node to say: even, but for a few.
        are_near(&shares[1..], &[EVENTS / 4; 3], 8);
    }
}

#[test]
fn the_others_share_what_was_a_members_that_has_left() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(7, shards, &[]);
        let node = |path| &tree.nodes[tree.at(path)];
        let leaving = Ear::member(node("/0/1"), "crew", "work");
        let staying = ["/1/0", "/1/1"].map(|path| Ear::member(node(path), "crew", "work"));
        let mut publisher = NativeClient::connect(node("/0/0").native_port());
        until_native_heard(&mut publisher, "work", [&leaving, &staying[0], &staying[1]]);
        drop(leaving);
        let mut asker = RawClient::connect(node("/0/1").port());
        wait_until("its node knows that it has left", || {
            counter(&mut asker, "subscriptions") == 0
        });
        // Other nodes may not know it yet: turns that find nobody there are passed on.
        let ears = staying.each_ref();
        let first = shares(&mut publisher, &ears, EVENTS);
        assert_eq!(first.iter().sum::<usize>(), EVENTS);
        let then = shares(&mut publisher, &ears, EVENTS);
        are_near(&then, &[EVENTS / 2; 2], 1);
    }
}

#[test]
fn who_is_subscriber_and_member_gets_events_of_other_nodes_in_order() {
    let _alone = alone();
    for shards in MIXES {
        let tree = Tree::start(2, shards, &[]);
        let [here, there] = ["", "/0"].map(|path| &tree.nodes[tree.at(path)]);
        // What several subscribers get may gather, and half of the turns are here.
        let _elsewhere = Ear::member(here, "crew", "work");
        let mut both = NativeClient::connect(there.native_port());
        let others = [(); 2].map(|()| Ear::native(there, "work"));
        both.join("crew", 1, "work");
        both.subscribe("work");
        let mut publisher = NativeClient::connect(here.native_port());
        until_native_heard(&mut publisher, "work", &others);
        publisher.write(|out| {
            for number in 0..EVENTS {
                let event = Event::new("work", format!("{number}"));
                native::write_message(out, &event.message());
            }
        });
        let (mut messages, mut turns, mut last) = (0, 0, 0);
        while messages < EVENTS {
            let event = match both.frame() {
                Frame::Message(event) | Frame::Turn { event, .. }
                    if event.payload.starts_with(PROBE) =>
                {
                    continue;
                }
                Frame::Message(event) => {
                    messages += 1;
                    event
                }
                Frame::Turn { event, .. } => {
                    turns += 1;
                    event
                }
                other => panic!("{other:?}"),
            };
            let number: usize = String::from_utf8(event.payload).unwrap().parse().unwrap();
            assert!(number >= last, "{number} comes behind {last}");
            last = number;
        }
        assert!(turns > EVENTS / 3, "{turns} turns");
    }
}
