"""Transformer blocks (METHOD section 2.2) that can also say how much the first tokens attend to the others."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from cluemap.model.cpu import tiled_block

WEIGHTS = (  # of a block, in the order of tiles.Weights
    "attention_norm.weight", "attention_norm.bias",
    "attention.to_query_key_value.weight", "attention.to_out.weight", "attention.to_out.bias",
    "feed_forward.0.weight", "feed_forward.0.bias", "feed_forward.1.weight", "feed_forward.1.bias",
    "feed_forward.4.weight", "feed_forward.4.bias",
)  # fmt: skip


class Attention(nn.Module):
    """Multi-head self-attention: queries, keys and values without bias, output with bias."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.to_query_key_value = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width)
        self.dropout = nn.Dropout(dropout)

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """s l d -> query, key, value, each s heads l head_width."""
        projected = self.to_query_key_value(x)
        query, key, value = rearrange(projected, "s l (three a e) -> three s a l e", three=3, a=self.heads)
        return query, key, value

    def mix(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
        """s a l e (three times), seen s 1 1 l bool or None (all) -> s l d."""
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.dropout(self.to_out(rearrange(mixed, "s a l e -> s l (a e)")))


def first_tokens_attention(query: Tensor, key: Tensor, seen: Tensor | None, first: int) -> Tensor:
    """s a l e, s a l e, s 1 1 l -> s first (l - first): attention of the first tokens to the rest, mean over heads.

    Only these rows are formed, never the whole l x l map: scores in the block's precision, their softmax in float32. No
    gradient (METHOD section 5.1).
    """
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        scores = ((query[:, :, :first] * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)).float()
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        return scores.softmax(dim=-1)[..., first:].mean(dim=1)


class Block(nn.Module):
    """Attention half, then feed-forward half; the feed-forward half's residual is always plain.

    residual (of the attention half, f = attention, LN = LayerNorm):
        plain   x + f(LN x)         TSViT
        normed  LN x + f(LN x)      released Exact classifier
        both    x + LN x + f(LN x)  released Exact segmenter
    """

    def __init__(
        self, width: int, heads: int, head_width: int, feed_forward: int, dropout: float, residual: str, depth: int = 1
    ):
        """depth: of the stack that this block is one of (they share the room of `tiles.KEPT`)."""
        super().__init__()
        self.residual, self.dropout, self.depth = residual, dropout, depth
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, head_width, dropout)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, feed_forward * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(feed_forward * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, seen: Tensor | None, asked: int = 0) -> Tensor:
        """s l d, seen s l bool or None (all) -> s l d, or the first `asked` tokens alone (0 = all)."""
        return self.watched(x, seen, 0, asked)[0]

    def watched(self, x: Tensor, seen: Tensor | None, first: int, asked: int = 0) -> tuple[Tensor, Tensor]:
        """s l d -> the same as forward, and s first (l - first): what the first tokens attend to (none for first 0)."""
        if tiled_block.usable(x, self.dropout if self.training else 0.0):
            room = tiled_block.KEPT / self.depth
            return tiled_block.block(x, seen, self._weights(), self.attention.heads, self.residual, first, asked, room)
        mask = None if seen is None else rearrange(seen, "s l -> s 1 1 l")
        normed = self.attention_norm(x)
        query, key, value = self.attention.heads_of(normed)
        attention = first_tokens_attention(query, key, mask, first) if first else x.new_zeros(x.shape[0], 0, 0)
        end = asked or x.shape[1]
        return self._add(
            x[:, :end], normed[:, :end], self.attention.mix(query[:, :, :end], key, value, mask)
        ), attention

    def _weights(self) -> tiled_block.Weights:
        return tiled_block.Weights(*map(self.get_parameter, WEIGHTS))

    def _add(self, x: Tensor, normed: Tensor, mixed: Tensor) -> Tensor:
        kept = {"plain": (x,), "normed": (normed,), "both": (x, normed)}[self.residual]
        for part in kept:
            mixed = mixed + part
        return mixed + self.feed_forward(mixed)


class Transformer(nn.Module):
    """A stack of blocks and a final LayerNorm."""

    def __init__(
        self, depth: int, width: int, heads: int, head_width: int, feed_forward: int, dropout: float, residual: str
    ):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, head_width, feed_forward, dropout, residual, depth) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, seen: Tensor | None = None, asked: int = 0) -> Tensor:
        """s l d, seen s l bool or None (all) -> s l d, or the first `asked` tokens alone (0 = all)."""
        last = len(self.blocks) - 1
        for at, block in enumerate(self.blocks):
            x = block(x, seen, asked if at == last else 0)
        return self.norm(x)

    def watched(self, x: Tensor, seen: Tensor | None, first: int) -> tuple[Tensor, Tensor]:
        """s l d -> s l d, and s first (l - first): attention of the first tokens, mean over layers and heads."""
        layers = []
        for block in self.blocks:
            x, attention = block.watched(x, seen, first)  # type: ignore[operator]  # a Block
            layers.append(attention)
        return self.norm(x), torch.stack(layers).mean(dim=0)
