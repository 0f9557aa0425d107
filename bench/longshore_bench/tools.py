"""The builders: how each is started, told to build, push and save, and stopped.

Every tool has all its state in one folder, which `fresh` makes anew: with the base image
`tiny:1` in it, or without. A tool with a daemon runs it in process and mount namespaces of
its own: when the first process there ends, all that it started ends and its mounts are gone.
A tool without one, that mounts, gets a mount namespace for each command.
"""

import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import time

from . import measure

STARTUP_SECONDS = 60
REMOVERS = 32
NAMESPACES = ["unshare", "--kill-child", "--mount", "--pid", "--fork", "--mount-proc"]
# No build here asks the network for anything but the base image of row H.
NETWORK = "--network=none"


class Tool:
    """A builder; `None` from `find` where it is not installed."""

    name = ""
    # What its layers are stored as when nothing is asked for.
    stores = "gzip"
    zstd = False
    # Whether it reads and writes build caches in registries here.
    moves_caches = False
    daemon = None

    def __init__(self, scratch, workloads, busybox):
        self.folder = os.path.join(scratch, self.name)
        self.log = os.path.join(scratch, f"{self.name}.log")
        self.workloads = workloads
        self.busybox = busybox
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not re.match("LONGSHORE|DOCKER|BUILD|CONTAINER|SOURCE_DATE|NO_COLOR", name)
        }

    def version(self):
        raise NotImplementedError

    def fresh(self, bases=True):
        """Nothing built, nothing pulled; the base image there, if it is to be."""
        self.stop()
        os.makedirs(self.folder)
        self.start()
        if bases:
            self.load(self.workloads.tiny_base(self.busybox))

    def start(self):
        """Starts the daemon, where there is one."""

    def stop(self):
        """Ends the daemon and removes all state."""
        remove_tree(self.folder)

    def build(self, context, tag, compression=None, cache_to=None, cache_from=None):
        """The command that builds `context` as `tag`. The caches are references: what every
        step made goes to the one, and is taken from the other."""
        raise NotImplementedError

    def save(self, tag, file):
        raise NotImplementedError

    def push(self, context, tag, reference):
        """The command that pushes what was built from `context` as `tag`."""
        raise NotImplementedError

    def build_and_push(self, context, reference):
        """The command that builds and pushes; `None` where that takes two."""
        return None

    def run(self, argv):
        """Runs a command and measures it."""
        return measure.run(argv, self.environment, self.log, self.daemon)

    def quietly(self, argv):
        measure.quietly(argv, self.environment, self.log)

    def _says(self, argv):
        try:
            done = subprocess.run(
                argv, env=self.environment, capture_output=True, text=True, check=True
            )
            return done.stdout.strip().splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            return None


class Longshore(Tool):
    """What this repository makes."""

    name = "longshore"
    zstd = True
    moves_caches = True

    def __init__(self, program, *rest):
        super().__init__(*rest)
        self.program = program

    def version(self):
        return self._says([self.program, "--version"])

    def _command(self, *args):
        return [self.program, "--root", self.folder, *args]

    def load(self, base):
        self.quietly(self._command("load", "-i", os.path.join(base, "layout.tar")))

    def build(self, context, tag, compression=None, cache_to=None, cache_from=None):
        output = ["-t", tag]
        if compression:
            output = ["-o", f"type=image,name={tag},compression={compression}"]
        return self._command("build", NETWORK, *output, *_caches(cache_to, cache_from), context)

    def build_and_push(self, context, reference):
        return self._command("build", NETWORK, "-t", reference, "--push", context)

    def save(self, tag, file):
        self.quietly(self._command("save", "-o", file, tag))

    def push(self, context, tag, reference):
        self.quietly(self._command("tag", tag, reference))
        return self._command("push", reference)


class Daemon(Tool):
    """A tool that needs one."""

    def _launch(self, argv):
        log = open(self.log, "ab")
        with log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *NAMESPACES, *argv],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.daemon = self.process.pid
        deadline = time.monotonic() + STARTUP_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise measure.Failed(f"{argv[0]} does not answer: see {self.log}")
            time.sleep(0.05)

    def _halt(self):
        if self.daemon is not None:
            self.process.kill()
            self.process.wait()
            self.daemon = None

    def _warm_up(self):
        """A daemon's first build is slower than the next ones."""
        folder = os.path.join(self.folder, "warm-up")
        os.makedirs(folder)
        with open(os.path.join(folder, "Dockerfile"), "w", encoding="utf-8") as file:
            file.write("FROM scratch\nCOPY Dockerfile /\n")
        self.quietly(self.build(folder, "warm-up:1"))


