//! Connections between two nodes that are cut: what was on its way comes on the next one, once and in order.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;
use sapwood_wire::native::Policy;
use sapwood_wire::node::hello::DIAL_BYTES;

use crate::common::Broker;
use crate::common::native::{Event, NativeClient};
use crate::load::{alone, wait_until};
use crate::nodes::{Ear, until_native_heard};

/// One connection through the proxy.
struct Through {
    lane: u16,
    number: u64,
    sides: [TcpStream; 2],
}

/// Forwards connections between nodes, and cuts them when it is told to.
struct Proxy {
    port: u16,
    target: Arc<Mutex<u16>>,
    through: Arc<Mutex<Vec<Through>>>,
}

impl Proxy {
    fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy {
            port: listener.local_addr().unwrap().port(),
            target: Arc::default(),
            through: Arc::default(),
        };
        let (target, through) = (Arc::clone(&proxy.target), Arc::clone(&proxy.through));
        thread::spawn(move || {
            for (number, dialer) in (0..).zip(listener.incoming().map_while(Result::ok)) {
                let (target, through) = (Arc::clone(&target), Arc::clone(&through));
                // Whoever dials and goes away again is no matter of the proxy's.
                thread::spawn(move || {
                    let port = *target.lock().unwrap();
                    let _ = forward(number, dialer, port, &through);
                });
            }
        });
        proxy
    }

    /// The number of the newest connection of a lane, if there is one.
    fn newest(&self, lane: u16) -> Option<u64> {
        let through = self.through.lock().unwrap();
        let of_lane = through.iter().filter(|through| through.lane == lane);
        of_lane.map(|through| through.number).max()
    }

    /// Cuts all connections of a lane, by an end or by a reset; gives the number of the newest.
    fn cut(&self, lane: u16, by_reset: bool) -> u64 {
        let newest = self.newest(lane).expect("the lane has a connection");
        let mut through = self.through.lock().unwrap();
        through.retain(|connection| {
            if connection.lane == lane {
                for side in &connection.sides {
                    if by_reset {
                        sockopt::set_socket_linger(side, Some(Duration::ZERO)).unwrap();
                    }
                    // The other side may have ended it already.
                    let _ = side.shutdown(Shutdown::Both);
                }
            }
            connection.lane != lane
        });
        newest
    }
}

fn forward(
    number: u64,
    mut dialer: TcpStream,
    port: u16,
    through: &Mutex<Vec<Through>>,
) -> std::io::Result<()> {
    let mut preamble = [0; DIAL_BYTES];
    dialer.read_exact(&mut preamble)?;
    let mut acceptor = TcpStream::connect(("127.0.0.1", port))?;
    for side in [&dialer, &acceptor] {
        side.set_nodelay(true)?;
    }
    acceptor.write_all(&preamble)?;
    through.lock().unwrap().push(Through {
        lane: u16::from_le_bytes([preamble[12], preamble[13]]),
        number,
        sides: [dialer.try_clone()?, acceptor.try_clone()?],
    });
    let pairs = [
        (dialer.try_clone()?, acceptor.try_clone()?),
        (acceptor, dialer),
    ];
    let copies = pairs.map(|(mut from, mut to)| {
        thread::spawn(move || {
            // The end of one way, whatever its reason, ends the other.
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        })
    });
    for copy in copies {
        copy.join().expect("copying does not panic");
    }
    through
        .lock()
        .unwrap()
        .retain(|other| other.number != number);
    Ok(())
}

/// A publisher of numbered events, who does not run away from the listener by more than a few.
struct Flow {
    stop: Arc<AtomicBool>,
    heard: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<u64>>,
}

impl Flow {
    const AHEAD_MAX: u64 = 4_000;

    fn start(from: (&Broker, usize), to: (&Broker, usize), topic: &str) -> Flow {
        let ear = Ear::native_on_shard(to.0, to.1, topic);
        let mut publisher = NativeClient::connect_to_shard(from.0, from.1, Policy::Close);
        until_native_heard(&mut publisher, topic, [&ear]);
        let stop = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(AtomicU64::new(0));
        let (ends, counted, topic) = (Arc::clone(&stop), Arc::clone(&heard), topic.to_string());
        let publishing = thread::spawn(move || {
            let mut number = 0;
            while !ends.load(Ordering::Relaxed) {
                if number < counted.load(Ordering::Relaxed) + Flow::AHEAD_MAX {
                    for _ in 0..5 {
                        publisher.publish(&Event::new(&topic, format!("{number}")));
                        number += 1;
                    }
                }
                thread::sleep(Duration::from_micros(500));
            }
            publisher.publish(&Event::new(&topic, "end"));
            number
        });
        let counted = Arc::clone(&heard);
        let listening = thread::spawn(move || {
            let mut next = 0;
            loop {
                let payload = ear.next().payload;
                if payload == b"end" {
                    return next;
                }
                let text = String::from_utf8(payload).unwrap();
                assert_eq!(text, format!("{next}"), "lost, twice or out of order");
                next += 1;
                counted.store(next, Ordering::Relaxed);
            }
        });
        Flow {
            stop,
            heard,
            threads: vec![publishing, listening],
        }
    }

    fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Ends it; gives how many events came, which are all.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let counts = self.threads.into_iter().map(|thread| {
            let count = thread.join();
            count.expect("every event comes, once and in order")
        });
        let counts: Vec<u64> = counts.collect();
        assert_eq!(counts[0], counts[1], "published and heard");
        counts[0]
    }
}

#[test]
fn cut_connections_between_nodes_lose_nothing_and_repeat_nothing() {
    const CUTS: usize = 20;
    let _alone = alone();
    for [above, below] in [[1, 1], [2, 2], [1, 2]] {
        let proxy = Proxy::start();
        let address = format!("127.0.0.1:{}", proxy.port);
        let parent = Broker::start(above, &["--advertise", &address]);
        *proxy.target.lock().unwrap() = parent.node_port();
        let child = Broker::start(below, &["--join", &address]);
        let mut flows = Vec::new();
        for shard in 0..above.max(below) {
            let (upper, lower) = ((&parent, shard % above), (&child, shard % below));
            flows.push(Flow::start(upper, lower, &format!("down{shard}")));
            flows.push(Flow::start(lower, upper, &format!("up{shard}")));
            flows.push(Flow::start(
                upper,
                (&child, below - 1),
                &format!("across{shard}"),
            ));
        }
        for cut in 0..CUTS {
            for lane in 0..above.max(below) as u16 {
                let before = proxy.cut(lane, cut % 2 == 1);
                wait_until("the lane has another connection", || {
                    proxy.newest(lane).is_some_and(|newest| newest > before)
                });
                let heard: Vec<u64> = flows.iter().map(Flow::heard).collect();
                wait_until("events come on it", || {
                    let mut running = flows.iter().flat_map(|flow| &flow.threads);
                    assert!(
                        running.all(|thread| !thread.is_finished()),
                        "cut {cut} of lane {lane}, {above} and {below} shards:\n{}\n{}",
                        parent.stderr(),
                        child.stderr()
                    );
                    let mut flows = flows.iter().zip(&heard);
                    flows.all(|(flow, before)| flow.heard() > before + 10)
                });
            }
        }
        let counts: Vec<u64> = flows.into_iter().map(Flow::end).collect();
        println!("{CUTS} cuts of each lane, {above} and {below} shards: {counts:?} events");
        for node in [&parent, &child] {
            let text = node.stderr();
            assert!(!text.contains("ended:"), "the link ended: {text}");
        }
    }
}
