//! `deputy validate`: the same reader as the manager's, without a manager.

use deputy_task::document::{self, Diagnostic, Diagnostics};
use serde_json::json;

use super::context::Context;
use crate::args::Validate;
use crate::error::{CliError, Exit};
use crate::render::Colour;
use crate::values::{given, read_file};

pub(crate) fn validate(context: &mut Context, args: Validate) -> Result<Exit, CliError> {
    let inputs = given(&args.values)?;
    let mut reports = Vec::new();
    let mut refused = Vec::new();
    let mut bad = 0;
    for file in &args.files {
        let bytes = read_file(file)?;
        let name = file.display().to_string();
        let outcome: Result<Vec<Diagnostic>, Diagnostics> = match &inputs {
            Some(inputs) => document::read(&name, &bytes, inputs).map(|read| read.warnings),
            None => document::validate(&name, &bytes),
        };
        bad += usize::from(outcome.is_err());
        let ok = outcome.is_ok();
        let diagnostics = outcome.map_or_else(
            |errors| errors,
            |items| Diagnostics {
                source: name.clone(),
                items,
            },
        );
        if context.is_json() {
            reports.push(json!({ "file": name, "ok": ok, "diagnostics": diagnostics.items }));
            if !ok {
                refused.push(diagnostics);
            }
            continue;
        }
        let colour = context.screen.colour;
        if !diagnostics.items.is_empty() {
            context.screen.say(&[
                diagnostics.rendered(colour.paint()).trim_end().to_owned(),
                String::new(),
            ])?;
        }
        context.screen.say(&[verdict(&diagnostics, colour)])?;
    }
    if context.is_json() {
        context
            .screen
            .json(&json!({ "files": reports }), crate::screen::JsonForm::Alone)?;
        if bad > 0 {
            let message = format!("{bad} of {} documents have errors", args.files.len());
            return Err(CliError::bad_documents(message, refused));
        }
    } else if args.files.len() > 1 {
        let all = args.files.len();
        let line = if bad == 0 {
            format!("all {all} documents are good")
        } else {
            format!("{bad} of {all} documents have errors")
        };
        context.screen.say(&[line])?;
    }
    Ok(if bad == 0 { Exit::Succeeded } else { Exit::BadInput })
}

fn verdict(diagnostics: &Diagnostics, colour: Colour) -> String {
    let errors = diagnostics.errors();
    let warnings = diagnostics.items.len() - errors;
    let count = |number: usize, noun: &str| {
        if number == 1 {
            format!("1 {noun}")
        } else {
            format!("{number} {noun}s")
        }
    };
    let source = &diagnostics.source;
    match (errors, warnings) {
        (0, 0) => format!("{} {source}: good", colour.good("✓")),
        (0, warnings) => format!("{} {source}: good, {}", colour.good("✓"), count(warnings, "warning")),
        (errors, 0) => format!("{} {source}: {}", colour.bad("✗"), count(errors, "error")),
        (errors, warnings) => format!(
            "{} {source}: {}, {}",
            colour.bad("✗"),
            count(errors, "error"),
            count(warnings, "warning")
        ),
    }
}
