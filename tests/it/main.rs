//! Tests with real processes on real sockets. One binary, so that one emulated cloud serves all.

mod smoke;

mod end_to_end;
mod lifecycle;
mod loss;
mod wall_clock;

mod bad_input;
mod denials;
mod doctor;
mod denials_replayed;
mod sessions;
mod throttling;
mod hostile_child;
mod hostile_manager;
mod local;
mod policy;
mod brought_back;
mod secret_references;
mod secrets_stay;
mod word_secrets;
mod sealed_journal;
mod sources;
mod unhealthy;

mod co_owned;
mod ambient;
mod join_proofs;
mod joining;
mod oidc;
mod containers;
mod chart;
mod image;
mod hostile_networks;
mod link;
mod membership;
mod kept_identity;
mod proxy;
mod testbed;

mod recipe;
