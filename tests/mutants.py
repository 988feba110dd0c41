"""Take out a mechanism that keeps a promise, and see the test of that promise fail; one at a time, in a copy.

    .venv/bin/python tests/mutants.py            all of them, some minutes
    .venv/bin/python tests/mutants.py backup     those with that word in their names

Exit code 1 if a test passes although what it tests is gone, or if what is to be taken out is not there any more.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    """A fault made on purpose: `old` in `file` becomes `new`, and one of the tests that `test` selects must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


ACCESS = "scripts/workspace/lab/access.py"
SETTINGS = "docker/jupyter_server_config.py"
SERVE = "scripts/workspace/lab/serve.py"
ARCHIVE = "scripts/workspace/lab/archive.py"
CONTENTS, FILES = "scripts/workspace/lab/contents.py", "scripts/workspace/base/files.py"
RUNS, RUN = "scripts/workspace/runs/", "tests/test_run.py -k "
AHEAD = RUN + "started_ahead"
RANKING, SWEEP = "scripts/workspace/sweeps/ranking.py", "scripts/workspace/sweeps/sweep.py"
PANEL, CLICKED = "scripts/workspace/panel/", "tests/test_panel.py -k "
SEEN = "tests/test_panel_browser.py -k "
BACKUP, SAVED, BOUNDS = "tests/test_backup.py -k ", "tests/test_contents.py -k ", "tests/test_limits.py -k "
IN_SERVER, ATTACKS = "tests/test_server.py", "tests/test_hardening.py -k native and "

