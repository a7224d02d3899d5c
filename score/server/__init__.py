"""HTTP, and nowhere else."""
