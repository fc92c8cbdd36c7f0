//! The control plane's side of the protocol: small, but real and durable.
