"""The code behind the commands in scripts/, a room for each job; each may import the rooms above it.

base     what every command shares; Python's standard library alone
lab      the server, from its token to its kernels: what runs in the container
host     starts, stops and saves a workspace, in Docker or natively
runs     one run of a notebook
sweeps   many runs, their ranking and their report
panel    both by clicking, in a notebook's cell
bench    measures all of it
cloud    machines in a cloud; imports base, lab and host, and none imports it

The package `lesson`, beside this one, imports none of it. tests/test_rooms.py holds these lines.

This file and the commands are in syntax that old Pythons understand, and import nothing before this file that those
lack: so they can say what is needed, or go on in another Python.
"""

import os
import subprocess
import sys

_FITTING = [(3, 13), (3, 12), (3, 11)]


def _fitting():
    """A Python on the PATH that fits, the newest; None where there is none."""
    for version in _FITTING:
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
            found = os.path.join(folder, "python{}.{}".format(*version))
            # Asked, not believed: what has the name may be a stand-in for one that is not installed.
            ask = "import sys; sys.exit(sys.version_info[:2] != {})".format(version)
            if os.access(found, os.X_OK):
                with open(os.devnull, "w") as nowhere:
                    if subprocess.call([found, "-c", ask], stdout=nowhere, stderr=nowhere) == 0:
                        return found
    return None


def _require_system():
    """Go on where the workspace can run: in this Python, else in another one. Exits with code 2 where there is none."""
    command = os.path.abspath(sys.argv[0])
    name = os.path.basename(command)
    if os.name == "nt":
        sys.stderr.write(name + ": the workspace runs in Linux and macOS; in Windows, clone it inside of WSL2\n")
        sys.exit(2)
    if os.pathsep in command:
        sys.stderr.write(
            name + ": the name of no folder that the checkout is in may have a colon: PATH cannot hold one\n"
        )
        sys.exit(2)
    if sys.version_info[:2] in _FITTING:
        return
    is_command = os.path.dirname(command) == os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    fitting = _fitting() if is_command else None
    if fitting:
        os.execv(fitting, [fitting] + sys.argv)
    needed = "{}: Python 3.11, 3.12 or 3.13 is needed, and {} is {}.{}\n"
    sys.stderr.write(needed.format(name, sys.executable, *sys.version_info[:2]))
    sys.exit(2)


_require_system()
