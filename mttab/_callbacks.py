"""scikit-learn's callbacks (1.9 and newer) on our estimators: from the steps of a training to the hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mttab._core.progress import Messages, Progress, Several

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9 has no callbacks, and estimators no set_callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """In place of scikit-learn's."""


class CallbackSupport(CallbackSupportMixin):
    """Mixin of estimators that tell callbacks of their rounds or epochs.

    A fit is a task whose subtasks are its parts, and the rounds or epochs of a part are theirs. A callback that returns
    True at the end of a round or an epoch ends the part, as scikit-learn has it; otherwise callbacks change nothing.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def _begin_callbacks(self, n_parts: int, *, in_order: bool, X: Any, y: Any, metadata: dict[str, Any]) -> FitHooks:
        """Tell callbacks that fit begins, in at most so many parts; ``in_order`` False: several at a time."""
        if not getattr(self, "_skl_callbacks", None) or not hasattr(self, "_init_callback_context"):
            return FitHooks(None, self, {})
        context = self._init_callback_context(max_subtasks=n_parts, sequential_subtasks=in_order)
        data = {"X": X, "y": y, "metadata": {name: value for name, value in metadata.items() if value is not None}}
        context.call_on_fit_task_begin(estimator=self, **data)
        return FitHooks(context, self, data)


class FitHooks:
    """The callbacks of one fit; without any, nothing happens."""

    def __init__(self, context: Any, estimator: Any, data: dict[str, Any]) -> None:
        self._context, self._estimator, self._data = context, estimator, data

    def is_heard(self, verbose: int | bool) -> bool:
        """Whether anybody follows the steps: a callback, or who reads messages."""
        return self._context is not None or Messages(verbose, "").wants_figures

    def follow(
        self, verbose: int | bool, unit: str, attributes: Callable[[Any], dict[str, Any]], part: int | None = None
    ) -> Progress:
        """What a training is to report to.

        Parameters
        ----------
        verbose : int
        unit : str
            What a step is called in messages.
        attributes : callable
            Gives the fitted attributes of the estimator for a model.
        part : int, default=None
            Number of the part, where several train at a time.
        """
        messages = Messages(verbose, unit)
        if self._context is None:
            return messages
        return Several([messages, _PartHooks(self._context, self._estimator, self._data, attributes, part)])

    def end(self) -> None:
        """Tell callbacks that fit has ended; the estimator is fitted by now."""
        if self._context is not None:
            self._context.call_on_fit_task_end(estimator=self._estimator, **self._data, reconstruction_attributes=dict)


class _PartHooks(Progress):
    """Hooks of the parts of a fit and of their steps."""

    def __init__(
        self, root: Any, estimator: Any, data: dict[str, Any], attributes: Callable[[Any], dict[str, Any]], part: Any
    ) -> None:
        self._root, self._estimator, self._data, self._attributes = root, estimator, data, attributes
        self._number = {} if part is None else {"task_id": part}

    @property
    def wants_figures(self) -> bool:
        return True

    def begin(self, part: str, n_steps: int) -> None:
        self._part = self._root.subcontext(task_name=part, max_subtasks=n_steps, **self._number)
        self._part.call_on_fit_task_begin(estimator=self._estimator, **self._data)

    def begin_step(self) -> None:
        self._step = self._part.subcontext(task_name="step")
        self._step.call_on_fit_task_begin(estimator=self._estimator, **self._data)

    def end_step(self, n_done: int, figures: dict[str, float], model: Callable[[], Any]) -> bool:
        return self._step.call_on_fit_task_end(
            estimator=self._estimator,
            **self._data,
            reconstruction_attributes=lambda: self._attributes(model()),
        )

    def end(self) -> None:
        self._part.call_on_fit_task_end(estimator=self._estimator, **self._data)
