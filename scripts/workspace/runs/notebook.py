"""A notebook, read from disk once: what runs is what was checked, whatever happens to the file meanwhile."""

import ast
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesson import parameters
from lesson.parameters import Parameter

from workspace.base import cli
from workspace.base.cli import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode

TAG = "parameters"
"""The cell with this tag holds the parameters and their defaults."""
WHOLE_MACHINE = "whole-machine"
"""With this tag, too, it says that a run takes all GPUs and CPUs: one is made at a time."""


@dataclass(frozen=True)
class Notebook:
    """The notebook that `path` held when it was read."""

    path: Path  # absolute
    text: str

    @classmethod
    def read(cls, path: Path) -> "Notebook":
        """The notebook at `path`. Raises UserError where there is none that can be run."""
        try:
            found = cls(path.absolute(), path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"there is no {path} here", cli.BAD_INPUT) from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}", cli.BAD_INPUT) from error
        except ValueError as error:
            raise UserError(f"{path} is not a notebook: {error}", cli.BAD_INPUT) from error
        language = found.content.get("metadata", {}).get("kernelspec", {}).get("language", "python")
        if language != "python":
            raise UserError(f"{path} is written in {language}; only Python notebooks can be run", cli.BAD_INPUT)
        return found

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @cached_property
    def content(self) -> dict[str, Any]:
        """Its JSON. Raises UserError where it is broken."""
        try:
            content = json.loads(self.text)
        except ValueError as error:
            raise UserError(f"{self.path} is not a notebook: {error}", cli.BAD_INPUT) from error
        if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
            raise UserError(f"{self.path} is not a notebook of format 4: it has no list of cells", cli.BAD_INPUT)
        if not all(isinstance(cell, dict) and {"cell_type", "source"} <= cell.keys() for cell in content["cells"]):
            raise UserError(f"{self.path} is a broken notebook: a cell has no type or no source", cli.BAD_INPUT)
        return content

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Its parameters by name, in their order; none where no cell is tagged. Raises UserError for a broken cell."""
        if not (cell := self._parameters_cell):
            return {}
        try:
            return parameters.read(_annotated("".join(cell["source"])))
        except (SyntaxError, ValueError) as error:
            raise UserError(
                f"the parameters cell of {self.path} cannot be read: {error}. "
                "Write one `name: type = value` a line, each value plain",
                cli.BAD_INPUT,
            ) from error

    @property
    def takes_whole_machine(self) -> bool:
        """Whether nothing else is to run beside it."""
        return bool(self._parameters_cell) and WHOLE_MACHINE in self._parameters_cell["metadata"]["tags"]

    @property
    def _parameters_cell(self) -> dict[str, Any] | None:
        for cell in self.content["cells"]:
            if cell["cell_type"] == "code" and TAG in cell.get("metadata", {}).get("tags", []):
                return cell
        return None

    @property
    def kernel(self) -> str | None:
        """The kernel that it asks for."""
        return self.content.get("metadata", {}).get("kernelspec", {}).get("name")

    @cached_property
    def digest(self) -> str:
        """What tells its code and text from those of another notebook; outputs that are cleared change nothing."""
        sources = [(cell["cell_type"], "".join(cell["source"])) for cell in self.content["cells"]]
        return _digest(json.dumps(sources))

    def had(self, digest: str) -> bool:
        """Whether this was the notebook that `digest` was taken of; an older workspace took it of the whole file."""
        return digest in {self.digest, _digest(self.text)}

    def node(self) -> "NotebookNode":
        """A copy for papermill. Raises UserError where it breaks the format."""
        import nbformat  # its import takes a while, and bad input need not wait for it

        try:
            return nbformat.reads(self.text, as_version=4)
        except (ValueError, nbformat.ValidationError) as error:
            raise UserError(f"{self.path} is a broken notebook: {str(error).splitlines()[0]}", cli.BAD_INPUT) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _annotated(source: str) -> str:
    """Write each plain `epochs = 3` as `epochs: int = 3`, so that older notebooks are understood, too."""
    lines = source.encode().splitlines()  # ast counts bytes
    for statement in reversed(ast.parse(source).body):  # from the end, so that positions stay true
        if isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
            try:
                kind = type(ast.literal_eval(statement.value)).__name__
            except ValueError:
                continue  # computed from something, so not for anybody to set
            line = lines[target.lineno - 1]
            lines[target.lineno - 1] = (
                line[: target.end_col_offset] + f": {kind}".encode() + line[target.end_col_offset :]
            )
    return b"\n".join(lines).decode()