MUTANTS = [
    Mutant("an empty token", ACCESS, "if not token:", "if False:", "tests/test_access.py"),
    Mutant("a short token", ACCESS, "if len(token) < _SHORTEST:", "if False:", "tests/test_access.py"),
    Mutant("any token", SETTINGS, "if not self._is_token(self.get_token(handler)):", "if False:", IN_SERVER),
    Mutant("an old login", SETTINGS, 'b"login cookie:" + TOKEN.encode()', 'b"login cookie"', IN_SERVER),
    Mutant("the token in kernels", SERVE, ' if not name.startswith("JUPYTER_TOKEN")', "", IN_SERVER),
    Mutant("a kernel on ports", SETTINGS, 'transport = "ipc"', 'transport = "tcp"', IN_SERVER),
    Mutant("a silent run", SETTINGS, "app.io_loop.add_callback(activity.watch, app)", "pass", "tests/test_activity.py"),
    Mutant("another site", SETTINGS, 'allow_origin = ""', 'allow_origin = "*"', ATTACKS + "another_site"),
    Mutant("hidden files", SETTINGS, "allow_hidden = False", "allow_hidden = True", ATTACKS + "hidden"),
    Mutant("a planted module", SERVE, '"-P", ', "", "tests/test_hardening.py -k plants"),
    Mutant(
        "a setting that cannot be read",
        SERVE,
        'environment["TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR"] = "1"',
        "pass",
        "tests/test_hardening.py -k cannot_be_read",
    ),
    Mutant(
        "a clock that is wrong",
        "scripts/workspace/lab/preflight.py",
        "found.append(clock(",
        "(clock(",
        "tests/test_hardening_lab.py -k told_at_start",
    ),
    Mutant(
        "a kill that explains no death",
        "scripts/workspace/lab/deaths.py",
        " and now > before:",
        ":",
        "tests/test_hardening_lab.py -k explains_no_death",
    ),
    Mutant(
        "a translation of what has changed since",
        "scripts/lesson/words.py",
        " and not entry.fuzzy}",
        "}",
        "tests/test_lesson_translations.py -k what_changed",
    ),
    Mutant(
        "an edited lesson",
        "scripts/workspace/lab/seed.py",
        "if there is not None and not {",
        "if False and not {",
        "tests/test_seed.py",
    ),
    Mutant(
        "a lesson that was only opened",
        "scripts/workspace/lab/seed.py",
        'json.dumps(json.loads(content)["cells"], sort_keys=True).encode()',
        "content",
        "tests/test_seed.py",
    ),
    Mutant(
        "a backup cut short",
        ARCHIVE,
        "    if listed is None:\n",
        "    if False:\n",
        BACKUP + "not_right",
    ),
    Mutant("a backup that climbs out", ARCHIVE, 'or ".." in parts ', "", BACKUP + "not_right"),
    Mutant("a backup with devices", ARCHIVE, " or not member.isreg()", "", BACKUP + "not_right"),
    Mutant("a backup without a word", ARCHIVE, "onerror=cannot_read", "onerror=None", BACKUP + "cannot_be_read"),
    Mutant(
        "a backup of a moving file", ARCHIVE, "if _same(path.lstat(), before):", "if True:", BACKUP + "changes_while"
    ),
    Mutant(
        "a restore cut short",
        ARCHIVE,
        "os.link(there, kept, follow_symlinks=False)",
        "os.rename(there, kept)",
        BACKUP + "killed_at",
    ),
    Mutant(
        "saves that overtake",
        CONTENTS,
        "self._locks.setdefault(self._place(path), asyncio.Lock())",
        "asyncio.Lock()",
        SAVED + "saves_of_one",
    ),
    Mutant("a long name", FILES, "UNFINISHED + secrets.token_hex(8)", 'f".{file.name}.new"', SAVED + "long"),
    Mutant("two restores at once", ARCHIVE, "LOCK_EX | fcntl.LOCK_NB", "LOCK_SH", BACKUP + "two_restores"),
    Mutant(
        "a checkpoint in place",
        CONTENTS,
        "super()._copy(src, str(new))",
        "super()._copy(src, dest)",
        SAVED + "full_disk",
    ),
    Mutant(
        "an upload in place",
        CONTENTS,
        "self._save_large_file(str(upload.aside)",
        "self._save_large_file(place",
        SAVED + "upload",
    ),
    Mutant("uploads that mix", CONTENTS, "if before and (wait :=", "if False and (wait :=", SAVED + "two_uploads"),
    Mutant("what a kill leaves", SERVE, "    remove_unfinished(places.work())\n", "", SAVED + "killed"),
    Mutant(
        "a stranger's gigabyte", SETTINGS, "app.io_loop.add_callback(limits.guard, app)", "pass", BOUNDS + "stranger"
    ),
    Mutant(
        "an unread terminal", SETTINGS, "c.TerminalsExtensionApp.terminal_manager_class", "_", BOUNDS + "program_in"
    ),
    Mutant("a cell nobody reads", SETTINGS, "c.ServerApp.kernel_manager_class", "_", BOUNDS + "kernel_says"),
    Mutant(
        "a large picture", SETTINGS, '"websocket_max_message_size": limits.LARGEST_MESSAGE,', "", BOUNDS + "picture"
    ),
    Mutant(
        "a start that frightens",
        SETTINGS,
        'warnings.filterwarnings("ignore"',
        'warnings.filterwarnings("default"',
        IN_SERVER + " -k frightens",
    ),
    Mutant(
        "another archive of images",
        "scripts/lesson/download.py",
        "if sha256(part) == archive.sha256:",
        "if True:",
        "tests/test_cifar10.py -k flipped",
    ),
    Mutant(
        "code in an archive of images",
        "scripts/lesson/cifar10.py",
        "if (module, name) not in self._KNOWN:",
        "if False:",
        "tests/test_cifar10.py -k pickle",
    ),
    Mutant(
        "an accuracy that is too good",
        "notebooks/first_pytorch_classifier.ipynb",
        "test_accuracy = right.mean().item()",
        "test_accuracy = right.mean().item() + 0.1",
        "tests/test_lesson.py -k come_out_again",
    ),
    Mutant(
        "a sweep's luckiest seed",
        RANKING,
        "parameters.items() if name != SEED}",
        "parameters.items()}",
        "tests/test_ranking.py -k luckiest",
    ),
    Mutant(
        "a sweep's highest loss", RANKING, '{"loss", "error", "seconds"}', "set()", "tests/test_ranking.py -k less_of"
    ),
    Mutant(
        "a sweep's formula",
        RANKING,
        'cell.startswith(("=",',
        'cell.startswith(("?",',
        "tests/test_ranking.py -k formula",
    ),
    Mutant(
        "a sweep of two notebooks",
        "scripts/workspace/sweeps/execution.py",
        "return Job(self._notebook,",
        "return Job(Notebook.read(self._notebook.path),",
        "tests/test_sweep.py -k edited",
    ),
    Mutant(
        "a sweep rerun in part",
        SWEEP,
        "if before and not self._notebook.had(before.notebook_digest):  #",
        "if False:  #",
        "tests/test_sweep.py -k interrupted_rerun",
    ),
    Mutant(
        "a sweep with a run missing",
        SWEEP,
        "plan.runs.items() if plan else ()",
        "()",
        "tests/test_sweep.py -k damaged",
    ),
    Mutant("a sweep's old ranking", SWEEP, "ranked_so and ", "", "tests/test_sweep.py -k ranked_anew"),
    Mutant(
        "a sweep's time left",
        "scripts/workspace/runs/progress.py",
        "if left != self._left:",
        "if True:",
        "tests/test_sweep.py -k counts_down",
    ),
    Mutant(
        "a sweep's failures forgotten",
        "scripts/workspace/sweeps/tpe.py",
        "self._study.enqueue_trial(trial.params)",
        "pass",
        "tests/test_sweep.py -k tpe_makes",
    ),
    Mutant(
        "a sweep whose terminal closes",
        "scripts/workspace/runs/background.py",
        "!= signal.SIG_IGN:",
        "is not None:",
        "tests/test_sweep.py -k under_nohup",
    ),
    Mutant(
        "two backups to one name",
        "scripts/workspace/host/backup.py",
        ".{secrets.token_hex(3)}.part",
        ".part",
        BACKUP + "to_one_name",
    ),
    Mutant(
        "a sweep's images exchanged",
        RANKING,
        ', self.metrics.get("dataset_digest")]',
        "]",
        "tests/test_ranking.py -k exchanged",
    ),
    Mutant(
        "a start that looks everywhere",
        FILES,
        "itertools.islice(os.walk(folder), _MOST_FOLDERS)",
        "os.walk(folder)",
        SAVED + "look_through",
    ),
    Mutant("a run's pipe", RUNS + "cells.py", "executed.unlink(missing_ok=True)  #", "pass  #", RUN + "a_pipe"),
    Mutant("a kernel ahead of its orders", RUNS + "warm.py", '"environment": differing', '"environment": {}', AHEAD),
    Mutant("a kernel ahead in another folder", RUNS + "warm_kernel.py", "os.chdir(", "str(", AHEAD),
    Mutant("a kernel ahead that died", RUNS + "kernels.py", "if process is None:", "if False:", AHEAD),
    Mutant("a kernel ahead for ever", RUNS + "warm_kernel.py", "None if living else waits_s", "None", AHEAD),
    Mutant("a folder that is claimed", RUNS + "folders.py", "if not record.sweep:", "if False:", RUN + "two_runs_into"),
    Mutant("a cell with widgets", RUNS + "kernels.py", "self.socket.get(zmq.EVENTS)", "pass", RUN + "widgets"),
    Mutant("a cell at its limit", RUNS + "cells.py", "raise CellTimeoutError  #", "pass  #", RUN + "widgets"),
    Mutant("output not read yet", RUNS + "kernels.py", "if manager.ipykernel", "if False", RUN + "nobody_reads"),
    Mutant("an injected value", RUNS + "notebook.py", "in self.injected.items()", "in ()", RUN + "injected_before"),
    Mutant("metrics that are none", RUNS + "reading.py", "if not stat.S_ISREG(", "if not (", RUN + "that_are_none"),
    Mutant("a panel's page of HTML", PANEL + "still.py", "{html.escape(text)}", "{text}", CLICKED + "runs_nothing"),
    Mutant("a panel's lost removal", PANEL + "panel.py", "ending.take_back(place)", "pass", CLICKED + "removed_and"),
    Mutant("a panel that never rests", PANEL + "watch.py", "known[0] == changed:", "False:", CLICKED + "at_rest"),
    Mutant("a panel's clock", PANEL + "watch.py", "changed if settled else -1", "changed", CLICKED + "clock_is_wrong"),
    Mutant(
        "a panel that does not ask",
        PANEL + "panel.js",
        "this.say({ ask: question, verb, yes: wish })",
        "this.ask(wish)",
        SEEN + "asked_for",
    ),
    Mutant("a panel's sweep unseen", PANEL + "panel.js", " && checked.runs === 1", "", SEEN + "starts_when"),
    Mutant(
        "a panel below an address", PANEL + "panel.js", "JSON.parse(config.textContent).baseUrl", "'/'", SEEN + "below"
    ),
    Mutant("drawn shapes", RUNS + "folders.py", '"on drawn shapes" if', '"" if', RUN + "substitute"),
    Mutant(
        "a sweep with an odd name",
        "scripts/workspace/sweeps/report_page.py",
        '"text.parse_math": False',
        '"text.parse_math": True',
        "tests/test_report.py -k odd_value",
    ),
]


