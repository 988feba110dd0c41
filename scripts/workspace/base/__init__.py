"""What every command shares, from the standard library alone."""
