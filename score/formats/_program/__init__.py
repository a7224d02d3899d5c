"""Programs: torch.export graphs and TorchScript, read, checked against the list of operators, and rebuilt."""
