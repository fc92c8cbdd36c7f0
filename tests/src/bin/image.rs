//! `deputy-image`: builds the image of the agent that lies beside this program, shows that it starts without any
//! privilege, and leaves it as an archive. Called by `cargo xtask images`.

use std::io::Write;

use anyhow::{Context, Result};
use deputy_tests::image::{self, Image};
use deputy_tests::programs::Binaries;

fn main() -> Result<()> {
    if let Some(missing) = image::missing() {
        anyhow::bail!("the image cannot be built: {missing}");
    }
    let mut out = std::io::stdout().lock();
    let this = std::env::current_exe().context("the path of this program")?;
    writeln!(out, "building, some minutes at most")?;
    let image = Image::build(&Binaries::as_released()?.agent)?;
    let started = image
        .run("deputy-image-check")
        .args([image::NAME, "--version"])
        .output()?;
    anyhow::ensure!(
        started.status.success(),
        "it does not start: {}",
        String::from_utf8_lossy(&started.stderr)
    );
    let archive = this.with_file_name("deputy-agent-image.tar");
    // An older archive is not added to.
    let _none = std::fs::remove_file(&archive);
    let target = format!("oci-archive:{}", archive.display());
    image.podman(&["push", "--quiet", image::NAME, &target])?;
    let size = archive.metadata()?.len() / (1024 * 1024);
    write!(out, "{}", String::from_utf8_lossy(&started.stdout))?;
    writeln!(
        out,
        "{} ({size} MiB); `podman load --input` takes it",
        archive.display()
    )?;
    Ok(())
}
