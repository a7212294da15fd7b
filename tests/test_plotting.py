"""Displays draw the numbers they computed, where they are told to, readable with 3 and with 300 tasks."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.cluster.hierarchy import dendrogram, leaves_list, linkage
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mttab import RMTGBClassifier, RMTGBRegressor, TaskClusterRegressor
from mttab.datasets import make_multitask, make_task_groups
from mttab.metrics import harmed_tasks, multitask_gain, task_scores
from mttab.plotting import (
    AttentionDisplay,
    CorrelationDisplay,
    NewTaskDisplay,
    OutlierScoreDisplay,
    TaskGainDisplay,
    TaskSimilarityDisplay,
    TrainingCurveDisplay,
)

plt = pytest.importorskip("matplotlib.pyplot", reason="these tests draw")
ROOT = Path(__file__).resolve().parents[1]
ROUNDS = {"sharing": "blocks", "max_iter_shared": 12, "max_iter_partition": 12, "max_iter_task": 4}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def tasks():
    bunch = make_task_groups((40, 30, 20), group_sizes=(2, 1), noise=0.1, return_bunch=True, random_state=0)
    bunch.test = bunch.sample((30, 20, 50), random_state=1)
    return bunch


@pytest.fixture(scope="module")
def model(tasks):
    return RMTGBRegressor(task_column="task", random_state=0, **ROUNDS).fit(tasks.data, tasks.target)


@pytest.fixture(scope="module")
def pooled(tasks):
    drop = FunctionTransformer(lambda X: X.drop(columns="task"))
    return make_pipeline(drop, LinearRegression()).fit(tasks.data, tasks.target)


def names(n_tasks):
    return [f"school number {t}" for t in range(n_tasks)]


def seeds(n_tasks, n_seeds=4):
    """Errors per seed of two models, the first of which is surely worse on task 0."""
    rng = np.random.default_rng(0)
    base = [pd.Series(rng.normal(1.0, 0.1, n_tasks), index=names(n_tasks)) for _ in range(n_seeds)]
    change = np.linspace(0.3, -0.2, n_tasks)
    return [b + change + rng.normal(0.0, 0.01, n_tasks) for b in base], base


def draw_outliers(n_tasks, ax=None):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"outlier_score": rng.uniform(size=n_tasks), "n": rng.integers(5, 5000, n_tasks)})
    table["error"], table["standard_error"] = rng.uniform(1, 2, n_tasks), rng.uniform(0.1, 0.2, n_tasks)
    return OutlierScoreDisplay(table.set_axis(names(n_tasks)), error_name="root mean squared error").plot(ax)


def draw_gains(n_tasks, ax=None):
    return TaskGainDisplay.from_scores(*seeds(n_tasks), greater_is_better=False, ax=ax)


def draw_scores(n_tasks, ax=None):
    return TaskGainDisplay.from_scores(*seeds(n_tasks), greater_is_better=False, kind="score", ax=ax)


def draw_similarity(n_tasks, ax=None):
    factors = np.random.default_rng(0).normal(size=(n_tasks, 5))
    return TaskSimilarityDisplay.from_matrix(np.corrcoef(factors), tasks=names(n_tasks), ax=ax)


def draw_attention(n_tasks, ax=None):
    weights = np.random.default_rng(0).dirichlet(np.ones(n_tasks), n_tasks)
    features = [f"feature {j}" for j in range(n_tasks)]
    return AttentionDisplay(pd.DataFrame(weights, index=names(n_tasks), columns=features)).plot(ax)


def draw_correlations(n_tasks, ax=None):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"requested": rng.uniform(-0.5, 0.9, n_tasks * (n_tasks - 1) // 2)})
    table["weights, exact"] = table["requested"]
    table["noise-free scores, these rows"] = table["requested"] + rng.normal(0.0, 0.05, len(table))
    return CorrelationDisplay(table).plot(ax)


def draw_training(n_tasks, ax=None):
    curves = pd.DataFrame({"step": range(n_tasks), "what": "training loss", "member": 0, "value": np.ones(n_tasks)})
    return TrainingCurveDisplay(curves, step_name="rounds", blocks={"shared": n_tasks - 2, "task": 1}).plot(ax)


def draw_new_task(n_tasks, ax=None):
    sizes = np.arange(1, n_tasks + 1)
    runs = pd.DataFrame({"n_rows": sizes, "approach": "ours", "error": 1.0 / sizes})
    return NewTaskDisplay.from_results(runs, ax=ax)


DRAWINGS = [
    *(draw_outliers, draw_gains, draw_scores, draw_similarity),
    *(draw_attention, draw_correlations, draw_training, draw_new_task),
]


def all_axes(ax):
    return [ax, *(child for inset in ax.child_axes for child in all_axes(inset))]


def shown_ticks(ax, which):
    axis = getattr(ax, f"{which}axis")
    low, high = sorted(axis.get_view_interval())
    ticks = zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=False)
    texts = [t.label1 for t, at in ticks if t.label1.get_text() and t.label1.get_visible() and low <= at <= high]
    return texts if ax.axison else []


# ----------------------------------------------------------------------------------------------------------------------
# Readable with any number of tasks
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_tasks", [3, 300])
@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
def test_no_two_tick_labels_overlap_and_nothing_leaves_the_figure(draw, n_tasks):
    figure = draw(n_tasks).figure_
    figure.canvas.draw()
    assert max(figure.get_size_inches()) <= 12
    inside = figure.bbox.expanded(1.005, 1.005)
    for ax in (found for outer in figure.axes for found in all_axes(outer)):
        for which in "xy":
            boxes = [text.get_window_extent() for text in shown_ticks(ax, which)]
            boxes.sort(key=lambda box: box.x0 if which == "x" else box.y0)
            assert not any(one.overlaps(other) for one, other in pairwise(boxes))
            assert all(inside.contains(*box.min) and inside.contains(*box.max) for box in boxes)
        for text in (ax.xaxis.label, ax.yaxis.label, *((ax.get_legend(),) if ax.get_legend() else ())):
            box = text.get_window_extent()
            if ax.axison and box.width and box.height:
                assert inside.contains(*box.min) and inside.contains(*box.max), text


@pytest.mark.parametrize("draw", [draw_outliers, draw_similarity])
def test_few_tasks_are_all_named_and_of_many_as_many_as_fit(draw):
    for n_tasks, least in ((3, 3), (300, 25)):
        display = draw(n_tasks)
        display.figure_.canvas.draw()
        panels = getattr(display, "axes_", {"only": display.ax_})
        texts = [text.get_text() for text in shown_ticks(next(iter(panels.values())), "y")]
        assert least <= len(texts) <= n_tasks
        assert set(texts) <= set(names(n_tasks))


def test_labels_are_thinned_to_the_axes_they_are_given():
    _, small = plt.subplots(figsize=(4, 2))
    draw_gains(40, small)
    small.figure.canvas.draw()
    few = len(shown_ticks(small, "y"))
    small.figure.set_size_inches(4, 12)
    small.figure.canvas.draw()
    assert few < 15 < len(shown_ticks(small, "y"))


def test_long_and_composite_labels_are_shortened_and_stay_apart():
    scores = {("north", 1): 0.4, "the primary school no. 17": 0.8, "the primary school no. 18": 1.0}
    display = TaskGainDisplay.from_scores(scores, dict.fromkeys(scores, 1.0), greater_is_better=False)
    display.figure_.canvas.draw()
    shown = [t.get_text() for t in shown_ticks(display.ax_, "y")]
    assert shown == ["north / 1", "the primary…l no. 17", "the primary…l no. 18"]


# ----------------------------------------------------------------------------------------------------------------------
# The conventions of a display
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
def test_an_ax_is_drawn_into_and_no_figure_opened(draw):
    figure, (ax, other) = plt.subplots(1, 2)
    display = draw(4, ax)
    assert display.ax_ is ax and display.figure_ is figure
    assert plt.get_fignums() == [figure.number]
    assert not other.has_data()
    assert any(found.has_data() for found in all_axes(ax))


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
def test_plot_can_be_called_again_and_gives_the_display(draw):
    display = draw(4)
    first = display.ax_
    assert display.plot() is display
    assert display.ax_ is not first


def test_matplotlib_is_not_imported_before_something_is_drawn():
    check = (
        "import sys, mttab.plotting; mttab.plotting.TaskGainDisplay; print({'matplotlib', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'mttab\[plot\]'"):
        draw_gains(3)


# ----------------------------------------------------------------------------------------------------------------------
# The numbers drawn are the numbers computed
# ----------------------------------------------------------------------------------------------------------------------


def test_outlier_scores_are_drawn_highest_first_with_rows_and_errors(model, tasks):
    X, y = tasks.test
    display = OutlierScoreDisplay.from_estimator(model, X, y)
    order = np.argsort(-model.outlier_score_)
    assert display.table.index.tolist() == model.tasks_[order].tolist()
    drawn = display.score_.get_offsets()
    np.testing.assert_allclose(drawn[:, 0], model.outlier_score_[order])
    expected = task_scores(y, model.predict(X), metric="root_mean_squared_error", task=X["task"]).iloc[order]
    assert [bar.get_width() for bar in display.bars_] == expected["n"].tolist()
    points, _, (whiskers,) = display.error_
    np.testing.assert_allclose(points.get_xdata().astype(float), expected["score"])
    length = [segment[1, 0] - segment[0, 0] for segment in whiskers.get_segments()]
    np.testing.assert_allclose(length, 2 * expected["standard_error"])
    assert display.axes_["error"].get_xlabel().startswith("root mean squared error")


def test_outlier_scores_alone_need_no_rows_and_max_tasks_takes_the_highest(model):
    display = OutlierScoreDisplay.from_estimator(model, max_tasks=2)
    assert list(display.axes_) == ["outlier_score"]
    np.testing.assert_allclose(display.score_.get_offsets()[:, 0], np.sort(model.outlier_score_)[::-1][:2])
    assert "highest 2 of 3" in display.ax_.get_xlabel()


def test_a_task_without_rows_is_drawn_without_an_error(model, tasks):
    X, y = tasks.test
    keep = (X["task"] != 1).to_numpy()
    table = OutlierScoreDisplay.from_estimator(model, X[keep], y[keep]).table
    assert table.loc[1, "n"] == 0 and np.isnan(table.loc[1, "error"])
    assert table.drop(index=1)["error"].notna().all()


def test_classifiers_are_judged_by_their_probabilities():
    X, y = make_task_groups(40, group_sizes=(2, 1), task_type="binary", random_state=0)
    task = X.pop("task")
    model = RMTGBClassifier(random_state=0, **ROUNDS).fit(X, y, task=task)
    display = OutlierScoreDisplay.from_estimator(model, X, y, task=task)
    proba = model.predict_proba(X, task=task)
    expected = task_scores(y, proba, metric="log_loss", task=task, labels=model.classes_)["score"]
    np.testing.assert_allclose(display.table["error"].sort_index(), expected)


def test_gains_are_those_of_multitask_gain_and_harm_that_of_harmed_tasks():
    scores, baseline = seeds(6)
    display = TaskGainDisplay.from_scores(scores, baseline, greater_is_better=False)
    mean, expected = multitask_gain(scores, baseline, greater_is_better=False)
    drawn = sorted(bar.get_width() for bars in display.bars_.values() for bar in bars)
    np.testing.assert_allclose(drawn, np.sort(expected["gain"]))
    assert display.mean_line_.get_xdata()[0] == mean
    harmed = harmed_tasks(scores, baseline, greater_is_better=False)
    assert set(display.table.index[display.table["harmed"]]) == set(harmed.index[harmed["harmed"]])
    assert len(display.bars_["harmed"]) == harmed["harmed"].sum() > 0


def test_two_estimators_are_compared_on_the_same_rows(model, pooled, tasks):
    X, y = tasks.test
    display = TaskGainDisplay.from_estimator(model, pooled, X, y, kind="score")
    how = {"metric": "root_mean_squared_error", "task": X["task"]}
    ours, theirs = task_scores(y, model.predict(X), **how), task_scores(y, pooled.predict(X), **how)
    drawn = np.concatenate([points.get_offsets() for points in display.points_.values()])
    expected = np.column_stack([theirs["score"], ours["score"]])
    np.testing.assert_allclose(drawn[np.argsort(drawn[:, 0])], expected[np.argsort(expected[:, 0])])
    assert "below the line" in display.ax_.get_ylabel()
    by_predictions = TaskGainDisplay.from_predictions(y, model.predict(X), pooled.predict(X), **how)
    pd.testing.assert_frame_equal(by_predictions.table, display.table)
    assert not by_predictions.table["harmed"].any()  # one set of rows proves no harm


def test_for_scores_above_the_line_is_better(model, pooled, tasks):
    display = TaskGainDisplay.from_estimator(model, pooled, *tasks.test, metric="r2", kind="score")
    assert "above the line" in display.ax_.get_ylabel()


def test_similarity_is_drawn_in_the_order_of_scipys_dendrogram():
    similarity = np.corrcoef(np.random.default_rng(3).normal(size=(9, 4)))
    distance = 1.0 - similarity[np.triu_indices(9, 1)]
    display = TaskSimilarityDisplay.from_matrix(similarity, tasks=names(9))
    tree = dendrogram(linkage(distance, method="average"), no_plot=True)
    order = tree["leaves"]
    assert display.similarity.index.tolist() == [names(9)[t] for t in order]
    drawn = display.image_.get_array()
    off = ~np.eye(9, dtype=bool)
    np.testing.assert_allclose(drawn.data[off], similarity[np.ix_(order, order)][off])
    assert np.ma.getmaskarray(drawn)[~off].all()
    forks = sorted(segment.round(9).tolist() for segment in display.tree_.get_segments())
    expected = [
        np.column_stack([heights, np.array(places) / 10 - 0.5]).round(9).tolist()
        for places, heights in zip(tree["icoord"], tree["dcoord"], strict=True)
    ]
    assert forks == sorted(expected)


@pytest.mark.parametrize(("similarity", "colours"), [(0.4, (0.0, 0.4)), (0.0, (0.0, 1.0)), (-0.4, (-0.4, 0.4))])
def test_the_only_similarity_there_is_has_a_place_on_the_scale(similarity, colours):
    display = TaskSimilarityDisplay.from_matrix([[1.0, similarity], [similarity, 1.0]])
    assert display.image_.get_clim() == colours


def test_a_similarity_found_by_a_fit_is_read_with_its_tasks():
    class Fitted:
        tasks_ = np.array(["a", "b", "c"])
        task_similarity_ = np.array([[1.0, 0.9, np.nan], [0.9, 1.0, -0.2], [np.nan, -0.2, 1.0]])

    display = TaskSimilarityDisplay.from_estimator(Fitted())
    assert sorted(display.similarity.index) == ["a", "b", "c"]
    assert abs(display.similarity.index.get_loc("a") - display.similarity.index.get_loc("b")) == 1
    assert display.image_.get_clim() == (-0.9, 0.9)
    Fitted.task_similarity_ = pd.DataFrame(Fitted.task_similarity_, index=list("xyz"), columns=list("xyz"))
    assert sorted(TaskSimilarityDisplay.from_estimator(Fitted()).similarity.index) == ["x", "y", "z"]


def test_distances_and_a_linkage_of_ones_own_are_taken():
    distance = np.array([[0.0, 2.0, 1.0], [2.0, 0.0, 3.0], [1.0, 3.0, 0.0]])
    own = linkage(distance[np.triu_indices(3, 1)], method="single")
    display = TaskSimilarityDisplay.from_matrix(distance, is_distance=True, linkage=own)
    np.testing.assert_array_equal(display.linkage, own)
    assert display.colorbar_.ax.get_ylabel() == "distance"
    assert display.image_.get_clim() == (0.0, 3.0)


def test_a_long_chain_of_tasks_has_a_dendrogram():
    place = 1.1 ** np.arange(0, 150, 0.1)  # each task joins the chain of all before it
    display = TaskSimilarityDisplay.from_matrix(np.abs(place[:, None] - place), is_distance=True)
    assert len(display.tree_.get_segments()) == len(place) - 1


def test_the_curves_of_boosting_are_its_losses_block_by_block(model):
    display = TrainingCurveDisplay.from_estimator(make_pipeline(FunctionTransformer(), model))
    (training,) = display.lines_["training loss"]
    np.testing.assert_array_equal(training.get_ydata(), -model.train_score_)
    assert training.get_xdata()[-1] == sum(model.n_iter_.values()) == 28
    assert display.blocks == model.n_iter_
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert "partition trees: 12 rounds" in labels


def test_validation_losses_are_drawn_where_there_are_validation_rows(tasks):
    stopped = RMTGBRegressor(task_column="task", early_stopping=True, random_state=0, **ROUNDS)
    stopped.fit(tasks.data, tasks.target)
    (line,) = TrainingCurveDisplay.from_estimator(stopped).lines_["validation loss"]
    np.testing.assert_array_equal(line.get_ydata(), -stopped.validation_score_)


@pytest.fixture(scope="module")
def network():
    pytest.importorskip("torch", reason="networks need torch")
    from mttab import MultiTabNet

    X, Y = make_multitask(120, 4, 3, random_state=0)
    net = MultiTabNet(n_members=2, max_epochs=3, early_stopping=True, random_state=0, n_jobs=1)
    return net.fit(X, Y), X


def test_the_curves_of_a_network_are_its_history_a_line_per_member(network):
    net, _ = network
    display = TrainingCurveDisplay.from_estimator(net)
    assert display.axes_["training loss"] is not display.axes_["validation score"]
    for member, (_, epochs) in enumerate(net.history_.groupby(["is_companion", "member"])):
        losses = display.lines_["training loss"][member]
        np.testing.assert_array_equal(losses.get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(losses.get_ydata(), epochs["train_loss"])
        np.testing.assert_array_equal(
            display.lines_["validation score"][member].get_ydata(), epochs["validation_score"]
        )


def test_the_similarity_that_a_booster_finds_is_drawn_as_it_is_though_it_has_a_direction(tasks):
    model = RMTGBRegressor(task_column="task", random_state=0, **ROUNDS | {"sharing": "groups"})
    model.fit(tasks.data, tasks.target)
    found = pd.DataFrame(model.task_similarity_, index=model.tasks_, columns=model.tasks_)
    assert not np.allclose(found, found.T)
    display = TaskSimilarityDisplay.from_estimator(model)
    order = display.similarity.index
    np.testing.assert_array_equal(display.similarity, found.loc[order, order])
    assert display.axes_["matrix"].get_xlabel() == "task (column)"


def test_the_dendrogram_is_that_of_the_estimator_if_it_has_one(tasks):
    model = TaskClusterRegressor(LinearRegression(), task_column="task", random_state=0).fit(tasks.data, tasks.target)
    display = TaskSimilarityDisplay.from_estimator(model)
    np.testing.assert_array_equal(display.linkage, model.linkage_)
    assert display.similarity.index.tolist() == model.tasks_[leaves_list(model.linkage_)].tolist()


def test_attention_of_row_tasks_has_a_line_for_each_of_them(tasks):
    pytest.importorskip("torch", reason="the network needs torch")
    from mttab import MultiTabNetRegressor

    small = {"embedding_dim": 4, "n_blocks": 2, "mlp_dim": 4, "head_dim": 4, "n_members": 2, "max_epochs": 2}
    net = MultiTabNetRegressor(task_column="task", random_state=0, **small).fit(tasks.data, tasks.target)
    rows = pd.concat([tasks.data, tasks.data[:5].assign(task=99)])
    weights = AttentionDisplay.from_estimator(net, rows).weights
    assert weights.index.tolist() == [0, 1, 2, "unseen"]
    assert sorted(weights.columns) == sorted(tasks.data.columns.drop("task"))
    (alone,) = net.attention(tasks.data[tasks.data["task"] == 1]).values()
    np.testing.assert_allclose(weights.loc[1], alone.mean()[weights.columns], rtol=1e-6)
    assert not np.allclose(weights.loc[0], weights.loc[1], rtol=1e-4)


def test_attention_is_that_of_the_network_most_read_feature_first(network):
    net, X = network
    found = net.attention(X)
    display = AttentionDisplay.from_estimator(net, X)
    drawn = pd.DataFrame(display.image_.get_array().data, index=display.weights.index, columns=display.weights.columns)
    assert sorted(drawn.columns) == sorted(X.columns)
    for task, by_block in found.items():
        np.testing.assert_allclose(drawn.loc[task, list(X.columns)], by_block[list(X.columns)].mean())
    assert drawn.mean().is_monotonic_decreasing
    last = AttentionDisplay.from_estimator(net, X, block=-1, include_tasks=True).weights
    np.testing.assert_allclose(last.sum(axis=1), 1.0)
    np.testing.assert_allclose(last.loc["y0"], found["y0"].iloc[-1][last.columns])


@pytest.mark.parametrize("correlation", [0.4, [[1.0, 0.2, 0.1], [0.2, 1.0, 0.6], [0.1, 0.6, 1.0]]])
def test_correlations_are_those_of_the_generator(correlation):
    bunch = make_multitask(200, 5, 3, correlation=correlation, return_bunch=True, random_state=0)
    display = CorrelationDisplay.from_bunch(bunch)
    pairs = np.triu_indices(3, 1)
    expected = [bunch.correlation_of_weights, bunch.correlation_of_targets, np.corrcoef(bunch.noise_free.T)]
    for points, matrix in zip(display.points_.values(), expected, strict=True):
        np.testing.assert_allclose(points.get_offsets()[:, 1], matrix[pairs])
    np.testing.assert_allclose(display.table["requested"], bunch.correlation_requested[pairs])
    assert display.table.index[0] == ("y0", "y1")


def test_errors_of_a_new_task_are_means_over_draws():
    runs = pd.DataFrame(
        {"rows": [9, 9, 3, 3] * 2, "way": ["ours"] * 4 + ["pooled"] * 4, "RMSE": [1.0, 3.0, 4.0, 6.0, 2, 2, 2, 2]}
    )
    display = NewTaskDisplay.from_results(runs, n_rows="rows", approach="way", error="RMSE")
    np.testing.assert_array_equal(display.lines_["ours"].get_xdata(), [3, 9])
    np.testing.assert_array_equal(display.lines_["ours"].get_ydata(), [5.0, 2.0])
    np.testing.assert_array_equal(display.standard_error["ours"], [1.0, 1.0])
    np.testing.assert_array_equal(display.standard_error["pooled"], [0.0, 0.0])
    assert display.ax_.get_ylabel() == "RMSE of the new task"


def test_fits_for_a_new_task_see_only_so_many_of_its_rows(tasks):
    seen = []

    class Spy(LinearRegression):
        def fit(self, X, y):
            seen.append((int((X["task"] == 1).sum()), int((X["task"] != 1).sum())))
            return super().fit(X, y)

    display = NewTaskDisplay.from_estimator(
        *({"a": Spy(), "b": Spy()}, tasks.data, tasks.target),
        **{"new_task": 1, "task_column": "task", "n_rows": (2, 15, 16), "n_draws": 2, "random_state": 0},
    )
    assert sorted(set(seen)) == [(2, 60), (15, 60)]  # half of the 30 rows are kept for testing
    assert len(seen) == 8
    assert display.mean.shape == (2, 2) and display.mean.notna().all(axis=None)
    assert display.error_name == "root_mean_squared_error"


# ----------------------------------------------------------------------------------------------------------------------
# What cannot be drawn is refused
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: OutlierScoreDisplay.from_estimator(LinearRegression()), "outlier_score_, which this LinearRegression"),
        (lambda: OutlierScoreDisplay(pd.DataFrame({"score": [1.0]})), "but not 'outlier_score'"),
        (lambda: draw_gains(3).plot(kind="bars"), "kind='bars' is not one of"),
        (lambda: TaskSimilarityDisplay.from_matrix([[1.0]]), "at least two tasks"),
        (lambda: TaskSimilarityDisplay.from_matrix(np.eye(3), tasks=["a"]), "1 labels for 3 rows"),
        (lambda: TaskSimilarityDisplay.from_matrix(np.eye(3), linkage=np.zeros((1, 4))), "linkage has the shape"),
        (lambda: TaskSimilarityDisplay.from_estimator(LinearRegression()), "task_similarity_"),
        (lambda: TrainingCurveDisplay.from_estimator(LinearRegression()), "has neither"),
        (lambda: AttentionDisplay.from_estimator(LinearRegression(), None), "no attention to draw"),
        (lambda: CorrelationDisplay.from_bunch({}), "no correlation_requested"),
        (lambda: NewTaskDisplay.from_results(pd.DataFrame({"n_rows": [1]})), "no column 'approach'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_block_of_attention_that_is_not_there_is_refused(network):
    net, X = network
    with pytest.raises(ValueError, match="block=2 is not one of the 2 blocks"):
        AttentionDisplay.from_estimator(net, X, block=2)


def test_x_without_y_is_refused(model, tasks):
    with pytest.raises(ValueError, match="both X and y"):
        OutlierScoreDisplay.from_estimator(model, tasks.data)


def test_a_new_task_without_enough_rows_is_refused(tasks):
    with pytest.raises(ValueError, match=r"new_task=7 has no rows in X, whose tasks are 0, 2, 1\."):
        NewTaskDisplay.from_estimator(LinearRegression(), tasks.data, tasks.target, new_task=7, task_column="task")


def test_a_new_task_is_found_in_a_polars_table(tasks):
    polars = pytest.importorskip("polars")
    options = {"new_task": 1, "task_column": "task", "n_rows": [5], "n_draws": 1, "random_state": 0}
    displays = [
        NewTaskDisplay.from_estimator(LinearRegression(), table, tasks.target, **options)
        for table in (tasks.data, polars.from_pandas(tasks.data))
    ]
    pd.testing.assert_frame_equal(displays[0].mean, displays[1].mean)


def test_several_metrics_for_a_task_are_refused(model, pooled, tasks):
    X, y = tasks.test
    how = {"metric": ["r2", "neg_mean_absolute_error"], "task": X["task"]}
    with pytest.raises(ValueError, match="several metrics per task"):
        TaskGainDisplay.from_scores(task_scores(y, model.predict(X), **how), task_scores(y, pooled.predict(X), **how))
