//! Values for `spec.inputs` and labels from the command line and from a file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use deputy_dial::proxy::ProxyRule;
use deputy_task::document::source::MAX_DOCUMENT_BYTES;
use deputy_task::document::{Inputs, read_values};
use serde_json::Value;

use crate::args::InputValues;
use crate::error::CliError;

/// What was given; nothing if neither option was used.
pub(crate) fn given(values: &InputValues) -> Result<Option<Inputs>, CliError> {
    if values.input.is_empty() && values.inputs.is_none() {
        return Ok(None);
    }
    let mut all = match &values.inputs {
        Some(file) => {
            let bytes = read_file(file)?;
            read_values(&file.display().to_string(), &bytes)
                .map_err(|errors| CliError::bad_documents("the file of input values has errors", vec![errors]))?
        }
        None => Inputs::new(),
    };
    for text in &values.input {
        let (name, value) = pair(text, "--input")?;
        all.insert(name.to_owned(), Value::String(value.to_owned()));
    }
    Ok(Some(all))
}

/// `name=value`
pub(crate) fn pair<'a>(text: &'a str, option: &str) -> Result<(&'a str, &'a str), CliError> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| {
            CliError::bad_input(format!("`{option} {text}` has no `=`"))
                .hint(format!("write it as {option} name=value"))
        })
}

/// The bytes of a file, or of standard input for `-`. A document of more than a mebibyte is
/// refused by its reader, so no more than that and one byte are read: a pipe or a device may have no end.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed =
        |error: std::io::Error| CliError::bad_input(format!("cannot read {}", path.display())).caused_by(&error);
    let limit = u64::try_from(MAX_DOCUMENT_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    }
    .map_err(failed)?;
    Ok(bytes)
}
/// HTTPS_PROXY and NO_PROXY.
pub(crate) fn proxy_of_environment() -> Result<ProxyRule, CliError> {
    ProxyRule::of(&|name| std::env::var(name).ok())
        .map_err(|error| CliError::bad_input("HTTPS_PROXY cannot be used").caused_by(&error))
}
