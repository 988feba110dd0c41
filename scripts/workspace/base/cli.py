"""What every command shares: one style of help, of errors and of exit codes.

Exit codes: 0 done, 1 it failed, 2 bad input (nothing was started), 130 interrupted with Ctrl-C.
"""

import argparse
import contextlib
import errno
import gc
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

BAD_INPUT = 2

# What a machine does to a program that is right: it gets a line, everything else its traceback.
_MACHINES_FAULTS = {errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS}


class UserError(Exception):
    """What is wrong and what to do about it, in one line that the command prints before it exits with `exit_code`."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def _render_traceback_(self) -> list[str]:
        """Show the message alone in a notebook, too."""
        return [str(self)]


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # as Python 3.14 has it: -1e-3 is a number, too

    def _get_nargs_pattern(self, action: argparse.Action) -> str:
        # A name and a value that may begin with a dash, as papermill's -p takes them.
        return "([AO][AO])" if action.nargs == 2 else super()._get_nargs_pattern(action)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)", BAD_INPUT)


def path(text: str) -> Path:
    """A path on the command line. The commands cannot name the class themselves: old Pythons lack it."""
    return Path(text)


def say(line: str) -> None:
    """Print a line for the person at the terminal, at once, whatever the output is connected to."""
    print(line, flush=True)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Packages that are imported in this block are not searched for garbage, now or at the end: that takes longer."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def run(
    description: str,
    main: Callable[[argparse.Namespace], int | None],
    arguments: Callable[[argparse.ArgumentParser], None] = lambda _: None,
    enter: Callable[[], None] | None = None,
) -> NoReturn:
    """Read the command line as `arguments` defines it, call `main` with it, and exit with the code that fits.

    `description`, the command's own docstring, is its help, line breaks kept. Where `main` needs the workspace's
    packages, `enter` goes where they are; help and a wrong command line are answered before. What the command does not
    know is refused, unless `arguments` gives it a default for `others`, which then holds it.
    """
    name = sys.argv[0].rpartition("/")[2]
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    try:
        arguments(parser)
        options, others = parser.parse_known_args()
        if others and "others" not in options:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        if others:
            options.others = others
        if enter:
            enter()
        code = main(options)
        gc.freeze()  # see importing
        sys.exit(code)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (`| head`) has gone; nobody is left to tell, and Python's own flush at exit must not try.
        sys.stdout = None
        sys.exit(0)
    except OSError as error:
        if error.errno not in _MACHINES_FAULTS:
            raise
        print(f"{name}: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
