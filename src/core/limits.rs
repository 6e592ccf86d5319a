//! All caps of the broker, each with the reason for the number and its worst memory.
//!
//! Caps on the contents of a frame are in `sapwood_wire::limits`. A cap here is a default: [`Limits`] carries the
//! values in force, so that a node can be tuned and a test can reach them.

/// Most shards of a node: beyond this, a publish would be handed to more cores than one machine of today has. The
/// interest table costs 8 bytes for each filter and listening shard.
pub const SHARDS_MAX: usize = 64;

/// Most connections of a shard: 64k idle subscribed ones cost about 64 MiB.
pub const CONNECTIONS_MAX: usize = 65_536;

/// Places of a shard beyond its cap on connections, for peers on loopback: so that `sapwood info`, a monitor and an
/// operator's shell get in together while the broker is full. Whoever comes when all are taken gets the place of the one
/// that has had it longest, so clients that try again and again do not keep an operator out.
pub const CONNECTIONS_KEPT: usize = 4;

/// Most unsent output of one connection, in bytes: a second at 250 Mbit/s. A slow consumer further behind is not
/// reading.
pub const OUTBOX_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Most unsent replies of a client that has yet to authenticate, in bytes, before it is not read: no reply that it may
/// ask for is longer than a line.
pub const GUEST_OUTBOX_BYTES_MAX: usize = 64 * 1024;

/// Most unsent output of all connections of a shard together, in bytes. At the cap, only connections that are behind
/// (their last send would have blocked, or they wait at the barrier) are subject to their slow consumer policy, for
/// events, or not read, for replies.
pub const OUTBOXES_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Most unfinished input of all connections of a shard together, in bytes: four payloads of the greatest size.
pub const INPUTS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of one connection's input that may be read, besides as many again as are there, before they are offered to
/// core. They count against the cap beforehand, so that the header of a request costs at most this, and its body twice
/// what has arrived.
pub const INPUT_STEP_BYTES: usize = 16 * 1024;

/// Output that may gather before the shard writes it, in bytes: large enough that a write carries many events, small
/// enough to stay in the core's cache.
pub const UNFLUSHED_BYTES_MAX: usize = 1024 * 1024;

/// Spare buffers that an idle shard may keep, in bytes: more is freed, less is not worth a wake-up. Worst memory: this
/// on each shard.
pub const SPARE_BYTES_IDLE_MAX: usize = 256 * 1024;

/// Output that may gather for each receiving connection before the shard writes, in bytes, where the sum is more than
/// [`UNFLUSHED_BYTES_MAX`]: with 10,000 subscribers a write still carries about 30 events of 128 bytes. Worst memory:
/// this times `CONNECTIONS_MAX`, 256 MiB.
pub const UNFLUSHED_BYTES_EACH: usize = 4 * 1024;

/// Length in bytes from which a payload is kept once and shared by all its receivers; below, a copy is cheaper than a
/// segment of its own.
pub const SHARED_BODY_BYTES_MIN: usize = 16 * 1024;

/// Size in bytes of the pieces that hold output, so that a long queue is never copied as it grows.
pub const OUTBOX_CHUNK_BYTES: usize = 256 * 1024;

/// Most empty output buffers that a shard keeps for the next turn, in bytes.
pub const SPARE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most empty lists of pieces that a shard keeps for the next turn, and the longest list that is kept: 10,000
/// subscribers of one topic find one each. Worst memory: 9 MiB.
pub const SPARE_LISTS_MAX: usize = 16 * 1024;
/// See [`SPARE_LISTS_MAX`].
pub const SPARE_LIST_PIECES_MAX: usize = 16;

/// Frames of one topic that gather before they are given to their receivers, in bytes: as much as one read brings, so
/// that each receiver gets one write for it.
pub const RUN_BYTES_MAX: usize = 64 * 1024;

/// Length in bytes from which a run is kept once and shared by its receivers; below, a copy is cheaper than an entry in
/// a list.
pub const SHARED_RUN_BYTES_MIN: usize = 4 * 1024;

/// Fewest receivers for which sharing a run is worth it.
pub const SHARED_RUN_RECEIVERS_MIN: u32 = 4;

