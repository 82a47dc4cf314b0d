"""Edits, probes and pictures, and the readers of benchmarks and tables."""
