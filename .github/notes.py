"""Print the notes of the release that a tag names, from CHANGELOG.md. Refuses a tag that the checkout is not ready for.

python3 .github/notes.py v1.0.0
"""

import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))
from workspace.base import cli, places  # noqa: E402
from workspace.base.cli import UserError  # noqa: E402


def notes(tag: str) -> str:
    """The section of CHANGELOG.md for `tag`, such as v1.0.0. Raises UserError where it, or the version, is another."""
    if tag != f"v{places.version()}":
        raise UserError(f"the tag is {tag}, and docker/Dockerfile has ARG VERSION={places.version()}", cli.BAD_INPUT)
    sections = re.split(r"(?m)^## ", (REPOSITORY / "CHANGELOG.md").read_text())[1:]
    wanted = [section for section in sections if section.split()[0] == places.version()]
    if not wanted:
        raise UserError(f"CHANGELOG.md has no section '## {places.version()}'", cli.BAD_INPUT)
    return wanted[0].partition("\n")[2].strip()


if __name__ == "__main__":
    cli.run(__doc__, lambda options: cli.say(notes(options.tag)), lambda parser: parser.add_argument("tag"))
