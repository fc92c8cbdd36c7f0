//! Manifests as the user wrote them: read, checked, put in the order in which they are applied.
//! Called by the step programs. It reads files of a source and nothing else; it never asks the cluster.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use deputy_folder::{Folder, ReadError, Within};
use deputy_task::document::kubernetes_name::{namespace_problem, object_problem};
use deputy_task::document::step::Manifests;
use deputy_task::outcome::Failure;
use serde_json::{Map, Value};

use crate::context::StepContext;
use crate::failure::StepError;

use super::yaml::read_documents;

/// Largest manifest file. etcd refuses single objects above 1.5 MiB.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// One object to apply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manifest {
    /// Where it was written, for people: `k8s/web.yaml, document 2`.
    pub(crate) origin: String,
    /// For example `apps/v1`.
    pub(crate) api_version: String,
    /// For example `Deployment`.
    pub(crate) kind: String,
    /// As written; not defaulted.
    pub(crate) namespace: Option<String>,
    /// Its name.
    pub(crate) name: String,
    /// The whole object, without what only a server may write.
    pub(crate) object: Map<String, Value>,
}

/// Every manifest of a step, in the order in which it is applied.
///
/// # Errors
/// A file that is not there, is not YAML, or holds something that is not an object with a name.
pub(crate) async fn read_all(ctx: &StepContext, manifests: &Manifests) -> Result<Vec<Manifest>, StepError> {
    let mut all = Vec::new();
    for (index, object) in manifests.manifests.iter().enumerate() {
        collect(format!("manifests[{index}]"), Value::Object(object.clone()), &mut all)?;
    }
    if !manifests.files.is_empty() {
        let folder = ctx.source_held(manifests.source.as_deref()).await?;
        for file in &manifests.files {
            read_path(&folder, file, &mut all)?;
        }
    }
    if all.is_empty() {
        return Err(bad("the step has no manifests")
            .hint("list objects under manifests, or files of a source under files")
            .into());
    }
    in_order(all).map_err(StepError::from)
}

/// A file is itself; a folder stands for the manifest files directly in it, by name.
fn read_path(source: &Folder, file: &str, all: &mut Vec<Manifest>) -> Result<(), Failure> {
    let path: PathBuf = Path::new(file)
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect();
    let folder = match found(source, &path)? {
        manifest @ Within::File(_) => return read_file(manifest, &path, all),
        Within::Folder(folder) => folder,
    };
    let names = folder
        .names_in()
        .map_err(|error| bad(format!("folder {file} cannot be read")).caused_by(&error))?;
    let mut any = false;
    for name in names.iter().filter(|name| is_manifest(name)) {
        let path = path.join(name);
        // From the source on: a link to another file of it is one of its files.
        if let manifest @ Within::File(_) = found(source, &path)? {
            any = true;
            read_file(manifest, &path, all)?;
        }
    }
    if any {
        Ok(())
    } else {
        Err(bad(format!("folder {file} holds no .yaml, .yml or .json file")))
    }
}

fn is_manifest(name: &OsStr) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

fn found(source: &Folder, path: &Path) -> Result<Within, Failure> {
    source.find(path).map_err(|error| unread(path, error))
}

fn unread(path: &Path, error: ReadError) -> Failure {
    let shown = path.display();
    match error {
        ReadError::Missing => Failure::new("source.noSuchFile", format!("{shown} is not a file of the source")),
        ReadError::Escapes => Failure::new("source.noSuchFile", format!("{shown} leads out of the source"))
            .hint("name a file or folder of the source by its path within it"),
        ReadError::Leaves { link, target } => Failure::new(
            "source.refused",
            format!(
                "{} is a link to {}, out of the source",
                link.display(),
                target.display()
            ),
        )
        .hint("put the file itself into the source; links are followed within it"),
        ReadError::Dangles { link, target } => Failure::new(
            "source.noSuchFile",
            format!(
                "{shown} leads to nothing: {} is a link to {}, and the source has no such file",
                link.display(),
                target.display()
            ),
        )
        .hint("put the file there, or remove the link: nothing of a folder of manifests is left out"),
        ReadError::Special => bad(format!("{shown} is neither a file nor a folder"))
            .hint("remove the socket, pipe or device: nothing of a folder of manifests is left out"),
        ReadError::TooLarge { limit } => bad(format!("{shown} is too large: a manifest file may have {limit} bytes")),
        other => bad(format!("{shown} {other}")),
    }
}

