//! Which step kinds exist, their program versions, and how a document's step becomes a program.
