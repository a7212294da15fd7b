"""Docstrings: there are examples, which pytest runs, and they say what every parameter is."""

import ast
import doctest
import inspect
import pkgutil
import re
from importlib import import_module
from itertools import pairwise

import pytest

import mttab
from mttab import RMTGBClassifier, RMTGBRegressor

NEEDS_AN_EXTRA = ("multitabnet", "experts", "_network", "_core.neural", "plotting", "dask")
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(mttab.__path__, "mttab.")
    if not module.name.removeprefix("mttab.").startswith(NEEDS_AN_EXTRA)
)
ESTIMATORS = [RMTGBRegressor, RMTGBClassifier]
PUBLIC_METHODS = [
    pytest.param(estimator, name, id=f"{estimator.__name__}.{name}")
    for estimator in ESTIMATORS
    for name in sorted(
        {"fit", "predict", "predict_proba", "decision_function", "staged_predict", "score", "decompose"}
        | {"feature_importance", "shap_values", "to_lightgbm"}
    )
    if name in dir(estimator)
]
PUBLIC_NAMES = [
    pytest.param(getattr(package, name), id=f"{package.__name__}.{name}")
    for package in (mttab.datasets, mttab.metrics, mttab.model_selection, mttab.plotting)
    for name in package.__all__
]


def sections(documented):
    """The numpydoc sections of a docstring: title -> text."""
    lines = inspect.cleandoc(documented.__doc__ or "").splitlines()
    starts = [i for i, (title, rule) in enumerate(pairwise(lines)) if title and re.fullmatch("-+", rule)]
    ends = [*starts[1:], len(lines)]
    return {lines[i]: "\n".join(lines[i + 2 : end]) for i, end in zip(starts, ends, strict=True)}


def names_in(section):
    """The names that a section describes: those before the colon of a line that is not indented."""
    heads = [line for line in section.splitlines() if line and not line.startswith(" ")]
    return {name.strip(" *") for head in heads for name in head.split(" : ")[0].split(",")}


def test_there_are_examples_to_run(pytestconfig):
    assert "--doctest-modules" in pytestconfig.getini("addopts")  # pytest runs them
    assert "mttab" in pytestconfig.getini("testpaths")
    finder = doctest.DocTestFinder()
    with_examples = {test.name for module in MODULES for test in finder.find(import_module(module)) if test.examples}
    assert len(with_examples) > 10
    for estimator in ESTIMATORS:
        assert f"mttab.boosting.{estimator.__name__}" in with_examples


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_in_its_first_line(name):
    first, *rest = (import_module(name).__doc__ or "").splitlines() or [""]
    assert len(first) > 10
    assert not rest or rest[0] == ""


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_option_is_described_and_no_other(estimator):
    described = names_in(sections(estimator)["Parameters"])
    assert described == set(estimator().get_params())


@pytest.mark.parametrize("option", sorted(RMTGBRegressor().get_params()))
def test_the_described_default_is_the_default(option):
    text = sections(RMTGBRegressor)["Parameters"]
    heads = [line for line in text.splitlines() if not line.startswith(" ") and option in names_in(line)]
    assert len(heads) == 1
    names = heads[0].split(" : ")[0].split(", ")
    assert "default=" in heads[0]
    defaults = ast.literal_eval(f"[{heads[0].split('default=')[1]}]")
    if len(defaults) == 1:
        defaults *= len(names)
    assert defaults[names.index(option)] == RMTGBRegressor().get_params()[option]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_fitted_attribute_is_described(estimator):
    X, y = mttab.datasets.make_task_groups(20, task_type="binary", random_state=0)
    rounds = {"max_iter_shared": 2, "max_iter_partition": 2, "max_iter_task": 2}
    model = estimator(task_column="task", **rounds).fit(X, y)
    fitted = {name for name in vars(model) if name.endswith("_") and not name.startswith("_")}
    described = sections(estimator)
    assert fitted <= names_in(described["Attributes"])
    assert {"References", "Examples"} <= described.keys()


@pytest.mark.parametrize(("estimator", "name"), PUBLIC_METHODS)
def test_every_public_method_says_what_it_does(estimator, name):
    method = inspect.getattr_static(estimator, name)
    method = getattr(method, "fn", method)  # a method that is there on a condition only
    doc = inspect.getdoc(method)
    assert doc
    summary = doc.splitlines()[0]
    assert summary.endswith(".")
    assert len(summary) < 121


@pytest.mark.parametrize("public", PUBLIC_NAMES)
def test_every_public_name_describes_what_goes_in_and_comes_out(public):
    described = sections(public)
    if inspect.isfunction(public):
        assert set(inspect.signature(public).parameters) <= names_in(described["Parameters"])
        assert {"Returns", "Yields"} & described.keys()
        assert ">>>" in described["Examples"]
    else:
        assert {"Parameters", "Attributes"} & described.keys()
