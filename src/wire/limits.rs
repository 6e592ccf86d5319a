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
