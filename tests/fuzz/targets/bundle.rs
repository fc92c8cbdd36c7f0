//! A bundle from a stranger: whatever it says, nothing is written outside its folder, and no link into it.
//!
//! The first byte says whether the rest is the packed file or the archive inside it.
#![no_main]

use std::fs;
use std::path::Path;

use deputy_executor::BundleLimits;
use deputy_executor::fuzzing::unpack;
use libfuzzer_sys::fuzz_target;

const LIMITS: BundleLimits = BundleLimits {
    unpacked_bytes: 1 << 20,
    ratio: 50,
    entries: 64,
};

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
    let Some((&form, rest)) = input.split_first() else { return };
    let packed = if form % 2 == 0 {
        rest.to_vec()
    } else {
        zstd::encode_all(rest, 1).expect("zstd packs anything")
    };
    let outside = tempfile::tempdir().expect("a folder");
    let folder = outside.path().join("in").join("side");
    fs::create_dir(outside.path().join("in")).expect("a folder");
    drop(unpack(&packed, outside.path(), &folder, LIMITS));
    for (place, wanted) in [(outside.path().to_owned(), ["in", "packed"].as_slice()), (outside.path().join("in"), &["side"])] {
        for entry in fs::read_dir(place).expect("a folder that can be listed") {
            let name = entry.expect("an entry").file_name();
            assert!(wanted.iter().any(|wanted| name == **wanted), "{name:?} was written outside");
        }
    }
    if folder.exists() {
        assert!(plain_bytes(&folder) <= LIMITS.unpacked_bytes);
    }
});