/// Unwritten output of a connection that is not behind, in bytes, at which further deliveries of an event to it are put
/// off. Four times [`UNFLUSHED_BYTES_MAX`], at which the shard writes before the next event: so only one event that goes
/// to a connection many times comes to it.
pub const PUT_OFF_BYTES: usize = 4 * UNFLUSHED_BYTES_MAX;

/// Deliveries that were put off and are made in one turn: below 1 ms, or some where their globs must be looked at again.
pub const DELIVERIES_AT_ONCE: usize = 4 * 1024;

/// Most deliveries of a shard that are put off; more are made at once, and each connection's cap decides. Worst memory: 16
/// bytes each, 64 MiB, and a payload for each publisher that waits.
pub const PUT_OFF_MAX: usize = 4 * 1024 * 1024;

/// Longest time that a publisher waits for a client that is behind, but takes its output, with deliveries of one event
/// that were put off, in milliseconds. Then the client's slow consumer policy decides.
pub const PUT_OFF_MS_MAX: u64 = 1_000;

/// The same for an event of another shard, in milliseconds: its other events wait behind it.
pub const PUT_OFF_BATCH_MS_MAX: u64 = 100;

/// Longest time that such a client may take nothing meanwhile, in milliseconds.
pub const PUT_OFF_IDLE_MS_MAX: u64 = 20;

/// Longest time that a publisher waits for a subscriber whose output is above half its cap, in milliseconds: so long that
/// one which reads 64 MiB a second gets down to a quarter, so short that others hardly notice.
pub const STALL_MS_MAX: u64 = 100;

/// Longest time that such a subscriber may take nothing meanwhile, in milliseconds.
pub const STALL_IDLE_MS_MAX: u64 = 20;

/// The same for one that publishes to itself, in milliseconds: a library may write for seconds before it reads again, and
/// nobody else waits. As long as nats-server lets a write wait (`write_deadline`).
pub const STALL_OWN_IDLE_MS_MAX: u64 = 10_000;

/// Routes in the cache, each at the place that its topic hashes to: enough that publishers on some hundred topics in
/// turn find nearly all of theirs. Worst memory: about 40 KiB each, for topics and filters of the greatest length, 40
/// MiB a shard.
pub const ROUTES_KEPT: usize = 1_024;

/// Versions of exact names, by their hash: a subscription that comes or goes invalidates the cached routes of one in
/// this many topics. Four for each cached route, so that churn on as many topics as there are routes spares three
/// quarters of them. Worst memory: 32 KiB a shard.
pub const ROUTE_VERSIONS: usize = 4 * ROUTES_KEPT;

/// Most filters, or groups, of a route that stays in the cache when another topic comes.
pub const ROUTE_FILTERS_KEPT: usize = 8;

/// Most routes to queue groups whose memory is reused for the next topic.
pub const ROUTE_GROUPS_KEPT: usize = 64;

/// Input of runs after which it is checked whether output must be written first, in bytes.
pub const RUN_CHECK_BYTES: usize = 4 * 1024;

/// Subscriptions that a connection may change before other connections have their turn: about 40 us, a quarter of
/// the time that one read of a publisher takes.
pub const CHANGES_AT_ONCE: usize = 16;

/// Subscriptions that a single request may change in one turn: about 1 ms. The rest follows in the next turns.
pub const CHANGES_IN_A_REQUEST: usize = 512;

/// Subscriptions of connections that end which are removed in one turn: 1 to 5 ms. The rest follows in the next turns,
/// and the connections' places stay taken until then.
pub const ENDED_AT_ONCE: usize = 1_024;

/// Members of a queue group that end and are passed over, before its turn counts as unheard.
pub const ENDING_MEMBERS_TRIED: usize = 64;

/// Most queue groups of one filter: an event takes a turn of each, 20 ms for so many.
pub const FILTER_GROUPS_MAX: usize = 65_536;

/// Most subscriptions of one connection. Worst memory: about 100 bytes each and the name; for NATS 60 bytes more and
/// the client's own name for it (sid).
pub const SUBSCRIPTIONS_MAX: usize = 1_000_000;

/// Most distinct filters that a node knows; each token of wildcards that only one has counts as one more, beyond two for
/// each wildcard. Worst memory: about 250 bytes each, on every shard.
pub const FILTERS_MAX: usize = 10_000_000;

