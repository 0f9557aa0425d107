"""What a command took: time, processor, memory, bytes.

A command's own figures come from the kernel when it has ended: `wait4` for processor time
and peak memory (that of its largest process), `/proc/PID/io` of the zombie for bytes, its
waited-for children included. A daemon's are the difference of the same counters around the
command, and the high-water mark of its memory, which is set back before it.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from dataclasses import asdict, dataclass

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Sample:
    """One command, or several that belong together."""

    wall_s: float
    cpu_s: float
    # The largest process of the command and, with a daemon, the daemon's processes.
    peak_bytes: int
    # Pages made dirty in files, and bytes asked for by reads.
    written_bytes: int
    read_bytes: int
    # The load of the machine in the minute before it.
    load: float
    # What went to a registry and came from it; nothing where that is not counted.
    requests: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    def as_json(self):
        return asdict(self)


class Failed(Exception):
    """A command that should have succeeded."""


def run(argv, env, log, daemon=None):
    """Runs a command to its end and measures it; `daemon` is a process id or nothing."""
    os.sync()
    load = os.getloadavg()[0]
    servants = _servants(daemon)
    for pid in servants:
        _reset_peak(pid)
    before = _counters(servants)
    with open(log, "ab") as output:
        output.write(f"$ {' '.join(argv)}\n".encode())
        output.flush()
        started = time.monotonic()
        child = _spawn(argv, env, output)
        try:
            floor = _status(os.getpid(), "VmHWM")
            peak = _wait(child.pid)
        except BaseException:
            _kill(child)
            raise
        wall = time.monotonic() - started
    written, read = _io(child.pid)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise Failed(f"`{' '.join(argv)}` ended with {child.returncode}:\n{_tail(log)}")
    # A process counts the memory of the one that started it until it is another program:
    # a smaller figure than ours is not its own, and what was seen while it ran is taken.
    largest = usage.ru_maxrss * 1024
    if largest <= floor:
        largest = peak
    after = _counters(_servants(daemon))
    return Sample(
        wall_s=wall,
        cpu_s=usage.ru_utime + usage.ru_stime + after[0] - before[0],
        peak_bytes=largest + sum(_status(pid, "VmHWM") for pid in _servants(daemon)),
        written_bytes=written + after[1] - before[1],
        read_bytes=read + after[2] - before[2],
        load=load,
    )


def quietly(argv, env, log):
    """Runs a command that is not measured."""
    with open(log, "ab") as output:
        output.write(f"$ {' '.join(argv)}\n".encode())
        output.flush()
        child = _spawn(argv, env, output)
        try:
            code = child.wait()
        except BaseException:
            _kill(child)
            raise
    if code != 0:
        raise Failed(f"`{' '.join(argv)}` ended with {code}:\n{_tail(log)}")


def _spawn(argv, env, output):
    """In a process group of its own, so that no part of it outlives an interrupted run."""
    return subprocess.Popen(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _kill(child):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _wait(pid):
    """Waits until a child has ended, without reaping it; its peak memory as last seen."""
    peak, pause_ms = 0, 4
    handle = os.pidfd_open(pid)
    try:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        while not ended.poll(pause_ms):
            peak = max(peak, _status(pid, "VmHWM"))
            pause_ms = min(pause_ms * 2, 100)
    finally:
        os.close(handle)
    return peak


def _servants(daemon):
    """A daemon's processes: itself and all below it."""
    if daemon is None:
        return []
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = _stat(name)
            if stat:
                children.setdefault(int(stat[1]), []).append(int(name))
    found, open_ = [], [daemon]
    while open_:
        pid = open_.pop()
        found.append(pid)
        open_ += children.get(pid, [])
    return found


def _counters(pids):
    """Processor seconds, bytes written and bytes read, of ended children too."""
    cpu, written, read = 0.0, 0, 0
    for pid in pids:
        stat = _stat(pid)
        if stat:
            cpu += sum(int(field) for field in stat[11:15]) / TICKS
        more_written, more_read = _io(pid)
        written += more_written
        read += more_read
    return cpu, written, read


def _stat(pid):
    """The fields of /proc/PID/stat from the state on."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def _io(pid):
    try:
        with open(f"/proc/{pid}/io", encoding="ascii") as file:
            fields = dict(line.split(": ") for line in file.read().splitlines())
        return int(fields["write_bytes"]), int(fields["rchar"])
    except (OSError, KeyError):
        return 0, 0


def _status(pid, field):
    """A size of /proc/PID/status, in bytes."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(f"{field}:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _reset_peak(pid):
    try:
        with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


def _tail(log):
    with open(log, "rb") as file:
        return b"\n".join(file.read().splitlines()[-15:]).decode(errors="replace")
