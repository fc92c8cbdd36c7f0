//! Generated files are what their sources say: they are made again in a temporary folder and compared.

use std::path::Path;

use anyhow::Result;

use super::problem::Problem;

/// Compares everything that `cargo xtask gen` writes.
pub(crate) fn check(root: &Path) -> Result<Vec<Problem>> {
    let fresh = tempfile::tempdir()?;
    crate::r#gen::proto(root, fresh.path())?;
    let mut problems = Vec::new();
    for entry in std::fs::read_dir(fresh.path())? {
        let name = entry?.file_name();
        let committed = Path::new("proto/src/gen").join(&name);
        problems.extend(compare(root, &committed, &std::fs::read(fresh.path().join(&name))?));
    }
    problems.extend(compare(
        root,
        Path::new(crate::r#gen::SCHEMA),
        &crate::r#gen::schema_text(root)?,
    ));
    Ok(problems)
}

fn compare(root: &Path, committed: &Path, fresh: &[u8]) -> Option<Problem> {
    let old = std::fs::read(root.join(committed)).unwrap_or_default();
    if old == fresh {
        return None;
    }
    let differs = old
        .split(|b| *b == b'\n')
        .zip(fresh.split(|b| *b == b'\n'))
        .position(|(old, new)| old != new);
    Some(Problem {
        file: committed.to_owned(),
        line: differs.map_or(0, |index| index + 1),
        what: "is not what its source says".into(),
        mend: "cargo xtask gen, and commit what it writes".into(),
    })
}