/// Most distinct globs that a node knows. An event whose topic has no route in the cache tries those that begin like
/// it, about 20 ns each for ordinary ones.
pub const GLOBS_MAX: usize = 16_384;

/// Most that all globs of a node may cost a look-up together, in steps of about a nanosecond, whatever the topic: 4 ms.
/// An ordinary glob costs 16 and a step for each byte; one with a part to be looked for 300 more, or a thousand for each
/// element of a part with `?` or a class.
pub const GLOBS_COST_MAX: u64 = 4_000_000;

/// Most nodes of the wildcards' trie that any one topic may lead to: 4 ms. Wildcards that part from each other at
/// token after token double it with each; ordinary ones add a few.
pub const WILDCARDS_WIDTH_MAX: u32 = 65_536;

/// What looking routes up may cost in a turn before who publishes more waits for the next, in steps of about a
/// nanosecond: 1 ms, some thousand ordinary topics.
pub const LOOK_UPS_AT_ONCE: u64 = 1_000_000;

/// Window of credit: bytes of batches that one shard may have on the way to another, about four turns of work. Worst
/// memory of a node: shards squared times this and the backlog below.
pub const HANDOVER_WINDOW_BYTES: usize = 1024 * 1024;

/// Least credit in bytes that a batch takes, which bounds how many are on the way.
pub const HANDOVER_COST_MIN: usize = 4 * 1024;

/// Most batches on the way from one shard to another, control included; room is left for control when data has used its
/// window.
pub const HANDOVER_ITEMS_MAX: usize = 2 * HANDOVER_WINDOW_BYTES / HANDOVER_COST_MIN;

/// Events that wait for a slow shard before its publishers are not read (back-pressure), in bytes. The last event or
/// run that is let in may exceed it by its own size.
pub const HANDOVER_BACKLOG_BYTES: usize = 1024 * 1024;

/// Events of other nodes that wait for a slow shard, in bytes, besides those of local publishers. Events beyond it are
/// dropped and counted: one slow shard must not hold a lane, which carries events for all other shards too. A quarter
/// of what the lane itself may keep. Worst memory of a node: shards squared times this.
pub const HANDOVER_LINKS_BYTES: usize = 8 * 1024 * 1024;

/// Most queued commands of one transaction, in bytes: as much as one event of the greatest size.
pub const TRANSACTION_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Time for a client to authenticate, and for the head of an HTTP request, in milliseconds: ten seconds, of which a
/// client on the slowest link needs no tenth.
pub const GUEST_MS_MAX: u64 = 10_000;

/// Wrong passwords from an address before its further attempts wait: as many as a person mistypes.
pub const GUESSES_FREE: u64 = 5;

/// How much longer an address waits after each further wrong password, in milliseconds, and the longest wait: a
/// connection tries half a password a second.
pub const GUESS_WAIT_MS: u64 = 20;
/// See [`GUESS_WAIT_MS`].
pub const GUESS_WAIT_MS_MAX: u64 = 2_000;

/// Time without a wrong password after which an address is forgotten, and the least time between two notices about it, in
/// milliseconds.
pub const GUESS_FORGET_MS: u64 = 60_000;

/// Most addresses whose wrong passwords a shard remembers. Worst memory: about 100 bytes each.
pub const GUESS_ADDRESSES_MAX: usize = 4_096;

/// Time for a node to complete its opening, in milliseconds: ten round trips of the slowest links.
pub const NODE_GUEST_MS_MAX: u64 = 3_000;

/// Longest arguments of a NATS operation, in bytes, as in nats-server.
pub const CONTROL_LINE_BYTES_MAX: usize = 4 * 1024;

/// Longest name of a NATS queue group, in bytes, as of groups in other protocols.
pub const NATS_QUEUE_BYTES_MAX: usize = 255;

/// Longest name that a NATS client may give a subscription (sid), in bytes: libraries use a few digits. With the cap on
/// subscriptions it bounds what the broker must remember for one client.
pub const NATS_SID_BYTES_MAX: usize = 255;

/// Longest block of headers of a NATS message, in bytes: a message keeps the length of its headers in 16 bits.
pub const NATS_HEADERS_BYTES_MAX: usize = 65_535;

