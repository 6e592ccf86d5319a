//! The tokio client with the real broker: what each call promises, on one shard and on two.

mod common;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Broker, VALUE_SECONDS_MAX};
use rustix::process::{Pid, Signal, kill_process};
use sapwood_client::error::{ConnectError, Disconnect, PublishError, RequestError};
use sapwood_client::{
    Client, ConnectionEvent, ErrorCode, Event, Message, Outgoing, Overflow, Policy, Subscription,
};
use tokio::time::timeout;

/// Waits for something that must come.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(VALUE_SECONDS_MAX, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come within {VALUE_SECONDS_MAX:?}"),
    }
}

fn address(broker: &Broker) -> String {
    format!("127.0.0.1:{}", broker.native_port())
}

async fn connect(broker: &Broker) -> Client {
    let client = soon("a connection", Client::connect(address(broker))).await;
    client.unwrap_or_else(|error| panic!("{error}\n{}", broker.stderr()))
}

async fn message(subscription: &mut Subscription) -> Message {
    match soon("an event", subscription.next()).await {
        Some(Event::Message(message)) => message,
        other => panic!("{other:?} instead of a message"),
    }
}

/// Runs a test on one shard and on two.
fn on_shards<F: Future<Output = ()>>(test: impl Fn(Broker) -> F) {
    for shards in [1, 2] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(Broker::start(shards, &[])));
    }
}

#[test]
fn what_is_published_is_heard_by_who_subscribed() {
    on_shards(|broker| async move {
        let (one, other) = (connect(&broker).await, connect(&broker).await);
        let mut exact = one.subscribe("news.art").await.unwrap();
        let mut twin = one.subscribe("news.art").await.unwrap();
        let mut wild = one.subscribe("news.>").await.unwrap();
        let mut far = other.subscribe("news.*").await.unwrap();
        let outgoing = Outgoing::new("news.art", "hello")
            .header("id", "7")
            .reply_to("somewhere");
        // One connection each, however many of its subscriptions match.
        let listeners = other.publish_message_confirmed(&outgoing).await;
        assert_eq!(listeners.map(|reached| reached.subscriptions), Ok(3));
        for subscription in [&mut exact, &mut twin, &mut wild, &mut far] {
            let message = message(subscription).await;
            assert_eq!(message.topic_text(), "news.art");
            assert_eq!(message.text(), "hello");
            assert_eq!(message.header("ID"), Some(&b"7"[..]));
            assert_eq!(message.reply(), Some(&b"somewhere"[..]));
        }
        drop(exact);
        other.publish("news.art", "again").await.unwrap();
        assert_eq!(message(&mut twin).await.text(), "again");
        drop(twin);
        one.flush().await.unwrap();
        // Only the wildcard of the one and that of the other are left.
        let listeners = other.publish_confirmed("news.art", "").await;
        assert_eq!(listeners.map(|reached| reached.subscriptions), Ok(2));
    });
}

#[test]
fn large_payload_arrives_whole() {
    on_shards(|broker| async move {
        let client = connect(&broker).await;
        let mut big = client.subscribe("big").await.unwrap();
        let payload: Vec<u8> = (0..5_000_000u32).map(|at| (at % 251) as u8).collect();
        client.publish("big", &payload).await.unwrap();
        client.publish("big", "small").await.unwrap();
        assert_eq!(message(&mut big).await.payload(), payload);
        assert_eq!(message(&mut big).await.text(), "small");
    });
}

#[test]
fn wrong_password_fails_at_once_and_the_right_one_does_not() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let broker = Broker::start_with_password(1, "secret");
        for password in [None, Some("wrong")] {
            let mut builder = Client::builder().address(address(&broker));
            if let Some(password) = password {
                builder = builder.password(password);
            }
            let refused = soon("an answer", builder.connect()).await;
            let Err(ConnectError::Rejected(refusal)) = refused else {
                panic!("{password:?}: {refused:?}");
            };
            assert_eq!(refusal.code(), Some(ErrorCode::Authentication));
        }
        let builder = Client::builder()
            .address(address(&broker))
            .password("secret");
        let client = soon("a connection", builder.connect()).await.unwrap();
        client.ping().await.unwrap();
    });
}

