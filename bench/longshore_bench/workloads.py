"""Contexts and base images, made from a seed, kept for the next run.

The same seed gives the same bytes. What is here is read only: a row that edits a file puts
it back.
"""

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import tarfile

# Counted up when what is made here changes, so that old ones are not taken for it.
VERSION = 2

# Row A: 30,000 files of text, 190 MB.
SMALL_FILES = 30_000
SMALL_FILES_BYTES = 190_000_000
# Row D: 512 MB of text and 256 MB that do not compress, in files of 64 MB.
LARGE_FILE_BYTES = 64 << 20
LARGE_TEXT_FILES = 8
LARGE_RANDOM_FILES = 4
# Text is cut from a pool: far larger than the window of gzip, and larger than that of zstd's
# usual levels, so that no compressor finds a piece twice.
POOL_BYTES = 48 << 20

# Rows J and K: 92 MB that steps make, 12 MB of them in the result.
CACHED_FILES = 8
CACHED_FILE_BYTES = 4_000_000

STEPS_ECHO = 60
STAGES_ASLEEP = 8

# No time in a base image is that of the run.
EPOCH = 1_700_000_000
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
APPLETS = ("sh", "cat", "cp", "echo", "ls", "mkdir", "sleep", "true")
# Some builders leave what they mounted over in the image: in the base, it is there already.
MOUNT_POINTS = ("dev", "proc", "run", "sys")
FILES = {
    "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n",
    "etc/hosts": b"",
    "etc/hostname": b"",
    "etc/resolv.conf": b"",
}


class Workloads:
    """The folders of one seed."""

    def __init__(self, cache, seed):
        self.folder = os.path.join(cache, f"v{VERSION}-seed{seed}")
        self.seed = seed
        os.makedirs(self.folder, exist_ok=True)

    def _made(self, name, make):
        """The folder `name`; made beside it first, so that half of one is never found."""
        final = os.path.join(self.folder, name)
        if not os.path.exists(final):
            new = f"{final}.new"
            shutil.rmtree(new, ignore_errors=True)
            os.makedirs(new)
            make(new)
            os.rename(new, final)
        return final

    def small_files(self):
        """Rows A to C."""
        return self._made("small-files", lambda folder: _small_files(folder, self.seed))

    def large_files(self):
        """Rows D and I."""
        return self._made("large-files", lambda folder: _large_files(folder, self.seed))

    def echo_steps(self):
        """Row E."""
        runs = [f"RUN echo {n} > /echo-{n}" for n in range(STEPS_ECHO)]
        return self._dockerfile("echo-steps", ["FROM tiny:1", *runs])

    def sleeping_stages(self):
        """Row F."""
        lines = []
        for n in range(STAGES_ASLEEP):
            lines += [f"FROM tiny:1 AS s{n}", f"RUN sleep 2 && echo {n} > /slept-{n}"]
        lines.append("FROM tiny:1")
        lines += [f"COPY --from=s{n} /slept-{n} /" for n in range(STAGES_ASLEEP)]
        return self._dockerfile("sleeping-stages", lines)

    def twenty_steps(self):
        """Row G: three stages, twenty steps, some files."""
        return self._made("twenty-steps", lambda folder: _twenty_steps(folder, self.seed))

    def cached_stages(self):
        """Rows J and K: three stages, twenty-three steps, of which the result has a part."""
        return self._made("cached-stages", lambda folder: _cached_stages(folder, self.seed))

    def _dockerfile(self, name, lines):
        return self._made(name, lambda folder: _write(folder, "Dockerfile", "\n".join(lines) + "\n"))

    def tiny_base(self, busybox):
        """`tiny:1`, a busybox, as an OCI layout; `.tar` beside it is the same for `load`."""

        def make(folder):
            layer = os.path.join(folder, "layer.tar")
            _busybox_layer(busybox, layer)
            Layout(os.path.join(folder, "layout")).image(layer, "tiny:1", compress=False)
            _archive(os.path.join(folder, "layout"), os.path.join(folder, "layout.tar"))
            os.unlink(layer)

        return self._made("tiny-base", make)

    def debian_base(self, tar):
        """A Debian root file system as an OCI layout with one gzip layer: row H."""
        return self._made(
            "debian-base", lambda folder: Layout(folder).image(tar, "debian:12", compress=True)
        )


