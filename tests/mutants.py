"""Take out a mechanism that keeps a promise, and see the test of that promise fail; one at a time, in a copy.

    .venv/bin/python tests/mutants.py            all of them, some minutes
    .venv/bin/python tests/mutants.py backup     those with that word in their names

Exit code 1 if a test passes although what it tests is gone, or if what is to be taken out is not there any more.
"""

import os
import sys
import tempfile
from pathlib import Path

from workspace.base import programs
from workspace.bench.measuring import copy_of_checkout

MUTANTS: dict[str, list[tuple[str, str, str, str]]] = {
    "scripts/workspace/lab/access.py": [
        ("an empty token", "test_access", "if not token:", "if False:"),
        ("a short token", "test_access", "if len(token) < _SHORTEST:", "if False:"),
    ],
    "docker/jupyter_server_config.py": [
        ("any token", "test_server", "if not self._is_token(self.get_token(handler)):", "if False:"),
        ("an old login", "test_server", 'b"login cookie:" + TOKEN.encode()', 'b"login cookie"'),
        ("a kernel on ports", "test_server", 'transport = "ipc"', 'transport = "tcp"'),
        ("a silent run", "test_activity silent_run", "app.io_loop.add_callback(activity.watch, app)", "pass"),
        ("another site", "test_hardening native and another_site", 'allow_origin = ""', 'allow_origin = "*"'),
        ("hidden files", "test_hardening native and hidden", "allow_hidden = False", "allow_hidden = True"),
        ("a stranger's gigabyte", "test_limits stranger", "app.io_loop.add_callback(limits.guard, app)", "pass"),
        ("an unread terminal", "test_limits program_in", "c.TerminalsExtensionApp.terminal_manager_class", "_"),
        ("a cell nobody reads", "test_limits kernel_says", "c.ServerApp.kernel_manager_class", "_"),
        ("a large picture", "test_limits picture", '"websocket_max_message_size": limits.LARGEST_MESSAGE,', ""),
        ("a start that frightens", "test_server frightens", 'filterwarnings("ignore"', 'filterwarnings("default"'),
    ],
    "scripts/workspace/lab/serve.py": [
        ("the token in kernels", "test_server", ' if not name.startswith("JUPYTER_TOKEN")', ""),
        ("a planted module", "test_hardening plants", '"-P", ', ""),
        (
            "an unread setting",
            "test_hardening cannot_be_read",
            'CONFIG_FILE_ERROR"] = "1"',
            'CONFIG_FILE_ERROR"] = "0"',
        ),
        ("what a kill leaves", "test_contents killed", "    remove_unfinished(places.work())\n", ""),
    ],
    "scripts/workspace/lab/preflight.py": [
        ("a clock that is wrong", "test_hardening_lab told_at_start", "found.append(clock(", "(clock("),
    ],
    "scripts/workspace/lab/deaths.py": [
        ("a kill that explains no death", "test_hardening_lab explains_no_death", " and now > before:", ":"),
    ],
    "scripts/lesson/words.py": [
        ("a stale translation", "test_lesson_translations what_changed", " and not entry.fuzzy}", "}"),
    ],
    "scripts/workspace/lab/seed.py": [
        ("an edited lesson", "test_seed", "if there is not None and not {", "if False and not {"),
        ("a lesson that was only opened", "test_seed", 'json.loads(content)["cells"]', "json.loads(content)"),
    ],
    "scripts/workspace/lab/archive.py": [
        ("a backup cut short", "test_backup not_right", "    if left_out is None:\n", "    if False:\n"),
        ("a damaged backup", "test_backup not_right", "while unzipped.read(_PIECE):", "while False:"),
        ("a backup of a shrinking file", "test_backup changes_while", '.ljust(size, b"\\0")', ""),
        ("a backup that climbs out", "test_backup not_right", 'or ".." in parts ', ""),
        ("a backup with devices", "test_backup not_right", " or not member.isreg()", ""),
        ("a backup without a word", "test_backup cannot_be_read", "onerror=cannot_read", "onerror=None"),
        ("a backup of a moving file", "test_backup changes_while", "if _same(path.lstat(), before):", "if True:"),
        (
            "a restore cut short",
            "test_backup killed_at",
            "link(place, kept, follow_symlinks=False)",
            "rename(place, kept)",
        ),
        ("two restores at once", "test_backup two_restores", "LOCK_EX | fcntl.LOCK_NB", "LOCK_SH"),
    ],
    "scripts/workspace/lab/contents.py": [
        (
            "saves that overtake",
            "test_contents saves_of_one",
            "self._locks.setdefault(self._place(path), asyncio.Lock())",
            "asyncio.Lock()",
        ),
        ("a checkpoint in place", "test_contents full_disk", "_copy(src, str(new))", "_copy(src, dest)"),
        ("an upload in place", "test_contents upload", "_file(str(upload.aside)", "_file(place"),
        ("a killed copy", "test_contents copy_of_a_folder", "aside = beside(copy)", "aside = copy"),
        ("a chunk out of order", "test_contents chunk", "chunk not in (upload.chunks + 1, _LAST_CHUNK)", "False"),
        ("uploads that mix", "test_contents two_uploads", "if before and (wait :=", "if False and (wait :="),
    ],
    "scripts/workspace/base/files.py": [
        ("a long name", "test_contents long", "UNFINISHED + secrets.token_hex(8)", 'f".{file.name}.new"'),
        ("a start that looks everywhere", "test_contents look_through", ", _MOST_FOLDERS)", ", None)"),
    ],
    "scripts/lesson/download.py": [
        ("another archive of images", "test_cifar10 flipped", "if sha256(part) == archive.sha256:", "if True:"),
    ],
    "scripts/lesson/cifar10.py": [
        ("code in an archive of images", "test_cifar10 pickle", "if (module, name) not in self._KNOWN:", "if False:"),
    ],
    "notebooks/first_pytorch_classifier.ipynb": [
        ("too good an accuracy", "test_lesson come_out_again", "test_accuracy = right", "test_accuracy = 0.1 + right"),
    ],
    "scripts/workspace/sweeps/ranking.py": [
        ("a sweep's luckiest seed", "test_ranking luckiest", "items() if name != SEED}", "items()}"),
        ("a sweep's highest loss", "test_ranking less_of", '{"loss", "error", "seconds"}', "set()"),
        ("a sweep's formula", "test_ranking formula", 'cell.startswith(("=",', 'cell.startswith(("?",'),
        ("a sweep's images exchanged", "test_ranking exchanged", ', self.metrics.get("dataset_digest")]', "]"),
    ],
    "scripts/workspace/sweeps/execution.py": [
        (
            "a sweep of two notebooks",
            "test_sweep edited",
            "Job(self._notebook,",
            "Job(Notebook.read(self._notebook.path),",
        ),
    ],
    "scripts/workspace/sweeps/sweep.py": [
        ("a sweep rerun in part", "test_sweep interrupted_rerun", "notebook_digest):  #", "notebook_digest) and 0:  #"),
        ("a sweep with a run missing", "test_sweep damaged", "plan.runs.items() if plan else ()", "()"),
        ("a sweep's old ranking", "test_sweep ranked_anew", "ranked_so and ", ""),
    ],
    "scripts/workspace/runs/progress.py": [
        ("a sweep's time left", "test_sweep counts_down", "if left != self._left:", "if True:"),
    ],
    "scripts/workspace/sweeps/tpe.py": [
        ("a sweep's failures forgotten", "test_sweep tpe_makes", "self._study.enqueue_trial(trial.params)", "pass"),
    ],
    "scripts/workspace/runs/background.py": [
        ("a sweep whose terminal closes", "test_sweep under_nohup", "!= signal.SIG_IGN:", "is not None:"),
    ],
    "scripts/workspace/host/address.py": [
        (
            "metadata that drips",
            "test_address waited_for",
            "thread.join(max(0, give_up - time.monotonic()))",
            "thread.join()",
        ),
    ],
    "scripts/workspace/host/installer.py": [
        (
            "the other build of PyTorch",
            "test_venv cpu_after_cuda",
            "other_build = [] if _name(wheels) in made else",
            "other_build = [] if 1 else",
        ),
    ],
    "scripts/workspace/host/backup.py": [
        ("two backups to one name", "test_backup to_one_name", ".{secrets.token_hex(3)}.part", ".part"),
    ],
    "scripts/workspace/runs/cells.py": [
        ("a run's pipe", "test_run a_pipe", "executed.unlink(missing_ok=True)  #", "pass  #"),
        ("a cell at its limit", "test_run widgets", "raise CellTimeoutError  #", "pass  #"),
    ],
    "scripts/workspace/runs/warm.py": [
        ("a kernel ahead of its orders", "test_run started_ahead", '"environment": differing', '"environment": {}'),
        ("a kernel ahead that ends", "test_run started_ahead", "buffering=0)", "buffering=-1)"),
    ],
    "scripts/workspace/runs/warm_kernel.py": [
        ("a kernel ahead in another folder", "test_run started_ahead", "os.chdir(", "str("),
        ("a kernel ahead for ever", "test_run started_ahead", "None if living else waits_s", "None"),
    ],
    "scripts/workspace/runs/kernels.py": [
        ("a kernel ahead that died", "test_run started_ahead", "if process is None:", "if False:"),
        ("a cell with widgets", "test_run widgets", "self.socket.get(zmq.EVENTS)", "pass"),
        ("output not read yet", "test_run nobody_reads", "if manager.ipykernel", "if False"),
    ],
    "scripts/workspace/runs/folders.py": [
        ("a folder that is claimed", "test_run two_runs_into", "if not record.sweep:", "if False:"),
        ("drawn shapes", "test_run substitute", '"on drawn shapes" if', '"" if'),
    ],
    "scripts/workspace/runs/notebook.py": [
        ("an injected value", "test_run injected_before", "in self.injected.items()", "in ()"),
    ],
    "scripts/workspace/runs/reading.py": [
        ("metrics that are none", "test_run that_are_none", "if not stat.S_ISREG(", "if not ("),
    ],
    "scripts/workspace/panel/still.py": [
        ("a panel's page of HTML", "test_panel runs_nothing", "{html.escape(text)}", "{text}"),
    ],
    "scripts/workspace/panel/panel.py": [
        ("a panel's lost removal", "test_panel removed_and", "ending.take_back(place)", "pass"),
    ],
    "scripts/workspace/panel/watch.py": [
        ("a panel that never rests", "test_panel at_rest", "known[0] == changed:", "False:"),
        ("a panel's clock", "test_panel clock_is_wrong", "changed if settled else -1", "changed"),
    ],
    "scripts/workspace/panel/panel.js": [
        (
            "a panel that does not ask",
            "test_panel_browser asked_for",
            "this.say({ ask: question, verb, yes: wish })",
            "this.ask(wish)",
        ),
        ("a panel's sweep unseen", "test_panel_browser starts_when", " && checked.runs === 1", ""),
        ("a panel below an address", "test_panel_browser below", "JSON.parse(config.textContent).baseUrl", "'/'"),
    ],
    "scripts/workspace/sweeps/report_page.py": [
        ("a sweep with an odd name", "test_report odd_value", '"text.parse_math": False', '"text.parse_math": True'),
    ],
}
"""By the file in which the fault is made: its name; which tests, one of which must fail; what becomes what."""


