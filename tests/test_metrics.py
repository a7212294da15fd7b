"""Figures per task agree with scikit-learn's on that task's rows, and say what is undefined instead of failing."""

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score, get_scorer_names, log_loss, make_scorer, mean_pinball_loss, roc_auc_score
from sklearn.metrics import mean_squared_error as mse

from mttab.metrics import average_scores, task_scores
from mttab.metrics._standard_error import _INFLUENCE


@pytest.fixture
def regression():
    rng = np.random.default_rng(0)
    task = rng.choice(["a", "b", "c"], 300, p=[0.6, 0.3, 0.1])
    y = rng.gamma(2.0, size=300)
    return y, y * rng.uniform(0.5, 1.5, 300), task


@pytest.fixture
def binary():
    rng = np.random.default_rng(1)
    task = rng.choice(["a", "b", "c"], 300, p=[0.6, 0.3, 0.1])
    score = rng.normal(size=300)
    y = (score + rng.normal(size=300) > 0.3).astype(int)
    return y, 1 / (1 + np.exp(-score)), task


@pytest.fixture
def multiclass():
    rng = np.random.default_rng(2)
    y = rng.choice(["x", "y", "z"], 300)
    proba = rng.dirichlet([1, 1, 1], 300) + 0.7 * (y[:, None] == ["x", "y", "z"])
    return y, proba / proba.sum(axis=1, keepdims=True), rng.choice([1, 2], 300)


# ----------------------------------------------------------------------------------------------------------------------
# task_scores: figures
# ----------------------------------------------------------------------------------------------------------------------

REGRESSION = {
    "r2": sklearn.metrics.r2_score,
    "explained_variance": sklearn.metrics.explained_variance_score,
    "neg_mean_squared_error": lambda y, p: -mse(y, p),
    "neg_root_mean_squared_error": lambda y, p: -sklearn.metrics.root_mean_squared_error(y, p),
    "neg_median_absolute_error": lambda y, p: -sklearn.metrics.median_absolute_error(y, p),
    "neg_max_error": lambda y, p: -sklearn.metrics.max_error(y, p),
    "neg_mean_poisson_deviance": lambda y, p: -sklearn.metrics.mean_poisson_deviance(y, p),
    "mean_absolute_error": sklearn.metrics.mean_absolute_error,
}


@pytest.mark.parametrize("metric", REGRESSION)
def test_regression_figures_are_those_of_scikit_learn_on_the_rows_of_the_task(metric, regression):
    y, prediction, task = regression
    scores = task_scores(y, prediction, task=task, metric=metric)
    assert scores.index.tolist() == ["a", "b", "c"]
    for label, row in scores.iterrows():
        assert row["n"] == (task == label).sum()
        assert row["score"] == pytest.approx(REGRESSION[metric](y[task == label], prediction[task == label]))
        assert row["standard_error"] > 0 and row["reason"] == ""


def test_binary_figures_come_from_one_column_of_probabilities_or_two(binary):
    y, p, task = binary
    metrics = ["roc_auc", "neg_log_loss", "average_precision", "brier_score", "accuracy", "f1"]
    from_two = task_scores(y, np.column_stack([1 - p, p]), task=task, metric=metrics)
    from_one = task_scores(y, p, task=task, metric=metrics[:4])
    from_labels = task_scores(y, (p > 0.5).astype(int), task=task, metric=metrics[4:])
    one_by_one = pd.concat([from_one, from_labels])
    assert from_two["metric"].tolist() == one_by_one["metric"].tolist()
    np.testing.assert_allclose(from_two["score"], one_by_one["score"])
    np.testing.assert_allclose(from_two["standard_error"], one_by_one["standard_error"])
    is_b = task == "b"
    of_b = from_two.loc["b"].set_index("metric")["score"]
    assert of_b["roc_auc"] == pytest.approx(roc_auc_score(y[is_b], p[is_b]))
    assert of_b["neg_log_loss"] == pytest.approx(-log_loss(y[is_b], p[is_b]))
    assert of_b["brier_score"] == pytest.approx(np.mean((y[is_b] - p[is_b]) ** 2))


def test_decision_values_serve_for_the_auc(binary):
    y, p, task = binary
    np.testing.assert_allclose(
        task_scores(y, np.log(p / (1 - p)), task=task, metric="roc_auc")["score"],
        task_scores(y, p, task=task, metric="roc_auc")["score"],
    )


