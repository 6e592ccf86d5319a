//! Any bytes on several connections of a shard: no panic, and nothing is left when all have gone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sapwood_core::command::{ClientId, ConnId, Now, ShardId};
use sapwood_core::limits::Limits;
use sapwood_core::{BodyGauge, Config, Input, Next, Outputs, Policy, Protocol, Shard};

const CONNECTIONS: usize = 3;

fn shard(password: bool) -> Shard {
    Shard::new(Config {
        shard: ShardId(0),
        shards: 1,
        password: password.then(|| b"a".to_vec()),
        limits: Limits { outbox_bytes_max: 4096, transaction_bytes_max: 4096, ..Limits::default() },
        hash_seed: 1,
        body_gauge: BodyGauge::default(),
        run_id: String::new(),
        process_id: 1,
        started_wall_ms: 0,
    })
}

/// Reads everything that waits on every connection.
fn flush(shard: &mut Shard, outputs: &mut Outputs) {
    let mut dirty = Vec::new();
    shard.take_dirty(&mut dirty);
    for conn in dirty {
        let length = shard.output(conn).map(<[u8]>::len).sum();
        shard.sent(conn, length, false, outputs);
    }
}

fuzz_target!(|data: (bool, Vec<(u8, Vec<u8>)>)| {
    let (password, pieces) = data;
    let mut shard = shard(password);
    let mut outputs = Outputs::default();
    let now = Now::default();
    let address = "127.0.0.1:1".parse().expect("an address");
    for place in 0..CONNECTIONS {
        let (conn, client) = (ConnId(place as u32), ClientId(place as u64 + 1));
        let input =
            Input::Opened { conn, client, protocol: Protocol::Redis, policy: Policy::Close, peer: address, local: address };
        shard.handle(input, now, &mut outputs);
    }
    let mut kept: Vec<Vec<u8>> = vec![Vec::new(); CONNECTIONS];
    let mut closed = [false; CONNECTIONS];
    for (place, bytes) in pieces {
        let place = usize::from(place) % CONNECTIONS;
        if closed[place] {
            continue;
        }
        let conn = ConnId(place as u32);
        kept[place].extend_from_slice(&bytes);
        let mut fresh = bytes.len();
        loop {
            let input = Input::Bytes { conn, bytes: &kept[place], fresh };
            let handled = shard.handle(input, now, &mut outputs);
            kept[place].drain(..handled.consumed);
            fresh = 0;
            flush(&mut shard, &mut outputs);
            if handled.next != Next::Flush {
                break;
            }
        }
        for (conn, _) in outputs.closing.drain(..) {
            closed[conn.0 as usize] = true;
            shard.handle(Input::Closed { conn }, now, &mut Outputs::default());
        }
        outputs.resumed.clear();
    }
    for (place, closed) in closed.iter().enumerate() {
        if !closed {
            shard.handle(Input::Closed { conn: ConnId(place as u32) }, now, &mut outputs);
        }
    }
    shard.handle(Input::TurnEnd, now, &mut outputs);
    let counters = shard.counters();
    let left = [counters.connections, counters.subscriptions, counters.filters];
    assert_eq!(left, [0, 0, 0], "connections, subscriptions, filters");
    assert_eq!([counters.outbox_bytes, counters.input_bytes], [0, 0], "bytes out, bytes in");
});
