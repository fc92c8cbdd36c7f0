//! The deputy command: submit, follow, cancel, explain, fleet, schema.