def test_a_name_without_neg_is_the_loss_itself(regression):
    y, prediction, task = regression
    score = task_scores(y, prediction, task=task, metric="neg_root_mean_squared_error")
    loss = task_scores(y, prediction, task=task, metric="root_mean_squared_error")
    assert score["greater_is_better"].all() and not loss["greater_is_better"].any()
    np.testing.assert_allclose(score["score"], -loss["score"])
    np.testing.assert_allclose(score["standard_error"], loss["standard_error"])


def test_scorers_and_functions_are_metrics_too(binary, regression):
    y, p, task = binary
    f2 = make_scorer(fbeta_score, beta=2)
    scores = task_scores(y, (p > 0.5).astype(int), task=task, metric=f2)
    assert scores.loc["a", "score"] == pytest.approx(fbeta_score(y[task == "a"], p[task == "a"] > 0.5, beta=2))
    y, prediction, task = regression
    scores = task_scores(y, prediction, task=task, metric=mean_pinball_loss)
    assert scores["metric"].unique().tolist() == ["mean_pinball_loss"] and not scores["greater_is_better"].any()
    assert scores.loc["a", "score"] == pytest.approx(mean_pinball_loss(y[task == "a"], prediction[task == "a"]))


def test_every_scorer_name_of_scikit_learn_gives_figures(binary, regression, multiclass):
    no_answer = []
    for name in get_scorer_names():
        if name.endswith("_samples"):  # for multilabel targets
            continue
        for y, prediction, task in (regression, binary, multiclass, (binary[0], (binary[1] > 0.5) * 1, binary[2])):
            try:
                scores = task_scores(y, prediction, task=task, metric=name, standard_error=False)
            except ValueError:
                continue
            if scores["score"].notna().all():
                break
        else:
            no_answer.append(name)
    assert no_answer == []


def test_labels_name_the_probability_columns_also_where_a_task_or_all_lack_a_class(multiclass):
    y, proba, _ = multiclass
    task = np.where(y == "z", "all", np.random.default_rng(0).choice(["all", "no z"], 300))
    scores = task_scores(y, proba, task=task, metric=["neg_log_loss", "accuracy"])
    rows = task == "no z"
    of_task = scores.loc["no z"].set_index("metric")["score"]
    assert of_task["neg_log_loss"] == pytest.approx(-log_loss(y[rows], proba[rows], labels=["x", "y", "z"]))
    with pytest.raises(ValueError, match=r"3 probability columns, but y_true holds 2 labels.*pass labels="):
        task_scores(y[rows], proba[rows], metric="neg_log_loss")
    alone = task_scores(y[rows], proba[rows], metric="neg_log_loss", labels=["x", "y", "z"])
    assert alone["score"].item() == pytest.approx(of_task["neg_log_loss"])


def test_without_task_all_rows_are_one_task(regression):
    y, prediction, _ = regression
    scores = task_scores(y, prediction, metric="mean_squared_error")
    assert scores.index.tolist() == [0] and scores["score"].item() == pytest.approx(mse(y, prediction))


# ----------------------------------------------------------------------------------------------------------------------
# task_scores: what is undefined
# ----------------------------------------------------------------------------------------------------------------------


def test_a_task_with_one_class_is_reported_and_the_others_are_scored():
    y = np.array([0, 1, 0, 1, 1, 1, 1, 0])
    p = np.array([0.2, 0.8, 0.6, 0.4, 0.9, 0.7, 0.8, 0.1])
    task = np.array([1, 1, 1, 1, 2, 2, 2, 3])
    for metric in ("roc_auc", "average_precision"):
        scores = task_scores(y, p, task=task, metric=metric)
        assert scores["score"].isna().tolist() == [False, True, True]
        assert scores["reason"].tolist() == ["", "one class only: 1", "one class only: 0"]
    assert task_scores(y, p, task=task, metric="neg_log_loss")["score"].notna().all()


def test_where_every_task_has_one_class_nothing_is_raised():
    scores = task_scores([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], task=[1, 1, 2, 2], metric="roc_auc")
    assert scores["score"].isna().all() and average_scores(scores)["macro"].isna().all()
    assert average_scores(scores)["worst_task"].item() is None


