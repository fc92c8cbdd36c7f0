//! The environment of a script: what is let through from the agent, and what the step adds.
//! Called by the preparation. The agent's own AWS identity must never be in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use deputy_task::document::step::Shell;
use deputy_task::document::variable::{refusal, way_out};
use deputy_task::outcome::Failure;

use crate::proxies;

/// Let through by name.
const ALLOWED: &[&str] = &[
    "PATH",
    "LANG",
    "LANGUAGE",
    "TZ",
    "USER",
    "LOGNAME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "AWS_CA_BUNDLE",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
];

/// Let through by how they begin. Endpoint addresses are no identity.
const ALLOWED_PREFIXES: &[&str] = &["LC_", "AWS_ENDPOINT_URL"];

/// What every script finds even if the agent was started with nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables by name.
pub(super) type Environment = BTreeMap<OsString, OsString>;

/// What is let through of `inherited`, which is the agent's own environment.
pub(super) fn allowed(inherited: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
    let is_allowed =
        |name: &str| ALLOWED.contains(&name) || ALLOWED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let mut environment: Environment = inherited
        .into_iter()
        .filter(|(name, _)| name.to_str().is_some_and(is_allowed))
        .collect();
    environment.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
    environment.insert("TERM".into(), "dumb".into());
    environment
}

/// Children reach the credential endpoint on loopback past any proxy.
pub(super) fn bypass_proxies_for_loopback(environment: &mut Environment) {
    let spelled = ["NO_PROXY", "no_proxy"];
    let said = spelled.map(|name| {
        let list = environment.get(&OsString::from(name));
        list.map(|list| proxies::around(list)).filter(|list| !list.is_empty())
    });
    for (name, own) in spelled.into_iter().zip(said.clone()) {
        // Some programs read the one first, some the other: where only one is given, both mean it.
        let mut list = own
            .or_else(|| said.iter().flatten().next().cloned())
            .unwrap_or_default();
        if list != "*" {
            if !list.is_empty() {
                list.push(",");
            }
            list.push("127.0.0.1,localhost");
        }
        environment.insert(name.into(), list);
    }
}

/// Are these names that a step may set, with values that a process can have? A document that got past its checks is
/// no reason to have a shell run something else.
pub(super) fn check_step_variables(shell: &Shell) -> Result<(), Failure> {
    for (name, value) in &shell.env {
        check_name(name)?;
        if value.contains('\0') {
            return Err(Failure::new(
                "shell.env",
                format!("variable {name:?} has a NUL character in its value"),
            )
            .hint("remove it in the step's `env`"));
        }
    }
    shell.secrets.keys().try_for_each(|name| check_name(name))
}

fn check_name(name: &str) -> Result<(), Failure> {
    let refused = |why: &str, hint: &str| {
        Err(Failure::new("shell.env", format!("the step cannot set {name:?}: it {why}")).hint(hint))
    };
    match refusal(name) {
        Some(why) => refused(why, way_out(name)),
        None if name.is_empty() || name.contains(['=', '\0']) => refused(
            "is no name of an environment variable",
            "letters, digits and `_`, not beginning with a digit",
        ),
        None => Ok(()),
    }
}

