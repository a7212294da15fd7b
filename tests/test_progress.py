"""Progress of a fit: lines for the logger "mttab", and scikit-learn's callbacks where it has them."""

import logging

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core.progress import Messages, Progress, Several, logger, messages_shown
from mttab.datasets import make_task_groups

ROUNDS = {"max_iter_shared": 12, "max_iter_partition": 3, "max_iter_task": 2, "sharing": "blocks"}
OPTIONS = ROUNDS | {"task_column": "task", "early_stopping": False, "random_state": 0, "n_jobs": 1}
NETWORK = {"embedding_dim": 8, "n_blocks": 1, "mlp_dim": 8, "head_dim": 8, "n_bins": 4, "batch_size": 64, "n_jobs": 1}
NETWORK |= {"task_column": "task", "early_stopping": False, "random_state": 0, "device": "cpu", "max_epochs": 11}


def make_model(family, **options):
    if family == "booster":
        return RMTGBRegressor(**OPTIONS | options)
    pytest.importorskip("torch", reason="torch is not installed")
    from mttab import MultiTabNetRegressor

    return MultiTabNetRegressor(**NETWORK | {"n_members": 2, "companion_dim": 0} | options)


each_family = pytest.mark.parametrize("family", ["booster", "network"])


@pytest.fixture(scope="module")
def rows():
    return make_task_groups(40, group_sizes=(3,), random_state=0)


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


@pytest.fixture
def lines():
    """Records of the logger."""
    handler = Lines()
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


@each_family
def test_nothing_is_printed_or_logged_by_default(family, rows, capsys, lines):
    make_model(family).fit(*rows)
    assert capsys.readouterr() == ("", "") and lines == []


@each_family
def test_verbose_logs_every_ten_steps_or_each(family, rows, lines):
    count = {}
    for verbose in (1, 2):
        lines.clear()
        make_model(family, verbose=verbose).fit(*rows)
        assert {level for level, _ in lines} == {"INFO"}
        count[verbose] = len(lines)
    first = lines[0][1]
    assert count == ({1: 4, 2: 17} if family == "booster" else {1: 4, 2: 22})
    assert ("shared round 1/12: training loss " if family == "booster" else " epoch 1/11: training loss ") in first


@each_family
def test_without_verbose_the_lines_are_there_for_who_asks_for_debug(family, rows, lines):
    logger.setLevel(logging.DEBUG)
    try:
        make_model(family).fit(*rows)
    finally:
        logger.setLevel(logging.NOTSET)
    assert len(lines) == 4 and {level for level, _ in lines} == {"DEBUG"}


def test_messages_are_seen_on_standard_error_where_logging_is_not_set_up(capsys, monkeypatch, rows):
    monkeypatch.setattr(logger, "propagate", False)  # the test runner has set it up
    make_model("booster", verbose=1).fit(*rows)
    out, err = capsys.readouterr()
    assert out == "" and "shared round 10/12: training loss" in err
    assert logger.handlers == [] and logger.level == logging.NOTSET
    with messages_shown(1), messages_shown(1):
        logger.info("once")
    assert capsys.readouterr().err == "once\n"


def test_a_level_that_the_user_has_set_is_obeyed(rows, lines):
    logger.setLevel(logging.WARNING)
    try:
        make_model("booster", verbose=2).fit(*rows)
    finally:
        logger.setLevel(logging.NOTSET)
    assert lines == []


def test_one_follower_is_enough_to_end_a_part_and_all_hear_of_it():
    class Ends(Progress):
        heard = 0

        def end_step(self, n_done, figures, model):
            self.heard += 1
            return n_done == 2

    first, second = Ends(), Ends()
    both = Several([first, Messages(0, "round"), second])
    both.begin("shared", 5)
    assert [both.end_step(n, {}, object) for n in (1, 2)] == [False, True]
    assert first.heard == second.heard == 2


# --- scikit-learn's callbacks ---


class Recorder:
    """A callback that keeps what it was told; `stop_after` steps of a part it asks to stop."""

    max_propagation_depth = None

    def __init__(self, stop_after=None, look_at_model=False):
        self.stop_after, self.look_at_model = stop_after, look_at_model
        self.events, self.scores = [], []

    def setup(self, estimator, context):
        self.events.append(("setup", context.task_name))

    def teardown(self, estimator, context):
        self.events.append(("teardown", context.task_name))

    def on_fit_task_begin(self, estimator, context):
        np.random.rand()  # noqa: NPY002 - a callback may draw numbers, also of the global generator
        self.events.append(("begin", context.task_name))

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.events.append(("end", context.task_name))
        if self.look_at_model and fitted_estimator is not None:
            self.scores.append(fitted_estimator.score(X, y))
        return self.stop_after is not None and context.task_name == "step" and context.task_id + 1 >= self.stop_after

    def count(self, what, name):
        return self.events.count((what, name))


