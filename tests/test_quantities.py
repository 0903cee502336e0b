"""Numbers as people write them, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalekit.errors import InputError
from scalekit.quantities import (
    read_duration,
    read_memory,
    read_number,
    read_whole,
    write_count,
    write_duration,
    write_flops,
)

positive = st.floats(min_value=1e-3, max_value=9e30)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e18", 1e18),
        ("1e+18", 1e18),
        ("6E19", 6e19),
        ("3e-4", 3e-4),
        ("2.5e-4", 2.5e-4),
        ("70M", 7e7),
        ("1.4T", 1.4e12),
        ("16k", 16000.0),
        ("0.5%", 0.005),
        ("1_000", 1000.0),
        ("-3", -3.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("010", 10.0),
    ],
)
def test_a_number_is_read_as_people_mean_it(text, value):
    assert read_number(text) == value


NOT_NUMBERS = """
x 1e 1:30 nan inf -inf 0x10 70Mi 1e999 1e-999 1e99999999999 1,5 --1 . % M 1e5e5 ½ \uff11
"""


@pytest.mark.parametrize("text", ["", "1 2", "9" * 200, *NOT_NUMBERS.split()])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(InputError, match="; "):
        read_number(text)


def test_a_whole_number_keeps_every_digit():
    assert read_whole("9007199254740993") == 9007199254740993
    assert read_whole("1e18") == 10**18
    assert read_whole("1.4T") == 14 * 10**11


@pytest.mark.parametrize("text", ["2.5", "1e-3", "0.5%", "1e30", "no"])
def test_a_whole_number_is_neither_broken_nor_endless(text):
    with pytest.raises(InputError):
        read_whole(text)


@given(positive, st.integers(min_value=1, max_value=6))
def test_a_written_count_reads_back(value, digits):
    # Half a unit of the last digit, which is largest against a leading one.
    assert read_number(write_count(value, digits=digits)) == pytest.approx(
        value, rel=0.51 * 10.0 ** (1 - digits)
    )


@given(positive)
def test_writing_a_read_count_again_changes_nothing(value):
    once = write_count(value)
    assert write_count(read_number(once)) == once


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_written_flops_read_back(value):
    assert read_number(write_flops(value)) == pytest.approx(value, rel=0.0051)


def test_counts_carry_to_the_next_suffix():
    assert write_count(999_999) == "1M"
    assert write_count(999.6) == "1k"
    assert write_count(-2.5e9) == "-2.5B"
    assert write_count(999.4e12) == "999T"
    assert write_count(999.6e12) == "1e15"
    assert write_count(-3.25e18) == "-3.25e18"
    assert write_count(1e300, digits=2) == "1e300"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h30m", 9000),
        ("1d12h", 129600),
        ("90s", 90),
        ("1.5h", 5400),
        ("45", 45),
        ("1:30:00", 5400),
        ("1-12:00:00", 129600),
        ("30min", 1800),
        ("2h 30m", 9000),
    ],
)
def test_a_duration_is_read_in_seconds(text, seconds):
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["12:30", "-5", "soon", "", "2h30", "1:2:3", "h", "2x"])
def test_what_is_no_duration_or_two_is_refused(text):
    with pytest.raises(InputError):
        read_duration(text)


@given(st.floats(min_value=0.01, max_value=1e8))
def test_a_written_duration_reads_back_to_its_second_unit(seconds):
    # Two units are written, so the loss is half the smaller: at most a 24th of a day's half.
    assert read_duration(write_duration(seconds)) == pytest.approx(seconds, rel=0.06)


def test_a_duration_that_rounds_up_carries():
    assert write_duration(59.7) == "1m"
    assert write_duration(3599.8) == "1h"
    assert write_duration(86399.9) == "1d"
    assert write_duration(2.5e35) == "2.89e30d"


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [("32GB", 32), ("32G", 32), ("32", 32), ("512MB", 0.512), ("1TiB", 1099.511627776)],
)
def test_memory_is_read_in_gigabytes(text, gigabytes):
    assert read_memory(text) == pytest.approx(gigabytes, rel=1e-12)  # floating-point only


@pytest.mark.parametrize("text", ["", "GB", "much", "-3GB", "1.2.3", "3XB", "1e999"])
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(InputError):
        read_memory(text)
