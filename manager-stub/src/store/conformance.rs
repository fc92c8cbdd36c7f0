//! The test suite that every store has to pass.
