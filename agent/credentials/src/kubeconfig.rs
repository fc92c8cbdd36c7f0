//! The temporary kubeconfig of a step: 0600 in the task's workspace, without any secret, gone with its
//! value; what a killed agent leaves is swept with the workspace.

use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::cluster::EksCluster;
use crate::eks_token::EXEC_API_VERSION;
use crate::exec_plugin::ExecPlugin;

/// A kubeconfig on disk; dropping it removes the file.
#[derive(Debug)]
pub struct Kubeconfig {
    file: NamedTempFile,
}

impl Kubeconfig {
    /// Writes one into `folder`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create(
        folder: &Path,
        cluster: &EksCluster,
        plugin: &ExecPlugin,
        namespace: Option<&str>,
    ) -> io::Result<Self> {
        // tempfile makes the file with mode 0600 and fails rather than follow or reuse anything.
        let mut file = tempfile::Builder::new()
            .prefix("kubeconfig-")
            .suffix(".yaml")
            .tempfile_in(folder)?;
        file.write_all(text(cluster, plugin, namespace).as_bytes())?;
        file.flush()?;
        Ok(Self { file })
    }

    /// For `KUBECONFIG`.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

/// Every value is written as a JSON string, which YAML reads as it is.
fn text(cluster: &EksCluster, plugin: &ExecPlugin, namespace: Option<&str>) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let name = quoted(&cluster.name);
    let args: Vec<String> = plugin.args.iter().map(|arg| quoted(arg)).collect();
    let env: String = plugin
        .env
        .iter()
        .map(|(name, value)| format!("        - name: {}\n          value: {}\n", quoted(name), quoted(value)))
        .collect();
    let namespace = namespace
        .map(|namespace| format!("      namespace: {}\n", quoted(namespace)))
        .unwrap_or_default();
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         current-context: {name}\n\
         clusters:\n\
         \x20 - name: {name}\n\
         \x20   cluster:\n\
         \x20     server: {server}\n\
         \x20     certificate-authority-data: {ca}\n\
         contexts:\n\
         \x20 - name: {name}\n\
         \x20   context:\n\
         \x20     cluster: {name}\n\
         \x20     user: deputy\n\
         {namespace}\
         users:\n\
         \x20 - name: deputy\n\
         \x20   user:\n\
         \x20     exec:\n\
         \x20       apiVersion: {EXEC_API_VERSION}\n\
         \x20       command: {command}\n\
         \x20       args: [{args}]\n\
         \x20       interactiveMode: Never\n\
         \x20       provideClusterInfo: false\n\
         \x20       env:\n\
         {env}",
        server = quoted(&cluster.endpoint),
        ca = quoted(&cluster.ca_data),
        command = quoted(&plugin.command.display().to_string()),
        args = args.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticator::TokenProgram;
    use std::os::unix::fs::PermissionsExt;

    fn cluster() -> EksCluster {
        EksCluster {
            name: "prod".into(),
            arn: "arn:aws:eks:eu-west-1:222222222222:cluster/prod".into(),
            region: "eu-west-1".into(),
            endpoint: "https://127.0.0.1:6443".into(),
            ca_data: "TFM=".into(),
            version: "1.33".into(),
        }
    }

    #[test]
    fn it_is_private_holds_no_secret_and_goes_with_its_value() {
        let folder = tempfile::tempdir().expect("folder");
        let program = TokenProgram::Authenticator {
            path: "/usr/bin/aws-iam-authenticator".into(),
            version: "0.6.13".into(),
        };
        let plugin = ExecPlugin::new(&program, &cluster());
        let config = Kubeconfig::create(folder.path(), &cluster(), &plugin, Some("shop")).expect("written");
        let mode = std::fs::metadata(config.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        insta::assert_snapshot!(std::fs::read_to_string(config.path()).expect("text"));
        drop(config);
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
    }

    #[test]
    fn the_built_in_plugin_names_cluster_and_region() {
        let program = TokenProgram::BuiltIn {
            path: "/opt/deputy agent".into(),
            because: "there is none".into(),
        };
        let plugin = ExecPlugin::new(&program, &cluster());
        let text = text(&cluster(), &plugin, None);
        assert!(
            text.contains(r#"args: ["eks-token", "--cluster", "prod", "--region", "eu-west-1"]"#),
            "{text}"
        );
        assert!(text.contains(r#"command: "/opt/deputy agent""#), "{text}");
    }
}
