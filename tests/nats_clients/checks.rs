//! What async-nats does with the broker, each by itself.

use std::time::Duration;

use async_nats::client::{Client, PublishErrorKind};
use async_nats::connection::State;
use async_nats::{ConnectErrorKind, ConnectOptions, Event, HeaderMap};

use super::common::Broker;
use super::rust::{
    Server, answer, expect_no_responders, fence, member, next, next_payload, numbers, publish,
    settle, subscribed, text, texts, waiting, within,
};

const MIB: usize = 1024 * 1024;

pub async fn publish_and_subscribe(server: &Server) {
    let (publisher, subscriber) = (server.connect().await, server.connect().await);
    let mut first = subscribed(&subscriber, "news.größe").await;
    let mut second = subscribed(&subscriber, "news.größe").await;
    let mut other = subscribed(&subscriber, "news.other").await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    for payload in [&b""[..], b"hello there", b"\r\nPUB news 1\r\n", &all_bytes] {
        publish(&publisher, "news.größe", payload).await;
        for subscription in [&mut first, &mut second] {
            let message = next(subscription).await.expect("a message");
            assert_eq!(message.subject.as_str(), "news.größe");
            assert_eq!((message.reply, message.headers), (None, None));
            assert_eq!(message.payload, payload);
        }
    }
    second.unsubscribe().await.unwrap();
    let reply = publisher.publish_with_reply("news.größe", "where.to", "once more".into());
    reply.await.unwrap();
    fence(&publisher, &subscriber).await;
    let got = waiting(&mut first).await;
    let reply = got[0].reply.as_ref().expect("a reply subject");
    assert_eq!((got.len(), reply.as_str()), (1, "where.to"));
    assert_eq!(text(&got[0]), "once more");
    assert_eq!(texts(&mut second).await, [""; 0], "it had unsubscribed");
    assert_eq!(texts(&mut other).await, [""; 0], "another subject");
}

pub async fn wildcards(server: &Server) {
    let (publisher, subscriber) = (server.connect().await, server.connect().await);
    let subjects = ["a", "a.b", "a.b.c", "a.x.c", "a.b.c.d", "b", "b.b", "A.b"];
    let wanted: [(&str, &[&str]); 6] = [
        ("a.*", &["a.b"]),
        ("*.b", &["a.b", "b.b", "A.b"]),
        ("a.*.c", &["a.b.c", "a.x.c"]),
        ("a.>", &["a.b", "a.b.c", "a.x.c", "a.b.c.d"]),
        ("*", &["a", "b"]),
        (">", &subjects),
    ];
    let mut subscriptions = Vec::new();
    for (pattern, _) in wanted {
        subscriptions.push(subscribed(&subscriber, pattern).await);
    }
    for subject in subjects {
        publish(&publisher, subject, subject).await;
    }
    fence(&publisher, &subscriber).await;
    for ((pattern, wanted), subscription) in wanted.iter().zip(&mut subscriptions) {
        let mut got = waiting(subscription).await;
        // What settles and fences is heard as well.
        got.retain(|message| !message.subject.starts_with("_INBOX."));
        let heard: Vec<&str> = got.iter().map(|message| message.subject.as_str()).collect();
        assert_eq!(heard, *wanted, "{pattern}");
        assert!(
            got.iter()
                .all(|message| text(message) == message.subject.as_str())
        );
    }
}

pub async fn queue_groups(server: &Server) {
    let publisher = server.connect().await;
    let mut clients = Vec::new();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let client = server.connect().await;
        workers.push(member(&client, "jobs.*", "workers").await);
        clients.push(client);
    }
    let mut plain = subscribed(&clients[0], "jobs.>").await;
    let mut alone = member(&clients[1], "jobs.one", "others").await;
    for number in numbers(300) {
        publish(&publisher, "jobs.one", number).await;
    }
    let mut all = Vec::new();
    for (client, worker) in clients.iter().zip(&mut workers) {
        fence(&publisher, client).await;
        let share: Vec<usize> = texts(worker)
            .await
            .iter()
            .map(|n| n.parse().unwrap())
            .collect();
        assert!(share.is_sorted(), "order within a member: {share:?}");
        assert!(share.len() >= 50, "a share of {}", share.len());
        all.extend(share);
    }
    all.sort_unstable();
    assert_eq!(all, (0..300).collect::<Vec<_>>(), "each exactly once");
    assert_eq!(texts(&mut plain).await, numbers(300), "who is in no group");
    assert_eq!(texts(&mut alone).await, numbers(300), "another group");
    for (client, worker) in clients.iter().zip(&mut workers).take(2) {
        worker.unsubscribe().await.unwrap();
        settle(client).await;
    }
    for number in numbers(50) {
        publish(&publisher, "jobs.one", number).await;
    }
    fence(&publisher, &clients[2]).await;
    assert_eq!(texts(&mut workers[2]).await, numbers(50), "the last member");
}

