//! Takes the values out of a sentence of Kubernetes: what follows `Invalid value:` and its kin
//! (`k8s.io/apimachinery/pkg/util/validation/field`), objects in Go's and JSON's notation, and texts in quotes that
//! name nothing. Called by `echo`. What has no end is cut: nothing that may be a value is passed on.

use std::collections::BTreeSet;

use super::vocabulary::{VIOLATES, is_of_pod_security};

const MASK: &str = "***";

/// After these stands a value, and after it, behind `: `, what is wrong with it.
const BEFORE_VALUES: [&str; 7] = [
    "Invalid value: ",
    "Unsupported value: ",
    "Duplicate value: ",
    "Not found: ",
    "Too many: ",
    "Too few: ",
    "Too long: ",
];

/// A decoder shows what it was given from here on.
const EXCERPT: &str = ", error found in ";

/// After these words a text in quotes is a name.
const BEFORE_NAMES: [&str; 42] = [
    "User",
    "user",
    "resource",
    "resources",
    "group",
    "subresource",
    "namespace",
    "namespaces",
    "kind",
    "version",
    "field",
    "webhook",
    "policy",
    "ValidatingAdmissionPolicy",
    "MutatingAdmissionPolicy",
    "binding",
    "PodSecurity",
    "with",
    "container",
    "containers",
    "pod",
    "pods",
    "secret",
    "configmap",
    "serviceaccount",
    "account",
    "image",
    "reference",
    "volume",
    "volumes",
    "key",
    "node",
    "role",
    "clusterrole",
    "claim",
    "persistentvolumeclaim",
    "storageclass.storage.k8s.io",
    "storageclass",
    "ReplicaSet",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
];

/// Before these words too.
const AFTER_NAMES: [&str; 6] = [
    " is forbidden",
    " is invalid",
    " not found",
    " already exists",
    " is already in use",
    ": the object has been modified",
];

/// After these a text in quotes is an address that was called.
const BEFORE_ADDRESSES: [&str; 3] = ["Get", "Head", "Post"];

/// A node's taint follows.
const BEFORE_TAINT: &str = "untolerated taint ";

/// After these words of Gatekeeper's library stands what a rule asks for and the object has not.
const BEFORE_DEMANDS: [&str; 3] = [
    "ou must provide labels: ",
    "ou must provide annotation(s): ",
    "allowed repos are ",
];

/// The Pod Security Standards name several of these, each in quotes.
const BEFORE_LISTS: [&str; 2] = ["containers", "volumes"];

/// The possible values of a field follow, each in quotes.
const POSSIBLE: &str = "supported values: ";

/// The same sentence with `***` for every value that is not in `own`.
pub(super) fn without_values(text: &str, own: &BTreeSet<String>) -> String {
    let mut reading = Reading {
        out: String::with_capacity(text.len()),
        rest: text,
        own,
        possible: false,
        names: false,
        pod_security: false,
    };
    while !reading.rest.is_empty() {
        reading.next();
    }
    reading.out
}

struct Reading<'a> {
    out: String,
    rest: &'a str,
    own: &'a BTreeSet<String>,
    /// Is this within a list of possible values?
    possible: bool,
    /// Is this within a list of names?
    names: bool,
    /// Is this what the Pod Security Standards say?
    pod_security: bool,
}

impl<'a> Reading<'a> {
    fn next(&mut self) {
        if self.rest.starts_with(EXCERPT) {
            return self.cut();
        }
        if let Some(before) = BEFORE_VALUES.iter().find(|before| self.rest.starts_with(**before)) {
            self.copy(before.len());
            return self.value();
        }
        if self.rest.starts_with(POSSIBLE) {
            self.possible = true;
            return self.copy(POSSIBLE.len());
        }
        if self.rest.starts_with(VIOLATES) {
            self.pod_security = true;
        }
        if (self.possible || self.names) && self.rest.starts_with(", \"") {
            return self.copy(2);
        }
        self.possible &= self.rest.starts_with('"');
        self.names &= self.rest.starts_with('"');
        match self.rest.chars().next() {
            Some('"') => self.quoted(),
            Some('{') if self.out.ends_with(BEFORE_TAINT) => self.taint(),
            Some('{') => self.composite(),
            Some('[') if self.begins_a_list() => self.composite(),
            Some('m') if self.rest.starts_with("map[") => self.value(),
            Some(other) => self.copy(other.len_utf8()),
            None => {}
        }
    }

