"""Which `nn.Module` the weights belong to."""
