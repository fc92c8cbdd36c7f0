//! Finding what must not be there: values that are planted where secrets are, and a search for them, in every form
//! that a program could give them, in everything that left the network or was written.
//!
//! The forms are written down here once more, apart from the product's redactor: a form that one of the two does not
//! know is found by the other.

pub mod witness;
pub mod strace;
pub mod scan;
mod forms;
pub mod pool_keys;
pub mod canary;
pub mod whole_run;
