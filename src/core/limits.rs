//! Every cap of the broker, with the reason for the number and its worst memory.
//!
//! Caps on what may stand in a frame are in `sapwood_wire::limits`. A cap here is a default:
//! [`Limits`] carries the values in force, so that a node can be tuned and a test can reach them.

/// Most shards of a node: beyond this a live publish would be handed over to more cores than one
/// machine of today has; the interest table costs 8 bytes for each filter and listening shard.
pub const SHARDS_MAX: usize = 64;

/// Most connections of a shard: 64k idle subscribed ones cost about 64 MiB.
pub const CONNECTIONS_MAX: usize = 65_536;

/// Most unsent output of one connection: enough for a second of 250 Mbit/s; a reader that is
/// further behind is not reading.
pub const OUTBOX_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Unsent replies of a client that has yet to authenticate, before it is not read on: nothing that
/// it may ask for is longer than a line.
pub const GUEST_OUTBOX_BYTES_MAX: usize = 64 * 1024;

/// Most unsent output of all connections of a shard together. Only connections whose last send
/// would have blocked are closed over it, for events, or not read on, for replies.
pub const OUTBOXES_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Most unfinished input of all connections of a shard together: four payloads of the greatest size.
pub const INPUTS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Input of one connection that may come, beside as much again as stands, before core is shown it
/// again. It counts against the cap beforehand, so that a request's header costs this at most, and
/// its body twice what has arrived.
pub const INPUT_STEP_BYTES: usize = 16 * 1024;

/// Output that may gather before the shard writes it: large enough that a write carries many
/// events, small enough to stay in the core's cache.
pub const UNFLUSHED_BYTES_MAX: usize = 1024 * 1024;

/// A shard that has had nothing to do for a while gives back what it keeps for its next turn, if that is more: below, it
/// is not worth being woken for. Worst memory: as much, on each shard.
pub const SPARE_BYTES_IDLE_MAX: usize = 256 * 1024;

/// Output that may gather for each receiving connection before the shard writes, where that is
/// more: with 10,000 subscribers a write still carries about 30 events of 128 bytes. Worst
/// memory: this times `CONNECTIONS_MAX`, 256 MiB.
pub const UNFLUSHED_BYTES_EACH: usize = 4 * 1024;

/// Payloads from here on are kept once and shared by all their receivers; below, a copy is cheaper
/// than a segment of its own.
pub const SHARED_BODY_BYTES_MIN: usize = 16 * 1024;

/// Output is kept in pieces of this size, so that a long queue is never copied as it grows.
pub const OUTBOX_CHUNK_BYTES: usize = 256 * 1024;

/// Empty output buffers that a shard keeps for the next turn.
pub const SPARE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Empty lists of pieces that a shard keeps for the next turn, and the longest that is kept: 10,000
/// subscribers of one topic find one each. Worst memory: 9 MiB.
pub const SPARE_LISTS_MAX: usize = 16 * 1024;
/// See [`SPARE_LISTS_MAX`].
pub const SPARE_LIST_PIECES_MAX: usize = 16;

/// Frames of one topic gather to this size before they are given to their receivers: as much as one
/// read brings, so that each receiver gets one write for it.
pub const RUN_BYTES_MAX: usize = 64 * 1024;

/// Runs from here on are kept once and shared by their receivers; below, a copy is cheaper than an
/// entry in a list.
pub const SHARED_RUN_BYTES_MIN: usize = 4 * 1024;

/// So many receivers make it worth while to share a run.
pub const SHARED_RUN_RECEIVERS_MIN: u32 = 4;

/// Routes that are kept, each at the place that its topic hashes to: enough that publishers on some
/// hundred topics in turn find nearly all of theirs. Worst memory: about 40 KiB each, for topics and
/// filters of the greatest length, 40 MiB a shard.
pub const ROUTES_KEPT: usize = 1_024;

/// Versions of exact names, by their hash: a subscription that comes or goes invalidates the kept routes of one
/// in so many topics. Four for each route that is kept, so that churn on as many topics as there are routes spares
/// three quarters of them. Worst memory: 32 KiB a shard.
pub const ROUTE_VERSIONS: usize = 4 * ROUTES_KEPT;

/// A route to more filters or groups than this is not kept when another topic comes.
pub const ROUTE_FILTERS_KEPT: usize = 8;

/// Routes to groups whose memory is kept from topic to topic.
pub const ROUTE_GROUPS_KEPT: usize = 64;

/// Input of runs after which it is checked whether output must be written first.
pub const RUN_CHECK_BYTES: usize = 4 * 1024;

