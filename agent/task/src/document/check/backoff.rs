//! Checks of `spec.aws.backoff`: one strategy, and numbers that can be waited for.

use std::ops::RangeInclusive;

use super::super::backoff::{MAX_DELAY_MS, MAX_RETRIES};
use super::super::source::Finding;
use super::super::tree::{Data, Node};
use super::whole::Check;

const STRATEGIES: [&str; 3] = ["fixedDelay", "equalJitter", "fullJitter"];

impl Check<'_> {
    pub(super) fn backoff(&mut self, backoff: &Node) {
        if !matches!(backoff.data, Data::Map(_)) {
            return;
        }
        let given: Vec<_> = backoff
            .entries()
            .iter()
            .filter(|entry| STRATEGIES.contains(&entry.key.as_str()))
            .collect();
        match given.as_slice() {
            [] if backoff.entries().is_empty() => self
                .findings
                .push(Finding::error(backoff.label(), "`backoff` names no strategy").hint(one_of())),
            [] | [_] => {}
            [first, rest @ ..] => {
                for more in rest {
                    let message = format!("`backoff` has one strategy, and this one has `{}` already", first.key);
                    self.findings
                        .push(Finding::error(more.key_span, message).hint(one_of()));
                }
            }
        }
        for strategy in given {
            self.delays(&strategy.value);
        }
    }

    fn delays(&mut self, delays: &Node) {
        let base = self.number(delays.get("baseDelayMs"), "baseDelayMs", 1..=MAX_DELAY_MS);
        let longest = self.number(delays.get("maxDelayMs"), "maxDelayMs", 1..=MAX_DELAY_MS);
        self.number(delays.get("maxRetries"), "maxRetries", 0..=u64::from(MAX_RETRIES));
        if let (Some(base), Some(longest), Some(node)) = (base, longest, delays.get("maxDelayMs"))
            && longest < base
        {
            let message = format!("`maxDelayMs` is {longest}, less than `baseDelayMs`, which is {base}");
            self.findings.push(
                Finding::error(node.span, message)
                    .hint("no wait is longer than maxDelayMs: make it at least baseDelayMs"),
            );
        }
    }

    /// A whole number within bounds; what is no number at all has been reported by its type.
    fn number(&mut self, node: Option<&Node>, key: &str, within: RangeInclusive<u64>) -> Option<u64> {
        let node = node?;
        let Data::Number(written) = &node.data else { return None };
        match written.as_u64() {
            Some(number) if within.contains(&number) => Some(number),
            Some(_) | None => {
                let message = format!("`{key}` cannot be {written}");
                let unit = if key.ends_with("Ms") { " ms" } else { "" };
                let hint = format!("a whole number from {} to {}{unit}", within.start(), within.end());
                self.findings.push(Finding::error(node.span, message).hint(hint));
                None
            }
        }
    }
}

fn one_of() -> String {
    format!("exactly one of: {}", STRATEGIES.join(", "))
}
