"""Benchmarks: how fast the stages run, how they scale, and what federating costs."""