/// Subscriptions that a connection may change before others have their turn: about 25 us, an eighth of what a publisher
/// takes that has as much input. A request that names more is carried out whole.
pub const CHANGES_AT_ONCE: usize = 32;

/// Most subscriptions of one connection. Worst memory: about 100 bytes each and the name; of NATS 60 bytes more and the
/// client's own name for it.
pub const SUBSCRIPTIONS_MAX: usize = 1_000_000;

/// Most distinct filters that a node knows. Worst memory: about 250 bytes each, on every shard.
pub const FILTERS_MAX: usize = 10_000_000;

/// Most distinct globs that a node knows: they are matched one after the other, about 20 ns each for
/// ordinary ones, for every event whose topic is not that of the event before. A glob of many stars
/// costs up to its length times the topic's.
pub const GLOBS_MAX: usize = 16_384;

/// Bytes of hand-overs that one shard may have on the way to another: about four turns of work.
/// Worst memory of a node: shards squared times this and the backlog below.
pub const HANDOVER_WINDOW_BYTES: usize = 1024 * 1024;

/// A hand-over counts at least so much, which bounds how many are on the way.
pub const HANDOVER_COST_MIN: usize = 4 * 1024;

/// Hand-overs that may be on the way from one shard to another, control included; room is kept
/// for control when data has used its window.
pub const HANDOVER_ITEMS_MAX: usize = 2 * HANDOVER_WINDOW_BYTES / HANDOVER_COST_MIN;

/// Events that wait for a slow shard, before the publishers for it are no longer read. The last event or run that goes
/// in may be as large as one may be.
pub const HANDOVER_BACKLOG_BYTES: usize = 1024 * 1024;

/// Events of other nodes that wait for a slow shard, beside those of publishers. What comes beyond is dropped and counted:
/// one shard that is behind must not hold a lane, on which events for all others come too. As much as a quarter of what
/// the lane itself may keep. Worst memory of a node: shards squared times this.
pub const HANDOVER_LINKS_BYTES: usize = 8 * 1024 * 1024;

/// Queued commands of one transaction, in bytes: as much as one event of the greatest size.
pub const TRANSACTION_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Time that a client has to authenticate, in milliseconds: ten seconds, which a client on the
/// slowest link needs no tenth of.
pub const GUEST_MS_MAX: u64 = 10_000;

/// Time that a node has to say who it is, in milliseconds: ten round trips of the slowest links.
pub const NODE_GUEST_MS_MAX: u64 = 3_000;

/// Most bytes of the arguments of an operation of NATS, as in nats-server.
pub const CONTROL_LINE_BYTES_MAX: usize = 4 * 1024;

/// Longest name of a queue group of NATS, as of groups in other protocols.
pub const NATS_QUEUE_BYTES_MAX: usize = 255;

/// Longest name that a client of NATS may give a subscription: those of libraries have a few digits. With the cap on
/// subscriptions it bounds what one client can make the broker remember.
pub const NATS_SID_BYTES_MAX: usize = 255;

/// A client of NATS that is silent for so long, in milliseconds, is asked whether it is there: two
/// minutes, as nats-server does.
pub const PING_MS: u64 = 120_000;

/// PINGs that a client of NATS may leave unanswered.
pub const NATS_PINGS_OUT_MAX: u8 = 2;

/// WebSockets are closed in their own words when the node ends within so many milliseconds; before, they may go on.
pub const CLOSE_EARLY_MS: u32 = 5_000;

/// Answers of HTTP that wait, in bytes, before the next request of the connection is carried out: as much as is
/// written at once. Most requests need no password to be answered, if only by a refusal.
pub const HTTP_OUTBOX_BYTES_MAX: usize = UNFLUSHED_BYTES_MAX;

/// A body of HTTP of which nothing comes for so long, in milliseconds, ends the connection.
pub const HTTP_BODY_MS_MAX: u64 = 10_000;

/// A connection of HTTP without a request is closed after so many milliseconds: longer than clients that keep connections for a minute.
pub const HTTP_IDLE_MS_MAX: u64 = 75_000;

/// Server-sent events bring something at least so often, in milliseconds: proxies give up on a silent connection after 30 seconds
/// or more.
pub const SSE_HEARTBEAT_MS: u64 = 15_000;

/// Times that a WebSocket may leave a ping unanswered.
pub const WEB_PINGS_OUT_MAX: u8 = 1;

/// The web's connections are looked at so often, in milliseconds, and all that are due within the smaller time at once.
pub const WEB_LOOK_MS: u64 = 2_500;
/// See [`WEB_LOOK_MS`].
pub const WEB_LOOK_STEP_MS: u64 = 250;