def survives(file: Path, test: str, old: str, new: str, copy: Path) -> str | None:
    """Why the fault is not caught, or None where a test fails as it should."""
    whole = file.read_text()
    if whole.count(old) != 1:
        return f"{file.relative_to(copy)} has {whole.count(old)} times {old!r}"
    name, _, selected = test.partition(" ")
    # The copy's modules, before the environment's own link to this checkout.
    environment = os.environ | {"PYTHONPATH": str(copy / "scripts"), "PYTHONDONTWRITEBYTECODE": "1"}
    pytest = [copy / ".venv/bin/python", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    file.write_text(whole.replace(old, new))
    try:
        ended = programs.ask(*pytest, f"tests/{name}.py", "-k", selected, cwd=copy, env=environment)
    finally:
        file.write_text(whole)
    return None if ended.returncode == 1 else f"{test}: {ended.stdout.strip().splitlines()[-1]}"


def main(word: str = "") -> int:
    """Try the mutants with `word` in their names; 1 where one survives."""
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = copy_of_checkout(Path(folder, "copy"))
        for file, faults in MUTANTS.items():
            for name, test, old, new in faults:
                if word in name:
                    why = survives(copy / file, test, old, new, copy)
                    survivors += bool(why)
                    print(f"{'SURVIVES' if why else 'caught  '}  {name}{f': {why}' if why else ''}", flush=True)
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