def test_a_task_of_one_row_has_no_r2_and_no_standard_error():
    scores = task_scores([1.0, 2.0, 3.0], [1.0, 2.5, 3.0], task=["a", "a", "b"], metric=["r2", "mean_squared_error"])
    assert "less than two samples" in scores.loc["b"]["reason"].iloc[0]
    assert np.isnan(scores.loc["b"]["score"].iloc[0]) and scores.loc["b"]["score"].iloc[1] == 0
    assert scores.loc["b"]["standard_error"].isna().all()
    many = task_scores([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], task=[1, 2, 3], metric="r2")
    assert many["reason"].str.contains("less than two samples").all()


def test_a_failing_task_is_reported_and_a_mistaken_call_raises():
    y, prediction = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.5, np.nan, 4.0])
    scores = task_scores(y, prediction, task=[1, 1, 2, 2], metric="mean_squared_error")
    assert scores["score"].notna().tolist() == [True, False] and "NaN" in scores["reason"].iloc[1]
    with pytest.raises(ValueError, match="NaN"):
        task_scores(y, np.full(4, np.nan), task=[1, 1, 2, 2], metric="mean_squared_error")


# ----------------------------------------------------------------------------------------------------------------------
# task_scores: wide tables
# ----------------------------------------------------------------------------------------------------------------------


def test_a_wide_table_equals_its_melted_form():
    rng = np.random.default_rng(0)
    Y = pd.DataFrame(rng.normal(size=(60, 3)), columns=["u", "v", "w"]).mask(rng.random((60, 3)) < 0.3)
    P = pd.DataFrame(rng.normal(size=(60, 3)), columns=["u", "v", "w"])
    metrics = ["r2", "neg_median_absolute_error"]
    wide = task_scores(Y, P, metric=metrics)
    long, prediction = Y.melt(), P.melt()
    melted = task_scores(
        long["value"], prediction["value"], task=long["variable"], metric=wide["metric"].unique().tolist()
    )
    pd.testing.assert_frame_equal(wide, melted)
    assert wide.loc["u", "n"].tolist() == [Y["u"].notna().sum()] * 2
    by_name = task_scores(Y, P[["w", "u", "v"]], metric="r2")
    pd.testing.assert_frame_equal(by_name, task_scores(Y, P, metric="r2"))
    arrays = task_scores(Y.to_numpy(), P.to_numpy(), metric="r2")
    np.testing.assert_allclose(arrays["score"], by_name["score"])
    assert arrays.index.tolist() == [0, 1, 2]


def test_a_mixed_wide_table_takes_a_metric_and_probabilities_per_task():
    rng = np.random.default_rng(0)
    Y = pd.DataFrame(
        {"price": rng.normal(size=50), "sold": rng.integers(0, 2, 50), "kind": rng.choice(list("pqr"), 50)}
    )
    Y = Y.astype(object).mask(rng.random((50, 3)) < 0.2)
    P = {"price": rng.normal(size=50), "sold": rng.dirichlet([1, 1], 50), "kind": rng.dirichlet([1, 1, 1], 50)}
    scores = task_scores(Y, P, metric={"price": "r2", "sold": "roc_auc", "kind": "neg_log_loss"})
    assert dict(scores["metric"]) == {"price": "r2", "sold": "roc_auc", "kind": "neg_log_loss"}
    there = Y["sold"].notna()
    expected = roc_auc_score(Y["sold"][there].astype(int), P["sold"][there.to_numpy(), 1])
    assert scores.loc["sold", "score"] == pytest.approx(expected)
    as_list = task_scores(
        Y[["sold", "kind"]], [P["sold"], P["kind"]], metric="neg_log_loss", labels=[[0, 1], list("pqr")]
    )
    assert as_list.loc["kind", "score"] == scores.loc["kind", "score"]
    with pytest.raises(ValueError, match="metric names tasks that do not occur: 'cost'"):
        task_scores(Y, P, metric={"cost": "r2"})


def test_nested_lists_are_rows_in_predictions_as_in_the_truth():
    truth, prediction = [[1.0, 10.0], [2.0, 20.0]], [[1.0, 11.0], [2.0, 22.0]]
    scores = task_scores(truth, prediction, metric="mean_absolute_error")
    assert scores["score"].tolist() == [0.0, 1.5]
    per_task = task_scores(truth, list(np.transpose(prediction)), metric="mean_absolute_error")
    pd.testing.assert_frame_equal(scores, per_task)
    one_column = task_scores(np.array([[1.0], [2.0]]), [1.0, 3.0], metric="mean_absolute_error")
    assert one_column["score"].tolist() == [0.5]


