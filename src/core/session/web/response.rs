//! Responses of HTTP: their headers, whole ones, and the parts of long ones.
//!
//! Owns what stands in every response. Must not know routes, nor what is asked. Start at [`write_reply`].

use super::routes;
use crate::context::Context;
use sapwood_wire::http::{self, Head, Method, Moment, write_head};
use sapwood_wire::json;

/// How a request is answered, whatever the response.
#[derive(Clone, Debug)]
pub(super) struct Manner {
    pub keep_alive: bool,
    /// The response body may be chunked.
    pub takes_chunks: bool,
    /// Only the headers are wanted (HEAD).
    pub is_head: bool,
    /// Origin whose scripts may read the response (CORS), or [`routes::ANY_ORIGIN`].
    pub origin: Option<Box<str>>,
}

/// A response.
pub(super) struct Reply<'a> {
    pub status: u16,
    pub media_type: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

pub(super) const JSON: &str = "application/json";

/// A comment of server-sent events, which clients leave out.
pub(super) const SSE_COMMENT: &[u8] = b":\n\n";

impl Manner {
    pub(super) fn of(head: &Head<'_>, cx: &Context<'_>) -> Manner {
        Manner {
            keep_alive: head.keep_alive,
            takes_chunks: head.is_current,
            is_head: head.method == Method::Head,
            origin: routes::readable_by(head, cx.settings()).map(Box::from),
        }
    }

    /// The headers that follow the own headers of every response.
    pub(super) fn headers<'a>(&'a self, date: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut headers = vec![("Date", date), ("X-Content-Type-Options", "nosniff")];
        if let Some(origin) = &self.origin {
            headers.push(("Access-Control-Allow-Origin", origin));
            headers.push(("Vary", "Origin"));
            if **origin != *routes::ANY_ORIGIN {
                headers.push(("Access-Control-Allow-Credentials", "true"));
            }
        }
        headers
    }

    /// The header of a response of unknown length: its body is chunked, or ends with the connection.
    pub(super) fn transfer_encoding(&self) -> Option<(&'static str, &'static str)> {
        self.takes_chunks
            .then_some(("Transfer-Encoding", "chunked"))
    }

    /// The Connection header: whether the connection stays open after the response.
    pub(super) fn connection(&self) -> (&'static str, &'static str) {
        let word = if self.keep_alive {
            "keep-alive"
        } else {
            "close"
        };
        ("Connection", word)
    }
}

pub(super) fn json_reply(status: u16, body: &[u8]) -> Reply<'_> {
    Reply {
        status,
        media_type: JSON,
        headers: &[("Cache-Control", "no-store")],
        body,
    }
}

pub(super) fn write_reply(out: &mut Vec<u8>, reply: &Reply<'_>, manner: &Manner, now: Moment) {
    let date = now.http();
    let mut length = itoa::Buffer::new();
    let length = length.format(reply.body.len());
    let mut headers = Vec::new();
    if reply.status != 204 {
        headers.push(("Content-Type", reply.media_type));
        headers.push(("Content-Length", length));
    }
    headers.extend(reply.headers);
    headers.extend(manner.headers(&date));
    headers.push(manner.connection());
    write_head(out, reply.status, &headers);
    if !manner.is_head {
        out.extend_from_slice(reply.body);
    }
}

/// Writes the head of a JSON response of unknown length.
pub(super) fn write_streamed_head(out: &mut Vec<u8>, manner: &Manner, now: Moment) {
    write_head_of(out, &[("Content-Type", JSON)], manner, now);
}

/// Writes the head of a response of unknown length.
pub(super) fn write_head_of(out: &mut Vec<u8>, own: &[(&str, &str)], manner: &Manner, now: Moment) {
    let date = now.http();
    let mut headers = own.to_vec();
    headers.push(("Cache-Control", "no-store"));
    headers.extend(manner.transfer_encoding());
    headers.extend(manner.headers(&date));
    headers.push(manner.connection());
    write_head(out, 200, &headers);
}

/// Writes a part of the body of a streamed response.
pub(super) fn write_part(out: &mut Vec<u8>, part: &[u8], manner: &Manner) {
    match manner.takes_chunks {
        true => http::write_chunk(out, part.len(), |out| out.extend_from_slice(part)),
        false => out.extend_from_slice(part),
    }
}

pub(super) fn error_body(code: &str, text: &str) -> Vec<u8> {
    let mut body = b"{\"error\":{\"code\":".to_vec();
    json::write_text(&mut body, code);
    body.extend_from_slice(b",\"text\":");
    json::write_text(&mut body, text);
    body.extend_from_slice(b"}}");
    body
}