class Docker(Daemon):
    """dockerd, with the BuildKit in it."""

    name = "docker"

    def __init__(self, usr, *rest):
        super().__init__(*rest)
        self.usr = usr
        path = self.environment.get("PATH", "")
        self.environment["PATH"] = f"{usr}/bin:{usr}/sbin:{path}"
        self.environment["DOCKER_BUILDKIT"] = "1"
        self.environment["DOCKER_HOST"] = f"unix://{self.folder}/sock"
        self.environment["DOCKER_CONFIG"] = f"{self.folder}/client"
        # An attestation with every image is more than the others make.
        self.environment["BUILDX_NO_DEFAULT_ATTESTATIONS"] = "1"
        said = self._says([f"{usr}/sbin/dockerd", "--version"]) or ""
        found = re.search(r"version (\d+)", said)
        self.major = int(found[1]) if found else 0
        # From here on images are kept as they would be pushed, by containerd.
        self.containerd = self.major >= 25
        self.zstd = self.moves_caches = self.containerd
        if not self.containerd:
            self.stores = "uncompressed"

    @classmethod
    def find(cls, folder, *rest):
        """Unpacked in `folder`, else installed."""
        if folder and os.path.exists(os.path.join(folder, "usr/sbin/dockerd")):
            return cls(os.path.join(folder, "usr"), *rest)
        dockerd = shutil.which("dockerd")
        if dockerd:
            return cls(os.path.dirname(os.path.dirname(dockerd)), *rest)
        return None

    def version(self):
        if self.major < 18:
            return None
        return self._says([f"{self.usr}/sbin/dockerd", "--version"])

    def start(self):
        os.makedirs(os.path.join(self.folder, "client"))
        plugins = [f"{self.usr}/libexec/docker/cli-plugins", f"{self.usr}/lib/docker/cli-plugins"]
        self._json("client/config.json", {"cliPluginsExtraDirs": plugins})
        features = {"features": {"containerd-snapshotter": True}} if self.containerd else {}
        self._json("daemon.json", features)
        place = lambda name: os.path.join(self.folder, name)  # noqa: E731
        self._launch(
            [f"{self.usr}/sbin/dockerd", "--config-file", place("daemon.json")]
            + ["--data-root", place("data"), "--exec-root", place("exec")]
            + ["--pidfile", place("pid"), "--host", f"unix://{place('sock')}"]
            + ["--cgroup-parent", f"/{self._control_group()}"]
            + ["--bridge", "none", "--iptables=false", "--ip6tables=false"]
            + ["--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"]
        )
        self._warm_up()

    def stop(self):
        self._halt()
        _remove_control_groups(self._control_group())
        super().stop()

    def _control_group(self):
        return f"longshore-bench-{os.getpid()}"

    def _json(self, name, value):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            json.dump(value, file)

    def _answers(self):
        return self._says([f"{self.usr}/bin/docker", "version", "-f", "{{.Server.Version}}"])

    def _command(self, *args):
        return [f"{self.usr}/bin/docker", *args]

    def load(self, base):
        self.quietly(self._command("load", "-i", os.path.join(base, "layout.tar")))

    def build(self, context, tag, compression=None, cache_to=None, cache_from=None):
        output = ["-t", tag]
        if compression:
            name = tag if "/" in tag else f"docker.io/library/{tag}"
            output = ["-o", f"type=image,name={name},compression={compression}"]
        caches = _caches(cache_to, cache_from)
        return self._command("build", "--progress=plain", NETWORK, *output, *caches, context)

    def save(self, tag, file):
        self.quietly(self._command("save", "-o", file, tag))

    def push(self, context, tag, reference):
        self.quietly(self._command("tag", tag, reference))
        return self._command("push", reference)

    def build_and_push(self, context, reference):
        if not self.containerd:
            return None
        output = f"type=image,name={reference},push=true"
        return self._command("build", "--progress=plain", NETWORK, "-o", output, context)