fn read_file(manifest: Within, path: &Path, all: &mut Vec<Manifest>) -> Result<(), Failure> {
    let shown = path.display();
    // A script of an earlier step may have put anything in its place, whose size says nothing.
    let bytes = manifest.bytes(MAX_FILE_BYTES).map_err(|error| unread(path, error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        bad(format!(
            "{shown} is not UTF-8: the byte at {} cannot be read",
            error.utf8_error().valid_up_to()
        ))
    })?;
    let documents = read_documents(&text).map_err(|error| bad(format!("{shown}: {error}")))?;
    for document in documents.into_iter().filter(|document| !document.value.is_null()) {
        collect(format!("{shown}, document {}", document.number), document.value, all)?;
    }
    Ok(())
}

/// Takes an object, or every item of a `List`.
fn collect(origin: String, value: Value, all: &mut Vec<Manifest>) -> Result<(), Failure> {
    let Value::Object(mut object) = value else {
        return Err(bad(format!(
            "{origin} is not an object with apiVersion, kind and metadata"
        )));
    };
    let api_version = text_of(&object, "apiVersion", &origin)?;
    let kind = text_of(&object, "kind", &origin)?;
    if kind.ends_with("List") && object.contains_key("items") {
        let Some(Value::Array(items)) = object.remove("items") else {
            return Err(bad(format!("{origin}: items of {kind} is not a list")));
        };
        return items.into_iter().enumerate().try_for_each(|(index, item)| {
            let item = with_type_of_list(item, &api_version, &kind);
            collect(format!("{origin}, item {index}"), item, all)
        });
    }
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
        return Err(bad(format!("{origin}: {kind} has no metadata")));
    };
    // What a dump from a cluster carries, and no client may write.
    for key in [
        "managedFields",
        "resourceVersion",
        "uid",
        "creationTimestamp",
        "generation",
        "selfLink",
    ] {
        metadata.remove(key);
    }
    if metadata.contains_key("generateName") && !metadata.contains_key("name") {
        return Err(bad(format!(
            "{origin}: {kind} has generateName, so a repeated try would make another object"
        ))
        .hint("give it metadata.name, for example with ${{ task.id }} in it"));
    }
    let name = text_of(metadata, "name", &format!("{origin}: {kind}"))?;
    let namespace = match metadata.get("namespace") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => {
            return Err(bad(format!(
                "{origin}: metadata.namespace of {kind} {name} is not text"
            )));
        }
    };
    for (what, problem) in [
        ("name", object_problem(&name)),
        ("namespace", namespace.as_deref().and_then(namespace_problem)),
    ] {
        if let Some(rule) = problem {
            let summary = format!("{origin}: metadata.{what} of {kind} has characters that no object may have");
            return Err(bad(summary).hint(rule));
        }
    }
    object.remove("status");
    all.push(Manifest {
        origin,
        api_version,
        kind,
        namespace,
        name,
        object,
    });
    Ok(())
}

/// `kind: DeploymentList` lets its items leave out what they are.
fn with_type_of_list(item: Value, api_version: &str, list_kind: &str) -> Value {
    let Value::Object(mut item) = item else { return item };
    let kind = list_kind.trim_end_matches("List");
    if !kind.is_empty() {
        item.entry("apiVersion").or_insert_with(|| api_version.into());
        item.entry("kind").or_insert_with(|| kind.into());
    }
    Value::Object(item)
}

fn text_of(object: &Map<String, Value>, key: &str, origin: &str) -> Result<String, Failure> {
    match object.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::Null | Value::String(_)) | None => Err(bad(format!("{origin} has no {key}"))),
        Some(other) => {
            Err(bad(format!("{origin}: {key} is {other}, not text")).hint("put it in quotes if it is meant as text"))
        }
    }
}

/// Sorts by [`rank`]; what has the same rank stays in the order in which it was written.
fn in_order(mut all: Vec<Manifest>) -> Result<Vec<Manifest>, Failure> {
    all.sort_by_key(|manifest| rank(&manifest.api_version, &manifest.kind));
    Ok(all)
}

