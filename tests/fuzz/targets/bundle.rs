//! A bundle from a stranger: whatever it says, nothing is written outside its folder, and no link into it.
//!
//! The first byte says whether the rest is the packed file or the archive inside it.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};

use deputy_bundle::{BundleLimits, unpack};
use deputy_task::message::BlobRef;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

const LIMITS: BundleLimits = BundleLimits {
    unpacked_bytes: 1 << 20,
    ratio: 50,
    entries: 64,
};

/// Where files cost no disk, if there is such a place.
fn memory() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

/// Everything under it is a file or a folder; how many bytes the files have.
fn plain_bytes(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(folder).expect("a folder that can be listed") {
        let path = entry.expect("an entry").path();
        let kind = fs::symlink_metadata(&path).expect("its kind");
        if kind.is_dir() {
            sum += plain_bytes(&path);
        } else {
            assert!(kind.is_file(), "{} is no file", path.display());
            sum += kind.len();
        }
    }
    sum
}

fuzz_target!(|input: &[u8]| {
    let Some((&form, rest)) = input.split_first() else {
        return;
    };
    let packed = if form % 2 == 0 {
        rest.to_vec()
    } else {
        zstd::encode_all(rest, 1).expect("zstd packs anything")
    };
    let outside = tempfile::tempdir_in(memory()).expect("a folder");
    let folder = outside.path().join("in").join("side");
    fs::create_dir(outside.path().join("in")).expect("a folder");
    let blob = BlobRef {
        sha256: hex::encode(Sha256::digest(&packed)),
        size_bytes: u64::try_from(packed.len()).expect("small"),
    };
    let file = outside.path().join("packed");
    fs::write(&file, &packed).expect("written");
    drop(unpack(&file, &blob, &folder, LIMITS));
    for (place, wanted) in [
        (outside.path().to_owned(), ["in", "packed"].as_slice()),
        (outside.path().join("in"), &["side"]),
    ] {
        for entry in fs::read_dir(place).expect("a folder that can be listed") {
            let name = entry.expect("an entry").file_name();
            assert!(
                wanted.iter().any(|wanted| name == **wanted),
                "{name:?} was written outside"
            );
        }
    }
    if folder.exists() {
        assert!(plain_bytes(&folder) <= LIMITS.unpacked_bytes);
    }
});
