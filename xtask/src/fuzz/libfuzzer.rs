//! What libFuzzer prints: a line now and then, and how it ended.

/// How far a run is, as its newest line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) executions: u64,
    /// Edges of the program that were taken.
    pub(crate) edges: u64,
    /// Those, told apart by how often.
    pub(crate) features: u64,
    /// Inputs kept, and their size, for example `1827/450Kb`.
    pub(crate) corpus: String,
}

impl Reached {
    /// Takes in a line such as `#1024 pulse cov: 10 ft: 12 corp: 3/40b lim: 4 exec/s: 512 rss: 30Mb`; others say nothing.
    pub(crate) fn take(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let Some(executions) = words.next().and_then(|word| word.strip_prefix('#')?.parse().ok()) else {
            return;
        };
        self.executions = executions;
        while let Some(word) = words.next() {
            match word {
                "cov:" => self.edges = number(words.next()).unwrap_or(self.edges),
                "ft:" => self.features = number(words.next()).unwrap_or(self.features),
                "corp:" => words.next().unwrap_or_default().clone_into(&mut self.corpus),
                _ => {}
            }
        }
    }
}

fn number(word: Option<&str>) -> Option<u64> {
    word?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_line_counts_and_others_say_nothing() {
        let mut reached = Reached::default();
        for line in [
            "INFO: Seed: 1",
            "#2\tINITED cov: 5 ft: 5 corp: 1/1b exec/s: 0 rss: 28Mb",
            "#14211544\tDONE   cov: 1851 ft: 5262 corp: 1827/450Kb lim: 16384 exec/s: 278657 rss: 31Mb",
            "stat::number_of_executed_units: 14211544",
            "#0x5555 in main",
        ] {
            reached.take(line);
        }
        let expected = Reached {
            executions: 14_211_544,
            edges: 1851,
            features: 5262,
            corpus: "1827/450Kb".into(),
        };
        assert_eq!(reached, expected);
    }
}
