"""Operations as suspects: what people call them, and how easily each makes something non-finite of finite values."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradwatch._saved import Finding, HiddenError, saved_tensors
from gradwatch._transfer import look, on_host


class Risk(enum.IntEnum):
    """How easily an operation makes something non-finite of finite values."""

    NONE = 0
    OVERFLOW = 1
    """Only where the result is larger than the largest number."""
    UNKNOWN = 2
    HIGH = 3
    """There are ordinary arguments for which it has no finite value."""


_HIGH = {
    "division": "Div Reciprocal Remainder Fmod Addcdiv TrueDivide",
    "logarithm": "Log Log2 Log10 Log1p Xlogy Xlog1Py Logit SpecialXlog1Py SpecialEntr",
    "square root": "Sqrt Rsqrt",
    "power": "Pow FloatPower",
    "exponential": "Exp Exp2 Expm1 Sinh Cosh",
    "arc cosine": "Acos Acosh",
    "arc sine": "Asin",
    "inverse hyperbolic tangent": "Atanh",
    "tangent": "Tan",
    "inverse error function": "Erfinv",
    "gamma function": "Lgamma Digamma Polygamma",
    "standard deviation": "Std StdMean",
    "variance": "Var VarMean",
    "matrix inverse": "LinalgInvEx Inverse LinalgPinv LinalgSolveEx LinalgSolveTriangular",
    "matrix decomposition": "LinalgCholeskyEx LinalgEigh LinalgEig LinalgQr LinalgSvd LinalgLuFactorEx LinalgDet",
}
_MASKED = {
    "softmax": "Softmax SafeSoftmax",
    "log-softmax": "LogSoftmax",
    "attention": "ScaledDotProductFlashAttentionForCpu ScaledDotProductFlashAttention ScaledDotProductEfficientAttention",
    "logsumexp": "Logsumexp Logcumsumexp Logaddexp",
}
_OVERFLOWING = {
    "matrix product": "Mm Addmm Bmm Baddbmm Addbmm Mv Addmv Dot Vdot Addr Linear MkldnnLinear SparseAddmm Bilinear",
    "convolution": "Convolution ConvolutionOverrideable SlowConv2D ThnnConv2D MkldnnConvolution ConvDepthwise2D",
    "recurrent layer": "MkldnnRnnLayer CudnnRnn ThnnFusedLstmCell ThnnFusedGruCell",
    "normalisation": "NativeLayerNorm NativeBatchNorm NativeGroupNorm CudnnBatchNorm FusedRmsNorm RmsNorm InstanceNorm",
    "norm": "LinalgVectorNorm Norm LinalgMatrixNorm Cdist Dist",
    "multiplication": "Mul Addcmul Prod Cumprod",
    "addition": "Add",
    "subtraction": "Sub Rsub",
    "sum": "Sum Cumsum",
    "mean": "Mean",
    "mean squared error": "MseLoss",
    "smooth L1 loss": "SmoothL1Loss HuberLoss",
    "negative log-likelihood": "NllLoss NllLoss2D NllLossNd",
    "binary cross-entropy": "BinaryCrossEntropy BinaryCrossEntropyWithLogits",
    "divergence": "KlDiv",
}
_KNOWN = {
    name: (words, risk)
    for risk, table in ((Risk.HIGH, _HIGH), (Risk.UNKNOWN, _MASKED), (Risk.OVERFLOW, _OVERFLOWING))
    for words, names in table.items()
    for name in names.split()
}

MASKING = frozenset({"MaskedFill", "Where", "LogSoftmax", "Softmax", "SafeSoftmax", "Add", "Sub", "MaskedScatter"})
"""Operations through which minus infinity goes on purpose: a mask, and what comes right behind it."""

CLEANING = frozenset(
    "Where MaskedFill MaskedScatter MaskedSelect NanToNum Clamp ClampMin ClampMax Maximum Minimum Max Min Amax Amin "
    "Index IndexSelect Gather Topk Fmax Fmin Nansum IndexPut".split()
)
"""Operations behind which a non-finite value may be gone."""


def in_words(name: str) -> str:
    """What people call an operation (``"Div"``: ``"division"``); a name that is not known in lower case."""
    return _KNOWN[name][0] if name in _KNOWN else name.lower()


def risk_of(name: str, node: Any) -> Risk:
    """How easily this operation makes something non-finite, given that its arguments have been found in order."""
    if name not in _KNOWN:
        is_custom = isinstance(node, torch.autograd.function.BackwardCFunction)
        return Risk.UNKNOWN if is_custom else Risk.NONE
    risk = _KNOWN[name][1]
    return Risk.OVERFLOW if risk is Risk.HIGH and _arguments(name, node) is not None else risk


def born_by(name: str, node: Any) -> Finding:
    """What the arguments that an operation has saved must lead to; FINITE where they are in order or not known."""
    arguments = _arguments(name, node)
    if not arguments:
        return Finding.FINITE
    try:
        return _DOMAINS[name](node, arguments)
    except (RuntimeError, KeyError, TypeError):
        return Finding.FINITE


@torch.no_grad()
def _arguments(name: str, node: Any) -> dict[str, Tensor] | None:
    """The saved arguments of an operation whose domain is known; None where they cannot be seen."""
    if name not in _DOMAINS:
        return None
    try:
        saved = {key: tensor.detach() for key, tensor in saved_tensors(node)}
    except (HiddenError, RuntimeError):
        return None
    is_readable = all(on_host(t) and t.is_floating_point() and t.layout is torch.strided for t in saved.values())
    key = "other" if name == "Div" else "self"
    return saved if is_readable and key in saved else None


def _any(condition: Tensor) -> bool:
    return bool(look(condition.any()))


def _division(_node: Any, saved: dict[str, Tensor]) -> Finding:
    zero = saved["other"] == 0
    if not _any(zero):
        return Finding.FINITE
    return Finding.NAN if "self" in saved and _any(zero & (saved["self"] == 0)) else Finding.INF


def _power(node: Any, saved: dict[str, Tensor]) -> Finding:
    base, exponent = saved["self"], node._saved_exponent  # noqa: SLF001 - autograd's own name for it
    if not isinstance(exponent, (int, float)):
        return Finding.FINITE
    if exponent != int(exponent) and _any(base < 0):
        return Finding.NAN
    return Finding.INF if exponent < 0 and _any(base == 0) else Finding.FINITE


def _beyond(limit: float, *, at_limit: Finding, low: bool = False) -> Callable[[Any, dict[str, Tensor]], Finding]:
    """NaN beyond a limit, on both sides or (``low``) only below it, and ``at_limit`` right there."""

    def check(_node: Any, saved: dict[str, Tensor]) -> Finding:
        size = -saved["self"] if low else saved["self"].abs()
        if _any(size > limit):
            return Finding.NAN
        return at_limit if at_limit and _any(size == limit) else Finding.FINITE

    return check


_LOGARITHM = _beyond(0.0, at_limit=Finding.BELOW, low=True)
_DOMAINS: dict[str, Callable[[Any, dict[str, Tensor]], Finding]] = {
    "Div": _division,
    "Pow": _power,
    "Log": _LOGARITHM,
    "Log2": _LOGARITHM,
    "Log10": _LOGARITHM,
    "Log1p": _beyond(1.0, at_limit=Finding.BELOW, low=True),
    "Acos": _beyond(1.0, at_limit=Finding.FINITE),
    "Asin": _beyond(1.0, at_limit=Finding.FINITE),
    "Atanh": _beyond(1.0, at_limit=Finding.INF),
    "Acosh": _beyond(-1.0, at_limit=Finding.FINITE, low=True),
}
"""For which arguments an operation has no finite value."""
