//! A world of real processes, and the tests that live in it.
