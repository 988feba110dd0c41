"""The code behind the commands in scripts/, a room for each job; each may import the rooms above it.

base     what every command shares; Python's standard library alone
lab      the server, from its token to its kernels: what runs in the container
host     starts, stops and saves a workspace, in Docker or natively
runs     one run of a notebook
sweeps   many runs, their ranking and their report
bench    measures all of it

The package `lesson`, beside this one, imports none of it. tests/test_rooms.py holds these lines.

This file and the commands are in syntax that old Pythons understand, so that those can say what is needed.
"""

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.stderr.write(
        "{}: Python 3.11, 3.12 or 3.13 is needed, and {} is {}.{}\n".format(
            sys.argv[0].rpartition("/")[2], sys.executable, *sys.version_info[:2]
        )
    )
    sys.exit(2)
