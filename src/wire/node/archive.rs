//! How archives are written without copying twice, and read without trusting them.
//!
//! rkyv writes the slices of an archive first and the struct that points at them last. Owns a stand-in for such slices,
//! so that a struct can be resolved around bytes that were put into the caller's vector by any means. Must not know
//! what the structs are. Invariant: what [`access`] gives has passed bytecheck, so that every slice lies in the body.
//! Start at [`Stretch`].

use super::{Frame, FrameError, write_frame};
use rkyv::api::{low, serialize_using};
use rkyv::boxed::{ArchivedBox, BoxResolver};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Fallible, Strategy};
use rkyv::{Archive, Place, Portable, Serialize, SerializeUnsized};
use std::marker::PhantomData;

/// A slice that stands in the archive already; archived, it is a box of that slice.
#[derive(Clone, Copy)]
pub(super) struct Stretch<T> {
    start: usize,
    count: usize,
    of: PhantomData<T>,
}

impl<T> Stretch<T> {
    /// How many items it has.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

impl<T: Archive> Archive for Stretch<T> {
    type Archived = ArchivedBox<[T::Archived]>;
    type Resolver = ();

    fn resolve(&self, (): (), out: Place<Self::Archived>) {
        let count = (self.count as u32).into();
        ArchivedBox::resolve_from_raw_parts(BoxResolver::from_pos(self.start), count, out);
    }
}

impl<T: Archive, S: Fallible + ?Sized> Serialize<S> for Stretch<T> {
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

/// Writes one archive into a vector, behind what stands there.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    /// Appends bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Stretch<u8> {
        self.parts(std::iter::once(bytes))
    }

    /// Appends parts, which become one slice.
    pub(super) fn parts<'b>(&mut self, parts: impl Iterator<Item = &'b [u8]>) -> Stretch<u8> {
        let start = self.0.len();
        parts.for_each(|part| self.0.extend_from_slice(part));
        Stretch {
            start,
            count: self.0.len() - start,
            of: PhantomData,
        }
    }

    /// Appends items that hold no slices themselves.
    pub(super) fn items<T>(&mut self, items: impl Iterator<Item = T>) -> Stretch<T>
    where
        T: Archive + SerializeUnsized<Strategy<Vec<u8>, Failure>>,
    {
        let start = self.0.len();
        let mut count = 0;
        for item in items {
            self.root(&item);
            count += 1;
        }
        Stretch {
            start,
            count,
            of: PhantomData,
        }
    }

    /// Appends the struct that all points to; nothing may follow.
    pub(super) fn root<T: SerializeUnsized<Strategy<Vec<u8>, Failure>>>(&mut self, root: &T) {
        // invariant: a vector takes every write.
        serialize_using::<_, Failure>(root, self.0).expect("a vector takes every write");
    }
}

/// Appends a frame whose archive is a struct without slices.
pub(super) fn write_root<T>(out: &mut Vec<u8>, version: u8, kind: u8, root: &T)
where
    T: SerializeUnsized<Strategy<Vec<u8>, Failure>>,
{
    write_frame(out, version, kind, 0, |out| Writer(out).root(root));
}

/// Whether nothing stands in the body but the root and so many bytes that it points to: with the order of slices, which
/// bytecheck looks after, this leaves one way to write a frame.
pub(super) fn check_packed<T: Portable>(
    frame: &Frame<'_>,
    slices: usize,
) -> Result<(), FrameError> {
    if frame.body.len() == slices + size_of::<T>() {
        Ok(())
    } else {
        Err(FrameError::Body(frame.kind, "length"))
    }
}

/// The checked archive in a frame's body.
pub(super) fn access<'a, T>(frame: &Frame<'a>, kind: u8) -> Result<&'a T, FrameError>
where
    T: Portable + for<'b> CheckBytes<low::LowValidator<'b, Failure>>,
{
    if frame.kind != kind {
        return Err(FrameError::Kind(frame.kind));
    }
    if frame.flags != 0 {
        return Err(FrameError::Body(kind, "flags"));
    }
    low::access::<T, Failure>(frame.body).map_err(|_| FrameError::Body(kind, "archive"))
}
