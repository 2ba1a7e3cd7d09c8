"""Training: an epoch and a validation as plain functions, and the central trainer on top of them."""
