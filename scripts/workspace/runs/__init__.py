"""One run of a notebook: its parameters, its kernel, its folder."""
