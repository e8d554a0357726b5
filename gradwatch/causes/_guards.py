"""Operations that have no finite value, or no finite slope, for some arguments: why, and what guards them."""

from __future__ import annotations

from gradwatch.records import Remedy

GUARDS: dict[str, tuple[str, Remedy]] = {
    "logarithm": (
        "the logarithm of 0 is minus infinity, and of a negative number NaN",
        Remedy("clamp what goes into the logarithm", "then it is never 0", "torch.log(p.clamp_min(1e-12))"),
    ),
    "division": (
        "0/0 is NaN, and any other number over 0 is infinite",
        Remedy("guard the denominator", "then it is never 0", "x / (denominator + 1e-6)   # or .clamp_min(1e-6)"),
    ),
    "square root": (
        "at 0 its slope is infinite, and below 0 it is NaN",
        Remedy("a small number inside the square root", "then its slope stays finite", "torch.sqrt(x + 1e-12)"),
    ),
    "norm": (
        "at 0 it has no slope",
        Remedy(
            "a small number inside the square root of the norm",
            "then its slope stays finite",
            "torch.sqrt(x.square().sum(-1) + 1e-12)",
        ),
    ),
    "negative log-likelihood": (
        "its mean over no samples at all is 0/0",
        Remedy(
            "leave a batch out in which every target is ignored",
            "there is nothing to be learnt from it",
            "if (target != ignore_index).any(): loss.backward()",
        ),
    ),
    "exponential": (
        "it overflows float32 beyond 88",
        Remedy(
            "limit what goes into the exponential: clamp a log-variance, subtract the maximum from logits",
            "then it cannot overflow",
            "log_var.clamp(-10, 10).exp()   # of logits: (x - x.amax(-1, keepdim=True)).exp()",
        ),
    ),
    "power": (
        "a fractional power of a negative number is NaN, a negative one of 0 is infinite, and a large one overflows",
        Remedy("clamp the base", "then the power and its slope stay finite", "x.clamp_min(1e-6) ** exponent"),
    ),
    "standard deviation": (
        "of a single value it is NaN, and of equal values its slope is infinite",
        Remedy(
            "a variance with a small number under the root",
            "it is defined for one value, and for equal ones",
            "(x.var(-1, correction=0) + 1e-12).sqrt()",
        ),
    ),
    "variance": (
        "of a single value it is NaN, because torch divides by n - 1",
        Remedy("divide by n instead", "then it is 0 for a single value", "x.var(-1, correction=0)"),
    ),
    "multiplication": (
        "0 times infinity is NaN, and large factors overflow",
        Remedy(
            "for p * log(p) use torch.special.entr or xlogy",
            "they know that it is 0 where p is 0",
            "-torch.special.entr(p).sum(-1)",
        ),
    ),
}
for _words in ("softmax", "log-softmax", "attention", "logsumexp"):
    GUARDS[_words] = (
        "where a mask leaves nothing at all it has no value",
        Remedy(
            "leave at least one position of every row unmasked, or mask with the smallest finite number",
            "a softmax over nothing is 0/0",
            "scores.masked_fill(mask, torch.finfo(scores.dtype).min)",
        ),
    )
for _words in ("arc cosine", "arc sine", "inverse hyperbolic tangent"):
    GUARDS[_words] = (
        "beyond 1 it is NaN, and at 1 its slope is infinite",
        Remedy(
            "keep what goes into it inside of -1 to 1", "rounding is enough to leave it", "x.clamp(-1 + 1e-6, 1 - 1e-6)"
        ),
    )
"""For each operation in plain words where it is at a loss, and the remedy."""
