"""Products of matrices."""

from __future__ import annotations

import torch

from calibrant.engines.torch.ops.registry import Tensor, op


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


@op("MatMulInteger")
def matmul_integer(
    a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    """In float64, which holds the sums exactly, and which every device multiplies."""
    left, right = a.to(torch.float64), b.to(torch.float64)
    if a_zero_point is not None:
        left = left - (a_zero_point[:, None] if a_zero_point.ndim == 1 and a_zero_point.numel() > 1 else a_zero_point)
    if b_zero_point is not None:
        right = right - b_zero_point
    return torch.matmul(left, right).to(torch.int32)
