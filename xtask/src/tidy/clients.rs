//! Every AWS client of a task waits as its document says: whoever makes one gives it a pace.

use super::problem::Problem;
use super::sources::{Source, code};

/// AWS clients of the agent.
pub(crate) fn check(sources: &[Source]) -> Vec<Problem> {
    sources
        .iter()
        .filter(|source| source.is_rust() && !source.is_test() && source.path.starts_with("agent"))
        .filter_map(check_one)
        .collect()
}

fn check_one(source: &Source) -> Option<Problem> {
    let code = code(&source.text);
    let makes = |line: &str| line.contains("Client::new(") || line.contains("Client::from_conf(");
    let (index, _) = code
        .lines()
        .enumerate()
        .find(|(_, line)| makes(line) && !line.trim_start().starts_with("//"))?;
    let has_pace = code.contains("interceptor(identity.pace())") || code.contains("interceptor(config.pace.clone())");
    (code.contains("aws_sdk_") && !has_pace).then(|| Problem {
        file: source.path.clone(),
        line: index + 1,
        what: "an AWS client without the backoff of its task".into(),
        mend: "make it with `.interceptor(identity.pace())`".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> usize {
        check(&[Source {
            path: path.into(),
            text: text.into(),
        }])
        .len()
    }

    #[test]
    fn a_client_without_its_tasks_backoff_is_found() {
        let bare = "//! A client.\nuse aws_sdk_s3::Client;\nlet client = Client::new(&identity.sdk_config()?);\n";
        assert_eq!(problems("agent/steps/src/s3.rs", bare), 1);
        let paced = "//! A client.\nuse aws_sdk_s3::Client;\nlet b = Builder::from(&config).interceptor(identity.pace());\nClient::from_conf(b)\n";
        assert_eq!(problems("agent/steps/src/s3.rs", paced), 0);
        assert_eq!(problems("tests/src/cloud.rs", bare), 0);
    }
}
