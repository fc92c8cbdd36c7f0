//! `shell`: a script that prints its secrets in every form that it can, and its AWS credentials; and one over a source
//! from a private repository.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use deputy_proto::v1;
use deputy_tests::git_server::GitServer;
use deputy_tests::leaks::canary::Canaries;
use deputy_tests::programs::Tools;
use deputy_tests::world::World;

use crate::run::GIT_CANARY;
use crate::scenario::{AWS, Refused, Scenario};

/// In the agent's environment; the script gets it as `PASSWORD`.
pub(crate) const SECRET_VARIABLE: &str = "DEPUTY_SECRET_LEAKS";

/// What a careless script does with a secret.
const SCRIPT: &str = r#"echo "the password is $PASSWORD"
printf '%s' "$PASSWORD" | base64 -w 0; echo
printf 'x%s' "$PASSWORD" | base64 -w 20
printf 'xy%s' "$PASSWORD" | base64 -w 0 | tr '+/' '-_'; echo
printf '%s' "$PASSWORD" | od -An -v -tx1 | tr -d ' \n'; echo
printf '%s' "$PASSWORD" | od -An -v -tx1 | tr -d ' \n' | tr a-f A-F; echo
python3 -c 'import json, os, urllib.parse as u; p = os.environ["PASSWORD"]; print(json.dumps({"p": p}), u.quote(p), u.quote(p, safe=""), u.quote_plus(p), u.quote(p, safe="$&+,;="), u.quote(p, safe="!#$&()*+,/:;=?@"), repr(p))'
printf '%q\n' "$PASSWORD"
for c in $(seq 1 3); do printf '%s' "${PASSWORD:0:10}"; sleep 0.05; printf '%s\n' "${PASSWORD:10}"; done
curl -s -H "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" "$AWS_CONTAINER_CREDENTIALS_FULL_URI"; echo
AWS_PROGRAM sts get-caller-identity --region eu-west-1 --output json
python3 -c 'import base64, os, urllib.parse as u; a = u.urlsplit(os.environ["HTTPS_PROXY"]); print(a.geturl(), a.password, u.unquote(a.password), base64.b64encode(u.unquote(a.username + ":" + a.password).encode()).decode())'
echo "password=$PASSWORD" >> "$DEPUTY_OUTPUT"
kubectl get secrets -n shop -o name || true
false_name_of_$PASSWORD 2>&1 || true"#;

pub(crate) struct Shell;

#[async_trait]
impl Scenario for Shell {
    fn kind(&self) -> &'static str {
        "shell"
    }

    async fn prepare(&self, world: &World, _: &Canaries) -> Result<String> {
        Ok(world.unique("leaks"))
    }

    fn spec(&self, _: &str) -> String {
        let aws = Tools::load()
            .and_then(|tools| tools.get("aws").map(|path| path.display().to_string()))
            .unwrap_or_else(|_| "aws".into());
        let script = SCRIPT.replace("AWS_PROGRAM", &aws).replace('\n', "\n          ");
        format!(
            "{AWS}  steps:\n    - name: careless\n      shell:\n        cluster: prod\n        retrySafe: true\n        secrets: {{ PASSWORD: {{ environment: {SECRET_VARIABLE} }} }}\n        run: |\n          {script}\n"
        )
    }

    /// A script that fails after it has said everything, and says it once more.
    async fn refused(&self, _: &World, _: &Canaries) -> Result<Vec<Refused>> {
        let spec = self.spec("");
        Ok(vec![Refused {
            spec: format!("{spec}          echo \"no login with $PASSWORD\" >&2\n          exit 3\n"),
            words: "exit code 3",
        }])
    }

    /// Nobody can put back what a script did.
    fn left_by_undo(&self) -> v1::World {
        v1::World::Changed
    }
}

/// In the agent's environment; the token of the repository.
pub(crate) const GIT_VARIABLE: &str = "DEPUTY_SECRET_LEAKS_GIT";

/// A script over a private repository, whose server is asked with a token.
#[derive(Default)]
pub(crate) struct FromGit {
    server: Mutex<Option<GitServer>>,
}

/// Where the server's files are: a platform's mount, as far as the agent is concerned.
pub(crate) fn git_folder(world: &World) -> PathBuf {
    world.whole_folder().join("mounted").join("git")
}

#[async_trait]
impl Scenario for FromGit {
    fn kind(&self) -> &'static str {
        "shell"
    }

    async fn prepare(&self, world: &World, canaries: &Canaries) -> Result<String> {
        let token = canaries.all().into_iter().find(|canary| canary.name == GIT_CANARY);
        let token = String::from_utf8(token.context("the token of the repository")?.value)?;
        let mut place = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = git_folder(world);
        let is_here = place
            .as_ref()
            .is_some_and(|server| Path::new(&server.authority()).starts_with(&folder));
        if !is_here {
            let server = GitServer::start(&folder, &token)?;
            server.commit("private/app.git", |copy| {
                Ok(std::fs::write(copy.join("run.sh"), "echo from the repository\n")?)
            })?;
            *place = Some(server);
        }
        Ok(world.unique("leaks-git"))
    }

    fn spec(&self, _: &str) -> String {
        let place = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let url = place
            .as_ref()
            .map(|server| server.url("private/app.git"))
            .unwrap_or_default();
        format!(
            "  sources:\n    - name: app\n      git:\n        url: {url}\n        ref: {{ branch: main }}\n        auth: {{ httpsToken: {{ token: {{ environment: {GIT_VARIABLE} }} }} }}\n  steps:\n    - name: fetched\n      shell: {{ run: \"bash run.sh; env; git config --list || true\", retrySafe: true }}\n"
        )
    }

    /// Nobody can put back what a script did.
    fn left_by_undo(&self) -> v1::World {
        v1::World::Changed
    }

    /// The repository has no such branch, which its server says to who showed the token.
    async fn refused(&self, world: &World, canaries: &Canaries) -> Result<Vec<Refused>> {
        let target = self.prepare(world, canaries).await?;
        Ok(vec![Refused {
            spec: self.spec(&target).replace("branch: main", "branch: gone"),
            words: "gone",
        }])
    }
}
