//! Nobody is starved or closed because others are busy: a large transaction beside a subscriber that reads, and more
//! flooding publishers than the shard has receive buffers beside a client that waits for a reply.

mod common;
#[path = "common/load.rs"]
mod load;

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io::Read, io::Write, thread};

use common::Broker;
use common::resp::{RawClient, Value, request};
use load::alone;

/// More than a shard reads from in a turn, if each brings all it may.
const FLOODERS: usize = 80;

/// More than the receive buffers of two shards.
const ASKERS: usize = 600;

#[test]
fn a_subscriber_that_reads_survives_a_transaction_larger_than_its_outbox() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut subscriber = RawClient::connect(broker.port());
        subscriber.call(&["SUBSCRIBE", "orders"]);
        // 50 MB, which is below the cap on a transaction and above that on an outbox.
        let count = 50_000usize;
        let payload = vec![b'x'; 1000];
        let reader = thread::spawn(move || {
            for number in 0..count {
                let Value::Array(message) = subscriber.value() else {
                    panic!("event {number} is no message");
                };
                assert_eq!(message[2], Value::bulk("x".repeat(1000)), "event {number}");
            }
        });
        let mut publisher = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
        let mut writer = publisher.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(&request(&[b"MULTI"])).unwrap();
            let publish = request(&[b"PUBLISH", b"orders", &payload]);
            for _ in 0..count / 100 {
                writer.write_all(&publish.repeat(100)).unwrap();
            }
            writer.write_all(&request(&[b"EXEC"])).unwrap();
        });
        let expected = "+OK\r\n".len()
            + count * "+QUEUED\r\n".len()
            + "*50000\r\n".len()
            + count * ":1\r\n".len();
        let mut replies = vec![0; expected];
        publisher
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        publisher.read_exact(&mut replies).unwrap();
        assert!(replies.ends_with(b":1\r\n:1\r\n"));
        writing.join().unwrap();
        reader.join().unwrap();
    }
}

#[test]
fn more_flooders_than_buffers_starve_nobody() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let ended = Arc::new(AtomicBool::new(false));
        let chunk = request(&[b"PUBLISH", b"nobody", b"hears"]).repeat(4000);
        let flooders: Vec<_> = (0..FLOODERS)
            .map(|_| {
                let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
                stream
                    .write_all(&request(&[b"CLIENT", b"REPLY", b"OFF"]))
                    .unwrap();
                let (ended, chunk) = (Arc::clone(&ended), chunk.clone());
                thread::spawn(move || {
                    let start = Instant::now();
                    while !ended.load(Ordering::Relaxed)
                        && start.elapsed() < Duration::from_secs(60)
                    {
                        stream.write_all(&chunk).unwrap();
                    }
                    let _ = stream.shutdown(Shutdown::Both);
                })
            })
            .collect();
        // Each call fails by itself where its answer does not come within the client's deadline.
        let mut client = RawClient::connect(broker.port());
        for _ in 0..50 {
            assert_eq!(client.call(&["PING"]), Value::Simple("PONG".to_string()));
        }
        ended.store(true, Ordering::Relaxed);
        flooders
            .into_iter()
            .for_each(|flooder| flooder.join().unwrap());
    }
}

#[test]
fn more_askers_at_once_than_receive_buffers_are_all_answered() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut askers: Vec<TcpStream> = (0..ASKERS)
            .map(|_| TcpStream::connect(("127.0.0.1", broker.port())).unwrap())
            .collect();
        // While this is dealt with, all of them come.
        let mut busy = RawClient::connect(broker.port());
        let load = request(&[b"PUBLISH", b"nobody", b"hears"]).repeat(100_000);
        for _ in 0..5 {
            let mut writer = busy.stream().try_clone().unwrap();
            let load = load.clone();
            let writing = thread::spawn(move || writer.write_all(&load).unwrap());
            for asker in &mut askers {
                asker.write_all(&request(&[b"ECHO", b"here"])).unwrap();
            }
            for asker in &mut askers {
                let mut answer = [0; 10];
                asker
                    .set_read_timeout(Some(Duration::from_secs(20)))
                    .unwrap();
                asker.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"$4\r\nhere\r\n");
            }
            for _ in 0..100_000 {
                assert_eq!(busy.value(), Value::Integer(0));
            }
            writing.join().unwrap();
        }
    }
}

#[test]
fn lines_of_http_close_the_connection() {
    let _alone = alone();
    for shards in [1, 2] {
        let broker = Broker::start(shards, &[]);
        let mut subscriber = RawClient::connect(broker.port());
        subscriber.call(&["SUBSCRIBE", "news"]);
        let mut page = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
        page.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nPUBLISH news forged\r\n")
            .unwrap();
        page.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut answer = Vec::new();
        // A reset instead of an end is an end too.
        let _ = page.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
        let mut client = RawClient::connect(broker.port());
        assert_eq!(client.call(&["PUBLISH", "news", "true"]), Value::Integer(1));
        let Value::Array(message) = subscriber.value() else {
            panic!("no message")
        };
        assert_eq!(message[2], Value::bulk("true"));
    }
}
