"""A load test as a picture: an SVG file, written by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from serving.load import Closed, Result

_WIDTH, _HEIGHT = 560, 400  # of one panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 20, 44, 52  # margins
_COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#b5651d", "#6a4c93", "#00798c", "#8a6d00", "#555555")
_INK, _GRID = "#222222", "#dddddd"


def svg(results: Sequence[Result], title: str) -> str:
    """Latency by share of requests, a line for each load; of several loads also latency by throughput.

    In an open loop, by the rate that was asked for: past what a server can do, its throughput falls back.
    """
    measured = [result for result in results if result.curve]
    panels = [_Panel(0, "share of requests that were at most so slow", "latency, ms")]
    panels[0].draw_shares(measured)
    if len(measured) > 1:
        is_closed = isinstance(measured[0].load, Closed)
        what = "good answers a second (at the points: callers)" if is_closed else "requests due a second"
        panels.append(_Panel(_WIDTH, what, "latency, ms"))
        panels[1].draw_loads(measured)
    body = "\n".join(line for panel in panels for line in panel.lines)
    width = _WIDTH * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT}" '
        f'viewBox="0 0 {width} {_HEIGHT}" font-family="sans-serif" font-size="12" fill="{_INK}">\n'
        f'<rect width="{width}" height="{_HEIGHT}" fill="white"/>\n'
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>\n{body}\n</svg>\n'
    )


class _Panel:
    """One pair of axes; latency is logarithmic."""

    def __init__(self, left: int, x_title: str, y_title: str) -> None:
        self._left, self._right = left + _LEFT, left + _WIDTH - _RIGHT
        self._top, self._bottom = _TOP, _HEIGHT - _BOTTOM
        middle = (self._top + self._bottom) / 2
        self.lines = [
            _text((self._left + self._right) / 2, _HEIGHT - 14, x_title),
            f'<text transform="translate({left + 16} {middle:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_title)}</text>",
        ]

    def draw_shares(self, results: Sequence[Result]) -> None:
        # 90, 99, 99.9 % ... at equal distances.
        deepest = max((-math.log10(1 - x.curve[-2][0]) for x in results if len(x.curve) > 1), default=1.0)
        deepest = max(deepest, 1.0)
        self._axes([ms for result in results for _, ms in result.curve])
        marks = [0.0, 0.5, *(1 - 10**-nines for nines in range(1, math.floor(deepest) + 1))]
        for share in marks:
            x = self._x(-math.log10(1 - share), deepest)
            self._vertical(x, f"{100 * share:.6g}%")
        for number, result in enumerate(results):
            points = [
                (self._x(min(-math.log10(max(1 - share, 1e-12)), deepest), deepest), self._y(ms))
                for share, ms in result.curve
            ]
            self._line(points, number, f"{result.load}" + ("" if result.stable else " (not stable)"))

    def draw_loads(self, results: Sequence[Result]) -> None:
        names = ("p50", "p95", "p99")
        self._axes([result.latency_ms[name] for result in results for name in names])
        places = [x.throughput if isinstance(x.load, Closed) else x.load.rate for x in results]
        most = max(places) * 1.05 or 1.0
        step = _round_step(most / 5)
        for number in range(math.floor(most / step) + 1):
            self._vertical(self._x(number * step, most), f"{number * step:g}")
        for number, name in enumerate(names):
            points = [
                (self._x(place, most), self._y(result.latency_ms[name]))
                for place, result in zip(places, results, strict=True)
            ]
            self._line(points, number, name, dots=True)
        for place, result in zip(places, results, strict=True):
            if isinstance(result.load, Closed):
                above = self._y(result.latency_ms["p99"]) - 8
                self.lines.append(_text(self._x(place, most), above, str(result.load.concurrency), size=10))

    def _axes(self, latencies: Sequence[float]) -> None:
        """Sets the scale of latencies, and draws its lines at 1, 2 and 5 times powers of ten."""
        low, high = min(latencies, default=1.0), max(latencies, default=10.0)
        self._low, self._high = math.log10(low / 1.2), math.log10(high * 1.2)
        for power in range(math.floor(self._low), math.ceil(self._high) + 1):
            for factor in (1, 2, 5):
                ms = factor * 10.0**power
                if self._low <= math.log10(ms) <= self._high:
                    y = self._y(ms)
                    self.lines.append(_stroke([(self._left, y), (self._right, y)], _GRID, 1))
                    self.lines.append(_text(self._left - 6, y + 4, f"{ms:g}", anchor="end"))

    def _vertical(self, x: float, label: str) -> None:
        self.lines.append(_stroke([(x, self._top), (x, self._bottom)], _GRID, 1))
        self.lines.append(_text(x, self._bottom + 16, label, size=10))

    def _line(self, points: list[tuple[float, float]], number: int, name: str, dots: bool = False) -> None:
        colour = _COLOURS[number % len(_COLOURS)]
        self.lines.append(_stroke(points, colour, 2))
        if dots:
            self.lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        y = self._bottom - 12 - 16 * number  # latencies grow: this corner is empty
        self.lines.append(_stroke([(self._right - 28, y), (self._right - 8, y)], colour, 2))
        self.lines.append(_text(self._right - 34, y + 4, name, anchor="end"))

    def _x(self, value: float, most: float) -> float:
        return self._left + (self._right - self._left) * value / most

    def _y(self, ms: float) -> float:
        share = (math.log10(ms) - self._low) / (self._high - self._low)
        return self._bottom - (self._bottom - self._top) * share


def _round_step(value: float) -> float:
    """1, 2 or 5 times a power of ten, at least `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * 0.999)


def _stroke(points: list[tuple[float, float]], colour: str, width: int) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
