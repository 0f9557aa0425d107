"""The results as JSON, text, Markdown and a picture."""

import json
from statistics import median
from xml.sax.saxutils import escape

from .rows import ROWS, differs_because

MB = 1e6
OURS = "longshore"
FIGURES = (
    "wall_s",
    "cpu_s",
    "peak_bytes",
    "written_bytes",
    "read_bytes",
    "requests",
    "sent_bytes",
    "received_bytes",
)


class Results:
    """All that was measured."""

    def __init__(self, machine, tools, reference):
        self.machine = machine
        # Name to version and what its layers are stored as.
        self.tools = tools
        # The tool that the ratios are to.
        self.reference = reference
        self.samples = {}
        self.differences = {}
        self.layer_bytes = {}
        self.failures = {}
        self.notes = []

    def add(self, row, tool, sample):
        self.samples.setdefault(row, {}).setdefault(tool, []).append(sample)

    def median(self, row, tool, figure):
        found = self.samples.get(row, {}).get(tool)
        return median(getattr(sample, figure) for sample in found) if found else None

    def ratio(self, row):
        """How many times longer the reference takes than we do."""
        here = self.median(row, OURS, "wall_s")
        there = self.median(row, self.reference, "wall_s") if self.reference else None
        return there / here if here and there else None

    def output(self, row, tool):
        """Whether a tool's output is what ours is."""
        if row in self.failures.get(tool, {}):
            return "failed"
        found = self.differences.get(row, {}).get(tool)
        if found is None:
            return "" if tool != OURS else "measure"
        return "equal" if not found else "differs"

    def explained(self):
        """For each mark in the table, what differs, and why where that is known."""
        for row in self.rows():
            for tool, found in self.differences.get(row.name, {}).items():
                if found:
                    because = differs_because(row.name, tool)
                    why = f": {because}" if because else ""
                    yield f"`*` {row.name}, {tool}: {'; '.join(found)}{why}."

    def rows(self):
        return [row for row in ROWS if row.name in self.samples]


def as_json(results):
    rows = []
    for row in results.rows():
        tools = {}
        for tool, samples in results.samples[row.name].items():
            tools[tool] = {
                "samples": [sample.as_json() for sample in samples],
                "median": {
                    figure: results.median(row.name, tool, figure)
                    for figure in FIGURES
                },
                "layer_bytes": results.layer_bytes.get(row.name, {}).get(tool),
                "differences": results.differences.get(row.name, {}).get(tool),
            }
        rows.append(
            {
                "row": row.name,
                "title": row.title,
                "tools": tools,
                "ratio_to_reference": results.ratio(row.name),
            }
        )
    value = {
        "machine": results.machine,
        "tools": results.tools,
        "reference": results.reference,
        "rows": rows,
        "failures": results.failures,
        "notes": results.notes,
    }
    return json.dumps(value, indent=1) + "\n"


def as_text(results):
    lines = [*_machine_lines(results), ""]
    head = ("", "time", "(least-most)", "ratio", "cpu", "memory", "written", "read", "layers", "")
    lines.append(_line(head))
    for row in results.rows():
        lines.append(f"{row.name}: {row.title}")
        for tool, samples in results.samples[row.name].items():
            lines.append(_line(_cells(results, row.name, tool, samples)))
            moved = _moved(results, row.name, tool)
            if moved:
                lines.append(f"      {moved}")
            differences = results.differences.get(row.name, {}).get(tool) or []
            lines += [f"      {difference}" for difference in differences]
            because = differs_because(row.name, tool)
            if differences and because:
                lines.append(f"      {because}")
    for tool, failures in results.failures.items():
        lines += [f"{tool} failed at {row}: {text}" for row, text in failures.items()]
    lines += results.notes
    return "\n".join(lines) + "\n"


def _cells(results, row, tool, samples):
    times = [sample.wall_s for sample in samples]
    here = results.median(row, tool, "wall_s")
    there = results.median(row, results.reference, "wall_s") if results.reference else None
    layers = results.layer_bytes.get(row, {}).get(tool)
    return (
        tool,
        _seconds(here),
        f"({_seconds(min(times))}-{_seconds(max(times))})",
        f"{there / here:.2f}x" if there else "",
        _seconds(results.median(row, tool, "cpu_s")),
        *(_mb(results.median(row, tool, figure)) for figure in ("peak_bytes", "written_bytes", "read_bytes")),
        _mb(layers) if layers else "",
        results.output(row, tool),
    )


