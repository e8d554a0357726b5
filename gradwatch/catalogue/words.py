"""The terms that the pages cannot do without, each in one plain sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gradwatch.catalogue.page import Page

_TERMS: tuple[tuple[str, str, str], ...] = (
    ("activation", r"activations?", "what a layer puts out; also the function (ReLU, sigmoid) that bends it"),
    ("Adam", r"Adam\w*", "an optimizer that divides each gradient by its usual size, so that small ones count as well"),
    ("argmax", r"argmax", "the number of the largest element; it has no slope, so that nothing learns through it"),
    ("attention", r"[Aa]ttention", "a layer that weighs, for each element of a sequence, how much all others matter"),
    ("autocast", r"autocast", "PyTorch computes in half precision where that is safe, and keeps float32 weights"),
    ("backward pass", r"backward( pass)?|way back", "computing all gradients, from the loss back to the first layer"),
    ("batch", r"(mini-)?batch(es)?", "the samples that one step learns from"),
    ("BatchNorm", r"BatchNorm", "a normalisation layer that measures mean and spread over the batch"),
    ("bfloat16", r"bfloat16", "half precision with the range of float32 and only about 2 digits"),
    ("bias", r"bias(es)?", "the number that a unit adds to its weighted sum"),
    ("checkpoint", r"checkpoints?", "the state of a training that was saved to a file, to go back to"),
    ("clipping", r"clip(s|ped|ping)?|max_norm", "making gradients smaller that exceed a limit, right before the step"),
    ("cross-entropy", r"cross-entropy", "the usual loss for classes: minus the log of the right class's probability"),
    ("embedding", r"embeddings?", "a table that holds a row of numbers for each word or item: nn.Embedding"),
    ("epoch", r"epochs?", "one pass over all training data, which is many steps"),
    ("eps", r"eps", "a tiny number that Adam adds where it divides, so that it never divides by zero"),
    ("expert", r"experts?", "one of several alternative layers, of which each sample uses only a few"),
    ("feature", r"features?", "one of the numbers that describe a sample, such as a column of a table"),
    ("fine-tuning", r"fine-tun(e|ed|ing)", "training a model further that was trained on other data before"),
    ("float16", r"float16", "half precision with about 3 digits, from 6e-8 to 65,504"),
    ("float32", r"float32", "PyTorch's usual numbers: about 7 digits, up to 3e38"),
    ("forward pass", r"forward( pass)?", "computing the output and the loss from a batch, first layer to last"),
    ("frozen", r"(un)?fr(ozen|eeze)", "kept as it is on purpose: requires_grad is False"),
    (
        "gate",
        r"(forget-)?gates?",
        "a part of a layer that decides how much of a signal passes, between nothing and all",
    ),
    ("gradient", r"gradients?", "for each weight, how the loss changes with it: what training learns from"),
    (
        "GradScaler",
        r"GradScaler",
        "multiplies the loss so that small gradients survive float16, and divides them again",
    ),
    ("graph", r"graphs?", "PyTorch's record of what was computed from what; the backward pass follows it"),
    ("GRU", r"GRU", "a recurrent layer with gates, simpler than an LSTM"),
    ("half precision", r"half precision", "numbers of 16 bits in place of 32: less memory, fewer digits"),
    (
        "head",
        r"heads?",
        "one of several attentions that a layer computes side by side; its width is its vectors' length",
    ),
    ("initialisation", r"initialis\w+", "the random numbers that the weights begin with"),
    ("Kaiming", r"Kaiming", "the initialisation that suits ReLU: torch.nn.init.kaiming_normal_"),
    ("layer", r"layers?", "one stage of the model, such as nn.Linear: it has weights and passes a signal on"),
    ("LayerNorm", r"LayerNorm", "a normalisation layer that measures mean and spread within each sample"),
    ("learning rate", r"learning rates?", "how large a step the optimizer makes for a gradient of a given size"),
    ("learning signal", r"(learning )?signals?", "the gradient as it travels back from the loss through the layers"),
    ("LeakyReLU", r"LeakyReLU", "ReLU that passes on a hundredth of negative numbers in place of nothing"),
    ("GELU", r"GELU", "a smooth relative of ReLU that passes on a little of negative numbers"),
    ("logits", r"logits?", "a classifier's raw outputs, before softmax or sigmoid turns them into probabilities"),
    ("LoRA", r"LoRA", "fine-tuning with two small added matrices A and B, of which B begins at zero"),
    ("loss", r"loss(es)?", "the number that training makes small: how wrong the model is"),
    ("loss scale", r"loss scales?", "the factor by which a GradScaler multiplies the loss"),
    ("LSTM", r"LSTM", "a recurrent layer with gates, through which a signal can pass unchanged for many steps"),
    ("NaN", r"NaN", "not a number: the result of 0/0 and the like; whatever is computed with it is NaN too"),
    ("norm", r"norms?", "the size of many numbers together: the root of the sum of their squares"),
    ("normalisation layer", r"normalisation( layers?)?", "a layer that brings a signal to a common mean and spread"),
    ("optimizer", r"optimizers?", "what changes the weights after each backward pass, such as SGD or Adam"),
    ("outlier", r"outliers?", "a value far from all others"),
    ("queries and keys", r"queries|keys", "the vectors that attention compares: their products are its scores"),
    ("recurrent", r"recurrent|recurrence", "the same layer applied once for every time step of a sequence"),
    ("ReLU", r"ReLU", "an activation that passes positive numbers on and makes negative ones zero"),
    ("residual", r"residuals?", "adding a block's input to its output: a shortcut"),
    ("sample", r"samples?", "one example of the data: an image, a sentence, a row of a table"),
    ("saturated", r"saturat\w+", "at the flat end of an activation, where a change of the input changes nothing"),
    ("schedule", r"schedules?|scheduler", "the plan by which the learning rate changes during training"),
    ("SGD", r"SGD", "the simplest optimizer: weight minus learning rate times gradient"),
    ("shortcut", r"shortcuts?", "a connection past some layers: their input is added to their output"),
    (
        "slope",
        r"slopes?",
        "how much the output changes with the input; the way back multiplies by it, so that 0 lets nothing through",
    ),
    (
        "sigmoid",
        r"[Ss]igmoids?",
        "an S-shaped activation from 0 to 1, flat at both ends; its slope is at most a quarter",
    ),
    ("softmax", r"softmax", "turns raw outputs into probabilities that add up to 1"),
    ("standard deviation", r"standard deviations?", "how far numbers usually lie from their mean"),
    ("tanh", r"tanh", "an S-shaped activation from -1 to 1, flat at both ends"),
    ("unit", r"units?", "one output number of a layer, also called a neuron"),
    (
        "warm-up",
        r"warm-?up|warms? up|warmed up",
        "letting the learning rate rise from near zero during the first steps",
    ),
    ("weight", r"weights?|parameters?", "a number that training changes"),
    ("weight decay", r"weight decay", "making every weight a little smaller at each step, so that none grows for ever"),
    ("Xavier", r"Xavier", "the initialisation that suits tanh and sigmoid: torch.nn.init.xavier_normal_"),
)

WORDS: Mapping[str, str] = {word: meaning for word, _, meaning in _TERMS}
"""Every term that is explained."""

_PATTERNS = {word: re.compile(rf"(?<![\w.])(?:{pattern})(?!\w)", re.IGNORECASE) for word, pattern, _ in _TERMS}


def words_in(page: Page) -> list[tuple[str, str]]:
    """The terms that a page uses, each with its explanation."""
    return [(word, WORDS[word]) for word, pattern in _PATTERNS.items() if pattern.search(page.text)]
