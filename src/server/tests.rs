//! The poking thread against a lost wake-up, in a whole server of this process.
//!
//! An event goes from one shard to another that sleeps, and the ring of the other's bell is lost. Nothing else would
//! wake that shard: it has no timer, and nobody writes to its connections.

use crate::mesh::Door;
use crate::{Config, Faults, Server};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Time-out for something that must happen: generous, not a measure of speed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A shard that has stood still for this long is asleep: waits in its ring end after a few milliseconds.
const STILL: Duration = Duration::from_millis(500);

/// A shard that has stood still for this long no longer waits in its ring, but is parked.
const PARKED: Duration = Duration::from_millis(15);

/// How long to wait for an event that must not arrive: two hundred times what the poking thread needs.
const NOT_WITHIN: Duration = Duration::from_secs(1);

const EVENT: &str = "*3\r\n$7\r\nmessage\r\n$6\r\nacross\r\n$5\r\nhello\r\n";

struct Client(TcpStream);

impl Client {
    /// Connects until the kernel chooses this shard.
    fn at_shard(address: SocketAddr, shard: usize) -> Client {
        for _ in 0..1_000 {
            let mut client = Client(TcpStream::connect(address).unwrap());
            client.send("CLIENT INFO");
            if client
                .line_with("id=")
                .contains(&format!(" shard={shard} "))
            {
                return client;
            }
        }
        panic!("a thousand connections, and none is at shard {shard}");
    }

    fn send(&mut self, command: &str) {
        self.0
            .write_all(format!("{command}\r\n").as_bytes())
            .unwrap();
    }

    /// Reads to the end of the first line that contains `part`. Returns it with the line before: a reply of CLIENT
    /// INFO.
    fn line_with(&mut self, part: &str) -> String {
        let mut text = String::new();
        loop {
            text.push_str(&self.some(DEADLINE).expect("a reply"));
            if text.contains(part) && text.ends_with("\r\n") {
                return text;
            }
        }
    }

    /// Reads exactly `expected`.
    fn expect(&mut self, expected: &str) {
        let mut bytes = vec![0; expected.len()];
        self.0.set_read_timeout(Some(DEADLINE)).unwrap();
        self.0.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    /// Whatever arrives within `limit`; empty if a signal came first.
    fn some(&mut self, limit: Duration) -> Option<String> {
        let mut bytes = [0; 4096];
        self.0.set_read_timeout(Some(limit)).unwrap();
        match self.0.read(&mut bytes) {
            Ok(count) => Some(String::from_utf8_lossy(&bytes[..count]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            // A signal of an executor's timer: nothing has arrived yet.
            Err(error) if error.kind() == ErrorKind::Interrupted => Some(String::new()),
            Err(error) => panic!("reading failed: {error}"),
        }
    }
}

/// A server of two shards, a publisher on the first, and two clients on the second, one of which subscribes.
struct Scene {
    server: Server,
    publisher: Client,
    subscriber: Client,
    neighbour: Client,
}

impl Scene {
    fn new(faults: Faults) -> Scene {
        let server = Server::start(Config {
            shards: Some(2),
            redis: Some("127.0.0.1:0".parse().unwrap()),
            faults,
            ..Config::default()
        })
        .unwrap();
        let (_, address) = server.listeners()[0];
        let mut subscriber = Client::at_shard(address, 1);
        subscriber.send("SUBSCRIBE across");
        subscriber.expect("*3\r\n$9\r\nsubscribe\r\n$6\r\nacross\r\n:1\r\n");
        Scene {
            publisher: Client::at_shard(address, 0),
            neighbour: Client::at_shard(address, 1),
            subscriber,
            server,
        }
    }

    /// The door of the second shard.
    fn door(&self) -> &Door {
        self.server.doors.iter().nth(1).unwrap()
    }

    /// Waits until the second shard sleeps and has stood still for this long.
    fn await_stillness(&self, still: Duration) {
        let deadline = Instant::now() + DEADLINE;
        let (mut turns, mut since) = (self.door().turns(), Instant::now());
        while since.elapsed() < still || !self.door().is_asleep() {
            assert!(Instant::now() < deadline, "the shard does not fall asleep");
            std::thread::sleep(Duration::from_millis(1));
            if self.door().turns() != turns {
                (turns, since) = (self.door().turns(), Instant::now());
            }
        }
    }

    /// Waits until the poking thread dozes.
    fn await_doze(&self) {
        let deadline = Instant::now() + DEADLINE;
        while !self.server.doors.watch().is_dozing() {
            assert!(Instant::now() < deadline, "the poking thread looks on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn publish(&mut self) {
        self.publisher.send("PUBLISH across hello");
        self.publisher.expect(":1\r\n");
    }

    fn end(self) {
        self.server.stopper().drain();
        self.server.join().unwrap();
    }
}

#[test]
fn a_lost_wake_up_is_made_good_by_the_poking_thread() {
    let mut scene = Scene::new(Faults::default());
    let deadline = Instant::now() + DEADLINE;
    let mut swallowed = 0;
    // An attempt that finds the shard awake loses no wake-up and proves nothing.
    while swallowed < 20 {
        assert!(Instant::now() < deadline, "the shard is not poked");
        // The shard is parked; the poking thread is alternately looking and dozing.
        scene.await_stillness(PARKED);
        if swallowed % 2 == 0 {
            scene.await_doze();
        }
        scene.door().swallow_next();
        scene.publish();
        scene.subscriber.expect(EVENT);
        swallowed += usize::from(scene.door().has_swallowed());
    }
    scene.end();
}

#[test]
fn a_lost_wake_up_without_the_poking_thread_is_lost() {
    let mut scene = Scene::new(Faults { no_poking: true });
    scene.await_stillness(STILL);
    let turns = scene.door().turns();
    scene.door().swallow_next();
    scene.publish();
    let published = Instant::now();
    while published.elapsed() < NOT_WITHIN {
        let early = scene.subscriber.some(NOT_WITHIN);
        assert_eq!(early.unwrap_or_default(), "", "it came by itself");
    }
    assert!(scene.door().has_swallowed());
    assert_eq!(scene.door().turns(), turns, "the shard moved by itself");
    // Any other wake-up of the shard delivers the event.
    scene.neighbour.send("PING");
    scene.neighbour.expect("+PONG\r\n");
    scene.subscriber.expect(EVENT);
    // The next wake-up is not lost.
    scene.publish();
    scene.subscriber.expect(EVENT);
    scene.end();
}

#[test]
fn idle_shards_are_left_alone() {
    let scene = Scene::new(Faults::default());
    // A hundred looks of the poking thread.
    scene.await_stillness(STILL);
    scene.await_doze();
    scene.end();
}
