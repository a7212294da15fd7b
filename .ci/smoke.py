"""What a wheel has to do where nothing but its own requirements is installed."""

import sys
from importlib.metadata import version
from pathlib import Path

import mttab
from mttab import RMTGBClassifier, RMTGBRegressor
from mttab.datasets import make_task_groups
from mttab.metrics import task_scores

home = Path(mttab.__file__).parent
assert home.is_relative_to(sys.prefix), f"mttab comes from {home}, not from the wheel"
assert mttab.__version__ == version("mttab") != "0+unknown"
assert (home / "py.typed").exists()
assert not (home.parent / "tests").exists() and not (home.parent / "examples").exists()

for name in mttab.__all__:
    try:
        getattr(mttab, name)
    except ImportError as missing:  # only what an extra brings may be missing, and the message says which
        assert "mttab[" in str(missing), missing
        print(f"{name} needs an extra: {missing}")

tasks = make_task_groups(60, group_sizes=(4, 2), return_bunch=True, random_state=0)
X, y = tasks.sample(100, random_state=1)
model = RMTGBRegressor(task_column="task", random_state=0).fit(tasks.data, tasks.target)
scores = task_scores(y, model.predict(X), metric="r2", task=X["task"])
assert scores["score"].mean() > 0.5, scores
labels = (tasks.target > 0).map({True: "high", False: "low"})
classifier = RMTGBClassifier(task_column="task", max_iter_shared=20, random_state=0).fit(tasks.data, labels)
assert set(classifier.predict(X)) == {"high", "low"}

try:
    from mttab.plotting import OutlierScoreDisplay

    OutlierScoreDisplay.from_estimator(model)
except ImportError as missing:
    assert "mttab[plot]" in str(missing), missing
print(f"mttab {mttab.__version__} works from {home}")
