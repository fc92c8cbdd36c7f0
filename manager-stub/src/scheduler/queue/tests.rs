//! Tests of the queue.

use deputy_proto::v1;

use super::*;
use crate::store::task::Needs;

struct Bench {
    queue: Queue,
    fleet: Fleet,
}

fn key(name: &str) -> TaskKey {
    TaskKey {
        project: Project::default_project(),
        task: name.parse().expect("a task id"),
    }
}

fn instance(name: &str) -> InstanceId {
    name.parse().expect("an instance id")
}

impl Bench {
    fn new(agents: &[(&str, u32)]) -> Self {
        let mut bench = Self {
            queue: Queue::default(),
            fleet: Fleet::default(),
        };
        for (name, slots) in agents {
            bench.connect(name, *slots);
        }
        bench
    }

    fn connect(&mut self, name: &str, slots: u32) {
        let member = self.fleet.member(&name.parse().expect("an agent id"), &instance(name));
        member.connected = true;
        member.offered = v1::Capabilities {
            slots,
            labels: [("name".to_owned(), name.to_owned())].into(),
            steps: vec![v1::StepSupport {
                kind: "shell".into(),
                min_version: 1,
                max_version: 1,
            }],
            ..v1::Capabilities::default()
        };
        self.fleet.supplied();
        self.queue.offers_changed();
    }

    fn submit(&mut self, name: &str, submitter: &str, exclusive: &str) {
        self.submit_to(name, submitter, exclusive, "");
    }

    fn submit_to(&mut self, name: &str, submitter: &str, exclusive: &str, selector: &str) {
        let needs = Needs {
            selector: selector.into(),
            steps: vec!["shell".into()],
            tools: Vec::new(),
        };
        self.queue.insert(
            key(name),
            Entry::new(
                Requirement {
                    project: Project::default_project(),
                    needs,
                    versions: Vec::new(),
                    sealing: crate::scheduler::eligibility::Sealing::default(),
                },
                submitter,
                exclusive,
            ),
        );
        self.queue.enqueue(&key(name));
    }

    fn picks(&mut self) -> Vec<String> {
        self.queue
            .schedule(&mut self.fleet)
            .into_iter()
            .map(|pick| format!("{}→{}", pick.key.task, pick.agent))
            .collect()
    }

    fn end(&mut self, name: &str, agent: &str) {
        self.fleet.loosen(&instance(agent), &key(name));
        self.queue.remove(&key(name));
    }
}

#[test]
fn tasks_of_one_submitter_are_taken_in_order_and_spread_over_agents() {
    let mut bench = Bench::new(&[("a", 2), ("b", 1)]);
    for name in ["t1", "t2", "t3", "t4"] {
        bench.submit(name, "ann", "");
    }
    assert_eq!(bench.picks(), ["t1→b", "t2→a", "t3→a"]);
    assert!(bench.picks().is_empty());
    bench.end("t1", "b");
    assert_eq!(bench.picks(), ["t4→b"]);
}

#[test]
fn a_submitter_with_many_tasks_does_not_hold_up_the_others() {
    let mut bench = Bench::new(&[("a", 1)]);
    for number in 0..50 {
        bench.submit(&format!("flood{number}"), "flood", "");
    }
    bench.submit("single", "ann", "");
    assert_eq!(bench.picks(), ["flood0→a"]);
    bench.end("flood0", "a");
    assert_eq!(bench.picks(), ["single→a"]);
}

#[test]
fn one_task_of_a_key_is_held_at_a_time_and_the_others_do_not_block_the_queue() {
    let mut bench = Bench::new(&[("a", 10)]);
    for name in ["k1", "k2", "k3"] {
        bench.submit(name, "ann", "k");
    }
    bench.submit("free", "ann", "");
    assert_eq!(bench.picks(), ["k1→a", "free→a"]);
    assert_eq!(bench.queue.key_holder(&key("k2")), Some(&key("k1")));
    bench.end("k1", "a");
    assert_eq!(bench.picks(), ["k2→a"]);
    bench.queue.remove(&key("k3"));
    bench.end("k2", "a");
    assert!(bench.picks().is_empty());
}

#[test]
fn a_task_that_no_agent_can_run_waits_until_one_comes_that_can() {
    let mut bench = Bench::new(&[("a", 10)]);
    bench.submit_to("picky", "ann", "", "name == 'b'");
    bench.submit("any", "ann", "");
    assert_eq!(bench.picks(), ["any→a"]);
    bench.connect("b", 1);
    assert_eq!(bench.picks(), ["picky→b"]);
}

#[test]
fn an_agent_that_drains_lapses_or_withholds_gets_nothing() {
    let silence: [fn(&mut super::super::Member); 5] = [
        |member| member.connected = false,
        |member| member.draining = "sigterm".into(),
        |member| member.drain_wish = "upgrade".into(),
        |member| member.withheld = true,
        |member| member.lapsed = true,
    ];
    for change in silence {
        let mut bench = Bench::new(&[("a", 1)]);
        change(bench.fleet.get_mut(&instance("a")).expect("a member"));
        bench.submit("t", "ann", "");
        assert!(bench.picks().is_empty());
        assert!(bench.fleet.get(&instance("a")).expect("a member").busy().is_some());
    }
}

#[test]
fn a_delayed_task_comes_back_where_it_was() {
    let mut bench = Bench::new(&[("a", 1)]);
    bench.submit("t1", "ann", "k");
    bench.submit("t2", "ann", "");
    bench.queue.delay(&key("t1"));
    assert_eq!(bench.picks(), ["t2→a"]);
    bench.queue.enqueue(&key("t1"));
    bench.end("t2", "a");
    assert_eq!(bench.picks(), ["t1→a"]);
}

/// Taking one task out of ten thousand costs about as much as out of ten.
#[test]
fn a_long_queue_is_served_to_its_end() {
    let mut bench = Bench::new(&[("a", 7), ("b", 5)]);
    for number in 0..10_000 {
        bench.submit(&format!("t{number}"), &format!("s{}", number % 13), "");
    }
    let mut served = 0;
    loop {
        let picks = bench.queue.schedule(&mut bench.fleet);
        if picks.is_empty() {
            break;
        }
        served += picks.len();
        for pick in picks {
            bench.fleet.loosen(&pick.instance, &pick.key);
            bench.queue.remove(&pick.key);
        }
    }
    assert_eq!(served, 10_000);
    assert!(bench.queue.is_empty());
}
