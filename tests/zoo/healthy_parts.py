"""Healthy runs in which parts are frozen, unused, copied, rarely used, or play against one another."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data, models
from zoo.core import Batch, Registry, Run, Turn
from zoo.faulty_signal import lora, zero_ends
from zoo.recipes import on_digits, optimizer, pretrained, rebuild

SCENARIOS = Registry()


class Backbone(nn.Module):
    """A body and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = models.Stack([64, 64, 48], "gelu"), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(torch.tanh(self.body(x)))


def staged(seed: int, how: str, at: int = data.FOREVER) -> Run:
    """A trained body under a new head: frozen, or not in the optimizer, for good or until step ``at``."""
    model = pretrained(Backbone(), seed)
    model.head = nn.Linear(48, 10)
    run = on_digits(seed, model, "adam", 3e-3)
    frozen = how in ("frozen", "thawed")
    if frozen:
        model.body.requires_grad_(False)
    if how in ("absent", "added"):
        run.optimizer = optimizer(model.head.parameters(), "adam", 3e-3)
    if how == "no_grad":
        model.body.forward = torch.no_grad()(model.body.forward)
        run.optimizer = optimizer(model.head.parameters(), "adam", 3e-3)

    def act(step: int) -> None:
        if step == at and frozen:
            model.body.requires_grad_(True)
        elif step == at:
            run.optimizer.add_param_group({"params": model.body.parameters(), "lr": 3e-4})

    run.before_step = act
    return run


class Deputy(nn.Module):
    """A net and a copy of it that follows slowly."""

    def __init__(self, net: nn.Module, *, trainable: bool) -> None:
        super().__init__()
        self.online, self.target = net, copy.deepcopy(net).requires_grad_(trainable)

    def follow(self, keep: float) -> None:
        """Move the copy a little."""
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)


def q_learning(seed: int, *, hard: bool) -> Run:
    """Values of a random walk among digits: reward by class, the next state a random image; a slow target network."""
    model = Deputy(models.Stack([64, 64, 3]), trainable=False)
    x, y = data.digits()
    generator = data.rng(seed, 11)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        state, digit = batch
        action = torch.randint(0, 3, (len(state),), generator=generator)
        reward = (digit % 3 == action).float() + 0.3 * torch.randn(len(state), generator=generator)
        with torch.no_grad():
            goal = reward + 0.7 * model.target(state.roll(1, 0)).amax(1)
        return functional.smooth_l1_loss(model.online(state)[torch.arange(len(state)), action], goal)

    run = Run(model, optimizer(model.online.parameters(), "adam", 1e-3), data.batches(x, y, 32, seed), loss)
    run.before_step = lambda step: model.follow(0.0 if step % 40 == 0 else 1.0) if hard else model.follow(0.98)
    return run


def teacher(seed: int, *, trainable: bool) -> Run:
    """A student must agree with its own moving average on noisy images."""
    model = Deputy(models.Stack([64, 64, 10]), trainable=trainable)
    x, y = data.digits()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        noisy = batch[0] + 0.2 * torch.randn_like(batch[0])
        logits = model.online(noisy)
        agree = functional.mse_loss(logits.softmax(1), model.target(batch[0]).detach().softmax(1))
        return functional.cross_entropy(logits, batch[1]) + agree

    run = Run(model, optimizer(model.parameters(), "adam", 3e-3), data.batches(x, y, 64, seed), loss)
    run.before_step = lambda step: model.follow(0.95)
    return run


class Game(nn.Module):
    """A generator and a critic."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = models.Stack([8, 48, 64], "leaky")
        self.critic = models.Stack([64, 48, 1], "leaky")


def game(seed: int, kind: str, lr: float) -> Run:
    """Hinge GAN or Wasserstein GAN with clamped weights on digits, in turns."""
    model = Game()
    one = optimizer(model.critic.parameters(), "rmsprop" if kind == "wasserstein" else "adam", lr)
    two = optimizer(model.generator.parameters(), "rmsprop" if kind == "wasserstein" else "adam", lr)

    def judge(model: nn.Module, batch: Batch) -> Tensor:
        fake = model.generator(torch.randn(len(batch[0]), 8)).detach()
        real, made = model.critic(batch[0]), model.critic(fake)
        if kind == "wasserstein":
            return made.mean() - real.mean()
        return functional.relu(1 - real).mean() + functional.relu(1 + made).mean()

    def make(model: nn.Module, batch: Batch) -> Tensor:
        return -model.critic(model.generator(torch.randn(len(batch[0]), 8))).mean()

    def clamp(step: int) -> None:
        if kind == "wasserstein":
            with torch.no_grad():
                for p in model.critic.parameters():
                    p.clamp_(-0.1, 0.1)

    stream = data.batches(*data.digits(), 64, seed)
    return Run(model, one, stream, judge, before_step=clamp, turns=(Turn(one, judge), Turn(two, make)))


def bandit(seed: int) -> Run:
    """REINFORCE with a moving baseline: the loss says nothing, its gradient does."""
    model = models.Stack([64, 64, 10], "tanh")
    baseline = [0.1]
    generator = data.rng(seed, 12)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        log = model(batch[0]).log_softmax(1)
        action = torch.multinomial(log.detach().exp(), 1, generator=generator)[:, 0]
        reward = (action == batch[1]).float()
        advantage, baseline[0] = reward - baseline[0], 0.9 * baseline[0] + 0.1 * float(reward.mean())
        return -(advantage * log[torch.arange(len(action)), action]).mean()

    return Run(model, optimizer(model.parameters(), "adam", 3e-3), data.batches(*data.digits(), 64, seed), loss)


class Tasks(nn.Module):
    """One body, two heads, of which the second is used once in a while."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.often, self.seldom = models.Stack([64, 64, 32]), nn.Linear(32, 10), nn.Linear(32, 2)

    def forward(self, x: Tensor, *, seldom: bool = False) -> Tensor:
        """Logits of one task."""
        return (self.seldom if seldom else self.often)(torch.relu(self.body(x)))


