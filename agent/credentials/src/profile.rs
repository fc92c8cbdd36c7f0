//! A profile of the shared config files as the agent's own identity, only where the operator names one: keys, a role
//! chain by `source_profile`, IAM Identity Center (SSO) with the cached login, or a `credential_process`. And the files
//! that such a profile names, for whoever hides them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aws_config::Region;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileSet};
use aws_config::provider_config::ProviderConfig;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::os_shim_internal::{Env as SdkEnv, Fs};

use crate::env::Env;
use crate::error::chain_of;

/// Where everybody's programs are, beside `PATH`: hidden, they would be missing.
const PROGRAMS: [&str; 5] = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin"];

/// What ends a word of a shell's command.
const BETWEEN_WORDS: [char; 9] = [' ', '\t', ';', '|', '&', '<', '>', '(', '`'];

/// What stands before a path within a word, as in `--key=/a`, `file:///a` and `@/a`; and in names of files.
const WITHIN_WORDS: [char; 4] = ['=', ',', ':', '@'];

/// Added to a character that a backslash stands before: none that means anything to a shell.
const ESCAPED: u32 = 0xF_0000;

/// What the AWS SDK makes of the profile; it reads the files when credentials are asked for.
pub(crate) fn provider(profile: &str, region: Option<&str>, http: SharedHttpClient) -> ProfileFileCredentialsProvider {
    let region = region.map(|region| Region::new(region.to_owned()));
    let config = ProviderConfig::empty()
        .with_http_client(http)
        .with_sleep_impl(TokioSleep::new())
        .with_region(region);
    ProfileFileCredentialsProvider::builder()
        .configure(&config)
        .profile_name(profile)
        .build()
}

/// The files that `profile`, and each one that is its source, names as a way to its credentials: tokens, and what a
/// `credential_process` is or is given. Read as they are now, from the files that this process's environment names.
///
/// # Errors
/// Why the shared config files cannot be read.
pub async fn files_named(env: &Env, profile: &str) -> Result<Vec<PathBuf>, String> {
    let files = EnvConfigFiles::default();
    let set = aws_config::profile::load(&Fs::real(), &SdkEnv::real(), &files, Some(profile.to_owned().into())).await;
    let set = set.map_err(|error| chain_of(&error))?;
    Ok(named_by(&set, env))
}

fn named_by(set: &ProfileSet, env: &Env) -> Vec<PathBuf> {
    let mut met = BTreeSet::new();
    let mut files = Vec::new();
    let mut next = Some(set.selected_profile());
    while let Some(profile) = next
        .filter(|name| met.insert(*name))
        .and_then(|name| set.get_profile(name))
    {
        files.extend(profile.get("web_identity_token_file").map(PathBuf::from));
        let command = profile.get("credential_process");
        files.extend(command.into_iter().flat_map(|command| files_of_command(command, env)));
        next = profile.get("source_profile");
    }
    files
}

