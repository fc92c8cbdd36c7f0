//! Checks that no AWS key stands anywhere in a document.

use super::super::source::Span;
use super::super::static_key::{finding, places};
use super::whole::Check;

/// Most that are told.
const MAX_TOLD: usize = 20;

impl Check<'_> {
    /// Looks at every text, whatever it is for: AWS documents, manifests, scripts and defaults too.
    pub(super) fn static_keys(&mut self) {
        let mut found = Vec::new();
        places(self.root, &mut found);
        for place in found.into_iter().take(MAX_TOLD) {
            let at = place
                .within
                .and_then(|text| Some((self.find(place.span, text, place.span.start)?, text)));
            let span = at.map_or(place.span, |(start, text)| Span {
                start,
                end: start + text.len(),
            });
            self.findings.push(finding(span, place.what));
        }
    }
}
