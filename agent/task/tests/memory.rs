//! What a document that somebody made to be expensive costs. Alone in its process, so that nobody else's memory is
//! measured.

use deputy_task::document::{Inputs, MAX_CANONICAL_BYTES, from_canonical, read, to_canonical};

const HONEST: &str = "
apiVersion: deputy.dev/v1
kind: Task
metadata: { name: honest }
spec:
  inputs: { tag: { type: object } }
  aws: { region: eu-west-1, assumeRole: [] }
  steps:
    - name: apply
      kubernetesApply: { cluster: prod, namespace: shop,
        manifests: [ { apiVersion: v1, kind: ConfigMap, metadata: { name: a }, data: { x: MARK } } ] }
";

/// Above what a document of the largest size is itself, and what is told of it.
const REFUSED_KIB: u64 = 4 * 1024;
/// An agent may grow by 96 MiB whatever it is sent, with the frame that this came in and what its last task holds.
const TAKEN_KIB: u64 = 56 * 1024;

/// By how much memory grows at most while this is done.
fn grown_kib<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let read = |name: &str| -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("a status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.expect("a line").trim().trim_end_matches(" kB").trim();
        number.parse().expect("a number")
    };
    // 5: the peak begins anew with what is resident now.
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak is reset");
    let before = read("VmRSS:");
    let done = work();
    (read("VmHWM:").saturating_sub(before), done)
}

fn list(item: &str, times: usize) -> String {
    format!("[{}]", vec![item; times].join(","))
}

/// Guards that nothing is built of a document that has more values than memory is for, nor of a text in it that is to
/// become values, and that the most that is taken costs tens of MiB.
#[test]
fn a_document_costs_no_more_than_what_it_says_it_is_for() {
    let given: Inputs = [("tag".to_owned(), serde_json::json!([]))].into_iter().collect();
    let honest = read("task.yaml", HONEST.as_bytes(), &given).unwrap_or_else(|wrong| panic!("{wrong}"));
    let honest = String::from_utf8(to_canonical(&honest.checked).expect("JSON")).expect("text");
    let with = |place: &str, value: &str| {
        let text = honest.replacen(place, value, 1);
        assert!(text != honest && text.len() <= MAX_CANONICAL_BYTES, "{}", text.len());
        text
    };
    for item in ["0", "{}", "[]", "{\"\":0}"] {
        let document = with("\"MARK\"", &list(item, 8_300_000 / (item.len() + 1)));
        let (grown, refused) = grown_kib(|| from_canonical(document.as_bytes()));
        let refused = refused.expect_err("too many values");
        assert!(refused.to_string().contains("more than 100000 values"), "{refused}");
        assert!(grown <= REFUSED_KIB, "{grown} KiB for a refused list of {item}");
    }
    let most = with("\"MARK\"", &list("{\"\":0}", 49_000));
    let (grown, taken) = grown_kib(|| from_canonical(most.as_bytes()));
    taken.expect("as many as are taken");
    println!("{grown} KiB for the most expensive document that is taken");
    assert!(grown <= TAKEN_KIB, "{grown} KiB for the most that is taken");
    let text = list("{}", 2_700_000);
    let hidden = with("\"inputs\":{\"tag\":[]}", &format!("\"inputs\":{{\"tag\":\"{text}\"}}"));
    let (grown, refused) = grown_kib(|| from_canonical(hidden.as_bytes()));
    let refused = refused.expect_err("too many values");
    println!("{grown} KiB for a text that is to become values");
    assert!(refused.to_string().contains("`tag` has more than"), "{refused}");
    assert!(grown <= TAKEN_KIB, "{grown} KiB for a text that is to become values");
}
