//! The structs of the format with their offsets, so that a test can hold `docs/FORMAT.md` to them.

/// One field of a struct on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in the code.
    pub name: &'static str,
    /// Where it begins.
    pub offset: usize,
    /// How long it is.
    pub size: usize,
}

/// A struct on disk.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Its name in the code.
    pub name: &'static str,
    /// Its fields in order.
    pub fields: &'static [Field],
}

/// Declares a struct whose memory is its bytes on disk, asserts its size and notes its fields.
macro_rules! on_disk {
    ($(#[$doc:meta])* struct $name:ident[$size:literal] { $($field:ident: $type:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
                 zerocopy::KnownLayout, zerocopy::Unaligned)]
        #[repr(C)]
        pub(in crate::format) struct $name { $($field: $type,)+ }

        const _: () = assert!(size_of::<$name>() == $size);

        impl $name {
            pub(in crate::format) const LAYOUT: $crate::format::Layout = $crate::format::Layout {
                name: stringify!($name),
                fields: &[$($crate::format::Field {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($name, $field),
                    size: size_of::<$type>(),
                },)+],
            };
        }
    };
}
pub(in crate::format) use on_disk;

/// Every struct of the format, in the order of `docs/FORMAT.md`.
#[must_use]
pub fn layouts() -> Vec<Layout> {
    vec![
        super::superblock::Raw::LAYOUT,
        super::segment_header::Raw::LAYOUT,
        super::frame::RawEnvelope::LAYOUT,
        super::frame::RawBodyHeader::LAYOUT,
        super::frame::RawBatchEnd::LAYOUT,
        super::footer::RawTrailer::LAYOUT,
    ]
}
