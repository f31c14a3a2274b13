"""A decoder-only transformer."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

_INITIAL_STD = 0.02
"""Standard deviation of all initial weights; Radford et al. (2018), section 4.1."""


class Transformer(nn.Module):
    """Predicts each next symbol from those before it.

    Args:
        context: T, the largest number of input symbols.
        symbols: number of different symbols.
        width: of the residual stream.
        depth: number of blocks.
        heads: number of attention heads in each block.

    Deviation: normalisation comes before attention and before the two linear layers, as in
    Radford et al. (2019). Attention is written out, because torch's fused attention has no second
    derivatives, which curvature needs.

    Source: Radford et al. (2018), "Improving Language Understanding by Generative Pre-Training".
    """

    def __init__(self, context: int, symbols: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, width)
        self.positions = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=_INITIAL_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, text: Tensor) -> Tensor:
        """(B, T), integers -> (B, T, symbols)."""
        inner = self.symbols(text.long()) + self.positions[: text.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(inner)))
        return logits


class _Block(nn.Module):
    """Causal attention, then two linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        x = x + self._attention(self.norm1(x))
        inner: Tensor = self.contract(gelu(self.expand(self.norm2(x))))
        return x + inner

    def _attention(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        parts = self.queries_keys_values(x).view(batch, time, 3, self._heads, -1)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, T, width / heads)
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        later = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
        mixed: Tensor = self.mix((weights @ values).transpose(1, 2).reshape(batch, time, width))
        return mixed


def transformer(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Width 128, 6 blocks of 4 heads: 1.3 million parameters with 256 symbols.

    Returns:
        A model from texts to logits.

    >>> sum(p.numel() for p in transformer((128,), 256).parameters())
    1272064
    """
    return Transformer(shape[0], classes, width=128, depth=6, heads=4)


def small_transformer(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Width 32, 2 blocks of 2 heads: 46 thousand parameters, for quick trials."""
    return Transformer(shape[0], classes, width=32, depth=2, heads=2)
