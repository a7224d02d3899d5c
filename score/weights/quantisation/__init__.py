"""Ways to quantise weights, a file each: which entries of a state are theirs, and the weights that they stand for."""
