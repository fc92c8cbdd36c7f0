//! `shell`: a script that prints its secrets in every form that it can, and its AWS credentials.

use anyhow::Result;
use async_trait::async_trait;
use deputy_tests::leaks::canary::Canaries;
use deputy_tests::programs::Tools;
use deputy_tests::world::World;

use crate::scenario::{AWS, Scenario};

/// In the agent's environment; the script gets it as `PASSWORD`.
pub(crate) const SECRET_VARIABLE: &str = "DEPUTY_SECRET_LEAKS";

/// What a careless script does with a secret.
const SCRIPT: &str = r#"echo "the password is $PASSWORD"
printf '%s' "$PASSWORD" | base64 -w 0; echo
printf 'x%s' "$PASSWORD" | base64 -w 20
printf 'xy%s' "$PASSWORD" | base64 -w 0 | tr '+/' '-_'; echo
printf '%s' "$PASSWORD" | od -An -v -tx1 | tr -d ' \n'; echo
printf '%s' "$PASSWORD" | od -An -v -tx1 | tr -d ' \n' | tr a-f A-F; echo
python3 -c 'import json, os, urllib.parse as u; p = os.environ["PASSWORD"]; print(json.dumps({"p": p}), u.quote(p), u.quote(p, safe=""), u.quote_plus(p), repr(p))'
printf '%q\n' "$PASSWORD"
for c in $(seq 1 3); do printf '%s' "${PASSWORD:0:10}"; sleep 0.05; printf '%s\n' "${PASSWORD:10}"; done
curl -s -H "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" "$AWS_CONTAINER_CREDENTIALS_FULL_URI"; echo
AWS_PROGRAM sts get-caller-identity --region eu-west-1 --output json
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
}
