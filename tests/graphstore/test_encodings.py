"""Times and scalars as vectors, against the formulas in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgpt.graphstore import StoreError
from netgpt.graphstore.features import DAY_S, TIME_EPOCH_S, encode_scalar, encode_time

NOVEMBER = 1_732_464_000  # 2024-11-25 in China


@given(st.integers(NOVEMBER - 400 * DAY_S, NOVEMBER + 400 * DAY_S), st.sampled_from([4, 8, 16, 32]))
def test_a_time_is_sines_and_cosines_of_1_to_4096_days(seconds: int, dim: int) -> None:
    found = encode_time(np.array([seconds]), dim)
    assert found.shape == (1, dim) and found.dtype == np.float32
    half = dim // 2
    for k in range(half):
        period = DAY_S * 4096 ** (k / (half - 1))
        phase = 2 * math.pi * (seconds - TIME_EPOCH_S) / period
        assert found[0, k] == pytest.approx(math.sin(phase), abs=1e-6)
        assert found[0, half + k] == pytest.approx(math.cos(phase), abs=1e-6)


@pytest.mark.parametrize("dim", [16, 32])
def test_differences_of_hours_days_and_months_all_show(dim: int) -> None:
    days = encode_time(NOVEMBER + DAY_S * np.arange(400), dim).astype(np.float16).astype(np.float64)
    apart = np.linalg.norm(days[:, None] - days[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 0.3  # also in the float16 that comments' times are kept in
    for months in (1, 3, 9):
        assert np.linalg.norm(days[0] - days[30 * months]) > 0.5
    hours = encode_time(NOVEMBER + 3600 * np.arange(24), dim)
    for a in range(24):
        for b in range(a):
            assert np.linalg.norm(hours[a] - hours[b]) > 0.2


@pytest.mark.parametrize("dim", [0, 2, 7])
def test_widths_that_hold_no_times_are_refused(dim: int) -> None:
    with pytest.raises(StoreError, match="expected an even number from 4"):
        encode_time(np.array([0]), dim)


@given(st.lists(st.integers(0, 2**62), min_size=1))
def test_scalars_are_log_1_plus_n(numbers: list[int]) -> None:
    found = encode_scalar(np.array(numbers, np.float64))
    assert found.shape == (len(numbers), 1)
    np.testing.assert_allclose(found[:, 0], [math.log1p(n) for n in numbers], rtol=1e-6)
