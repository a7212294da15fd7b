"""One token per feature and one per task: what the blocks of the network pass on."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

NUMERICAL_EMBEDDINGS = ("linear", "periodic", "piecewise_linear")


class FeatureTokens(nn.Module):
    """Tokens of all features of a row: one affine tensor for the numeric ones, one offset table for the categories.

    Every numeric feature is spread into the same number of channels (the number itself, whether it is missing, and what
    the embedding adds), so that the tokens of all of them are one batched product.

    Parameters
    ----------
    n_numeric, n_scales : int
        Numeric features.
    offset : ndarray of shape (n_categorical + 1,), int
        First row of each categorical feature in the embedding table, and the size of the table.
    level_weight : ndarray of shape (table size,)
        How much training data each row of the table has; see `fill_unseen`.
    width : int
        Width of a token.
    embedding : {"linear", "periodic", "piecewise_linear"}
        Channels beside the number: none; cosines of it with learned frequencies [1]_; its place in each bin [1]_.
    bins : ndarray of shape (n_numeric, n_bins + 1) or None
        Edges of the bins for "piecewise_linear", increasing; equal edges are an empty bin.
    n_frequencies : int
        Cosines per feature for "periodic".
    frequency_scale : float
        Standard deviation of the frequencies at the start.

    References
    ----------
    .. [1] Y. Gorishniy, I. Rubachev, A. Babenko. "On Embeddings for Numerical Features in Tabular Deep Learning".
       NeurIPS 2022, arXiv:2203.05556.
    """

    feature_of_level: Tensor
    level_weight: Tensor
    low: Tensor
    inverse_size: Tensor

    def __init__(
        self,
        n_numeric: int,
        n_scales: int,
        offset: np.ndarray,
        level_weight: np.ndarray,
        width: int,
        embedding: str,
        bins: np.ndarray | None = None,
        n_frequencies: int = 16,
        frequency_scale: float = 0.3,
    ) -> None:
        super().__init__()
        self.n_numeric, self.n_scales, self.embedding = n_numeric, n_scales, embedding
        n_channels = n_scales + 1
        if embedding == "periodic":
            self.frequency = nn.Parameter(torch.randn(n_numeric, n_frequencies) * frequency_scale)
            self.phase = nn.Parameter(torch.rand(n_numeric, n_frequencies) * 2.0 * math.pi - math.pi)
            n_channels += n_frequencies
        elif embedding == "piecewise_linear":
            assert bins is not None
            edges = torch.as_tensor(bins, dtype=torch.get_default_dtype())
            low, size = edges[:, :-1], edges.diff(dim=1)
            self.register_buffer("low", low.contiguous())
            self.register_buffer("inverse_size", torch.where(size > 0, 1.0 / size.clamp_min(1e-12), 0.0))
            n_channels += low.shape[1]
        bound = 1.0 / math.sqrt(n_channels)
        self.weight = nn.Parameter(torch.empty(n_numeric, n_channels, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_numeric, 1, width).uniform_(-bound, bound))
        with torch.no_grad():
            self.weight[:, n_scales] = 0.0  # a number that is missing for the first time in prediction has no effect
        self.table = nn.Parameter(torch.empty(len(level_weight), width).uniform_(-1.0, 1.0) / math.sqrt(2.0))
        feature = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
        self.register_buffer("feature_of_level", torch.as_tensor(feature))
        self.register_buffer("level_weight", torch.as_tensor(level_weight, dtype=torch.get_default_dtype()))

    def channels(self, numeric: Tensor, missing: Tensor) -> Tensor:
        """Numbers and whether they are missing → (n_numeric, n, n_channels)."""
        scales = numeric.transpose(0, 1)
        x = scales[:, :, :1]
        parts = [scales, missing.T[:, :, None].to(x.dtype)]
        if self.embedding == "periodic":
            parts.append(torch.cos(2.0 * math.pi * self.frequency[:, None] * x + self.phase[:, None]))
        elif self.embedding == "piecewise_linear":
            parts.append(((x - self.low[:, None]) * self.inverse_size[:, None]).clamp(0.0, 1.0))
        return torch.cat(parts, dim=2)

    @torch.no_grad()
    def fill_unseen(self) -> None:
        """Give rows of the table without training data, "unknown" among them, the weighted mean of their feature."""
        if len(self.table) == 0:
            return
        n_features = int(self.feature_of_level[-1]) + 1
        total = self.level_weight.new_zeros(n_features).index_add_(0, self.feature_of_level, self.level_weight)
        share = self.level_weight / total[self.feature_of_level]
        mean = self.table.new_zeros(n_features, self.table.shape[1])
        mean.index_add_(0, self.feature_of_level, self.table * share[:, None])
        unseen = self.level_weight == 0
        self.table[unseen] = mean[self.feature_of_level[unseen]]

    def forward(self, numeric: Tensor, missing: Tensor, codes: Tensor) -> Tensor:
        """Tokens of n rows.

        Parameters
        ----------
        numeric : Tensor of shape (n, n_numeric, n_scales)
            Scaled numbers, 0 where missing.
        missing : Tensor of shape (n, n_numeric), bool
        codes : Tensor of shape (n, n_categorical), int64
            Rows of the table.

        Returns
        -------
        Tensor of shape (n, n_numeric + n_categorical, width)
        """
        if self.n_numeric == 0:  # some onnxruntimes (1.20 to 1.22) refuse an empty product
            return self.table[codes]
        tokens = torch.baddbmm(self.bias, self.channels(numeric, missing), self.weight).transpose(0, 1)
        if codes.shape[1] == 0:
            return tokens
        return torch.cat([tokens, self.table[codes]], dim=1)
