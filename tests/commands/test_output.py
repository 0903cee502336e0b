"""Tables for a terminal."""

from __future__ import annotations

from scalekit.commands._output import format_table


def test_ids_of_runs_are_words_even_where_all_begin_with_a_digit():
    table = format_table(["run", "steps"], [["17829dcb93", "9"], ["00ff0b8d60", "117"]])
    assert table.splitlines() == [
        "run         steps",
        "17829dcb93      9",
        "00ff0b8d60    117",
    ]
