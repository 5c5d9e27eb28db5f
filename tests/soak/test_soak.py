"""The short form of ``make soak``."""

from dataclasses import replace

import pytest

from tests.soak.record import Soaked, make_mixed, soak

SOUND = Soaked(5000, 50, 30.0, 8e8, 8.05e8, (4,), (6,))


@pytest.mark.dali
def test_thousands_of_small_batches_leave_nothing_behind(tmp_path):
    soaked = soak(make_mixed(tmp_path / "mixed"), 0, 3000)
    assert soaked.batches >= 3000
    assert soaked.faults() == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"after": 8.09e8}, "RSS grew from 762.9 to 771.5 MiB"),
        ({"after": 7e8}, None),
        ({"threads": (4, 5)}, "threads were 4, 5"),
        ({"descriptors": (6, 7)}, "descriptors were 6, 7"),
    ],
)
def test_growth_is_a_fault(change, fault):
    assert replace(SOUND, **change).faults() == ([] if fault is None else [fault])
