"""The layers and architectures of the network; each is usable on its own.

Complex maps are real tensors (batch, 2 · channels, freq, time), the real half first. A causal layer with a temporal
context takes ``state``, a dict of named tensors (:mod:`sase.nn.streaming`) in which it keeps its cache between calls:
processing a signal block by block then equals one pass. ``state=None`` means that the input is the whole signal.
"""