#[test]
fn connect_says_where_nobody_listens_and_finds_who_does() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let broker = Broker::start(1, &[]);
        // Bound but not listening: refused, and nobody else's.
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = format!("127.0.0.1:{}", nobody.local_addr().unwrap().port());
        let refused = soon("an answer", Client::connect(&nobody)).await;
        assert!(
            matches!(
                &refused,
                Err(ConnectError::Unreachable { address, reason: Disconnect::Io { .. } }) if *address == nobody
            ),
            "{refused:?}"
        );
        let both = Client::builder().address(&nobody).address(address(&broker));
        soon("a connection", both.connect()).await.unwrap();
    });
}

#[test]
fn group_members_share_events_even_over_one_connection() {
    on_shards(|broker| async move {
        let (one, other) = (connect(&broker).await, connect(&broker).await);
        let mut members = Vec::new();
        for client in [&one, &one, &other] {
            let builder = client.subscription("jobs.*").group("workers");
            members.push(builder.subscribe().await.unwrap());
        }
        let mut plain = Some(other.subscribe("jobs.>").await.unwrap());
        for number in 0..300 {
            let count = one.publish_confirmed("jobs.a", number.to_string()).await;
            assert_eq!(count.map(|reached| reached.subscriptions), Ok(2));
        }
        for number in 0..300 {
            let plain = plain.as_mut().unwrap();
            assert_eq!(message(plain).await.text(), number.to_string());
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut counts = Vec::new();
        for mut member in members {
            let seen = seen.clone();
            counts.push(tokio::spawn(async move {
                let mut heard = 0;
                while let Some(Event::Message(message)) = member.next().await {
                    seen.lock().unwrap().push(message.text().into_owned());
                    heard += 1;
                }
                heard
            }));
        }
        // The members' readers come to their ends when both clients have everything that was on its way.
        for client in [one, other] {
            drop(plain.take());
            soon("the drain", client.drain()).await.unwrap();
        }
        let mut sum = 0;
        for count in counts {
            let count = count.await.unwrap();
            assert!(count > 0, "a member was passed over");
            sum += count;
        }
        assert_eq!(sum, 300, "one event went to two members, or to none");
        let seen: BTreeSet<_> = seen.lock().unwrap().drain(..).collect();
        assert_eq!(seen, (0..300).map(|number| number.to_string()).collect());
    });
}

#[test]
fn hundred_requesters_get_their_own_replies_in_order_up_to_the_end() {
    on_shards(|broker| async move {
        let (server, client) = (connect(&broker).await, connect(&broker).await);
        let mut requests = server.subscribe("svc").await.unwrap();
        let service = tokio::spawn(async move {
            while let Some(Event::Message(request)) = requests.next().await {
                for part in 0..4 {
                    let payload = format!("{}/{part}", request.text());
                    server.reply_part(&request, payload).await.unwrap();
                }
                let payload = format!("{}/4", request.text());
                server.reply(&request, payload).await.unwrap();
            }
        });
        let mut requesters = Vec::new();
        for number in 0..100 {
            let client = client.clone();
            requesters.push(tokio::spawn(async move {
                for round in 0..5 {
                    let question = format!("{number}.{round}");
                    let mut replies = client.request_many("svc", &question).await.unwrap();
                    for part in 0..5 {
                        let reply = replies.next().await.unwrap().unwrap();
                        assert_eq!(reply.text(), format!("{question}/{part}"));
                        assert_eq!(reply.is_end(), part == 4);
                    }
                    assert!(replies.next().await.is_none());
                    let first = client.request("svc", &question).await.unwrap();
                    assert_eq!(first.text(), format!("{question}/0"));
                }
            }));
        }
        for requester in requesters {
            soon("all replies", requester).await.unwrap();
        }
        service.abort();
    });
}

#[test]
fn unheard_request_fails_without_a_time_out() {
    on_shards(|broker| async move {
        // A time-out would come long after the test gave up.
        let builder = Client::builder()
            .address(address(&broker))
            .request_timeout(Duration::from_secs(3600));
        let client = builder.connect().await.unwrap();
        for _ in 0..100 {
            let failed = soon("no responders", client.request("nobody", "?")).await;
            assert_eq!(failed.unwrap_err(), RequestError::NoResponders);
        }
    });
}

#[test]
fn silent_responder_is_a_time_out_of_that_request() {
    on_shards(|broker| async move {
        let client = connect(&broker).await;
        let _mute = client.subscribe("mute").await.unwrap();
        let after = Duration::from_millis(50);
        let failed = client
            .request_message(&Outgoing::new("mute", "?"), Some(after))
            .await;
        assert_eq!(failed.unwrap_err(), RequestError::TimedOut(after));
    });
}

#[test]
fn what_the_broker_refuses_is_refused_with_its_code() {
    on_shards(|broker| async move {
        let client = connect(&broker).await;
        let refused = client.subscribe("a.>.b").await;
        assert!(refused.is_err());
        assert!(matches!(
            client.publish("$KV.t", "").await,
            Err(PublishError::Invalid(_))
        ));
        // The connection has not suffered.
        client.ping().await.unwrap();
    });
}

#[test]
fn full_window_is_told_to_who_tries_and_waited_for_by_who_awaits() {
    on_shards(|broker| async move {
        let builder = Client::builder()
            .address(address(&broker))
            .window(10_000, 8);
        let client = builder.connect().await.unwrap();
        let payload = [b'x'; 4_000];
        let mut refused = 0;
        // Nothing here yields, so on one thread or two, the socket falls behind at some time.
        for _ in 0..10_000 {
            match client.try_publish("t", payload) {
                Ok(()) => {}
                Err(PublishError::Full) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(refused > 0);
        let mut tasks = Vec::new();
        for _ in 0..64 {
            let client = client.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..20 {
                    client.publish("t", payload).await.unwrap();
                    client.publish_confirmed("t", payload).await.unwrap();
                }
            }));
        }
        for task in tasks {
            soon("room", task).await.unwrap();
        }
    });
}

