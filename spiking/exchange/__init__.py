"""In and out: what leaves Keras, and what comes from elsewhere."""
