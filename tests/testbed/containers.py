"""Podman's socket for ECS tasks that are real containers: its own configuration, storage and image, in the cloud's
folder. No Docker daemon, no registry.
"""

import os
import pathlib
import shutil
import subprocess
import time

import process

# The one image there is: busybox, with /bin/sh and everything it links to (tests/src/podman.rs names it, too).
IMAGE = "localhost/deputy-test:1"
APPLETS = ["sh", "sleep", "echo", "cat", "true", "false", "env", "date", "nc", "httpd", "wget"]
READY_SECONDS = 30

CONTAINERS_CONF = """[containers]
netns = "host"
default_ulimits = ["nofile=1024:20000", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Service:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.socket = f"unix://{self.folder}/podman.sock"
        self.environment = {**os.environ, "CONTAINERS_CONF": f"{self.folder}/containers.conf",
                            "CONTAINERS_STORAGE_CONF": f"{self.folder}/storage.conf"}
        for name in ("DOCKER_HOST", "CONTAINER_HOST"):
            self.environment.pop(name, None)

    def start(self):
        (self.folder / "containers.conf").write_text(CONTAINERS_CONF)
        (self.folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{self.folder}/storage"\nrunroot = "{self.folder}/run"\n')
        self._import_image()
        log = self.folder / "podman.log"
        child = process.spawn(["podman", "system", "service", "--time=0", self.socket], log, self.folder,
                              self.environment)
        deadline = time.monotonic() + READY_SECONDS
        while not (self.folder / "podman.sock").exists():
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"podman's service did not start: {log.read_text()}")
            time.sleep(0.02)

    def stop(self):
        """Containers are not children of the service: they would go on."""
        self._podman("rm", "--all", "--force", "--time", "0", check=False)

    def _import_image(self):
        tree = self.folder / "tree"
        for name in ("bin", "tmp", "etc", "proc", "sys", "dev"):
            (tree / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox"), tree / "bin/busybox")
        for applet in APPLETS:
            (tree / "bin" / applet).symlink_to("busybox")
        archive = shutil.make_archive(str(self.folder / "image"), "tar", tree)
        self._podman("import", "--change", "ENV PATH=/bin", archive, IMAGE)

    def _podman(self, *arguments, check=True):
        done = subprocess.run(["podman", *arguments], env=self.environment, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"podman {arguments[0]}: {done.stderr}")


def give_limits():
    """Podman's Docker API would ask for limits that an unprivileged host refuses."""
    import docker
    from docker.models.containers import ContainerCollection

    limits = [docker.types.Ulimit(name="nofile", soft=1024, hard=20000),
              docker.types.Ulimit(name="nproc", soft=1000, hard=1000)]

    def limited(original):
        return lambda self, *args, **kwargs: original(self, *args, **{"ulimits": limits, **kwargs})

    ContainerCollection.run = limited(ContainerCollection.run)
    ContainerCollection.create = limited(ContainerCollection.create)