/// Most addresses of other nodes that INFO of NATS holds. Clients try them one after the other, and some libraries keep
/// INFO in a buffer of a few KiB.
pub const CONNECT_URLS_MAX: usize = 32;

/// Shortest time between two tellings of these addresses to connected clients, in milliseconds.
pub const CONNECT_URLS_MS: u64 = 1_000;

/// Connections that are told of them in one turn: well below 1 ms.
pub const PLACES_TOLD_AT_ONCE: usize = 512;

/// Silence after which a NATS or WebSocket client is pinged, in milliseconds: two minutes, as in nats-server.
pub const PING_MS: u64 = 120_000;

/// PINGs that a NATS client may leave unanswered.
pub const NATS_PINGS_OUT_MAX: u8 = 2;

/// Unsent HTTP responses of a connection, in bytes, before its next request is carried out: as much as is written at
/// once. Most requests are answered without a password, if only by a refusal.
pub const HTTP_OUTBOX_BYTES_MAX: usize = UNFLUSHED_BYTES_MAX;

/// Longest configuration of a stream in an HTTP request: 64 filters of 1,024 bytes, each byte escaped to three, and the
/// rest. Worst memory: as that of other bodies, which count as input.
pub const STREAM_CONFIG_BODY_BYTES_MAX: usize = 256 * 1024;

/// Messages of a stream that are asked for at once over HTTP: fewer than a worker looks at in a step, so that each part
/// says where it ended. Their bytes are at most a part's.
pub const STREAM_PAGE_MESSAGES_MAX: u32 = 2_048;

/// Longest pause within an HTTP request body, in milliseconds, before the connection is closed.
pub const HTTP_BODY_MS_MAX: u64 = 10_000;

/// Time without a request after which an HTTP connection is closed, in milliseconds: longer than that of clients that
/// keep connections for a minute.
pub const HTTP_IDLE_MS_MAX: u64 = 75_000;

/// Interval of heartbeats on server-sent events, in milliseconds: proxies give up on a silent connection after 30
/// seconds or more.
pub const SSE_HEARTBEAT_MS: u64 = 15_000;

/// Pings that a WebSocket client may leave unanswered.
pub const WEB_PINGS_OUT_MAX: u8 = 1;

/// Interval of the timers of web connections, in milliseconds, and the step to which they are rounded up so that many
/// are due at once.
pub const WEB_LOOK_MS: u64 = 2_500;
/// See [`WEB_LOOK_MS`].
pub const WEB_LOOK_STEP_MS: u64 = 250;

/// Most links of a node: its parent, its children, and those it asks or is asked by.
pub const LINKS_MAX: usize = 128;

/// Most unacknowledged bytes that a lane keeps, as many as of an outbox. Whole frames of events beyond it are dropped
/// and counted. Worst memory: this for each lane.
pub const LANE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes beyond [`LANE_BYTES_MAX`] for frames about interest, because they must not be lost; a link without room for
/// them ends.
pub const LANE_INTEREST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Spare buffers that a lane keeps for its next frames: as many as are on their way to the other side under load. Worst
/// memory: 2 MiB a lane.
pub const LANE_SPARES_MAX: usize = 8;

/// Largest spare buffer of a lane, in bytes.
pub const LANE_SPARE_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a lane that are given to its connection before it has written them: enough to keep a fast network busy.
pub const LANE_OUTBOX_BYTES: usize = 1024 * 1024;

/// Messages about places that wait until the first lane of a link has a connection again, in bytes: four of the
/// longest. A lane is without one for a second at most, in which a branch sends as many pulses.
pub const PLACES_BYTES_MAX: usize = 16 * 1024;

/// Bytes received on a lane that are acknowledged at once; fewer are acknowledged with the next heartbeat.
pub const ACKNOWLEDGE_BYTES: usize = 256 * 1024;

/// Longest interval of heartbeats and checks of a lane, in nanoseconds: whatever the other side's patience, it hears
/// from this one so often.
pub const LANE_LOOK_NS: u64 = 250_000_000;

/// A node's heartbeat unless it is set, in nanoseconds. With [`SILENT_BEATS_MAX`] a node that hangs is noticed after 2 to
/// 2.5 s. On two CPUs with four threads each that never sleep and much else, three nodes of a low priority lost no link in 20
/// minutes (`tests/tree/busy.rs`).
pub const HEARTBEAT_NS: u64 = 250_000_000;

