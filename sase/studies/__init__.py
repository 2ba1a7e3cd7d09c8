"""Experiments over a grid of rows and seeds, judged by one standard of evidence."""
