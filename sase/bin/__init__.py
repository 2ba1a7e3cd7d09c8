"""The commands: each module here parses options and calls the package, nothing else."""
