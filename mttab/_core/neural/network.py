"""MultiTab-Net: tokens of features and tasks through blocks of attention, a head per task."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mttab._core.neural.attention import FeatureAttention, RowAttention, RowMemory
from mttab._core.neural.columns import BEND
from mttab._core.neural.stacked import affine
from mttab._core.neural.tokens import FeatureTokens

_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6 has only the latter

# Hidden numbers of an MLP over tokens computed at a time on a CPU: 2 MB in single precision.
_CACHED_NUMBERS = 2**19


class Inputs(NamedTuple):
    """Encoded rows as tensors.

    Attributes
    ----------
    numeric : Tensor of shape (n, n_numeric, n_scales)
    missing : Tensor of shape (n, n_numeric), bool
    codes : Tensor of shape (n, n_categorical), int64
    task : Tensor of shape (n,), int64
        Row task of each row, the number of them for a task that fit did not see; empty where tasks are targets.
    """

    numeric: Tensor
    missing: Tensor
    codes: Tensor
    task: Tensor

    def take(self, rows: Tensor | slice) -> Inputs:
        """Some rows; `task` stays empty where it is."""
        return Inputs(
            self.numeric[rows], self.missing[rows], self.codes[rows], self.task[rows] if len(self.task) else self.task
        )


class NetworkOptions(NamedTuple):
    """Shape of a network.

    Attributes
    ----------
    n_features, n_tasks, n_outputs : int
        Feature tokens; task tokens of a row; scores of every task.
    n_numeric : int
        Numeric features, whether or not they have tokens.
    n_row_tasks : int
        Tasks of which every row has one, which then has one task token; 0 where tasks are targets.
    n_blocks : int
        0: only what goes past the attention, `Direct`. There are no heads then, and no tokens of targets.
    n_added : int
        How many of these, the last ones, came after training, see `MultiTabModule.add_task_token`.
    has_waves : bool
        Whether `Direct` reads one smooth scale of every number, and `Waves` of it.
    """

    n_features: int
    n_numeric: int
    n_tasks: int
    n_outputs: int
    n_row_tasks: int
    width: int
    n_blocks: int
    n_heads: int
    mlp_width: int
    head_width: int
    mask: str
    sample_attention: bool
    sample_attention_width: int
    context_size: int
    direct_width: int
    dropout: float
    n_added: int = 0
    has_waves: bool = False


class TokenDropout(nn.Module):
    """Dropout that leaves out the same channels in all tokens of a row: one random number instead of one per token.

    `generator` belongs to a training; networks that train side by side then do not disturb each other's numbers.
    """

    generator: torch.Generator | None = None
    share = 1.0  # of p that is in force, see `stepping.fade_dropout`

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, (n, …, channels)."""
        p = self.p * self.share
        if not self.training or p == 0.0:
            return x
        shape = (x.shape[0], *[1] * (x.dim() - 2), x.shape[-1])
        return x * x.new_empty(shape).bernoulli_(1.0 - p, generator=self.generator).div_(1.0 - p)


class MLP(nn.Sequential):
    """LayerNorm, then one hidden GELU layer; (…, width) → (…, out)."""

    def __init__(self, width: int, hidden: int, out: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), TokenDropout(dropout), nn.Linear(hidden, out)
        )


