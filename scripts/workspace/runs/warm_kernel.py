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
    """Fork a kernel for each order on the socket in place of stdin, until that closes or nothing was to do for long.

    An order brings two descriptors: where the kernel's output goes, and where its process id is told, then, by this
    process, the status that it ended with.
    """
    waits_s = float(sys.argv.pop(1))
    del sys.path[0]  # this file's folder, which a kernel's modules do not come from
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # read by ipykernel's import: with that process, kernels end
    sys.modules["debugpy"] = None  # nobody debugs these kernels, and its import takes 0.4 CPU seconds
    gc.disable()  # see cli.importing
    import contextlib
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

    ended, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    living: dict[int, int] = {}  # where the end of each kernel is told, by its process id
    with socket.socket(fileno=os.dup(0)) as orders:
        while True:
            ready = select.select([orders, ended], [], [], None if living else waits_s)[0]
            if not ready or os.fstat(1).st_size:
                return  # what was said here would be in the kernels' output
            if ended in ready:
                os.read(ended, 1 << 10)
                for kernel in list(living):
                    if (done := os.waitpid(kernel, os.WNOHANG))[0]:
                        with contextlib.suppress(OSError):  # nobody waits for it any more
                            tell(living.pop(kernel), done[1])
            if orders not in ready:
                continue
            text, descriptors, *_ = socket.recv_fds(orders, 1 << 16, 2)
            while text and not text.endswith(b"\n"):
                more = orders.recv(1 << 16)
                text = more and text + more
            if not text:
                return  # the command has gone; the kernels will see that this process has, too
            output, told = descriptors
            kernel = os.fork()
            if not kernel:
                break
            os.close(output)
            living[kernel] = told
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    tell(told, os.getpid())
    order = json.loads(text)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in (nowhere, 0), (output, 1), (output, 2):
        os.dup2(descriptor, stream)
    for descriptor in (nowhere, output, ended, wakes, *living.values()):
        os.close(descriptor)
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    sys.argv[1:] = order["arguments"]
    sys.path.insert(0, "")  # as `python -m` has it
    runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)


def tell(descriptor: int, number: int) -> None:
    """Write the number as a line there, for the last time."""
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{number}\n")


main()