/// A folder is not meant, and neither is a program that everybody uses: only what is this command's own.
fn files_of_command(command: &str, env: &Env) -> Vec<PathBuf> {
    let path = env.get("PATH").unwrap_or_default();
    let programs: Vec<_> = std::env::split_paths(path).chain(PROGRAMS.map(PathBuf::from)).collect();
    let is_own =
        |file: &PathBuf| !file.is_dir() && !file.parent().is_some_and(|above| programs.iter().any(|p| p == above));
    let paths = words(command).into_iter().filter_map(|word| at_home(&word, env));
    paths.filter(is_own).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Everything that a shell could take for a word: what is between quotation marks, and the words within that. And what
/// could be a file within a word.
fn words(command: &str) -> Vec<String> {
    let command = escaped(command);
    let parts = command.split(['"', '\'']).enumerate();
    let words = parts.flat_map(|(at, part)| {
        let quoted = (at % 2 == 1).then_some(part);
        quoted.into_iter().chain(part.split(BETWEEN_WORDS))
    });
    let words = words.map(|word| word.trim_end_matches(')'));
    words
        .flat_map(|word| std::iter::once(word).chain(within(word)))
        .map(unescaped)
        .collect()
}

/// The pieces of a word, each to the next sign that is in names of files too, and to the end.
fn within(word: &str) -> impl Iterator<Item = &str> {
    let ends = word
        .match_indices(WITHIN_WORDS)
        .map(|(at, sign)| &word[at + sign.len()..]);
    let pieces = word.split(WITHIN_WORDS).chain(ends);
    // After `https:` a host comes.
    pieces.filter(|piece| !piece.starts_with("//") || piece.starts_with("///"))
}

/// A command in which nothing that a backslash stands before ends a word.
fn escaped(command: &str) -> String {
    let mut characters = command.chars();
    let mut escaped = String::new();
    while let Some(one) = characters.next() {
        let next = (one == '\\').then(|| characters.next()).flatten();
        escaped.push(next.map_or(one, |next| {
            char::from_u32(ESCAPED + u32::from(next))
                .filter(|_| next.is_ascii())
                .unwrap_or(next)
        }));
    }
    escaped
}

fn unescaped(word: &str) -> String {
    let plain = |one: char| u32::from(one).checked_sub(ESCAPED).and_then(char::from_u32);
    word.chars()
        .map(|one| plain(one).filter(char::is_ascii).unwrap_or(one))
        .collect()
}

/// An absolute path, or one in the user's home.
fn at_home(word: &str, env: &Env) -> Option<PathBuf> {
    let of_home = ["~/", "$HOME/", "${HOME}/"]
        .iter()
        .find_map(|home| word.strip_prefix(home));
    match of_home {
        Some(rest) => env.get("HOME").map(|home| Path::new(home).join(rest)),
        None => word.starts_with('/').then(|| Path::new(word).components().collect()),
    }
}

#[cfg(test)]
mod tests {
    use aws_runtime::env_config::file::EnvConfigFileKind;

    use super::*;

    async fn named(text: &str) -> Vec<String> {
        let env: Env = [("HOME", "/home/agent"), ("PATH", "/opt/tools:/usr/bin")]
            .into_iter()
            .collect();
        let files = EnvConfigFiles::builder()
            .with_contents(EnvConfigFileKind::Config, text)
            .build();
        let set = aws_config::profile::load(&Fs::real(), &SdkEnv::from_slice(&[]), &files, Some("work".into())).await;
        let paths = named_by(&set.expect("read"), &env);
        paths.into_iter().map(|path| path.display().to_string()).collect()
    }

    #[tokio::test]
    async fn what_a_profile_and_its_sources_name_is_found_and_nothing_of_others() {
        let text = "[profile work]\nrole_arn = arn:aws:iam::222222222222:role/x\nsource_profile = middle\n\
                    [profile middle]\nrole_arn = arn:aws:iam::222222222222:role/y\nsource_profile = first\nweb_identity_token_file = /tokens/middle\n\
                    [profile first]\nsource_profile = work\ncredential_process = /opt/creds --key=/etc/creds/key\n\
                    [profile other]\nweb_identity_token_file = /tokens/other\n";
        assert_eq!(named(text).await, ["/tokens/middle", "/etc/creds/key", "/opt/creds"]);
        assert_eq!(named("[profile other]\nregion = eu-west-1\n").await, [""; 0]);
    }

    #[tokio::test]
    async fn a_commands_own_files_are_found_and_no_folders_or_programs_of_everybody() {
        for (command, files) in [
            (
                "/usr/bin/env python3 ~/creds.py \"/etc/my creds/key\" /etc",
                vec!["/etc/my", "/etc/my creds/key", "/home/agent/creds.py"],
            ),
            (
                "sh -c 'jq . </run/keys.json; /opt/tools/x' creds",
                vec!["/run/keys.json"],
            ),
            ("sh -c \"$(cat ${HOME}/command)\"", vec!["/home/agent/command"]),
            ("/opt/x /etc/my\\ creds/key", vec!["/etc/my creds/key", "/opt/x"]),
            (
                "/opt/x file:///etc/key key:/etc/key2 @/etc/key3 `cat /etc/key4` --a=k:/etc/key5,b=/etc/key6",
                vec![
                    "/etc/key",
                    "/etc/key2",
                    "/etc/key3",
                    "/etc/key4",
                    "/etc/key5",
                    "/etc/key5,b=/etc/key6",
                    "/etc/key6",
                    "/opt/x",
                ],
            ),
            ("/opt/x --key=/etc/a:b", vec!["/etc/a", "/etc/a:b", "/opt/x"]),
            ("curl https://host/etc/key", vec![]),
            ("aws-vault export work", vec![]),
        ] {
            let text = format!("[profile work]\ncredential_process = {command}\n");
            assert_eq!(named(&text).await, files, "{command}");
        }
    }
}
