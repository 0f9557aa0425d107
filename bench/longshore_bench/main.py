"""The whole: options, rounds, checks, reports."""

import argparse
import os
import shutil
import signal
import sys
import tempfile

from . import machine, measure, report, rows, tools, trees
from .registry import Registry
from .workloads import Workloads

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What the README has between them is replaced by `--readme`.
MARKS = ("<!-- benchmark -->\n", "<!-- /benchmark -->\n")


def main():
    options = parse(sys.argv[1:])
    if os.geteuid() != 0:
        print("bench/run: the builders run containers: start it as root", file=sys.stderr)
        return 3
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    scratch = tempfile.mkdtemp(prefix="longshore-bench-", dir=options.scratch)
    bench = Bench(options, scratch)
    try:
        bench.run()
    except KeyboardInterrupt:
        say("interrupted")
        return 1
    finally:
        bench.clear()
    bench.write()
    return 0


def parse(arguments):
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    ours = os.path.join(cache, "longshore")
    parser = argparse.ArgumentParser(
        prog="bench/run",
        description="Builds the same things with Longshore and the builders that are installed.",
        epilog="rows: " + "; ".join(f"{row.name} {row.title}" for row in rows.ROWS),
    )
    add = parser.add_argument
    add("--only", metavar="A,B", type=names, default=[], help="these rows")
    add("--rounds", metavar="N", type=int, default=3, help="how often [default: 3]")
    add("--peers", metavar="NAME,…", type=names, default=None,
        help="of docker, buildkit, buildah, podman; `none` for none [default: all that are here]")
    add("--longshore", metavar="PATH", default=os.path.join(REPOSITORY, "target/release/longshore"),
        help="the program [default: target/release/longshore]")
    add("--output", metavar="DIR", help="write results.txt, .json, .md and .svg there")
    add("--readme", action="store_true", 
        help="put the whole table and the picture into README and docs: all rows, all builders")
    add("--seed", metavar="N", type=int, default=1, help="of the workloads [default: 1]")
    add("--cache", metavar="DIR", default=os.path.join(ours, "bench"),
        help="where workloads are kept [default: %(default)s]")
    add("--scratch", metavar="DIR", default="/var/tmp",
        help="where everything else is, until the end [default: %(default)s]")
    add("--docker", metavar="DIR",
        default=os.environ.get("LONGSHORE_TEST_DOCKER", os.path.join(ours, "docker")),
        help="a folder in which a newer Docker is unpacked [default: LONGSHORE_TEST_DOCKER, or "
        "%(default)s]")
    add("--base", metavar="TAR",
        default=os.environ.get("LONGSHORE_TEST_BASE", os.path.join(ours, "base.tar")),
        help="a Debian root file system, for row H [default: LONGSHORE_TEST_BASE, or %(default)s]")
    options = parser.parse_args(arguments)
    unknown = set(options.only) - {row.name for row in rows.ROWS}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if options.rounds < 1:
        parser.error("at least one round")
    if options.readme and (options.only or options.peers is not None):
        parser.error("--readme writes the whole table: it goes with neither --only nor --peers")
    if not os.access(options.longshore, os.X_OK):
        parser.error(f"{options.longshore} is not there: cargo build --release -p longshore")
    options.longshore = os.path.abspath(options.longshore)
    return options


def names(text):
    return [name for name in text.split(",") if name]


def say(text):
    print(text, file=sys.stderr, flush=True)


