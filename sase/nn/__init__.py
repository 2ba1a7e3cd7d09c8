"""The parts of the network; each is usable alone.

Complex maps are real tensors (batch, 2 · channels, freq, time), the real half first. A layer that looks back in time
takes ``state``: a dict that it reads its past from and leaves its present in, so that a signal fed in blocks gives
what one pass gives. ``state=None`` means that the input is the whole signal.
"""
