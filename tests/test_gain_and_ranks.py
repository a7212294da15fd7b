"""Gains, harm and ranks are the published formulas, with the sign of every metric."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, friedmanchisquare, ttest_rel
from scipy.stats import t as student_t

from mttab.metrics import harmed_tasks, multitask_gain, rank_table, task_scores


@pytest.fixture
def regression():
    rng = np.random.default_rng(0)
    task = rng.choice(["a", "b", "c"], 300, p=[0.6, 0.3, 0.1])
    y = rng.gamma(2.0, size=300)
    return y, y * rng.uniform(0.5, 1.5, 300), task


# ----------------------------------------------------------------------------------------------------------------------
# multitask_gain
# ----------------------------------------------------------------------------------------------------------------------


@given(
    ours=st.lists(st.floats(0.1, 10), min_size=1, max_size=8),
    theirs=st.lists(st.floats(0.1, 10), min_size=8, max_size=8),
)
def test_gain_is_the_formula_and_its_sign_turns_with_the_metric(ours, theirs):
    ours, theirs = np.array(ours), np.array(theirs[: len(ours)])
    gain = multitask_gain(pd.Series(ours), pd.Series(theirs), greater_is_better=True)
    np.testing.assert_allclose(gain.per_task["gain"], 100 * (ours - theirs) / theirs)
    assert gain.mean == pytest.approx(np.mean(100 * (ours - theirs) / theirs))
    loss = multitask_gain(pd.Series(ours), pd.Series(theirs), greater_is_better=False)
    np.testing.assert_allclose(loss.per_task["gain"], -gain.per_task["gain"])
    scored = multitask_gain(pd.Series(-ours), pd.Series(-theirs), greater_is_better=True)
    np.testing.assert_allclose(scored.per_task["gain"], loss.per_task["gain"])


def test_gain_of_tables_takes_the_sign_from_the_metric(regression):
    y, prediction, task = regression
    better, worse = (y + prediction) / 2, prediction
    for metric in ("r2", "root_mean_squared_error", "neg_root_mean_squared_error"):
        ours, theirs = (task_scores(y, p, task=task, metric=metric) for p in (better, worse))
        assert (multitask_gain(ours, theirs).per_task["gain"] > 0).all()
    assert multitask_gain(ours, theirs).mean == pytest.approx(50.0)


def test_tasks_count_alike_however_many_metrics_they_have():
    rows = {"metric": ["m1", "m2", "m1"], "score": [2.0, 4.0, 1.0], "greater_is_better": True}
    ours = pd.DataFrame(rows, index=["a", "a", "b"])
    gain = multitask_gain(ours, ours.assign(score=1.0))
    assert gain.mean == pytest.approx((100 + 300) / 2 / 2)


def test_gain_averages_figures_over_seeds_first():
    gain = multitask_gain([{"a": 1.0}, {"a": 3.0}], [{"a": 1.0}, {"a": 1.0}], greater_is_better=True)
    assert gain.mean == pytest.approx(100.0)


def test_a_zero_baseline_is_reported_and_left_out():
    gain = multitask_gain({"a": 0.0, "b": 1.0, "c": 2.0}, {"a": 0.0, "b": 0.0, "c": 1.0}, greater_is_better=True)
    assert gain.per_task["gain"].tolist()[0] == 0 and np.isnan(gain.per_task["gain"]["b"])
    assert gain.per_task["reason"].tolist() == ["", "baseline is 0", ""]
    assert gain.mean == pytest.approx(50.0)


def test_gain_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="baseline has no figure for: 'b'"):
        multitask_gain({"a": 1.0, "b": 2.0}, {"a": 1.0}, greater_is_better=True)
    with pytest.raises(ValueError, match="pass greater_is_better="):
        multitask_gain({"a": 1.0}, {"a": 1.0})
    table = task_scores([1.0, 2.0], [1.0, 3.0], metric="r2")
    with pytest.raises(ValueError, match="twice for one metric and seed"):
        multitask_gain(pd.concat([table, table]), table)
    with pytest.raises(ValueError, match="lacks the columns"):
        multitask_gain(pd.DataFrame({"x": [1.0]}), table)


@pytest.mark.parametrize("numbers", [[1.0, 2.0], np.ones(2), 1.0])
def test_numbers_without_the_names_of_their_tasks_are_refused(numbers):
    with pytest.raises(ValueError, match=r"scores holds a .* where a table belongs; pass a table of task_scores"):
        multitask_gain(numbers, numbers, greater_is_better=True)


def test_composite_task_ids_are_compared(regression):
    y, prediction, task = regression
    ids = pd.DataFrame({"task": task, "year": np.arange(300) % 2})
    scores = task_scores(y, prediction, task=ids, metric="mean_squared_error")
    assert ("a", 0) in scores.index.tolist()
    gain = multitask_gain(scores, scores)
    assert gain.mean == 0 and gain.per_task.index.tolist() == scores.index.tolist()
    assert len(harmed_tasks([scores, scores], [scores, scores], all_tasks=True)) == len(scores)
    assert rank_table({"p": scores, "q": scores}).n_blocks == len(scores)


# ----------------------------------------------------------------------------------------------------------------------
# harmed_tasks
# ----------------------------------------------------------------------------------------------------------------------


def runs(differences, seed=0):
    """Losses per seed of a baseline and of a model that differs by the given means, plus noise."""
    rng = np.random.default_rng(seed)
    single = [pd.Series(rng.uniform(1, 2, len(differences))) for _ in range(6)]
    multi = [s + np.array(differences) + rng.normal(scale=0.05, size=len(differences)) for s in single]
    return multi, single


def test_harm_is_a_one_sided_paired_t_test_with_holms_correction():
    multi, single = runs([0.3, 0.08, -0.3, 0.0])
    table = harmed_tasks(multi, single, greater_is_better=False, all_tasks=True)
    a, b = np.array(multi), np.array(single)
    for task in range(4):
        p = ttest_rel(a[:, task], b[:, task], alternative="greater").pvalue
        assert table.loc[task, "p_value"] == pytest.approx(p)
    p = np.sort(table["p_value"])
    expected = np.minimum(np.maximum.accumulate(p * [4, 3, 2, 1]), 1)
    np.testing.assert_allclose(table["p_adjusted"], expected)
    assert table.index[0] == 0 and table.loc[0, "harmed"] and not table.loc[2, "harmed"]


def test_only_worse_tasks_are_listed_unless_all_are_asked_for():
    multi, single = runs([0.3, -0.3])
    assert harmed_tasks(multi, single, greater_is_better=False).index.tolist() == [0]
    assert harmed_tasks(multi, single, greater_is_better=True).index.tolist() == [1]
    assert len(harmed_tasks(multi, single, greater_is_better=False, all_tasks=True)) == 2


def test_corrections_and_resampling_change_the_verdict_in_the_known_direction():
    multi, single = runs([0.06, 0.05, 0.04, 0.03], seed=1)

    def adjusted(**options):
        options = {"greater_is_better": False, "all_tasks": True} | options
        return harmed_tasks(multi, single, **options).sort_index()["p_adjusted"].to_numpy()

    raw = adjusted(correction=None)
    np.testing.assert_allclose(adjusted(correction="fdr_bh"), false_discovery_control(raw))
    assert (raw <= adjusted(correction="fdr_bh")).all() and (adjusted(correction="fdr_bh") <= adjusted()).all()
    assert (adjusted(correction=None, test_train_ratio=0.25) > raw).all()
    a = (np.array(multi) - np.array(single))[:, 0]
    by_hand = student_t.sf(a.mean() / (a.std(ddof=1) * np.sqrt(1 / 6 + 0.25)), 5)
    assert adjusted(correction=None, test_train_ratio=0.25)[0] == pytest.approx(by_hand)
    strict = harmed_tasks(multi, single, greater_is_better=False, alpha=1e-9)
    assert not strict["harmed"].any()


def test_seeds_are_paired_by_their_column_whatever_the_order(regression):
    y, prediction, task = regression
    rng = np.random.default_rng(0)

    def run(seed, shift):
        noisy = prediction + shift + rng.normal(scale=0.1, size=len(y))
        return task_scores(y, noisy, task=task, metric="mean_squared_error").assign(seed=seed)

    multi, single = [run(s, 0.5) for s in range(4)], [run(s, 0.0) for s in range(4)]
    table = harmed_tasks(pd.concat(multi), pd.concat(single[::-1]))
    pd.testing.assert_frame_equal(table, harmed_tasks(multi, single))
    pd.testing.assert_frame_equal(table, harmed_tasks(dict(enumerate(multi)), dict(enumerate(single))))
    assert (table["n_seeds"] == 4).all()


def test_tables_in_a_list_are_paired_by_the_seeds_they_name():
    def run(seed, score):
        return pd.DataFrame({"metric": "m", "score": [score], "greater_is_better": True, "seed": seed}, index=["a"])

    multi = [run(0, 1.0), run(1, 5.0), run(2, 9.0)]
    single = [run(2, 9.1), run(0, 1.2), run(1, 5.3)]
    table = harmed_tasks(multi, single)
    pd.testing.assert_frame_equal(table, harmed_tasks(pd.concat(multi), pd.concat(single)))
    pd.testing.assert_frame_equal(table, harmed_tasks([pd.concat(multi)], [pd.concat(single)]))
    assert table["harmed"].tolist() == [True]


def test_a_pair_of_task_and_metric_that_the_baseline_lacks_is_refused():
    rows = {"metric": ["m1", "m2", "m1", "m2"], "score": 1.0, "greater_is_better": True}
    ours = pd.DataFrame(rows, index=["a", "a", "b", "b"])
    theirs = ours.iloc[[0, 2, 3]]  # task a and metric m2 are there, but not together
    with pytest.raises(ValueError, match="baseline has no figure for: 'a'; score the same tasks"):
        harmed_tasks(ours, theirs)


def test_one_seed_or_seeds_without_noise_are_never_called_harm():
    one = harmed_tasks({"a": 2.0}, {"a": 1.0}, greater_is_better=False)
    assert one["p_value"].isna().all() and not one["harmed"].any() and one["difference"].item() == -1
    rounding = [{"a": 1.3}, {"a": 2.3}, {"a": 5.3}], [{"a": 1.0}, {"a": 2.0}, {"a": 5.0}]
    assert harmed_tasks(*rounding, greater_is_better=False)["p_value"].isna().all()
    same = harmed_tasks([{"a": 2.0, "b": 1.0}] * 3, [{"a": 1.0, "b": 1.0}] * 3, greater_is_better=False, all_tasks=True)
    assert np.isnan(same.loc["a", "p_value"]) and same.loc["b", "p_value"] == 1.0


def test_a_task_whose_figure_is_missing_is_kept_in_the_full_list():
    table = harmed_tasks([{"a": np.nan}] * 2, [{"a": 1.0}] * 2, greater_is_better=True, all_tasks=True)
    assert table["n_seeds"].tolist() == [0] and not table["harmed"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 5}, "alpha=5 is no level"),
        ({"correction": "bonferroni"}, "correction='bonferroni' is not one of"),
        ({"test_train_ratio": -1}, "test_train_ratio=-1 is negative"),
    ],
)
def test_harm_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        harmed_tasks({"a": 1.0}, {"a": 1.0}, greater_is_better=True, **options)
    with pytest.raises(ValueError, match="no seed in common"):
        harmed_tasks({1: {"a": 1.0}}, {2: {"a": 1.0}}, greater_is_better=True)


# ----------------------------------------------------------------------------------------------------------------------
# rank_table
# ----------------------------------------------------------------------------------------------------------------------


@given(n=st.integers(3, 12), k=st.integers(3, 6), levels=st.integers(2, 50), seed=st.integers(0, 10**6))
def test_friedman_agrees_with_scipy_also_with_ties(n, k, levels, seed):
    results = pd.DataFrame(np.random.default_rng(seed).integers(0, levels, (n, k)))
    if (results.nunique(axis=1) == 1).all():
        return
    table = rank_table(results, greater_is_better=True)
    expected = friedmanchisquare(*results.to_numpy().T)
    assert table.friedman_statistic == pytest.approx(expected.statistic)
    assert table.p_value == pytest.approx(expected.pvalue)
    assert table.ranks["average_rank"].mean() == pytest.approx((k + 1) / 2)


def test_critical_difference_is_that_of_the_published_table():
    # Demšar (2006), Table 5: q for 4 approaches at 0.05 is 2.569; section 3.2.2 works out CD = 1.25 for 14 data sets.
    table = rank_table(pd.DataFrame(np.random.default_rng(0).normal(size=(14, 4))), greater_is_better=True)
    assert table.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    wider = rank_table(pd.DataFrame(np.zeros((14, 4))), greater_is_better=True, alpha=0.01)
    assert wider.critical_difference > table.critical_difference
    assert (wider.friedman_statistic, wider.p_value) == (0.0, 1.0)


def test_scale_does_not_matter_and_the_sign_does():
    results = pd.DataFrame({"p": [1.0, 200.0, 0.1], "q": [2.0, 100.0, 0.2]})
    assert rank_table(results, greater_is_better=False).ranks["average_rank"].to_dict() == pytest.approx(
        {"p": 4 / 3, "q": 5 / 3}
    )
    assert rank_table(results, greater_is_better=True).ranks.index.tolist() == ["q", "p"]
    assert rank_table(results, greater_is_better=True).ranks["wins"].to_dict() == {"q": 2, "p": 1}


def test_a_failure_ranks_last_unless_rows_with_failures_are_dropped():
    results = pd.DataFrame({"p": [np.nan, 1.0, np.nan], "q": [5.0, 2.0, np.nan]})
    worst = rank_table(results, greater_is_better=False)
    assert worst.n_blocks == 2 and worst.ranks.loc["p"][["average_rank", "n_missing"]].tolist() == [1.5, 2]
    dropped = rank_table(results, greater_is_better=False, missing="drop")
    assert dropped.n_blocks == 1 and dropped.ranks.index.tolist() == ["p", "q"]


def test_ranks_of_task_scores_are_ranks_over_tasks_and_metrics(regression):
    y, prediction, task = regression
    metrics = ["r2", "mean_absolute_error"]
    scores = {
        name: task_scores(y, y + w * (prediction - y), task=task, metric=metrics)
        for name, w in [("far", 1.0), ("near", 0.1), ("middle", 0.5)]
    }
    table = rank_table(scores)
    assert table.n_blocks == 6 and table.ranks.index.tolist() == ["near", "middle", "far"]
    assert table.ranks["average_rank"].tolist() == [1, 2, 3]
    assert "Friedman χ²(2) = 12.00" in str(table) and "critical difference" in str(table)


@pytest.mark.parametrize(
    ("results", "options", "message"),
    [
        (pd.DataFrame({"p": [1.0]}), {"greater_is_better": True}, "pass at least 2 approaches"),
        (pd.DataFrame({"p": [1.0], "q": [2.0]}), {}, "pass greater_is_better="),
        ([1, 2], {}, "results is a list"),
        (
            pd.DataFrame({"name": ["x"], "p": [1.0], "q": [2.0]}),
            {"greater_is_better": True},
            "columns that are no numbers, 'name', but each column is an approach",
        ),
        ({"p": [1.0], "q": [2.0]}, {"greater_is_better": True}, r"results\['p'\] holds a float where a table belongs"),
        (pd.DataFrame({"p": [1.0], "q": [2.0]}), {"greater_is_better": True, "missing": "last"}, "missing='last'"),
        (pd.DataFrame({"p": [1.0], "q": [2.0]}), {"greater_is_better": True, "alpha": 0}, "alpha=0 is no level"),
    ],
)
def test_rank_table_names_what_is_wrong(results, options, message):
    with pytest.raises(ValueError, match=message):
        rank_table(results, **options)
