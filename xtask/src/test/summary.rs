//! Counting: what test programs print, and the closing line.

use std::fmt;

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Summary {
    /// One thing that is not a test program's.
    pub(crate) const fn one(good: bool) -> Self {
        if good {
            Self {
                passed: 1,
                failed: 0,
                skipped: 0,
            }
        } else {
            Self {
                passed: 0,
                failed: 1,
                skipped: 0,
            }
        }
    }

    /// Reads every `test result:` line of a program's output. None if there is none: it crashed.
    pub(crate) fn of_output(output: &str) -> Option<Self> {
        let mut sum = None;
        for line in output.lines().filter_map(|line| line.strip_prefix("test result: ")) {
            let (_, counts) = line.split_once(". ")?;
            let sum = sum.get_or_insert_with(Self::default);
            for count in counts.split("; ") {
                let (number, word) = count.split_once(' ')?;
                let Ok(number) = number.parse::<u64>() else { continue };
                match word {
                    "passed" => sum.passed += number,
                    "failed" => sum.failed += number,
                    "ignored" => sum.skipped += number,
                    _ => {}
                }
            }
        }
        sum
    }

    pub(crate) const fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Tests that returned at once because something is missing had been counted as passed.
    pub(crate) const fn move_to_skipped(&mut self, count: u64) {
        let count = if count > self.passed { self.passed } else { count };
        self.passed -= count;
        self.skipped += count;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_programs_add_up() {
        let output = "running 3 tests\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let summary = Summary::of_output(output).expect("results");
        assert_eq!(
            summary,
            Summary {
                passed: 4,
                failed: 2,
                skipped: 1
            }
        );
        assert_eq!(summary.to_string(), "4 passed, 2 failed, 1 skipped");
        assert_eq!(Summary::of_output("thread panicked"), None);
        assert_eq!(Summary::one(true).to_string(), "1 passed, 0 failed");
    }
}
