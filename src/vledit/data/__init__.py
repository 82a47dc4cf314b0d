"""Edits, probes and pictures: what is asked of a model, and where it is read from."""
