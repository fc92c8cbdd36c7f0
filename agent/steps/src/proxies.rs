//! The customer's proxies, as other programs than the agent understand them, and what is secret in their addresses.
//! Called for scripts and for git.

use std::ffi::{OsStr, OsString};

use deputy_dial::proxy::ProxyRule;
use deputy_task::outcome::Failure;

use crate::context::StepContext;

const ADDRESSES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];

const HTTPS: u16 = 443;

/// What is reached directly, for curl, git and Python: a star counts for the agent in any list, for these only where it
/// stands alone; and `*.name` they know as `.name`.
pub(crate) fn around(list: &OsStr) -> OsString {
    let Some(text) = list.to_str() else {
        return list.to_owned();
    };
    let entries = text.split(|of: char| of == ',' || of.is_whitespace());
    let told: Vec<&str> = entries
        .filter(|entry| !entry.is_empty())
        .map(|entry| if entry.starts_with("*.") { &entry[1..] } else { entry })
        .collect();
    if told.contains(&"*") {
        "*".into()
    } else {
        told.join(",").into()
    }
}

/// The proxy variables of git, which is to go where the agent goes: what counts for the agent, in both spellings. Entries
/// of `NO_PROXY` with a port are those for 443. Without a proxy of the agent's they are as they are.
pub(crate) fn as_for_the_agent(env: impl Fn(&str) -> Option<OsString>) -> Vec<(OsString, OsString)> {
    let rule = ProxyRule::of(&|name| env(name)?.into_string().ok());
    let told = rule.ok().and_then(|rule| rule.told(HTTPS));
    let both =
        |name: &str, value: OsString| [name.to_owned(), name.to_lowercase()].map(|name| (name.into(), value.clone()));
    match told {
        Some(told) => {
            let list = around(OsStr::new(&told.around));
            [both("HTTPS_PROXY", told.proxy.into()), both("NO_PROXY", list)].concat()
        }
        None => ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"]
            .into_iter()
            .filter_map(|name| Some((name.into(), env(name)?)))
            .collect(),
    }
}

/// Makes what is secret in the addresses of proxies known to the redactor: a script may print its environment, and
/// programs print what they send and what they cannot read.
pub(crate) fn hide(ctx: &StepContext, env: impl Fn(&str) -> Option<OsString>) -> Result<(), Failure> {
    secrets(env)
        .iter()
        .try_for_each(|secret| ctx.hide("the password of a proxy", secret))
}

fn secrets(env: impl Fn(&str) -> Option<OsString>) -> Vec<Vec<u8>> {
    let addresses = ADDRESSES.into_iter().filter_map(|name| env(name)?.into_string().ok());
    addresses
        .flat_map(|address| deputy_dial::proxy::secrets(&address))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(given: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        move |name| {
            given
                .iter()
                .find(|(given, _)| *given == name)
                .map(|(_, value)| value.into())
        }
    }

    #[test]
    fn a_star_and_patterns_are_told_as_others_read_them() {
        for (list, told) in [
            ("*", "*"),
            ("a, *", "*"),
            ("*.corp,b.example 10.0.0.0/8", ".corp,b.example,10.0.0.0/8"),
            ("", ""),
        ] {
            assert_eq!(around(OsStr::new(list)), told, "{list}");
        }
    }

    /// Guards that git goes the agent's way: what the agent takes counts in both spellings.
    #[test]
    fn a_program_is_told_what_counts_for_the_agent() {
        let told = |given: &[(&str, &str)]| {
            let told = as_for_the_agent(of(given)).into_iter();
            let told = told.map(|(name, value)| format!("{}={}", name.display(), value.display()));
            told.collect::<Vec<_>>()
        };
        let proxies = [("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:1")];
        let here = "localhost,127.0.0.0/8,::1";
        for (given, list) in [
            ("*.corp", format!("corp,{here}")),
            ("b.example:443\nc.example:1", format!("b.example,{here}")),
            ("a,*", "*".to_owned()),
        ] {
            let expected = [
                "HTTPS_PROXY=http://a:1".to_owned(),
                "https_proxy=http://a:1".to_owned(),
                format!("NO_PROXY={list}"),
                format!("no_proxy={list}"),
            ];
            assert_eq!(told(&[&proxies[..], &[("no_proxy", given)]].concat()), expected);
        }
        let of_blanks = told(&[("HTTPS_PROXY", " "), ("https_proxy", "http://b:1")]);
        assert_eq!(of_blanks[..2], ["HTTPS_PROXY=http://b:1", "https_proxy=http://b:1"]);
        assert_eq!(told(&[("no_proxy", "a")]), ["no_proxy=a"], "for ALL_PROXY");
        assert_eq!(told(&[]), [""; 0]);
    }

    #[test]
    fn passwords_of_proxies_are_found_as_they_are_written_and_as_they_are_sent() {
        let found = secrets(of(&[
            ("HTTPS_PROXY", "http://user:p%40ss@proxy:3128"),
            ("http_proxy", "proxy:3128"),
            ("ALL_PROXY", "socks5://me:plain/text@proxy"),
            ("all_proxy", "http://only-a-user@proxy"),
        ]));
        let expected = [
            "p%40ss",
            "p@ss",
            "user:p%40ss",
            "user:p@ss",
            "plain/text",
            "me:plain/text",
            "me:plain",
        ];
        assert_eq!(found, expected.map(|secret| secret.as_bytes().to_vec()));
    }
}
