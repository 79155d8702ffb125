"""Tables of packed data in the terminal."""

from __future__ import annotations

import io

import numpy as np

from ivr_dist.display.data_tables import sparkline


def test_a_sparkline() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8")
    assert sparkline(np.arange(8.0), stream) == "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
    assert sparkline(np.zeros(3), stream) == 3 * "\u2581"
    assert len(sparkline(np.arange(1000.0), stream)) == 48
    assert sparkline(np.array([0.0, np.nan]), stream) == 2 * "\u2581"
    assert sparkline(np.array([0.0, 1.0]), io.TextIOWrapper(io.BytesIO(), "ascii")) == "_#"