@pytest.fixture
def callbacks():
    return pytest.importorskip("sklearn.callback", reason="this scikit-learn has no callbacks")


@each_family
def test_a_callback_hears_of_every_part_and_step_and_changes_nothing(callbacks, family, rows):
    X, y = rows
    model, recorder = make_model(family), Recorder()
    plain = clone(model).fit(X, y)
    model.set_callbacks(recorder).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    parts = {"shared": 12, "partition": 3, "task": 2} if family == "booster" else {"member 1": 11, "member 2": 11}
    for name, n in [("fit", 1), *((part, 1) for part in parts), ("step", sum(parts.values()))]:
        assert recorder.count("begin", name) == recorder.count("end", name) == n
    assert recorder.events[0] == ("setup", "fit") and recorder.events[-1] == ("teardown", "fit")


@each_family
def test_a_callback_may_look_at_the_model_of_each_step_and_changes_nothing(callbacks, family, rows):
    X, y = rows
    model, recorder = (
        make_model(family, **{"n_members": 1} if family == "network" else {}),
        Recorder(look_at_model=True),
    )
    plain = clone(model).fit(X, y)
    model.set_callbacks(recorder).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    n_steps = 17 if family == "booster" else 11
    assert len(recorder.scores) == n_steps + 1
    assert recorder.scores[-1] == model.score(X, y) == pytest.approx(recorder.scores[-2])
    assert recorder.scores[0] < recorder.scores[-1]


@each_family
def test_a_callback_that_asks_for_it_ends_the_part(callbacks, family, rows):
    model = make_model(family).set_callbacks(Recorder(stop_after=2)).fit(*rows)
    expected = {"shared": 2, "partition": 2, "task": 2} if family == "booster" else [2, 2]
    assert model.n_iter_ == expected


@each_family
def test_callbacks_of_a_search_reach_the_fits_in_it(callbacks, family, rows):
    X, y = rows
    recorder, name = Recorder(), "learning_rate"
    search = GridSearchCV(make_model(family), {name: [0.01, 0.1]}, cv=2).set_callbacks(recorder).fit(X, y)
    n_steps = 17 if family == "booster" else 22
    assert recorder.count("begin", "step") == recorder.count("end", "step") == (2 * 2 + 1) * n_steps
    assert search.best_estimator_.predict(X).shape == y.shape


@pytest.mark.parametrize(("n_averaged", "n_fits"), [(1, 2), (3, 3)])
def test_all_fits_of_one_with_validation_rows_are_heard_of(callbacks, rows, n_averaged, n_fits):
    recorder = Recorder()
    model = RMTGBClassifier(**OPTIONS | {"early_stopping": True, "n_averaged": n_averaged}).set_callbacks(recorder)
    X, y = rows
    model.fit(X, y > 0)
    assert recorder.count("begin", "shared") == n_fits == recorder.count("end", "shared")


def test_an_error_in_fit_still_tears_callbacks_down(callbacks, rows):
    X, y = rows
    recorder = Recorder()
    with pytest.raises(ValueError, match="inconsistent"):
        make_model("booster").set_callbacks(recorder).fit(X, y[:-1])
    assert recorder.events[-1] == ("teardown", "fit")


@each_family
def test_scikit_learns_progress_bar_shows_parts_and_nests_in_a_search(callbacks, family, rows, capsys, monkeypatch):
    pytest.importorskip("rich", reason="rich, which draws the bars, is not installed")
    monkeypatch.setenv("COLUMNS", "200")
    search = GridSearchCV(make_model(family), {"learning_rate": [0.01, 0.1]}, cv=2)
    search.set_callbacks(callbacks.ProgressBar(max_propagation_depth=None)).fit(*rows)
    out = capsys.readouterr().out
    part = "shared" if family == "booster" else "member 1"
    assert "GridSearchCV" in out and part in out and "100%" in out


def test_scikit_learns_scoring_monitor_logs_a_score_per_round(callbacks, rows):
    monitor = callbacks.ScoringMonitor(scoring="r2")
    make_model("booster").set_callbacks(monitor).fit(*rows)
    log = monitor.get_logs()
    assert sum(row["task_name"] == "step" for row in log.data) == 17