/// A secret as the value of a variable, byte for byte.
pub(super) fn secret_variable(name: &str, value: &[u8]) -> Result<OsString, Failure> {
    if value.contains(&0) {
        return Err(Failure::new(
            "secret.notText",
            format!("secret {name} has a NUL byte, which no environment variable can hold"),
        )
        .hint("say `as: file`: the script then finds the path of a file with it in the variable"));
    }
    Ok(OsString::from_vec(value.to_vec()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(inherited: &[(&str, &str)]) -> Vec<String> {
        let inherited = inherited
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        allowed(inherited)
            .into_keys()
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn the_agents_identity_and_its_own_settings_do_not_reach_a_child() {
        let inherited = [
            ("PATH", "/bin"),
            ("LC_ALL", "C.UTF-8"),
            ("AWS_ACCESS_KEY_ID", "x"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("AWS_SESSION_TOKEN", "x"),
            ("AWS_PROFILE", "x"),
            ("AWS_ROLE_ARN", "x"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "x"),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "x"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "x"),
            ("AWS_SHARED_CREDENTIALS_FILE", "x"),
            ("AWS_REGION", "x"),
            ("AWS_ENDPOINT_URL", "x"),
            ("AWS_ENDPOINT_URL_ECS", "x"),
            ("AWS_CA_BUNDLE", "x"),
            ("DEPUTY_MANAGER", "x"),
            ("KUBECONFIG", "x"),
            ("LD_PRELOAD", "x"),
            ("BASH_ENV", "x"),
            ("HOME", "/root"),
            ("https_proxy", "x"),
        ];
        assert_eq!(
            names(&inherited),
            [
                "AWS_CA_BUNDLE",
                "AWS_ENDPOINT_URL",
                "AWS_ENDPOINT_URL_ECS",
                "LC_ALL",
                "PATH",
                "TERM",
                "https_proxy"
            ]
        );
        assert_eq!(names(&[]), ["PATH", "TERM"]);
    }

    /// Guards the customer's list for programs that read the spelling that he did not use: curl and Python read small
    /// letters first, Go capitals.
    #[test]
    fn loopback_joins_what_already_goes_past_the_proxy_in_both_spellings() {
        let lists = |given: &[(&str, &str)]| {
            let mut environment = allowed(given.iter().map(|(name, list)| (name.into(), list.into())));
            bypass_proxies_for_loopback(&mut environment);
            ["NO_PROXY", "no_proxy"].map(|name| environment[&OsString::from(name)].clone().into_string().expect("text"))
        };
        let corp = ".corp.example,127.0.0.1,localhost";
        assert_eq!(lists(&[("NO_PROXY", ".corp.example")]), [corp, corp]);
        assert_eq!(lists(&[("no_proxy", ".corp.example")]), [corp, corp]);
        assert_eq!(lists(&[("NO_PROXY", ""), ("no_proxy", ".corp.example")]), [corp, corp]);
        let each_its_own = lists(&[("NO_PROXY", ".corp.example"), ("no_proxy", "other")]);
        assert_eq!(each_its_own, [corp, "other,127.0.0.1,localhost"]);
        assert_eq!(lists(&[]), ["127.0.0.1,localhost"; 2]);
        assert_eq!(lists(&[("NO_PROXY", "*")]), ["*", "*"]);
        assert_eq!(lists(&[("no_proxy", "a, *")]), ["*", "*"]);
    }

    #[test]
    fn a_step_cannot_set_what_deputy_sets() {
        let check = |name: &str, value: &str| {
            let shell = json!({"run": "true", "env": {name: value}});
            check_step_variables(&serde_json::from_value(shell).expect("a step")).is_ok()
        };
        assert!(check("A", "1") && check("AWS_PAGER", "") && check("PATH", "/bin"));
        assert!(!check("DEPUTY_OUTPUT", "x") && !check("A=B", "x") && !check("", "x") && !check("A", "x\0"));
        for name in ["BASH_ENV", "BASH_FUNC_ls%%", "LD_PRELOAD", "PS4"] {
            assert!(!check(name, "x"), "{name}");
            let secret = json!({"run": "true", "secrets": {name: {"as": "file", "file": "a"}}});
            let refused = check_step_variables(&serde_json::from_value(secret).expect("a step")).expect_err(name);
            assert!(refused.summary.contains(name), "{refused:?}");
        }
    }

    /// Guards that what has a shell or the linker run something else does not come from the agent's environment either.
    #[test]
    fn what_no_step_may_set_is_not_let_through_from_the_agent() {
        for name in ALLOWED.iter().chain(ALLOWED_PREFIXES) {
            assert_eq!(refusal(name), None, "{name}");
        }
        for name in [
            "LD_LIBRARY_PATH",
            "LD_AUDIT",
            "BASH_FUNC_ls%%",
            "ENV",
            "PS4",
            "SHELLOPTS",
            "GLIBC_TUNABLES",
            "LOCPATH",
        ] {
            assert_eq!(names(&[(name, "x")]), ["PATH", "TERM"], "{name}");
        }
    }
}
