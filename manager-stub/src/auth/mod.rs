//! Who calls, and what each may: one table, asked in one place before any service.

pub mod gate;
pub mod caller;
pub mod table;
