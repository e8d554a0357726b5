"""The pages of the causes."""

from __future__ import annotations

import gradwatch.catalogue.page as papers
from gradwatch.catalogue.page import Page

CAUSES: tuple[Page, ...] = (
    # ----------------------------------------------------------------------------------------- architecture and weights
    Page(
        code="GW201",
        name="saturating_activations",
        title="Activations with flat ends weaken the learning signal at every layer",
        what="The layers are joined by sigmoid or tanh activations, which pass on only a part of the learning signal.",
        where="Between the layers that are named and the loss: every such activation on the way back counts.",
        why="An activation passes the signal on in proportion to its slope. A sigmoid's slope is 0.25 at most, so "
        "that ten of them leave less than a millionth. A tanh passes everything on near zero, and little where its "
        "input is large.",
        what_to_do=(
            "Use nn.ReLU or nn.GELU in place of nn.Sigmoid and nn.Tanh between layers, with Kaiming initialisation.",
            "Put a normalisation layer before each activation, so that its input stays near zero.",
            "Add shortcuts past every two layers: x = x + block(x).",
        ),
        not_a_fault="A sigmoid as the very last step (a probability), or as a gate of an LSTM, is in its place.",
        see=("GW102", "GW105", "GW205", "GW206"),
        paper=papers.GLOROT_2010,
    ),
    Page(
        code="GW202",
        name="small_weights",
        title="The weights are too small",
        what="The weights are much smaller than the size at which a layer puts out as strong a signal as it takes in: "
        "they were initialised so, or a weight decay that is too strong has made them so.",
        where="In most layers alike; the alarm names the smallest.",
        why="Each layer weakens the signal by the same factor, forward and backward. Half the right size is a "
        "factor of a thousand after ten layers. Weight decay takes a share of every weight at each step: where it "
        "takes more than the gradients put in, the weights shrink to nothing.",
        what_to_do=(
            "Use Kaiming initialisation for ReLU, Xavier initialisation for tanh and sigmoid.",
            "If the alarm says that they have shrunk, use less weight decay, by a factor of 10 to begin with.",
            "Put a normalisation layer after each layer with weights.",
        ),
        not_a_fault="The last layer of a block with a shortcut may begin at zero or small: the shortcut carries the "
        "signal.",
        see=("GW102", "GW203", "GW204", "GW205"),
        paper=papers.HE_2015,
    ),
    Page(
        code="GW203",
        name="large_weights",
        title="The weights were initialised too large",
        what="The weights are much larger than the size at which a layer puts out as strong a signal as it takes in.",
        where="In most layers alike; the alarm names the largest.",
        why="Each layer makes the signal stronger by the same factor, forward and backward, so that it grows "
        "exponentially with depth. No learning rate is right for such gradients.",
        what_to_do=(
            (
                "Use Kaiming initialisation for ReLU, Xavier initialisation for tanh and sigmoid; do not draw "
                "weights with a fixed standard deviation such as 1."
            ),
            "Put a normalisation layer after each layer with weights.",
            "For unusual layers, run one batch through and divide each layer's weights by the spread of its output.",
        ),
        not_a_fault="Directly before a normalisation layer the size of the weights does not matter.",
        see=("GW101", "GW202", "GW214"),
        paper=papers.MISHKIN_2016,
    ),
    Page(
        code="GW204",
        name="zero_weights",
        title="The weights are all zero",
        what="A layer, or all of them, begins with weights that are exactly zero. Nothing passes through.",
        where="The first layer with such weights is named; all layers before it get a gradient of zero.",
        why="A signal times zero is zero, forward and backward. Even with equal weights that are not zero, all "
        "units of a layer would compute the same and stay the same for ever.",
        what_to_do=(
            "Initialise the weights with random numbers: nn.init.kaiming_normal_(layer.weight).",
            "Look for nn.init.zeros_ or nn.init.constant_ on weights; it is meant for biases.",
        ),
        not_a_fault="The last layer of a block with a shortcut, and the matrix B of LoRA, begin at zero on purpose.",
        see=("GW102", "GW202", "GW261"),
        paper=papers.SAXE_2014,
    ),
    Page(
        code="GW205",
        name="no_normalisation",
        title="A deep model without normalisation layers",
        what="The model has several layers with weights and not one normalisation layer.",
        where="In the whole model.",
        why="Every layer makes the signal a little stronger or weaker. Nothing brings it back to size, so that "
        "small deviations multiply with depth.",
        what_to_do=(
            "Put nn.LayerNorm (or nn.BatchNorm2d between convolutions) after each layer with weights.",
            "Without it, take care of the initialisation, and add shortcuts.",
        ),
        not_a_fault="Shallow models need none, and deep ones can do without where they are initialised for it.",
        see=("GW101", "GW102", "GW206"),
        paper=f"{papers.IOFFE_2015}; {papers.BA_2016}",
    ),
    Page(
        code="GW206",
        name="no_shortcuts",
        title="A very deep model without shortcuts",
        what="Every signal has to pass through all layers one after another: there is no way past any of them.",
        where="In the whole model; the first layers suffer most.",
        why="With a shortcut, x + block(x), the learning signal has a way back that nothing weakens. Without one, "
        "what arrives at the first layers is a product of as many factors as there are layers, and carries little "
        "information even where its size is right.",
        what_to_do=(
            "Add a shortcut past every two layers: x = x + block(x).",
            "Put the normalisation layer inside the block and not on the shortcut.",
        ),
        not_a_fault="Up to about ten layers a model learns well without.",
        see=("GW102", "GW205"),
        paper=f"{papers.HE_2016}; {papers.HE_2016_IDENTITY}; without normalisation: {papers.ZHANG_2019}",
    ),
    Page(
        code="GW207",
        name="long_recurrence",
        title="The same weights are multiplied once for every time step",
        what="A recurrent layer reads a long sequence, and the learning signal fades or grows on its way back "
        "through time.",
        where="In the recurrent layer that is named; what is lost is what happened early in the sequence.",
        why="At each time step the signal is multiplied by the same matrix. After a hundred steps a factor of 0.9 "
        "has become 0.00003, and a factor of 1.1 has become 14,000.",
        what_to_do=(
            "Use nn.LSTM or nn.GRU in place of nn.RNN: their gates let a signal pass unchanged.",
            "Clip the gradients where they grow: gradwatch.watch(model, clip=gradwatch.ClipNorm(1.0)).",
            "Cut long sequences into shorter ones; begin an LSTM with a forget-gate bias of 1.",
        ),
        not_a_fault="Where only the last few time steps matter, it does not harm that early ones are forgotten.",
        see=("GW101", "GW102", "GW282"),
        paper=f"{papers.HOCHREITER_1991}; {papers.BENGIO_1994}; {papers.PASCANU_2013}; the remedies: "
        f"{papers.HOCHREITER_1997}; {papers.CHO_2014}; {papers.JOZEFOWICZ_2015}",
    ),
    # ---------------------------------------------------------------------------------------------------- learning rate
    Page(
        code="GW211",
        name="lr_too_high",
        title="The learning rate is too high",
        what="The weights and the gradients are of a usual size, but the steps are too long: each one replaces much of "
        "what the weights held.",
        where="In the whole model, at the optimizer's setting.",
        why="A step is learning rate times gradient (for Adam about the learning rate itself). An update "
        "of a thousandth of the weights is usual; beyond a tenth, ten steps forget what was learnt.",
        what_to_do=(
            (
                "Lower the learning rate by the factor that the alarm names. 0.001 is a good start for Adam, 0.1 to "
                "0.01 for SGD."
            ),
            "Let it warm up over the first few hundred steps.",
            "Clip the gradients, if only some steps are too large.",
        ),
        not_a_fault="Weights that begin near zero are replaced by their first updates, as they should be.",
        see=("GW106", "GW213", "GW282"),
        paper=f"{papers.GOYAL_2017}; {papers.SMITH_2017}",
    ),
    Page(
        code="GW212",
        name="lr_too_low",
        title="The learning rate is too low",
        what="Each step changes the weights by far less than is usual, and nothing else takes the step away.",
        where="In the whole model, at the optimizer's setting.",
        why="A step is learning rate times gradient. An update of a thousandth of the weights is usual; at a "
        "millionth the training would need a thousand times as long.",
        what_to_do=(
            "Raise the learning rate by the factor that the alarm names.",
            "Try several rates over two orders of magnitude for a few hundred steps each.",
            "Look at the schedule: it may start at zero or end too early.",
        ),
        not_a_fault="In fine-tuning, small steps are meant, and the weights are good already.",
        see=("GW107", "GW281", "GW283", "GW285"),
        paper=papers.SMITH_2017,
    ),
    Page(
        code="GW213",
        name="lr_jumped",
        title="The learning rate has leapt up",
        what="The learning rate rose many times over within a few steps, and right after that training blew up. "
        "Before, nothing was amiss.",
        where="In the schedule, not in the model.",
        why="A model that has settled at a small rate is thrown out of what it has learnt by a large one. Usual "
        "reasons: a schedule told in epochs where steps are meant, a restart, a missing factor after a resume.",
        what_to_do=(
            "Print the learning rate of every step and look at the schedule at that place.",
            "Let the rate rise slowly where it has to rise.",
            "Go on from a checkpoint from before the leap.",
        ),
        not_a_fault="A schedule with restarts to a rate at which the run was well before raises no alarm.",
        see=("GW106", "GW211"),
        paper=papers.GOYAL_2017,
    ),
    Page(
        code="GW214",
        name="growing_weights",
        title="The weights have grown during training",
        what="The weights began at a sound size and have become larger and larger since.",
        where="The layers that have grown most are named.",
        why="Nothing holds them back. As they grow, activations saturate, signals become stronger at every layer, "
        "and a softmax becomes so sure that it stops learning.",
        what_to_do=(
            "Use weight decay: torch.optim.AdamW(model.parameters(), weight_decay=0.01).",
            "Lower the learning rate.",
            "Put a normalisation layer after the layers that grow.",
        ),
        not_a_fault="Weights before a normalisation layer may grow without harm. So may a classifier's last layer, "
        "slowly.",
        see=("GW101", "GW105", "GW203"),
        paper=f"{papers.KROGH_1992}; {papers.LOSHCHILOV_2019}",
    ),
    # ------------------------------------------------------------------------------------------------------------- data
    Page(
        code="GW221",
        name="unscaled_inputs",
        title="The inputs were not scaled",
        what="The data go into the model as they come: hundreds, millions, millionths, or some features large and "
        "others small.",
        where="At the first layer, which reads the data.",
        why="The gradient of a first-layer weight is proportional to its input. With large inputs these gradients "
        "are large whatever the loss, and where features differ in size no learning rate suits all of them.",
        what_to_do=(
            "Subtract the mean of each feature and divide by its standard deviation, both from the training data.",
            "Divide images by 255; take the logarithm of prices and counts.",
            "Scale large targets in the same way, and scale predictions back.",
        ),
        not_a_fault="Token numbers for an embedding are no quantities, and a first normalisation layer scales by "
        "itself.",
        see=("GW109", "GW105", "GW101"),
        paper=papers.LECUN_1998,
    ),
    Page(
        code="GW222",
        name="one_bad_batch",
        title="One bad batch",
        what="Loss and gradient leapt up from one step to the next, at the same learning rate and after an ordinary "
        "update: only the batch was new.",
        where="In the data of the step that is named.",
        why="One sample is enough: a corrupt file, a missing division, metres for kilometres, a target far out of "
        "range. A loss that squares the error makes an error of a hundred count ten thousand times.",
        what_to_do=(
            "Look at that batch: x.abs().max(), y.abs().max().",
            "Clip the gradients at about twice their usual norm.",
            "Use a loss that does not square outliers, such as nn.HuberLoss.",
            "Go on from the checkpoint before, if the update has spoilt the weights.",
        ),
        not_a_fault="Data in which rare extreme values are real and matter.",
        see=("GW110", "GW243", "GW282"),
        paper=papers.PASCANU_2013,
    ),
    Page(
        code="GW223",
        name="unscaled_targets",
        title="The targets were not scaled",
        what="The model is to give numbers far from the size that a fresh model gives: prices, years or counts in the "
        "hundreds and thousands.",
        where="At the output: the loss is a squared error, and it was a thousand or more at first.",
        why="A fresh model's outputs are about 1. An optimizer like Adam moves each weight by about the learning rate "
        "in a step, whatever the error is, so that it takes thousands of steps just to reach the size of the targets.",
        what_to_do=(
            (
                "Subtract the targets' mean and divide by their standard deviation, both from the training data; scale "
                "predictions back."
            ),
            "Take the logarithm of prices and counts.",
            "Start the last layer's bias at the targets' mean.",
        ),
        not_a_fault="A loss that is summed over a batch, and not averaged, is large without any such cause; but it "
        "falls.",
        see=("GW107", "GW221", "GW222"),
        paper=papers.LECUN_1998,
    ),
    # -------------------------------------------------------------------------------------------------------- precision
    Page(
        code="GW231",
        name="half_precision_overflow",
        title="A number was too large for float16",
        what="Numbers in float16 end at 65,504. A larger one became infinite.",
        where="In the layer that is named, or in what was computed right before it.",
        why="Sums over many elements, squares, exponentials and unscaled losses exceed that easily. What is "
        "infinite soon becomes NaN: infinity minus infinity.",
        what_to_do=(
            "Use bfloat16, which has the range of float32: torch.autocast('cuda', dtype=torch.bfloat16).",
            "Keep float32 weights, and use autocast with a torch.amp.GradScaler.",
            "Compute losses, norms and sums in float32: x.float().sum().",
        ),
        not_a_fault="A GradScaler finds its factor by trying: single overflows that it skips are no fault.",
        see=("GW103", "GW232", "GW234"),
        paper=f"{papers.MICIKEVICIUS_2018}; {papers.KALAMKAR_2019}",
    ),
    Page(
        code="GW232",
        name="half_precision_underflow",
        title="Gradients were too small for float16, and became zero",
        what="A large part of the gradients is exactly zero, because float16 has no number as small as they are.",
        where="In the layers named, mostly the first ones, whose gradients are smallest.",
        why="float16 ends at 6e-8 towards zero. Gradients of a loss that is a mean over many elements are often "
        "smaller.",
        what_to_do=(
            "Use bfloat16, which has the range of float32.",
            "Use a torch.amp.GradScaler: it multiplies the loss, and with it all gradients, before they are rounded.",
            "Keep float32 weights and use autocast for the computation.",
        ),
        not_a_fault="Zeros behind a ReLU are real zeros, and have nothing to do with precision.",
        see=("GW102", "GW107", "GW234"),
        paper=papers.MICIKEVICIUS_2018,
    ),
    Page(
        code="GW233",
        name="rounded_away",
        title="The updates are smaller than the weights' last digit",
        what="The optimizer makes its steps, but the weights stay the same: they are stored in half precision, and "
        "the change is rounded away.",
        where="In all layers whose weights are float16 or bfloat16.",
        why="bfloat16 has about 2 digits: a change of less than a five-hundredth of a weight rounds to none. A "
        "usual update is a thousandth.",
        what_to_do=(
            "Keep the weights in float32, and compute in half precision: torch.autocast.",
            "Or keep a float32 copy of the weights in the optimizer.",
        ),
        not_a_fault="Where only a few steps are large enough to be seen, and the loss still goes down.",
        see=("GW107", "GW212"),
        paper=f"{papers.MICIKEVICIUS_2018}; {papers.GOLDBERG_1991}",
    ),
    Page(
        code="GW234",
        name="loss_scale",
        title="The GradScaler finds no factor that works",
        what="The GradScaler has skipped many steps in a row: at each it found an overflow, halved its factor and "
        "left the weights alone. Nothing is being learnt.",
        where="In no layer in particular: the loss or the gradients are too large or NaN at any factor.",
        why="Each skip halves the loss scale; after twenty it is a millionth of what it was. If it still overflows, "
        "the loss itself is NaN or far too large.",
        what_to_do=(
            "Compute loss and gradients once in float32 without autocast, and check that they are finite.",
            "Use bfloat16 in place of float16: it needs no loss scale.",
            "Look at the inputs and at operations such as log and division.",
        ),
        not_a_fault="A few skips at the beginning, and one now and then.",
        see=("GW103", "GW231", "GW241"),
        paper=papers.MICIKEVICIUS_2018,
    ),
    # ------------------------------------------------------------------------------------------------ non-finite values
    Page(
        code="GW241",
        name="domain_operation",
        title="An operation got a number for which it is not defined",
        what="A division by zero, the logarithm or a power of zero or of a negative number, the square root of a "
        "negative one, or an exponential of a large one gave NaN or infinity.",
        where="In the operation and near the layers that are named.",
        why="Such numbers are rare, but with millions of them one will come. Also on the way back: the slope of a "
        "root is infinite at zero, although its value is fine.",
        what_to_do=(
            (
                "Keep the argument away from the edge: torch.log(p.clamp_min(1e-12)), torch.sqrt(x + 1e-12), x / (y "
                "+ 1e-8)."
            ),
            "Use functions that do it for you: log_softmax, logsumexp, nn.CrossEntropyLoss, nn.BCEWithLogitsLoss.",
            "torch.where does not protect: both branches are computed. Guard the argument itself.",
        ),
        not_a_fault="Masks of minus infinity before a softmax are usual, as long as not all entries are masked.",
        see=("GW103", "GW244", "GW245"),
        paper=papers.GOLDBERG_1991,
    ),
    Page(
        code="GW242",
        name="nonfinite_weight",
        title="A weight is NaN or infinite",
        what="Some weights were no ordinary numbers any more before this step. All that is computed with them is NaN.",
        where="The layer that holds them is named first; the others only follow.",
        why="An earlier step has written NaN into them: a gradient that was NaN, or a step so large that it "
        "overflowed. No further step repairs it, for NaN plus anything is NaN.",
        what_to_do=(
            "Go back to a checkpoint from before that step.",
            "Find what came before: the alarm before this one, or the gradient of the last good step.",
            (
                "Stop before the step next time: "
                "gradwatch.watch(model, clip=gradwatch.ClipNorm(1.0, error_if_nonfinite=True))."
            ),
        ),
        not_a_fault="Never, except in a weight that is used as a mask and not trained.",
        see=("GW103", "GW211", "GW241"),
        paper=papers.GOLDBERG_1991,
    ),
    Page(
        code="GW243",
        name="nonfinite_input",
        title="The data hold NaN or infinity",
        what="What went into the model was not finite already.",
        where="At the first layer, which reads the data; the batch of that step holds it.",
        why="Missing values are often read as NaN, a feature with no spread gives 0/0 when it is scaled, and files "
        "can be corrupt.",
        what_to_do=(
            "Check once over the whole data set: torch.isfinite(x).all().",
            "Fill or drop missing values; add a small number where you divide by a standard deviation.",
            "Put assert torch.isfinite(x).all() in front of the model, while you search.",
        ),
        not_a_fault="Missing values that the model masks before it uses them.",
        see=("GW103", "GW222"),
        paper=papers.GOLDBERG_1991,
    ),
    Page(
        code="GW244",
        name="nonfinite_loss",
        title="The loss itself is NaN or infinite",
        what="The loss was not finite before the backward pass began: it went wrong in the forward pass.",
        where="Somewhere between the data and the loss; the nearest layer is named where it is known.",
        why="A logarithm of zero in the loss, a division by a count of zero, a bad number in the data, an overflow.",
        what_to_do=(
            "Check the batch: torch.isfinite(x).all().",
            "Use losses that take logits: nn.CrossEntropyLoss, nn.BCEWithLogitsLoss.",
            "Guard means over masked elements: sum / count.clamp_min(1).",
        ),
        not_a_fault="Losses that are infinite by definition for impossible targets, such as nn.CTCLoss; it has an "
        "option zero_infinity.",
        see=("GW103", "GW241", "GW243"),
        paper=papers.GOLDBERG_1991,
    ),
    Page(
        code="GW245",
        name="nonfinite_gradient",
        title="The gradient became NaN on the way back",
        what="The loss was finite, and a gradient is not: it went wrong in the backward pass.",
        where="In or right behind the layer that is named first.",
        why="Some functions have a finite value and an infinite slope: a root, a norm or a power at zero. An "
        "infinite slope times zero is NaN.",
        what_to_do=(
            "Look for sqrt, norm and powers at zero: torch.sqrt(x + 1e-12).",
            "Look for torch.where round a division: the branch that is not taken is still computed.",
            "For one run, let PyTorch name the operation: torch.autograd.set_detect_anomaly(True).",
        ),
        not_a_fault="With a GradScaler single steps like that are skipped, and are no fault.",
        see=("GW103", "GW241", "GW231"),
        paper=papers.GOLDBERG_1991,
    ),
    # ---------------------------------------------------------------------------------------------- loss and dead units
    Page(
        code="GW251",
        name="unsuited_loss",
        title="The loss does not suit the last layer",
        what="The last activation and the loss work against each other, so that the model learns least where it is "
        "most wrong. Or the loss has no lowest value, so that training never comes to an end.",
        where="At the very end: the last activation and the loss.",
        why="A squared error behind a sigmoid or a softmax multiplies the error by the slope, which is flat where "
        "the model is sure and wrong. Cross-entropy takes just that slope out again. A softmax in front of "
        "nn.CrossEntropyLoss is taken twice, for that loss takes one itself: all answers then look nearly alike to it. "
        "A loss with a wrong sign is the smaller the larger the weights are, without end.",
        what_to_do=(
            "For classes: no softmax at the end, and nn.CrossEntropyLoss on the logits.",
            "For yes or no: no sigmoid at the end, and nn.BCEWithLogitsLoss.",
            "For quantities: no activation at the end, and nn.MSELoss or nn.HuberLoss.",
            "Check the sign of each term: a likelihood or a distance that is to grow is taken with a minus.",
        ),
        not_a_fault="Where the output must be a probability and the squared error is what is asked for, and the "
        "loss goes down.",
        see=("GW101", "GW105", "GW107", "GW201"),
        paper=papers.GOLIK_2013,
    ),
    Page(
        code="GW252",
        name="dead_by_bias",
        title="Units are dead because of a large negative bias",
        what="The bias pushes the input of the ReLU below zero for every sample, so that the unit is always off.",
        where="In the layers that are named: look at their biases.",
        why="A unit puts out its weighted sum plus its bias. Where the bias is more negative than the sum ever is "
        "positive, ReLU gives zero, its slope is zero, and nothing moves the bias back.",
        what_to_do=(
            "Initialise biases with zero: nn.init.zeros_(layer.bias).",
            "Put a normalisation layer before the activation.",
            "Use nn.LeakyReLU(0.01) or nn.GELU, which pass a little on for negative numbers.",
        ),
        not_a_fault="A few units of many.",
        see=("GW104", "GW253", "GW254"),
        paper=papers.LU_2020,
    ),
    Page(
        code="GW253",
        name="dead_by_learning_rate",
        title="Units died in steps that were too large",
        what="The units were alive, and one or a few large steps have pushed them below zero for every sample.",
        where="In the layers that are named.",
        why="A large step makes weights and bias so negative that the ReLU never opens again; then its slope is "
        "zero and no gradient brings it back.",
        what_to_do=(
            "Lower the learning rate, and let it warm up.",
            "Clip the gradients.",
            "Begin again, or from a checkpoint before: dead units do not recover. nn.LeakyReLU lets them.",
        ),
        not_a_fault="A few units of many.",
        see=("GW104", "GW211", "GW254"),
        paper=papers.MAAS_2013,
    ),
    Page(
        code="GW254",
        name="dead_relu",
        title="Units are dead; what killed them is not known",
        what="ReLUs on the way are off for every sample, so that a gradient of exactly zero arrives in front of them.",
        where="Between the layers that are named and the loss.",
        why="A ReLU whose input is negative puts out zero and has a slope of zero. Where that is so for every "
        "sample, nothing passes, forward or backward, and nothing moves it.",
        what_to_do=(
            "Use nn.LeakyReLU(0.01), nn.ELU or nn.GELU in place of nn.ReLU.",
            "Look for a large negative bias, and for a step with a far too high learning rate before.",
            "Put a normalisation layer before the activation.",
        ),
        not_a_fault="Units that are off for most samples, and on for some.",
        see=("GW104", "GW252", "GW253"),
        paper=f"{papers.LU_2020}; {papers.CLEVERT_2016}; {papers.HENDRYCKS_2016}",
    ),
    Page(
        code="GW255",
        name="unscaled_logits",
        title="The numbers that a softmax gets are too large",
        what="A softmax gives nearly everything to one choice, for most of what it is shown, although it has not "
        "learnt anything yet.",
        where="In the softmax that is named, most often that of an attention layer.",
        why="The softmax is flat where it is sure: a choice that gets everything, or nothing, gets next to no "
        "gradient. Attention scores are sums over the width of a head, and grow with its square root.",
        what_to_do=(
            (
                "Divide attention scores by the square root of the head's width, as "
                "torch.nn.functional.scaled_dot_product_attention does."
            ),
            "Normalise queries and keys.",
            "Look at the scale of the inputs and of the weights before it.",
        ),
        not_a_fault="A model that has learnt its task may be sure.",
        see=("GW105", "GW221", "GW251"),
        paper=papers.VASWANI_2017,
    ),
    # ------------------------------------------------------------------------------------------------- what is no fault
    Page(
        code="GW261",
        name="zero_gradient_structural",
        title="A gradient of zero that follows from how the model is built: no fault",
        what="These weights have a gradient of exactly zero, and that is right.",
        where="In the layers that are named.",
        why="A bias right before BatchNorm is subtracted again. The matrix A of LoRA gets nothing as long as B is "
        "zero, which is so at the first step. An expert that no sample of the batch chose gets nothing either.",
        what_to_do=(
            "Nothing has to be done.",
            "A bias before BatchNorm is of no use and can be left out: nn.Conv2d(..., bias=False).",
            "If an expert is never chosen, add a term to the loss that makes the choices more even.",
        ),
        not_a_fault="It is none.",
        see=("GW108", "GW262"),
        paper=f"{papers.IOFFE_2015}; {papers.HU_2022}; {papers.SHAZEER_2017}",
    ),
    Page(
        code="GW262",
        name="frozen",
        title="Weights that are frozen on purpose: no fault",
        what="These weights do not change, because they were frozen.",
        where="In the layers that are named.",
        why="In fine-tuning, the layers that were trained before often rest at first, so that the new ones do not "
        "spoil them, and are unfrozen one after another.",
        what_to_do=(
            "Nothing has to be done.",
            "If they are meant to learn: requires_grad_(True), and hand them to the optimizer.",
        ),
        not_a_fault="It is none.",
        see=("GW108", "GW261"),
        paper=papers.HOWARD_2018,
    ),
    # ----------------------------------------------------------------------------------------------------------- wiring
    Page(
        code="GW271",
        name="cut_graph",
        title="The loss does not depend on these weights",
        what="No gradient arrives: between these weights and the loss, the graph is cut, or they are not used at all.",
        where="Between the layers that are named and the next ones that have a gradient.",
        why="PyTorch follows what was computed from what. detach(), .data, .item(), numpy(), torch.no_grad(), "
        "torch.tensor(x) and rounding or argmax cut that. So does a forward() that never calls the layer.",
        what_to_do=(
            "Look for these calls between the layer and the loss.",
            "Check that forward() uses the layer, and its output.",
            "Replace argmax by softmax where the choice has to be learnt.",
        ),
        not_a_fault="Targets that are meant to stand still, as in self-supervised learning, are detached on "
        "purpose: then freeze these weights.",
        see=("GW108", "GW272"),
        paper=papers.PASZKE_2019,
    ),
    Page(
        code="GW272",
        name="no_optimizer",
        title="No optimizer changes these weights",
        what="These weights have a gradient, and no optimizer that steps has been given them.",
        where="In the layers that are named.",
        why="An optimizer changes the weights that it was made with. A layer that is added or replaced later (a new "
        "last layer, say) is unknown to it; so is one in a plain Python list.",
        what_to_do=(
            "Make the optimizer after the model is complete: torch.optim.AdamW(model.parameters()).",
            "Add later layers: optimizer.add_param_group({'params': new_layer.parameters()}).",
            "Keep layers in nn.ModuleList and not in a list.",
        ),
        not_a_fault="Parts that another optimizer trains now and then, or that rest on purpose: then freeze them.",
        see=("GW108", "GW271", "GW262"),
        paper=papers.PASZKE_2019,
    ),
    # --------------------------------------------------------------------------------------------------------- settings
    Page(
        code="GW281",
        name="clipping_too_small",
        title="Clipping takes nearly everything away",
        what="Gradients are clipped at every step, to a small part of what they are. The limit has become the "
        "learning rate.",
        where="At the limit: max_norm, or clip_value.",
        why="Clipping is for outliers. A limit far below the usual norm makes every step tiny, and throws away what "
        "the size of the gradient tells.",
        what_to_do=(
            "Set max_norm to about twice the usual norm, which the alarm names.",
            "Check that gradients are unscaled before they are clipped: scaler.unscale_(optimizer).",
        ),
        not_a_fault="Adam divides by the usual size again: with it a small limit does little harm.",
        see=("GW107", "GW282"),
        paper=papers.PASCANU_2013,
    ),
    Page(
        code="GW282",
        name="no_clipping",
        title="A gradient far above the usual went into the step as it was",
        what="The norm was many times the usual one, and nothing limited it.",
        where="In the whole model.",
        why="The loss can have cliffs, at which the gradient is huge for one step. The step throws the weights far "
        "away. With clipping it keeps its direction and loses its size.",
        what_to_do=(
            "Clip at about twice the usual norm: gradwatch.watch(model, clip=gradwatch.ClipNorm(max_norm)).",
            "If most steps reach the limit, the learning rate or the initialisation is the real cause.",
        ),
        not_a_fault="Many trainings need no clipping; it is named only where it would have helped.",
        see=("GW101", "GW281"),
        paper=papers.PASCANU_2013,
    ),
    Page(
        code="GW283",
        name="eps_too_large",
        title="Adam's eps is larger than the gradients",
        what="The optimizer divides every gradient by about the same number, whatever its size: that is eps, which "
        "should be far smaller than any gradient.",
        where="At the optimizer's setting.",
        why="Adam divides by the gradient's usual size plus eps, so that all weights move by about the learning "
        "rate. If eps is larger than the gradients, they are divided by it alone, and the steps become tiny.",
        what_to_do=(
            "Leave eps at its default of 1e-8.",
            "With gradients smaller than that, make the loss larger: a sum in place of a mean.",
        ),
        not_a_fault="Some recipes use eps up to 1 together with a higher learning rate.",
        see=("GW107", "GW212"),
        paper=papers.KINGMA_2015,
    ),
    Page(
        code="GW284",
        name="gradients_pile_up",
        title="The gradients of earlier steps were not cleared",
        what="The gradients grow from step to step, because each backward pass adds to what is there already.",
        where="In the training loop.",
        why="PyTorch adds gradients up, so that several batches can be joined into one step. Without zero_grad() "
        "all batches since the beginning count, most of them for weights that are long gone.",
        what_to_do=(
            "Call optimizer.zero_grad() once for every optimizer.step().",
            "If you join several batches on purpose, clear after each step, and divide the loss by their number.",
        ),
        not_a_fault="Adding up over a fixed number of batches, with a clearing after each step.",
        see=("GW101", "GW211"),
        paper=papers.PASZKE_2019,
    ),
    Page(
        code="GW285",
        name="schedule_at_zero",
        title="The schedule has brought the learning rate to zero",
        what="The learning rate is zero or next to it, while the training goes on.",
        where="In the schedule.",
        why="A schedule that falls to zero over a given number of steps stays there when training lasts longer, or "
        "when it is told in epochs and stepped at every batch.",
        what_to_do=(
            "Print the learning rate of every step.",
            "Give the schedule the number of steps that will really be made.",
            "Step it once an epoch if it was told in epochs.",
        ),
        not_a_fault="At the very end of a training.",
        see=("GW107", "GW212", "GW213"),
        paper=papers.LOSHCHILOV_2017,
    ),
    Page(
        code="GW299",
        name="unknown",
        title="What was measured does not tell the cause",
        what="Something went wrong, and none of the causes that gradwatch knows fits what it has seen.",
        where="As the alarm says; the cause may be anywhere.",
        why="gradwatch names a cause only where numbers of this run support it. A guess would cost you more time "
        "than it saves.",
        what_to_do=(
            "Compare with the last version of the code, the data or the settings that trained well.",
            "Let it see more: tell the loss with watch.loss(loss), and look at every step with every=1.",
            "Make the model learn ten samples by heart. If it cannot, the fault is in the code and not in the data.",
        ),
        not_a_fault="The alarm's own page says when it is none.",
        see=("GW101", "GW102", "GW103"),
    ),
)
"""One page for every cause, in the order of their codes."""
