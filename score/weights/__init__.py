"""Which file, which mapping in it, which keys; and whether it is what it was."""
