//! Every cap on what may stand in a frame, with its reason.

/// Longest payload of one event: 64 MiB, the largest that FEATURES row A11 asks for.
/// Worst memory: one such buffer for each connection that is sending one, and they all count
/// in the shard's input cap.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest request of the Redis protocol in all: a payload of the greatest size, with room for
/// the command, its topic and a batch of small arguments around it.
pub const REQUEST_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 1024 * 1024;

/// Most arguments of one request: what redis-server allowed before version 7. Worst memory: 8 bytes an argument, 8 MiB.
pub const REQUEST_ARGUMENTS_MAX: usize = 1024 * 1024;

/// Longest inline request and longest `*` or `$` line: Redis's own limit.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Most arguments of a request before authentication: Redis's own limit; AUTH and HELLO need 7.
pub const GUEST_ARGUMENTS_MAX: usize = 10;

/// Longest argument before authentication: Redis's own limit.
pub const GUEST_ARGUMENT_BYTES_MAX: usize = 16 * 1024;

/// Longest topic, pattern or wildcard: long enough for any path-like name in use, short enough
/// that a name costs less than the event it carries.
pub const TOPIC_BYTES_MAX: usize = 1024;

/// Most tokens of a topic: bounds the depth of the wildcard trie and the work of a match.
pub const TOPIC_TOKENS_MAX: usize = 64;

/// Longest native frame: a payload of the greatest size, with room for topic, reply topic (1 KiB
/// each), headers (64 KiB) and the frame's own fields.
pub const NATIVE_FRAME_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 128 * 1024;

/// Longest HELLO: user, password, name and library with room to spare; a guest costs no more.
pub const NATIVE_HELLO_BYTES_MAX: usize = 16 * 1024;

/// Longest frame of JSON: a payload of the greatest size in base64, with room for what a native frame has
/// room for.
pub const JSON_FRAME_BYTES_MAX: usize = 86 * 1024 * 1024;

/// Longest text command: a payload of the greatest size, and room for the channel.
pub const TEXT_COMMAND_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 64 * 1024;

/// Longest frame of JSON and text command before authentication.
pub const GUEST_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Longest request line and headers of HTTP together: what browsers with many cookies send, and servers usually take.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most headers of a request of HTTP.
pub const HTTP_HEADERS_MAX: usize = 64;

/// Longest line that gives a chunk's size, extensions included.
pub const HTTP_CHUNK_LINE_BYTES_MAX: usize = 256;

/// Longest trailers behind a chunked body.
pub const HTTP_TRAILERS_BYTES_MAX: usize = 4 * 1024;

/// Longest body of a frame between nodes: one event of the greatest size, headers and all, or many that are as long
/// together; beside them what [`NODE_EVENTS_MAX`] and [`NODE_GROUPS_BYTES_MAX`] may take.
/// Worst memory: one for each lane, while it is received.
pub const NODE_FRAME_BYTES_MAX: usize = NATIVE_FRAME_BYTES_MAX + 2 * 1024 * 1024;

/// Longest body of HELLO and WELCOME: their texts and numbers with room to spare; who is not let in costs no more.
pub const NODE_HELLO_BYTES_MAX: usize = 1024;

/// Most shards of a node: what fits the lanes of a link.
pub const NODE_SHARDS_MAX: usize = 64;

/// Most lanes of a link: each is a connection, and one for each shard of the larger node is enough.
pub const NODE_LANES_MAX: usize = 64;

/// Longest name of a node: what a host's name has at most, and what fits a line of a listing.
pub const NODE_NAME_BYTES_MAX: usize = 64;

/// Longest address of a node: an IPv6 address with scope and port has 58.
pub const NODE_ADDRESS_BYTES_MAX: usize = 64;

/// Longest text of a refusal: a sentence or two for a log.
pub const NODE_REFUSAL_BYTES_MAX: usize = 512;

/// Most events of one frame: enough that a header's cost vanishes, and what they take beside their bytes, 9 each, stays
/// below 1 MiB.
pub const NODE_EVENTS_MAX: usize = 65_536;

/// Longest list of groups of a frame of events: it cannot be split, so it has room for 4,096 of the longest names.
pub const NODE_GROUPS_BYTES_MAX: usize = 1024 * 1024;

/// Longest name of a group: as the native protocol has it.
pub const NODE_GROUP_BYTES_MAX: usize = 255;

/// Most changes of one frame of interest: a million filters are told in 256 frames, between which others may stand.
pub const NODE_CHANGES_MAX: usize = 4_096;

/// Longest body of a frame of interest: what a shard takes in well below a millisecond.
pub const NODE_INTEREST_BYTES_MAX: usize = 256 * 1024;

/// Shortest secret that nodes may share: 16 random bytes cannot be guessed.
pub const NODE_SECRET_BYTES_MIN: usize = 16;

/// Longest secret file: nobody means a longer file to be one.
pub const NODE_SECRET_BYTES_MAX: usize = 64 * 1024;

/// Most numbers of a node's path, which is how deep a tree can be: their count is one byte. Worst memory: 40 bytes and
/// these.
pub const PATH_NUMBERS_MAX: usize = 255;

/// Longest name of a stream: a table's key of 1,000 bytes behind its table's tag, for the streams that XADD makes.
pub const STREAM_NAME_BYTES_MAX: usize = 1_024;

/// Most filters of a stream: each topic that is stored is compared with all of them.
pub const STREAM_FILTERS_MAX: usize = 64;

/// Longest id of a message by which it is stored once: a hash or a UUID with a client's prefix. Worst memory: it stands
/// in the key of a row, until the window is over.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;

/// Longest headers of a stored message: what a native frame has room for.
pub const MESSAGE_HEADERS_BYTES_MAX: usize = 64 * 1024;

/// Longest body of a stored message: what other brokers take at most by default. A longer one would hold the log, and all
/// who wait for its sync, for longer than 1 ms. Worst memory: it counts in what a worker has taken in.
pub const STORED_BODY_BYTES_MAX: usize = 1024 * 1024;

/// Longest headers and body of a stored message together.
pub const STORED_MESSAGE_BYTES_MAX: usize = STORED_BODY_BYTES_MAX + MESSAGE_HEADERS_BYTES_MAX;

/// Longest command for the state plane: one message of the greatest size, with room for topic, id and the rest. What a
/// partition gathers in a turn is no longer.
pub const STATE_COMMAND_BYTES_MAX: usize = STORED_BODY_BYTES_MAX + 128 * 1024;

/// Longest request for the state plane: its command names streams by number, and so has up to 8 bytes more for each
/// append of a batch.
pub const STATE_REQUEST_BYTES_MAX: usize = STATE_COMMAND_BYTES_MAX - 16 * 1024;

/// Bytes of messages after which a part of an answer is full; one message always goes in. A client that reads slowly
/// holds so much, and a partition's worker reads so much at once.
pub const ANSWER_PART_BYTES: usize = 64 * 1024;

/// Most streams of one page of their list: with 64 of the longest filters each that is 17 MiB, with usual ones 50 KiB;
/// a page ends early at [`ANSWER_PART_BYTES`].
pub const LIST_STREAMS_MAX: u16 = 256;

/// Most that sequences are raised by at once: a restore raises them by 10^9, and 2^64 hold 16 million of the most.
pub const RAISE_MAX: u64 = 1 << 40;

/// Most streams that one atomic batch may append to: their state is copied before, to go back to.
pub const BATCH_APPENDS_MAX: usize = 1_024;
