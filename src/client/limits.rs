//! The client's defaults and caps, with their reasons. All but the last six are fields of
//! [`Config`](crate::Config).

use std::time::Duration;

/// Shortest ceiling of the wait before a reconnect. With full jitter the mean wait of the first is
/// half of it: 25 ms, which a restarted broker hardly notices from a thousand clients.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest ceiling of that wait: people who restart a broker see their clients back in 2.5 s on
/// average.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long one address may take to accept and to say WELCOME. A lost SYN is sent again after 1 s
/// and after 3 s, so two may be lost.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long nothing may be heard before a PING asks. Below the 30 s after which the shortest-lived
/// NATs and balancers forget a connection.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long the answer to that PING may take; then the connection is given up, 20 s after the last
/// sign of life.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a confirmed publish, a subscribe or a ping waits for its answer, reconnects included.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request waits for its first reply, and then for each further one.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a drain may take, so that a program always ends within what service managers allow
/// (30 s in Kubernetes).
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of frames that may be queued or wait for their answer. Twice what a socket takes at once,
/// so the socket never idles. Worst memory: this, and one message more.
pub const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Requests that may be queued or wait for their answer. A window of 8,192 keeps 800,000 a second
/// going at a round trip of 10 ms. Worst memory: 72 bytes each, 600 KiB.
pub const WINDOW_REQUESTS: usize = 8_192;

/// Bytes that may wait in the queue of one subscription before reading stops: some 16 reads, so a
/// subscriber that works in bursts stops nobody. Worst memory: this, and one read, for each.
pub const QUEUE_BYTES: usize = 1024 * 1024;

/// Bytes that may wait in all queues together while reading must go on past full ones, because
/// an answer is awaited: a broker's outbox is capped at 32 MiB by default, so everything that stands
/// before the answer has room, with the sockets' buffers. Worst memory: this, or every queue at
/// its own cap if that is more; views of a read can keep at most four times as much alive.
pub const QUEUES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of frames that are written at once. The kernel copies a larger write no faster.
pub const SEGMENT_BYTES: usize = 64 * 1024;

/// Emptied segments that are kept for reuse. Worst memory: 8 times twice `SEGMENT_BYTES`, 1 MiB.
pub const SEGMENTS_SPARE_MAX: usize = 8;

/// Bytes that are asked for in one read: 64 KiB measured 3 times better than 8 KiB, and more does
/// not measure better.
pub const READ_BYTES: usize = 64 * 1024;

/// Largest read buffer that is kept after the long message that made it so large. Worst memory: this, for each connection.
pub const READ_BYTES_KEPT_MAX: usize = 4 * READ_BYTES;

/// Shortest run of events that a queue holds as a view of the read buffer; shorter ones are copied.
/// A view keeps the whole buffer alive, so this bounds what a queue can keep alive to four times what
/// it counts. Copying 16 KiB costs less than the buffer that would have to be allocated instead.
pub const VIEW_BYTES_MIN: usize = READ_BYTES / 4;

/// Connection events that are kept for readers of `events()` that are late.
pub const EVENTS_MAX: usize = 256;