def test_a_column_without_observations_or_with_one_class_or_without_predictions_is_reported():
    Y = pd.DataFrame({"a": [0, 1, 0, 1], "b": [np.nan] * 4, "c": [1, 1, 1, np.nan], "d": [0, 1, 1, 0]})
    proba = np.full((4, 2), 0.5)
    scores = task_scores(Y, {"a": proba, "b": proba, "c": proba}, labels=[0, 1], metric="roc_auc")
    assert scores["score"].notna().tolist() == [True, False, False, False]
    assert scores["n"].tolist() == [4, 0, 3, 4]
    reasons = scores["reason"].tolist()
    assert reasons[1:3] == ["no observed rows", "one class only: 1.0"] and "no prediction for task 'd'" in reasons[3]


# ----------------------------------------------------------------------------------------------------------------------
# task_scores: weights, invariance, standard errors
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["r2", "root_mean_squared_error", "mean_absolute_error"])
def test_weight_0_is_a_row_absent_and_weight_2_a_row_twice(metric, regression):
    y, prediction, task = regression
    weight = np.random.default_rng(0).integers(0, 3, len(y))
    rows = np.repeat(np.arange(len(y)), weight)
    weighted = task_scores(y, prediction, task=task, metric=metric, sample_weight=weight)
    repeated = task_scores(y[rows], prediction[rows], task=task[rows], metric=metric)
    np.testing.assert_allclose(weighted["score"], repeated["score"])
    np.testing.assert_allclose(weighted["weight"], repeated["n"])
    assert weighted["n"].tolist() == [int(((task == t) & (weight > 0)).sum()) for t in "abc"]


@given(seed=st.integers(0, 10**6), n_tasks=st.integers(1, 6))
def test_order_of_rows_and_names_of_tasks_do_not_matter(seed, n_tasks):
    rng = np.random.default_rng(seed)
    y, prediction, task = rng.normal(size=40), rng.normal(size=40), rng.integers(0, n_tasks, 40)
    scores = task_scores(y, prediction, task=task, metric="mean_squared_error")
    order = rng.permutation(40)
    mixed = task_scores(y[order], prediction[order], task=[f"t{t}" for t in task[order]], metric="mean_squared_error")
    np.testing.assert_allclose(scores["score"], mixed["score"])
    np.testing.assert_allclose(scores["standard_error"], mixed["standard_error"])
    assert [f"t{t}" for t in scores.index] == mixed.index.tolist()


@pytest.mark.parametrize("metric", _INFLUENCE)
@pytest.mark.parametrize("weighted", [False, True])
def test_closed_form_standard_errors_agree_with_the_delete_one_jackknife(metric, weighted, regression, binary):
    y, prediction, _ = binary if metric in ("accuracy", "neg_log_loss", "roc_auc") else regression
    prediction = (prediction > 0.5).astype(int) if metric == "accuracy" else prediction
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y)) if weighted else None
    scores = task_scores(y, prediction, metric=metric, sample_weight=weight)

    def without(i):
        kept = np.arange(len(y)) != i
        weight_kept = None if weight is None else weight[kept]
        options = {"metric": metric, "sample_weight": weight_kept, "standard_error": False}
        return task_scores(y[kept], prediction[kept], **options)["score"].item()

    figures = np.array([without(i) for i in range(len(y))])
    jackknife = np.sqrt((len(y) - 1) * np.mean((figures - figures.mean()) ** 2))
    # The weighted AUC has no closed form here: groups of rows are left out, with their own noise of about 10 %.
    assert scores["standard_error"].item() == pytest.approx(
        jackknife, rel=0.35 if metric == "roc_auc" and weighted else 0.05
    )


@pytest.mark.parametrize("metric", ["roc_auc", "r2", "explained_variance", "neg_log_loss"])
def test_the_standard_error_is_the_spread_over_new_rows(metric):
    rng = np.random.default_rng(0)
    n_draws, n = 150, 120
    signal = rng.normal(size=(n_draws * n))
    y = signal + rng.normal(size=n_draws * n)
    prediction = signal
    if metric in ("roc_auc", "neg_log_loss"):
        y, prediction = (y > 0).astype(int), 1 / (1 + np.exp(-2 * signal))
    scores = task_scores(y, prediction, task=np.repeat(np.arange(n_draws), n), metric=metric)
    assert scores["standard_error"].mean() == pytest.approx(scores["score"].std(), rel=0.2)


