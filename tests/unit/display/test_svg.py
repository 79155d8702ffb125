"""Charts: well-formed, finite at the limits of their input, and inert whatever their texts are."""

from __future__ import annotations

import re

import pytest

from ivr_dist.display.svg import bar_chart, column_chart, stacked_bar
from ivr_dist.inspection.summaries import ColumnStatistics
from tests.markup import Page


def test_charts_are_finite_at_the_limits_of_their_input() -> None:
    for counts in ([0], [0, 0], [1], [3, 10**9]):
        names = [str(number) for number in range(len(counts))]
        Page(bar_chart("t", names, counts, "label", [(0.5, "0")], 0.0))
    Page(stacked_bar("none", [("a", 0, "part-0")]))
    for values in ([0.0], [1e30, -1e-30], [5.0, 5.0], [1e4, 0.0, -2.0]):
        columns = ColumnStatistics(values, [0.0] * len(values), values, values)
        drawing = column_chart("t", columns, "text")
        assert "nan" not in drawing and "inf" not in drawing
        heights = [float(y) for y in re.findall(r'y1="(-?[\d.]+)"', drawing)]
        assert all(0 <= y <= 210 for y in heights)


HOSTILE = (
    '"><script>alert(1)</script>',
    "' onload='alert(1)",
    '" onload="alert(1)" x="',
    "</title></svg><img src=x onerror=alert(1)>",
    "]]><!-- -->{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1);&lt;b&gt;",
)


@pytest.mark.parametrize("evil", HOSTILE)
def test_texts_and_classes_stay_texts_and_classes(evil: str) -> None:
    columns = ColumnStatistics([0.0], [1.0], [-1.0], [2.0])

    def charts(text: str) -> list[Page]:
        return [
            Page(bar_chart(text, [text], [3], text, [(0.5, text)], 0.5)),
            Page(stacked_bar(text, [(text, 3, text)])),
            Page(column_chart(text, columns, text)),
        ]

    for hostile, harmless in zip(charts(evil), charts("t"), strict=True):
        assert hostile.count == harmless.count
        names = [(tag, name) for tag, name, _ in hostile.attributes]
        assert names == [(tag, name) for tag, name, _ in harmless.attributes]
        # Every attribute and every text holds what was given, as it was given.
        for (_, _, value), (_, _, expected) in zip(hostile.attributes, harmless.attributes, strict=True):
            assert value == expected or (value or "").startswith(evil)
        assert any(text.startswith(evil) for text in hostile.texts)


def test_control_characters_are_visible_in_texts_and_attributes() -> None:
    chart = bar_chart("\x1b[2J", ["\u202e"], [1], "\0", [(0.5, "\ud800")])
    assert not any(letter in chart for letter in "\x1b\u202e\ud800\0")
    assert r'aria-label="\x1b[2J"' in chart and r">\ud800</text>" in chart
