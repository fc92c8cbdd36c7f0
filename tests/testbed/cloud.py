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
import sys
import threading
import time
import traceback
from types import SimpleNamespace

import ports
import process


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="everything is kept below it")
    parser.add_argument("--manifest", type=pathlib.Path, required=True, help="where programs are (cargo xtask tools)")
    parser.add_argument("--containers", metavar="SOCKET", help="a Docker-compatible socket: ECS tasks are containers")
    return parser.parse_args()


def configure(options, port):
    """MiniStack reads its environment when it is imported."""
    scratch = options.folder / "ministack"
    scratch.mkdir(parents=True, exist_ok=True)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # the caller's own cloud is none of ours
    os.environ.update({
        "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "AUTH": "true", "LOG_LEVEL": "WARNING",
        "TMPDIR": str(scratch), "S3_DATA_DIR": str(scratch / "s3"), "MINISTACK_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1", "PERSIST_STATE": "0",
        "DOCKER_HOST": options.containers or f"unix://{scratch}/no-docker-here",
    })


def give_containers_limits():
    """Podman's Docker API would ask for limits that an unprivileged host refuses."""
    import docker
    from docker.models.containers import ContainerCollection

    limits = [docker.types.Ulimit(name="nofile", soft=1024, hard=20000),
              docker.types.Ulimit(name="nproc", soft=1000, hard=1000)]

    def limited(original):
        return lambda self, *args, **kwargs: original(self, *args, **{"ulimits": limits, **kwargs})

    ContainerCollection.run = limited(ContainerCollection.run)
    ContainerCollection.create = limited(ContainerCollection.create)


def put_clusters_behind_eks(options, manifest):
    from ministack.services import eks

    import cluster

    clusters = cluster.Clusters(options.folder / "clusters", manifest)
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


def converse(port, clusters, answers):
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
        leave(clusters)


def say(answers, value):
    answers.write(json.dumps(value, default=str) + "\n")
    answers.flush()


def leave(clusters):
    """Nothing here is worth a clean shutdown but the containers, which are not our children."""
    try:
        clusters.kill()
        if os.environ["DOCKER_HOST"] and os.path.exists(os.environ["DOCKER_HOST"].removeprefix("unix://")):
            from ministack import app

            app._stop_docker_containers()
    finally:
        os._exit(0)


def main():
    options = arguments()
    # Answers go out on a copy of standard output; whatever else prints goes to the log with standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    manifest = json.loads(options.manifest.read_text())
    port = ports.free()
    configure(options, port)
    process.start_spawner()
    clusters = put_clusters_behind_eks(options, manifest)
    if options.containers:
        give_containers_limits()
    from ministack.app import main as serve

    threading.Thread(target=converse, args=(port, clusters, answers), daemon=True, name="converse").start()
    sys.argv = ["ministack"]
    try:
        serve()
    finally:
        leave(clusters)


if __name__ == "__main__":
    main()
