"""Starts, stops and saves a workspace, in Docker or natively."""
