"""Rows held out for early stopping: a fair share of every task, or what a splitter says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.model_selection import GroupShuffleSplit, KFold, LeaveOneOut, TimeSeriesSplit

from mttab._core.holdout import splitter_holdout, stratified_holdout

strata_arrays = npst.arrays(np.int64, st.integers(0, 80), elements=st.integers(0, 6) | st.integers(100, 200))
fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32 - 1)


def hold_out(strata, fraction, seed=0):  # type: ignore[no-untyped-def]
    return stratified_holdout(np.asarray(strata), fraction, np.random.default_rng(seed))


# --- a share of every stratum -----------------------------------------------------------------------------------------


@given(strata_arrays, fractions, seeds)
def test_every_stratum_gives_its_share_rounded_up_or_down_and_keeps_a_row(strata, fraction, seed):
    is_held = hold_out(strata, fraction, seed)
    assert is_held.dtype == bool and is_held.shape == strata.shape
    for stratum in np.unique(strata):
        n, n_held = np.sum(strata == stratum), np.sum(is_held[strata == stratum])
        assert n_held < n
        assert n_held == n - 1 or np.floor(n * fraction - 1e-9) <= n_held <= np.ceil(n * fraction + 1e-9)


@given(strata_arrays, fractions, seeds)
def test_names_of_strata_do_not_matter(strata, fraction, seed):
    renamed = np.random.default_rng(seed).permutation(1000)[strata] - 500
    np.testing.assert_array_equal(hold_out(renamed, fraction, seed), hold_out(strata, fraction, seed))


@given(strata_arrays, fractions, seeds)
def test_the_same_generator_holds_out_the_same_rows_and_draws_one_number_per_row(strata, fraction, seed):
    rng = np.random.default_rng(seed)
    first = stratified_holdout(strata, fraction, rng)
    reference = np.random.default_rng(seed)
    reference.random(len(strata))
    assert rng.random() == reference.random()
    np.testing.assert_array_equal(hold_out(strata, fraction, seed), first)


@pytest.mark.parametrize("fraction", [0.1, 0.35, 0.8])
def test_many_small_strata_give_their_share_together(fraction):
    strata = np.repeat(np.arange(2000), 4)
    held = hold_out(strata, fraction)
    assert held.mean() == pytest.approx(fraction, abs=0.02) or fraction == 0.8
    # Of four rows one has to stay, which keeps 0.8 from being reached everywhere.
    assert held.reshape(-1, 4).sum(axis=1).max() <= 3


def test_strata_of_one_row_give_none():
    assert not hold_out(np.arange(50), 0.9).any()


def test_no_rows_hold_out_nothing():
    assert hold_out(np.empty(0, dtype=np.int64), 0.1).shape == (0,)


def test_every_row_of_a_stratum_is_as_likely_to_be_held_out():
    strata = np.repeat([0, 1], [7, 3])
    counts = np.sum([hold_out(strata, 0.3, seed) for seed in range(4000)], axis=0)
    # Expected 1200 each, standard deviation 29.
    assert np.all(np.abs(counts - 1200) < 130)


# --- a splitter -------------------------------------------------------------------------------------------------------


def split_by(splitter, n_rows=10, groups=None):  # type: ignore[no-untyped-def]
    return splitter_holdout(splitter, np.zeros((n_rows, 1)), np.zeros(n_rows), groups, n_rows)


def test_the_last_split_is_taken():
    assert np.flatnonzero(split_by(TimeSeriesSplit(3), 12)).tolist() == [9, 10, 11]
    assert np.flatnonzero(split_by(KFold(5))).tolist() == [8, 9]
    assert np.flatnonzero(split_by(list(KFold(5).split(np.zeros(10))))).tolist() == [8, 9]
    assert np.flatnonzero(split_by(iter(KFold(5).split(np.zeros(10))))).tolist() == [8, 9]
    assert np.flatnonzero(split_by(LeaveOneOut(), 3)).tolist() == [2]


def test_groups_reach_the_splitter():
    groups = np.repeat(["a", "b", "c", "d"], 5)
    is_held = split_by(GroupShuffleSplit(1, test_size=0.25, random_state=0), 20, groups)
    assert len(set(groups[is_held])) == 1 and is_held.sum() == 5


def test_boolean_masks_and_lists_are_positions_too():
    train, test = np.arange(10) < 7, np.arange(10) >= 7
    assert np.flatnonzero(split_by([(train, test)])).tolist() == [7, 8, 9]
    assert np.flatnonzero(split_by([([0, 1, 2], [3])], 4)).tolist() == [3]


@pytest.mark.parametrize(
    ("splitter", "words"),
    [
        ("random", ["validation='random'", "splitter"]),
        (3, ["validation=3", "splitter"]),
        ([], ["no split"]),
        ([(np.arange(10), np.arange(0))], ["none to validate on"]),
        ([(np.arange(0), np.arange(10))], ["no row to train"]),
        ([(np.arange(10), np.arange(10))], ["no row to train"]),
        ([(np.arange(5), np.arange(5, 9))], ["1 rows in neither part"]),
        ([(np.arange(5), np.arange(5, 11))], ["below 10"]),
        ([(np.arange(5),)], ["pairs"]),
        ([(["a"], ["b"])], ["pairs"]),
        ([5], ["pairs"]),
        ([(np.array([0.5]), np.array([1.5]))], ["pairs"]),
    ],
)
def test_a_bad_splitter_is_an_error_that_says_what_is_wrong(splitter, words):
    with pytest.raises(ValueError) as err:
        split_by(splitter)
    assert str(err.value).startswith("validation=")
    for word in words:
        assert word in str(err.value)
