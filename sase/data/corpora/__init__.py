"""Corpora, a module each: ``download`` fetches or generates one, ``prepare`` writes its data directories."""
