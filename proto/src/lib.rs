//! The contract: deputy.v1, generated code, version constants.