class Layout:
    """An OCI layout of one image, which is a Docker archive also when it is put into a tar."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(os.path.join(folder, "blobs", "sha256"), exist_ok=True)

    def image(self, tar, name, compress):
        diff_id, layer = self._layer(tar, compress)
        kind = "tar+gzip" if compress else "tar"
        config = self._json(
            {
                "architecture": _architecture(),
                "os": "linux",
                "created": "2023-11-14T22:13:20Z",
                "config": {"Env": [PATH], "Cmd": ["sh"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
                "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "a base"}],
            }
        )
        manifest = self._json(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": self._descriptor(config, "application/vnd.oci.image.config.v1+json"),
                "layers": [self._descriptor(layer, f"application/vnd.oci.image.layer.v1.{kind}")],
            }
        )
        descriptor = self._descriptor(manifest, "application/vnd.oci.image.manifest.v1+json")
        descriptor["annotations"] = {
            "org.opencontainers.image.ref.name": name.split(":")[1],
            "io.containerd.image.name": f"docker.io/library/{name}",
        }
        _write(self.folder, "oci-layout", '{"imageLayoutVersion":"1.0.0"}')
        _write(self.folder, "index.json", json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
        docker = {
            "Config": f"blobs/sha256/{config}",
            "RepoTags": [name],
            "Layers": [f"blobs/sha256/{layer}"],
        }
        _write(self.folder, "manifest.json", json.dumps([docker]))

    def blob(self, digest):
        return os.path.join(self.folder, "blobs", "sha256", digest.removeprefix("sha256:"))

    def manifest(self):
        """The image's manifest: its bytes and the descriptor that names it."""
        with open(os.path.join(self.folder, "index.json"), encoding="utf-8") as file:
            descriptor = json.load(file)["manifests"][0]
        with open(self.blob(descriptor["digest"]), "rb") as file:
            return file.read(), descriptor

    def _layer(self, tar, compress):
        new = os.path.join(self.folder, "new")
        diff = hashlib.sha256()
        with open(tar, "rb") as source, open(new, "wb") as target:
            sink = gzip.GzipFile("", "wb", 6, target, mtime=0) if compress else target
            while piece := source.read(1 << 20):
                diff.update(piece)
                sink.write(piece)
            if compress:
                sink.close()
        digest = hash_file(new)
        os.rename(new, self.blob(digest))
        return diff.hexdigest(), digest

    def _json(self, value):
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        with open(self.blob(digest), "wb") as file:
            file.write(data)
        return digest

    def _descriptor(self, digest, media_type):
        size = os.path.getsize(self.blob(digest))
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def hash_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _architecture():
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _write(folder, name, text):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _text_pool(rng, size):
    """Lines that look like source text: common and rare words, indented, with numbers."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(6000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    lines, length = [], 0
    while length < size:
        chosen = rng.choices(words, weights, k=4000)
        position = 0
        while position < len(chosen):
            count = rng.randint(3, 14)
            indent = "    " * rng.randint(0, 3)
            line = f"{indent}{' '.join(chosen[position:position + count])} = {rng.randint(0, 99999)};\n"
            lines.append(line)
            length += len(line)
            position += count
    return "".join(lines).encode()[:size]


def _small_files(folder, seed):
    rng = random.Random(f"small {seed}")
    pool = _text_pool(rng, POOL_BYTES // 4)
    sizes = [min(int(rng.lognormvariate(0, 1.1) * 1000) + 40, 400_000) for _ in range(SMALL_FILES)]
    scale = SMALL_FILES_BYTES / sum(sizes)
    for number, size in enumerate(sizes):
        size = max(int(size * scale), 16)
        start = rng.randrange(len(pool) - size)
        place = os.path.join(folder, f"part{number % 20:02}", f"module{number // 20 % 50:02}")
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, f"file{number:05}.txt"), "wb") as file:
            file.write(b"// %d\n" % number + pool[start : start + size])
    _write(folder, "Dockerfile", "FROM tiny:1\nWORKDIR /app\nCOPY . .\n")


def _large_files(folder, seed):
    rng = random.Random(f"large {seed}")
    pool = _text_pool(rng, POOL_BYTES)
    os.makedirs(os.path.join(folder, "data"))
    for number in range(LARGE_TEXT_FILES):
        with open(os.path.join(folder, "data", f"text{number}"), "wb") as file:
            left = LARGE_FILE_BYTES
            while left > 0:
                size = min(rng.randrange(1 << 10, 64 << 10), left)
                start = rng.randrange(len(pool) - size)
                file.write(pool[start : start + size])
                left -= size
    for number in range(LARGE_RANDOM_FILES):
        with open(os.path.join(folder, "data", f"random{number}"), "wb") as file:
            for _ in range(LARGE_FILE_BYTES >> 20):
                file.write(rng.randbytes(1 << 20))
    _write(folder, "Dockerfile", "FROM tiny:1\nCOPY data /data/\n")


def _twenty_steps(folder, seed):
    rng = random.Random(f"twenty {seed}")
    pool = _text_pool(rng, 1 << 20)
    for number in range(200):
        start = rng.randrange(len(pool) - 5000)
        _write(folder, f"src/file{number:03}.txt", pool[start : start + 5000].decode())
    lines = ["FROM tiny:1 AS deps", "WORKDIR /deps", "COPY src/file000.txt ."]
    lines += [f"RUN echo {n} > dep-{n}" for n in range(4)]
    lines += ["FROM tiny:1 AS build", "ARG VERSION=1", "WORKDIR /build"]
    lines += ["COPY --from=deps /deps ./deps", "COPY src ./src"]
    lines += [f"RUN echo $VERSION {n} > out-{n}" for n in range(5)]
    lines += ["FROM tiny:1", "ENV A=b", "WORKDIR /srv"]
    lines += ["COPY --from=build /build/out-0 /build/out-4 ./", "COPY --from=build /build/src ./src"]
    lines += ["RUN mkdir state", "COPY src/file001.txt config", "USER 1000", 'CMD ["sh"]']
    _write(folder, "Dockerfile", "\n".join(lines) + "\n")


def _cached_stages(folder, seed):
    rng = random.Random(f"cached {seed}")
    os.makedirs(os.path.join(folder, "src"))
    for number in range(CACHED_FILES):
        with open(os.path.join(folder, "src", f"part{number}"), "wb") as file:
            file.write(rng.randbytes(CACHED_FILE_BYTES))
    lines = ["FROM tiny:1 AS deps", "WORKDIR /deps", "COPY src/part0 ."]
    lines += [f"RUN cp part0 dep-{n} && echo {n} >> dep-{n}" for n in range(4)]
    lines += ["FROM tiny:1 AS build", "WORKDIR /build"]
    lines += ["COPY --from=deps /deps/dep-0 ./", "COPY src ./src"]
    lines += [f"RUN cp src/part{n} out-{n} && echo {n} >> out-{n}" for n in range(1, 7)]
    lines += ["FROM tiny:1", "ENV A=b", "WORKDIR /srv"]
    lines += ["COPY --from=build /build/out-1 /build/out-2 ./"]
    lines += [f"RUN echo {n} > state-{n}" for n in range(5)]
    lines += ["COPY src/part7 config", "USER 1000", 'CMD ["sh"]']
    _write(folder, "Dockerfile", "\n".join(lines) + "\n")


def _busybox_layer(busybox, path):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("bin", "tmp", "etc", *MOUNT_POINTS):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, EPOCH
            tar.addfile(entry)
        with open(busybox, "rb") as file:
            data = file.read()
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode, entry.mtime = len(data), 0o755, EPOCH
        tar.addfile(entry, io.BytesIO(data))
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname, entry.mtime = tarfile.SYMTYPE, "busybox", EPOCH
            tar.addfile(entry)
        for name, data in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, EPOCH
            tar.addfile(entry, io.BytesIO(data))


def _archive(folder, path):
    with tarfile.open(path, "w") as tar:
        for name in sorted(os.listdir(folder)):
            tar.add(os.path.join(folder, name), name)
