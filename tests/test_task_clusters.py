"""Groups of tasks from a matrix of errors, and folds that follow what is in the rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import is_valid_linkage
from scipy.spatial.distance import cosine
from sklearn.metrics import adjusted_rand_score

from mttab._core.holdout import content_keys, content_places
from mttab._core.task_clusters import (
    LINKAGES,
    cluster_by_distance,
    number_by_size,
    similarity_of_errors,
    task_distances,
)

GROUP = np.array([1, 0, 0, 2, 0, 1, 0, 2, 1])


def errors(group=GROUP, seed=0):
    """Small errors within a group and large ones between."""
    rng = np.random.default_rng(seed)
    return np.where(group[:, None] == group, 0.1, 1.0) * rng.uniform(0.8, 1.2, (len(group), len(group)))


def cluster(distance, n_clusters=None, linkage="average", min_silhouette=0.5):
    return cluster_by_distance(distance, linkage, n_clusters, 20, min_silhouette)


def test_the_distance_is_the_cosine_between_rows_of_one_over_the_errors():
    error = errors()
    similarity = similarity_of_errors(error)
    np.testing.assert_allclose(similarity, 1 / error)
    distance = task_distances(similarity, "cosine")
    for i in range(len(error)):
        for j in range(len(error)):
            assert distance[i, j] == pytest.approx(cosine(similarity[i], similarity[j]), abs=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "correlation", "euclidean", "cityblock", "canberra"])
def test_the_unit_of_the_labels_of_a_task_does_not_matter(metric):
    error = errors()
    scale = np.logspace(-6, 6, len(error))[:, None]
    expected = task_distances(similarity_of_errors(error), metric)
    np.testing.assert_allclose(task_distances(similarity_of_errors(error * scale), metric), expected, atol=1e-9)


@pytest.mark.parametrize("linkage", LINKAGES)
def test_groups_are_found_by_any_linkage_and_numbered_by_size(linkage):
    distance = task_distances(similarity_of_errors(errors()), "euclidean")
    found = cluster(distance, linkage=linkage)
    assert found.label.tolist() == GROUP.tolist()
    assert max(found.silhouette, key=found.silhouette.get) == 3
    assert is_valid_linkage(found.linkage)


def test_a_model_without_error_is_no_reason_for_infinite_similarity():
    error = errors()
    error[0, 0] = 0.0
    assert np.isfinite(similarity_of_errors(error)).all()
    assert (similarity_of_errors(np.zeros((3, 3))) == similarity_of_errors(np.zeros((3, 3)))[0, 0]).all()
    assert not task_distances(similarity_of_errors(np.zeros((3, 3))), "correlation").any()


def test_tasks_that_are_all_alike_are_one_group_unless_groups_are_wanted():
    rng = np.random.default_rng(0)
    distance = task_distances(similarity_of_errors(rng.uniform(0.9, 1.1, (12, 12))), "cosine")
    assert cluster(distance).label.tolist() == [0] * 12
    assert cluster(distance, min_silhouette=-1).label.max() >= 1
    assert cluster(distance, n_clusters=4).label.max() == 3


def test_numbers_of_groups_by_which_tasks_are_clearly_worse_off_are_not_taken():
    # Two groups that resemble each other, far from the third: two groups have the largest silhouette.
    place = np.array([0.0, 0.1, 0.2, 1.0, 1.1, 1.2, 9.0, 9.1, 9.2])
    distance = np.abs(place[:, None] - place)
    assert cluster(distance).label.max() + 1 == 2
    noise = 0.01 * np.random.default_rng(0).normal(size=(10, 9))

    def error(label):  # in units of its own for each task
        n_groups = label.max() + 1
        return 10.0 ** np.arange(9) * (1 + noise[n_groups] + 0.3 * (n_groups < 3))

    found = cluster_by_distance(distance, "average", None, 20, 0.5, error)
    assert found.label.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.error[2] > 1.2 * found.error[3]
    # Two groups where they are worse for some tasks only, by no more than chance would have it.
    chance = np.array([0.1, -0.09, 0.0, 0.0, 0.1, -0.08, 0.0, 0.0, 0.0])
    found = cluster_by_distance(distance, "average", None, 20, 0.5, lambda label: 1 + chance * (label.max() < 2))
    assert found.label.max() + 1 == 2 and found.error[2] > found.error[3]


@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_few_tasks_are_as_many_groups_as_asked_for(n_tasks):
    distance = 1.0 - np.eye(n_tasks)
    assert cluster(distance).label.tolist() == [0] * n_tasks
    assert len(set(cluster(distance, n_clusters=5).label)) in (1, n_tasks)  # all distances are equal: all or none
    assert cluster(distance).linkage.shape == (n_tasks - 1, 4)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_groups_keep_their_members_and_are_numbered_from_the_largest(label):
    label = np.array(label)
    new = number_by_size(label)
    assert adjusted_rand_score(label, new) == 1
    sizes = np.bincount(new)
    assert (np.diff(sizes) <= 0).all() and sizes.min() > 0


# --- folds by content ---


def rows(n=60, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"a": rng.integers(0, 4, n), "b": rng.choice(["x", "y", None], n)})
    return table, rng.integers(0, 2, n).astype(float), rng.integers(0, 3, n)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_places_depend_on_what_is_in_a_row_and_neither_on_order_nor_on_copies(seed):
    table, y, task = rows(seed=seed)
    place = content_places(task, content_keys(table, y, 0), y)
    order = np.random.default_rng(seed).integers(0, len(y), 90)  # some are left out, which must not leave holes
    order = np.concatenate([np.arange(len(y)), order])
    again = content_places(task[order], content_keys(table.iloc[order], y[order], 0), y[order])
    np.testing.assert_array_equal(again, place[order])
    seen = pd.DataFrame({"task": task, "place": place, "a": table["a"], "b": table["b"].fillna("-"), "y": y})
    assert (seen.drop_duplicates().groupby(["task", "place"]).size() == 1).all()
    assert all(set(part) == set(range(part.max() + 1)) for _, part in seen.groupby("task")["place"])


def test_folds_have_their_share_of_every_class_and_the_seed_draws_them():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 2)), np.repeat([0.0, 1.0], [80, 20])
    folds = [content_places(np.zeros(100), content_keys(X, y, seed), y) % 5 for seed in (0, 1)]
    for fold in folds:
        assert np.bincount(fold[y == 1]).tolist() == [4] * 5
        assert np.bincount(fold[y == 0]).tolist() == [16] * 5
    assert (folds[0] != folds[1]).any()
