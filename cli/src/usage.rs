//! A command line that is wrong, for programs: what clap says to people, as an error like any other.

use std::ffi::OsString;

use clap::error::ErrorKind;

use crate::error::{Class, CliError};

/// Is JSON wanted? Asked of arguments that could not be parsed, so it takes every form of the option.
pub(crate) fn wants_json(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let mut awaited = false;
    let mut json = false;
    for argument in arguments.into_iter().skip(1) {
        let argument = argument.to_string_lossy();
        if std::mem::take(&mut awaited) {
            json = argument == "json";
            continue;
        }
        if argument == "--" {
            break;
        }
        match argument.strip_prefix("--output") {
            Some("") => awaited = true,
            Some(value) if value.starts_with('=') => json = value == "=json",
            Some(_) => {}
            // Short options may be written together; `o` takes what follows it.
            None => {
                let short = argument.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
                if let Some((_, value)) = short.and_then(|options| options.split_once('o')) {
                    match value.strip_prefix('=').unwrap_or(value) {
                        "" => awaited = true,
                        value => json = value == "json",
                    }
                }
            }
        }
    }
    json
}

/// The same words in parts.
pub(crate) fn explain(error: &clap::Error) -> CliError {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return CliError::bad_input("a command is missing")
            .class(Class::Usage)
            .hint("see `deputy --help`");
    }
    let text = error.render().to_string();
    let mut message: Vec<&str> = Vec::new();
    let mut tips: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        match line.strip_prefix("tip: ") {
            Some(tip) => tips.push(tip),
            None => message.push(line.strip_prefix("error: ").unwrap_or(line)),
        }
    }
    let hint = if tips.is_empty() {
        "see --help of the command".to_owned()
    } else {
        tips.join("; ")
    };
    CliError::bad_input(message.join(" ")).class(Class::Usage).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_wanted_however_the_option_is_written() {
        for (line, wanted) in [
            ("deputy lst -o json", true),
            ("deputy -ojson lst", true),
            ("deputy -o=json lst", true),
            ("deputy submit x -fo json", true),
            ("deputy lst --output json", true),
            ("deputy lst --output=json", true),
            ("deputy lst --output json -o text", false),
            ("deputy lst -o", false),
            ("deputy lst --manager json", false),
            ("deputy lst -- -o json", false),
            ("deputy lst", false),
        ] {
            let arguments = line.split(' ').map(OsString::from);
            assert_eq!(wants_json(arguments), wanted, "{line}");
        }
    }
}