/// Heartbeats that the other side of a link may leave unanswered, each counted only when this node has run since.
pub const SILENT_BEATS_MAX: u64 = 8;

/// Least time between two dials of a lane, in nanoseconds.
pub const LANE_REDIAL_NS: u64 = 100_000_000;

/// Filters whose changes links are told of in one turn; the rest is told in the next turns.
pub const LINK_CHANGES_AT_ONCE: usize = 4_096;

/// Most filters that the other side of a link is told of one by one; beyond it, it is told to send everything. Worst
/// memory: about 250 bytes each, on every shard of the other node.
pub const LINK_FILTERS_MAX: usize = 100_000;

/// Most globs among those filters.
pub const LINK_GLOBS_MAX: usize = 1_024;

/// Most that the globs which are wanted behind a link may cost a look-up, in steps of about a nanosecond: an eighth of
/// [`GLOBS_COST_MAX`]. Beyond it, or beyond [`LINK_FILTERS_MAX`] and [`LINK_GLOBS_MAX`], it is sent everything.
pub const LINK_GLOBS_COST_MAX: u64 = GLOBS_COST_MAX / 8;

/// Most that the number of an origin's event may exceed that of the one before: 12 days at a million events a second.
/// More ends the link.
pub const ORIGIN_JUMP_MAX: u64 = 1 << 40;

/// Shards of other nodes whose last event number is remembered, so that no event comes twice. Half as many, those heard
/// of last, are remembered for certain; the others are forgotten when they were silent for longest. Worst memory: about
/// 40 bytes each, 10 MiB a shard.
pub const ORIGINS_MAX: usize = 262_144;

/// Questions to the node itself that a shard keeps until the turn ends. More are not answered, so that one client's
/// questions cost no more than this. Worst memory: about 2 KiB each.
pub const QUESTIONS_MAX: usize = 64;

/// Descriptions of itself that a shard gives in a second: one client must not keep all nodes of a tree busy. Each takes
/// some 30 us.
pub const ANSWERS_A_SECOND_MAX: usize = 1_000;

/// Most unanswered calls of one connection; beyond it, its input is held.
pub const CALLS_MAX: u32 = 1_024;

/// Most unanswered calls of a shard: those of 64 connections at their own cap. Worst memory: about 512 bytes each, 32
/// MiB.
pub const CALLS_SHARD_MAX: usize = 65_536;

/// Bytes of output that a call counts for until it is answered, unless it sets another number.
pub const CALL_RESERVED_BYTES: usize = 256;

/// Unsent bytes of a streamed reply before its next part is asked for. Worst memory: twice this for each HTTP
/// connection.
pub const STREAMED_BYTES_MAX: usize = 64 * 1024;

/// Most calls of a shard that are begun; the others wait for their turn. Each has at most one round on its way, which
/// bounds its share of a turn, and keeps what it has gathered, up to `OUTBOX_BYTES_MAX`.
pub const CALLS_BEGUN_MAX: usize = 16;

/// Rounds of calls that a shard begins in one turn: 20 to 200 us each.
pub const CALL_ROUNDS_A_TURN: usize = 8;

/// Clients that are described or closed in one round of a call: about 2 us each.
pub const CALL_CLIENTS_MAX: usize = 128;

/// Connections or filters that are looked at in one round of a call: some 10 ns each.
pub const CALL_LOOKED_AT_MAX: usize = 4_096;

/// Bytes of names in one answer. The last name may exceed it.
pub const CALL_NAMES_BYTES: usize = 16 * 1024;

/// Most cost of glob matching in one round of a call, in steps of about a nanosecond: 1 ms.
pub const CALL_GLOB_COST_MAX: u64 = 1_000_000;

/// Time that a call may wait for room for its answer before it is refused, in milliseconds.
pub const CALL_MS_MAX: u64 = 10_000;

/// Most state workers of a node: more than one for each shard would share its CPUs with them.
pub const WORKERS_MAX: usize = SHARDS_MAX;

/// Most calls of a shard that read from state workers part by part at a time; the others wait for their turn. A part may
/// wait for a disk, so more than of those to shards. Worst memory: a part of [`STATE_ANSWER_BYTES_MAX`] each, 16 MiB.
pub const STATE_CALLS_BEGUN_MAX: usize = 64;

