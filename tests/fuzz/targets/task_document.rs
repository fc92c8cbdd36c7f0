//! A task document from a stranger: it is read or refused in words, and what was read survives its canonical form.
#![no_main]

use deputy_task::document::{Inputs, Paint, from_canonical, read, to_canonical, validate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(diagnostics) = validate("task.yaml", bytes) {
        assert!(diagnostics.errors() > 0, "refused without a reason");
        drop(diagnostics.rendered(Paint::Plain));
    }
    match read("task.yaml", bytes, &Inputs::default()) {
        Ok(document) => {
            let canonical = to_canonical(&document.checked).expect("a checked document has a canonical form");
            let again = from_canonical(&canonical).expect("the canonical form can be read");
            assert_eq!(document.checked, again);
        }
        Err(diagnostics) => {
            assert!(diagnostics.errors() > 0, "refused without a reason");
            let text = diagnostics.rendered(Paint::Plain);
            assert!(!text.contains("this is a fault of Deputy"), "{text}");
        }
    }
});
