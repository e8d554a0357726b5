"""One page of the catalogue, and the papers that the pages cite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """What somebody should know who has never heard of it.

    Attributes:
        code: Its stable identity (``"GW102"``).
        name: The kind's or the cause's name (``"vanishing"``).
        title: What it is, in one line.
        what: What happened.
        where: In which part of the model, and which layers are named.
        why: How it comes about, and why it does harm.
        what_to_do: Steps, the most helpful first.
        not_a_fault: When to leave it as it is.
        see: Codes of other pages.
        paper: Who has described it: authors, year, title, venue. Kinds have their causes' papers.
    """

    code: str
    name: str
    title: str
    what: str
    where: str
    why: str
    what_to_do: tuple[str, ...]
    not_a_fault: str
    see: tuple[str, ...]
    paper: str = ""

    @property
    def text(self) -> str:
        """All that it says in its own words."""
        return "\n".join((self.title, self.what, self.where, self.why, *self.what_to_do, self.not_a_fault))


BA_2016 = "J. L. Ba, J. R. Kiros, G. E. Hinton (2016): Layer normalization. arXiv:1607.06450"
BENGIO_1994 = (
    "Y. Bengio, P. Simard, P. Frasconi (1994): Learning long-term dependencies with gradient descent is difficult. "
    "IEEE Transactions on Neural Networks 5(2)"
)
CHO_2014 = (
    "K. Cho et al. (2014): Learning phrase representations using RNN encoder-decoder for statistical machine "
    "translation. EMNLP"
)
CLEVERT_2016 = (
    "D.-A. Clevert, T. Unterthiner, S. Hochreiter (2016): Fast and accurate deep network learning by exponential "
    "linear units (ELUs). ICLR"
)
GLOROT_2010 = (
    "X. Glorot, Y. Bengio (2010): Understanding the difficulty of training deep feedforward neural networks. AISTATS"
)
GOLDBERG_1991 = (
    "D. Goldberg (1991): What every computer scientist should know about floating-point arithmetic. ACM Computing "
    "Surveys 23(1)"
)
GOLIK_2013 = (
    "P. Golik, P. Doetsch, H. Ney (2013): Cross-entropy vs. squared error training: a theoretical and experimental "
    "comparison. Interspeech"
)
GOYAL_2017 = "P. Goyal et al. (2017): Accurate, large minibatch SGD: training ImageNet in 1 hour. arXiv:1706.02677"
HE_2015 = (
    "K. He, X. Zhang, S. Ren, J. Sun (2015): Delving deep into rectifiers: surpassing human-level performance on "
    "ImageNet classification. ICCV"
)
HE_2016 = "K. He, X. Zhang, S. Ren, J. Sun (2016): Deep residual learning for image recognition. CVPR"
HE_2016_IDENTITY = "K. He, X. Zhang, S. Ren, J. Sun (2016): Identity mappings in deep residual networks. ECCV"
HENDRYCKS_2016 = "D. Hendrycks, K. Gimpel (2016): Gaussian error linear units (GELUs). arXiv:1606.08415"
HOCHREITER_1991 = "S. Hochreiter (1991): Untersuchungen zu dynamischen neuronalen Netzen. Diploma thesis, TU München"
HOCHREITER_1997 = "S. Hochreiter, J. Schmidhuber (1997): Long short-term memory. Neural Computation 9(8)"
HOWARD_2018 = "J. Howard, S. Ruder (2018): Universal language model fine-tuning for text classification. ACL"
HU_2022 = "E. J. Hu et al. (2022): LoRA: low-rank adaptation of large language models. ICLR"
IOFFE_2015 = (
    "S. Ioffe, C. Szegedy (2015): Batch normalization: accelerating deep network training by reducing internal "
    "covariate shift. ICML"
)
JOZEFOWICZ_2015 = (
    "R. Jozefowicz, W. Zaremba, I. Sutskever (2015): An empirical exploration of recurrent network architectures. ICML"
)
KALAMKAR_2019 = "D. Kalamkar et al. (2019): A study of BFLOAT16 for deep learning training. arXiv:1905.12322"
KINGMA_2015 = "D. P. Kingma, J. Ba (2015): Adam: a method for stochastic optimization. ICLR"
KROGH_1992 = (
    "A. Krogh, J. A. Hertz (1992): A simple weight decay can improve generalization. Advances in Neural Information "
    "Processing Systems 4"
)
LECUN_1998 = (
    "Y. LeCun, L. Bottou, G. B. Orr, K.-R. Müller (1998, again 2012): Efficient BackProp. In: Neural Networks: Tricks "
    "of the Trade. Springer"
)
LOSHCHILOV_2019 = "I. Loshchilov, F. Hutter (2019): Decoupled weight decay regularization. ICLR"
LOSHCHILOV_2017 = "I. Loshchilov, F. Hutter (2017): SGDR: stochastic gradient descent with warm restarts. ICLR"
LU_2020 = (
    "L. Lu, Y. Shin, Y. Su, G. E. Karniadakis (2020): Dying ReLU and initialization: theory and numerical examples. "
    "Communications in Computational Physics 28(5)"
)
MAAS_2013 = (
    "A. L. Maas, A. Y. Hannun, A. Y. Ng (2013): Rectifier nonlinearities improve neural network acoustic models. ICML "
    "Workshop on Deep Learning for Audio, Speech and Language Processing"
)
MICIKEVICIUS_2018 = "P. Micikevicius et al. (2018): Mixed precision training. ICLR"
MISHKIN_2016 = "D. Mishkin, J. Matas (2016): All you need is a good init. ICLR"
PASCANU_2013 = "R. Pascanu, T. Mikolov, Y. Bengio (2013): On the difficulty of training recurrent neural networks. ICML"
PASZKE_2019 = "A. Paszke et al. (2019): PyTorch: an imperative style, high-performance deep learning library. NeurIPS"
SAXE_2014 = (
    "A. M. Saxe, J. L. McClelland, S. Ganguli (2014): Exact solutions to the nonlinear dynamics of learning in deep "
    "linear neural networks. ICLR"
)
SHAZEER_2017 = (
    "N. Shazeer et al. (2017): Outrageously large neural networks: the sparsely-gated mixture-of-experts layer. ICLR"
)
SMITH_2017 = "L. N. Smith (2017): Cyclical learning rates for training neural networks. WACV"
VASWANI_2017 = "A. Vaswani et al. (2017): Attention is all you need. NeurIPS"
ZHANG_2019 = (
    "H. Zhang, Y. N. Dauphin, T. Ma (2019): Fixup initialization: residual learning without normalization. ICLR"
)
