"""Training: one epoch and one validation as plain functions, and the central trainer around them."""
