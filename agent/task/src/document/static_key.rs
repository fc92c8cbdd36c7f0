//! AWS keys that stand in a document or in the values of its inputs: the manager and everybody who reads it would have
//! them. Called by the checks and by the comparison with the schema. What is encoded, or in a bundle, is not looked into.

use super::source::{Finding, Span};
use super::tree::{Data, Node};
use crate::expression::segment::{Segment, split};

/// The variables by which every SDK takes keys.
const VARIABLES: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
];

/// How ids of access keys begin: those that last, and those of sessions.
const ID_PREFIXES: [&str; 2] = ["AKIA", "ASIA"];
const ID_BYTES: usize = 20;
/// A secret key.
const SECRET_BYTES: usize = 40;

/// In the keys that AWS's own documentation shows, and in nobody's.
const EXAMPLE: &str = "EXAMPLE";

/// How an id looks in base64, as Kubernetes Secrets have it.
const ENCODED_ID_PREFIXES: [&str; 2] = ["QUtJQ", "QVNJQ"];
/// What is below it only the cluster can read: a SealedSecret is made to be public.
const SEALED: &str = "encryptedData";

/// Most characters of an expression that are looked at in a text.
const MAX_EXPRESSION: usize = 1000;

/// Where a tree holds a key.
pub(crate) struct Place<'a> {
    /// The whole value, or the name that the key is given to.
    pub(crate) span: Span,
    /// What to look for within it.
    pub(crate) within: Option<&'a str>,
    /// Without the key itself.
    pub(crate) what: &'a str,
}

/// Is it a key that holds AWS keys elsewhere, however it is written?
pub(crate) fn is_key_name(key: &str) -> bool {
    matches!(
        bare(key).as_str(),
        "accesskey"
            | "accesskeyid"
            | "secretkey"
            | "secretaccesskey"
            | "sessiontoken"
            | "securitytoken"
            | "credentials"
    )
}

/// What is said of a key, whose name or beginning is `what`.
pub(crate) fn finding(at: Span, what: &str) -> Finding {
    let (message, hint) = words(what);
    Finding::error(at, message).hint(hint)
}

/// The same of what was given beside the document.
pub(crate) fn finding_in_input(name: &str, what: &str) -> Finding {
    let (message, hint) = words(what);
    let shown: String = name.chars().take(80).collect();
    Finding::nowhere(format!("the input `{shown}`: {message}")).hint(hint)
}

fn words(what: &str) -> (String, &'static str) {
    let shown: String = what.chars().take(80).collect();
    (
        format!("`{shown}`: AWS keys are not taken in a task: the manager and everybody who reads it would have them"),
        "say in `spec.aws` which role to assume (`assumeRole`, `oidc`); keys, if there must be any, belong into the agent's own environment, and what is deployed takes them by a reference (`secrets`, `valueFrom`). If this is no key and only looks like one, keep it in a file of a source: those are not looked into",
    )
}

/// Every key in a tree.
pub(crate) fn places<'a>(node: &'a Node, found: &mut Vec<Place<'a>>) {
    match &node.data {
        Data::Text(text) => found.extend(in_text(text).map(|(within, what)| Place {
            span: node.span,
            within: Some(within),
            what,
        })),
        Data::List(items) => items.iter().for_each(|item| places(item, found)),
        Data::Map(entries) => {
            // The form of AWS's and Kubernetes' own documents: { name, value }.
            let named = ["name", "Name"].iter().find_map(|key| node.get(key)?.text());
            let value = ["value", "Value"].iter().find_map(|key| node.get(key));
            let pair = named.zip(value).filter(|(name, value)| gives_key(name, value));
            found.extend(pair.map(|(name, value)| Place {
                span: value.span,
                within: None,
                what: name,
            }));
            for entry in entries.iter().filter(|entry| entry.key != SEALED) {
                found.extend(in_text(&entry.key).map(|(_, what)| Place {
                    span: entry.key_span,
                    within: None,
                    what,
                }));
                // An input that is called so has its value in `default`.
                let value = entry.value.get("default").unwrap_or(&entry.value);
                if gives_key(&entry.key, value) {
                    found.push(Place {
                        span: entry.key_span,
                        within: None,
                        what: &entry.key,
                    });
                } else {
                    places(&entry.value, found);
                }
            }
        }
        Data::Null | Data::Truth(_) | Data::Number(_) => {}
    }
}

