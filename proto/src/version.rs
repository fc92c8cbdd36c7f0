//! Which revisions of the protocol this build speaks.

/// Oldest protocol revision spoken by this build.
pub const PROTOCOL_MIN: u32 = 1;

/// Newest protocol revision spoken by this build.
pub const PROTOCOL_MAX: u32 = 1;

/// Most bytes of a session frame, either way.
pub const MAX_SESSION_FRAME_BYTES: usize = 4 * 1024 * 1024;

/// Most bytes of `data` in a log frame.
pub const MAX_LOG_FRAME_BYTES: usize = 512 * 1024;

/// Most bytes of `data` in a blob frame.
pub const MAX_BLOB_FRAME_BYTES: usize = 256 * 1024;
