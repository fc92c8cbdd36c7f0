//! What people see when their configuration is wrong, and what wins over what.

use std::path::Path;

use super::*;
use crate::config::raw::File;
use crate::exit::StartupError;

fn collect(flags: &[(&str, &str)], env: &[(&str, &str)], file: Option<&str>) -> RawConfig {
    let find = |pairs: &[(&str, &str)], name: &str| {
        pairs
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    };
    let file = file.map(|text| File {
        path: Path::new("agent.toml"),
        text,
    });
    RawConfig::collect(&|key| find(flags, key.name), &|name| find(env, name), file.as_ref())
}

fn explained(raw: &RawConfig) -> String {
    match Config::check(raw) {
        Ok(config) => panic!("{config:?}"),
        Err(mistakes) => StartupError::Config(mistakes).explained(),
    }
}

#[test]
fn every_mistake_is_reported_at_once_with_its_source() {
    let file = "slots = \"many\"\nlog_formt = \"json\"\ngrace = 10\n\n[labels]\nenv = 3\n";
    let raw = collect(
        &[
            ("manager", "http://10.0.0.1:7443"),
            ("drain_timeout", "1s"),
            ("connect_timeout", "0s"),
        ],
        &[
            ("DEPUTY_AGENT_ID", "../x"),
            ("DEPUTY_SPOOL_LIMIT", "1MiB"),
            ("DEPUTY_HEALTH_LISTEN", "8080"),
        ],
        Some(file),
    );
    insta::assert_snapshot!(explained(&raw), @r#"
    error: the configuration has 10 mistakes
      agent.toml:2: unknown key `log_formt`; `log_format` was probably meant
      agent.toml:5: the label `env` must be a string
      --manager: 10.0.0.1:7443 is not a loopback address, and without TLS nothing else is dialled: begin it with https://
      DEPUTY_AGENT_ID: agent id "../x" must be 1 to 128 letters, digits, '.', '_' or '-', and not begin with '.' or '-'
      agent.toml:1 (slots): "many" is not a whole number from 1 to 4096
      default (spool_task_limit): is more than spool_limit
      agent.toml:3 (grace): "10" has no unit; write for example 45m, 1h30m, 10s or 500ms
      --drain-timeout: is less than 2s, which is too short to report anything
      DEPUTY_HEALTH_LISTEN: "8080" is not an address and a port; write for example 127.0.0.1:8080
      --connect-timeout: is nothing: no connection is ever made within it; write for example 10s
    hint: `deputy-agent run --help` lists every key
    "#);
}

#[test]
fn a_file_that_is_no_toml_points_at_the_line() {
    let text = explained(&collect(
        &[("manager", "http://127.0.0.1:1")],
        &[],
        Some("slots = 4\nlabels = [\n"),
    ));
    assert!(text.contains("agent.toml:"), "{text}");
}

#[test]
fn without_a_manager_it_says_which_key_is_missing() {
    insta::assert_snapshot!(explained(&collect(&[], &[], None)), @r"
    error: the configuration has 1 mistake
      manager: is required, for example --manager https://manager.example.com:7443
    hint: `deputy-agent run --help` lists every key
    ");
}

#[test]
fn with_tls_the_agent_has_to_know_whom_to_believe() {
    let tls = ("manager", "https://manager:7443");
    let said = explained(&collect(&[tls], &[], None));
    assert!(said.contains("ca_file: or ca_sha256 is required with https"), "{said}");
    let said = explained(&collect(&[tls, ("ca_sha256", "ab")], &[], None));
    assert!(said.contains("--ca-sha256: \"ab\" is no SHA-256"), "{said}");
    let pin = "ab".repeat(32);
    let said = explained(&collect(&[tls, ("ca_sha256", &pin), ("ca_file", "ca.pem")], &[], None));
    assert!(said.contains("one of them is enough"), "{said}");
    let raw = collect(
        &[tls, ("ca_sha256", &pin)],
        &[("DEPUTY_JOIN_TOKEN", "dpj_secret")],
        None,
    );
    let config = Config::check(&raw).expect("good");
    assert_eq!(config.believed, Some(Believed::Pin(pin.clone())));
    assert!(!format!("{config:?}").contains("dpj_secret"));
}

#[test]
fn an_agent_joins_by_one_thing() {
    let joins = |more: &[(&str, &str)]| {
        let pin = "ab".repeat(32);
        let mut flags = vec![("manager", "https://m:1"), ("ca_sha256", pin.as_str())];
        flags.extend(more);
        Config::check(&collect(&flags, &[], None)).map(|config| format!("{:?}", config.join))
    };
    assert_eq!(joins(&[("join", "aws")]).expect("good"), "Aws");
    let at = |more: &[(&str, &str)]| joins(more).expect("good");
    assert_eq!(
        at(&[("join", "kubernetes")]),
        "Kubernetes(/var/run/secrets/deputy/token)"
    );
    assert_eq!(
        at(&[("join", "kubernetes"), ("join_token_file", "/x")]),
        "Kubernetes(/x)"
    );
    assert_eq!(at(&[("join", "token"), ("join_token_file", "/x")]), "TokenFile(/x)");
    for bad in [
        &[("join", "iam")][..],
        &[("join", "aws"), ("join_token", "dpj_1_2")],
        &[("join", "aws"), ("join_token_file", "/x")],
        &[("join", "kubernetes"), ("join_token", "dpj_1_2")],
    ] {
        assert!(joins(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = "manager = \"http://127.0.0.1:1\"\nslots = 1\ngrace = \"1s\"\ndrain_timeout = \"9s\"\n[labels]\nenv = \"prod\"\npool = \"eu\"\n";
    let raw = collect(
        &[("slots", "3")],
        &[("DEPUTY_SLOTS", "2"), ("DEPUTY_GRACE", "2s"), ("DEPUTY_MANAGER", "")],
        Some(file),
    );
    let config = Config::check(&raw).expect("good");
    assert_eq!(config.slots, 3);
    assert_eq!(config.grace, Duration::from_secs(2));
    assert_eq!(config.drain_timeout, Duration::from_secs(9));
    assert_eq!(config.manager.to_string(), "http://127.0.0.1:1");
    assert_eq!(
        config
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>(),
        ["env=prod", "pool=eu"]
    );
    assert_eq!(config.spool_limit_bytes, 1 << 30);
}
