"""Measurements of single kernels behind `lightning bench`."""
