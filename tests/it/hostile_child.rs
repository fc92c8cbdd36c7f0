//! A step that wants more than its task was given: the agent's memory and tokens, other tasks' folders and credentials.
//!
//! `docs/threat-model.md` names what is not refused, and this test for what is.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use deputy_tests::agent_process::AgentOptions;
use deputy_tests::instance_metadata::InstanceMetadata;
use deputy_tests::world::World;

use crate::recipe;

const SOON: Duration = Duration::from_secs(60);

/// Keys of the agent's own, as good as any: nothing asks AWS here.
const KEY: &str = "AKIAHOSTILECANARY000";
const SECRET: &str = "agentsecretcanary/0123456789abcdefghijkl";

/// Where SDKs ask the metadata service of an instance.
const METADATA: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";

/// The agent's own identity for both tasks, so that each gets an endpoint.
const OWN: &str = "  aws: { region: eu-west-1 }\n";

/// Has something to steal, says where, and waits.
fn victim(shared: &Path) -> String {
    let run = r#"cd SHARED
echo "victim's canary" > "$HOME/kubeconfig"
export VICTIM=canary
echo "$HOME" > victim.home
echo "$AWS_CONTAINER_CREDENTIALS_FULL_URI" > victim.endpoint
echo $$ > victim.pid
until [ -e go ]; do sleep 0.1; done"#;
    recipe::script("victim", OWN, "", &run.replace("SHARED", &shared.display().to_string()))
}

/// One line for each try: `refused NAME` or `GOT NAME`. Nothing here does harm if it goes through. Each kind of try is
/// also made where it must go through, so that one that does not try is seen.
const TRIES: &str = r#"cd @SHARED@
victim=$(cat victim.pid); home=$(cat victim.home); theirs=$(cat victim.endpoint)
guardian=none
for status in /proc/[0-9]*/status; do
  grep -q "^PPid:[[:space:]]*@AGENT@$" "$status" 2> /dev/null || continue
  id=$(echo "$status" | cut -d / -f 3)
  grep -q deputy-guardian "/proc/$id/cmdline" 2> /dev/null && guardian=$id
