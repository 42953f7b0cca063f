"""Products of matrices."""

from __future__ import annotations

import torch

from calibrant.engines.torch.ops.registry import Call, Tensor, Unsupported, op


@op("MatMul")
def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@op("Gemm")
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    left, right = a.T if transA else a, b.T if transB else b
    if c is None:
        product = torch.mm(left, right)
        return product if alpha == 1 else alpha * product
    if not a.is_floating_point():
        alpha, beta = int(alpha), int(beta)
    return torch.addmm(c, left, right, beta=beta, alpha=alpha)


@op("Einsum")
def einsum(*values: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *values)


@op("Det")
def determinant(x: Tensor) -> Tensor:
    return torch.linalg.det(x)


# --- attention


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
    """x: [batch, heads, length, size], or [batch, length, heads * size]. Caches: a row for each position, else token."""
    heads = x if x.ndim == 4 else x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    turned = rotary_embedding_dim or heads.shape[-1]
    turning, rest = heads[..., :turned], heads[..., turned:]
    if positions is not None:
        cosine, sine = cosine[positions], sine[positions]
    cosine, sine = cosine[..., : turned // 2].unsqueeze(1), sine[..., : turned // 2].unsqueeze(1)
    one, two = (turning[..., 0::2], turning[..., 1::2]) if interleaved else turning.chunk(2, -1)
    real, imaginary = cosine * one - sine * two, sine * one + cosine * two
    joined = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    out = torch.cat([joined, rest], -1)
    return out if x.ndim == 4 else out.transpose(1, 2).flatten(-2)


@op("Attention")
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *,
    is_causal: int = 0,
    q_num_heads: int | None = None,
    kv_num_heads: int | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    qk_matmul_output_mode: int = 0,
    call: Call,
) -> Tensor | tuple[Tensor, ...]:
    """softmax(q k' scale + mask) v, for each head; [batch, heads, length, size], or [batch, length, heads * size]."""
    if call.outputs > 3 or softmax_precision is not None:
        raise Unsupported("its scores as an output, or a precision for its softmax")
    flat = q.ndim == 3
    if flat:
        q, k, v = _heads(q, q_num_heads), _heads(k, kv_num_heads), _heads(v, kv_num_heads)
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    present = k, v
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    root = (1 / q.shape[-1] ** 0.5 if scale is None else scale) ** 0.5
    scores = torch.matmul(q * root, (k * root).transpose(-1, -2))
    if is_causal:
        behind = 0 if past_key is None else past_key.shape[2]
        scores = scores + _causal(scores, behind)
    if mask is not None:
        scores = scores + _additive(mask, scores)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    out = torch.matmul(torch.softmax(scores, -1), v)
    out = out.transpose(1, 2).flatten(-2) if flat else out
    return out if call.outputs == 1 else (out, *present)[: call.outputs]


def _heads(x: Tensor, heads: int | None) -> Tensor:
    return x.unflatten(-1, (heads or 1, -1)).transpose(1, 2)


def _causal(scores: Tensor, behind: int) -> Tensor:
    """-inf for what comes later. behind: how many keys are older than the first query."""
    queries, keys = (torch.arange(size, device=scores.device) for size in scores.shape[-2:])
    later = keys[None, :] > queries[:, None] + behind
    return torch.zeros_like(later, dtype=scores.dtype).masked_fill(later, float("-inf"))


def _additive(mask: Tensor, scores: Tensor) -> Tensor:
    """Of a mask of bools or of summands; keys that it does not reach are left out."""
    if mask.dtype is torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, float("-inf"))
    missing = scores.shape[-1] - mask.shape[-1]
    return torch.nn.functional.pad(mask, (0, missing), value=float("-inf")) if missing > 0 else mask


# --- integers; exact in float64 up to 2**53, which no CUDA kernel for integers is needed for


@op("MatMulInteger")
def matmul_integer(
    a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    left, right = a.to(torch.float64), b.to(torch.float64)
    if a_zero_point is not None:
        left = left - (a_zero_point[:, None] if a_zero_point.ndim == 1 and a_zero_point.numel() > 1 else a_zero_point)
    if b_zero_point is not None:
        right = right - b_zero_point
    return torch.matmul(left, right).to(torch.int32)
