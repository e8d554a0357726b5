"""``max_overhead``: what may be left out is looked at only where its price still fits into the promised share.

The norms of every step are never left out. What a look costs is measured at the last one; what it adds to what watching
has cost so far must stay within the share of the run so far. The first steps are exempt: most faults are there.
"""

from __future__ import annotations

from gradwatch._price import Price

EXEMPT_STEPS = 5
"""Of each optimizer."""

SAMPLE = "samples of maxima, weights and updates"
PROBE = "looks at the forward pass"


class Budget:
    """Grants looks.

    Args:
        price: What watching has cost so far.
        max_overhead: The largest share of the run, None for no limit.
    """

    def __init__(self, price: Price, max_overhead: float | None) -> None:
        self.price = price
        self._share = max_overhead
        self._costs: dict[str, float] = {}
        self._granted: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._spent = 0.0
        self._under_way: set[str] = set()
        self._last: set[str] = set()

    def step_is_over(self) -> None:
        """Learn what the looks of the last two steps have cost: part of it is spent after the update."""
        spent = self.price.watch_seconds - self._spent
        self._spent = self.price.watch_seconds
        for what in self._last:
            self._costs[what] += spent
        for what in self._under_way:
            self._costs[what] = spent
        self._last, self._under_way = self._under_way, set()

    def add(self, seconds: float) -> None:
        """Spent by a probe between two events."""
        self.price.add(seconds)

    def grants(self, what: str, num_steps: int) -> bool:
        """Whether to look at the step to come; asked once, and only where a look is due.

        Args:
            what: :data:`SAMPLE` or :data:`PROBE`.
            num_steps: Of its optimizer so far.
        """
        if self._share is None:
            return True
        cost = self.price.watch_seconds + self._costs.get(what, 0.0)
        granted = num_steps < EXEMPT_STEPS or cost <= self._share * self.price.run_seconds
        counts = self._granted if granted else self._refused
        counts[what] = counts.get(what, 0) + 1
        if granted:
            self._under_way.add(what)
        return granted

    def told(self) -> str:
        """What was left out, in words; "" for nothing."""
        if self._share is None or not self._refused:
            return ""
        parts = [
            f"{refused:,} of {refused + self._granted.get(what, 0):,} {what}"
            for what, refused in sorted(self._refused.items())
        ]
        text = f"left out to keep watching below {self._share:.2%} of the run (max_overhead): {' and '.join(parts)}"
        if self.price.watch_seconds <= self._share * self.price.run_seconds:
            return text
        return f"{text}. The norms of every step alone cost more than that, or the run is too short yet"
