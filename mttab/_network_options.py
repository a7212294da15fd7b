"""The options of the network estimators, each declared once: default, what it may be, and what it means.

An estimator names the groups of options it has; its constructor, its checks and the parameter section of its docstring
are made from them.
"""

from __future__ import annotations

import inspect
from numbers import Integral, Real
from textwrap import fill
from typing import Any, NamedTuple

from mttab._core.neural.attention import MASKS
from mttab._core.neural.columns import SCALINGS
from mttab._core.neural.tokens import NUMERICAL_EMBEDDINGS
from mttab._core.neural.weighting import MAX_ROW_TASK_PARTS, WEIGHTINGS
from mttab._core.validation import HasMethods, Interval, StrOptions


class Option(NamedTuple):
    """One parameter: default value, scikit-learn constraints, type and meaning as numpydoc wants them."""

    default: Any
    constraints: list[Any]
    type_text: str
    meaning: str


def _count(default: int, meaning: str, low: int = 1) -> Option:
    return Option(default, [Interval(Integral, low, None, closed="left")], "int", meaning)


def _flag(default: bool, meaning: str) -> Option:
    return Option(default, ["boolean"], "bool", meaning)


def _choice(default: str, names: tuple[str, ...], meaning: str) -> Option:
    return Option(default, [StrOptions(set(names))], "{" + ", ".join(f'"{n}"' for n in names) + "}", meaning)


def _number(default: float, low: float, high: float | None, closed: Any, meaning: str) -> Option:
    return Option(default, [Interval(Real, low, high, closed=closed)], "float", meaning)


TASKS: dict[str, Option] = {
    "task_column": Option(
        None,
        [None, str, Integral, list, tuple],
        "str, int, list of these or None",
        "Column of ``X`` that says which task a row belongs to, by name or position; a list makes composite ids. Each "
        "row then has one token, that of its own task, and ``y`` one column. None: tasks come from ``fit(..., "
        "task=)``, or are the columns of ``y``.",
    ),
    "task_weighting": _choice(
        "equal",
        WEIGHTINGS,
        "How the losses of the tasks become one step: their mean, divided by learned variances, or the gradients of "
        "the tasks combined by this aggregator of TorchJD (``pip install 'mttab[torchjd]'``), at a backward pass per "
        f"task. More than {MAX_ROW_TASK_PARTS} row tasks are dealt into as many groups there, each of which counts as "
        "a task.",
    ),
    "task_weight": Option(
        None, [dict, None], "dict or None", "Factor on the loss of each task, by its label; 1 for those it leaves out."
    ),
}

FEATURES: dict[str, Option] = {
    "categorical_features": Option(
        "from_dtype",
        ["array-like", StrOptions({"from_dtype"}), None],
        '"from_dtype", None or array-like',
        "Features with levels: pandas categories, strings and objects; or a mask, names or positions over the columns "
        "of ``X``. A missing level has a token of its own, and so has a level that fit did not see.",
    ),
    "numerical_embedding": _choice(
        "piecewise_linear",
        NUMERICAL_EMBEDDINGS,
        "What a number brings to its token besides itself: nothing (as in the paper), cosines with learned "
        "frequencies, or its position in each of ``n_bins`` bins. A missing number is told apart in all of them.",
    ),
    "n_bins": _count(16, 'Bins per feature for ``numerical_embedding="piecewise_linear"``.', 2),
    "numerical_scaling": _choice(
        "quantile",
        SCALINGS,
        "To the quantiles of the standard normal and, beside them, linearly with extremes drawn in; or by mean and "
        "standard deviation.",
    ),
}

# Kind of the columns of y of the mixed estimators.
TASK_TYPES: dict[str, Option] = {
    "task_types": Option(
        "auto",
        [dict, StrOptions({"auto", "regression", "binary", "multiclass"})],
        '"auto", {"regression", "binary", "multiclass"} or dict',
        "Kind of every column of ``y``, or a dict from column to kind. Inferred otherwise: strings, bools and "
        "categories are classes, numbers that are only 0 and 1 are binary, other numbers regression.",
    )
}

