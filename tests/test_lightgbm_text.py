"""Texts of LightGBM's boosters: what it writes passes, and what would lead it astray is refused."""

import re
from functools import cache

import lightgbm
import numpy as np
import pandas as pd
import pytest

import mttab
from mttab._core.lightgbm_text import check_lightgbm_text
from mttab._stored_kinds import STATES

FEW = {"n_estimators": 4, "num_leaves": 6, "min_child_samples": 5, "verbose": -1, "n_jobs": 1}
MODELS = {
    "regression": lightgbm.LGBMRegressor(**FEW),
    "poisson": lightgbm.LGBMRegressor(**FEW, objective="poisson"),
    "categories": lightgbm.LGBMRegressor(**FEW, min_data_per_group=5, cat_smooth=1),
    "linear": lightgbm.LGBMRegressor(**FEW, linear_tree=True),
    "monotone": lightgbm.LGBMRegressor(**FEW, monotone_constraints=[1, 0, -1]),
    "forest": lightgbm.LGBMRegressor(**FEW, boosting_type="rf", subsample=0.5, subsample_freq=1),
    "dart": lightgbm.LGBMRegressor(**FEW, boosting_type="dart"),
    "single leaves": lightgbm.LGBMRegressor(**FEW, min_split_gain=1e9),
    "single linear leaves": lightgbm.LGBMRegressor(**FEW, min_split_gain=1e9, linear_tree=True),
    "early stopping": lightgbm.LGBMRegressor(**FEW | {"n_estimators": 40, "learning_rate": 1.0}),
    "binary": lightgbm.LGBMClassifier(**FEW),
    "multiclass": lightgbm.LGBMClassifier(**FEW),
    "one against all": lightgbm.LGBMClassifier(**FEW, objective="multiclassova"),
}
ANY_RULE = r"\w"  # several may be broken at once


def make_table(name, n=200):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a b", "größe", "c"])
    y = X["a b"].to_numpy() + 0.3 * rng.normal(size=n)
    if name == "categories":
        X["c"] = pd.Categorical(rng.choice(list("uvwxyz"), n))
        y += 2.0 * X["c"].isin(["u", "w", "z"])
    X.loc[::9, "größe"] = np.nan
    if isinstance(MODELS[name], lightgbm.LGBMClassifier):
        y = np.digitize(y, [0.0] if name == "binary" else [-0.4, 0.4])
    return X, np.abs(y) if name == "poisson" else y


@cache
def text_of(name):
    X, y = make_table(name)
    options = {}
    if name == "early stopping":
        options = {"eval_set": [(X[:60], y[:60] + 9)], "callbacks": [lightgbm.early_stopping(2, verbose=False)]}
    return MODELS[name].fit(X, y, **options).booster_.model_to_string(num_iteration=-1)


def predicted(text, name):
    return lightgbm.Booster(model_str=text).predict(make_table(name)[0])


def restored(text):
    return STATES["Booster"].build(lightgbm.Booster, {"text": text, "best_iteration": -1})


def with_sizes_that_fit(text):
    """A text whose trees were altered, with their new sizes."""
    head, *trees = re.split(r"(?=^Tree=)", text.partition("end of trees")[0], flags=re.MULTILINE)
    sizes = " ".join(str(len(tree.encode())) for tree in trees)
    head = re.sub(r"tree_sizes=.*", f"tree_sizes={sizes}", head)
    return head + "".join(trees) + "end of trees" + text.partition("end of trees")[2]


# --- what LightGBM writes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_what_lightgbm_writes_is_restored_and_predicts_the_same(name):
    text = text_of(name)
    assert text == with_sizes_that_fit(text)
    np.testing.assert_array_equal(restored(text).predict(make_table(name)[0]), predicted(text, name))
    check_lightgbm_text(lightgbm.Booster(model_str=text).model_to_string(num_iteration=2))  # written by a loaded one


def test_the_models_of_these_tests_have_what_they_are_named_after():
    assert re.search("num_cat=[1-9]", text_of("categories"))
    assert "pandas_categorical:[[" in text_of("categories")
    assert re.search(r"num_features=.*[1-9]", text_of("linear"))
    trees = text_of("single leaves").partition("end of trees")[0]
    assert set(re.findall(r"num_leaves=(\d+)", trees)) == {"1"}
    assert text_of("early stopping").count("Tree=") == MODELS["early stopping"].best_iteration_ < 40
    assert "average_output" in text_of("forest")
    assert "monotone_constraints=1 0 -1" in text_of("monotone")


def test_boosters_that_this_package_exports_pass():
    X, _ = make_table("categories")
    X["task"] = np.arange(len(X)) % 3
    model = mttab.RMTGBRegressor(task_column="task", max_iter_shared=3, max_iter_task=2, early_stopping=False)
    export = model.fit(X, X["a b"]).to_lightgbm(1)
    check_lightgbm_text(export.booster.model_to_string())


# --- what would lead it astray --------------------------------------------------------------------------------------


