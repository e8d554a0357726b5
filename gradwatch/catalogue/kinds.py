"""The pages of the alarms."""

from __future__ import annotations

from gradwatch.catalogue.page import Page

KINDS: tuple[Page, ...] = (
    Page(
        code="GW101",
        name="exploding",
        title="The gradients are far too large",
        what="The gradients have become far larger than is usual for this run, or they are so large from the start "
        "that one step replaces the weights in place of improving them. Or they grow from layer to layer, or from "
        "time step to time step, on their way back from the loss. Or the loss falls far below zero, and ever faster: "
        "it has no lowest value.",
        where="The layers whose gradients are farthest above their own usual size are named, the worst first. Where "
        "the signal grows from layer to layer, these are the first layers of the model.",
        why="The backward pass multiplies one factor for each layer it goes through. Where these factors are above "
        "1, the product grows exponentially with the number of layers. A step along such a gradient lands far away "
        "from everything that was learnt, and the loss often becomes NaN soon after.",
        what_to_do=(
            "Look at the first cause that the alarm names: it holds the numbers of your run.",
            (
                "Clip the gradients: gradwatch.watch(model, clip=gradwatch.ClipNorm(1.0)). It keeps a single bad "
                "step from doing harm, but it does not repair weights that are too large."
            ),
            "Lower the learning rate, or let it warm up over the first few hundred steps.",
            "Check the initialisation and the scale of the inputs.",
            "Where the loss sinks without end, check the sign of each of its terms.",
        ),
        not_a_fault="A loss below zero is none by itself. Single spikes are ordinary in many trainings and raise no "
        "alarm. If large gradients come with every epoch on purpose, such as after a change of data, suppress the "
        "alarm with a reason.",
        see=("GW102", "GW203", "GW207", "GW211", "GW251", "GW282", "GW284"),
    ),
    Page(
        code="GW102",
        name="vanishing",
        title="The learning signal does not reach the first layers",
        what="The gradients become smaller and smaller on their way back from the loss, until the first layers "
        "receive next to nothing. They stay as they were initialised, although the loss may still fall, because the "
        "last layers still learn. Or the signal breaks off at one place, or fades from time step to time step.",
        where="The layers that receive too little are named, the weakest first. They are compared with the layers "
        "nearest to the loss at the same step. Where it fades through time, the recurrent layer is named.",
        why="The backward pass multiplies one factor for each layer it goes through. Where these factors are below "
        "1, the product shrinks exponentially: a sigmoid passes on a quarter at most, which leaves less than a "
        "millionth after ten of them.",
        what_to_do=(
            "Use nn.ReLU or nn.GELU between layers in place of nn.Sigmoid or nn.Tanh, with Kaiming initialisation.",
            "Put a normalisation layer after each layer with weights.",
            "Add shortcuts: x = x + block(x).",
            "In a model for sequences, use nn.LSTM or nn.GRU in place of nn.RNN.",
        ),
        not_a_fault="Layers that are frozen, or that begin at zero on purpose (LoRA), are left alone. Where a part "
        "of the model is meant to learn later, suppress the alarm for it with a reason.",
        see=("GW101", "GW201", "GW202", "GW206", "GW207"),
    ),
    Page(
        code="GW103",
        name="nonfinite",
        title="A number is NaN or infinite",
        what="A gradient, a weight or the loss is no longer an ordinary number but NaN or infinite. Whatever is "
        "computed with it becomes NaN too.",
        where="The first layer named is where it sits or where it most probably began. A layer that holds a bad "
        "weight comes first, although every gradient is NaN by then.",
        why="It begins with one operation: a division by zero, a logarithm of zero, a root of zero on the way back, "
        "a number too large for its type, a bad number in the data. One step later it is in the weights, and no "
        "further step can repair a weight that is NaN.",
        what_to_do=(
            "If weights are NaN, go back to a checkpoint from before that step: the run is lost from there on.",
            "Check the batch of that step: torch.isfinite(x).all().",
            "Guard divisions, logarithms and roots: torch.log(p.clamp_min(1e-12)).",
            "In half precision, use bfloat16 in place of float16.",
            (
                "Stop before the step next time: "
                "gradwatch.watch(model, clip=gradwatch.ClipNorm(1.0, error_if_nonfinite=True))."
            ),
        ),
        not_a_fault="Single steps that a GradScaler skips are how it works, and raise no alarm.",
        see=("GW231", "GW241", "GW242", "GW243", "GW244", "GW245"),
    ),
    Page(
        code="GW104",
        name="dead_relu",
        title="Units are switched off for every sample, for good",
        what="Nearly all units of a layer put out exactly zero for every sample that they see. Such a unit passes no "
        "gradient on either, so that it cannot learn its way back: it is dead.",
        where="The layers with the largest share of dead units are named.",
        why="A ReLU makes negative numbers zero, and its slope is zero there. Where the input is negative for all "
        "samples, after a step that was too large or with a large negative bias, nothing ever moves it again.",
        what_to_do=(
            "Lower the learning rate, and let it warm up: a single large step is the usual reason.",
            "Use nn.LeakyReLU(0.01) or nn.GELU in place of nn.ReLU.",
            "Initialise biases with zero, and weights with Kaiming initialisation.",
            "Put a normalisation layer before the activation.",
        ),
        not_a_fault="Some units that are zero for most samples are what ReLU is for. So are units for inputs that "
        "are rare in the data.",
        see=("GW252", "GW253", "GW254", "GW105"),
    ),
    Page(
        code="GW105",
        name="saturation",
        title="Activations sit at their flat ends",
        what="Most values of a sigmoid, a tanh or a softmax lie at the ends, where the curve is flat. There, a "
        "change of the input changes next to nothing, so that next to no gradient comes back. Gates and attention "
        "count too: a shut gate lets nothing new in or out, and attention that is sure looks at one place only.",
        where="The layers with the largest saturated share are named; for a gate or attention that is no layer of its "
        "own, the layer that it is in or comes after.",
        why="The input of the activation is too large: through large weights, large inputs, or training that has "
        "pushed the weights up for long.",
        what_to_do=(
            "Scale the inputs to mean 0 and standard deviation 1.",
            "Use Xavier initialisation, and a normalisation layer before the activation.",
            (
                "Use nn.ReLU or nn.GELU between layers; keep the sigmoid for the last one, inside the loss: "
                "nn.BCEWithLogitsLoss."
            ),
            "Let gates begin half open, with biases of zero.",
            "Divide the scores of attention by the square root of the head's width.",
        ),
        not_a_fault="Gates and attention that have become sure while the model learns well, gates that are open, and "
        "the last layer of a classifier that has learnt its task.",
        see=("GW201", "GW203", "GW221", "GW251", "GW255"),
    ),
    Page(
        code="GW106",
        name="lr_too_high",
        title="The steps are far too large",
        what="Each step changes the weights by so much that it undoes what was learnt: an update is about as large "
        "as the weights themselves, the loss rises far above where it began, steps stay large while the loss does not "
        "get better, or everything blew up right after the learning rate had leapt up.",
        where="It is about the whole model; the weights that change most are named first.",
        why="The gradient tells the right direction only nearby. A step that is too long lands on the other side of "
        "the valley, higher than before, where the gradient is larger still.",
        what_to_do=(
            "Lower the learning rate: the alarm says by how much. A factor of 10 is a good first try.",
            "Let it warm up over the first few hundred steps.",
            (
                "Try several rates over two orders of magnitude for a few hundred steps each, and take a third of "
                "the largest that still learns."
            ),
            "After a leap, look at the schedule: epochs given where steps are meant, or a missing factor.",
        ),
        not_a_fault="Bold steps with which the loss goes down raise no alarm.",
        see=("GW211", "GW213", "GW101", "GW107"),
    ),
    Page(
        code="GW107",
        name="stalled",
        title="The weights do not move, or the model learns nothing by it",
        what="For many steps the weights have changed by next to nothing, and the loss has not become better "
        "either. Or the weights do move, and the loss is still where it began. The training runs, but learns nothing.",
        where="It is about the whole model: even the layer that moves most hardly moves, or all of them move in vain.",
        why="The step is learning rate times gradient, after clipping and after what the optimizer makes of it. One "
        "of these is tiny, or the change is lost when the weight is rounded. Weights that move in vain follow "
        "gradients that do not agree: labels that do not belong to their samples, inputs that are all alike, a loss "
        "that cannot tell good from bad.",
        what_to_do=(
            (
                "Raise the learning rate: the alarm says by how much. An update of about a thousandth of the "
                "weights is usual."
            ),
            "Look at the schedule: it may have come to zero long before the end.",
            "Raise or remove max_norm where gradients are clipped at every step.",
            "Leave eps of Adam at 1e-8, and keep weights in float32.",
            "Standardise targets that are far from 1: prices, years, counts.",
            (
                "If the weights move, look at the data: print a few samples with their labels, and check that a "
                "shuffle keeps the two together."
            ),
            "Let the model learn ten samples by heart. If it cannot, the fault is in the model or in the loss.",
        ),
        not_a_fault="Small updates of weights that are trained already are left alone, and so is a loss that "
        "fluctuates too much to show whether it falls. A training that has reached its end stands still, too.",
        see=("GW212", "GW223", "GW233", "GW251", "GW281", "GW283", "GW285"),
    ),
    Page(
        code="GW108",
        name="disconnected",
        title="A part of the model gets no gradient at all",
        what="Some weights are meant to be trained but have no gradient, or have one and no optimizer that uses it. "
        "They stay as they are for the whole training.",
        where="The layers that are cut off are named.",
        why="The loss does not depend on them, because the graph was cut on the way (detach, .item(), .data, numpy, "
        "torch.no_grad, an argmax), because something multiplies what comes out of them by zero, or because they were "
        "never handed to the optimizer.",
        what_to_do=(
            "Look for detach(), .data, .item(), numpy() and torch.no_grad() between that layer and the loss.",
            "Check that forward() uses what the layer gives, in every step.",
            "Check that the optimizer was made from model.parameters() after the layer was added.",
            "If it is meant to rest, say so: requires_grad_(False).",
        ),
        not_a_fault="Experts and branches that are used now and then, layers that forward() never calls, and layers "
        "that are unfrozen later.",
        see=("GW271", "GW272", "GW261", "GW262"),
    ),
    Page(
        code="GW109",
        name="input_scale",
        title="The inputs are far too large, too small or too uneven",
        what="The numbers that go into the model are very large or very small, or some features are thousands of "
        "times as large as others.",
        where="The first layer, which reads the data, is named.",
        why="The gradient of a weight is proportional to its input. With inputs in the thousands the first layer's "
        "gradient is thousands of times larger than the others', and no learning rate suits all of them. A small "
        "feature beside a large one has next to no say.",
        what_to_do=(
            (
                "Subtract the mean of each feature and divide by its standard deviation, both taken from the "
                "training data."
            ),
            "Divide images by 255.",
            "Take the logarithm of what spans many orders of magnitude, such as prices or counts.",
        ),
        not_a_fault="A model whose first layer is a normalisation layer scales its inputs itself.",
        see=("GW221", "GW101", "GW105"),
    ),
    Page(
        code="GW110",
        name="data_outlier",
        title="One single batch is far off",
        what="A batch had a loss hundreds of times and a gradient thousands of times the usual, although the step "
        "before was an ordinary one and the learning rate had not changed. Or its gradient alone leapt up, and the "
        "loss has been worse ever since.",
        where="It is not in the model but in the data of this step. The layers with the largest gradients are named.",
        why="The weights were good a moment ago, so that only what they were shown can have changed: a corrupt "
        "sample, metres in place of kilometres in one file, a missing division, a label far out of range.",
        what_to_do=(
            "Look at the batch of that step: its largest input and its largest target.",
            (
                "Clip the gradients, so that one batch cannot do much harm: "
                "gradwatch.watch(model, clip=gradwatch.ClipNorm(1.0))."
            ),
            "If the loss does not come back, go on from the checkpoint before it.",
        ),
        not_a_fault="Data with rare extreme values that matter, such as insurance claims. Then clip, or use a loss "
        "that does not square them, such as nn.HuberLoss.",
        see=("GW222", "GW243", "GW282"),
    ),
)
"""One page for every kind of incident, in the order of their codes."""
