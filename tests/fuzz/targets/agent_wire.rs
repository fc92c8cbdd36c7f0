//! A frame from a hostile manager: it is understood, refused or ignored, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| deputy_session::fuzzing::frame(bytes));
