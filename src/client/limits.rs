//! The client's defaults and caps, with their reasons. All but the last six are fields of [`Config`](crate::Config).

use std::time::Duration;

/// Minimum ceiling of the reconnect backoff. With full jitter the mean first delay is half of it: 25 ms, which a
/// restarted broker hardly notices from a thousand clients.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Maximum ceiling of the reconnect backoff: clients reconnect 2.5 s on average after the broker is back.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Time-out for one address to accept and to send WELCOME. A lost SYN is retransmitted after 1 s and after 3 s, so two
/// may be lost.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle time after which a PING is sent. Below the 30 s after which the shortest-lived NATs and load balancers forget a
/// connection.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Time-out of that PING's answer; then the connection is closed, 20 s after the last input.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Time-out of a confirmed publish, a subscribe or a ping, reconnects included.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time-out of a request's first reply, and of each further one.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Time-out of a drain, so that a program always ends within what service managers allow (30 s in Kubernetes).
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of frames that may be queued or unacknowledged. Twice what a socket takes at once, so the socket never idles.
/// Worst memory: this, plus one message.
pub const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Requests that may be queued or unacknowledged. A window of 8,192 sustains 800,000 a second at a round trip of 10 ms.
/// Worst memory: 72 bytes each, 600 KiB.
pub const WINDOW_REQUESTS: usize = 8_192;

/// Bytes in the queue of one subscription before reading stops: some 16 reads, so a subscriber that works in bursts
/// holds up nobody. Worst memory: this plus one read, for each subscription.
pub const QUEUE_BYTES: usize = 1024 * 1024;

/// Bytes in all queues together while reading must go on past full ones, because an answer is awaited: a broker's
/// outbox is capped at 32 MiB by default, so everything before the answer fits, with the sockets' buffers. Worst
/// memory: this, or every queue at its own cap if that is more; views of a read can keep at most four times as much
/// alive.
pub const QUEUES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Maximum bytes of frames in one write. The kernel copies a larger write no faster.
pub const SEGMENT_BYTES: usize = 64 * 1024;

/// Emptied segments that are kept for reuse. Worst memory: 8 times twice `SEGMENT_BYTES`, 1 MiB.
pub const SEGMENTS_SPARE_MAX: usize = 8;

/// Bytes requested in one read: 64 KiB measured 3 times better than 8 KiB, and more does not measure better.
pub const READ_BYTES: usize = 64 * 1024;

/// Largest read buffer that is kept after a long message has made it grow. Worst memory: this, for each connection.
pub const READ_BYTES_KEPT_MAX: usize = 4 * READ_BYTES;

/// Shortest run of events that a queue stores as a view of the read buffer; shorter ones are copied. A view keeps the
/// whole buffer alive, so this bounds the memory that a queue keeps alive to four times what it counts. Copying 16 KiB
/// costs less than allocating the buffer that would be needed instead.
pub const VIEW_BYTES_MIN: usize = READ_BYTES / 4;

/// Connection events kept for slow readers of `events()`.
pub const EVENTS_MAX: usize = 256;
