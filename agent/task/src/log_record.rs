//! How a log is cut into records: the bytes that the spool holds and the wire carries.