pub async fn requests(server: &Server) {
    let (asker, answerer) = (server.connect().await, server.connect().await);
    let service = subscribed(&answerer, "service.*").await;
    let reply = |request: &async_nats::Message| [b"re: ", &request.payload[..]].concat();
    let answering = tokio::spawn(answer(answerer, service, reply));
    let mut asked = tokio::task::JoinSet::new();
    for number in numbers(200) {
        let asker = asker.clone();
        asked.spawn(async move {
            let answer = asker.request("service.echo", number.clone().into()).await;
            assert_eq!(text(&answer.unwrap()), format!("re: {number}"));
        });
    }
    let answered = within("200 answers", asked.join_all()).await;
    assert_eq!(answered.len(), 200);
    let own_inbox = async_nats::Request::new()
        .payload("by an inbox".into())
        .inbox(asker.new_inbox());
    let answer = asker.send_request("service.echo", own_inbox).await;
    assert_eq!(text(&answer.unwrap()), "re: by an inbox");
    answering.abort();
}

pub async fn many_replies(server: &Server) {
    let asker = server.connect().await;
    let inbox = asker.new_inbox();
    let mut replies = subscribed(&asker, &inbox).await;
    let answerers = [server.connect().await, server.connect().await];
    let mut heard = Vec::new();
    for answerer in &answerers {
        heard.push(subscribed(answerer, "many").await);
    }
    let ask = asker.publish_with_reply("many", inbox.clone(), "reply".into());
    ask.await.unwrap();
    for (answerer, requests) in answerers.iter().zip(&mut heard) {
        let request = next(requests).await.expect("a request");
        let to = request.reply.as_ref().expect("a reply subject").to_string();
        assert_eq!(to, inbox);
        for number in 0..5 {
            publish(answerer, &to, format!("{} {number}", text(&request))).await;
        }
        publish(answerer, &to, "").await;
        fence(answerer, &asker).await;
        let wanted = ["reply 0", "reply 1", "reply 2", "reply 3", "reply 4", ""];
        assert_eq!(texts(&mut replies).await, wanted, "and no more than that");
    }
}

pub async fn no_responders(server: &Server) {
    let (asker, answerer) = (server.connect().await, server.connect().await);
    expect_no_responders(&asker, "nobody").await;
    for round in 0..20 {
        // What is settled holds for all connections, on whatever shard they are.
        let subject = format!("now.{round}");
        let mut requests = subscribed(&answerer, &subject).await;
        let (answer, ()) = tokio::join!(asker.request(subject.clone(), "".into()), async {
            let request = next(&mut requests).await.expect("a request");
            let to = request.reply.expect("a reply subject");
            answerer.publish(to, "here".into()).await.unwrap();
        });
        assert_eq!(text(&answer.unwrap()), "here");
        requests.unsubscribe().await.unwrap();
        settle(&answerer).await;
        expect_no_responders(&asker, &subject).await;
    }
}

pub async fn headers(server: &Server) {
    let (asker, answerer) = (server.connect().await, server.connect().await);
    let mut there = HeaderMap::new();
    for value in ["one", "two: 2", "größe"] {
        there.append("Several", value);
    }
    there.insert("single-one", "alone");
    let mut back = HeaderMap::new();
    for value in ["b", "a", "b"] {
        back.append("Back", value);
    }
    let mut requests = subscribed(&answerer, "with.headers").await;
    for payload in [vec![], b"payload".to_vec(), vec![7; MIB]] {
        let ask = asker.request_with_headers("with.headers", there.clone(), payload.clone().into());
        let (answer, ()) = tokio::join!(ask, async {
            let request = next(&mut requests).await.expect("a request");
            assert_eq!(request.headers.as_ref(), Some(&there), "headers there");
            assert!(request.payload == payload, "the payload there");
            let to = request.reply.expect("a reply subject");
            let answer = answerer.publish_with_headers(to, back.clone(), request.payload);
            answer.await.unwrap();
        });
        let answer = answer.unwrap();
        assert_eq!(answer.headers.as_ref(), Some(&back), "headers back");
        assert!(answer.payload == payload, "the payload back");
    }
}

