//! The product: the binary that runs inside the customer's network.
