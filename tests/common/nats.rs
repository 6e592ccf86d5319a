//! A client of the NATS protocol, by its lines: what it is sent, it gives one by one.

// Each test binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long something that must come may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One MSG or HMSG.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Msg {
    pub subject: String,
    pub sid: String,
    pub reply: Option<String>,
    pub headers: String,
    pub payload: Vec<u8>,
}

impl Msg {
    /// Without reply and headers.
    pub fn plain(subject: &str, sid: &str, payload: &str) -> Msg {
        Msg {
            subject: subject.to_string(),
            sid: sid.to_string(),
            payload: payload.as_bytes().to_vec(),
            ..Msg::default()
        }
    }
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Message(Msg),
    /// Any other line, without its end.
    Line(String),
    /// It has closed.
    End,
}

/// The usual CONNECT of a library.
pub const CONNECT: &str =
    r#"{"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1}"#;

/// A connection to a NATS listener.
pub struct NatsClient {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What the last INFO said.
    pub info: serde_json::Value,
}

impl NatsClient {
    /// Connects and takes INFO, but says nothing.
    pub fn dial(port: u16) -> NatsClient {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = NatsClient {
            stream,
            buffer: Vec::new(),
            info: serde_json::Value::Null,
        };
        let Said::Line(line) = client.said() else {
            panic!("no INFO")
        };
        client.info = read_info(&line);
        client
    }

    /// Connects as a library does: the line behind CONNECT and PING is PONG.
    pub fn connect(port: u16) -> NatsClient {
        NatsClient::connect_with(port, CONNECT)
    }

    pub fn connect_with(port: u16, json: &str) -> NatsClient {
        let mut client = NatsClient::dial(port);
        client.send(&format!("CONNECT {json}\r\nPING\r\n"));
        assert_eq!(client.line(), "PONG");
        client
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Publishes one message.
    pub fn publish(&mut self, subject: &str, payload: &str) {
        self.send(&format!("PUB {subject} {}\r\n{payload}\r\n", payload.len()));
    }

    /// The next thing that the server says.
    pub fn said(&mut self) -> Said {
        self.said_within(PATIENCE)
            .expect("the server says nothing within ten seconds")
    }

    /// The next thing that the server says, which may be killed meanwhile, and then within a frame.
    pub fn said_or_end(&mut self) -> Said {
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            if let Some((said, length)) = parse(&self.buffer) {
                self.buffer.drain(..length);
                return said;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Said::End,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Said::End;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The same, if it comes in time.
    pub fn said_within(&mut self, time: Duration) -> Option<Said> {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            if let Some((said, length)) = parse(&self.buffer) {
                self.buffer.drain(..length);
                if !self.takes_news(&said) {
                    return Some(said);
                }
                continue;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    assert_eq!(self.buffer, b"", "the server closed within a frame");
                    return Some(Said::End);
                }
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Some(Said::End);
                }
                Err(_) => return None,
            }
        }
    }

    /// Takes INFO that tells of other nodes, which may come at any time.
    fn takes_news(&mut self, said: &Said) -> bool {
        let Said::Line(line) = said else {
            return false;
        };
        if !line.starts_with("INFO ") {
            return false;
        }
        let info = read_info(line);
        let is_news = info.get("ldm").is_none() && !self.info.is_null();
        if is_news {
            self.info = info;
        }
        is_news
    }

    /// The addresses of other nodes that it was told last, in order.
    pub fn connect_urls(&self) -> Vec<String> {
        let urls = self.info["connect_urls"].as_array();
        let urls = urls.into_iter().flatten();
        let mut urls: Vec<String> = urls.map(|url| url.as_str().unwrap().into()).collect();
        urls.sort();
        urls
    }

    /// The next line, which must be no message.
    pub fn line(&mut self) -> String {
        match self.said() {
            Said::Line(line) => line,
            other => panic!("{other:?} instead of a line"),
        }
    }

    /// The next message.
    pub fn message(&mut self) -> Msg {
        match self.said() {
            Said::Message(message) => message,
            other => panic!("{other:?} instead of a message"),
        }
    }

    pub fn messages(&mut self, count: usize) -> Vec<Msg> {
        (0..count).map(|_| self.message()).collect()
    }

    /// Waits until the server has dealt with all that was sent; nothing else may come meanwhile.
    pub fn sync(&mut self) {
        self.send("PING\r\n");
        assert_eq!(self.line(), "PONG");
    }

    /// Nothing comes for a moment.
    pub fn hears_nothing(&mut self) {
        let said = self.said_within(Duration::from_millis(50));
        assert_eq!(said, None);
    }
}

pub fn read_info(line: &str) -> serde_json::Value {
    let json = line.strip_prefix("INFO ").expect("INFO comes first");
    serde_json::from_str(json).unwrap()
}

fn parse(bytes: &[u8]) -> Option<(Said, usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&bytes[..end]).unwrap();
    let body = end + 2;
    let words: Vec<&str> = line.split(' ').collect();
    let number = |word: &str| word.parse::<usize>().unwrap();
    let (subject, sid, reply, headers, total) = match words[..] {
        ["MSG", subject, sid, total] => (subject, sid, None, 0, number(total)),
        ["MSG", subject, sid, reply, total] => (subject, sid, Some(reply), 0, number(total)),
        ["HMSG", subject, sid, headers, total] => {
            (subject, sid, None, number(headers), number(total))
        }
        ["HMSG", subject, sid, reply, headers, total] => {
            (subject, sid, Some(reply), number(headers), number(total))
        }
        _ => return Some((Said::Line(line.to_string()), body)),
    };
    let whole = body + total + 2;
    if bytes.len() < whole {
        return None;
    }
    assert_eq!(&bytes[whole - 2..whole], b"\r\n", "behind {line}");
    let message = Msg {
        subject: subject.to_string(),
        sid: sid.to_string(),
        reply: reply.map(str::to_string),
        headers: String::from_utf8(bytes[body..body + headers].to_vec()).unwrap(),
        payload: bytes[body + headers..body + total].to_vec(),
    };
    Some((Said::Message(message), whole))
}