pub async fn auto_unsubscribe(server: &Server) {
    let (publisher, subscriber) = (server.connect().await, server.connect().await);
    let mut limited = subscriber.subscribe("limited").await.unwrap();
    limited.unsubscribe_after(3).await.unwrap();
    let mut later = subscribed(&subscriber, "limited.later").await;
    for number in numbers(2) {
        publish(&publisher, "limited.later", number).await;
    }
    fence(&publisher, &subscriber).await;
    assert_eq!(texts(&mut later).await, numbers(2));
    later.unsubscribe_after(5).await.unwrap();
    settle(&subscriber).await;
    for number in numbers(9) {
        publish(&publisher, "limited", number.clone()).await;
        publish(&publisher, "limited.later", number).await;
    }
    for subscription in [&mut limited, &mut later] {
        let mut got = Vec::new();
        while let Some(message) = next(subscription).await {
            got.push(text(&message));
        }
        assert_eq!(got, numbers(3), "then it has ended");
    }
    // That the broker has ended them shows in that nobody is there.
    expect_no_responders(&publisher, "limited").await;
    expect_no_responders(&publisher, "limited.later").await;
}

pub async fn no_echo(server: &Server) {
    let silent = server.connect_with(server.options().no_echo()).await;
    let loud = server.connect().await;
    let mut silents = silent.subscribe("echo.>").await.unwrap();
    // It does not hear itself, so a request has to tell that the broker knows of the subscription.
    expect_no_responders(&silent, "nobody").await;
    let mut louds = subscribed(&loud, "echo.*").await;
    publish(&silent, "echo.a", "of the silent").await;
    fence(&silent, &loud).await;
    publish(&loud, "echo.a", "of the loud").await;
    assert_eq!(next_payload(&mut silents).await, b"of the loud");
    expect_no_responders(&silent, "nobody").await;
    assert_eq!(texts(&mut silents).await, [""; 0], "nothing of its own");
    settle(&loud).await;
    assert_eq!(texts(&mut louds).await, ["of the silent", "of the loud"]);
}

pub async fn large_payloads(server: &Server) {
    let (publisher, subscriber) = (server.connect().await, server.connect().await);
    assert_eq!(publisher.max_payload(), 2 * MIB);
    let mut subscription = subscribed(&subscriber, "large").await;
    for length in [MIB, 2 * MIB] {
        let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        publish(&publisher, "large", payload.clone()).await;
        assert!(
            next_payload(&mut subscription).await == payload,
            "{length} bytes"
        );
    }
    let too_much = publisher.publish("large", vec![0; 2 * MIB + 1].into());
    let error = too_much.await.expect_err("more than is allowed");
    assert_eq!(error.kind(), PublishErrorKind::MaxPayloadExceeded);
    publish(&publisher, "large", "it goes on").await;
    assert_eq!(next_payload(&mut subscription).await, b"it goes on");
}

pub async fn drain(server: &Server) {
    let publisher = server.connect().await;
    let (subscriber, mut events) = server.watched(server.options()).await;
    let mut first = subscribed(&subscriber, "drained.first").await;
    let mut second = subscribed(&subscriber, "drained.second").await;
    for number in numbers(1000) {
        publish(&publisher, "drained.first", number.clone()).await;
        publish(&publisher, "drained.second", number).await;
    }
    fence(&publisher, &subscriber).await;
    first.drain().await.unwrap();
    let mut handled = Vec::new();
    while let Some(message) = next(&mut first).await {
        handled.push(text(&message));
    }
    assert_eq!(handled, numbers(1000), "a drained subscription");
    expect_no_responders(&publisher, "drained.first").await;

    let mut last = subscribed(&publisher, "drained.last").await;
    publish(&subscriber, "drained.last", "said before the drain").await;
    within("drain", subscriber.drain()).await.unwrap();
    handled.clear();
    while let Some(message) = next(&mut second).await {
        handled.push(text(&message));
    }
    assert_eq!(handled, numbers(1000), "a drained connection");
    assert_eq!(next_payload(&mut last).await, b"said before the drain");
    events.until(Event::Closed).await;
    let error = subscriber.publish("drained.last", "".into()).await;
    assert_eq!(error.expect_err("closed").kind(), PublishErrorKind::Send);
    expect_no_responders(&publisher, "drained.second").await;
}

