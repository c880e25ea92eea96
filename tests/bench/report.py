"""Results of a run: collected round by round, judged, printed as a table and written as JSON.

Owns what may be quoted: medians only, nothing from a round that failed, nothing the load generator may have limited.
Starts and measures nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.scenarios.base import Case, Metric
from bench.stats import median

LOAD_SHARE_MAX = 0.95
"""Above this share of its core the load generator may be what was measured."""
NAIVE_SHARE_MIN = 0.30
"""Of aiosqlite's own three-hop rate: a slower naive gateway would be a straw man."""


@dataclass
class Cell:
    """One contestant in one case: a dict of figures per round that worked, a reason per round that did not, or in which
    it was too slow for what was asked."""

    rounds: list[dict[str, float]] = field(default_factory=list)
    notes: list[dict[str, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)

    def values(self, metric: Metric) -> list[float]:
        return [figures[metric.name] for figures in self.rounds]

    def void(self, metric: Metric) -> str | None:
        """Why this figure may not be quoted, or None."""
        if self.failures:
            return f"failed in {len(self.failures)} of {len(self.failures) + len(self.rounds)} rounds"
        if self.slow:
            return f"too slow: {self.slow[0]}"
        if not self.rounds:
            return "not measured"
        share = self.note("load_cpu_share")
        if metric.by_load and share > LOAD_SHARE_MAX:
            return f"not quoted: load generator at {share:.0%}"
        return None

    def note(self, name: str) -> float:
        """The highest of the rounds."""
        return max((notes.get(name, 0.0) for notes in self.notes), default=0.0)


class Results:
    """All cells of a run."""

    def __init__(self, systems: Sequence[str], cases: Sequence[Case]) -> None:
        self.systems = systems
        self.cases = cases
        self.cells = {(case.scenario, case.name, system): Cell() for case in cases for system in systems}
        self.bounds: dict[str, list[float]] = {}

    def cell(self, case: Case, system: str) -> Cell:
        return self.cells[case.scenario, case.name, system]

    def quoted(self, case: Case, system: str, metric: Metric) -> float | None:
        cell = self.cell(case, system)
        return None if cell.void(metric) else median(cell.values(metric))

    def naive_share(self, three_hops: str) -> float | None:
        """What the naive gateway reaches of the driver's own rate: 1P/1C, one message a frame."""
        if not self.bounds.get(three_hops):
            return None
        for case in self.cases:
            if case.scenario == "throughput" and case.params["producers"] == 1 and case.params["per_op"] == 1:
                rate = self.quoted(case, "naive", case.metrics[0]) if "naive" in self.systems else None
                return None if rate is None else rate / median(self.bounds[three_hops])
        return None


def concerns(case: Case, system: str) -> bool:
    """Whether a case is measured with this system. A bare limit takes part only where it is named."""
    return system in case.systems if case.systems else not system.startswith("bare-")


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"


def brief(figures: Mapping[str, float]) -> str:
    """One measurement on one line, for whoever watches a long run."""
    return ", ".join(f"{name} {number(value)}" for name, value in figures.items())


def factor(metric: Metric, ours: float | None, theirs: float | None) -> str:
    """How many times better or worse the first is."""
    if not ours or not theirs:
        return "-"
    ratio = ours / theirs if metric.higher_is_better else theirs / ours
    return f"{ratio:,.1f} x better" if ratio >= 1 else f"{1 / ratio:,.1f} x worse"


def table(results: Results) -> str:
    """One block a case: a line a metric, a column a system, then the first system against each other one."""
    lines = []
    for case in results.cases:
        systems = [system for system in results.systems if concerns(case, system)]
        if not systems:
            continue
        ours, *others = systems
        lines += ["", f"{case.scenario}: {case.name}"]
        heads = [*systems, *(f"{ours} : {other}" for other in others)]
        lines.append(f"  {'':<30}" + "".join(f"{head:>34}" for head in heads))
        for metric in case.metrics:
            cells = [_shown(results.cell(case, system), metric) for system in systems]
            mine = results.quoted(case, ours, metric)
            cells += [factor(metric, mine, results.quoted(case, other, metric)) for other in others]
            lines.append(f"  {metric.name + ', ' + metric.unit:<30}" + "".join(f"{cell:>34}" for cell in cells))
        shares = [_shares(results.cell(case, system)) for system in systems]
        lines.append(f"  {'CPU share: load / broker':<30}" + "".join(f"{share:>34}" for share in shares))
        for system in systems:
            for reason in dict.fromkeys(results.cell(case, system).failures):
                lines.append(f"  {system} FAILED: {reason}")
    return "\n".join(lines)


def _shown(cell: Cell, metric: Metric) -> str:
    reason = cell.void(metric)
    if reason:
        return reason
    values = cell.values(metric)
    spread = f" [{number(min(values))}..{number(max(values))}]" if len(values) > 1 else ""
    return number(median(values)) + spread


def _shares(cell: Cell) -> str:
    if not cell.rounds:
        return "-"
    return f"{cell.note('load_cpu_share'):.0%} / {cell.note('broker_cpu_share'):.0%}"


def rows(
    results: Results, versions: Mapping[str, Mapping[str, str]], limits: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """One row per system, scenario and metric. `value` is null where nothing may be quoted; `void` says why."""
    found: list[dict[str, Any]] = []
    for case in results.cases:
        for system in filter(partial(concerns, case), results.systems):
            cell = results.cell(case, system)
            for metric in case.metrics:
                values = cell.values(metric)
                row: dict[str, Any] = {
                    "system": system,
                    "scenario": f"{case.scenario}: {case.name}",
                    "metric": metric.name,
                    "value": results.quoted(case, system, metric),
                    "unit": metric.unit,
                    "higher_is_better": metric.higher_is_better,
                    "rounds": len(values),
                    "values": values,
                    "void": cell.void(metric),
                    "failures": cell.failures,
                    "notes": {name: cell.note(name) for name in sorted({*itertools.chain(*cell.notes)})},
                    "params": case.params,
                    "versions": versions[system],
                    "limits_raised": limits[system],
                }
                found.append(row)
    for name, values in results.bounds.items():
        found.append({
            "system": "bound", "scenario": "bound", "metric": name, "value": median(values) if values else None,
            "unit": "1/s", "higher_is_better": True, "rounds": len(values), "values": values,
        })  # fmt: skip
    return found


def write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.replace(path)