/// Lower case, letters and digits only, without `aws`.
fn bare(name: &str) -> String {
    let bare: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let bare = bare.to_ascii_lowercase();
    bare.strip_prefix("aws").map_or(bare.clone(), str::to_owned)
}

/// Does this name, with this value, give somebody a key? A reference and an ARN do not.
fn gives_key(name: &str, value: &Node) -> bool {
    let is_variable = VARIABLES.contains(&name);
    let Some(variable) = VARIABLES.into_iter().find(|variable| bare(variable) == bare(name)) else {
        return false;
    };
    match &value.data {
        Data::Number(_) => is_variable,
        Data::Text(text) if is_variable => is_literal(variable, text),
        Data::Text(text) => is_whole_key(variable, text),
        Data::Null | Data::Truth(_) | Data::List(_) | Data::Map(_) => false,
    }
}

/// Whether whoever has the document and its inputs has the value: outputs of steps are made where the agent is.
fn is_literal(variable: &str, text: &str) -> bool {
    split(text).unwrap_or_default().iter().any(|segment| match segment {
        Segment::Text(text) => is_whole_key(variable, text),
        Segment::Expression { source, .. } => !source.contains("steps"),
    })
}

/// Other characters are of references: `$(NAME)`, `{{ .name }}`, `vault:path#key`, `prod/legacy/access-key`.
fn is_whole_key(variable: &str, text: &str) -> bool {
    word(text.trim()) == text.trim() && is_key(variable, text.trim())
}

/// An id of a key, or a variable that is given one, with what to call it.
fn in_text(text: &str) -> Option<(&str, &str)> {
    let id = access_key_id(text).map(|id| (id, &id[..ID_PREFIXES[0].len()]));
    id.or_else(|| assignment(text).map(|name| (name, name)))
}

fn access_key_id(text: &str) -> Option<&str> {
    let begins = ID_PREFIXES.iter().flat_map(|prefix| text.match_indices(prefix));
    let mut ids = begins.filter_map(|(at, _)| {
        let id = text.get(at..at + ID_BYTES)?;
        let before = text[..at].chars().next_back();
        let after = text[at + ID_BYTES..].chars().next();
        let stands_alone = [before, after]
            .into_iter()
            .flatten()
            .all(|beside| !beside.is_ascii_alphanumeric());
        let is_id = id
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        (stands_alone && is_id && !id.contains(EXAMPLE)).then_some(id)
    });
    ids.next()
}

/// `NAME=key`, `NAME: key`, `set NAME key`, quoted or not: the name.
fn assignment(text: &str) -> Option<&str> {
    // Of the same length, so that places in it are places in the text.
    let lower = text.to_ascii_lowercase();
    VARIABLES.iter().find_map(|variable| {
        let variable = variable.to_ascii_lowercase();
        let mut begins = lower.match_indices(&variable);
        begins.find_map(|(at, _)| {
            let end = at + variable.len();
            let value = text[end..].trim_start_matches(['"', '\'', ' ', '\t', '=', ':']);
            let between = &text[end..text.len() - value.len()];
            let given = match value.strip_prefix("${{") {
                Some(rest) => !beginning(rest).split("}}").next()?.contains("steps"),
                // In prose a name is followed by words.
                None if between.contains(['=', ':']) => is_key(&variable, value),
                None => is_key(&variable, value) && word(value).contains(|c: char| c.is_ascii_digit()),
            };
            (!between.is_empty() && given).then(|| &text[at..end])
        })
    })
}

