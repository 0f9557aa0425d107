"""Where it ran: the machine, its kernel, what else it was doing."""

import os
import platform
import time


def description(scratch):
    """What a reader needs to judge the times."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(scratch),
    }


class Watch:
    """How busy the machine was, ourselves included, and how much others took of it."""

    def __init__(self):
        self.load = os.getloadavg()
        self.times = _cpu_times()

    def description(self):
        """From the start until now."""
        spent = [after - before for before, after in zip(self.times, _cpu_times())]
        total = max(sum(spent), 1)
        return {
            "load_at_start": self.load,
            "load_at_end": os.getloadavg(),
            "idle_percent": round(100 * (spent[3] + spent[4]) / total, 1),
            "stolen_percent": round(100 * spent[7] / total, 1),
        }


def _cpu_times():
    with open("/proc/stat", encoding="ascii") as file:
        return [int(field) for field in file.readline().split()[1:9]]


def _processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(path):
    """Of the mount that a path is on."""
    path = os.path.realpath(path)
    best, kind = "", "unknown"
    with open("/proc/self/mounts", encoding="utf-8") as file:
        for line in file:
            _, place, found, *_ = line.split()
            inside = place == "/" or path == place or path.startswith(f"{place}/")
            if inside and len(place) >= len(best):
                best, kind = place, found
    return kind