def tasks(seed: int, every: int) -> Run:
    """Ten classes, and on every n-th batch whether the class is odd."""
    model = Tasks()
    now = [0]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        now[0] += 1
        seldom = now[0] % every == 0
        return functional.cross_entropy(model(batch[0], seldom=seldom), batch[1] % 2 if seldom else batch[1])

    return Run(model, optimizer(model.parameters(), "adam", 3e-3), data.batches(*data.digits(), 64, seed), loss)


class Skipping(models.Residual):
    """Residual blocks that are left out at random while training."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.inlet(x)
        for block in self.blocks:
            if float(torch.rand(())) < 0.6:
                x = x + block(x)
        return self.outlet(x)


class Reverse(torch.autograd.Function):
    """Hands the gradient back with its sign turned."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        """The input."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        """The reversed gradient."""
        return -0.2 * grad


class Adversary(nn.Module):
    """Tells classes, and must not tell inverted images from others."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.domains = models.Stack([64, 64, 32]), nn.Linear(32, 10), models.Stack([32, 16, 2])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of classes and of domains."""
        h = torch.relu(self.body(x))
        return self.classes(h), self.domains(Reverse.apply(h))


def adversary(seed: int) -> Run:
    """Domain-adversarial training."""
    model = Adversary()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inverted = torch.arange(len(batch[0])) % 2
        x = torch.where(inverted[:, None] == 1, 1 - batch[0], batch[0])
        classes, domains = model(x)
        return functional.cross_entropy(classes, batch[1]) + 0.5 * functional.cross_entropy(domains, inverted)

    return Run(model, optimizer(model.parameters(), "adam", 2e-3), data.batches(*data.digits(), 64, seed), loss)


class Rounded(nn.Module):
    """A code that is rounded, with the straight-through gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.net = models.AutoEncoder(2, "gelu")

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction."""
        h = self.net.encoder(x)
        return self.net.decoder(h + (h.round() - h).detach())


def rounded(seed: int) -> Run:
    """An autoencoder with a rounded code."""
    model = Rounded()
    return Run(model, optimizer(model.parameters(), "adam", 3e-3), data.batches(*data.digits(), 64, seed), rebuild)


add = SCENARIOS.healthy
add("ok_frozen_backbone", "no gradients on purpose", staged, how="frozen")
add("ok_backbone_not_in_optimizer", "gradients that nobody uses, on purpose: the body is trained already", staged,
    how="absent")  # fmt: skip
add("ok_backbone_no_grad", "a trained body under no_grad", staged, how="no_grad")
add("ok_thawed_at_60", "layers are unfrozen in mid-run", staged, how="thawed", at=60)
add("ok_group_added_at_60", "a parameter group is added in mid-run", staged, how="added", at=60)
add("ok_lora_zero_b", "the adapters' first factors have zero gradients at first", lora, both=False)
add("ok_zero_head", "a zero head: the body's gradients are zero at step 0", zero_ends, 200, zero=1)
add("ok_q_learning_soft", "a target network that follows slowly, moving targets", q_learning, 250, hard=False)
add("ok_q_learning_hard", "a target network that is copied every 40 steps: the loss jumps", q_learning, 250,
    hard=True)  # fmt: skip
add("ok_mean_teacher", "a moving-average copy without gradients", teacher, trainable=False)
add("ok_mean_teacher_in_optimizer",
    "the copy requires gradients, is in the optimizer, and never gets any, on purpose", teacher,
    trainable=True)  # fmt: skip
add("ok_hinge_gan", "two nets in turns; losses rise and fall", game, 300, "bounded", kind="hinge", lr=1e-3)
add("ok_wasserstein_gan", "critic weights are clamped; the loss is negative", game, 300, "bounded",
    kind="wasserstein", lr=5e-4)  # fmt: skip
add("ok_reinforce", "a loss that says nothing and changes its sign", bandit, 300, "bounded")
add("ok_rare_task", "a head that is used on every 20th step", tasks, 200, every=20)
add("ok_stochastic_depth", "blocks without gradient at random steps",
    lambda seed: on_digits(seed, Skipping(8, 32), "adam", 2e-3), 150)  # fmt: skip
add("ok_experts", "experts that nobody chose have no gradient",
    lambda seed: on_digits(seed, models.Experts(8), "adam", 4e-3), 200)  # fmt: skip
add("ok_gradient_reversal", "two losses pull in opposite directions", adversary, 200)
add("ok_straight_through", "a rounded code with a straight-through gradient", rounded, 150)