done
own=$AWS_CONTAINER_CREDENTIALS_FULL_URI; token=$AWS_CONTAINER_AUTHORIZATION_TOKEN
try() { name=$1; shift; if "$@" > /dev/null 2>&1 < /dev/null; then echo "GOT $name"; else echo "refused $name"; fi; }
# Only an answer says that the endpoint was reached.
asks() { name=$1; shift
  code=$(curl -s -o /dev/null -w '%{http_code}' --noproxy '*' "$@" < /dev/null)
  case $code in 200) echo "GOT $name";; 40?) echo "refused $name";; *) echo "unreached $name: $code";; esac
}
# The process whose id is given, or for `own` a child that is made for it.
traces() { python3 -c "$FIND_PROCESS
$TRACE" "$1"; }
copies() { python3 -c "$FIND_PROCESS
$COPY" "$1"; }
FIND_PROCESS=$(cat <<'END'
import ctypes, os, signal, sys, time
process = sys.argv[1]
child = os.fork() if process == "own" else 0
if process == "own" and child == 0:
    time.sleep(60)
    os._exit(0)
def end(code):
    if child: os.kill(child, signal.SIGKILL)
    sys.exit(code)
process = child or int(process)
END
)
TRACE=$(cat <<'END'
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE = 0x4206
end(0 if libc.ptrace(SEIZE, process, None, None) == 0 else 1)
END
)
COPY=$(cat <<'END'
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(8)
here, there = Piece(ctypes.addressof(buffer), 8), Piece(0x1000, 8)
libc.process_vm_readv(process, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
EFAULT = 14
end(0 if ctypes.get_errno() == EFAULT else 1)
END
)
for process in agent victim guardian; do
  id=${!process:-@AGENT@}; [ $process = agent ] && id=@AGENT@
  [ -d /proc/$id ] && echo "alive $process"
  try $process.environment cat /proc/$id/environ
  try $process.thread cat /proc/$id/task/$id/environ
  try $process.maps cat /proc/$id/maps
  try $process.memory sh -c ": < /proc/$id/mem"
  try $process.files ls -L /proc/$id/fd/0
  try $process.folder ls /proc/$id/cwd/
  try $process.root ls -L /proc/$id/root
  try $process.trace traces $id
  try $process.copy copies $id
  try $process.signal kill -s 0 $id
  try $process.end kill -s CONT $id
  try $process.arguments cat /proc/$id/cmdline
done
try own.environment cat /proc/self/environ
try own.maps cat /proc/self/maps
try own.memory sh -c ': < /proc/self/mem'
try own.files ls -L /proc/self/fd/0
try own.trace traces own
try own.copy copies own
try own.link sh -c "echo x > f && ln -s f l2 && cat l2 && rm f l2"
try state.list ls @STATE@
try state.read cat @STATE@/identity.json
try state.write cp /dev/null @STATE@/identity.json
try join.read cat @JOIN@
try token.read cat @TOKEN@
try token.link sh -c "ln -s @TOKEN@ l && cat l"
try config.read cat @CONFIG@
try work.list ls "$(dirname "$home")"
try spool.list ls "$(dirname "$HOME")/../../spool"
try workspace.list ls "$home"
try workspace.read cat "$home/kubeconfig"
try workspace.write sh -c "echo x >> $home/kubeconfig"
try workspace.new touch "$home/new"
try workspace.remove rm -r "$home"
try workspace.move mv "$home" "$HOME/mine"
try workspace.mount unshare -rm mount --bind "$home" "$HOME"
try agent.program sh -c ": >> @PROGRAM@"
try own.folder touch "$HOME/mine"
port=${own#http://*:}; port=${port%%/*}
asks own.endpoint -H "Authorization: $token" "$own"
asks endpoint.other -H "Authorization: $token" "$theirs"
asks endpoint.guess -H "Authorization: $(head -c 32 /dev/zero | od -An -tx1 | tr -d ' \n')" "$theirs"
asks endpoint.without "$own"
asks endpoint.query "$own?Authorization=$token"
asks endpoint.rebound -H "Host: evil.example" -H "Authorization: $token" "$own"
asks endpoint.resolved --resolve "evil.example:$port:127.0.0.1" -H "Authorization: $token" "http://evil.example:$port/${own#http://*/}"
session=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' @METADATA@/latest/api/token)
try metadata.role curl -sf -H "X-aws-ec2-metadata-token: $session" @METADATA@/latest/meta-data/iam/security-credentials/
[ -n "$(env | grep -e AKIA -e DEPUTY_CONFIG)" ] && echo "GOT own.environment"
echo "metadata disabled: $AWS_EC2_METADATA_DISABLED"
echo tried"#;

/// What is not refused: the step's own, and what the threat model names and doctor tells.
const GOT: [&str; 13] = [
    "agent.arguments",
    "guardian.arguments",
    "metadata.role",
    "own.copy",
    "own.endpoint",
    "own.environment",
    "own.files",
    "own.folder",
    "own.link",
    "own.maps",
    "own.memory",
    "own.trace",
    "victim.arguments",
];

/// Guards every row of the threat model that says "refused" of a hostile step.
#[tokio::test]
async fn a_hostile_step_gets_nothing_of_its_agent_or_of_another_task() {
    let mut world = World::builder().start().await.expect("a world");
    let places = world.agent_folder("agent-1");
    std::fs::create_dir_all(&places).expect("a folder");
    let (token, config) = (places.join("token"), places.join("agent.toml"));
    let join = places.join("join-token");
    std::fs::write(&token, "agent's web identity canary").expect("written");
    std::fs::write(&config, "# canary\nslots = 4\n").expect("written");
    let access = world.manager.access().expect("access");
    std::fs::write(&join, access.join_token(1).await.expect("a token")).expect("written");
    let place = |path: &Path| path.display().to_string();
    let metadata = InstanceMetadata::without_sessions().await.expect("a metadata service");
    let options = AgentOptions::default()
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", &place(&token))
        .env("DEPUTY_CONFIG", &place(&config))
        .env(METADATA, &metadata.url())
        .join_token_file(&place(&join))
        .flag("--confinement", "required");
    world.agent(options).await.expect("an agent");

    let victim = world.submit(&victim(world.folder())).await.expect("queued");
    let waits = async || world.folder().join("victim.pid").exists();
    world.eventually("the victim waits", SOON, waits).await.expect("waits");
    let agent = world.agents[0].child.pid();
    let program = std::fs::read_link(format!("/proc/{agent}/exe")).expect("the agent's program");
    let home = std::fs::read_to_string(world.folder().join("victim.home")).expect("its folder");
    let home = Path::new(home.trim());
    let work = home.parent().expect("the folder of all tasks");
    // What is not there cannot be refused.
    for path in [
        &places.join("state/identity.json"),
        &home.join("kubeconfig"),
        &work.join("../../spool"),
    ] {
        assert!(path.exists(), "{}", path.display());
    }
    let tries = TRIES
        .replace("@METADATA@", &metadata.url())
        .replace("@SHARED@", &place(world.folder()))
        .replace("@STATE@", &place(&places.join("state")))
        .replace("@TOKEN@", &place(&token))
        .replace("@JOIN@", &place(&join))
        .replace("@CONFIG@", &place(&config))
        .replace("@PROGRAM@", &place(&program))
        .replace("@AGENT@", &agent.to_string());
    let hostile = world
        .submit(&recipe::script("hostile", OWN, "", &tries))
        .await
        .expect("queued");
    world.succeeded(&hostile, SOON).await.expect("its tries");
    std::fs::write(world.folder().join("go"), "").expect("written");
    world.succeeded(&victim, SOON).await.expect("unharmed");

    let log = world.logs(&hostile).await.expect("its log");
    let told: BTreeMap<_, _> = log
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(how, what)| (what, how))
        .collect();
    let got: Vec<_> = told
        .iter()
        .filter(|(_, how)| **how == "GOT")
        .map(|(what, _)| *what)
        .collect();
    assert_eq!(got, GOT, "{log}");
    for process in ["agent", "victim", "guardian"] {
        assert_eq!(told.get(process), Some(&"alive"), "{log}");
    }
    assert_eq!(told.values().filter(|how| **how == "refused").count(), 33 + 23, "{log}");
    assert!(
        log.contains("metadata disabled: true") && log.contains("tried"),
        "{log}"
    );
    assert!(!log.contains("canary") && !log.contains(KEY), "{log}");
}

/// Guards that what is open to a step is told where the agent is set up, whatever identity the agent has.
#[tokio::test]
async fn what_a_hostile_step_gets_is_told_by_doctor() {
    let world = World::builder().start().await.expect("a world");
    let metadata = InstanceMetadata::without_sessions().await.expect("a metadata service");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nowhere = format!("http://{}", nobody.local_addr().expect("an address"));
    drop(nobody);
    let own = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let taken = "they can take the instance's role deputy-agent";
    // Whoever is the instance itself has no use for a closed service.
    let instance = [("AWS_EC2_METADATA_DISABLED", "false")];
    let closes = "the agent does not confine the network: close it";
    let shares = "steps share this identity with the agent";
    for (identity, address, verdict, words, hint) in [
        (&own[..], metadata.url(), "warning", taken, closes),
        (&instance[..], metadata.url(), "warning", taken, shares),
        (&own[..], nowhere, "good", "no metadata service answers here", ""),
    ] {
        let environment = [identity, &[(METADATA, address.as_str())]].concat();
        let seen = world.doctor_with(&environment, &["-o", "json"]).await.expect("run");
        let report: serde_json::Value = serde_json::from_str(&seen.stdout).expect("JSON");
        let findings = report["findings"].as_array().expect("findings");
        let about = |check: &str| {
            findings
                .iter()
                .find(|found| found["check"] == check)
                .expect("looked at")
        };
        let found = about("instance metadata");
        assert_eq!(found["verdict"], verdict, "{found:#}");
        assert!(
            found["summary"].as_str().unwrap_or_default().contains(words),
            "{found:#}"
        );
        assert!(
            found["hint"].as_str().unwrap_or_default().starts_with(hint),
            "{found:#}"
        );
        let children = about("children")["summary"].as_str().unwrap_or_default();
        assert!(
            children.contains("can read the arguments of other tasks' processes"),
            "{children}"
        );
    }
}

/// Guards what is said where children are not confined.
#[tokio::test]
async fn an_agent_whose_children_are_not_confined_says_so_in_the_fleet() {
    let mut world = World::builder().start().await.expect("a world");
    world
        .agent(AgentOptions::default().flag("--confinement", "off"))
        .await
        .expect("an agent");
    let fleet = world
        .deputy(&["fleet", "list", "--output", "json"])
        .await
        .expect("listed");
    let warned = "children are not confined: confinement is off; a step can read what the agent's user can";
    assert!(fleet.stdout.contains(warned), "{}", fleet.stdout);
}

/// Puts the folder of another task's step in the place of its own, and a link to a file of the other's beside it.
const SWAP: &str = r#"cd @SHARED@
script=$(tr '\0' '\n' < /proc/$(cat victim.pid)/cmdline | grep '/script$')
theirs=$(dirname "$script")
cat "$theirs/output" && echo "GOT output"
mine=$(dirname "$DEPUTY_OUTPUT")
[ -f "$mine/script" ] && mv "$mine" "$HOME/away"
[ -e "$mine" ] || { ln -s "$theirs" "$mine" && echo "its own folder is another's"; }
rm -f "$DEPUTY_OUTPUT"
ln -s "$theirs/output" "$DEPUTY_OUTPUT"
echo tried"#;

/// Guards that the agent, which no domain confines, reads no task's outputs for another one: a step may make of its
/// folder what it likes.
#[tokio::test]
async fn a_step_that_swaps_its_folder_for_anothers_is_not_given_the_others_outputs() {
    let mut world = World::builder().start().await.expect("a world");
    let options = AgentOptions::default().flag("--confinement", "required");
    world.agent(options).await.expect("an agent");
    let shared = world.folder().display().to_string();
    let waits = "cd @SHARED@\necho password=canary-of-the-victim >> \"$DEPUTY_OUTPUT\"\necho $$ > victim.pid\nuntil [ -e go ]; do sleep 0.1; done";
    let waits = waits.replace("@SHARED@", &shared);
    let victim = recipe::script("victim", "", "secretOutputs: [ password ]", &waits);
    let victim = world.submit(&victim).await.expect("queued");
    let is_there = async || world.folder().join("victim.pid").exists();
    world
        .eventually("the victim waits", SOON, is_there)
        .await
        .expect("waits");
    let swap = format!("set +e\n{}", SWAP.replace("@SHARED@", &shared));
    let hostile = recipe::script("hostile", "", "", &swap);
    let hostile = world.submit(&hostile).await.expect("queued");
    let ended = world.ended(&hostile, SOON).await.expect("ended");
    std::fs::write(world.folder().join("go"), "").expect("written");
    world.succeeded(&victim, SOON).await.expect("unharmed");
    let log = world.logs(&hostile).await.expect("its log");
    assert!(!format!("{ended:?}").contains("canary"), "{ended:#?}");
    assert!(
        log.contains("tried") && !log.contains("GOT") && !log.contains("another's"),
        "{log}"
    );
    let (_, failure) = recipe::failure(&world, &hostile, SOON).await;
    assert_eq!(failure.class, "shell.outputs", "{failure:#?}");
}
