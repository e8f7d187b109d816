"""Checks of what callers give; the messages of memlib's functions are in bad_inputs.py."""

import math

import pytest

from memlib import checks


@pytest.mark.parametrize(
    ("check", "allowed", "refused", "message"),
    [
        (checks.check_range, (1,), {"a": 1, "b": math.nan}, "b is nan; allowed: 1 or more"),
        (checks.check_range, (0, 1), {"rank": 1.1}, "rank is 1.1; allowed: 0 to 1"),
        (checks.check_whole, (1,), {"a": 3, "b": 2.0}, "b is 2.0; allowed: a whole number, 1 or more"),
        (checks.check_whole, (0,), {"a": True}, "a is True; allowed: a whole number, 0 or more"),
        (checks.check_share, (), {"a": 0.1, "b": 1}, "b is 1; allowed: between 0 and 1"),
        (checks.check_one_of, ((1, 3),), {"a": 3, "b": 2}, "b is 2; allowed: 1, 3"),
    ],
)
def test_the_first_value_that_is_not_allowed_is_named(check, allowed, refused, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check(*allowed, **refused)
