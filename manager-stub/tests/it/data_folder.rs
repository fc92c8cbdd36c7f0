//! What the manager keeps is its user's alone.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use deputy_manager::dispatcher::timing::Timing;
use deputy_proto::v1;
use sha2::Digest;

use crate::agent::World;

/// Everything below a folder, and the folder.
fn everything(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).expect("read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(everything(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn nobody_else_can_read_what_the_manager_keeps() {
    let mut world = World::start(Timing::default()).await;
    let data = world.folder.path().to_owned();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).expect("opened");
    world.restart().await;
    world.submit("").await;
    let bundle = v1::PutBundleRequest {
        sha256: hex::encode(sha2::Sha256::digest(b"packed")),
        data: "packed".into(),
        ..v1::PutBundleRequest::default()
    };
    let mut tasks = world.tasks().await;
    tasks.put_bundle(futures::stream::iter([bundle])).await.expect("stored");
    let kept = everything(&data);
    for name in [
        "deputy.db",
        "deputy.db-wal",
        "deputy.lock",
        "segment-0000000001.log",
        "default",
    ] {
        assert!(kept.iter().any(|path| path.ends_with(name)), "no {name} in {kept:?}");
    }
    for path in kept {
        let mode = path.metadata().expect("metadata").permissions().mode() & 0o7777;
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{} is {mode:o}", path.display());
    }
}