def survives(mutant: Mutant, copy: Path) -> str | None:
    """Why the mutant is not caught, or None where its test fails as it should."""
    file = copy / mutant.file
    whole = file.read_text()
    if whole.count(mutant.old) != 1:
        return f"{mutant.file} has {whole.count(mutant.old)} times {mutant.old!r}"
    file.write_text(whole.replace(mutant.old, mutant.new))
    try:
        python = copy / ".venv/bin/python"
        # Before the environment's own link to this checkout.
        environment = os.environ | {"PYTHONPATH": str(copy / "scripts"), "PYTHONDONTWRITEBYTECODE": "1"}
        test, *selected = mutant.test.split(" -k ")
        command = [
            python,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            test,
            *(["-k", *selected] if selected else []),
        ]
        ended = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    finally:
        file.write_text(whole)
    return None if ended.returncode == 1 else f"{mutant.test}: {ended.stdout.strip().splitlines()[-1]}"


def main(word: str = "") -> int:
    """Try the mutants with `word` in their names; how many survive, at most 1."""
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder, "copy")
        left_out = shutil.ignore_patterns(".venv", ".workspace", "work", ".git", "__pycache__", ".*_cache")
        shutil.copytree(REPOSITORY, copy, ignore=left_out)
        (copy / ".venv").symlink_to(REPOSITORY / ".venv")
        for mutant in MUTANTS:
            if word in mutant.name:
                why = survives(mutant, copy)
                survivors += bool(why)
                print(f"{'SURVIVES' if why else 'caught  '}  {mutant.name}{f': {why}' if why else ''}", flush=True)
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
