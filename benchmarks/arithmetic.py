"""What is made of the numbers: percentiles, medians over the rounds, ratios within a round."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

Round = Mapping[str, float | None]
"""What one round gave for one contestant, by the metric's name. `None`: cannot be told here."""
UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that is measured. `digits` are those after the point."""

    name: str
    title: str
    unit: str
    digits: int = 0
    more_is_better: bool = False

    def shown(self, value: float | None) -> str:
        """Return a value as a table shows it."""
        return UNKNOWN if value is None else f"{value:,.{self.digits}f}"


METRICS = (
    Metric("throughput", "throughput, 32 connections", "callbacks/s", more_is_better=True),
    Metric("p50_ms", "latency, 1 connection, median", "ms", 2),
    Metric("p99_ms", "latency, 32 connections, p99", "ms", 1),
    Metric("cpu_ms", "processor time a callback", "ms", 2),
    Metric("cold_ms", "start to first callback", "ms"),
    Metric("cold_60_ms", "the same, Entra takes 60 ms", "ms"),
    Metric("cold_cpu_ms", "processor time until then", "ms"),
    Metric("cold_memory_mib", "memory then", "MiB"),
    Metric("cold_cloud_60_ms", "the same, and is login.microsoftonline.com", "ms"),
    Metric("memory_mib", "memory after the load", "MiB"),
    Metric("token_requests", "token requests, first callbacks", ""),
    Metric("entra_connections", "connections to Entra, first callbacks", ""),
    Metric("dynamics_connections", "connections to Dynamics, first callbacks", ""),
    Metric("failed", "not delivered, first callbacks", ""),
)


@dataclass(frozen=True, slots=True)
class Goal:
    """What the relay is meant to reach: its metric over that of a peer, against a bound.

    Without a `peer` the value itself counts, in the worst round.
    """

    metric: Metric
    peer: str | None
    bound: float

    def measured(self, relay: Sequence[Round], peer: Sequence[Round]) -> float | None:
        """Return the ratio, a median over the rounds, or without a peer the worst value."""
        name = self.metric.name
        if self.peer is None:
            values = [value for each in relay if (value := each.get(name)) is not None]
            return max(values, default=None)
        ratios = [
            mine / other
            for ours, theirs in zip(relay, peer, strict=False)
            if (mine := ours.get(name)) is not None and (other := theirs.get(name))
        ]
        return median(ratios) if ratios else None

    def holds(self, measured: float) -> bool:
        """Tell whether what was measured is within the bound."""
        return measured >= self.bound if self.metric.more_is_better else measured <= self.bound


_BY_NAME = {metric.name: metric for metric in METRICS}
GOALS = (
    Goal(_BY_NAME["throughput"], "node_red", 1.2),
    Goal(_BY_NAME["throughput"], "bare", 2.0),
    Goal(_BY_NAME["throughput"], "bare_transports", 0.9),
    Goal(_BY_NAME["p50_ms"], "bare", 1.1),
    Goal(_BY_NAME["memory_mib"], "node_red", 0.35),
    Goal(_BY_NAME["token_requests"], None, 1),
    Goal(_BY_NAME["failed"], None, 0),
    Goal(_BY_NAME["cold_60_ms"], "bare_msal", 1.15),
    Goal(_BY_NAME["cold_ms"], "bare_msal", 1.6),
    Goal(_BY_NAME["cold_cpu_ms"], "bare_msal", 1.6),
    Goal(_BY_NAME["cold_memory_mib"], "bare_msal", 1.2),
)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of all is not above (nearest rank)."""
    if not values:
        raise ValueError("There is no percentile of nothing.")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def medians(rounds: Sequence[Round]) -> dict[str, float | None]:
    """Return the median of each metric over the rounds that have it."""
    found: dict[str, float | None] = {}
    for name in dict.fromkeys(name for each in rounds for name in each):
        values = [value for each in rounds if (value := each.get(name)) is not None]
        found[name] = median(values) if values else None
    return found


def advantage(metric: Metric, relay: Sequence[Round], peer: Sequence[Round]) -> float | None:
    """Return how many times better the relay is than the peer: 2.0 is twice as good, 0.5 half.

    The two are compared within each round, so that a machine which is slower in one of them counts
    for both alike; then the median is taken.
    """
    ratios = []
    for ours, theirs in zip(relay, peer, strict=False):
        mine, other = ours.get(metric.name), theirs.get(metric.name)
        if mine and other:
            ratios.append(mine / other if metric.more_is_better else other / mine)
    return median(ratios) if ratios else None


def rotated[T](items: Sequence[T], by: int) -> list[T]:
    """Return the items in the order of round number `by`: each round begins with another one."""
    start = by % len(items) if items else 0
    return [*items[start:], *items[:start]]


def spread(values: Iterable[float | None]) -> float | None:
    """Return how wide the middle half of the values is, as a share of their median."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or not median(known):  # noqa: PLR2004 - one value is not spread
        return None
    lower, middle, upper = quantiles(known, n=4, method="inclusive")
    return (upper - lower) / middle
