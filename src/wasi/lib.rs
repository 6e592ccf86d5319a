//! The broker as a WASI module: core and its sessions behind functions over linear memory, for a host that owns
//! the WebSockets, such as `tools/node-host`.
//!
//! `ABI.md` beside this file specifies the functions. Everything happens in the call of the host that brings it about; the module
//! has no thread, opens nothing and reads no clock. What the functions do is [`Host`]'s business. Start there.

// The names of exported functions are the only unsafe thing here: two of the same name would be undefined. Each is
// there once, behind a prefix of its own.
#![deny(unsafe_code)]

mod host;

pub use host::{Host, Setup, SetupError, Spoken};
use std::cell::RefCell;

/// What the functions say when something is wrong; 0 and above is a success.
mod wrong {
    /// `sapwood_start` was not called, or failed.
    pub const NOT_STARTED: i32 = -1;
    /// An argument is out of range, or not what it should be.
    pub const ARGUMENT: i32 = -2;
    /// There is no such connection, or there is one already.
    pub const CONNECTION: i32 = -3;
}

/// The version of the functions.
const ABI: i32 = 1;

/// The longest buffer that a host may ask for: a message of the greatest length.
const BUFFER_BYTES_MAX: usize = 128 * 1024 * 1024;

#[derive(Default)]
struct Module {
    host: Option<Host>,
    input: Vec<u8>,
    output: Vec<u8>,
}

thread_local! {
    // A module has one thread; where it is built for another target, its tests have one each.
    static MODULE: RefCell<Module> = RefCell::default();
}

fn with_host(act: impl FnOnce(&mut Host, &[u8]) -> i32) -> i32 {
    MODULE.with_borrow_mut(|module| match &mut module.host {
        Some(host) => act(host, &module.input),
        None => wrong::NOT_STARTED,
    })
}

/// Declares exported functions.
macro_rules! exports {
    ($($(#[doc = $doc:literal])* fn $name:ident($($argument:ident: $type:ty),*) -> i32 $body:block)*) => {
        $(
            $(#[doc = $doc])*
            #[allow(unsafe_code)]
            // SAFETY: the name begins with this project's, and no other function has it.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($argument: $type),*) -> i32 $body
        )*
    };
}

exports! {
    /// The version of these functions.
    fn sapwood_abi() -> i32 {
        ABI
    }

    /// Makes the input buffer so long; gives where it is.
    fn sapwood_buffer(length: u32) -> i32 {
        if length as usize > BUFFER_BYTES_MAX {
            return wrong::ARGUMENT;
        }
        MODULE.with_borrow_mut(|module| {
            module.input = vec![0; length as usize];
            module.input.as_ptr() as usize as i32
        })
    }

    /// Starts an empty broker with the settings in the input buffer.
    fn sapwood_start(seed: u64, wall_ms: u64) -> i32 {
        MODULE.with_borrow_mut(|module| {
            match Setup::parse(&module.input).map(|setup| Host::new(setup, seed, wall_ms)) {
                Ok(host) => {
                    module.host = Some(host);
                    0
                }
                Err(error) => {
                    module.output = error.to_string().into_bytes();
                    wrong::ARGUMENT
                }
            }
        })
    }

    /// Tells the time: nanoseconds of a clock that never steps back, and milliseconds since 1970.
    fn sapwood_time(monotonic_ns: u64, wall_ms: u64) -> i32 {
        with_host(|host, _| {
            host.set_time(monotonic_ns, wall_ms);
            0
        })
    }

    /// Opens a connection that speaks 0: text, 1: JSON, 2: native, 3: echo; `is_known` is 1 if the host has proved who it is.
    fn sapwood_open(conn: u32, spoken: u32, is_known: u32) -> i32 {
        with_host(|host, _| match (Spoken::of(spoken), is_known) {
            (Some(spoken), 0 | 1) => match host.open(conn, spoken, is_known == 1) {
                true => 0,
                false => wrong::CONNECTION,
            },
            _ => wrong::ARGUMENT,
        })
    }

    /// Takes the message in the input buffer; `is_text` is 1 for text, 0 for binary.
    fn sapwood_message(conn: u32, is_text: u32) -> i32 {
        with_host(|host, input| match host.message(conn, is_text == 1, input) {
            true => 0,
            false => wrong::CONNECTION,
        })
    }

    /// Says whether the connection takes output: 0 while its socket has too much of it.
    fn sapwood_ready(conn: u32, is_ready: u32) -> i32 {
        with_host(|host, _| match host.set_ready(conn, is_ready != 0) {
            true => 0,
            false => wrong::CONNECTION,
        })
    }

    /// Says that the connection is gone.
    fn sapwood_close(conn: u32) -> i32 {
        with_host(|host, _| match host.close(conn) {
            true => 0,
            false => wrong::CONNECTION,
        })
    }

    /// Writes what is to be sent into the output buffer; gives its length.
    fn sapwood_take() -> i32 {
        MODULE.with_borrow_mut(|module| {
            let Some(host) = &mut module.host else {
                return wrong::NOT_STARTED;
            };
            module.output.clear();
            host.take(&mut module.output);
            module.output.len() as i32
        })
    }

    /// Where the output buffer is.
    fn sapwood_output() -> i32 {
        MODULE.with_borrow(|module| module.output.as_ptr() as usize as i32)
    }

    /// How long what stands in it is: also what was wrong with the settings.
    fn sapwood_output_length() -> i32 {
        MODULE.with_borrow(|module| module.output.len() as i32)
    }

    /// Milliseconds until [`sapwood_time`] is to be called again; -1 if nothing waits for time.
    fn sapwood_due() -> i32 {
        MODULE.with_borrow(|module| module.host.as_ref().and_then(Host::due_ms).unwrap_or(-1))
    }
}
