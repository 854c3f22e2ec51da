"""The ANN, read and folded: the same function, before any spikes exist."""
