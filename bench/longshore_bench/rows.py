"""The rows of the table, and the chains that measure them.

A chain is what one tool does in one go, from nothing: rows that build on one another stand
in one. The tools take turns, chain by chain.
"""

import os
from dataclasses import dataclass

from .proxy import CountingProxy
from .workloads import Layout

# How often a build is repeated that has nothing to do.
WARM_REPEATS = 3
# When a file was edited: any time that the workloads do not have.
EDITED = 1_800_000_000


@dataclass(frozen=True)
class Row:
    name: str
    title: str


_DIRECTORY_TIME = (
    "BuildKit gives the changed file's directory the time of the build; "
    "we keep the time that the directory has in the context"
)
_ROUNDED = "they round fractions of a second in files' times; BuildKit and we cut them off"
# Why a tool's image is another than ours, where that is known: by row and tool.
_DIFFERS_BECAUSE = {
    ("B", "docker"): _DIRECTORY_TIME,
    ("B", "buildkit"): _DIRECTORY_TIME,
    **{(row, tool): _ROUNDED for row in "ABCD" for tool in ("buildah", "podman")},
}


def differs_because(row, tool):
    """Why a tool's image is another than ours in this row; empty where that is not known."""
    return _DIFFERS_BECAUSE.get((row, tool), "")


ROWS = [
    Row("A", "30,000 small files, 190 MB of text: COPY, cold"),
    Row("B", "the same, one file changed"),
    Row("C", "the same, nothing changed"),
    Row("D", "512 MB of text and 256 MB that do not compress: COPY, cold"),
    Row("Dz", "the same, stored with zstd"),
    Row("E", "60 RUN steps that echo, cold"),
    Row("F", "8 stages that sleep 2 s and are collected, cold"),
    Row("G", "3 stages, 20 steps, nothing changed"),
    Row("H", "a Debian base pulled from loopback and one RUN, cold"),
    Row("I", "D's image pushed to a registry that has nothing of it"),
    Row("I2", "the same, when all of it is there"),
    Row("I3", "D's build and push in one, cold: less D, what the push adds"),
    Row("J", "3 stages, 23 steps, 92 MB that do not compress: cache exported, mode=max"),
    Row("J2", "the same, when all of it is there"),
    Row("K", "the same, built from that cache on a machine that has nothing"),
]


def selected(only):
    """The rows that letters choose: `D` means `D` and `Dz`."""
    if not only:
        return [row.name for row in ROWS]
    return [row.name for row in ROWS if row.name in only or row.name[0] in only]


class Chain:
    """What a tool does in one go."""

    rows = ()
    needs_busybox = True

    def run(self, bench, tool):
        raise NotImplementedError


class SmallFiles(Chain):
    rows = ("A", "C", "B")

    def run(self, bench, tool):
        context = bench.workloads.small_files()
        tool.fresh()
        bench.measured("A", tool, tool.build(context, "small:1"))
        bench.check("A", tool, context, "small:1", _copied_to("app"))
        if bench.wants("C"):
            for _ in range(WARM_REPEATS):
                bench.measured("C", tool, tool.build(context, "small:1"))
            bench.check("C", tool, context, "small:1", _copied_to("app"))
        if bench.wants("B"):
            with edited(os.path.join(context, "part07", "module11", "file00227.txt")):
                bench.measured("B", tool, tool.build(context, "small:2"))
                bench.check("B", tool, context, "small:2", _copied_to("app"))


class LargeFiles(Chain):
    rows = ("D", "I", "I2", "I3")

    def run(self, bench, tool):
        context = bench.workloads.large_files()
        if bench.wants("I3"):
            self._in_one(bench, tool, context)
        if not any(bench.wants(row) for row in ("D", "I", "I2")):
            return
        tool.fresh()
        bench.measured("D", tool, tool.build(context, "large:1"))
        bench.check("D", tool, context, "large:1", _copied_to("data"))
        if not bench.wants("I") and not bench.wants("I2"):
            return
        registry = bench.registry()
        try:
            push = tool.push(context, "large:1", f"{registry.address}/large:1")
            bench.measured("I", tool, push)
            bench.check_pushed("I", tool, "large:1", registry, "large")
            if bench.wants("I2"):
                bench.measured("I2", tool, push)
                bench.check_pushed("I2", tool, "large:1", registry, "large")
        finally:
            registry.stop()

    def _in_one(self, bench, tool, context):
        tool.fresh()
        registry = bench.registry()
        try:
            argv = tool.build_and_push(context, f"{registry.address}/large:1")
            if argv:
                bench.measured("I3", tool, argv)
        finally:
            registry.stop()