def _moved(results, row, tool):
    """What went to a registry and came from it, where that was counted."""
    requests = results.median(row, tool, "requests")
    if not requests:
        return ""
    sent = _mb(results.median(row, tool, "sent_bytes"))
    received = _mb(results.median(row, tool, "received_bytes"))
    return f"{requests:.0f} requests, {sent} to the registry, {received} from it"


def _line(cells):
    widths = (12, 9, 19, 8, 9, 9, 10, 10, 10, 8)
    first, *rest = zip(cells, widths)
    texts = [f"  {first[0]:<{first[1]}}"] + [f"{cell:>{width}}" for cell, width in rest]
    return "".join(texts).rstrip()


def _machine_lines(results):
    machine = results.machine
    lines = [
        f"{machine['date']}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / (1 << 30):.0f} GiB, {machine['kernel']}, "
        f"{machine['file_system']}",
        f"load {machine['load_at_start'][0]:.1f} at the start, {machine['load_at_end'][0]:.1f} at "
        f"the end; idle {machine['idle_percent']} %, taken by other machines "
        f"{machine['stolen_percent']} %; {machine['rounds']} rounds, seed {machine['seed']}",
    ]
    for name, tool in results.tools.items():
        lines.append(f"{name}: {tool['version']}; layers {tool['stores']}")
    if results.reference:
        lines.append(f"Ratios: how many times faster than {results.reference}. Medians.")
    return lines


def as_markdown(results):
    """For the README: a row each, the reference and the others beside us."""
    others = [tool for tool in results.tools if tool != OURS]
    head = ["", "Longshore", *others]
    if results.reference:
        head.append("faster than " + results.reference)
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in results.rows():
        cells = [f"{row.name}. {row.title}", _with_memory(results, row.name, OURS)]
        cells += [_with_memory(results, row.name, tool) for tool in others]
        if results.reference:
            ratio = results.ratio(row.name)
            cells.append(f"{ratio:.1f}x" if ratio else "")
        lines.append(f"| {' | '.join(cells)} |")
    about = ["Time and peak memory. An image that is another than ours is marked `*`."]
    about += [*results.explained(), *results.notes, *_machine_lines(results)]
    return "\n".join(lines + ["", *(f"- {line}" for line in about)]) + "\n"


def _with_memory(results, row, tool):
    wall = results.median(row, tool, "wall_s")
    if wall is None:
        return "failed" if row in results.failures.get(tool, {}) else ""
    mark = "*" if results.output(row, tool) == "differs" else ""
    moved = _moved(results, row, tool)
    moved = f"; {moved}" if moved else ""
    return f"{_seconds(wall)}{mark}, {_mb(results.median(row, tool, 'peak_bytes'))}{moved}"


def _seconds(value):
    return f"{value:.3f} s" if value < 1 else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def _mb(value):
    value /= MB
    return f"{value:.1f} MB" if value < 10 else f"{value:.0f} MB"


COLOURS = ("#0b6e4f", "#7a8ca3", "#b08968", "#9d8189", "#6c757d")
BAR, GAP, LEFT, WIDTH, SCALE = 15, 14, 16, 760, 520


def as_svg(results):
    """Bars of time; each row has a scale of its own, so that they can be read."""
    tools = list(results.tools)
    parts, y = [], 54
    for row in results.rows():
        samples = results.samples[row.name]
        longest = max(results.median(row.name, tool, "wall_s") for tool in samples)
        ratio = results.ratio(row.name)
        title = f"{row.name}. {row.title}" + (f" ({ratio:.1f}x)" if ratio else "")
        parts.append(_text(LEFT, y, title, "600"))
        y += 7
        for tool in (tool for tool in tools if tool in samples):
            wall = results.median(row.name, tool, "wall_s")
            width = max(SCALE * wall / longest, 1.5)
            colour = COLOURS[tools.index(tool) % len(COLOURS)]
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 3}" fill="{colour}"/>'
            )
            parts.append(_text(LEFT + width + 6, y + BAR - 5, f"{tool} {_seconds(wall)}"))
            y += BAR
        y += GAP + 8
    head = [_text(LEFT, 24, "Time to build, median; shorter is better", "600", 15)]
    foot = [_text(LEFT, y + 4, line[:130], size=10) for line in _machine_lines(results)[:1]]
    height = y + 18
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
        + "\n".join(head + parts + foot)
        + "\n</svg>\n"
    )


def _text(x, y, text, weight="400", size=12):
    return (
        f'<text x="{x:.0f}" y="{y}" font-size="{size}" font-weight="{weight}" '
        f'fill="#1b1f24">{escape(text)}</text>'
    )
