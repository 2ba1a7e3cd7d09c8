"""What several test files share, by subject; fixtures are in conftest.py."""
