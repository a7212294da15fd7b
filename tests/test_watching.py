"""What validation rows tell a training: which weights it keeps, when it ends, how much of every task is left."""

import math

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from mttab._core.neural.watching import LEAST_SHARE, Watch


def watched(epochs, patience=None, *, on_roots=False):
    """A watch after some epochs; the weights of each are its number."""
    watch = Watch(len(epochs[0]), patience, on_roots=on_roots)
    for number, by_task in enumerate(epochs):
        watch.note(torch.tensor(by_task), lambda number=number: {"epoch": torch.tensor(number)})
    return watch


def best_epoch(watch):
    return int(watch.best_weights["epoch"])


def test_the_epoch_with_the_largest_mean_is_kept():
    watch = watched([[0.5, 0.3], [0.6, 0.4], [0.9, 0.0]])
    assert best_epoch(watch) == 1 and watch.unexplained == pytest.approx(0.5)


def test_on_roots_a_task_that_is_almost_solved_makes_progress_though_a_noisy_one_falls_back():
    epochs = [[0.50, 0.990], [0.48, 0.9995]]
    assert best_epoch(watched(epochs)) == 0 and best_epoch(watched(epochs, on_roots=True)) == 1


def test_on_roots_a_small_error_that_grows_no_smaller_does_not_hide_a_large_one_that_grows():
    epochs = [[0.50, 0.9900], [0.30, 0.9901]]
    assert best_epoch(watched(epochs, on_roots=True)) == 0


def test_with_one_task_both_ways_keep_the_same_epoch():
    epochs = [[-3.0], [0.2], [0.1], [0.7], [0.69]]
    assert best_epoch(watched(epochs)) == best_epoch(watched(epochs, on_roots=True)) == 3


def test_it_is_over_after_as_many_epochs_without_progress_as_there_is_patience():
    epochs = [[0.1], [0.3], [0.2], [0.25], [0.3]]
    assert [watched(epochs[: n + 1], 3).is_over() for n in range(5)] == [False] * 4 + [True]
    assert not watched(epochs).is_over()


@pytest.mark.parametrize(("explained", "n_epochs"), [(-0.5, 2), (0.0, 2), (0.75, 4), (0.99, 8), (1.0, 8)])
def test_on_roots_patience_lasts_longer_the_less_is_left_up_to_four_times(explained, n_epochs):
    epochs = [[explained]] * 20
    assert [watched(epochs[: n + 2], 2, on_roots=True).is_over() for n in range(10)].index(True) == n_epochs - 1


@pytest.mark.parametrize("on_roots", [False, True])
def test_epochs_without_a_figure_are_neither_progress_nor_the_lack_of_it(on_roots):
    nothing = [math.nan, math.nan]
    assert watched([nothing], 1, on_roots=on_roots).best_weights is None
    watch = watched([nothing, [0.2, math.nan], nothing, nothing], 1, on_roots=on_roots)
    assert best_epoch(watch) == 1 and not watch.is_over()


@pytest.mark.parametrize("on_roots", [False, True])
def test_a_loss_that_overflows_from_the_first_epoch_on_uses_up_patience(on_roots):
    watch = watched([[-math.inf]] * 3, 3, on_roots=on_roots)
    assert watch.is_over() and watch.best_weights is None


def test_what_is_left_of_a_task_is_so_at_its_own_best_epoch():
    watch = watched([[0.9, -0.5, 0.2], [0.7, -2.0, 0.6]])
    assert watch.unexplained_by_task().tolist() == pytest.approx([0.1, 1.0, 0.4])
    assert watched([[1.0]]).unexplained_by_task().tolist() == pytest.approx([LEAST_SHARE])


def test_a_task_without_a_figure_is_taken_for_one_like_the_others():
    watch = watched([[0.9, math.nan, 0.5]])
    assert watch.unexplained_by_task().tolist() == pytest.approx([0.1, 0.3, 0.5])
    assert watched([[math.nan, math.nan]]).unexplained_by_task().tolist() == [1.0, 1.0]
    assert watched([[math.nan, math.nan]]).unexplained == 1.0
