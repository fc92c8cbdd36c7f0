//! `cargo xtask gen`: writes every generated file. `cargo xtask tidy` writes them to a temporary
//! folder instead and compares.

use std::path::Path;

use anyhow::{Context, Result};

/// The protocol files, relative to `proto/`, in reading order.
const PROTO_FILES: [&str; 5] = [
    "deputy/v1/common.proto",
    "deputy/v1/enrollment.proto",
    "deputy/v1/agent.proto",
    "deputy/v1/tasks.proto",
    "deputy/v1/fleet.proto",
];

/// Writes the protocol's Rust code and descriptor set into `out` (normally `proto/src/gen`).
///
/// Messages carry `bytes` fields as `bytes::Bytes`, so that log frames and journal payloads are
/// not copied on their way from the socket to the store.
pub(crate) fn proto(root: &Path, out: &Path) -> Result<()> {
    let include = root.join("proto");
    let descriptors = protox::Compiler::new([&include])
        .and_then(|mut compiler| {
            compiler
                .include_source_info(true)
                .include_imports(true)
                .open_files(PROTO_FILES)?;
            Ok(compiler)
        })
        .context("compiling proto/deputy/v1")?;
    std::fs::create_dir_all(out)?;
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_file_descriptor_set())?;
    let mut config = tonic_prost_build::Config::new();
    config.bytes(["."]);
    tonic_prost_build::configure()
        .out_dir(out)
        .build_client(true)
        .build_server(true)
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(descriptors.file_descriptor_set(), config)
        .context("generating Rust from proto/deputy/v1")?;
    Ok(())
}

/// The committed JSON Schema of the task document.
pub(crate) const SCHEMA: &str = "docs/task.schema.json";

/// Writes the JSON Schema of the task document, as `deputy schema` prints it.
pub(crate) fn schema(root: &Path) -> Result<()> {
    std::fs::write(root.join(SCHEMA), schema_text(root)?).with_context(|| format!("writing {SCHEMA}"))
}

/// What `deputy schema` prints.
pub(crate) fn schema_text(root: &Path) -> Result<Vec<u8>> {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo
        .current_dir(root)
        .args(["run", "--quiet", "-p", "deputy-cli", "--bin", "deputy", "--", "schema"]);
    let output = cargo.output().context("running deputy schema")?;
    anyhow::ensure!(
        output.status.success(),
        "deputy schema: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}
