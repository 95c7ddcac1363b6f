"""The dashboard: run records through an Arrow index into one payload, which a page, W&B and matplotlib show."""