    fn copy(&mut self, bytes: usize) {
        let (copied, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.out.push_str(copied);
        self.rest = rest;
    }

    /// Nobody knows where the value ends.
    fn cut(&mut self) {
        self.out.push_str(MASK);
        self.rest = "";
    }

    fn mask(&mut self, rest: &'a str) {
        self.out.push_str(MASK);
        self.rest = rest;
    }

    /// What stands where a value is said to stand.
    fn value(&mut self) {
        if self.rest.starts_with('"') {
            return self.quoted();
        }
        let ends = self.rest.find(|c: char| !is_of_a_type(c)).unwrap_or(self.rest.len());
        let (kind, after) = self.rest.split_at_checked(ends).unwrap_or((self.rest, ""));
        if after.starts_with('{') && kind.contains(|c: char| c.is_ascii_alphanumeric()) {
            self.rest = after;
        }
        if self.rest.starts_with(['{', '[']) {
            return self.composite();
        }
        if self.rest.starts_with("map[") {
            return self.cut();
        }
        let ends = self.rest.find([':', ',', ']', ' ']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(ends).unwrap_or((self.rest, ""));
        let is_number = word.parse::<f64>().is_ok() || matches!(word, "true" | "false" | "null");
        let is_whole = rest.is_empty() || rest.starts_with(": ") || rest.starts_with(", ") || rest.starts_with(']');
        if is_whole && (self.own.contains(word) || word == MASK) {
            return self.copy(ends);
        }
        if is_whole && is_number {
            return self.mask(rest);
        }
        // A text without quotes may have anything in it: what is wrong with it stands last.
        let last = self.rest.rfind(": ").and_then(|at| self.rest.get(at..));
        self.mask(last.unwrap_or_default());
    }

    /// `{KEY: VALUE}` as the scheduler writes it: without quotes, but neither may have a bracket in it.
    fn taint(&mut self) {
        let inside = self.rest.get(1..).and_then(|rest| rest.split_once('}'));
        let Some((taint, rest)) = inside.filter(|(taint, _)| taint.chars().all(|c| !"\"{[\\".contains(c))) else {
            return self.composite();
        };
        let (key, value) = taint.split_once(": ").unwrap_or((taint, ""));
        self.out.push('{');
        self.out.push_str(key);
        self.out.push_str(if value.is_empty() { ":" } else { ": ***" });
        self.out.push('}');
        self.rest = rest;
    }

    /// A text in quotes.
    fn quoted(&mut self) {
        let Some(length) = quoted_length(self.rest) else {
            return self.cut();
        };
        let (text, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        let content = text.get(1..length - 1).unwrap_or_default();
        let unescaped = unescaped(content);
        let is_name = (self.names && is_name_of_list(content)) || self.is_name(content, rest);
        self.names = is_name && self.pod_security && (self.names || self.begins_names());
        if self.possible || self.is_known(&unescaped) || is_name {
            return self.copy(length);
        }
        self.out.push('"');
        self.mask(rest);
        self.out.push('"');
    }

    /// Is it the task's own, or does everybody know it?
    fn is_known(&self, text: &str) -> bool {
        self.own.contains(text) || (self.pod_security && is_of_pod_security(text))
    }

    /// Does a name follow that others may follow?
    fn begins_names(&self) -> bool {
        let word = self.out.trim_end_matches(' ').rsplit([' ', '(']).next();
        word.is_some_and(|word| BEFORE_LISTS.contains(&word))
    }

    /// Does what stands around it say that a text in quotes is a name?
    fn is_name(&self, content: &str, rest: &str) -> bool {
        let before = self.out.trim_end_matches(' ');
        let has_space = before.len() < self.out.len();
        let word = before.rsplit([' ', '(', ':', '\n']).next().unwrap_or_default();
        // The key of an element of a list: `containers[name="app"]`.
        let is_key = self.out.ends_with('=') && word.contains('[') && rest.starts_with(']');
        let is_address = BEFORE_ADDRESSES.contains(&word)
            && !content.contains('@')
            && content
                .split_once('?')
                .is_none_or(|(_, query)| query.starts_with("timeout="));
        // A runtime names the program that it does not find; what is no path may be a whole command.
        let is_of_a_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        let is_program = before.ends_with("exec:") && content.chars().all(is_of_a_path);
        is_key
            || is_program
            || (has_space && (BEFORE_NAMES.contains(&word) || is_address))
            || AFTER_NAMES.iter().any(|after| rest.starts_with(after))
    }

    /// JSON's list of texts or objects, as against an index or several faults in brackets.
    fn begins_a_list(&self) -> bool {
        let inside = self.rest.get(1..).unwrap_or_default();
        inside.starts_with(['{', '"']) && !self.out.ends_with(|c: char| c.is_ascii_alphanumeric())
    }

    /// A list of what is known anyway, or of what a rule asks for.
    fn is_list_to_tell(&self, length: usize) -> bool {
        let Some(texts) = self.rest.get(..length).and_then(texts_in) else {
            return false;
        };
        let demanded = BEFORE_DEMANDS.iter().any(|before| self.out.ends_with(before));
        let is_told = |text: &&str| self.is_known(&unescaped(text)) || (demanded && is_demand(text));
        !texts.is_empty() && texts.iter().all(is_told)
    }

    /// An object or a list, in Go's or JSON's notation.
    fn composite(&mut self) {
        match composite_length(self.rest) {
            Some(length) if self.is_list_to_tell(length) => self.copy(length),
            Some(length) => self.mask(self.rest.get(length..).unwrap_or_default()),
            None => self.cut(),
        }
    }
}

fn unescaped(content: &str) -> String {
    content.replace("\\\"", "\"").replace("\\\\", "\\")
}

/// Of containers and volumes.
fn is_name_of_list(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// The key of a label or annotation, or the beginning of an image's name.
fn is_demand(text: &str) -> bool {
    text.len() <= 253 && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c))
}

/// What is in a list or set of texts in quotes; none if anything else is.
fn texts_in(list: &str) -> Option<Vec<&str>> {
    let mut rest = list.get(1..list.len().checked_sub(1)?)?;
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let length = rest.starts_with('"').then(|| quoted_length(rest))??;
        texts.push(rest.get(1..length - 1)?);
        let after = rest.get(length..)?;
        rest = after.trim_start_matches([',', ' ']);
        if rest.len() == after.len() && !rest.is_empty() {
            return None;
        }
    }
    Some(texts)
}

/// Of a text that begins with a quote, up to and with the one that ends it.
fn quoted_length(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn is_of_a_type(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.*&[]".contains(c)
}

/// Of a text that begins with a bracket, up to and with the one that closes it. None if it has none, and if texts in it
/// have no quotes of their own: nobody can then tell their brackets from its own.
fn composite_length(text: &str) -> Option<usize> {
    let opens = text.find(['{', '['])?;
    if !quotes_its_texts(text.get(opens + 1..)?) {
        return None;
    }
    let mut depth = 0_usize;
    let mut at = opens;
    while let Some(rest) = text.get(at..) {
        let c = rest.chars().next()?;
        at += match c {
            '"' => quoted_length(rest)?,
            // Quotes within quotes: the text was quoted as a whole, and is cut.
            '\\' => return None,
            _ => c.len_utf8(),
        };
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Does what stands within brackets begin as JSON, or as Go's `%#v`? Go's `%v` quotes nothing.
fn quotes_its_texts(inside: &str) -> bool {
    let is_type = |text: &str| {
        let (kind, after) = text
            .split_at_checked(text.find(|c| !is_of_a_type(c)).unwrap_or(0))
            .unwrap_or_default();
        kind.contains('.') && after.starts_with('{')
    };
    let of_field = inside.split_once(':').is_some_and(|(name, value)| {
        name.chars().all(|c| c.is_ascii_alphanumeric()) && (value.starts_with(['"', '(', '&']) || is_type(value))
    });
    if inside.starts_with('"') {
        let after = quoted_length(inside).and_then(|length| inside.get(length..));
        // Go's `%q` of a list has blanks between.
        return after.is_some_and(|after| after.starts_with([':', ',', ']', '}']) || after.starts_with(" \""));
    }
    inside.starts_with(['{', '[', '}', ']']) || is_type(inside) || of_field
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn told(text: &str) -> String {
        without_values(
            text,
            &BTreeSet::from(["app:2".to_owned(), "-1".to_owned(), "we\"b".to_owned()]),
        )
    }

    #[test]
    fn values_are_taken_out_and_fields_faults_and_names_stay() {
        let table = [
            r#"spec.a: Invalid value: "canary": must be no more than 63 characters"#,
            r#"spec.a: Invalid value: "can\": ary": no; spec.b: Duplicate value: "canary""#,
            r#"spec.a: Invalid value: "app:2": old; "we\"b" is ours; spec.b: Invalid value: -1: too few"#,
            r#"spec.a: Invalid value: 4711: too many, spec.b: Invalid value: true: field is immutable"#,
            r#"[spec.a: Invalid value: {"x":["can}ary"]}: field is immutable, spec.b: Required value]"#,
            r#"spec.a: Invalid value: core.PodTemplateSpec{ObjectMeta:v1.ObjectMeta{Name:"canary"}, X:(*int64)(nil)}: field is immutable"#,
            r#"spec.a: Invalid value: []core.EnvVar{core.EnvVar{Name:"A", Value:"canary"}}: no"#,
            r#"spec.a: Invalid value: app=canary: x, y: is not ours"#,
            r#"spec.a: Unsupported value: "canary": supported values: "Always", "Never" and "canary""#,
            r#"spec.a: Invalid value: "canary"#,
            r#"it was {Name:PASSWORD Value:can}ary and more"#,
            r#"it was {\"password\":\"can}ary\"} and more"#,
            r#"it was map[password:canary]"#,
            r#"error in #10 byte, error found in #10 byte of ...|"canary"}|..."#,
            r#"parsing "canary": invalid syntax"#,
            r#"deployments.apps "web" is forbidden: User "u" cannot patch resource "deployments" in API group "apps" in the namespace "shop""#,
            r#".spec.containers[name="app"].prots: field not declared in schema"#,
            r#"pods "web-x" is forbidden: violates PodSecurity "restricted:latest": privileged (container "app" must not)"#,
            r#"failed calling webhook "w": Post "https://w.x.svc:443/?timeout=10s": refused; Get "https://u:canary@h/": no"#,
            r#"0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 1 node(s) had untolerated taint {team: canary}, 2 Insufficient cpu. preemption: none."#,
            r#"roles.rbac.authorization.k8s.io "x" is forbidden: user "u" (groups=["a" "b"]) is attempting to grant RBAC permissions not currently held: {APIGroups:["apps"], Verbs:["canary"]}"#,
            r#"Back-off pulling image "app:3": secret "db" not found"#,
            r#"runc create failed: exec: "/srv/serve": no such file; exec: "serve --password=canary": executable file not found"#,
        ];
        insta::assert_snapshot!(table.map(told).join("\n"), @r##"
        spec.a: Invalid value: "***": must be no more than 63 characters
        spec.a: Invalid value: "***": no; spec.b: Duplicate value: "***"
        spec.a: Invalid value: "app:2": old; "we\"b" is ours; spec.b: Invalid value: -1: too few
        spec.a: Invalid value: ***: too many, spec.b: Invalid value: ***: field is immutable
        [spec.a: Invalid value: ***: field is immutable, spec.b: Required value]
        spec.a: Invalid value: ***: field is immutable
        spec.a: Invalid value: ***: no
        spec.a: Invalid value: ***: is not ours
        spec.a: Unsupported value: "***": supported values: "Always", "Never" and "***"
        spec.a: Invalid value: ***
        it was ***
        it was ***
        it was ***
        error in #10 byte***
        parsing "***": invalid syntax
        deployments.apps "web" is forbidden: User "u" cannot patch resource "deployments" in API group "apps" in the namespace "shop"
        .spec.containers[name="app"].prots: field not declared in schema
        pods "web-x" is forbidden: violates PodSecurity "restricted:latest": privileged (container "app" must not)
        failed calling webhook "w": Post "https://w.x.svc:443/?timeout=10s": refused; Get "***": no
        0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane:}, 1 node(s) had untolerated taint {team: ***}, 2 Insufficient cpu. preemption: none.
        roles.rbac.authorization.k8s.io "x" is forbidden: user "u" (groups=***) is attempting to grant RBAC permissions not currently held: ***
        Back-off pulling image "app:3": secret "db" not found
        runc create failed: exec: "/srv/serve": no such file; exec: "***": executable file not found
        "##);
    }

    /// As `k8s.io/pod-security-admission/policy` and Gatekeeper's library write them.
    #[test]
    fn what_a_rule_asks_for_is_told_and_what_is_there_is_not() {
        let of = |why: &str| format!(r#"pods "web-x" is forbidden: violates PodSecurity "restricted:latest": {why}"#);
        let table = [
            of(r#"allowPrivilegeEscalation != false (containers "app", "side-car" must set securityContext.allowPrivilegeEscalation=false)"#),
            of(r#"unrestricted capabilities (container "app" must set securityContext.capabilities.drop=["ALL"]; container "app" must not include "NET_ADMIN", "CANARY" in securityContext.capabilities.add)"#),
            of(r#"seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"; pod must not set securityContext.seccompProfile.type to "Unconfined")"#),
            of(r#"restricted volume types (volumes "b1", "b2" use restricted volume types "hostPath", "nfs")"#),
            of(r#"seLinuxOptions (containers "e", "f" set forbidden securityContext.seLinuxOptions: types "canary", "foo"; user may not be set)"#),
            of(r#"forbidden AppArmor profiles (container.apparmor.security.beta.kubernetes.io/e="unconfined", container.apparmor.security.beta.kubernetes.io/f="canary")"#),
            of(r#"procMount (container "a" must not set securityContext.procMount to "Unmasked"), containers "a", "ca nary""#),
            r#"admission webhook "validation.gatekeeper.sh" denied the request: [owners] you must provide labels: {"owner", "app.example/team"}"#.into(),
            r#"[notes] you must provide annotation(s): {"repository"}; you must provide labels: {"owner=canary"}"#.into(),
            r#"container <app> has an invalid image repo <app:2>, allowed repos are ["registry.example/shop/"]"#.into(),
            r#"container <app> has an invalid image repo <app:2>, allowed repos are ["https://user:canary@registry.example"]"#.into(),
            r#"env of containers "app", "canary" is plain; "ALL" and ["ALL"] and {"canary"}; images ["app:2", "we\"b"]"#.into(),
        ];
        let told = table.map(|text| told(&text)).join("\n");
        assert!(!told.to_lowercase().contains("canary"), "{told}");
        insta::assert_snapshot!(told, @r##"
        pods "web-x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (containers "app", "side-car" must set securityContext.allowPrivilegeEscalation=false)
        pods "web-x" is forbidden: violates PodSecurity "restricted:latest": unrestricted capabilities (container "app" must set securityContext.capabilities.drop=["ALL"]; container "app" must not include "NET_ADMIN", "***" in securityContext.capabilities.add)
        pods "web-x" is forbidden: violates PodSecurity "restricted:latest": seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"; pod must not set securityContext.seccompProfile.type to "Unconfined")
        pods "web-x" is forbidden: violates PodSecurity "restricted:latest": restricted volume types (volumes "b1", "b2" use restricted volume types "hostPath", "nfs")
        pods "web-x" is forbidden: violates PodSecurity "restricted:latest": seLinuxOptions (containers "e", "f" set forbidden securityContext.seLinuxOptions: types "***", "***"; user may not be set)
        pods "web-x" is forbidden: violates PodSecurity "restricted:latest": forbidden AppArmor profiles (container.apparmor.security.beta.kubernetes.io/e="unconfined", container.apparmor.security.beta.kubernetes.io/f="***")
        pods "web-x" is forbidden: violates PodSecurity "restricted:latest": procMount (container "a" must not set securityContext.procMount to "Unmasked"), containers "a", "***"
        admission webhook "validation.gatekeeper.sh" denied the request: [owners] you must provide labels: {"owner", "app.example/team"}
        [notes] you must provide annotation(s): {"repository"}; you must provide labels: ***
        container <app> has an invalid image repo <app:2>, allowed repos are ["registry.example/shop/"]
        container <app> has an invalid image repo <app:2>, allowed repos are ***
        env of containers "app", "***" is plain; "***" and *** and ***; images ["app:2", "we\"b"]
        "##);
    }

    proptest! {
        /// Wherever an API server puts a value, and whatever stands in it.
        #[test]
        fn a_value_is_found_by_where_it_stands(before in "[ -~]{0,12}", after in "[ -~]{0,12}", fault in "[a-z ]{1,20}") {
            let value = format!("{before}CANARY{after}");
            let quoted = json!(value).to_string();
            let object = json!({"spec": [{"name": "PASSWORD", "value": value}], "other": [value], "n": 1});
            for echoed in [
                quoted.clone(),
                object.to_string(),
                json!([object]).to_string(),
                format!("core.Pod{{Spec:core.PodSpec{{Env:[]core.EnvVar{{core.EnvVar{{Name:\"A\", Value:{quoted}}}}}}}, N:(*int)(nil)}}"),
                format!("[]string{{{quoted}, \"b\"}}"),
                json!(object.to_string()).to_string(),
            ] {
                for sentence in [
                    format!("a.b: Invalid value: {echoed}: {fault}"),
                    format!("[a.b: Duplicate value: {echoed}, c.d: Invalid value: {echoed}: {fault}]"),
                    format!("denied: {echoed} {fault}"),
                    format!("{fault} ({echoed})"),
                ] {
                    let told = told(&sentence);
                    prop_assert!(!told.contains("CANARY"), "{sentence}\n{told}");
                }
            }
            // What has no quotes at all.
            for echoed in [format!("{{Name:A Value:{value}}}"), format!("map[a:{value}]")] {
                let told = told(&format!("a.b: Invalid value: {echoed}"));
                prop_assert!(!told.contains("CANARY"), "{echoed}\n{told}");
            }
        }

        #[test]
        fn any_text_is_read_to_its_end(text in "([ -~ä]|\"|\\{|\\[|map\\[|Invalid value: |supported values: |\\\\){0,40}") {
            told(&text);
        }
    }
}