#[test]
fn task_that_confirms_while_its_own_queue_is_full_does_not_hang() {
    on_shards(|broker| async move {
        let (noisy, worker) = (connect(&broker).await, connect(&broker).await);
        let builder = worker.subscription("work").queue_bytes(10_000);
        let mut work = builder.subscribe().await.unwrap();
        let payload = [b'x'; 1_000];
        for _ in 0..5_000 {
            noisy.publish("work", payload).await.unwrap();
        }
        noisy.flush().await.unwrap();
        let mut events = 0;
        while events < 5_000 {
            match soon("an event", work.next()).await {
                Some(Event::Message(_)) => events += 1,
                other => panic!("{other:?}"),
            }
            if events % 100 == 1 {
                let answer = soon("an answer", worker.publish_confirmed("done", "")).await;
                assert_eq!(answer.map(|reached| reached.subscriptions), Ok(0));
            }
        }
    });
}

#[test]
fn slow_subscriber_is_told_exactly_what_the_broker_dropped() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let broker = Broker::start(1, &[]);
        let builder = Client::builder()
            .address(address(&broker))
            .policy(Policy::DropOldest);
        let slow = builder.connect().await.unwrap();
        let fast = connect(&broker).await;
        let mut events = slow.subscribe("t").await.unwrap();
        let payload = vec![b'x'; 16_000];
        // More than the broker's 32 MiB, the sockets and the local queue hold together.
        let published = 8_000u64;
        for number in 0..published {
            let text = format!("{number:06}");
            let mut event = payload.clone();
            event[..6].copy_from_slice(text.as_bytes());
            fast.publish("t", event).await.unwrap();
        }
        fast.publish_confirmed("t", "last").await.unwrap();
        let (mut heard, mut lost, mut next) = (0, 0, 0);
        loop {
            match soon("an event", events.next()).await {
                Some(Event::Gap { events }) => {
                    lost += events;
                    next += events;
                }
                Some(Event::Message(message)) if message.text() == "last" => break,
                Some(Event::Message(message)) => {
                    let number: u64 = message.text()[..6].parse().unwrap();
                    assert_eq!(number, next, "the gap stands where the events were lost");
                    next += 1;
                    heard += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(lost > 0, "nothing was dropped, so this tests nothing");
        assert_eq!(heard + lost, published);
        assert_eq!(slow.statistics().gap_events, lost);
    });
}

#[test]
fn subscription_that_drops_its_oldest_holds_nobody_up() {
    on_shards(|broker| async move {
        let client = connect(&broker).await;
        let builder = client
            .subscription("t")
            .queue_bytes(10_000)
            .overflow(Overflow::DropOldest);
        let mut lossy = builder.subscribe().await.unwrap();
        let mut whole = client.subscribe("t").await.unwrap();
        for number in 0..5_000 {
            client.publish("t", number.to_string()).await.unwrap();
        }
        for number in 0..5_000 {
            assert_eq!(message(&mut whole).await.text(), number.to_string());
        }
        let Some(Event::Gap { events }) = lossy.next().await else {
            panic!("a gap comes first");
        };
        for number in events..5_000 {
            assert_eq!(message(&mut lossy).await.text(), number.to_string());
        }
    });
}