/// What must be there before what: namespaces, definitions, rights, configuration, services,
/// workloads, and then everything that refers to them.
pub(crate) fn rank(api_version: &str, kind: &str) -> u8 {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Namespace") => 0,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => 1,
        ("rbac.authorization.k8s.io", _)
        | ("", "ServiceAccount" | "ResourceQuota" | "LimitRange")
        | ("scheduling.k8s.io" | "storage.k8s.io" | "node.k8s.io" | "policy", _)
        | ("networking.k8s.io", "NetworkPolicy" | "IngressClass") => 2,
        ("", "ConfigMap" | "Secret" | "PersistentVolume" | "PersistentVolumeClaim") => 3,
        ("", "Service" | "Endpoints") | ("discovery.k8s.io", _) => 4,
        ("apps" | "batch", _) | ("", "Pod" | "ReplicationController") => 5,
        _ => 6,
    }
}

fn bad(summary: impl Into<String>) -> Failure {
    Failure::new("kubernetes.badManifest", summary)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Vec<Manifest>, Failure> {
        let mut all = Vec::new();
        for document in read_documents(text)
            .expect("yaml")
            .into_iter()
            .filter(|d| !d.value.is_null())
        {
            collect(
                format!("web.yaml, document {}", document.number),
                document.value,
                &mut all,
            )?;
        }
        in_order(all)
    }

    #[test]
    fn objects_come_in_the_order_in_which_the_cluster_needs_them() {
        let kinds = [
            ("autoscaling/v2", "HorizontalPodAutoscaler"),
            ("apps/v1", "Deployment"),
            ("v1", "Service"),
            ("v1", "ConfigMap"),
            ("example.com/v1", "Widget"),
            ("rbac.authorization.k8s.io/v1", "Role"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
            ("v1", "Namespace"),
            ("v1", "ServiceAccount"),
        ];
        let text: String = kinds
            .iter()
            .map(|(v, k)| format!("---\napiVersion: {v}\nkind: {k}\nmetadata: {{name: x}}\n"))
            .collect();
        let order: Vec<_> = read(&text).expect("reads").into_iter().map(|m| m.kind).collect();
        assert_eq!(
            order.join(" "),
            "Namespace CustomResourceDefinition Role ServiceAccount ConfigMap Service Deployment \
             HorizontalPodAutoscaler Widget"
        );
    }

    #[test]
    fn a_list_is_its_items_and_a_dump_loses_what_only_servers_write() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a, namespace: shop, \
                    uid: u, resourceVersion: '3', managedFields: []}\n  status: {}\n";
        let all = read(text).expect("reads");
        assert_eq!(all[0].origin, "web.yaml, document 1, item 0");
        let object = Value::Object(all[0].object.clone());
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "shop"}})
        );
    }

    #[test]
    fn files_of_a_source_are_read_and_nothing_that_a_link_leads_to_outside_of_it() {
        let root = tempfile::tempdir().expect("a folder");
        let source = root.path().join("source");
        std::fs::create_dir_all(source.join("k8s/x.yaml")).expect("made");
        std::fs::create_dir(source.join("base")).expect("made");
        let config = |name: &str| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}");
        std::fs::write(root.path().join("hidden.yaml"), config("hidden")).expect("written");
        std::fs::write(source.join("base/a.yaml"), config("a")).expect("written");
        std::fs::write(source.join("k8s/b.json"), config("b")).expect("written");
        std::fs::write(source.join("k8s/README"), "none").expect("written");
        std::os::unix::fs::symlink("../base/a.yaml", source.join("k8s/a.yaml")).expect("linked");
        let held = Folder::open(&source).expect("a folder");
        let read = |file: &str| {
            let mut all = Vec::new();
            read_path(&held, file, &mut all).map(|()| all)
        };
        let all = read("./k8s/").expect("read");
        let origins: Vec<_> = all.iter().map(|one| (one.origin.as_str(), one.name.as_str())).collect();
        assert_eq!(
            origins,
            [("k8s/a.yaml, document 1", "a"), ("k8s/b.json, document 1", "b")]
        );
        std::os::unix::fs::symlink("../../hidden.yaml", source.join("k8s/c.yaml")).expect("linked");
        let long = std::fs::File::create(source.join("long.yaml")).expect("made");
        long.set_len(MAX_FILE_BYTES + 1).expect("grown");
        for (file, words) in [
            ("k8s", "k8s/c.yaml is a link to ../../hidden.yaml, out of the source"),
            (
                "k8s/c.yaml",
                "k8s/c.yaml is a link to ../../hidden.yaml, out of the source",
            ),
            ("../hidden.yaml", "../hidden.yaml leads out of the source"),
            ("none.yaml", "none.yaml is not a file of the source"),
            (
                "long.yaml",
                "long.yaml is too large: a manifest file may have 8388608 bytes",
            ),
        ] {
            assert_eq!(read(file).expect_err("refused").summary, words);
        }
    }

    #[test]
    fn what_leads_to_nothing_or_is_no_file_fails_a_folder_and_is_told() {
        let root = tempfile::tempdir().expect("a folder");
        let config = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}"#;
        std::fs::write(root.path().join("a.yaml"), config).expect("written");
        let held = Folder::open(root.path()).expect("a folder");
        let odd = root.path().join("odd.yaml");
        let refused = || {
            let failure = read_path(&held, ".", &mut Vec::new()).expect_err("refused");
            std::fs::remove_file(&odd).expect("removed");
            format!("{}: {} ({})", failure.class, failure.summary, failure.hint)
        };
        let mut told = Vec::new();
        std::os::unix::fs::symlink("../base/none.yaml", &odd).expect("linked");
        told.push(refused());
        std::os::unix::fs::symlink("none/none.yaml", &odd).expect("linked");
        told.push(refused());
        std::os::unix::fs::symlink("around", &odd).expect("linked");
        std::os::unix::fs::symlink("none.yaml", root.path().join("around")).expect("linked");
        told.push(refused());
        drop(std::os::unix::net::UnixListener::bind(&odd).expect("a socket"));
        told.push(refused());
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&odd)
                .status()
                .expect("run")
                .success()
        );
        told.push(refused());
        std::fs::create_dir(&odd).expect("made");
        let mut all = Vec::new();
        read_path(&held, ".", &mut all).expect("a folder among them is none of them");
        assert_eq!(all.len(), 1);
        insta::assert_snapshot!(told.join("\n"), @r##"
        source.refused: odd.yaml is a link to ../base/none.yaml, out of the source (put the file itself into the source; links are followed within it)
        source.noSuchFile: odd.yaml leads to nothing: odd.yaml is a link to none/none.yaml, and the source has no such file (put the file there, or remove the link: nothing of a folder of manifests is left out)
        source.noSuchFile: odd.yaml leads to nothing: around is a link to none.yaml, and the source has no such file (put the file there, or remove the link: nothing of a folder of manifests is left out)
        kubernetes.badManifest: odd.yaml is neither a file nor a folder (remove the socket, pipe or device: nothing of a folder of manifests is left out)
        kubernetes.badManifest: odd.yaml is neither a file nor a folder (remove the socket, pipe or device: nothing of a folder of manifests is left out)
        "##);
    }

    #[test]
    fn what_is_not_an_object_with_a_name_is_named_with_its_place() {
        for (text, words) in [
            ("a: 1", "web.yaml, document 1 has no apiVersion"),
            (
                "apiVersion: 1\nkind: X",
                "web.yaml, document 1: apiVersion is 1, not text",
            ),
            (
                "---\n---\napiVersion: v1\nkind: Pod\n",
                "web.yaml, document 2: Pod has no metadata",
            ),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {}\n",
                "web.yaml, document 1: Pod has no name",
            ),
            (
                "- 1",
                "web.yaml, document 1 is not an object with apiVersion, kind and metadata",
            ),
            (
                "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: x-}\n",
                "web.yaml, document 1: Job has generateName, so a repeated try would make another object",
            ),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: ../x}\n",
                "web.yaml, document 1: metadata.name of Pod has characters that no object may have",
            ),
        ] {
            assert_eq!(read(text).expect_err("bad").summary, words);
        }
    }
}
