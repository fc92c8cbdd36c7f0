"""A real Kubernetes from processes, in the shape of what MiniStack believes to be a k3s container."""

import io
import json
import os
import pathlib
import ssl
import subprocess
import tarfile
import time
import urllib.request

import certificates
import ports
import process
import stages

READY_SECONDS = 90

KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://localhost:{port}", certificate-authority: {folder}/ca.crt}}}}]
users: [{{name: admin, user: {{client-certificate: {folder}/admin.crt, client-key: {folder}/admin.key}}}}]
contexts: [{{name: x, context: {{cluster: c, user: admin}}}}]
current-context: x
"""

# Who changed what, and with which result: enough to count mutations. Reads and the control plane's own work are noise.
AUDIT_POLICY = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, verbs: [get, list, watch]}
- {level: None, userGroups: ["system:nodes"]}
- {level: None, users: ["system:apiserver", "system:kube-scheduler", "system:kube-controller-manager", "admin"]}
- {level: Metadata}
"""


class Clusters(dict):
    """The one thing of a Docker client that MiniStack's EKS uses."""

    def __init__(self, folder, manifest):
        super().__init__()
        self.folder, self.manifest = folder, manifest

    def create(self, **kwargs):
        # Its programs may have been built since the cloud began.
        cluster = Cluster(kwargs, self.folder, json.loads(self.manifest.read_text()))
        self[cluster.id] = cluster
        return cluster

    def get(self, key):
        return self[key]

    def list(self, **_):
        return list(self.values())

    def named(self, name):
        return next(cluster for cluster in self.values() if cluster.labels.get("cluster_name") == name)

    def kill(self):
        for cluster in self.values():
            cluster.stop()


class Cluster:
    def __init__(self, kwargs, folder, manifest):
        self.port = kwargs["ports"]["6443/tcp"]
        self.id = self.name = kwargs["name"]
        self.labels = kwargs["labels"]
        self.status = "created"
        self.manifest = manifest
        self.folder = pathlib.Path(folder) / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.processes = []
        self.failure = None

    def put_archive(self, _path, data):
        """MiniStack uploads the token webhook's kubeconfig; its host name is the one thing to change."""
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if member.name.endswith("eks-auth-webhook.yaml"):
                    text = archive.extractfile(member).read().decode()
                    (self.folder / "webhook.yaml").write_text(text.replace("host.docker.internal", "127.0.0.1"))

    def start(self):
        try:
            self._start()
        except Exception as error:
            # MiniStack would report a cluster that does not work as ACTIVE; the harness asks for this instead.
            self.failure = f"{error}; logs: {self.folder}"
            raise

    def _start(self):
        certificates.write(self.folder)
        kubeconfig = self.folder / "admin.kubeconfig"
        kubeconfig.write_text(KUBECONFIG.format(port=self.port, folder=self.folder))
        (self.folder / "audit-policy.yaml").write_text(AUDIT_POLICY)
        (self.folder / "stages.yaml").write_text(stages.compose(self.manifest["kwok-stages"]))
        etcd, peers = (f"http://127.0.0.1:{ports.free()}" for _ in range(2))
        self._spawn("etcd", "--data-dir", "etcd", "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
                    "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
                    "--initial-cluster", f"default={peers}", "--unsafe-no-fsync", "--log-level", "warn")
        self._spawn("kube-apiserver", "--etcd-servers", etcd, "--secure-port", str(self.port),
                    "--bind-address", "127.0.0.1",
                    "--tls-cert-file", "server.crt", "--tls-private-key-file", "server.key",
                    "--client-ca-file", "ca.crt",
                    "--service-account-issuer", "https://kubernetes.default.svc",
                    "--service-account-key-file", "sa.key", "--service-account-signing-key-file", "sa.key",
                    "--service-cluster-ip-range", "10.100.0.0/16", "--authorization-mode", "RBAC",
                    "--authentication-token-webhook-config-file", "webhook.yaml",
                    "--authentication-token-webhook-cache-ttl", "1s",
                    "--disable-admission-plugins", "ServiceAccount",
                    "--audit-policy-file", "audit-policy.yaml", "--audit-log-path", "audit.log",
                    "--audit-log-mode", "blocking", "--audit-log-maxsize", "100000")
        self._wait_until_ready()
        self._spawn("kube-controller-manager", "--kubeconfig", str(kubeconfig), "--leader-elect=false",
                    "--service-account-private-key-file", "sa.key", "--root-ca-file", "ca.crt", "--secure-port", "0")
        self._spawn("kube-scheduler", "--kubeconfig", str(kubeconfig), "--leader-elect=false", "--secure-port", "0")
        self._spawn("kwok", "--config", "stages.yaml", "--kubeconfig", str(kubeconfig),
                    "--manage-all-nodes=true", "--node-ip", "127.0.0.1", "--server-address", "")
        self.status = "running"

    def exec_run(self, command, **_):
        if isinstance(command, str) and command.endswith("server-ca.crt"):
            return 0, (self.folder / "ca.crt").read_bytes()
        tools = pathlib.Path(self.manifest["kubectl"]).parent
        environment = {**os.environ, "KUBECONFIG": str(self.folder / "admin.kubeconfig"),
                       "PATH": f"{tools}:{os.environ['PATH']}"}
        done = subprocess.run(command, env=environment, capture_output=True)
        return done.returncode, done.stdout + done.stderr

    def stop(self, **_):
        """Killed, etcd last: nothing of a test's cluster is read again."""
        for child in reversed(self.processes):
            child.kill()
        for child in reversed(self.processes):
            child.wait(10)
        self.processes = []

    def remove(self, **_):
        pass

    def reload(self):
        pass

    def request(self, method, path, body=None, content_type="application/json"):
        """One request to the API server as its administrator."""
        context = ssl.create_default_context(cafile=self.folder / "ca.crt")
        context.load_cert_chain(self.folder / "admin.crt", self.folder / "admin.key")
        request = urllib.request.Request(f"https://localhost:{self.port}{path}", method=method, data=body,
                                         headers={"Content-Type": content_type})
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return answer.read()

    def _spawn(self, program, *arguments):
        log = self.folder / f"{program}.log"
        child = process.spawn([self.manifest[program], *arguments], log, self.folder)
        child.log = log
        self.processes.append(child)

    def _wait_until_ready(self):
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            for child in self.processes:
                if child.poll() is not None:
                    raise RuntimeError(f"{child.args[0]} ended with {child.returncode}; its log: {child.log}")
            try:
                if self.request("GET", "/readyz") == b"ok":
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise TimeoutError(f"kube-apiserver was not ready within {READY_SECONDS} s; its log: {self.folder}")
