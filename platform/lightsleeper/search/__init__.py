"""Sweeps: one file, run here, on many machines, or by W&B's agents."""