NETWORK: dict[str, Option] = {
    "embedding_dim": _count(32, "Width of a token, a multiple of ``n_heads``."),
    "n_blocks": _count(2, "Blocks of attention."),
    "n_heads": _count(2, "Heads of every attention."),
    "mlp_dim": _count(128, "Hidden units of the MLP in a block."),
    "head_dim": _count(64, "Hidden units of the head of a task."),
    "mask": _choice(
        "task_to_task",
        MASKS,
        "What the tokens of a row may not see: nothing; a task token the other tasks; a feature token any task; both.",
    ),
    "token_features": _choice(
        "all",
        ("all", "categorical"),
        'Features that have a token. With "categorical" numbers take no part in attention, as in TabTransformer, and '
        "go through the MLP of ``direct_dim`` alone.",
    ),
    "sample_attention": _flag(
        False,
        "Whether rows attend to rows: in training to those of the batch, in prediction to ``context_size`` training "
        "rows kept for it, so that a prediction does not depend on the other rows predicted with it.",
    ),
    "sample_attention_dim": Option(
        64,
        [Interval(Integral, 1, None, closed="left"), None],
        "int or None",
        "Width of that attention, a multiple of ``n_heads``; None: of a whole row of tokens.",
    ),
    "context_size": _count(
        512,
        "Training rows that predicted rows attend to; all, if there are fewer. Also how many rows of a batch attend "
        "to each other in training: a larger batch is cut into groups.",
    ),
    "direct_dim": _count(
        0,
        "Hidden units in each of the two layers of an MLP from all features straight to the scores, beside the "
        "attention; 0 = none. With 256 and little ``dropout``, smooth functions of many numbers are learned more "
        "exactly.",
        0,
    ),
    "companion_dim": _count(
        256,
        "Hidden units in each of the two layers of an MLP that is trained beside every member, on the same rows, and "
        "averaged with it; 0 = none. Where the two kinds differ clearly on the validation rows, the better one counts "
        "for more, column by column of ``y`` (``companion_share_``); without such rows they count the same. With "
        '``max_epochs="auto"`` these rows may let it train for four times as many epochs, and ``patience`` lasts up to '
        'four times as long, the less is left to explain. With these rows and ``task_weighting="equal"`` it lowers the '
        "roots of the losses, so that a column that can be predicted almost exactly is not drowned by noisy ones; its "
        "dropout fades as its figure on these rows rises.",
        0,
    ),
    "dropout": _number(0.1, 0.0, 1.0, "left", "Share of hidden units left out in training."),
}

# Of the networks of experts; an architecture has some of them.
EXPERTS: dict[str, Option] = {
    "embedding_dim": _count(16, "Numbers in the embedding of a feature."),
    "n_experts": _count(6, "Experts that all tasks share."),
    "n_shared_experts": _count(2, "Experts that all tasks share."),
    "n_task_experts": _count(2, "Experts of each task."),
    "expert_dim": _count(64, "Hidden units in each layer of an expert."),
    "expert_depth": _count(2, "Hidden layers of an expert."),
    "n_layers": _count(2, "Layers of experts and gates, each fed by the last."),
    "activation": _choice(
        "relu", ("relu", "swish"), "Of all hidden units. With Swish, as in HoME, an expert cannot collapse to zeros."
    ),
    "expert_norm": _flag(
        False,
        "Whether the inputs of an expert's activations are normalised, over the units of a layer and row; HoME does it "
        "over the rows of a batch.",
    ),
    "gate_dim": _count(0, "Hidden units of a gate; 0 = a linear map before the softmax.", 0),
    "gate_dropout": _number(
        0.0, 0.0, 1.0, "left", "Share of the experts that a gate leaves out in training, row by row."
    ),
    "head_dim": _count(64, "Hidden units of the tower of a task; 0 = a linear map.", 0),
    "dropout": _number(0.1, 0.0, 1.0, "left", "Share of hidden units left out in training."),
}

