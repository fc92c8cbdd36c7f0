//! Names in a Kubernetes cluster, by Kubernetes' own rules: what else stands in a path of its API would lead to
//! another object than the policy was asked about.

/// Most characters of a label and of a subdomain (RFC 1123).
const MAX_LABEL: usize = 63;
const MAX_SUBDOMAIN: usize = 253;

/// What is wrong with the name of a namespace: it is a label of RFC 1123.
#[must_use]
pub fn namespace_problem(name: &str) -> Option<&'static str> {
    (name.len() > MAX_LABEL || !is_label(name))
        .then_some("at most 63 small letters, digits and `-`, with a letter or digit at both ends")
}

/// What is wrong with the name of a Secret: it is a subdomain of RFC 1123.
#[must_use]
pub fn secret_problem(name: &str) -> Option<&'static str> {
    (name.len() > MAX_SUBDOMAIN || !name.split('.').all(is_label)).then_some(
        "at most 253 small letters, digits, `-` and `.`, with a letter or digit at both ends and beside each `.`",
    )
}

/// What is wrong with the name of any object: some kinds allow more than others, none more than one part of a path.
#[must_use]
pub fn object_problem(name: &str) -> Option<&'static str> {
    let bad = |c: char| !c.is_ascii_graphic() || "/%?#\\".contains(c);
    (name.is_empty() || name.len() > MAX_SUBDOMAIN || matches!(name, "." | "..") || name.contains(bad))
        .then_some("at most 253 visible characters without `/`, `%`, `?`, `#` and `\\`, and not `.` or `..`")
}

fn is_label(text: &str) -> bool {
    let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_end) && text.ends_with(is_end) && text.chars().all(|c| is_end(c) || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_kubernetes_takes_are_names() {
        let long = "a".repeat(64);
        for name in ["shop", "kube-system", "0", "a--b"] {
            assert_eq!(
                (namespace_problem(name), secret_problem(name), object_problem(name)),
                (None, None, None)
            );
        }
        assert_eq!(secret_problem("sh.helm.release.v1.web.v1"), None);
        assert_eq!(secret_problem(&long), None);
        assert_eq!(object_problem("system:node-proxier"), None);
        for name in [
            "",
            ".",
            "..",
            "kube-system/secrets/admin?",
            "a/b",
            "a%2Fb",
            "a?b",
            "a#b",
            "a b",
            "a\\b",
            "a\n",
            "ä",
        ] {
            assert!(
                namespace_problem(name).is_some() && secret_problem(name).is_some(),
                "{name}"
            );
            assert!(object_problem(name).is_some(), "{name}");
        }
        for name in ["Shop", "-a", "a-", "a_b", "a.b", &long] {
            assert!(namespace_problem(name).is_some(), "{name}");
        }
        for name in [".a", "a.", "a..b", "a.-b", "A"] {
            assert!(secret_problem(name).is_some(), "{name}");
        }
    }
}