/// Most CALLs that read of one native connection at a time; beyond it, its input is held. They are carried out one behind
/// the other, so more would only wait. Worst memory: a request with names and filters each, 66 KiB, so 1 MiB.
pub const NATIVE_READS_MAX: usize = 16;

/// Parts of such calls that a shard asks for in one turn: at most 4 MiB of answers, and output has caps of its own.
pub const STATE_ROUNDS_A_TURN: usize = 16;

/// Longest answer of a state worker, in bytes: a page of a stream. The first message of a page may be a payload of the
/// greatest size, which goes beyond it by that.
pub const STATE_ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Answers of a state worker on their way to one shard, in bytes, at which it begins no more reads for that shard
/// (`WorkerPort::may_read`). What tells that something is stored is short and has room in any case: at most
/// [`CALLS_SHARD_MAX`] of them. Worst memory: this and one answer, for each shard and worker.
pub const STATE_ANSWERS_BYTES: usize = 4 * 1024 * 1024;

/// Events not stored for lack of room whose reply topics a shard tells so in one turn; those beyond it are counted with
/// the questions that were not answered. Worst memory: about 1 KiB each.
pub const NOT_STORED_TOLD_AT_ONCE: usize = 1_024;

/// The caps in force on a shard; each field is named as its constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// See [`CONNECTIONS_MAX`].
    pub connections_max: usize,
    /// See [`OUTBOX_BYTES_MAX`].
    pub outbox_bytes_max: usize,
    /// See [`OUTBOXES_BYTES_MAX`].
    pub outboxes_bytes_max: usize,
    /// See [`INPUTS_BYTES_MAX`].
    pub inputs_bytes_max: usize,
    /// See [`SUBSCRIPTIONS_MAX`].
    pub subscriptions_max: usize,
    /// See [`FILTERS_MAX`].
    pub filters_max: usize,
    /// See [`GLOBS_MAX`].
    pub globs_max: usize,
    /// See [`HANDOVER_WINDOW_BYTES`].
    pub handover_window_bytes: usize,
    /// See [`HANDOVER_BACKLOG_BYTES`].
    pub handover_backlog_bytes: usize,
    /// See [`HANDOVER_LINKS_BYTES`].
    pub handover_links_bytes: usize,
    /// See [`TRANSACTION_BYTES_MAX`].
    pub transaction_bytes_max: usize,
    /// See [`GUEST_MS_MAX`].
    pub guest_ms_max: u64,
    /// See [`CONTROL_LINE_BYTES_MAX`].
    pub control_line_bytes_max: usize,
    /// See [`PING_MS`].
    pub ping_ms: u64,
    /// See [`LINKS_MAX`].
    pub links_max: usize,
    /// See [`LANE_BYTES_MAX`].
    pub lane_bytes_max: usize,
    /// See [`LINK_FILTERS_MAX`].
    pub link_filters_max: usize,
    /// See [`LINK_GLOBS_MAX`].
    pub link_globs_max: usize,
    /// See [`ORIGINS_MAX`].
    pub origins_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: CONNECTIONS_MAX,
            outbox_bytes_max: OUTBOX_BYTES_MAX,
            outboxes_bytes_max: OUTBOXES_BYTES_MAX,
            inputs_bytes_max: INPUTS_BYTES_MAX,
            subscriptions_max: SUBSCRIPTIONS_MAX,
            filters_max: FILTERS_MAX,
            globs_max: GLOBS_MAX,
            handover_window_bytes: HANDOVER_WINDOW_BYTES,
            handover_backlog_bytes: HANDOVER_BACKLOG_BYTES,
            handover_links_bytes: HANDOVER_LINKS_BYTES,
            transaction_bytes_max: TRANSACTION_BYTES_MAX,
            guest_ms_max: GUEST_MS_MAX,
            control_line_bytes_max: CONTROL_LINE_BYTES_MAX,
            ping_ms: PING_MS,
            links_max: LINKS_MAX,
            lane_bytes_max: LANE_BYTES_MAX,
            link_filters_max: LINK_FILTERS_MAX,
            link_globs_max: LINK_GLOBS_MAX,
            origins_max: ORIGINS_MAX,
        }
    }
}
