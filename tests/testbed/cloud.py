"""The emulated cloud of the tests: MiniStack whose EKS clusters are real Kubernetes and whose ECS tasks may be containers.

Started by `tests/src/cloud.rs` (and by nothing else); the two speak JSON lines. The first line on standard output is
`{"ready": {"endpoint": …}}`; then each line on standard input is one wish, answered by one line. When standard input
ends, because the parent wishes it or is gone, everything started here is killed: state never outlives a test.

MiniStack would start each EKS cluster as a k3s container. Given a client whose containers start processes instead,
`CreateCluster` starts a real etcd, kube-apiserver, controller-manager, scheduler and kwok (`cluster.py`) on the port
that `DescribeCluster` reports, with MiniStack's EKS token webhook and access entries in force.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import threading
import time
import traceback
from types import SimpleNamespace

import containers
import ports
import process
import sessions


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="everything is kept below it")
    parser.add_argument("--manifest", type=pathlib.Path, required=True, help="where programs are (cargo xtask tools)")
    parser.add_argument("--containers", action="store_true", help="ECS tasks are containers, through podman")
    parser.add_argument("--session-seconds", type=int, help="role sessions and EKS tokens end after this, whatever is asked for")
    parser.add_argument("--keep", action="store_true", help="leave the folder with all logs")
    return parser.parse_args()


def configure(options, port, socket):
    """MiniStack reads its environment when it is imported."""
    scratch = options.folder / "ministack"
    scratch.mkdir(parents=True, exist_ok=True)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # the caller's own cloud is none of ours
    os.environ.update({
        "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "AUTH": "true", "LOG_LEVEL": "WARNING",
        "TMPDIR": str(scratch), "S3_DATA_DIR": str(scratch / "s3"), "MINISTACK_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1", "PERSIST_STATE": "0",
        "DOCKER_HOST": socket or f"unix://{scratch}/no-docker-here",
    })


def put_clusters_behind_eks(options):
    from ministack.services import eks

    import cluster

    clusters = cluster.Clusters(options.folder / "clusters", options.manifest)
    eks._get_docker = lambda: SimpleNamespace(containers=clusters)
    eks._next_port = ports.free
    return clusters


def wait_until_served(port):
    import urllib.request

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_ministack/health", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"MiniStack did not answer on port {port} within 60 s")


def converse(port, clusters, answers, leave):
    """Serves the parent's wishes until its end of the pipe is closed."""
    try:
        wait_until_served(port)
        import scenery

        stage = scenery.Scenery(f"http://127.0.0.1:{port}", clusters)
        say(answers, {"ready": {"endpoint": f"http://127.0.0.1:{port}", **stage.accounts()}})
        for line in sys.stdin:
            wish = json.loads(line)
            try:
                say(answers, {"ok": getattr(stage, "wish_" + wish.pop("wish"))(**wish)})
            except Exception as error:  # the parent decides what a refused wish means
                traceback.print_exc()
                say(answers, {"error": f"{type(error).__name__}: {error}"})
    except Exception as error:
        traceback.print_exc()
        say(answers, {"error": f"{type(error).__name__}: {error}"})
    finally:
        leave()


def say(answers, value):
    answers.write(json.dumps(value, default=str) + "\n")
    answers.flush()


def leaver(options, clusters, podman):
    """What is to be done at the end. Nothing here is worth a clean shutdown but containers, which are not our children."""
    once = threading.Lock()

    def leave():
        once.acquire()  # and never given back: whoever comes second waits for the exit
        try:
            clusters.kill()
            if podman:
                podman.stop()
            if not options.keep:
                shutil.rmtree(options.folder, ignore_errors=True)
        finally:
            os._exit(0)

    return leave


def main():
    options = arguments()
    # Answers go out on a copy of standard output; whatever else prints goes to the log with standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    process.start_spawner()
    podman = containers.Service(options.folder / "podman") if options.containers else None
    port = ports.free()
    configure(options, port, podman and podman.socket)
    clusters = put_clusters_behind_eks(options)
    if options.session_seconds:
        sessions.cut_short(options.session_seconds)
    import web_identity

    web_identity.install()
    leave = leaver(options, clusters, podman)
    try:
        if podman:
            podman.start()
            containers.give_limits()
        from ministack.app import main as serve

        threading.Thread(target=converse, args=(port, clusters, answers, leave), daemon=True, name="converse").start()
        sys.argv = ["ministack"]
        serve()
    except Exception as error:
        traceback.print_exc()
        say(answers, {"error": f"{type(error).__name__}: {error}"})
    finally:
        leave()


if __name__ == "__main__":
    main()
