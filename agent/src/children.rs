//! What keeps children away from the agent: this process closed to others, and a domain around every child.
//! Called at the start of `run` and `task`; what is hidden is listed here and nowhere else.

use std::path::{Path, PathBuf};

use deputy_credentials::env::Env;
use deputy_credentials::profile::files_named;
use deputy_process::{Confinement, Support};

use crate::config::checked::{Config, JoinBy, Mode};
use crate::exit::StartupError;
use crate::pool_ring;

/// Variables that name files with the agent's own credentials, or with the way to them.
const CREDENTIAL_FILES: [&str; 5] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_LOGIN_CACHE_DIRECTORY",
];

/// Where container platforms put tokens and secrets that are the agent's.
const SECRETS: [&str; 2] = ["/var/run/secrets", "/run/secrets"];

/// Where scripts that know nothing of `TMPDIR` write.
const TMP: &str = "/tmp";

/// How children are kept.
pub(crate) struct Children {
    /// None: not at all.
    pub(crate) confinement: Option<Confinement>,
    /// What people should know about it.
    pub(crate) warnings: Vec<String>,
}

/// What is this agent's own: every key that names a file or folder of its own is here.
pub(crate) fn own_places(config: &Config, root: &Path) -> Vec<PathBuf> {
    let token = match &config.join {
        JoinBy::TokenFile(path) | JoinBy::Kubernetes(path) => Some(path.as_path()),
        JoinBy::Nothing | JoinBy::Token(_) | JoinBy::Aws => None,
    };
    let places = [
        Some(root),
        config.state_folder.as_deref(),
        config.secrets_folder.as_deref(),
        config.file.as_deref(),
        config.policy.path(),
        token,
    ];
    let ring = config.pool_key_file.as_deref().map(pool_ring::places);
    let places = places.into_iter().flatten().map(Path::to_owned);
    places.chain(ring.into_iter().flatten()).collect()
}

/// Closes this process to others of its user, and finds out how its children can be kept. `hidden` are the files and
/// folders of this agent; credentials of its environment are added.
pub(crate) fn children(
    mode: Mode,
    mut hidden: Vec<PathBuf>,
    writable: Vec<PathBuf>,
    env: &Env,
) -> Result<Children, StartupError> {
    deputy_process::own::protect().map_err(StartupError::Unprotected)?;
    hidden.extend(credential_places(env));
    let kept = decide(mode, Confinement::support(), hidden, writable)?;
    for warning in &kept.warnings {
        tracing::warn!("{warning}");
    }
    Ok(kept)
}

fn decide(
    mode: Mode,
    support: Support,
    hidden: Vec<PathBuf>,
    writable: Vec<PathBuf>,
) -> Result<Children, StartupError> {
    let unconfined = |why: &str| Children {
        confinement: None,
        warnings: vec![format!(
            "children are not confined: {why}; a step can read what the agent's user can, and tasks of different projects or role chains wait for each other"
        )],
    };
    Ok(match (mode, support) {
        (Mode::Off, _) => unconfined("confinement is off"),
        (Mode::Required, Support::Missing) => return Err(StartupError::NoLandlock),
        (Mode::Auto, Support::Missing) => unconfined("this kernel has no Landlock, or does not let the agent use it"),
        (Mode::Auto | Mode::Required, Support::NoSignals | Support::Full) => Children {
            warnings: limits(support, &hidden),
            confinement: Some(Confinement::new(hidden, writable)),
        },
    })
}

/// What a confinement cannot do, or does beyond its purpose.
fn limits(support: Support, hidden: &[PathBuf]) -> Vec<String> {
    let mut limits = Vec::new();
    if support == Support::NoSignals {
        limits.push(
            "children can send signals to the agent and to each other: this kernel is older than Linux 6.12".into(),
        );
    }
    if let Some(inside) = hidden.iter().find(|place| place.starts_with(TMP)) {
        limits.push(format!(
            "steps cannot make files directly in {TMP}, because {} is hidden from them; move it elsewhere if scripts do not use $TMPDIR",
            inside.display()
        ));
    }
    limits
}

/// What the profile names from which the agent takes its own identity.
pub(crate) fn profile_places(profile: Option<&str>, env: &Env) -> Result<Vec<PathBuf>, StartupError> {
    let Some(profile) = profile else {
        return Ok(Vec::new());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let named = runtime
        .map_err(StartupError::Threads)?
        .block_on(files_named(env, profile));
    Ok(named.unwrap_or_else(|problem| {
        tracing::warn!(
            "the shared config files cannot be read, and what the profile {profile} names is not hidden from steps: {problem}"
        );
        Vec::new()
    }))
}

fn credential_places(env: &Env) -> Vec<PathBuf> {
    let home = env.get("HOME").map(Path::new);
    // As AWS's SDKs read it.
    let place = |text: &str| match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    };
    let named = CREDENTIAL_FILES.iter().filter_map(|name| env.get(name)).map(place);
    let profiles = home.map(|home| home.join(".aws"));
    named.chain(profiles).chain(SECRETS.iter().map(PathBuf::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(mode: Mode, support: Support) -> Result<Children, StartupError> {
        decide(mode, support, vec!["/state".into()], Vec::new())
    }

    #[test]
    fn a_kernel_that_cannot_is_told_of_or_refused_and_never_passed_over() {
        let unconfined = |mode, support| {
            let kept = decided(mode, support).expect("goes on");
            (kept.confinement.is_none(), kept.warnings.join("\n"))
        };
        let (alone, told) = unconfined(Mode::Auto, Support::Missing);
        assert!(
            alone && told.starts_with("children are not confined: this kernel has no Landlock"),
            "{told}"
        );
        let (alone, told) = unconfined(Mode::Off, Support::Full);
        assert!(
            alone && told.starts_with("children are not confined: confinement is off"),
            "{told}"
        );
        let refused = decided(Mode::Required, Support::Missing).err().expect("refused");
        insta::assert_snapshot!(refused.explained(), @r"
        error: confinement is required, and this kernel has no Landlock or does not let the agent use it
        hint: run the agent on Linux 5.13 or newer with `landlock` among its security modules and in no seccomp filter that refuses it, or set confinement to auto
        ");
        assert_eq!(unconfined(Mode::Auto, Support::Full), (false, String::new()));
        let (alone, told) = unconfined(Mode::Required, Support::NoSignals);
        assert!(!alone && told.contains("signals"), "{told}");
    }

    #[test]
    fn the_agents_credential_files_are_hidden() {
        let env: Env = [
            ("HOME", "/home/agent"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/x/token"),
            ("AWS_CONFIG_FILE", ""),
            ("AWS_SHARED_CREDENTIALS_FILE", "~/keys"),
            ("AWS_LOGIN_CACHE_DIRECTORY", "/logins"),
            ("PATH", "/bin"),
        ]
        .into_iter()
        .collect();
        let places = [
            "/var/run/x/token",
            "/home/agent/keys",
            "/logins",
            "/home/agent/.aws",
            "/var/run/secrets",
            "/run/secrets",
        ];
        assert_eq!(credential_places(&env), places.map(PathBuf::from));
    }

    #[test]
    fn a_work_folder_that_costs_scripts_their_tmp_is_told() {
        let told = limits(Support::Full, &["/tmp/deputy-agent-7".into()]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(limits(Support::Full, &["/var/lib/deputy/work".into()]), [""; 0]);
    }
}