pub async fn reconnect(server: &Server, broker: &mut Broker) {
    let (publisher, mut publishers) = server.watched(server.options()).await;
    let (subscriber, mut subscribers) = server.watched(server.options()).await;
    let mut plain = subscribed(&subscriber, "kept.one").await;
    let mut wildcard = subscribed(&subscriber, "kept.>").await;
    let mut group = member(&subscriber, "kept.*", "group").await;
    let mut gone = subscribed(&subscriber, "kept.one").await;
    gone.unsubscribe().await.unwrap();
    let requests = subscribed(&subscriber, "asked").await;
    let answering = tokio::spawn(answer(subscriber.clone(), requests, |_| b"here".to_vec()));
    publish(&publisher, "kept.one", "before").await;
    fence(&publisher, &subscriber).await;
    for subscription in [&mut plain, &mut wildcard, &mut group] {
        assert_eq!(texts(subscription).await, ["before"]);
    }
    broker.restart();
    for events in [&mut publishers, &mut subscribers] {
        events.until(Event::Disconnected).await;
        events.until(Event::Connected).await;
    }
    settle(&subscriber).await;
    for number in numbers(3) {
        publish(&publisher, "kept.one", number).await;
    }
    fence(&publisher, &subscriber).await;
    for subscription in [&mut plain, &mut wildcard, &mut group] {
        assert_eq!(texts(subscription).await, numbers(3), "after the restart");
    }
    assert_eq!(texts(&mut gone).await, [""; 0]);
    let answer = publisher.request("asked", "".into()).await;
    assert_eq!(text(&answer.unwrap()), "here");
    assert_eq!(publisher.connection_state(), State::Connected);
    answering.abort();
}

pub async fn authentication(server: &Server) {
    let open = || ConnectOptions::new().connection_timeout(Duration::from_secs(10));
    let Some(password) = server.password else {
        let any = open().user_and_password("any".into(), "thing".into());
        settle(&server.connect_with(any).await).await;
        return;
    };
    let with = |user: &str, password: &str| open().user_and_password(user.into(), password.into());
    for (options, why) in [
        (open(), "nothing"),
        (with("default", "wrong"), "a wrong password"),
        (with("default", ""), "no password"),
        (with("nobody", password), "a wrong user"),
        (open().token("wrong".into()), "a wrong token"),
    ] {
        let error = within(why, options.connect(&server.url)).await;
        let kind = error.expect_err(why).kind();
        assert_eq!(kind, ConnectErrorKind::AuthorizationViolation, "{why}");
    }
    let by_token = server.connect_with(open().token(password.into())).await;
    let mut subscription = subscribed(&by_token, "token").await;
    let publisher = server.connect().await;
    publish(&publisher, "token", "let in").await;
    assert_eq!(next_payload(&mut subscription).await, b"let in");
}

pub async fn slow_consumer(server: &Server) {
    let publisher = server.connect().await;
    let options = server.options().subscription_capacity(10);
    let (subscriber, mut events) = server.watched(options).await;
    let quick = server.connect().await;
    let mut all = subscribed(&quick, "flood").await;
    let mut slow = subscribed(&subscriber, "flood").await;
    for number in numbers(100) {
        publish(&publisher, "flood", number).await;
    }
    fence(&publisher, &subscriber).await;
    events.until(Event::Connected).await;
    let report = events.next("a report").await;
    assert!(matches!(report, Event::SlowConsumer(_)), "{report:?}");
    // It says so again for what it drops, of this subscription only.
    let more = events.take();
    assert!(more.iter().all(|event| *event == report), "{more:?}");
    assert_eq!(texts(&mut slow).await, numbers(10), "what it had room for");
    fence(&publisher, &quick).await;
    assert_eq!(texts(&mut all).await, numbers(100), "others miss nothing");
}

pub async fn order(server: &Server) {
    const PUBLISHERS: usize = 3;
    const MESSAGES: usize = 2000;
    let subscriber = server.connect().await;
    let mut all = subscribed(&subscriber, "order.>").await;
    let mut publishing = tokio::task::JoinSet::new();
    for name in 0..PUBLISHERS {
        let client = server.connect().await;
        publishing.spawn(async move { publish_in_order(&client, name, MESSAGES).await });
    }
    let mut heard = vec![Vec::new(); PUBLISHERS];
    for _ in 0..PUBLISHERS * MESSAGES {
        let message = next(&mut all).await.expect("a message");
        let name = message.subject.split('.').nth(1).expect("a name");
        heard[name.parse::<usize>().unwrap()].push(text(&message));
    }
    for (name, own) in heard.iter().enumerate() {
        assert!(*own == numbers(MESSAGES), "order of publisher {name}");
    }
    within("the publishers", publishing.join_all()).await;
}

/// One after the other on different subjects, and of different kinds.
async fn publish_in_order(client: &Client, name: usize, messages: usize) {
    for number in 0..messages {
        let subject = format!("order.{name}.{}", number % 3);
        let payload = number.to_string().into();
        let published = if number % 7 == 0 {
            let mut headers = HeaderMap::new();
            headers.insert("Number", number.to_string());
            client.publish_with_headers(subject, headers, payload).await
        } else {
            client.publish(subject, payload).await
        };
        published.unwrap();
    }
    client.flush().await.unwrap();
}
