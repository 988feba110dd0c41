"""The server, from its token to its kernels: what runs in the container, and natively."""