class BuildKit(Daemon):
    """A standalone buildkitd with its own worker, and buildctl."""

    name = "buildkit"
    zstd = True
    moves_caches = True

    @classmethod
    def find(cls, *rest):
        return cls(*rest) if shutil.which("buildctl") and shutil.which("buildkitd") else None

    def version(self):
        return self._says(["buildkitd", "--version"])

    def start(self):
        self.layout = None
        # What a tag was built from: buildctl exports by building once more.
        self.saved = {}
        self._launch(
            ["buildkitd", "--config", os.devnull, "--root", os.path.join(self.folder, "root")]
            + ["--addr", self._address(), "--oci-worker-snapshotter", "overlayfs"]
            + ["--containerd-worker=false"]
        )
        self._warm_up()

    def stop(self):
        self._halt()
        _remove_control_groups("buildkit")
        super().stop()

    def _address(self):
        return f"unix://{self.folder}/sock"

    def _answers(self):
        return self._says(["buildctl", "--addr", self._address(), "debug", "workers"])

    def load(self, base):
        self.layout = os.path.join(base, "layout")

    def build(self, context, tag, compression=None, cache_to=None, cache_from=None):
        self.saved[tag] = context
        name = tag if "/" in tag else f"docker.io/library/{tag}"
        output = f"type=image,name={name}"
        if compression:
            output += f",compression={compression}"
        caches = []
        if cache_to:
            place = f"type=registry,ref={cache_to},mode=max,registry.insecure=true"
            caches += ["--export-cache", place]
        if cache_from:
            place = f"type=registry,ref={cache_from},registry.insecure=true"
            caches += ["--import-cache", place]
        return [*self._build(context, output), *caches]

    def build_and_push(self, context, reference):
        output = f"type=image,name={reference},push=true,registry.insecure=true"
        return self._build(context, output)

    def _build(self, context, output):
        argv = ["buildctl", "--addr", self._address(), "build", "--progress=plain"]
        argv += ["--frontend", "dockerfile.v0", "--opt", "force-network-mode=none"]
        argv += ["--local", f"context={context}", "--local", f"dockerfile={context}"]
        if self.layout:
            with open(os.path.join(self.layout, "index.json"), encoding="utf-8") as file:
                digest = json.load(file)["manifests"][0]["digest"]
            argv += ["--oci-layout", f"tiny={self.layout}"]
            argv += ["--opt", f"context:tiny:1=oci-layout://tiny@{digest}"]
        return [*argv, "--output", output]

    def save(self, tag, file):
        context = self.saved[tag]
        self.quietly(self._build(context, f"type=docker,name=docker.io/library/{tag},dest={file}"))

    def push(self, context, tag, reference):
        return self._build(
            context, f"type=image,name={reference},push=true,registry.insecure=true"
        )


class Buildah(Tool):
    """Buildah; it keeps layers as directories."""

    name = "buildah"
    stores = "uncompressed"
    words = ("bud", "--layers")

    @classmethod
    def find(cls, *rest):
        return cls(*rest) if shutil.which(cls.name) and shutil.which("unshare") else None

    def version(self):
        return self._says([self.name, "--version"])

    def _command(self, *args):
        argv = ["unshare", "--mount", self.name, "--storage-driver", "overlay"]
        argv += ["--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run"]
        return [*argv, *self._further(), *args]

    def _further(self):
        return []

    def load(self, base):
        # A name without a registry is looked up as `localhost/…` here.
        self.quietly(self._command("pull", f"docker-archive:{base}/layout.tar"))

    def build(self, context, tag, compression=None, cache_to=None, cache_from=None):
        argv = self._command(*self.words, "--tls-verify=false", NETWORK, "-t", tag)
        runtime = ["--runtime", shutil.which("runc")] if shutil.which("runc") else []
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        return [*argv, *self._runtime(runtime), *limits, context]

    def _runtime(self, runtime):
        return runtime

    def save(self, tag, file):
        self.quietly(self._command("push", tag, f"docker-archive:{file}:{tag}"))

    def push(self, context, tag, reference):
        return self._command("push", "--tls-verify=false", tag, f"docker://{reference}")


class Podman(Buildah):
    """`podman build`: Buildah as a library."""

    name = "podman"
    words = ("build",)

    def _further(self):
        argv = ["--cgroup-manager", "cgroupfs", "--tmpdir", f"{self.folder}/tmp"]
        return [*argv, "--events-backend", "none"] + (
            ["--runtime", shutil.which("runc")] if shutil.which("runc") else []
        )

    def _runtime(self, runtime):
        return []

    def save(self, tag, file):
        self.quietly(self._command("save", "--format", "docker-archive", "-o", file, tag))


def _caches(cache_to, cache_from):
    """Docker's flags, which are ours."""
    flags = []
    if cache_to:
        flags += ["--cache-to", f"type=registry,ref={cache_to},mode=max"]
    if cache_from:
        flags += ["--cache-from", f"type=registry,ref={cache_from}"]
    return flags


def remove_tree(folder):
    """Removes a folder with everything in it, many files at once: some file systems wait for
    the disk at each."""
    with concurrent.futures.ThreadPoolExecutor(REMOVERS) as pool:
        for place, _, files in os.walk(folder):
            for name in files:
                pool.submit(os.unlink, os.path.join(place, name))
    shutil.rmtree(folder, ignore_errors=True)


def _remove_control_groups(name):
    """A control group can be removed when the last process in it is gone."""
    top = "/sys/fs/cgroup"
    if not os.path.isdir(top):
        return
    for hierarchy in [top, *(os.path.join(top, entry) for entry in os.listdir(top))]:
        group = os.path.join(hierarchy, name)
        if not os.path.isdir(group):
            continue
        deadline = time.monotonic() + 10
        while os.path.isdir(group) and time.monotonic() < deadline:
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    time.sleep(0.02)
