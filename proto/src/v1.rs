//! Generated code of package `deputy.v1`. Written by `cargo xtask gen`; not edited by hand.
#![expect(
    clippy::allow_attributes,
    reason = "generated; the comments of the .proto files are the documentation"
)]

include!("gen/deputy.v1.rs");

/// The encoded `FileDescriptorSet` of the package, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptors.bin");
