"""Many runs: what to try, where, how they rank, and the report."""
