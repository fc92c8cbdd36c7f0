//! Snapshots of renderings.
