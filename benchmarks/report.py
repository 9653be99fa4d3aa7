"""What was measured, as a table for a terminal, for docs/performance.md, and as a plot."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.arithmetic import GOALS, METRICS, UNKNOWN, Goal, Metric, advantage, spread
from benchmarks.lineup import HTTPX, LIMIT, LINEUP, RELAY, ROOT, TIMES

RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
README = ROOT / "README.md"
COST = ("<!-- httpx -->", "<!-- /httpx -->")
"""Around the milliseconds of `import httpx` in the README."""
NOT_YET = "Not measured yet: run `python3 dev.py bench`."
SHOWN = (
    "throughput",
    "p50_ms",
    "p99_ms",
    "cpu_ms",
    "cold_ms",
    "cold_60_ms",
    "memory_mib",
    "token_requests",
)
"""The metrics of the plot."""
LEGEND = f"{TIMES}: how many times better the relay is; below 1 it is worse."
MANY = 10
"""From here on digits after the point are noise."""
SATURATED = 0.9
"""Share of its core from which on the load is what limits a contestant."""

Results = Mapping[str, Any]


def text(results: Results) -> str:
    """Return the results for a terminal."""
    lines = ["", *_head(results), LEGEND, ""]
    for metric in _measured(results):
        lines.append(f"{_title(metric, results)}{f' ({metric.unit})' if metric.unit else ''}")
        for name, label in _present(results):
            value = results["contestants"][name]["medians"].get(metric.name)
            if value is not None:
                ratio = _ratio(metric, results, name)
                lines.append(f"  {label:26}{metric.shown(value):>10}   {ratio}")
        lines.append("")
    lines += [
        f"goal {goal}: measured {found} {end}".rstrip() for goal, found, end in _goals(results)
    ]
    return "\n".join([*lines, "", *_growth(results), *_notes(results), ""])


def page(results: Results | None) -> str:
    """Return what stands between the marks in docs/performance.md."""
    if results is None:
        return NOT_YET
    lines = [
        *_head(results),
        "",
        "| goal | measured | |",
        "|---|---|---|",
        *(f"| {' | '.join(cells)} |" for cells in _goals(results)),
        "",
        "![plot of the numbers below](../benchmarks/results/latest.svg)",
        "",
    ]
    present = _present(results)
    lines.append(f"| | {' | '.join(label for _, label in present)} |")
    lines.append(f"|---|{'---:|' * len(present)}")
    for metric in _measured(results):
        unit = f", {metric.unit}" if metric.unit else ""
        cells = [_cell(metric, results, name) for name, _ in present]
        lines.append(f"| {_title(metric, results)}{unit} | {' | '.join(cells)} |")
    lines += ["", *_growth_table(results)]
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(results))])


def fill(document: str, results: Results | None) -> str:
    """Return the page with the results between its marks. Raises `ValueError` without marks."""
    return between(document, BEGIN, END, f"\n{page(results)}\n")


def fill_readme(document: str, results: Results) -> str:
    """Return the README with what `import httpx` takes. Raises `ValueError` without the marks."""
    return between(document, *COST, f"{median(results['import_httpx_ms']):.0f} ms")


def between(document: str, begin: str, end: str, content: str) -> str:
    """Return a document with new content between two marks. Raises `ValueError` without them."""
    before, found_begin, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"The document has no {begin} … {end}")
    return f"{before}{begin}{content}{end}{after}"


def write(
    results: Results, folder: Path = RESULTS, document: Path = PAGE, readme: Path = README
) -> Iterator[Path]:
    """Write the numbers and the plot; of a full run also the pages. Yields what was written."""
    folder.mkdir(exist_ok=True)
    name = "latest" if results["complete"] else "quick"
    numbers, plot = folder / f"{name}.json", folder / f"{name}.svg"
    numbers.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    yield numbers
    plot.write_text(svg(results), "utf-8")
    yield plot
    if results["complete"]:
        for path, filled in ((document, fill), (readme, fill_readme)):
            path.write_text(filled(path.read_text("utf-8"), results), "utf-8")
            yield path


def _head(results: Results) -> list[str]:
    machine = results["machine"]
    memory = f", {machine['memory_gib']} GiB" if machine["memory_gib"] else ""
    partial = "" if results["complete"] else "Not a full run, and good for no comparison: "
    sentence = (
        f"{partial}{results['date']}, {machine['cores']} cores of {machine['model']}{memory}, "
        f"{machine['system']}; {results['pinned']}. Medians of {_interleaved(results)}. "
        f"{', '.join(f'{name} {each}' for name, each in results['versions'].items())}."
    )
    return [sentence]


def _interleaved(results: Results) -> str:
    rounds = "1 start" if results["rounds"] == 1 else f"{results['rounds']} interleaved starts"
    return f"{results['turns']} turns and {rounds}" if results["turns"] else rounds


def _goals(results: Results) -> Iterator[tuple[str, str, str]]:
    """Yield each goal, what was measured, and whether it holds."""
    present = dict(_present(results))
    for goal in GOALS:
        if RELAY not in present or (goal.peer is not None and goal.peer not in present):
            continue
        measured = goal.measured(_rounds(results, RELAY), _rounds(results, goal.peer or RELAY))
        if measured is not None:
            yield _goal(goal, measured, results, present)


def _goal(
    goal: Goal, measured: float, results: Results, labels: Mapping[str, str]
) -> tuple[str, str, str]:
    metric = goal.metric
    title = _title(metric, results)
    sign = "≥" if metric.more_is_better else "≤"
    end = "holds" if goal.holds(measured) else "falls short"
    if goal.peer is None:
        return f"{title} {sign} {goal.bound:g}", metric.shown(measured), end
    label = labels[goal.peer]
    wanted = f"{sign} {goal.bound:g} {TIMES} {label}"
    values = [results["contestants"][name]["medians"][metric.name] for name in (RELAY, goal.peer)]
    both = " and ".join(metric.shown(value) for value in values)
    return f"{title} {wanted}", f"{measured:.2f} {TIMES} ({both} {metric.unit})", end


def _notes(results: Results) -> list[str]:
    notes = _cost_of_httpx(results)
    for name, label in _present(results):
        medians = results["contestants"][name]["medians"]
        if (medians.get("load_busy") or 0) > SATURATED:
            notes.append(f"{label}: the load's core was full; it could take more than is shown.")
    for metric in METRICS[:2]:
        values = [each.get(metric.name) for each in _rounds(results, RELAY)]
        far = spread(values)
        if far is not None:
            notes.append(
                f"{metric.title}: the middle half of the relay's turns is {100 * far:.0f} % wide."
            )
    notes += _burst(results)
    labels = {each.name: each.label for each in LINEUP}
    notes += [f"{labels[name]}: left out, {why}." for name, why in results["left_out"].items()]
    if results["machine"]["load"] is None or not _has(results, "cpu_ms"):
        notes.append("Processor time and memory: left out, there is no /proc here.")
    return notes


def _cost_of_httpx(results: Results) -> list[str]:
    with_httpx, without = _rounds(results, HTTPX), _rounds(results, LIMIT)
    later = [
        with_ms - without_ms
        for each, other in zip(with_httpx, without, strict=False)
        if (with_ms := each.get("cold_ms")) is not None
        and (without_ms := other.get("cold_ms")) is not None
    ]
    if not later:
        return []
    sentence = (
        f"What HTTPX costs: `import httpx` takes {median(results['import_httpx_ms']):.0f} ms in "
        "a worker that is ready for an app. The function with HTTPX, a token and a POST answers "
        f"its first callback {median(later):.0f} ms later than the one that does nothing."
    )
    return [sentence]


def _burst(results: Results) -> list[str]:
    found = results["burst"]
    if not found:
        return []
    lost = found["callbacks"] - found["rows"] - found["dead"]
    sentence = (
        f"Burst: {found['callbacks']} callbacks at once, Dynamics takes 20 a second and says 429 "
        f"beyond: everybody answered after {found['answered_seconds']:.1f} s, all in Dynamics "
        f"after {found['delivered_seconds']:.1f} s, {lost} lost; queues: {found['storage']}."
    )
    return [sentence]


def _growth(results: Results) -> list[str]:
    lines = []
    for number, found in results["growth"].items():
        if found:
            cells = (f"{found['cold_ms']:.0f} ms", f"{found['p50_ms']:.2f} ms")
            memory = f"{_whole(found.get('memory_mib'))} MiB"
            lines.append(
                f"connections set up: {number:>3}   first callback after {cells[0]}, "
                f"then {cells[1]} each, {memory}"
            )
    return [*lines, ""] if lines else []


def _growth_table(results: Results) -> list[str]:
    lines = ["| connections set up | first callback, ms | latency, ms | memory, MiB |"]
    lines.append("|---:|---:|---:|---:|")
    for number, found in results["growth"].items():
        if found:
            memory = found.get("memory_mib")
            cells = (f"{found['cold_ms']:.0f}", f"{found['p50_ms']:.2f}", _whole(memory))
            lines.append(f"| {number} | {' | '.join(cells)} |")
    return lines


def _whole(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}"


def _measured(results: Results) -> list[Metric]:
    return [metric for metric in METRICS if _has(results, metric.name)]


def _has(results: Results, name: str) -> bool:
    every = results["contestants"].values()
    return any(each["medians"].get(name) is not None for each in every)


def _present(results: Results) -> list[tuple[str, str]]:
    return [(each.name, each.label) for each in LINEUP if each.name in results["contestants"]]


def _title(metric: Metric, results: Results) -> str:
    return metric.title.replace("first callbacks", f"first {results['first']:,} callbacks")


def _rounds(results: Results, name: str) -> Sequence[Mapping[str, float | None]]:
    found: Sequence[Mapping[str, float | None]] = (
        results["contestants"].get(name, {}).get("rounds", ())
    )
    return found


def _ratio(metric: Metric, results: Results, name: str) -> str:
    """Say how many times better the relay is, for a terminal and in the page's cells."""
    if name == RELAY:
        return ""
    times = advantage(metric, _rounds(results, RELAY), _rounds(results, name))
    if times is None:
        return ""
    return f"{TIMES}{times:,.0f}" if times >= MANY else f"{TIMES}{times:.2f}"