/// As much of it as is looked at: every name in a text may be followed by an expression that has no end.
fn beginning(expression: &str) -> &str {
    let end = expression.char_indices().nth(MAX_EXPRESSION);
    end.map_or(expression, |(end, _)| &expression[..end])
}

/// Does it begin with what could be a key for this variable? What is shorter is a word, a name or a placeholder.
fn is_key(variable: &str, text: &str) -> bool {
    let word = word(text);
    // An id that is not encoded is found wherever it stands.
    if bare(variable) == bare(VARIABLES[0]) && ENCODED_ID_PREFIXES.iter().any(|prefix| word.starts_with(prefix)) {
        return true;
    }
    // Of a thousand million keys one is of one case.
    let is_mixed = word.contains(|c: char| c.is_ascii_uppercase()) && word.contains(|c: char| c.is_ascii_lowercase());
    let is_path = word.len() != SECRET_BYTES && (word.starts_with('/') || goes_on(&text[word.len()..]));
    word.len() >= SECRET_BYTES && is_mixed && !word.contains(EXAMPLE) && !is_path
}

/// Does a name go on after what could be a key: `/…/access-key`, `….name`, `…#field`?
fn goes_on(after: &str) -> bool {
    let mut after = after.chars();
    after.next().is_some_and(|c| "-_.#:@".contains(c)) && after.next().is_some_and(|c| c.is_ascii_alphanumeric())
}

