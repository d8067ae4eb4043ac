"""The tiny model set: real file layouts with small dimensions and random weights, for demo and tests."""