def _cell(metric: Metric, results: Results, name: str) -> str:
    value = results["contestants"][name]["medians"].get(metric.name)
    ratio = _ratio(metric, results, name)
    shown = metric.shown(value)
    return f"{shown}<br>{ratio}" if ratio and value is not None else shown


WIDTH, LEFT, RIGHT, BAR, GAP, HEAD = 430, 160, 70, 16, 4, 34
COLUMNS = 2
STYLE = """
text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#57606a}
.title{font-weight:600;fill:#24292f}.bar{fill:#afb8c1}.relay{fill:#0969da}.limit{fill:#d8dee4}
@media(prefers-color-scheme:dark){text{fill:#9198a1}.title{fill:#e6edf3}.bar{fill:#656c76}
.relay{fill:#4493f8}.limit{fill:#3d444d}}
"""


def svg(results: Results) -> str:
    """Return the plot: one panel for each metric, one bar for each contestant.

    It has no background and two sets of colours, for light and dark pages.
    """
    present = _present(results)
    metrics = [m for m in _measured(results) if m.name in SHOWN]
    height = HEAD + len(present) * (BAR + GAP) + 18
    rows = -(-len(metrics) // COLUMNS)
    size = (COLUMNS * WIDTH, rows * height + 22)
    machine = results["machine"]
    about = (
        f"{results['date']}, {machine['cores']} cores of {machine['model']}, medians of "
        f"{_interleaved(results)}"
    )
    box = f'viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" height="{size[1]}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img">',
        f"<title>The relay beside what people would use instead: {escape(about)}</title>",
        f"<style>{STYLE}</style>",
    ]
    for number, metric in enumerate(metrics):
        x, y = number % COLUMNS * WIDTH, number // COLUMNS * height
        parts.append(f'<g transform="translate({x} {y})">{_panel(metric, results)}</g>')
    parts.append(f'<text x="8" y="{size[1] - 6}">{escape(about)}</text></svg>')
    return "\n".join(parts) + "\n"


def _panel(metric: Metric, results: Results) -> str:
    better = "more is better" if metric.more_is_better else "less is better"
    unit = f", {metric.unit}" if metric.unit else ""
    title = f"{_title(metric, results)}{unit} ({better})"
    bars = [f'<text class="title" x="8" y="22">{escape(title)}</text>']
    present = _present(results)
    values = [results["contestants"][name]["medians"].get(metric.name) for name, _ in present]
    greatest = max((value for value in values if value), default=1)
    for row, ((name, label), value) in enumerate(zip(present, values, strict=True)):
        y = HEAD + row * (BAR + GAP)
        kind = {RELAY: "bar relay", LIMIT: "bar limit"}.get(name, "bar")
        text_y = y + BAR - 4
        bars.append(f'<text x="{LEFT - 6}" y="{text_y}" text-anchor="end">{escape(label)}</text>')
        width = (value or 0) / greatest * (WIDTH - LEFT - RIGHT)
        bars.append(
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        )
        shown = escape(metric.shown(value))
        bars.append(f'<text x="{LEFT + width + 5:.1f}" y="{text_y}">{shown}</text>')
    return "".join(bars)
