"""Attention, and the embedding of positions that goes with it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from calibrant.engines.torch.ops.registry import Call, Tensor, Unsupported, op


@op("RotaryEmbedding")
def rotary_embedding(
    x: Tensor,
    cosine: Tensor,
    sine: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """x: [batch, heads, length, size], or [batch, length, heads * size].

    cosine, sine: a row for each position; without `positions`, for each token of the batch.
    """
    heads = x if x.ndim == 4 else _heads(x, num_heads)
    turned = rotary_embedding_dim or heads.shape[-1]
    turning, rest = heads[..., :turned], heads[..., turned:]
    if positions is not None:
        cosine, sine = cosine[positions], sine[positions]
    cosine, sine = cosine[..., : turned // 2].unsqueeze(1), sine[..., : turned // 2].unsqueeze(1)
    one, two = (turning[..., 0::2], turning[..., 1::2]) if interleaved else turning.chunk(2, -1)
    real, imaginary = cosine * one - sine * two, sine * one + cosine * two
    joined = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    out = torch.cat([joined, rest], -1)
    return out if x.ndim == 4 else _joined(out)


@op("Attention")
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    key_lengths: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    call: Call,
) -> Tensor | tuple[Tensor, ...]:
    """softmax(softcap(q k' scale) + mask) v for each head.

    [batch, heads, length, size], or [batch, length, heads * size]. A query that may look at no key gives 0. Outputs:
    the result, all keys and values (those of the past before the new), and the scores at the stage that
    qk_matmul_output_mode says: 0 as they are, 1 behind the softcap, 2 with the mask, 3 behind the softmax.
    """
    flat = q.ndim == 3
    if flat:
        if q_num_heads is None or kv_num_heads is None:
            raise Unsupported("three axes without the number of heads")
        q, k, v = _heads(q, q_num_heads), _heads(k, kv_num_heads), _heads(v, kv_num_heads)
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    keys, values = _for_each_query_head(k, q), _for_each_query_head(v, q)
    root = (q.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    stages = [torch.matmul(q * root, keys.transpose(-1, -2) * root)]
    stages.append(softcap * torch.tanh(stages[0] / softcap) if softcap else stages[0])
    behind = _keys_before_queries(q, past_key, key_lengths)
    window = left_window_size, 0 if is_causal else right_window_size
    bias = _bias(stages[0], mask, behind, window, key_lengths)
    stages.append(stages[1] if bias is None else stages[1] + bias)
    exact = stages[2] if softmax_precision is None else stages[2].to(call.dtype(softmax_precision))
    weights = torch.softmax(exact, -1).to(q.dtype)
    if bias is not None:
        weights = weights.masked_fill(torch.isneginf(bias.amax(-1, keepdim=True)), 0)
    stages.append(weights)
    out = torch.matmul(weights, values)
    out = _joined(out) if flat else out
    return out if call.outputs == 1 else (out, k, v, stages[qk_matmul_output_mode])[: call.outputs]


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(-2)


def _for_each_query_head(x: Tensor, q: Tensor) -> Tensor:
    """Several heads of queries may share one of keys and values."""
    return x if x.shape[1] == q.shape[1] else x.repeat_interleave(q.shape[1] // x.shape[1], 1)


def _keys_before_queries(q: Tensor, past: Tensor | None, key_lengths: Tensor | None) -> Tensor | int:
    """How many keys are older than the first query: one number, or one for each of the batch as [batch, 1, 1, 1]."""
    if past is not None:
        return past.shape[2]
    return 0 if key_lengths is None else key_lengths.reshape(-1, 1, 1, 1) - q.shape[2]


def _bias(
    scores: Tensor, mask: Tensor | None, behind: Tensor | int, window: tuple[int, int], lengths: Tensor | None
) -> Tensor | None:
    """What is added to the scores: -inf for keys that a query may not look at; None where it may look at all.

    window: how far a query looks back and ahead, -1 without end. lengths: how many keys are there, for each of the
    batch.
    """
    keys = torch.arange(scores.shape[-1], device=scores.device)
    queries = torch.arange(scores.shape[-2], device=scores.device)[:, None] + behind
    back, ahead = window
    hidden = []
    if ahead >= 0:
        hidden.append(keys > queries + ahead)
    if back >= 0:
        hidden.append(keys < queries - back)
    if lengths is not None:
        hidden.append(keys >= lengths.reshape(-1, 1, 1, 1))
    added = [_minus_infinity(where, scores) for where in hidden]
    if mask is not None:
        missing = scores.shape[-1] - mask.shape[-1]
        summand = _minus_infinity(~mask, scores) if mask.dtype is torch.bool else mask
        added.append(F.pad(summand, (0, missing), value=float("-inf")) if missing > 0 else summand)
    return sum(added[1:], added[0]) if added else None


def _minus_infinity(where: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(where, dtype=like.dtype).masked_fill(where, float("-inf"))
