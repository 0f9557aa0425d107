"""What an image holds: its layers, one over the other, as one tree; and how two differ."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tarfile

ZSTD = b"\x28\xb5\x2f\xfd"
# So many differences are named.
NAMED_MAX = 5


class Unreadable(Exception):
    """An archive that needs a tool that is not here."""


class Image:
    """The tree of an image, and the bytes of its layers as they are stored."""

    def __init__(self):
        self.entries = {}
        self.layer_bytes = 0

    @classmethod
    def saved(cls, path):
        """Of an archive that `docker load` reads."""
        image = cls()
        image._read(path)
        return image

    @classmethod
    def of_layers(cls, files):
        """Of layers, lowest first."""
        image = cls()
        for path in files:
            image.layer_bytes += os.path.getsize(path)
            with open(path, "rb") as file, _opened(file) as layer:
                image._apply(layer)
        return image

    def _read(self, path):
        with tarfile.open(path) as archive:
            for layer in _layers(archive):
                member = archive.getmember(layer)
                # Two names of one layer: the archive holds it once.
                while member.issym() or member.islnk():
                    layer = member.linkname
                    if member.issym():
                        layer = os.path.normpath(os.path.join(os.path.dirname(member.name), layer))
                    member = archive.getmember(layer)
                self.layer_bytes += member.size
                with _opened(archive.extractfile(member)) as layer_tar:
                    self._apply(layer_tar)

    def _apply(self, layer):
        for member in layer:
            path = os.path.normpath("/" + member.name).lstrip("/")
            folder, name = os.path.split(path)
            if name == ".wh..wh..opq":
                self._remove_below(folder)
            elif name.startswith(".wh."):
                gone = os.path.join(folder, name.removeprefix(".wh."))
                self.entries.pop(gone, None)
                self._remove_below(gone)
            elif path:
                self._put(path, member, layer)

    def _put(self, path, member, layer):
        if member.islnk():
            target = os.path.normpath("/" + member.linkname).lstrip("/")
            self.entries[path] = self.entries[target]
            return
        if path in self.entries and not member.isdir():
            self._remove_below(path)
        content = _digest(layer.extractfile(member)) if member.isreg() else member.linkname
        owner = (member.mode & 0o7777, member.uid, member.gid)
        devices = (member.devmajor, member.devminor) if member.isdev() else None
        kind = tarfile.REGTYPE if member.isreg() else member.type
        self.entries[path] = ((kind, owner, devices, content), int(member.mtime))

    def _remove_below(self, folder):
        below = [path for path in self.entries if path.startswith(f"{folder}/")]
        for path in below:
            del self.entries[path]


def differences(ours, theirs, times):
    """What differs, in words: nothing when the two are equal. `times` says whether the times
    of a path are compared."""
    found, more = [], 0
    for path in sorted(ours.entries.keys() | theirs.entries.keys()):
        here, there = ours.entries.get(path), theirs.entries.get(path)
        if here is None or there is None:
            text = f"{path}: only {'there' if here is None else 'here'}"
        elif here[0] != there[0]:
            text = f"{path}: {_shown(here[0])}, there {_shown(there[0])}"
        elif times(path) and here[1] != there[1]:
            text = f"{path}: time {here[1]}, there {there[1]}"
        else:
            continue
        if len(found) < NAMED_MAX:
            found.append(text)
        else:
            more += 1
    return found + ([f"and {more} more"] if more else [])


def _shown(entry):
    kind, (mode, uid, gid), _, content = entry
    return f"{kind.decode()} {mode:o} {uid}:{gid} {content[:12]}"


def _layers(archive):
    """The names of the layers, lowest first."""
    manifest = json.load(archive.extractfile("manifest.json"))
    return manifest[0]["Layers"]


@contextlib.contextmanager
def _opened(file):
    """A layer as a tar, whatever it is compressed with."""
    start = file.read(4)
    file.seek(0)
    if start != ZSTD:
        with tarfile.open(fileobj=file, mode="r:gz" if start[:2] == b"\x1f\x8b" else "r:") as tar:
            yield tar
        return
    if not shutil.which("zstd"):
        raise Unreadable("zstd is not installed")
    with subprocess.Popen(
        ["zstd", "-dc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        feeder = _feed(file, process.stdin)
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            yield tar
        feeder.join()


def _feed(source, sink):
    import threading

    def copy():
        with sink:
            shutil.copyfileobj(source, sink, 1 << 20)

    thread = threading.Thread(target=copy)
    thread.start()
    return thread


def _digest(file):
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()