#[test]
fn drain_loses_neither_events_nor_publishes() {
    on_shards(|broker| async move {
        let (source, worker) = (connect(&broker).await, connect(&broker).await);
        let mut results = source.subscribe("results").await.unwrap();
        let mut work = worker.subscribe("work").await.unwrap();
        for number in 0..2_000 {
            source.publish("work", number.to_string()).await.unwrap();
        }
        source.flush().await.unwrap();
        let draining = tokio::spawn({
            let worker = worker.clone();
            async move { worker.drain().await }
        });
        let mut done = 0;
        while let Some(event) = soon("the end", work.next()).await {
            let Event::Message(job) = event else {
                panic!("{event:?}")
            };
            worker.publish("results", job.payload()).await.unwrap();
            done += 1;
        }
        soon("the drain", draining).await.unwrap().unwrap();
        assert!(matches!(
            worker.publish("results", "").await,
            Err(PublishError::Closed(_))
        ));
        // Events that were on their way came before the end, and each result is there.
        assert_eq!(done, 2_000);
        for number in 0..done {
            assert_eq!(message(&mut results).await.text(), number.to_string());
        }
    });
}

#[test]
fn dropping_the_last_handle_still_sends_what_was_published() {
    on_shards(|broker| async move {
        let reader = connect(&broker).await;
        let mut events = reader.subscribe("t").await.unwrap();
        let writer = connect(&broker).await;
        for number in 0..1_000 {
            writer.publish("t", number.to_string()).await.unwrap();
        }
        drop(writer);
        for number in 0..1_000 {
            assert_eq!(message(&mut events).await.text(), number.to_string());
        }
    });
}

#[test]
fn close_ends_subscriptions_and_events() {
    on_shards(|broker| async move {
        let client = connect(&broker).await;
        let mut subscription = client.subscribe("t").await.unwrap();
        let mut events = client.events();
        client.close();
        assert!(soon("the end", subscription.next()).await.is_none());
        let mut last = None;
        while let Some(event) = soon("the end", events.next()).await {
            last = Some(event);
        }
        assert!(matches!(last, Some(ConnectionEvent::Closed(_))), "{last:?}");
        assert!(client.publish("t", "").await.is_err());
        assert!(client.ping().await.is_err());
    });
}

#[test]
fn stopping_broker_is_left_with_nothing_unknown() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut broker = Broker::start_restartable(2, None);
        let builder = Client::builder()
            .address(address(&broker))
            .backoff(Duration::from_millis(1), Duration::from_millis(20));
        let client = builder.connect().await.unwrap();
        let mut events = client.events();
        let is_over = Arc::new(AtomicBool::new(false));
        let mut publishers = Vec::new();
        for _ in 0..16 {
            let (client, is_over) = (client.clone(), is_over.clone());
            publishers.push(tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    client.publish("quiet", "").await.unwrap();
                    // Unknown would be an error.
                    client.publish_confirmed("t", "").await.unwrap();
                }
            }));
        }
        for _ in 0..100 {
            client.publish_confirmed("t", "").await.unwrap();
        }
        let pid = i32::try_from(broker.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), Signal::TERM).unwrap();
        let mut told = Vec::new();
        loop {
            let event = soon("the end of the connection", events.next()).await;
            let event = event.expect("the client is not closed");
            let is_end = matches!(event, ConnectionEvent::Disconnected { .. });
            told.push(event);
            if is_end {
                break;
            }
        }
        assert!(
            matches!(told[0], ConnectionEvent::Draining { .. }),
            "{told:?}"
        );
        let reason = Disconnect::Draining;
        assert_eq!(told.last(), Some(&ConnectionEvent::Disconnected { reason }));
        broker.restart();
        soon("an answer", client.publish_confirmed("t", ""))
            .await
            .unwrap();
        is_over.store(true, Ordering::Relaxed);
        for publisher in publishers {
            soon("an answer", publisher).await.unwrap();
        }
        assert_eq!(client.statistics().unconfirmed_publishes, 0);
    });
}
