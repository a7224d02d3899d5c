"""Pickles: the machine, what it makes where nothing runs, and where the file is trusted."""
