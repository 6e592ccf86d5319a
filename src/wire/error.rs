//! The stable codes of errors: one table for all protocols that carry a code.
//!
//! The native protocol sends them as numbers, JSON and HTTP send their names; the Redis protocol has a
//! word of its own for some and `ERR` for the rest. NATIVE.md lists the same table, and a test
//! compares the two.

use std::fmt;

/// Declares the codes once: variant, number, name, and what a person is told that it means.
macro_rules! codes {
    ($($variant:ident = $number:literal $name:literal $meaning:literal,)*) => {
        /// What was wrong, for programs to act on. Below 200 the connection is closed after it;
        /// from 200 on a request was refused, nothing has changed, and the connection goes on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $variant = $number,)*
        }

        impl ErrorCode {
            /// All of them, in the order of their numbers.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code of a number; `None` for one that a newer broker may send.
            pub fn from_number(number: u16) -> Option<ErrorCode> {
                match number {
                    $($number => Some(ErrorCode::$variant),)*
                    _ => None,
                }
            }

            /// The name that stands for it in texts.
            pub fn name(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => $name,)*
                }
            }

            /// One sentence about it.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => $meaning,)*
                }
            }
        }
    };
}

codes! {
    Malformed = 100 "malformed"
        "a frame's fields do not fit its length, or a field has a value that it must not have",
    FrameTooLong = 101 "frame_too_long"
        "a frame's length is above the cap, or a HELLO's above 16 KiB",
    UnknownKind = 102 "unknown_kind"
        "a kind that a client must not send",
    Version = 103 "version"
        "HELLO's versions do not include one that the broker speaks",
    HelloExpected = 104 "hello_expected"
        "the first frame was not a HELLO, or a later one was",
    Authentication = 105 "authentication"
        "the user or the password is wrong, or one is needed",
    ConnectionsFull = 106 "connections_full"
        "the broker has as many connections as it may",
    HelloLate = 107 "hello_late"
        "no HELLO came in time",
    TopicInvalid = 200 "topic_invalid"
        "a topic, reply topic or filter is too long, has too many tokens, or `>` before its end",
    TopicReserved = 201 "topic_reserved"
        "a name that the broker keeps for itself, or that its operator has not allowed",
    PayloadTooLong = 202 "payload_too_long"
        "the payload is longer than `payload_max`",
    HeadersInvalid = 203 "headers_invalid"
        "a header's name is empty, or its name or value holds a byte that it must not hold",
    SubscriptionsFull = 204 "subscriptions_full"
        "the connection has as many subscriptions as it may",
    FiltersFull = 205 "filters_full"
        "the broker knows as many different filters as it may, or this one would cost every event too much",
    RequestInvalid = 206 "request_invalid"
        "a request of JSON or HTTP that cannot be read, or has a field too many, too few or of another kind",
    Busy = 207 "busy"
        "the broker has no room for the answer, because its clients do not read theirs; try again later",
    NoStream = 208 "no_stream"
        "no stream keeps this topic, so nothing was published or stored: create a stream for it",
    NoData = 209 "no_data"
        "this broker keeps nothing: start it with `--data DIR`",
    Unknown = 210 "unknown"
        "what keeps the stream failed meanwhile: this alone of the refusals may have been done, or not",
    StorageFailed = 211 "storage_failed"
        "what keeps the stream has failed: nothing is stored until the broker is started again",
    TooLarge = 212 "too_large"
        "the request is longer than the state plane takes at once; send it in parts",
}

impl ErrorCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// Whether the connection is closed after it.
    pub fn is_fatal(self) -> bool {
        self.number() < 200
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
