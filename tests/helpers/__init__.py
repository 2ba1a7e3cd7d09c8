"""Helpers shared by several test files, by subject; fixtures are in conftest.py."""
