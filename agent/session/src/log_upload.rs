//! Uploads log bytes from the spool.