def test_standard_errors_can_be_left_out(regression):
    y, prediction, task = regression
    assert task_scores(y, prediction, task=task, metric="r2", standard_error=False)["standard_error"].isna().all()


def test_inputs_are_not_written_to(regression):
    y, prediction, task = (np.array(a) for a in regression)
    weight = np.ones(len(y))
    for array in (y, prediction, task, weight):
        array.flags.writeable = False
    task_scores(y, prediction, task=task, metric=["r2", "neg_median_absolute_error"], sample_weight=weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "rms"}, "metric='rms' is not a scikit-learn scorer name"),
        ({"metric": "root_mean_square_error"}, "did you mean 'root_mean_squared_error'"),
        ({"task": [1, 2]}, "task has 2 ids for 4 rows"),
        ({"y_pred": [1.0, 2.0]}, "y_pred has 2 rows, y_true has 4"),
        ({"sample_weight": [1, 1, 1, -1]}, "sample_weight holds negative"),
        ({"sample_weight": [1]}, r"sample_weight has shape \(1,\)"),
        ({"metric": "neg_log_loss"}, "needs other predictions than predict"),
        ({"y_true": np.zeros((4, 2)), "task": [1, 1, 2, 2]}, "one column per task; leave it out"),
        (
            {"y_true": pd.DataFrame({"u": [0.0] * 4}), "y_pred": pd.DataFrame({"v": [0.0] * 4})},
            "y_pred has no column 'u'",
        ),
        ({"y_true": np.zeros((4, 2)), "y_pred": np.zeros((4, 1))}, "y_pred predicts 1 tasks, y_true has more columns"),
        ({"y_true": np.zeros((4, 2)), "y_pred": [np.zeros(4)]}, "y_pred predicts 1 tasks, y_true has more columns"),
        ({"y_pred": {"a": [1.0]}}, "y_pred is a dict; pass one prediction per row"),
        ({"y_true": [], "y_pred": []}, "y_true has no rows"),
        ({"metric": []}, r"metric=\[\] names no metric"),
        ({"metric": lambda y, p: abs(y - p)}, r"returns shape \(4,\); pass one that returns a number"),
    ],
)
def test_bad_input_is_named(arguments, message):
    good = {"y_true": [1.0, 2.5, 3.0, 4.0], "y_pred": [1.0, 2.0, 3.0, 5.0], "metric": "r2"}
    with pytest.raises(ValueError, match=message):
        task_scores(**(good | arguments))
    with pytest.raises(TypeError, match="takes no sample_weight"):
        task_scores(**(good | {"metric": "max_error", "sample_weight": [1, 1, 1, 1]}))


# ----------------------------------------------------------------------------------------------------------------------
# average_scores
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["r2", "mean_squared_error"])
def test_averages_are_plain_weighted_and_worst(metric, regression):
    y, prediction, task = regression
    scores = task_scores(y, prediction, task=task, metric=[metric, "mean_absolute_error"])
    averages = average_scores(scores)
    assert averages.index.tolist() == [metric, "mean_absolute_error"]
    figure = scores[scores["metric"] == metric]
    row = averages.loc[metric]
    assert row["macro"] == pytest.approx(figure["score"].mean())
    assert row["weighted"] == pytest.approx(np.average(figure["score"], weights=figure["n"]))
    worst = figure["score"].min() if metric == "r2" else figure["score"].max()
    assert row["worst"] == worst and figure.loc[row["worst_task"], "score"] == worst
    assert row["macro_standard_error"] == pytest.approx(np.sqrt((figure["standard_error"] ** 2).sum()) / 3)


def test_averages_leave_undefined_tasks_out_and_count_them():
    scores = task_scores([0, 1, 0, 1, 1], [0.1, 0.9, 0.2, 0.3, 0.4], task=[1, 1, 1, 2, 2], metric="roc_auc")
    row = average_scores(scores).loc["roc_auc"]
    assert (row["macro"], row["n_tasks"], row["n_undefined"]) == (1.0, 1, 1)


@pytest.mark.parametrize("scores", [[1.0, 2.0], pd.DataFrame({"score": [1.0]})])
def test_averages_need_the_table_of_task_scores(scores):
    with pytest.raises(ValueError, match=r"scores lacks the columns \['metric', .*pass the table that task_scores"):
        average_scores(scores)