TRAINING: dict[str, Option] = {
    "n_members": _count(4, "Networks trained, from different starts and on different validation rows, and averaged."),
    "learning_rate": _number(3e-3, 0.0, None, "neither", "Highest step size of AdamW."),
    "weight_decay": _number(1e-2, 0.0, None, "left", "Of AdamW, on matrices."),
    "batch_size": Option(
        "auto",
        [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        'int or "auto"',
        '"auto": about 1/32 of the training rows, between 32 and 1024.',
    ),
    "max_epochs": Option(
        "auto",
        [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        'int or "auto"',
        'Largest number of passes over the training rows. "auto": 100; above 32,000 rows fewer in proportion, but at '
        "least 10.",
    ),
    "schedule": _choice(
        "cosine", ("cosine", "constant"), "What the step size does after its linear start: it falls to 1 %, or stays."
    ),
    "warmup_fraction": _number(0.05, 0.0, 1.0, "both", "Share of all steps in which the step size rises."),
    "gradient_clip": _number(1.0, 0.0, None, "left", "Largest norm of the gradient; 0 = no limit."),
    "sam_rho": _number(
        0.0,
        0.0,
        None,
        "left",
        "How far sharpness-aware minimisation looks: every task is also asked for its gradient where, so far from the "
        "weights, its own loss is largest. ``task_weighting`` combines the gradients of the tasks and what they change "
        "by separately. 0 = off; 0.02 to 0.05 may help where labels are noisy, and cost where they are exact. A step "
        "takes two passes over the batch per task; with row tasks, dealt into groups as for ``task_weighting``, two in "
        f"all, but {2 * MAX_ROW_TASK_PARTS} with row attention.",
    ),
    "pretext": Option(
        None,
        [StrOptions({"before", "during"}), None],
        '{"before", "during"} or None',
        "Whether to learn a task that needs no labels, too, for tables with few: features are masked, as if missing, "
        'and reconstructed from the others. "before": alone, in ``pretext_epochs`` of its own before the first epoch '
        'of the tasks; "during": with every step of theirs. Rows without any label then take part in it, and in the '
        "scales and levels of the features. What only this task needs is thrown away; ``history_`` keeps its loss, and "
        'with "before" the rows of its epochs, whose ``phase`` is "pretext". It is left out in ``partial_fit``, and '
        '"before" in a fit that goes on; rows that are read in pieces, as of a path, have none.',
    ),
    "pretext_fraction": _number(0.3, 0.0, 1.0, "neither", "Share of the features masked in a row of the pretext task."),
    "pretext_weight": _number(
        1.0, 0.0, None, "neither", 'Factor on the gradient of the pretext task, for ``pretext="during"``.'
    ),
    "pretext_epochs": Option(
        "auto",
        [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        'int or "auto"',
        'Passes over the rows, with and without labels, for ``pretext="before"``. "auto": as for ``max_epochs``, all '
        "of them.",
    ),
    "weight_averaging": _number(
        0.99,
        0.0,
        1.0,
        "left",
        "Share that a step leaves of the running mean of the weights, which is what is validated and kept; 0 = the "
        "weights of the last step.",
    ),
    "early_stopping": Option(
        "auto",
        [StrOptions({"auto"}), "boolean"],
        'bool or "auto"',
        "Whether training ends when validation rows show no progress for ``patience`` epochs; the best epoch counts. "
        "Watched is the mean over tasks of R², for classes its counterpart in log loss; of the networks of\n"
        '``companion_dim`` the mean of the roots of what these leave unexplained. "auto" does so from 200 rows on, or '
        "where validation rows are given.",
    ),
    "patience": _count(16, "Epochs without progress after which training ends."),
    "validation": Option(
        None,
        [None, HasMethods(["split"]), "array-like", list, tuple],
        "splitter, list of (train, test) positions or None",
        "Chooses the validation rows by its last split, for every member. A splitter that wants groups gets task ids.",
    ),
    "validation_fraction": _number(
        0.15,
        0.0,
        1.0,
        "neither",
        "Otherwise, share of the rows held out, of every task and class where that can be; others for each member.",
    ),
    "unseen_task": _choice(
        "shared",
        ("shared", "error"),
        "What predict does with a row task that fit did not see: the mean of all task tokens, or an error.",
    ),
    "target_scaling": Option(
        None,
        [StrOptions({"task"}), None],
        '{"task"} or None',
        'With row tasks, "task" standardises the target of each of them on its own, None of all together. Columns of\n'
        "``y`` are always standardised one by one; predictions are in the unit of ``y``.",
    ),
    "warm_start": _flag(
        False,
        "Whether fit goes on from the networks it finds, for ``max_epochs`` more epochs. Scales, levels, classes and "
        "tasks stay; options of their shape cannot change.",
    ),
    "device": Option(
        "auto", [str], "str", 'Where to compute: "cuda", "mps", "cpu", …; "auto" takes the first of these there is.'
    ),
    "precision": _choice(
        "auto",
        ("auto", "float32", "float64", "bfloat16"),
        '"bfloat16" computes products with 16 bits; "auto" does so on CUDA devices that can.',
    ),
    "compile": _flag(
        False, "Whether the network goes through ``torch.compile``, which needs a compiler; pays on long fits on a GPU."
    ),
    "n_jobs": Option(
        None,
        [Interval(Integral, 1, None, closed="left"), Interval(Integral, None, -1, closed="right"), None],
        "int or None",
        "Threads for training on the CPU; members are trained side by side. None and -1: as many as torch has. Sums "
        "that several threads share may differ in their last digits.",
    ),
    "random_state": Option(
        None,
        ["random_state"],
        "int, RandomState instance or None",
        "Seeds validation rows, starts, batches and dropout.",
    ),
    "verbose": Option(
        0,
        ["verbose"],
        "int",
        '1 gives a line every ten epochs, 2 every epoch, to the logger "mttab" of the standard library; it is seen on '
        "standard error unless logging is set up otherwise. For a progress bar, with scikit-learn 1.9 or newer, pass "
        "``sklearn.callback.ProgressBar()`` to ``set_callbacks``, of this estimator or of a search around it.",
    ),
}


def declare(options: dict[str, Option]) -> Any:
    """Class decorator: constructor, constraints and the parameter section of the docstring from a table of options."""

    def decorate(cls: Any) -> Any:
        parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)] + [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.default)
            for name, option in options.items()
        ]
        signature = inspect.Signature(parameters)

        def __init__(self: Any, **given: Any) -> None:
            arguments = signature.bind(self, **given)
            arguments.apply_defaults()
            for name in options:
                setattr(self, name, arguments.arguments[name])

        __init__.__signature__ = signature  # type: ignore[attr-defined]
        __init__.__qualname__, __init__.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
        cls.__init__ = __init__
        cls._parameter_constraints = {name: option.constraints for name, option in options.items()}
        cls.__doc__ = inspect.cleandoc(cls.__doc__).replace("{parameters}", parameter_section(options))
        return cls

    return decorate


def parameter_section(options: dict[str, Option]) -> str:
    """The options as numpydoc writes parameters."""
    return "\n".join(
        f"{name} : {option.type_text}, default={_shown(option.default)}\n"
        + fill(option.meaning, 116, initial_indent="    ", subsequent_indent="    ")
        for name, option in options.items()
    )


def _shown(default: Any) -> str:
    return f'"{default}"' if isinstance(default, str) else repr(default)
