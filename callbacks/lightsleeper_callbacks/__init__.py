"""Compression callbacks for any Lightning project."""
