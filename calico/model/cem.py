"""Correspondence Extraction Module (paper, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn


class CorrespondenceExtraction(nn.Module):
    """X'_global = X_global + Attention(query X_global, key = value = X_sem), each image over its own tokens.

    Heads, residual and the zero-started output projection are ours: a new model starts as one without CEM.
    """

    def __init__(self, global_size: int, semantic_size: int, num_heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(
            global_size, num_heads, kdim=semantic_size, vdim=semantic_size, batch_first=True
        )
        nn.init.zeros_(self.attention.out_proj.weight)
        nn.init.zeros_(self.attention.out_proj.bias)

    def forward(self, global_tokens: Tensor, semantic_tokens: Tensor) -> Tensor:
        """global_tokens: N x T x D_g, semantic_tokens: N x S x D_s. Returns N x T x D_g, in global_tokens' dtype."""
        dtype = self.attention.out_proj.weight.dtype
        query, context = global_tokens.to(dtype), semantic_tokens.to(dtype)
        attended, _ = self.attention(query, context, context, need_weights=False)
        return global_tokens + attended.to(global_tokens.dtype)


class NoExtraction(nn.Module):
    """In CEM's place where an ablation leaves it out: X'_global = X_global."""

    def forward(self, global_tokens: Tensor, semantic_tokens: Tensor) -> Tensor:
        return global_tokens
