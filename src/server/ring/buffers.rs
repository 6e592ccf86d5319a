//! Memory that a ring lends to the kernel: page-aligned mappings and the receive buffers.
//!
//! Owns the mappings, the buffer ring's tail, and the record of which buffer is in whose hands.
//! Knows nothing of sockets, tokens or completions, and makes no io_uring call:
//! [`Ring`](super::Ring) registers what is laid out here.
//!
//! Invariant: a buffer is either offered (the kernel may write to it at any time; nobody here may
//! look) or held (the kernel has let go of it; it may be read until it is released). `held` says
//! which, and every access asserts it, so a stale or foreign [`BufferId`] panics instead of reading
//! memory that is being written.

use std::io;
use std::mem::size_of;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::RingError;

/// One receive buffer, named by its place in the ring that lent it.
///
/// Comes with a completion and stays the caller's until it is passed to
/// [`Ring::release`](super::Ring::release).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId(pub(super) u16);

/// Anonymous, zeroed, page-aligned memory. Pages cost memory only once they are written to.
pub(super) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// Maps `bytes` (rounded up to whole pages by the kernel).
    pub(super) fn new(bytes: usize) -> Result<Mapping, RingError> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing
        // memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(RingError::Map {
                bytes,
                error: io::Error::last_os_error(),
            });
        }
        // Huge pages would make the first byte of a buffer cost 2 MiB. A kernel without them
        // refuses the advice, which is just as good.
        // SAFETY: the range was mapped above and is ours alone.
        unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
        // invariant: mmap without MAP_FIXED never returns address zero.
        let start = NonNull::new(start.cast::<u8>()).expect("mmap returned a null mapping");
        Ok(Mapping { start, bytes })
    }

    /// The first byte.
    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range came from mmap in `new`, is unmapped once, and no reference into it
        // outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// The receive buffers and the ring of descriptors through which the kernel picks them.
pub(super) struct Buffers {
    entries: Mapping,
    memory: Mapping,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
    held: Box<[bool]>,
}

impl Buffers {
    /// Maps `count` buffers (a power of two) of `buffer_bytes` and offers all of them.
    pub(super) fn new(count: u16, buffer_bytes: u32) -> Result<Buffers, RingError> {
        assert!(count.is_power_of_two());
        let mut buffers = Buffers {
            entries: Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?,
            memory: Mapping::new(usize::from(count) * buffer_bytes as usize)?,
            count,
            buffer_bytes,
            tail: 0,
            held: vec![false; usize::from(count)].into_boxed_slice(),
        };
        for index in 0..count {
            buffers.offer(BufferId(index));
        }
        Ok(buffers)
    }

    /// Where the kernel finds the descriptors.
    pub(super) fn entries_address(&self) -> u64 {
        self.entries.start() as u64
    }

    /// How many buffers there are.
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// The size of each buffer in bytes.
    pub(super) fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Notes that the kernel has handed buffer `index` over with a completion.
    pub(super) fn take(&mut self, index: u16) -> BufferId {
        let held = &mut self.held[usize::from(index)];
        assert!(
            !*held,
            "the kernel filled receive buffer {index} while it was still held"
        );
        *held = true;
        BufferId(index)
    }

    /// The first `len` bytes of a held buffer.
    pub(super) fn filled(&self, id: BufferId, len: usize) -> &[u8] {
        assert!(
            self.held[usize::from(id.0)],
            "receive buffer {} was released before this read",
            id.0
        );
        assert!(
            len <= self.buffer_bytes as usize,
            "{len} bytes asked of a buffer of {}",
            self.buffer_bytes
        );
        // SAFETY: `id` indexes `held`, so the range lies inside the mapping, which starts out
        // zeroed. The buffer is held, so the kernel does not write to it, and `release` needs `&mut
        // self`, so it stays held while the returned borrow lives.
        unsafe { std::slice::from_raw_parts(self.buffer_start(id.0), len) }
    }

    /// Gives a held buffer back to the kernel.
    pub(super) fn release(&mut self, id: BufferId) {
        let held = &mut self.held[usize::from(id.0)];
        assert!(*held, "receive buffer {} was released twice", id.0);
        *held = false;
        self.offer(id);
    }

    fn buffer_start(&self, index: u16) -> *mut u8 {
        // SAFETY: `index < count`, so the offset lies inside the mapping of `count * buffer_bytes`.
        unsafe {
            self.memory
                .start()
                .add(usize::from(index) * self.buffer_bytes as usize)
        }
    }

    fn offer(&mut self, id: BufferId) {
        let address = self.buffer_start(id.0) as u64;
        let slot = usize::from(self.tail & (self.count - 1));
        let first = self.entries.start().cast::<BufRingEntry>();
        // SAFETY: `slot < count` and the mapping holds `count` entries. At most `count` buffers
        // exist, so the kernel has consumed this slot's previous entry and does not read it until
        // the tail below passes it. The setters write single fields, so the tail, which shares its
        // bytes with the first entry's unused field, survives.
        unsafe {
            let entry = &mut *first.add(slot);
            entry.set_addr(address);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(id.0);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `first` is the base of a zeroed, page-aligned array of entries, so the tail field
        // is in bounds and aligned; both sides access it atomically, and no reference to the entry
        // is alive.
        unsafe {
            let tail = &*BufRingEntry::tail(first).cast::<AtomicU16>();
            tail.store(self.tail, Ordering::Release);
        }
    }
}

#[cfg(test)]
impl Buffers {
    /// How many pages of the buffers have memory behind them.
    pub(super) fn resident_pages(&self) -> usize {
        let mut pages = vec![0u8; self.memory.bytes.div_ceil(4096)];
        // SAFETY: the range is our mapping, and the vector has a byte for each of its pages.
        let result = unsafe {
            libc::mincore(
                self.memory.start().cast(),
                self.memory.bytes,
                pages.as_mut_ptr(),
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        pages.iter().filter(|page| **page & 1 == 1).count()
    }
}
