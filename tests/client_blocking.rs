//! The blocking client with the real broker: the same promises as the tokio client's, on threads.

mod common;

use std::thread;
use std::time::Duration;

use common::{Broker, VALUE_SECONDS_MAX};
use sapwood_client::blocking::{Client, Subscription, TimedOut};
use sapwood_client::error::{ConnectError, PublishError, RequestError};
use sapwood_client::{ConnectionEvent, ErrorCode, Event, Message, Outgoing};

fn address(broker: &Broker) -> String {
    format!("127.0.0.1:{}", broker.native_port())
}

fn connect(broker: &Broker) -> Client {
    Client::connect(address(broker)).unwrap_or_else(|error| panic!("{error}\n{}", broker.stderr()))
}

#[track_caller]
fn message(subscription: &mut Subscription) -> Message {
    match subscription.next_timeout(VALUE_SECONDS_MAX) {
        Ok(Some(Event::Message(message))) => message,
        other => panic!("{other:?} instead of a message"),
    }
}

/// Runs a test on one shard and on two.
fn on_shards(test: impl Fn(&Broker)) {
    for shards in [1, 2] {
        test(&Broker::start(shards, &[]));
    }
}

/// Publishes to `news.art`, and gives how many subscriptions that reached.
fn confirmed(client: &Client, payload: &str) -> u64 {
    let reached = client.publish_confirmed("news.art", payload).unwrap();
    assert!(!reached.is_beyond);
    reached.subscriptions
}

#[test]
fn what_is_published_is_heard_by_who_subscribed() {
    on_shards(|broker| {
        let (one, other) = (connect(broker), connect(broker));
        let mut exact = one.subscribe("news.art").unwrap();
        let mut wild = other.subscribe("news.>").unwrap();
        assert_eq!(confirmed(&other, "hello"), 2);
        other.publish("news.art", "again").unwrap();
        for subscription in [&mut exact, &mut wild] {
            assert_eq!(message(subscription).text(), "hello");
            assert_eq!(message(subscription).text(), "again");
        }
        assert_eq!(exact.next_timeout(Duration::ZERO), Err(TimedOut));
        drop(exact);
        one.flush().unwrap();
        assert_eq!(confirmed(&other, ""), 1);
    });
}

#[test]
fn wrong_password_and_empty_port_are_told_apart() {
    let broker = Broker::start_with_password(1, "secret");
    let refused = Client::builder().address(address(&broker)).connect();
    let Err(ConnectError::Rejected(refusal)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(refusal.code(), Some(ErrorCode::Authentication));
    let builder = Client::builder()
        .address(address(&broker))
        .password("secret");
    builder.connect().unwrap().ping().unwrap();
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let unreachable = Client::connect(nobody.local_addr().unwrap().to_string());
    assert!(matches!(unreachable, Err(ConnectError::Unreachable { .. })));
}

#[test]
fn threads_share_a_client_and_get_their_own_replies() {
    on_shards(|broker| {
        let (server, client) = (connect(broker), connect(broker));
        let members = [(); 2].map(|()| {
            let requests = server
                .subscription("svc")
                .group("servers")
                .subscribe()
                .unwrap();
            let server = server.clone();
            thread::spawn(move || {
                for event in requests {
                    let Event::Message(request) = event else {
                        break;
                    };
                    server.reply_part(&request, request.payload()).unwrap();
                    server.reply(&request, request.payload()).unwrap();
                }
            })
        });
        thread::scope(|scope| {
            for number in 0..16 {
                let client = client.clone();
                scope.spawn(move || {
                    for round in 0..20 {
                        let question = format!("{number}.{round}");
                        let replies = client.request_many("svc", &question).unwrap();
                        let replies: Vec<_> = replies.map(Result::unwrap).collect();
                        assert_eq!(replies.len(), 2);
                        assert!(replies.iter().all(|reply| reply.text() == question));
                    }
                });
            }
        });
        server.drain().unwrap();
        members.into_iter().for_each(|it| it.join().unwrap());
    });
}

#[test]
fn unheard_request_and_silent_responder_are_told_apart() {
    on_shards(|broker| {
        let client = connect(broker);
        let failed = client.request("nobody", "?").unwrap_err();
        assert_eq!(failed, RequestError::NoResponders);
        let _mute = client.subscribe("mute").unwrap();
        let after = Duration::from_millis(50);
        let failed = client.request_message(&Outgoing::new("mute", "?"), Some(after));
        assert_eq!(failed.unwrap_err(), RequestError::TimedOut(after));
    });
}

#[test]
fn reply_that_was_not_in_time_comes_later() {
    on_shards(|broker| {
        let (server, client) = (connect(broker), connect(broker));
        let mut requests = server.subscribe("svc").unwrap();
        let mut replies = client.request_many("svc", "?").unwrap();
        assert_eq!(replies.next_timeout(Duration::ZERO), Err(TimedOut));
        server.reply(&message(&mut requests), "!").unwrap();
        let reply = replies.next_timeout(VALUE_SECONDS_MAX).unwrap();
        assert_eq!(reply.expect("a reply").unwrap().text(), "!");
        assert_eq!(replies.next_timeout(VALUE_SECONDS_MAX), Ok(None));
    });
}

#[test]
fn full_window_is_waited_for_and_full_queue_stops_the_stream() {
    on_shards(|broker| {
        let builder = Client::builder().address(address(broker)).window(10_000, 8);
        let (writer, reader) = (builder.connect().unwrap(), connect(broker));
        let slow = reader.subscription("t").queue_bytes(5_000);
        let mut slow = slow.subscribe().unwrap();
        let payload = [b'x'; 1_000];
        let mut refused = 0;
        for number in 0..5_000u32 {
            let mut event = payload;
            event[..4].copy_from_slice(&number.to_le_bytes());
            match writer.try_publish("t", event) {
                Ok(()) => continue,
                Err(PublishError::Full) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            writer.publish("t", event).unwrap();
        }
        assert!(refused > 0);
        for number in 0..5_000u32 {
            assert_eq!(message(&mut slow).payload()[..4], number.to_le_bytes());
        }
    });
}

#[test]
fn drain_loses_neither_events_nor_publishes() {
    on_shards(|broker| {
        let (source, worker) = (connect(broker), connect(broker));
        let mut results = source.subscribe("results").unwrap();
        let work = worker.subscribe("work").unwrap();
        for number in 0..2_000 {
            source.publish("work", number.to_string()).unwrap();
        }
        source.flush().unwrap();
        let publisher = worker.clone();
        let working = thread::spawn(move || {
            let jobs = work.map(|event| event.message().unwrap());
            let done = jobs.map(|job| publisher.publish("results", job.payload()).unwrap());
            done.count()
        });
        worker.drain().unwrap();
        assert_eq!(working.join().unwrap(), 2_000);
        for number in 0..2_000 {
            assert_eq!(message(&mut results).text(), number.to_string());
        }
        assert!(matches!(
            worker.publish("results", ""),
            Err(PublishError::Closed(_))
        ));
    });
}

#[test]
fn client_ends_when_its_last_handle_is_dropped() {
    on_shards(|broker| {
        let client = connect(broker);
        let events = client.events();
        client.publish("t", "x").unwrap();
        drop(client);
        // They end only when the driver has closed the client.
        let last = events.last();
        assert!(matches!(last, Some(ConnectionEvent::Closed(_))), "{last:?}");
    });
}
