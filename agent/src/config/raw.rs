//! Configuration as it was found: texts, each with its source. Nothing is checked here except the
//! form of the file, and nothing is read from anywhere but the arguments of [`RawConfig::collect`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::key::{ALLOW_ALL, KEYS, Key, LABELS};

/// Where a value was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Flag(String),
    Env(String),
    File { path: PathBuf, line: usize },
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Env(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A text and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawValue {
    pub(crate) text: String,
    pub(crate) source: Source,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub(crate) struct Mistake {
    /// Where; for a missing key, which.
    pub(crate) place: String,
    /// What is wrong, and what would be right.
    pub(crate) problem: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct RawConfig {
    values: BTreeMap<&'static str, RawValue>,
    /// Mistakes in the form of the file.
    pub(crate) mistakes: Vec<Mistake>,
}

/// The configuration file, read.
#[derive(Debug)]
pub(crate) struct File<'a> {
    pub(crate) path: &'a Path,
    pub(crate) text: &'a str,
}

impl RawConfig {
    /// Flags win over the environment, which wins over the file, which wins over the defaults.
    pub(crate) fn collect(
        flags: &dyn Fn(&Key) -> Option<String>,
        env: &dyn Fn(&str) -> Option<String>,
        file: Option<&File<'_>>,
    ) -> Self {
        let mut raw = Self::default();
        for key in KEYS {
            if let Some(text) = key.default {
                raw.values.insert(
                    key.name,
                    RawValue {
                        text: text.into(),
                        source: Source::Default,
                    },
                );
            }
        }
        if let Some(file) = file {
            raw.read_file(file);
        }
        for key in KEYS {
            let name = key.env();
            // An empty variable is how container platforms say "not set".
            if let Some(text) = env(&name).filter(|text| !text.is_empty()) {
                raw.values.insert(
                    key.name,
                    RawValue {
                        text,
                        source: Source::Env(name),
                    },
                );
            }
            if let Some(text) = flags(key) {
                raw.values.insert(
                    key.name,
                    RawValue {
                        text,
                        source: Source::Flag(key.flag()),
                    },
                );
            }
        }
        raw
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&RawValue> {
        self.values.get(key.name)
    }

    fn read_file(&mut self, file: &File<'_>) {
        let line = |offset: usize| file.text[..offset.min(file.text.len())].matches('\n').count() + 1;
        let at = |offset| format!("{}:{}", file.path.display(), line(offset));
        let table = match DeTable::parse(file.text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let place = at(error.span().map_or(0, |span| span.start));
                self.mistakes.push(Mistake {
                    place,
                    problem: error.message().to_owned(),
                });
                return;
            }
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let start = name.span().start;
            let Some(key) = KEYS.iter().find(|key| key.name == name.get_ref().as_ref()) else {
                self.mistakes.push(Mistake {
                    place: at(start),
                    problem: unknown(name.get_ref()),
                });
                continue;
            };
            match text_of(key, value.get_ref()) {
                Ok(text) => {
                    let source = Source::File {
                        path: file.path.into(),
                        line: line(start),
                    };
                    self.values.insert(key.name, RawValue { text, source });
                }
                Err(problem) => self.mistakes.push(Mistake {
                    place: at(start),
                    problem,
                }),
            }
        }
    }
}

fn unknown(name: &str) -> String {
    let near = KEYS
        .iter()
        .map(|key| (strsim::osa_distance(name, key.name), key.name))
        .min();
    match near {
        Some((distance, meant)) if distance <= 3 => format!("unknown key `{name}`; `{meant}` was probably meant"),
        _ => format!("unknown key `{name}`"),
    }
}

fn text_of(key: &Key, value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(value) if *key == ALLOW_ALL => Ok(value.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Table(labels) if *key == LABELS => labels
            .iter()
            .map(|(name, value)| match value.get_ref() {
                DeValue::String(text) => Ok(format!("{}={text}", name.get_ref())),
                _ => Err(format!("the label `{}` must be a string", name.get_ref())),
            })
            .collect::<Result<Vec<_>, _>>()
            .map(|labels| labels.join(",")),
        _ if *key == LABELS => Err("`labels` must be a table of strings".into()),
        _ => Err(format!("`{}` must be a string or a whole number", key.name)),
    }
}
