//! How fields are written and read: big endian, bytes behind their length.
//!
//! Owns the reading of what may be cut or damaged. Invariants: reading never panics, and allocates nothing by a length
//! that is only claimed. Start at [`Reader`].

use std::fmt;

/// Why bytes are no command, reply or token of this version. Nothing was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// They end within this field.
    Truncated(&'static str),
    /// Their version is not known here: a newer build wrote them.
    Version(u8),
    /// Their kind is not known here: a newer build wrote them.
    Kind(u8),
    /// This field has a value that it must not have.
    Value(&'static str),
    /// So many bytes stand behind the last field.
    Trailing(usize),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated(field) => write!(f, "it ends within its {field}"),
            DecodeError::Version(version) => {
                write!(
                    f,
                    "it has version {version}, which this build does not know"
                )
            }
            DecodeError::Kind(kind) => {
                write!(f, "it is of kind {kind}, which this build does not know")
            }
            DecodeError::Value(field) => write!(f, "its {field} is not a legal one"),
            DecodeError::Trailing(bytes) => write!(f, "{bytes} bytes stand behind its end"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Takes fields from the front of some bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins at the front.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What was not taken.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next so many bytes.
    pub fn take(&mut self, bytes: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(bytes)
            .ok_or(DecodeError::Truncated(field))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated(field))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    /// Four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    /// Eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    /// Bytes behind a length of one byte.
    pub fn bytes8(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.u8(field)?;
        self.take(usize::from(length), field)
    }

    /// Bytes behind a length of two bytes.
    pub fn bytes16(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.u16(field)?;
        self.take(usize::from(length), field)
    }

    /// Bytes behind a length of four bytes.
    pub fn bytes32(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.u32(field)?;
        self.take(length as usize, field)
    }

    /// Nothing may stand behind.
    pub fn end(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing(bytes)),
        }
    }
}

/// Appends bytes behind a length of one byte. Panics if they are longer than it can say: our own bug.
pub fn put_bytes8(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u8::try_from(bytes.len()).expect("its length was checked"); // invariant: the caller's, stated above.
    out.push(length);
    out.extend_from_slice(bytes);
}

/// Appends bytes behind a length of two bytes. Panics if they are longer than it can say: our own bug.
pub fn put_bytes16(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("its length was checked"); // invariant: the caller's, stated above.
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends bytes behind a length of four bytes. Panics if they are longer than it can say: our own bug.
pub fn put_bytes32(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("its length was checked"); // invariant: the caller's, stated above.
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends eight bytes.
pub fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// Appends four bytes.
pub fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}