class Block(nn.Module):
    """Inter-feature attention and an MLP per token; with `sample_attention`, the same over rows and per row."""

    def __init__(self, options: NetworkOptions, *, is_last: bool) -> None:
        super().__init__()
        width, n_tasks = options.width, options.n_tasks
        self.n_tasks, self.is_last = n_tasks, is_last
        self.mlp_width = options.mlp_width
        self.norm = nn.LayerNorm(width)
        self.attention = FeatureAttention(width, options.n_heads, n_tasks, options.mask)
        self.mlp = MLP(width, options.mlp_width, width, options.dropout)
        self.row_attention = None
        if options.sample_attention:
            row_width = width * (options.n_features + n_tasks)
            self.row_attention = RowAttention(
                row_width, options.sample_attention_width, options.n_heads, options.context_size
            )
            read_width = width * n_tasks if is_last else row_width
            self.row_mlp = MLP(row_width, options.mlp_width, read_width, options.dropout)

    def forward(
        self, tokens: Tensor, memory: RowMemory | None = None, log_weight: Tensor | None = None
    ) -> tuple[Tensor, RowMemory | None]:
        """Tokens (n, d + t, width) → the same, or (n, t, width) after the last block, where only heads still read."""
        tokens = self._in_portions(tokens)
        if self.row_attention is None:
            return tokens, None
        rows = tokens.flatten(1)
        update, made = self.row_attention(rows, memory, log_weight)
        rows = rows + update
        update = self.row_mlp(rows)
        return (rows[:, -update.shape[1] :] + update).unflatten(1, (-1, tokens.shape[2])), made

    @property
    def _reads_only_tasks(self) -> bool:
        return self.is_last and self.row_attention is None

    def _in_portions(self, tokens: Tensor) -> Tensor:
        """`_within_rows`, on a CPU for as many rows at a time as its cache holds, which is up to twice as fast."""
        n_tokens = self.n_tasks if self._reads_only_tasks else tokens.shape[1]
        n_rows = max(16, _CACHED_NUMBERS // (n_tokens * self.mlp_width))
        if tokens.device.type != "cpu" or _is_exporting() or len(tokens) <= n_rows:
            return self._within_rows(tokens)
        return torch.cat([self._within_rows(portion) for portion in tokens.split(n_rows)])

    def _within_rows(self, tokens: Tensor) -> Tensor:
        """Attention and MLP, which look at one row at a time."""
        update = self.attention(self.norm(tokens), only_tasks=self._reads_only_tasks)
        tokens = (tokens[:, -self.n_tasks :] if self._reads_only_tasks else tokens) + update
        return tokens + self.mlp(tokens)


class Heads(nn.Module):
    """One MLP with one hidden layer per task, all of them as two batched products."""

    def __init__(self, n_tasks: int, width: int, hidden: int, n_outputs: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.weight_in, self.bias_in = affine((n_tasks,), width, hidden)
        self.weight_out, self.bias_out = affine((n_tasks,), hidden, n_outputs)
        self.dropout = TokenDropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Task tokens (n, t, width) → scores (n, t, n_outputs)."""
        hidden = torch.baddbmm(self.bias_in, self.norm(tokens).transpose(0, 1), self.weight_in)
        hidden = self.dropout(functional.gelu(hidden).transpose(0, 1)).transpose(0, 1)
        return torch.baddbmm(self.bias_out, hidden, self.weight_out).transpose(0, 1)


class Direct(nn.Sequential):
    """MLP with two hidden layers from all features of a row at once to its scores, beside the attention.

    Attention takes means over tokens of fixed length, from which a smooth function of many numbers is hard to build up
    exactly; here it is a few products.

    Parameters
    ----------
    n_numeric, n_scales : int
        Numeric features, and the numbers that each of them brings.
    n_others : int
        Numbers that levels, the task of a row and `Waves` bring.
    hidden, out : int
    dropout : float
    is_alone : bool
        Whether no heads are beside it, to whose scores it adds nothing at first.
    """

    def __init__(
        self, n_numeric: int, n_scales: int, n_others: int, hidden: int, out: int, dropout: float, *, is_alone: bool
    ) -> None:
        n_numbers = n_numeric * n_scales
        first, last = nn.Linear(n_numbers + n_numeric + n_others, hidden), nn.Linear(hidden, out)
        with torch.no_grad():
            # A number that is missing for the first time in prediction has no effect.
            first.weight[:, n_numbers : n_numbers + n_numeric] = 0.0
            last.weight.zero_()
            if not is_alone:
                # Alone it would have the mean of standardised labels as the first gradient of its bias: 0 but for
                # rounding, which AdamW blows up, so that a row of weight 2 would not be the same as the row twice.
                last.bias.zero_()
        dropouts = (TokenDropout(dropout), TokenDropout(dropout))
        super().__init__(first, nn.GELU(), dropouts[0], nn.Linear(hidden, hidden), nn.GELU(), dropouts[1], last)


def unbent(x: Tensor) -> Tensor:
    """Numbers on the bent scale of `ColumnEncoder`, on one that is as straight near 0 and goes on as a logarithm.

    Where tails are long, most of what tells large numbers apart is beyond the bend. From 300 quartile ranges on, all
    count as 300: so close to the end of the bent scale, rounding in single precision would show.
    """
    straight = x / (1.0 - (x / BEND) ** 2).clamp_min(1e-4).sqrt()
    return straight.sign() * (straight.abs() + (straight**2 + 1.0).sqrt()).log()  # asinh, which ONNX's tracer lacks


class Waves(nn.Module):
    """A few mixtures of cosines of every number, with learned frequencies, see [1]_.

    References
    ----------
    .. [1] D. Holzmüller, L. Grinsztajn, I. Steinwart. "Better by Default: Strong Pre-Tuned MLPs and Boosted Trees on
       Tabular Data". NeurIPS 2024, arXiv:2407.04491.
    """

    def __init__(self, n_numeric: int, n_frequencies: int = 16, n_mixtures: int = 4, scale: float = 0.1) -> None:
        super().__init__()
        self.n_numbers = n_numeric * n_mixtures
        self.frequency = nn.Parameter(torch.randn(n_numeric, 1, n_frequencies) * scale)
        self.phase = nn.Parameter(torch.rand(n_numeric, 1, n_frequencies) * 2.0 * math.pi - math.pi)
        self.weight, self.bias = affine((n_numeric,), n_frequencies, n_mixtures)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_numeric) → (n, n_numeric * n_mixtures)."""
        waves = torch.cos(2.0 * math.pi * self.frequency * x.T[:, :, None] + self.phase)
        return torch.baddbmm(self.bias, waves, self.weight).transpose(0, 1).flatten(1)


class MultiTabModule(nn.Module):
    """The network of MultiTab-Net [1]_.

    References
    ----------
    .. [1] D. Sinodinos, J. Y. Wei, N. Armanfard. "MultiTab: A Scalable Foundation for Multitask Learning on Tabular
       Data". AAAI 2026, arXiv:2511.09970.
    """

    def __init__(self, features: FeatureTokens, options: NetworkOptions) -> None:
        super().__init__()
        self.options = options
        self.features = features
        # Without attention nobody would read tokens of targets: these have columns of the last layer of `Direct`.
        n_tokens = options.n_row_tasks or options.n_tasks * bool(options.n_blocks)
        self.task_tokens = nn.Parameter(torch.randn(n_tokens, options.width) * 0.5)
        n_blocks = options.n_blocks
        self.blocks: Any = nn.ModuleList([Block(options, is_last=i == n_blocks - 1) for i in range(n_blocks)])
        self.heads: Any = None
        if n_blocks:
            self.heads = Heads(options.n_tasks, options.width, options.head_width, options.n_outputs, options.dropout)
        self.direct = self.waves = None
        if options.has_waves and options.n_numeric:
            self.waves = Waves(options.n_numeric)
        if options.direct_width:  # DEVIATION: the paper has attention only.
            n_levels = options.n_features - features.n_numeric
            n_waves = 0 if self.waves is None else self.waves.n_numbers
            self.direct = Direct(
                options.n_numeric,
                1 if options.has_waves else features.n_scales,
                options.width * (n_levels + bool(options.n_row_tasks)) + n_waves,
                options.direct_width,
                options.n_tasks * options.n_outputs,
                options.dropout,
                is_alone=self.heads is None,
            )

    def unseen_token(self) -> Tensor:
        """Token (width,) of a task that fit did not see: the mean of all that were trained together."""
        return self.task_tokens[: len(self.task_tokens) - self.options.n_added].mean(dim=0)

    def add_task_token(self, token: Tensor) -> None:
        """One row task more, with this token (width,); nothing changes for the others and for unseen tasks."""
        self.task_tokens = nn.Parameter(torch.cat([self.task_tokens.detach(), token[None]]))
        n_row_tasks, n_added = self.options.n_row_tasks + 1, self.options.n_added + 1
        self.options = self.options._replace(n_row_tasks=n_row_tasks, n_added=n_added)

    def first_tokens(self, inputs: Inputs) -> Tensor:
        """Tokens before the first block, (n, d + t, width)."""
        n = self.features.n_numeric  # all, or none where numbers have no tokens
        features = self.features(inputs.numeric[:, :n], inputs.missing[:, :n], inputs.codes)
        if self.options.n_row_tasks:
            known = torch.cat([self.task_tokens, self.unseen_token()[None]])
            tasks = known[inputs.task][:, None]
        else:
            tasks = self.task_tokens.expand(features.shape[0], -1, -1)
        return torch.cat([features, tasks], dim=1)

    def forward(
        self, inputs: Inputs, memory: list[RowMemory] | None = None, log_weight: Tensor | None = None
    ) -> tuple[Tensor, list[RowMemory]]:
        """Scores of n rows.

        Parameters
        ----------
        inputs : Inputs
        memory : list of RowMemory or None
            What the row attention of every block sees; None: the other rows.
        log_weight : Tensor of shape (n,), default=None
            Of these rows, where they see each other.

        Returns
        -------
        scores : Tensor of shape (n, n_tasks, n_outputs)
        made : list of RowMemory
            What these rows are to others, block by block; empty without row attention, or where `memory` was given.
        """
        first, tokens, made = self._through_blocks(inputs, memory, log_weight)
        if self.direct is None:
            return self.heads(tokens), made
        shape = (self.options.n_tasks, self.options.n_outputs)
        scores = self.direct(self._flat(inputs, first)).unflatten(1, shape)
        return (scores if self.heads is None else self.heads(tokens) + scores), made

    def represent(self, inputs: Inputs, log_weight: Tensor | None = None) -> Tensor:
        """What scores are made of, for n rows that see each other: task tokens, and hidden units of `direct`.

        Returns
        -------
        Tensor of shape (n, width)
        """
        first, tokens, _ = self._through_blocks(inputs, None, log_weight)
        if self.direct is None:
            return tokens.flatten(1)
        hidden = self._flat(inputs, first)
        for layer in list(self.direct)[:-1]:
            hidden = layer(hidden)
        return torch.cat([tokens.flatten(1), hidden], dim=1)

    def _through_blocks(
        self, inputs: Inputs, memory: list[RowMemory] | None, log_weight: Tensor | None
    ) -> tuple[Tensor, Tensor, list[RowMemory]]:
        """Tokens before the first block, task tokens (n, t, width) after the last, and what rows are to others.

        Without blocks the task tokens are those of row tasks, or none.
        """
        first = tokens = self.first_tokens(inputs)
        made = []
        for i, block in enumerate(self.blocks):
            tokens, own = block(tokens, memory[i] if memory else None, log_weight)
            if own is not None:
                made.append(own)
        return first, tokens if self.blocks else tokens[:, self.options.n_features :], made

    def _flat(self, inputs: Inputs, tokens: Tensor) -> Tensor:
        """All that is known of each row, side by side: numbers, what is missing, tokens of levels and of a row task."""
        end = tokens.shape[1] if self.options.n_row_tasks else self.options.n_features
        others = tokens[:, self.features.n_numeric : end].flatten(1)
        missing, numeric = inputs.missing.to(others.dtype), inputs.numeric.flatten(1)
        if not self.options.has_waves:
            return torch.cat([numeric, missing, others], dim=1)
        # Quantiles follow the sample in steps, which a smooth function of them would have to follow, too.
        numeric = unbent(inputs.numeric[:, :, 1]) if self.features.n_scales == 2 else numeric
        waves = [] if self.waves is None else [self.waves(numeric)]
        return torch.cat([numeric, missing, others, *waves], dim=1)

    def attention(self, inputs: Inputs, memory: list[RowMemory] | None = None) -> Tensor:
        """Attention of every task token to all tokens, mean over heads, in each block: (n_blocks, n, t, d + t)."""
        tokens = self.first_tokens(inputs)
        weights = []
        for i, block in enumerate(self.blocks):
            weights.append(block.attention.task_weights(block.norm(tokens)))
            tokens, _ = block(tokens, memory[i] if memory else None)
        return torch.stack(weights)
