"""The SNN as a Keras model: inputs, layers, and their simulation in one loop."""
