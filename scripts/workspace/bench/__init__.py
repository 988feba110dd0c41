"""Measures the workspace, and makes what measurements and tests need."""
