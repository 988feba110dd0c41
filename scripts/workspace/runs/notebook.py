"""A notebook, read from disk once: what runs is what was checked, whatever happens to the file meanwhile."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesson import parameters
from lesson.parameters import Parameter

from workspace.base import cli
from workspace.base.cli import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode

WHOLE_MACHINE = "whole-machine"
"""A notebook whose parameters cell has this tag, too, takes all GPUs and CPUs: one run is made at a time."""


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
        language = found.content["metadata"]["kernelspec"].get("language") or "python"
        if str(language).lower() != "python":
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
        if isinstance(content, dict) and "worksheets" in content:
            content = self._node(self.text)  # of format 3
        if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
            raise UserError(f"{self.path} is not a notebook of format 4: it has no list of cells", cli.BAD_INPUT)
        if not all(
            isinstance(cell, dict) and "cell_type" in cell and isinstance(cell.get("source"), str | list)
            for cell in content["cells"]
        ):
            raise UserError(f"{self.path} is a broken notebook: a cell has no type or no source", cli.BAD_INPUT)
        for part in (content, *content["cells"]):
            part["metadata"] = dict(part.get("metadata") or {})  # some write null
        content["metadata"]["kernelspec"] = content["metadata"].get("kernelspec") or {}
        for cell in content["cells"]:
            cell["metadata"]["tags"] = cell["metadata"].get("tags") or []
        return content

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Its parameters by name, in their order; none where no cell is tagged. Raises UserError for a broken cell.

        What papermill has injected before, into this notebook or the one it was made from, is the default.
        """
        found = dict(self._tagged("parameters"))
        for name, injected in self.injected.items():
            found[name] = replace(found[name], default=injected.default) if name in found else injected
        return found

    @cached_property
    def injected(self) -> dict[str, Parameter]:
        """What a former run of it was given, in the cell that papermill replaces. Raises UserError for a broken one."""
        return self._tagged("injected-parameters")

    @property
    def takes_whole_machine(self) -> bool:
        """Whether nothing else is to run beside it."""
        cell = self._cell("parameters")
        return bool(cell) and WHOLE_MACHINE in cell["metadata"]["tags"]

    def _cell(self, tag: str) -> dict[str, Any] | None:
        cells = (cell for cell in self.content["cells"] if cell["cell_type"] == "code")
        return next((cell for cell in cells if tag in cell["metadata"]["tags"]), None)

    def _tagged(self, tag: str) -> dict[str, Parameter]:
        if not (cell := self._cell(tag)):
            return {}
        try:
            return parameters.read("".join(cell["source"]))
        except SyntaxError as error:
            raise UserError(
                f"the {tag} cell of {self.path} cannot be read: {error}. Write one `name: type = value` a line",
                cli.BAD_INPUT,
            ) from error

    @property
    def kernel(self) -> str | None:
        """The kernel that it asks for."""
        return self.content["metadata"]["kernelspec"].get("name")

    @cached_property
    def digest(self) -> str:
        """What tells its code and text from those of another notebook; outputs that are cleared change nothing."""
        sources = [(cell["cell_type"], "".join(cell["source"])) for cell in self.content["cells"]]
        return _digest(json.dumps(sources))

    def had(self, digest: str) -> bool:
        """Whether this was the notebook that `digest` was taken of; an older workspace took it of the whole file."""
        return digest in {self.digest, _digest(self.text)}

    def require_kernel(self, kernel: str | None = None) -> None:
        """Raise UserError where it breaks the format, or its kernel, or this one in its place, is not installed."""
        from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, NoSuchKernel

        from workspace.runs.kernels import InstalledKernels  # Jupyter's imports, too, take a while

        self.node()
        name = kernel or self.kernel
        hint = "choose another in the lab, or run it with -k python3"
        if name is None:
            raise UserError(f"{self.path} names no kernel; {hint}", cli.BAD_INPUT)
        try:
            InstalledKernels().get_kernel_spec(NATIVE_KERNEL_NAME if name == "python" else name)
        except NoSuchKernel as error:
            raise UserError(f"the kernel {name!r} is not installed here; {hint}", cli.BAD_INPUT) from error

    def node(self) -> "NotebookNode":
        """A copy for papermill. Raises UserError where it breaks the format."""
        return self._node(json.dumps(self.content))

    def _node(self, text: str) -> "NotebookNode":
        import nbformat  # its import takes a while, and bad input need not wait for it

        try:
            return nbformat.reads(text, as_version=4)
        except (ValueError, nbformat.ValidationError) as error:
            raise UserError(f"{self.path} is a broken notebook: {str(error).splitlines()[0]}", cli.BAD_INPUT) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
