"""The process that forks kernels: it imports what every kernel imports, and waits for orders."""

import gc
import os
import sys

_IMPORTS = (
    "ipykernel.kernelapp",
    "ipykernel.zmqshell",
    "ipykernel.debugger",
    "IPython.core.completerlib",
    "IPython.core.oinspect",
    "tornado.platform.asyncio",
)


def main() -> None:
    """Fork a kernel for each order on the socket in place of stdin, one after the other; end where there are none.

    It says there that it is ready, then the kernel's process id, then the status that it ended with.
    """
    del sys.path[0]  # this file's folder, which a kernel's modules do not come from
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # read by ipykernel's import: with that process, kernels end
    sys.modules["debugpy"] = None  # nobody debugs these kernels, and its import takes 0.4 CPU seconds
    gc.disable()  # see cli.importing
    import importlib
    import json
    import runpy
    import select
    import signal
    import socket

    for module in _IMPORTS:
        importlib.import_module(module)

    del sys.modules["debugpy"]
    gc.freeze()
    gc.enable()

    ended, tells = os.pipe()
    os.set_blocking(tells, False)
    with socket.socket(fileno=os.dup(0)) as orders:
        while True:
            signal.signal(signal.SIGCHLD, lambda *_: None)
            signal.set_wakeup_fd(tells)
            orders.sendall(b"ready\n")
            text, descriptors, *_ = socket.recv_fds(orders, 1 << 16, 1)
            while text and not text.endswith(b"\n"):
                more = orders.recv(1 << 16)
                text = more and text + more
            if not text:
                return
            kernel = os.fork()
            if not kernel:
                break
            os.close(descriptors[0])
            while not (done := os.waitpid(kernel, os.WNOHANG))[0]:
                if orders in select.select([orders, ended], [], [])[0]:
                    return  # the command has gone; the kernel will see that this process has, too
                os.read(ended, 1 << 10)
            orders.sendall(b"%d\n" % done[1])
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        orders.sendall(b"%d\n" % os.getpid())
    order = json.loads(text)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in (nowhere, 0), (descriptors[0], 1), (descriptors[0], 2):
        os.dup2(descriptor, stream)
    for descriptor in (nowhere, descriptors[0], ended, tells):
        os.close(descriptor)
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    sys.argv[1:] = order["arguments"]
    sys.path.insert(0, "")  # as `python -m` has it
    runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)


main()