/// What of its beginning could be a key.
fn word(text: &str) -> &str {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "/+=".contains(c);
    text.split(|c| !is_part(c)).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(value: Value) -> usize {
        let node = Node::of_json(value, &mut 0);
        let mut found = Vec::new();
        places(&node, &mut found);
        found.len()
    }

    const ID: &str = "AKIAQ3EGR5D7TZ4WXY2A";
    const SECRET: &str = "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";

    /// Guards that a key is found wherever it stands and however it is written.
    #[test]
    fn a_key_is_found_wherever_it_stands() {
        for value in [
            json!({ "environment": [{ "name": "AWS_SECRET_ACCESS_KEY", "value": SECRET }] }),
            json!({ "Environment": [{ "Name": "AWS_SESSION_TOKEN", "Value": SECRET }] }),
            json!({ "data": { "AWS_ACCESS_KEY_ID": "QUtJQVEzRUdSNUQ3VFo0V1hZMkE=" } }),
            json!({ "data": { "awsSecretAccessKey": SECRET } }),
            json!({ "AWS_ACCESS_KEY_ID": 222_222_222_222_u64 }),
            json!({ "AWS_SECRET_ACCESS_KEY": "${{ inputs.key }}" }),
            json!({ "AWS_SECRET_ACCESS_KEY": { "type": "string", "default": SECRET } }),
            json!(ID),
            json!(ID.replace("AKIA", "ASIA")),
            json!({ ID: "x" }),
            json!(format!("AKIAIOSFODNN7EXAMPLE {ID}")),
            json!(format!("export AWS_ACCESS_KEY_ID={ID}\naws s3 ls")),
            json!(format!("export AWS_SECRET_ACCESS_KEY='{SECRET}'")),
            json!(format!("AWS_SECRET_ACCESS_KEY=$A\nAWS_SECRET_ACCESS_KEY={SECRET}")),
            json!(format!("[default]\naws_secret_access_key = {SECRET}\n")),
            json!(format!("aws configure set aws_session_token {SECRET}")),
            json!(format!("{{\"AWS_SECRET_ACCESS_KEY\": \"{SECRET}\"}}")),
            json!("export AWS_SECRET_ACCESS_KEY=${{ inputs.key }}"),
        ] {
            assert_eq!(found(value.clone()), 1, "{value}");
        }
    }

    #[test]
    fn texts_are_looked_at_in_bounded_time() {
        let begun = std::time::Instant::now();
        let text = "AWS_SESSION_TOKEN=${{".repeat(50_000) + "steps";
        assert_eq!(found(json!(text)), 1);
        assert_eq!(found(json!("AWS_SESSION_TOKEN=${{ steps".repeat(40_000))), 0);
        assert_eq!(found(json!("AKIA".repeat(250_000))), 0);
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    }

    #[test]
    fn references_examples_and_words_are_no_keys() {
        for value in [
            json!({ "secrets": [{ "name": "AWS_SECRET_ACCESS_KEY", "valueFrom": "arn:aws:secretsmanager:eu-west-1:222222222222:secret:keys" }] }),
            json!({ "env": [{ "name": "AWS_ACCESS_KEY_ID", "valueFrom": { "secretKeyRef": { "name": "aws", "key": "id" } } }] }),
            json!({ "AWS_SECRET_ACCESS_KEY": { "awsSecretsManager": "prod/legacy#secret" } }),
            json!({ "AWS_SECRET_ACCESS_KEY": "arn:aws:secretsmanager:eu-west-1:222222222222:secret:keys" }),
            json!({ "AWS_SESSION_TOKEN": "" }),
            json!({ "encryptedData": { "AWS_SECRET_ACCESS_KEY": "AgBy3i4OJSWK+PiTySYZZA9rO43cGDEqAgBy3i4OJSWK" } }),
            json!({ "data": { "AWS_SECRET_ACCESS_KEY": "{{ .secretAccessKey }}" } }),
            json!({ "env": [{ "name": "AWS_SECRET_ACCESS_KEY", "value": "$(LEGACY_SECRET_ACCESS_KEY)" }] }),
            json!({ "env": [{ "name": "AWS_SECRET_ACCESS_KEY", "value": "vault:secret/data/aws/legacy#SECRET" }] }),
            json!({ "env": [{ "name": "AWS_SECRET_ACCESS_KEY", "value": "test" }] }),
            json!({ "AWS_SESSION_TOKEN": "${{ steps.login.outputs.token }}" }),
            json!({ "awsAccessKeyId": "accessKeyId", "secretKey": "AWS_ACCESS_KEY_ID" }),
            json!("AKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            json!("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            json!("AKIA, XAKIAQ3EGR5D7TZ4WXY2A, AKIAQ3EGR5D7TZ4WXY2AB, AKIAq3egr5d7tz4wxy2a, AKIA–––––––––"),
            json!("unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN"),
            json!("AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test aws --endpoint-url http://127.0.0.1:4566 s3 ls"),
            json!("AWS_SECRET_ACCESS_KEY=$(jq -r .SecretAccessKey session.json)"),
            json!("AWS_SECRET_ACCESS_KEY=/run/keys/of/the/application"),
            json!("AWS_SECRET_ACCESS_KEY=prod/legacy/access-key"),
            json!("AWS_SECRET_ACCESS_KEY=prod/legacy/accessKey"),
            json!("AWS_SECRET_ACCESS_KEY=Prod/Legacy/Application/Team/Deployment/access-key"),
            json!("AWS_SECRET_ACCESS_KEY=prod/legacy/application/deployment/access/key"),
            json!("AWS_ACCESS_KEY_ID=prod/legacy/accessKeyIdentifier"),
            json!({ "AWS_SECRET_ACCESS_KEY": "prod/legacy/accessKeyOfTheApplication" }),
            json!({ "AWS_ACCESS_KEY_ID": "prod/legacy/accessKeyIdOfTheApplication" }),
            json!({ "env": [{ "name": "AWS_SECRET_ACCESS_KEY", "value": "prod/legacy/access-key" }] }),
            json!({ "sessionToken": "nameOfTheSessionToken" }),
            json!("AWS_SESSION_TOKEN=${{ steps.login.outputs.token }}"),
            json!("# AWS_SECRET_ACCESS_KEY incomprehensibilities"),
            json!("test -z \"$AWS_SECRET_ACCESS_KEY\" || echo 'there is a key'"),
            json!("arn:aws:iam::222222222222:role/AKIA"),
        ] {
            assert_eq!(found(value.clone()), 0, "{value}");
        }
    }
}
