//! What was found, shown as it is found: lines for people, one JSON object for programs.

use std::io::Write;

use deputy_task::outcome::Failure;
use serde::Serialize;

use crate::form::Form;

/// What a finding means for the agent's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    /// As it should be.
    Good,
    /// It works, with what is said.
    Warning,
    /// The agent, or what was asked about, cannot work like this.
    Bad,
    /// Not looked at, or not there and not needed.
    Skipped,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    /// The group it is shown in, for example `machine`.
    pub(crate) area: &'static str,
    /// What was looked at, for example `open files` or a role's ARN.
    pub(crate) check: String,
    /// What it means.
    pub(crate) verdict: Verdict,
    /// What was seen.
    pub(crate) summary: String,
    /// What to do; empty if nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) hint: String,
    /// Somebody else's own words; empty if there are none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
}

impl Finding {
    pub(crate) fn new(area: &'static str, check: &str, verdict: Verdict, summary: impl Into<String>) -> Self {
        Self {
            area,
            check: check.to_owned(),
            verdict,
            summary: summary.into(),
            hint: String::new(),
            detail: String::new(),
        }
    }

    pub(crate) fn good(area: &'static str, check: &str, summary: impl Into<String>) -> Self {
        Self::new(area, check, Verdict::Good, summary)
    }

    pub(crate) fn skipped(area: &'static str, check: &str, summary: impl Into<String>) -> Self {
        Self::new(area, check, Verdict::Skipped, summary)
    }

    /// What cannot work, as a task would report it.
    pub(crate) fn failed(area: &'static str, check: &str, failure: Failure) -> Self {
        Self {
            hint: failure.hint,
            detail: failure.detail,
            ..Self::new(area, check, Verdict::Bad, failure.summary)
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// All findings of one examination.
pub(crate) struct Report {
    form: Form,
    findings: Vec<Finding>,
}

/// The whole report for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole<'a> {
    can_work: bool,
    version: &'static str,
    findings: &'a [Finding],
}

impl Report {
    pub(crate) fn new(form: Form) -> Self {
        Self {
            form,
            findings: Vec::new(),
        }
    }

    /// Takes a finding; people see it at once.
    pub(crate) fn add(&mut self, finding: Finding) {
        if self.form == Form::Text {
            let before = self.findings.last().map(|last| last.area);
            say(&lines(&finding, before));
        }
        self.findings.push(finding);
    }

    pub(crate) fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.add(finding));
    }

    /// Nothing bad was found.
    pub(crate) fn can_work(&self) -> bool {
        !self.findings.iter().any(|finding| finding.verdict == Verdict::Bad)
    }

    /// The last word.
    pub(crate) fn close(&self) {
        match self.form {
            Form::Text => say(&closing(&self.findings)),
            Form::Json => {
                let whole = Whole {
                    can_work: self.can_work(),
                    version: env!("CARGO_PKG_VERSION"),
                    findings: &self.findings,
                };
                // Strings, booleans and nothing else: this cannot fail.
                say(&(serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"));
            }
        }
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to tell if standard output is closed; the exit code says the same.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// The lines of a finding, with a heading where the one before was of another area.
fn lines(finding: &Finding, before: Option<&str>) -> String {
    let mark = match finding.verdict {
        Verdict::Good => "✓",
        Verdict::Warning => "!",
        Verdict::Bad => "✗",
        Verdict::Skipped => "–",
    };
    let mut text = String::new();
    if before != Some(finding.area) {
        text.push_str(&format!("{}\n", finding.area));
    }
    text.push_str(&format!("  {mark} {:<22} {}\n", finding.check, finding.summary));
    for detail in finding.detail.lines() {
        text.push_str(&format!("      {detail}\n"));
    }
    if !finding.hint.is_empty() {
        text.push_str(&format!("    → {}\n", finding.hint));
    }
    text
}

fn closing(findings: &[Finding]) -> String {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (bad, warnings) = (count(Verdict::Bad), count(Verdict::Warning));
    let said = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    match (bad, warnings) {
        (0, 0) => "\nthis agent can work\n".into(),
        (0, _) => format!("\nthis agent can work, with {}\n", said(warnings, "warning")),
        (_, 0) => format!("\nthis agent cannot work: {}\n", said(bad, "problem")),
        _ => format!(
            "\nthis agent cannot work: {}, {}\n",
            said(bad, "problem"),
            said(warnings, "warning")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_as_a_list_with_what_to_do() {
        let mut failure =
            Failure::new("eks.unreachable", "cluster prod does not answer").hint("open the way to port 443");
        failure.detail = "connection refused".into();
        let findings = [
            Finding::good("machine", "open files", "up to 65536"),
            Finding::new("machine", "memory", Verdict::Warning, "96 MiB").hint("give it more"),
            Finding::skipped("clusters", "none named", "give --cluster NAME to look at one"),
            Finding::failed("clusters", "prod", failure),
        ];
        let before = std::iter::once(None).chain(findings.iter().map(|finding| Some(finding.area)));
        let text: String = findings
            .iter()
            .zip(before)
            .map(|(finding, before)| lines(finding, before))
            .collect();
        insta::assert_snapshot!(text + &closing(&findings), @r"
        machine
          ✓ open files             up to 65536
          ! memory                 96 MiB
            → give it more
        clusters
          – none named             give --cluster NAME to look at one
          ✗ prod                   cluster prod does not answer
              connection refused
            → open the way to port 443

        this agent cannot work: 1 problem, 1 warning
        ");
    }

    #[test]
    fn only_what_is_bad_stops_an_agent() {
        let mut report = Report::new(Form::Json);
        report.add(Finding::new("machine", "memory", Verdict::Warning, "little"));
        report.add(Finding::skipped("roles", "none", ""));
        assert!(report.can_work());
        report.add(Finding::new("machine", "work folder", Verdict::Bad, "not writable"));
        assert!(!report.can_work());
        assert_eq!(closing(&[]), "\nthis agent can work\n");
    }
}
