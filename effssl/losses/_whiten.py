"""Whitening of rows by the inverse Cholesky factor of their covariance.

With X of shape (n, D) centered, C = X^T X / (n - 1) + r I, C = L L^T and K = L^-1, the whitened
rows are W = X K^T. Let G be the gradient at W, and P the symmetric matrix whose lower triangle is
that of G^T W. Then the gradient at X is, but for that of the ridge r and of the centering,

    (G - W P / (n - 1)) K

which takes fewer products than the gradients of each step.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Whiten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        ctx.eps, ctx.freedom, dim = eps, x.shape[-2] - 1, x.shape[-1]
        x = x - x.mean(-2, keepdim=True)
        x -= x.mean(-2, keepdim=True)  # what rounding left of rows that are all the same
        # in float64, so that dimensions of little variance are told from rounding
        wide = x.double()
        covariance = (wide.mT @ wide).div_(ctx.freedom)
        variances = covariance.diagonal(dim1=-2, dim2=-1)
        variances += eps * variances.mean(-1, keepdim=True) + 1e-30  # the same rows become 0
        factor = torch.linalg.cholesky_ex(covariance).L  # it does not wait for the device
        identity = torch.eye(dim, dtype=factor.dtype, device=x.device)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False).to(x.dtype)
        white = x @ inverse.mT
        ctx.save_for_backward(x, inverse, white)
        return white

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, inverse, white = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            lower = (grad.mT @ white).tril_()
            turned = (lower + lower.tril(-1).mT) @ inverse  # P K
            ridge = ctx.eps / x.shape[-1] * (turned * inverse).sum((-2, -1), keepdim=True)
            result = grad @ inverse - (white @ turned).addcmul_(x, ridge).div_(ctx.freedom)
        return result.sub_(result.mean(-2, keepdim=True)), None


def whiten(x: Tensor, eps: float) -> Tensor:
    """Whiten rows: center them, and multiply them by the inverse Cholesky factor.

    Rows that are all the same become 0.

    Args:
        x: Rows, shape (..., n, D), n >= 2.
        eps: Ridge added to the covariance, relative to the mean variance.

    Returns:
        The whitened rows, of the same shape; their covariance is I but for the ridge.
    """
    return _Whiten.apply(x, eps)
