//! Values for `spec.inputs` and labels from the command line and from a file.

use std::path::Path;

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
/// refused by its reader, so no more than that and one byte are read from standard input.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed =
        |error: std::io::Error| CliError::bad_input(format!("cannot read {}", path.display())).caused_by(&error);
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        let limit = u64::try_from(deputy_task::document::source::MAX_DOCUMENT_BYTES).unwrap_or(u64::MAX);
        std::io::Read::read_to_end(&mut std::io::Read::take(std::io::stdin().lock(), limit + 1), &mut bytes)
            .map_err(failed)?;
        return Ok(bytes);
    }
    std::fs::read(path).map_err(failed)
}
