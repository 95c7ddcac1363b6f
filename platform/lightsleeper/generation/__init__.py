"""Parallel prefill: a prompt's cache of keys and values made by a chain of processes (KV-Runahead)."""
