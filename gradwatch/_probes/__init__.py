"""What is looked at beside gradients and weights: the forward pass, recurrent layers through time, and the graph.

Each file measures one thing and decides nothing. ``schedule`` says when, ``forward`` listens to the modules' calls,
``through_time`` follows recurrent ones (``unroll``, ``fused_rnn``, ``loops``), ``graph`` and what is built on it read
the autograd graph of a told loss (``operations``, ``birthplace``), and ``sighting`` is what comes out of all of them.
"""
