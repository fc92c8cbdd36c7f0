//! The state machine of a task: one total transition function.