/// Most links of a node: its parent, its children, and those it asks or is asked by.
pub const LINKS_MAX: usize = 128;

/// Most bytes that a lane keeps until the other side has them, as much as of an outbox. What comes beyond is dropped and
/// counted. Worst memory: this for each lane.
pub const LANE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Frames about interest may go beyond that so far, because they must not be lost; a link that has no room for them ends.
pub const LANE_INTEREST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Buffers that a lane keeps for its next frames: as many as are on their way to the other side under load. Worst memory:
/// 2 MiB a lane.
pub const LANE_SPARES_MAX: usize = 8;

/// Largest of these.
pub const LANE_SPARE_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a lane that its connection is given before it has written them: enough to keep a fast network busy.
pub const LANE_OUTBOX_BYTES: usize = 1024 * 1024;

/// Messages about places that wait for a link's first lane to have a connection again, in bytes: four of the longest. A lane
/// is without one for a second at most, in which a branch has as many pulses to say.
pub const PLACES_BYTES_MAX: usize = 16 * 1024;

/// Bytes that come on a lane before they are acknowledged; else that is done with each sign of life.
pub const ACKNOWLEDGE_BYTES: usize = 256 * 1024;

/// Lanes are looked at so often, in nanoseconds, and say that they live.
pub const LANE_LOOK_NS: u64 = 250_000_000;

/// A lane that nothing came on for so long, in nanoseconds, is given up: four signs of life.
pub const LANE_SILENCE_NS: u64 = 1_000_000_000;

/// A lane is dialed at most so often, in nanoseconds.
pub const LANE_REDIAL_NS: u64 = 100_000_000;

/// Filters whose changes links are told of in one turn: the rest comes in the next ones.
pub const LINK_CHANGES_AT_ONCE: usize = 4_096;

/// Filters that a link is told of one by one; beyond, it is told to send everything. Worst memory: about 250 bytes each,
/// on every shard of the other node.
pub const LINK_FILTERS_MAX: usize = 100_000;

/// Globs among them, which the other node must match one after the other.
pub const LINK_GLOBS_MAX: usize = 1_024;

/// Shards of other nodes of which the last event is remembered, so that none comes twice; half as many for sure, the
/// others if nothing was heard of them for longest. Worst memory: about 40 bytes each, 10 MiB a shard.
pub const ORIGINS_MAX: usize = 262_144;

/// Questions to the node itself that a shard keeps until the turn ends; more at a time are not answered, so that who asks
/// a great deal costs no more than this. Worst memory: about 2 KiB each.
pub const QUESTIONS_MAX: usize = 64;

/// Descriptions of itself that a shard gives in a second: one client must not keep all nodes of a tree busy with them. Each
/// takes some 30 us.
pub const ANSWERS_A_SECOND_MAX: usize = 1_000;

/// Most calls of one connection that wait for their answers; then its input is held.
pub const CALLS_MAX: u32 = 1_024;

/// Most calls of a shard that wait: those of 64 connections that have as many as they may. Worst memory: about 512 bytes
/// each, 32 MiB.
pub const CALLS_SHARD_MAX: usize = 65_536;

/// Bytes of output that a call counts for until it is answered.
pub const CALL_RESERVED_BYTES: usize = 256;

/// Bytes of a reply that is streamed which wait to be written, before its next part is asked for. Worst memory: twice this
/// for each connection of HTTP.
pub const STREAMED_BYTES_MAX: usize = 64 * 1024;

/// Calls of a shard that are being answered; the others wait for their turn. Each has at most one round on its way, which
/// bounds what they take of a turn; and each has what it has gathered, up to `OUTBOX_BYTES_MAX`.
pub const CALLS_BEGUN_MAX: usize = 16;

/// Rounds of calls that a shard begins in one turn: 20 to 200 us each.
pub const CALL_ROUNDS_A_TURN: usize = 8;

/// Clients that are described, or closed, in one round of a call: about 2 us each.
pub const CALL_CLIENTS_MAX: usize = 128;

/// Connections, or filters, that are looked at in one round of a call: some 10 ns each.
pub const CALL_LOOKED_AT_MAX: usize = 4_096;

/// Bytes of names in one answer. The last name may go beyond.
pub const CALL_NAMES_BYTES: usize = 16 * 1024;

/// What matching a glob may cost in one round of a call, in bytes of the glob times bytes of the name: below 10 ms.
pub const CALL_GLOB_COST_MAX: usize = 4 * 1024 * 1024;

/// A call that finds no room for its answer for so long, in milliseconds, is refused.
pub const CALL_MS_MAX: u64 = 10_000;

/// The caps in force on a shard; the names are those of the constants.
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