class LargeFilesZstd(Chain):
    rows = ("Dz",)

    def run(self, bench, tool):
        if not tool.zstd:
            return
        context = bench.workloads.large_files()
        tool.fresh()
        bench.measured("Dz", tool, tool.build(context, "large:1", "zstd"))
        bench.check("Dz", tool, context, "large:1", _copied_to("data"))


class EchoSteps(Chain):
    rows = ("E",)

    def run(self, bench, tool):
        context = bench.workloads.echo_steps()
        tool.fresh()
        bench.measured("E", tool, tool.build(context, "echo:1"))
        bench.check("E", tool, context, "echo:1", _none)


class SleepingStages(Chain):
    rows = ("F",)

    def run(self, bench, tool):
        context = bench.workloads.sleeping_stages()
        tool.fresh()
        bench.measured("F", tool, tool.build(context, "sleep:1"))
        bench.check("F", tool, context, "sleep:1", _none)


class TwentySteps(Chain):
    rows = ("G",)

    def run(self, bench, tool):
        context = bench.workloads.twenty_steps()
        tool.fresh()
        tool.quietly(tool.build(context, "twenty:1"))
        for _ in range(WARM_REPEATS):
            bench.measured("G", tool, tool.build(context, "twenty:1"))
        bench.check("G", tool, context, "twenty:1", _none)


class DebianBase(Chain):
    rows = ("H",)
    needs_busybox = False

    def run(self, bench, tool):
        if not bench.base:
            return
        layout = Layout(bench.workloads.debian_base(bench.base))
        context = os.path.join(bench.scratch, "debian")
        registry = bench.registry()
        try:
            registry.upload(layout, "debian", "12")
            os.makedirs(context, exist_ok=True)
            with open(os.path.join(context, "Dockerfile"), "w", encoding="utf-8") as file:
                file.write(f"FROM {registry.address}/debian:12\nRUN echo hello > /greeting\n")
            tool.fresh(bases=False)
            bench.measured("H", tool, tool.build(context, "debian-greeting:1"))
            bench.check("H", tool, context, "debian-greeting:1", _none)
        finally:
            registry.stop()


class CacheElsewhere(Chain):
    rows = ("J", "J2", "K")

    def run(self, bench, tool):
        if not tool.moves_caches:
            return
        context = bench.workloads.cached_stages()
        registry = bench.registry()
        proxy = CountingProxy(registry.address)
        cache = f"{proxy.address}/cache:main"
        try:
            tool.fresh()
            tool.quietly(tool.build(context, "cached:1"))
            made = bench.image(tool, "cached:1")
            export = tool.build(context, "cached:1", cache_to=cache)
            bench.measured("J", tool, export, proxy)
            if bench.wants("J2"):
                bench.measured("J2", tool, export, proxy)
            if not bench.wants("K"):
                return
            tool.fresh()
            bench.measured("K", tool, tool.build(context, "cached:1", cache_from=cache), proxy)
            bench.check("K", tool, context, "cached:1", _none)
            bench.check_unchanged("K", tool, "cached:1", made)
        finally:
            proxy.stop()
            registry.stop()


CHAINS = [
    SmallFiles(),
    LargeFiles(),
    LargeFilesZstd(),
    EchoSteps(),
    SleepingStages(),
    TwentySteps(),
    DebianBase(),
    CacheElsewhere(),
]


class edited:
    """A file with other bytes of the same length, for as long as this lasts."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        stat = os.stat(self.path)
        self.times = (stat.st_atime_ns, stat.st_mtime_ns)
        with open(self.path, "rb") as file:
            self.content = file.read()
        with open(self.path, "r+b") as file:
            file.write(bytes(byte ^ 1 if byte > 63 else byte for byte in self.content))
        # The same time in every tool's turn: it is compared.
        os.utime(self.path, (EDITED, EDITED))

    def __exit__(self, *_):
        with open(self.path, "r+b") as file:
            file.write(self.content)
        os.utime(self.path, ns=self.times)


def _copied_to(folder):
    """Times are those of the context below the directory that the build itself makes."""
    return lambda path: path.startswith(f"{folder}/")


def _none(_path):
    """What RUN makes has the time of the build."""
    return False