class Bench:
    """One run."""

    def __init__(self, options, scratch):
        self.options = options
        self.scratch = scratch
        self.wanted = rows.selected(options.only)
        self.workloads = Workloads(options.cache, options.seed)
        self.base = options.base if os.path.exists(options.base) else None
        self.busybox = shutil.which("busybox")
        self.tools = []
        self.trees = {}
        self.checking = True
        self.watch = machine.Watch()
        self.results = None

    def run(self):
        self.tools = self.find_tools()
        self.results = self.empty_results()
        for number in range(self.options.rounds):
            self.checking = number == 0
            for chain in self.chains():
                # Turned around in every other round: no tool is always the first.
                for tool in self.tools if number % 2 == 0 else reversed(self.tools):
                    self.run_chain(number, chain, tool)
                self.trees.clear()

    def chains(self):
        return [
            chain
            for chain in rows.CHAINS
            if any(self.wants(row) for row in chain.rows)
            and (self.busybox or not chain.needs_busybox)
        ]

    def run_chain(self, number, chain, tool):
        failed = self.results.failures.get(tool.name, {})
        if any(row in failed for row in chain.rows):
            return
        self.chain = chain
        say(f"round {number + 1}: {tool.name}: {', '.join(chain.rows)}")
        try:
            chain.run(self, tool)
        except measure.Failed as error:
            say(str(error))
            row = next(row for row in chain.rows if self.wants(row))
            self.results.failures.setdefault(tool.name, {})[row] = str(error)
        finally:
            tool.stop()

    def wants(self, row):
        return row in self.wanted

    def measured(self, row, tool, argv, proxy=None):
        before = proxy.counted() if proxy else (0, 0, 0)
        sample = tool.run(argv)
        if proxy:
            counted = [now - then for now, then in zip(proxy.counted(), before)]
            sample.requests, sample.sent_bytes, sample.received_bytes = counted
        if self.wants(row):
            self.results.add(row, tool.name, sample)
            say(f"  {row}: {sample.wall_s:.3f} s, {sample.cpu_s:.2f} s of processor")

    def check(self, row, tool, context, tag, times):
        """Compares what a tool made with what we made."""
        if not self.checking or not self.wants(row):
            return
        try:
            image = self.image(tool, tag)
        except trees.Unreadable as error:
            self.results.notes.append(f"{row} of {tool.name} was not compared: {error}")
            return
        self.results.layer_bytes.setdefault(row, {})[tool.name] = image.layer_bytes
        if tool.name == report.OURS:
            self.trees[row] = image
        elif row in self.trees:
            found = trees.differences(self.trees[row], image, times)
            self.results.differences.setdefault(row, {})[tool.name] = found

    def image(self, tool, tag):
        """What a tool made, as it is saved."""
        archive = os.path.join(self.scratch, "saved.tar")
        try:
            tool.save(tag, archive)
            return trees.Image.saved(archive)
        finally:
            if os.path.exists(archive):
                os.unlink(archive)

    def check_pushed(self, row, tool, tag, registry, repository):
        """Compares what a registry got with what the tool itself built, to the second."""
        if not self.checking or not self.wants(row):
            return
        try:
            made = self.image(tool, tag)
            pushed = registry.image(repository, tag.partition(":")[2], self.scratch)
        except trees.Unreadable as error:
            self.results.notes.append(f"{row} of {tool.name} was not compared: {error}")
            return
        found = trees.differences(made, pushed, lambda _path: True)
        self.results.layer_bytes.setdefault(row, {})[tool.name] = pushed.layer_bytes
        self.results.differences.setdefault(row, {})[tool.name] = [
            f"pushed and built differ: {text}" for text in found
        ]

    def check_unchanged(self, row, tool, tag, made):
        """Notes it where an image is not what the tool itself made before, to the second: then
        steps ran again."""
        found = trees.differences(made, self.image(tool, tag), lambda _path: True)
        if found:
            self.results.notes.append(f"{row}: {tool.name} ran steps again: {found[0]}")

    def registry(self):
        folder = os.path.join(self.scratch, "registry")
        shutil.rmtree(folder, ignore_errors=True)
        return Registry(folder, self.options.longshore)

    def find_tools(self):
        common = (self.scratch, self.workloads, self.busybox)
        ours = tools.Longshore(self.options.longshore, *common)
        peers = [
            tools.BuildKit.find(*common),
            tools.Docker.find(self.options.docker, *common),
            tools.Buildah.find(*common),
            tools.Podman.find(*common),
        ]
        chosen = self.options.peers
        found = [peer for peer in peers if peer and (chosen is None or peer.name in chosen)]
        for name in set(chosen or []) - {peer.name for peer in found} - {"none"}:
            say(f"{name} is not installed here")
        return [tool for tool in [ours, *found] if tool.version()]

    def empty_results(self):
        described = {
            tool.name: {"version": tool.version(), "stores": tool.stores} for tool in self.tools
        }
        reference = next((name for name in ("buildkit", "docker") if name in described), None)
        about = machine.description(self.scratch)
        about |= {"rounds": self.options.rounds, "seed": self.options.seed}
        results = report.Results(about, described, reference)
        if not self.busybox:
            results.notes.append("Rows A to G and I need a static busybox, which is not installed.")
        if not self.base and self.wants("H"):
            results.notes.append("Row H needs a Debian root file system (--base).")
        return results

    def clear(self):
        for tool in self.tools:
            tool.stop()
        self.keep_logs()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def keep_logs(self):
        """What the tools said goes with the results."""
        if not self.options.output:
            return
        os.makedirs(self.options.output, exist_ok=True)
        for tool in self.tools:
            if os.path.exists(tool.log):
                shutil.copy(tool.log, self.options.output)

    def write(self):
        self.results.machine |= self.watch.description()
        text = report.as_text(self.results)
        print(text, end="")
        if self.options.output:
            put(os.path.join(self.options.output, "results.txt"), text)
            put(os.path.join(self.options.output, "results.json"), report.as_json(self.results))
            put(os.path.join(self.options.output, "results.md"), report.as_markdown(self.results))
            put(os.path.join(self.options.output, "results.svg"), report.as_svg(self.results))
        if self.options.readme:
            self.write_readme()

    def write_readme(self):
        path = os.path.join(REPOSITORY, "README.md")
        with open(path, encoding="utf-8") as file:
            before, _, rest = file.read().partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        table = report.as_markdown(self.results)
        picture = "![Time to build](docs/benchmark.svg)\n"
        put(path, f"{before}{MARKS[0]}{picture}\n{table}{MARKS[1]}{after}")
        put(os.path.join(REPOSITORY, "docs", "benchmark.svg"), report.as_svg(self.results))
        put(os.path.join(REPOSITORY, "docs", "benchmark.json"), report.as_json(self.results))


def put(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
