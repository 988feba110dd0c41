"""Found before the real debugger by the kernels of runs: nobody debugs those, and its import takes 0.4 CPU seconds."""

raise ImportError("a run by scripts/run or scripts/sweep has no debugger; debug the notebook in the lab")
