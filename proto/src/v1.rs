//! Generated code of package `deputy.v1`. Written by `cargo xtask gen`; not edited by hand.
#![expect(
    clippy::unwrap_used,
    clippy::too_many_arguments,
    reason = "generated; the comments of the .proto files are the documentation"
)]

include!("gen/deputy.v1.rs");

/// The encoded `FileDescriptorSet` of the package, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptors.bin");
