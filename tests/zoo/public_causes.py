"""Which first cause is right for each faulty scenario of the shared public corpus, whose own table has none.

Read off what the scenario does, not off what gradwatch says of it.
"""

from __future__ import annotations

from collections.abc import Mapping

_STACK = ("saturating_activations", "no_normalisation", "no_shortcuts")
_SMALL = ("small_weights", "no_normalisation", "no_shortcuts")
_LARGE = ("large_weights", "no_normalisation")

PUBLIC_CAUSES: Mapping[str, tuple[str, ...]] = {
    "adam_eps_1e3": ("eps_too_large",),
    "adam_lr_1e-7_cnn": ("lr_too_low",),
    "all_zero_init": ("zero_weights",),
    "attention_unscaled_logits": ("unscaled_logits", "large_weights"),
    "clip_1e-6": ("clipping_too_small",),
    "cnn14_no_norm": _SMALL,
    "dead_relu_hot_start": ("lr_too_high", "dead_by_learning_rate"),
    "dead_relu_late": ("dead_by_bias",),
    "dead_relu_negative_bias": ("dead_by_bias",),
    "detached_encoder": ("cut_graph",),
    "forgot_zero_grad": ("gradients_pile_up",),
    "fp16_activation_overflow": ("half_precision_overflow",),
    "fp16_static_scale_overflow": ("half_precision_overflow",),
    "gru_adam_lr_1_clipped": ("lr_too_high",),
    "inf_in_one_batch": ("nonfinite_input",),
    "linear_product100_exploding": _LARGE,
    "log_zero_entropy": ("domain_operation",),
    "lr_jump_at_80": ("lr_jumped",),
    "mlp_sgd_lr_30": ("lr_too_high",),
    "mse_saturated_sigmoid": ("large_weights", "unsuited_loss"),
    "nan_born_in_block2": ("domain_operation",),
    "outlier_batch_1e8": ("one_bad_batch",),
    "pixels_0_255": ("unscaled_inputs",),
    "relu_mlp10_big_init": _LARGE,
    "residual_tower_no_norm": _LARGE,
    "rnn_recall_small_radius": ("long_recurrence",),
    "rnn_relu_big_radius": ("long_recurrence",),
    "sgd_lr_1e-6": ("lr_too_low",),
    "sigmoid_cnn8": _STACK,
    "sigmoid_mlp12": _STACK,
    "sqrt_zero_distance": ("domain_operation",),
    "tanh15_small_init": _SMALL,
    "tanh_raw_features": ("unscaled_inputs",),
    "transformer_adam_lr_0.3": ("lr_too_high",),
    "vae_exp_logvar_overflow": ("domain_operation",),
    "zero_over_zero_cosine": ("domain_operation",),
}
