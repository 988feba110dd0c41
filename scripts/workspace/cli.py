"""What every command shares: one style of help, of errors and of exit codes.

Exit codes: 0 done, 1 it failed, 2 bad input (nothing was started), 130 interrupted with Ctrl-C.
"""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

BAD_INPUT = 2


class UserError(Exception):
    """What is wrong and what to do about it, in one line that the command prints before it exits with `exit_code`."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)", BAD_INPUT)


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser whose help is the command's own docstring, line breaks kept, and whose errors are one line."""
    return _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)


def say(line: str) -> None:
    """Print a line for the person at the terminal, at once, whatever the output is connected to."""
    print(line, flush=True)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main` and exit with the code that fits how it ended."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"{sys.argv[0].rpartition('/')[2]}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (`| head`) has gone; nobody is left to tell, and Python's own flush at exit must not try.
        sys.stdout = None
        sys.exit(0)
