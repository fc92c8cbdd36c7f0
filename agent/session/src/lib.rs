//! One connection's life: pull, heartbeat, journal append, log upload, results. Knows gRPC, not work.
