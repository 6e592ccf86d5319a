//! Several publishers write pipelines at the same time to several subscribers.
//!
//! How two publishers' messages mix is open. What one subscription hears of one publisher is not, nor what
//! all members of a queue group hear together.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use super::compare::Frame;
use super::run::Connection;

const PUBLISHERS: usize = 4;
const MESSAGES: usize = 2000;
const OF_EACH_MEMBER: usize = 50;
const SUBJECTS: [&str; 3] = ["crowd.a", "crowd.b", "elsewhere"];
const SECONDS_MAX: Duration = Duration::from_secs(10);

/// What each subscriber wants: a filter, a queue group or nothing, and a name.
const SUBSCRIBERS: &[&[&str]] = &[
    &["crowd.a  1"],
    &["crowd.a  1", "crowd.b  2", "crowd.*  3"],
    &[">  1", "crowd.* q q1"],
    &["elsewhere  x", "crowd.a q q1"],
    &["crowd.> q q1", "*  2"],
];

/// Who heard whom, and all that was heard.
type Heard = Vec<(String, Vec<String>)>;

/// For each subscription and publisher, what was heard, in order; for a queue group, sorted.
pub fn heard(port: u16) -> Heard {
    let mut subscribers: Vec<Connection> = SUBSCRIBERS
        .iter()
        .map(|wishes| subscribe(port, wishes))
        .collect();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|number| thread::spawn(move || publish(port, number)))
        .collect();
    for publisher in publishers {
        publisher.join().expect("a publisher ends well");
    }
    // The last message of each publisher may be on its way from shard to shard.
    let deadline = Instant::now() + SECONDS_MAX;
    let mut by_place = sorted(&subscribers);
    loop {
        for subscriber in &mut subscribers {
            subscriber.barrier(pongs(&subscriber.frames), SECONDS_MAX);
        }
        let again = sorted(&subscribers);
        if again == by_place && !again.is_empty() || Instant::now() > deadline {
            return again.into_iter().collect();
        }
        by_place = again;
        thread::sleep(Duration::from_millis(50));
    }
}

/// What the members of one queue group hear who do not hear themselves, when each of them publishes:
/// all that is published, sorted, and nothing by its own publisher.
pub fn heard_by_others(port: u16) -> Vec<String> {
    let mut members: Vec<Connection> = (0..PUBLISHERS).map(|_| Connection::open(port)).collect();
    for member in &mut members {
        member.write(b"CONNECT {\"verbose\":false,\"echo\":false}\r\nSUB a q q1\r\n");
        member.barrier(0, SECONDS_MAX);
    }
    for (number, member) in members.iter_mut().enumerate() {
        let publish = |message: usize| format!("PUB a 4\r\n{number}:{message:02}\r\n");
        let bytes: String = (0..OF_EACH_MEMBER).map(publish).collect();
        member.write(bytes.as_bytes());
        member.barrier(pongs(&member.frames), SECONDS_MAX);
    }
    let deadline = Instant::now() + SECONDS_MAX;
    loop {
        let mut heard = Vec::new();
        for (number, member) in members.iter_mut().enumerate() {
            member.barrier(pongs(&member.frames), SECONDS_MAX);
            for frame in &member.frames {
                if let Frame::Message(message) = frame {
                    let payload = text(&message.payload);
                    assert!(!payload.starts_with(&format!("{number}:")), "{payload}");
                    heard.push(payload);
                }
            }
        }
        if heard.len() >= PUBLISHERS * OF_EACH_MEMBER || Instant::now() > deadline {
            heard.sort();
            return heard;
        }
    }
}

fn pongs(frames: &[Frame]) -> usize {
    frames.iter().filter(|frame| **frame == Frame::Pong).count()
}

fn subscribe(port: u16, wishes: &[&str]) -> Connection {
    let mut connection = Connection::open(port);
    connection.write(b"CONNECT {\"verbose\":false}\r\n");
    for wish in wishes {
        connection.write(format!("SUB {wish}\r\n").as_bytes());
    }
    connection.barrier(0, SECONDS_MAX);
    connection
}

fn publish(port: u16, number: usize) {
    let mut connection = Connection::open(port);
    let mut bytes = b"CONNECT {\"verbose\":false}\r\n".to_vec();
    for message in 0..MESSAGES {
        // Some of one subject in a row, as pipelines have.
        let subject = SUBJECTS[(message / 3 + number) % SUBJECTS.len()];
        let payload = format!("{number}:{message}");
        let length = payload.len();
        bytes.extend_from_slice(format!("PUB {subject} {length}\r\n{payload}\r\n").as_bytes());
    }
    connection.write(&bytes);
    connection.barrier(0, SECONDS_MAX);
    assert_eq!(connection.frames, [Frame::Pong]);
}

fn sorted(subscribers: &[Connection]) -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (number, subscriber) in subscribers.iter().enumerate() {
        for frame in &subscriber.frames {
            let Frame::Message(message) = frame else {
                continue;
            };
            let (sid, payload) = (text(&message.sid), text(&message.payload));
            let publisher = payload.split(':').next().unwrap_or_default();
            let place = match sid.starts_with('q') {
                true => "the queue group".to_string(),
                false => {
                    format!("subscriber {number}, subscription {sid}, of publisher {publisher}")
                }
            };
            places.entry(place).or_default().push(payload);
        }
    }
    if let Some(messages) = places.get_mut("the queue group") {
        messages.sort();
    }
    places
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