def changed(text, field, value, place=0):
    """A number of the first tree, or of the head, that has such a field changed, and sizes of trees that fit."""

    def change(match):
        numbers = match[2].split(" ")
        numbers[place] = str(value)
        return match[1] + " ".join(numbers)

    again, n_changed = re.subn(rf"^({field}=)(.+)$", change, text, count=1, flags=re.MULTILINE)
    assert n_changed == 1
    return again if field == "tree_sizes" else with_sizes_that_fit(again)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        *(("regression", "tree_sizes", value) for value in (1, 10**8, -5, "x")),
        *(("regression", "left_child", value) for value in (999_999_999, 0, -100, "1_0", 2**40)),
        *(("regression", "right_child", value) for value in (999_999_999, 0, -100, -1)),
        *(("regression", "split_feature", value) for value in (99_999_999, 3, -1)),
        *(("regression", "num_leaves", value) for value in (0, -3, 7, 5, 10**9)),
        *(("regression", "decision_type", value) for value in (1, 257, -128)),
        *(("regression", "num_class", value) for value in (0, 2, 10**9)),
        *(("regression", "num_tree_per_iteration", value) for value in (0, 2)),
        *(("regression", "max_feature_idx", value) for value in (0, 10**9, -1)),
        *(("regression", "objective", value) for value in ("multiclass num_class:9", "multiclass num_class::9")),
        *(("categories", "num_cat", value) for value in (0, 50, -1)),
        *(("categories", "cat_boundaries", value) for value in (-1, 5)),
        *(("multiclass", "num_class", value) for value in (1, 2)),
        ("multiclass", "objective", "multiclass num_class:9 num_class:3"),
        *(("linear", "num_features", value) for value in (50, -1)),
        *(("linear", "leaf_features", value) for value in (3, -1, 10**8)),
        ("linear", "is_linear", "1\nis_linear=0"),
    ],
)
def test_a_number_that_leads_astray_is_refused(name, field, value):
    text = re.sub(r"^(leaf_features=) +", r"\1", text_of(name), flags=re.MULTILINE)
    with pytest.raises(ValueError, match=ANY_RULE):
        check_lightgbm_text(changed(text, field, value))


@pytest.mark.parametrize("field", ["split_feature", "threshold", "decision_type", "left_child", "leaf_value"])
@pytest.mark.parametrize("change", [lambda numbers: numbers + " 0", lambda numbers: numbers.rpartition(" ")[0]])
def test_a_list_of_another_length_is_refused(field, change):
    text = re.sub(rf"^({field}=)(.+)$", lambda m: m[1] + change(m[2]), text_of("regression"), count=1, flags=re.M)
    with pytest.raises(ValueError, match=r"a split lacks a part|leaf_value is not one per leaf"):
        check_lightgbm_text(with_sizes_that_fit(text))


def test_categories_that_are_not_there_are_refused():
    text = text_of("categories")
    is_categorical = re.search(r"threshold=(.*)\ndecision_type=(.*)", text)
    place = is_categorical[2].split(" ").index("1")
    for value in (50, -1, "nan", "inf"):
        with pytest.raises(ValueError, match="categories that are not there"):
            check_lightgbm_text(changed(text, "threshold", value, place))
    longer = re.sub(r"(cat_threshold=.*)", r"\1 0", text, count=1)
    with pytest.raises(ValueError, match="cat_threshold"):
        check_lightgbm_text(with_sizes_that_fit(longer))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *(("Tree=0", "Trxx=0"), ("Tree=1", "Tree=7"), ("tree\n", "tree"), ("end of trees", "tend of trees")),
        *(("num_cat=0", "num_cat:0"), ("num_cat=0\n", ""), ("num_cat=0", "num_cat=0\0"), ("num_cat=0", "num_cat=0\r")),
        *(("num_cat=0\n", "num_cat=0\nnum_cat=3\n"), ("shrinkage", "\nshrinkage")),
        *(("num_class=1", "num_class=1\nnum_class=7"), ("num_class=1", "num_class==1"), ("num_class=1", "num_class")),
        *(("[boosting: gbdt]", "boosting"), ("end of parameters", "end")),
        ("shrinkage", "".join(f"more_{letter}=0\n" for letter in "abcdefgh") + "shrinkage"),
    ],
)
def test_a_text_of_another_form_is_refused(old, new):
    text = text_of("regression")
    assert old in text
    with pytest.raises(ValueError, match=ANY_RULE):
        check_lightgbm_text(with_sizes_that_fit(text.replace(old, new, 1)))


def test_a_booster_without_trees_is_refused():
    head, _, rest = text_of("regression").partition("Tree=0")
    without = re.sub("tree_sizes=.*", "tree_sizes=", head) + "end of trees" + rest.partition("end of trees")[2]
    with pytest.raises(ValueError, match=ANY_RULE):
        check_lightgbm_text(without)


@pytest.mark.parametrize("name", ["categories", "linear", "multiclass"])
def test_a_text_with_other_numbers_in_it_is_refused_or_predicts(name):
    text, rng = text_of(name), np.random.default_rng(0)
    places = [match.span() for match in re.finditer(r"(?<=[= ])-?\d+(?=[ \n])", text.partition("end of trees")[0])]
    n_refused, n_texts = 0, 150
    for start, end in rng.choice(places, n_texts):
        value = rng.choice(["-1", "0", "1", "2", "7", "-4", "1000", "99999999", "-99999999", "4294967296"])
        other = text[:start] + value + text[end:]
        try:
            booster = restored(other if rng.random() < 0.1 else with_sizes_that_fit(other))
        except (ValueError, lightgbm.basic.LightGBMError):
            n_refused += 1
            continue
        assert len(booster.predict(make_table(name)[0])) == 200
    assert n_texts // 5 < n_refused < n_texts
