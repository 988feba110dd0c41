"""The process of a kernel that nobody needs yet: it imports what every kernel imports, and waits for its orders."""

import gc
import sys


def main() -> None:
    """Become the kernel that the orders on the socket in place of stdin are for; end where there are none."""
    del sys.path[0]  # this file's folder, which a kernel's modules do not come from
    gc.disable()  # see cli.importing
    import json
    import os
    import runpy
    import socket

    import ipykernel.kernelapp
    import ipykernel.zmqshell  # noqa: F401

    gc.freeze()
    gc.enable()
    with socket.socket(fileno=os.dup(0)) as orders:
        text, descriptors, *_ = socket.recv_fds(orders, 1 << 16, 1)
        while text and not text.endswith(b"\n"):
            more = orders.recv(1 << 16)
            text = more and text + more
    if not text:
        return
    order = json.loads(text)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in (nowhere, 0), (descriptors[0], 1), (descriptors[0], 2):
        os.dup2(descriptor, stream)
    os.close(nowhere)
    os.close(descriptors[0])
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    sys.argv[1:] = order["arguments"]
    sys.path.insert(0, "")  # as `python -m` has it
    runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)


main()
