"""Operations as suspects: what people call them, and how easily each makes something non-finite of finite values."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradwatch._probes.saved import Finding, HiddenError, saved_tensors
from gradwatch._transfer import look, on_host


class Risk(enum.IntEnum):
    """How easily an operation makes something non-finite of finite values."""

    NONE = 0
    SUM = 1
    """Only where very many or very large values add up."""
    OVERFLOW = 2
    """Only where the result is larger than the largest number."""
    UNKNOWN = 3
    HIGH = 4
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
    "attention": "ScaledDotProductFlashAttentionForCpu ScaledDotProductFlashAttention "
    "ScaledDotProductEfficientAttention ScaledDotProductCudnnAttention",
    "logsumexp": "Logsumexp Logcumsumexp Logaddexp",
}
_OVERFLOWING = {
    "matrix product": "Mm Addmm Bmm Baddbmm Addbmm Mv Addmv Dot Vdot Addr Linear MkldnnLinear SparseAddmm Bilinear",
    "convolution": "Convolution ConvolutionOverrideable SlowConv2D ThnnConv2D MkldnnConvolution ConvDepthwise2D",
    "recurrent layer": "MkldnnRnnLayer CudnnRnn ThnnFusedLstmCell ThnnFusedGruCell",
    "normalisation": "NativeLayerNorm NativeBatchNorm NativeGroupNorm CudnnBatchNorm FusedRmsNorm RmsNorm InstanceNorm",
    "norm": "LinalgVectorNorm Norm LinalgMatrixNorm Cdist Dist",
    "multiplication": "Mul Addcmul Prod Cumprod",
    "mean squared error": "MseLoss",
    "smooth L1 loss": "SmoothL1Loss HuberLoss",
    "negative log-likelihood": "NllLoss NllLoss2D NllLossNd",
    "binary cross-entropy": "BinaryCrossEntropy BinaryCrossEntropyWithLogits",
    "divergence": "KlDiv",
}
_ADDING = {"addition": "Add", "subtraction": "Sub Rsub", "sum": "Sum Cumsum", "mean": "Mean"}
_TABLES = ((Risk.HIGH, _HIGH), (Risk.UNKNOWN, _MASKED), (Risk.OVERFLOW, _OVERFLOWING), (Risk.SUM, _ADDING))
_KNOWN = {name: (words, risk) for risk, table in _TABLES for words, names in table.items() for name in names.split()}

MASKING = frozenset({"MaskedFill", "Where", "LogSoftmax", "Softmax", "SafeSoftmax", "Add", "Sub", "MaskedScatter"})
"""Operations through which minus infinity goes on purpose: a mask, and what comes right behind it."""

_CLEANING = (
    "Where MaskedFill MaskedScatter MaskedSelect NanToNum Clamp ClampMin ClampMax Maximum Minimum Max Min Amax Amin "
    "Index IndexSelect Gather Topk Fmax Fmin Nansum IndexPut"
)
CLEANING = frozenset(_CLEANING.split())
"""Operations behind which a non-finite value may be gone."""


def in_words(name: str) -> str:
    """What people call an operation (``"Div"``: ``"division"``); a name that is not known in lower case."""
    if name.startswith("Checkpoint"):
        return "checkpointed block"
    return _KNOWN[name][0] if name in _KNOWN else name.lower()


def risk_of(name: str, node: Any, *, masked: bool) -> Risk:
    """How easily this operation makes something non-finite, given that what can be seen of its arguments is in order.

    Args:
        name: What it does.
        node: Its node.
        masked: Whether a mask may have been applied right before: a softmax is at a loss where all is masked.
    """
    if name not in _KNOWN:
        is_custom = isinstance(node, torch.autograd.function.BackwardCFunction)
        return Risk.UNKNOWN if is_custom else Risk.NONE
    risk = _KNOWN[name][1]
    if risk is Risk.UNKNOWN and not masked and not name.startswith("Scaled"):
        return Risk.NONE
    return Risk.OVERFLOW if risk is Risk.HIGH and _arguments(name, node) is not None else risk


@torch.no_grad()
def born_by(name: str, node: Any) -> Finding:
    """What the arguments that an operation has saved must lead to; FINITE where they are in order or not known."""
    arguments = _arguments(name, node)
    if not arguments:
        return Finding.FINITE
    try:
        return _DOMAINS[name](node, arguments)
    except (RuntimeError, KeyError, TypeError):
        return Finding.FINITE


def _arguments(name: str, node: Any) -> dict[str, Tensor] | None:
    """The saved arguments of an operation whose domain is known; None where they cannot be seen."""
    if name not in _DOMAINS:
        return None
    try:
        saved = {key: tensor.detach() for key, tensor in saved_tensors(node)}
    except (HiddenError, RuntimeError):
        return None
    is_readable = all(on_host(t) and not t.is_complex() and t.layout is torch.strided for t in saved.values())
    needed = {"Div": {"other"}, "Mul": {"self", "other"}}.get(name, {"self"})
    return saved if is_readable and needed <= saved.keys() else None


def _any(condition: Tensor) -> bool:
    return bool(look(condition.any()))


def _division(_node: Any, saved: dict[str, Tensor]) -> Finding:
    if "self" not in saved:
        return Finding.INF if _any(saved["other"] == 0) else Finding.FINITE
    return _made_of(saved["self"] / saved["other"], saved["self"], saved["other"])


def _product(_node: Any, saved: dict[str, Tensor]) -> Finding:
    return _made_of(saved["self"] * saved["other"], saved["self"], saved["other"])


def _power(node: Any, saved: dict[str, Tensor]) -> Finding:
    exponent = node._saved_exponent  # noqa: SLF001 - autograd's own name for it
    return _made_of(saved["self"] ** exponent, saved["self"]) if isinstance(exponent, (int, float)) else Finding.FINITE


def _made_of(result: Tensor, *arguments: Tensor) -> Finding:
    """What a result holds that its arguments do not: NaN of numbers, or infinity of finite ones."""
    numbers, finite = ~torch.isnan(arguments[0]), torch.isfinite(arguments[0])
    for argument in arguments[1:]:
        numbers, finite = numbers & ~torch.isnan(argument), finite & torch.isfinite(argument)
    if _any(torch.isnan(result) & numbers):
        return Finding.NAN
    return Finding.INF if _any(torch.isinf(result) & finite) else Finding.FINITE


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
    "Mul": _product,
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
