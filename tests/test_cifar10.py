"""CIFAR-10 against mirrors, disks and processes that fail in every way we could think of."""

import hashlib
import io
import os
import pickle
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from labs import SmallDisk, free_port, wait_until
from lesson import cifar10
from misbehaving_server import PORTAL, MisbehavingServer
from workspace.bench import cifar10_format

IMAGES, LABELS = cifar10_format.random_images(60)
QUICK = cifar10.Limits(connect=1, silence=1, period=0.3, speed=200, least_speed=40)
LOAD = """
import pathlib, sys
from lesson import cifar10
folder, sha256, size, *mirrors = sys.argv[1:]
arrays = cifar10.load(pathlib.Path(folder), archive=cifar10.Archive(sha256, int(size)), mirrors=mirrors)
print(sum(int(array.sum()) for array in arrays))
"""


class Sample:
    """A small archive in the real format, and the digests under which it counts as CIFAR-10."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = path.read_bytes()
        self.archive = cifar10.Archive(hashlib.sha256(self.content).hexdigest(), len(self.content))

    def load(self, folder: Path, *mirrors: str) -> cifar10.Arrays:
        return cifar10.load(folder, archive=self.archive, mirrors=mirrors, limits=QUICK)

    def failure(self, folder: Path, *mirrors: str) -> str:
        """The message where nothing works, after checking that no later start takes anything left for good data."""
        with pytest.raises(cifar10.Unavailable) as caught:
            self.load(folder, *mirrors)
        assert cifar10.holdings(folder, archive=self.archive).images == 0
        return str(caught.value)

    def process(self, folder: Path, *mirrors: str, code: str = LOAD, cwd: Path | None = None) -> subprocess.Popen[str]:
        """A process of its own that loads."""
        arguments = [str(folder), self.archive.sha256, str(self.archive.size), *mirrors]
        return subprocess.Popen(
            [sys.executable, "-u", "-c", code, *arguments],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    path = tmp_path_factory.mktemp("archive") / cifar10.ARCHIVE
    cifar10_format.write(path, IMAGES, LABELS)
    return Sample(path)


@pytest.fixture
def server(sample: Sample) -> Iterator[MisbehavingServer]:
    with MisbehavingServer(sample.content).running() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"CIFAR10_MIRRORS", "WORKSPACE_DATA", "WORKSPACE_CA_BUNDLE"}:
            monkeypatch.delenv(name)


def assert_right(arrays: cifar10.Arrays) -> None:
    train_images, train_labels, test_images, test_labels = arrays
    np.testing.assert_array_equal(train_images, IMAGES[:50])
    np.testing.assert_array_equal(train_labels, LABELS[:50])
    np.testing.assert_array_equal(test_images, IMAGES[50:])
    np.testing.assert_array_equal(test_labels, LABELS[50:])


# --- What training gets ---


def test_images_and_labels_come_out_as_they_went_in(sample: Sample, server: MisbehavingServer, tmp_path: Path) -> None:
    arrays = sample.load(tmp_path, server.url("good"))
    assert_right(arrays)
    assert [array.dtype for array in arrays] == [np.uint8, np.int64, np.uint8, np.int64]


def test_second_start_asks_nobody(sample: Sample, server: MisbehavingServer, tmp_path: Path) -> None:
    sample.load(tmp_path, server.url("good"))
    assert_right(sample.load(tmp_path, server.url("good")))
    assert len(server.requests) == 1


def test_images_are_mapped_and_what_training_writes_stays_in_its_process(sample: Sample, tmp_path: Path) -> None:
    images = sample.load(tmp_path, sample.path.as_uri())[0]
    assert isinstance(images, np.memmap)
    images[:] = 0
    assert_right(sample.load(tmp_path))
    assert cifar10.verify(tmp_path, archive=sample.archive) == []


def test_no_warning_reaches_the_learner(sample: Sample, tmp_path: Path) -> None:
    # NumPy 2 warns of pickles as old as CIFAR-10's, PyTorch of arrays that cannot be written.
    code = LOAD + "\nimport torch; torch.from_numpy(arrays[0])"
    process = sample.process(
        tmp_path, sample.path.as_uri(), code="import warnings; warnings.simplefilter('error')" + code
    )
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == str(int(IMAGES.sum() + LABELS.sum()))
    assert "Warning" not in errors


def test_other_data_in_the_folder_is_not_taken_for_cifar10(sample: Sample, tmp_path: Path) -> None:
    sample.load(tmp_path, sample.path.as_uri())
    with pytest.raises(cifar10.Unavailable):
        cifar10.load(tmp_path, mirrors=[])


@pytest.mark.parametrize("damage", ["shorter", "missing", "no digests"])
def test_incomplete_arrays_are_made_again_from_the_archive(sample: Sample, tmp_path: Path, damage: str) -> None:
    sample.load(tmp_path, sample.path.as_uri())
    if damage == "shorter":
        os.truncate(tmp_path / "cifar10" / "train_images.npy", 1000)
    else:
        (tmp_path / "cifar10" / ("test_labels.npy" if damage == "missing" else "digests.json")).unlink()
    assert_right(sample.load(tmp_path))


def test_flipped_byte_on_the_disk_is_found_by_verify_and_repaired_by_fetch(sample: Sample, tmp_path: Path) -> None:
    sample.load(tmp_path, sample.path.as_uri())
    with (tmp_path / "cifar10" / "test_images.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    (found,) = cifar10.verify(tmp_path, archive=sample.archive)
    assert found.endswith("test_images.npy is damaged")
    cifar10.fetch(tmp_path, archive=sample.archive, mirrors=[])
    assert cifar10.verify(tmp_path, archive=sample.archive) == []
    assert_right(sample.load(tmp_path))


# --- Mirrors ---


@pytest.mark.parametrize("behaviour", ["redirect", "labelled", "no-ranges"])
def test_unusual_but_right_answers_are_taken(
    sample: Sample, server: MisbehavingServer, tmp_path: Path, behaviour: str
) -> None:
    assert_right(sample.load(tmp_path, server.url(behaviour)))


OUTCOMES = {
    "403": "HTTP 403 Forbidden",
    "404": "HTTP 404 Not Found",
    "500": "HTTP 500 Internal Server Error",
    "loop": "redirects in a circle",
    "portal": f"answered {len(PORTAL)} bytes of text/html instead of the archive (a login page?)",
    "portal-unsized": "answered something that is not the archive (a login page?)",
    "flipped": "not the archive: its SHA-256 is wrong",
    "longer": "instead of the archive",
    "silent": "timeout: silent for 1 s",
    "stall": "timeout: silent for 1 s at 0.1 MB of 0.2 MB",
    "cut-stubborn": "cut off at 0.1 MB of 0.2 MB",
    "crawl": "too slow at ",
}


@pytest.mark.parametrize(("behaviour", "outcome"), OUTCOMES.items())
def test_mirror_that_fails_is_named_with_its_outcome_and_followed_by_the_next(
    sample: Sample, server: MisbehavingServer, tmp_path: Path, behaviour: str, outcome: str
) -> None:
    message = sample.failure(tmp_path / "alone", server.url(behaviour))
    assert f"{server.url(behaviour)}: " in message
    assert outcome in message
    assert_right(sample.load(tmp_path / "followed", server.url(behaviour), server.url("good")))
    # And what the first has brought is not asked for again, unless it was wrong.
    continued = server.asked("good") != [""]
    assert continued == (behaviour in {"stall", "cut-stubborn", "crawl"})


OF_NO_KNOWN_KIND = ["ftp://host/archive", "/mnt/stick/archive", "https:/host/archive"]
MALFORMED = ["https://", "http://[::1/archive", "http://host:99999/archive", "https:// /x"]


def test_refused_connection_and_unknown_host_are_told_apart(sample: Sample, tmp_path: Path) -> None:
    message = sample.failure(tmp_path, f"http://127.0.0.1:{free_port()}/x", "http://no-such-host.invalid/x")
    assert "/x: connection refused" in message
    assert "http://no-such-host.invalid/x: no such host" in message


@pytest.mark.parametrize(
    ("address", "outcome"),
    [
        *((kind, "not an address: it must begin with http://, https:// or file:///") for kind in OF_NO_KNOWN_KIND),
        *((malformed, "not an address") for malformed in MALFORMED),
    ],
)
def test_what_is_no_address_is_refused(sample: Sample, tmp_path: Path, address: str, outcome: str) -> None:
    assert f"{address}: {outcome}\n" in sample.failure(tmp_path, address)


def test_where_no_mirror_answers_each_address_is_named_once(
    sample: Sample, server: MisbehavingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = [server.url("missing"), server.url("login"), server.url("gone")]
    said = sample.failure(tmp_path, *addresses) + "".join(capsys.readouterr())
    assert [said.count(address) for address in addresses] == [1, 1, 1]
    assert said.count("; trying the next") == 2


def test_slow_mirror_is_left_for_a_faster_one_which_goes_on_from_there(
    sample: Sample, server: MisbehavingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_right(sample.load(tmp_path, server.url("slow"), server.url("good")))
    assert "too slow at " in capsys.readouterr().out
    assert server.asked("slow") == [""]
    assert server.asked("good")[0].startswith("bytes=")


def test_where_all_are_slow_the_fastest_goes_on(
    sample: Sample, server: MisbehavingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_right(sample.load(tmp_path, server.url("crawl"), server.url("slow")))
    assert f"no mirror is fast, going on with {server.url('slow')}" in capsys.readouterr().out
    assert len(server.asked("crawl")) == 1
    assert server.asked("slow")[1].startswith("bytes=")


def test_cut_transfer_goes_on_at_the_same_mirror(sample: Sample, server: MisbehavingServer, tmp_path: Path) -> None:
    assert_right(sample.load(tmp_path, server.url("cut")))
    third = sample.archive.size // 3
    assert server.asked("cut")[:3] == ["", f"bytes={third}-", f"bytes={2 * third}-"]


def test_next_start_goes_on_where_the_last_one_stopped(
    sample: Sample, server: MisbehavingServer, tmp_path: Path
) -> None:
    assert "that arrived are kept" in sample.failure(tmp_path, server.url("cut-stubborn"))
    assert_right(sample.load(tmp_path, server.url("good")))
    assert server.asked("good") == [f"bytes={sample.archive.size // 3}-"]


def test_login_page_does_not_spoil_what_has_arrived(sample: Sample, server: MisbehavingServer, tmp_path: Path) -> None:
    sample.failure(tmp_path, server.url("cut-stubborn"), server.url("portal"), server.url("portal-unsized"))
    assert cifar10.holdings(tmp_path).partial == sample.archive.size // 3


def test_answer_with_another_part_is_refused(sample: Sample, server: MisbehavingServer, tmp_path: Path) -> None:
    message = sample.failure(tmp_path, server.url("cut-stubborn"), server.url("wrong-range"))
    assert "answered another part" in message


def test_good_mirror_is_not_blamed_for_the_wrong_bytes_of_another(
    sample: Sample, server: MisbehavingServer, tmp_path: Path
) -> None:
    assert_right(sample.load(tmp_path, server.url("flipped-cut"), server.url("good")))
    assert server.asked("good") == [f"bytes={sample.archive.size // 3}-", ""]


def test_flipped_byte_leaves_nothing_behind(sample: Sample, server: MisbehavingServer, tmp_path: Path) -> None:
    sample.failure(tmp_path, server.url("flipped"))
    assert cifar10.holdings(tmp_path) == cifar10.Holdings(images=0, archive=0, partial=0)


def test_password_in_an_address_is_not_shown(
    sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = sample.failure(tmp_path, f"http://user:secret@127.0.0.1:{free_port()}/a?key=secret")
    assert "http://127.0.0.1:" in message
    assert "secret" not in message + "".join(capsys.readouterr())


def test_error_can_go_from_one_process_to_another(sample: Sample, tmp_path: Path) -> None:
    with pytest.raises(cifar10.Unavailable) as caught:
        sample.load(tmp_path)
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  (our own)
    assert str(copy) == str(caught.value)


def test_message_names_the_three_ways_on(sample: Sample, tmp_path: Path) -> None:
    message = sample.failure(tmp_path)
    assert "data import cifar-10-python.tar.gz" in message
    assert "CIFAR10_MIRRORS=https://" in message
    assert 'dataset = "drawn"' in message


# --- Settings ---


def test_variable_replaces_the_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR10_MIRRORS", " https://a/x,\n file:///b ,http://c ")
    assert cifar10.mirrors_to_try() == ("https://a/x", "file:///b", "http://c")


@pytest.mark.parametrize("value", [None, "", " , "])
def test_without_the_variable_the_official_host_comes_last(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is not None:
        monkeypatch.setenv("CIFAR10_MIRRORS", value)
    assert len(cifar10.mirrors_to_try()) > 1
    assert cifar10.mirrors_to_try()[-1] == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


def test_mirrors_none_fails_at_once_and_without_the_network(
    monkeypatch: pytest.MonkeyPatch, sample: Sample, tmp_path: Path
) -> None:
    monkeypatch.setenv("CIFAR10_MIRRORS", "none")
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(cifar10.Unavailable, match="CIFAR10_MIRRORS is none"):
        cifar10.load(tmp_path, archive=sample.archive)


def test_data_folder_is_the_one_named_else_one_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in cifar10.data_folder().parents
    monkeypatch.setenv("WORKSPACE_DATA", str(tmp_path / "here"))
    assert cifar10.data_folder() == tmp_path / "here"


def test_proxy_is_used_except_where_no_proxy_says_so(
    monkeypatch: pytest.MonkeyPatch, sample: Sample, server: MisbehavingServer, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    assert_right(sample.load(tmp_path / "1", "http://mirror.invalid/good/archive"))
    assert server.requests == [("/good/archive", "")]
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    assert "the proxy (HTTP_PROXY, HTTPS_PROXY) could not be used" in sample.failure(tmp_path / "2", server.url("good"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert_right(sample.load(tmp_path / "2", server.url("good")))


@pytest.mark.parametrize("variable", ["WORKSPACE_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_private_authority_is_trusted_once_its_certificate_is_named(
    monkeypatch: pytest.MonkeyPatch, sample: Sample, tmp_path: Path, certificate: Path, variable: str
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORKSPACE_CA_BUNDLE", os.devnull)  # as docker-compose.yml mounts it where none is named
    with MisbehavingServer(sample.content).running(certificate) as server:
        address = server.url("good").replace("http://", "https://")
        assert "its certificate is not trusted" in sample.failure(tmp_path, address)
        monkeypatch.setenv(variable, str(certificate))
        assert_right(sample.load(tmp_path, address))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, and its key, in one file."""
    path = tmp_path_factory.mktemp("authority") / "authority.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{path}.key"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", *key, *name, "-days", "2", "-out", path], capture_output=True, check=True
    )
    path.write_bytes(path.read_bytes() + Path(f"{path}.key").read_bytes())
    return path


# --- Archives by hand, and hostile ones ---


def test_archive_put_there_by_hand_is_used(sample: Sample, server: MisbehavingServer, tmp_path: Path) -> None:
    (tmp_path / cifar10.ARCHIVE).write_bytes(sample.content)
    assert_right(sample.load(tmp_path, server.url("good")))
    assert server.requests == []


def test_wrong_archive_put_there_by_hand_is_told_and_not_unpacked(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / cifar10.ARCHIVE).write_bytes(sample.content[:-1] + b"?")
    assert f"{tmp_path / cifar10.ARCHIVE}: not the archive: its SHA-256 is wrong" in sample.failure(tmp_path)


def hostile(path: Path, *added: tarfile.TarInfo, batch: bytes | None = None) -> Sample:
    """The archive with members, or a first batch, that it must not have."""
    with tarfile.open(path, "w:gz") as tar:
        for member in added:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
        for name, content in cifar10_format.members(IMAGES, LABELS):
            inner = tarfile.TarInfo(f"{cifar10_format.FOLDER}/{name}")
            content = batch if batch is not None and name == "data_batch_1" else content
            inner.size = len(content)
            tar.addfile(inner, io.BytesIO(content))
    return Sample(path)


def member(name: str, **properties: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in properties.items():
        setattr(made, key, value)
    return made


class Bomb:
    """What a pickle must not be able to do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ([member("../escaped", size=10)], "outside the destination"),
        ([member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "absolute path"),
        ([member("link", type=tarfile.LNKTYPE, linkname="../../escaped")], "outside the destination"),
        ([member("device", type=tarfile.CHRTYPE)], "special file"),
        ([member("bomb", size=800_000)] * 3, "far more than CIFAR-10"),
        ([member("pax", pax_headers={"comment": "x" * 3_000_000})], "far more than CIFAR-10"),
        ([member(f"file-{number}") for number in range(30)], "far more than CIFAR-10"),
    ],
    ids=["parent", "absolute link", "hard link", "device", "bomb", "bomb in a header", "many members"],
)
def test_hostile_archive_is_refused_even_with_the_right_digest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, added: list[tarfile.TarInfo], reason: str
) -> None:
    monkeypatch.setattr(cifar10, "_MOST_BYTES", 2_000_000)  # ten times the sample, and quick
    sample = hostile(tmp_path / "hostile.tar.gz", *added)
    data = tmp_path / "data"
    for _ in range(2):
        message = sample.failure(data, sample.path.as_uri())
        assert f"{cifar10.ARCHIVE} is refused: " in message
        assert reason in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "hostile.tar.gz"]
    assert not (data / "cifar10").exists()


def test_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    sample = hostile(tmp_path / "hostile.tar.gz", batch=pickle.dumps(Bomb(tmp_path / "ran"), protocol=2))
    assert "which has no place in it" in sample.failure(tmp_path / "data", sample.path.as_uri())
    assert not (tmp_path / "ran").exists()


def test_archive_without_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.tar.gz"
    with tarfile.open(path, "w:gz"):
        pass
    assert "it lacks data_batch_1" in Sample(path).failure(tmp_path / "data", path.as_uri())


# --- Crashes ---


def test_download_killed_at_half_goes_on_from_there(sample: Sample, server: MisbehavingServer, tmp_path: Path) -> None:
    process = sample.process(tmp_path, server.url("pause"))
    server.at_half.wait(60)
    wait_until(lambda: cifar10.holdings(tmp_path).partial >= sample.archive.size // 2 - 2**13)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert cifar10.holdings(tmp_path, archive=sample.archive).images == 0
    arrived = cifar10.holdings(tmp_path).partial
    assert_right(sample.load(tmp_path, server.url("good")))
    assert server.asked("good") == [f"bytes={arrived}-"]


def test_unpacking_killed_at_half_is_done_again_without_the_network(sample: Sample, tmp_path: Path) -> None:
    code = """
import os, signal
from lesson import cifar10
save = cifar10._save
def killed(path, arrays):
    if path.name == "test_images.npy":
        os.kill(os.getpid(), signal.SIGKILL)
    return save(path, arrays)
cifar10._save = killed
"""
    process = sample.process(tmp_path, sample.path.as_uri(), code=code + LOAD)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "cifar10.unpacking" / "train_images.npy").exists()
    assert cifar10.holdings(tmp_path, archive=sample.archive).images == 0
    assert_right(sample.load(tmp_path))
    assert not (tmp_path / "cifar10.unpacking").exists()


def test_processes_that_start_together_download_once_and_all_succeed(
    sample: Sample, server: MisbehavingServer, tmp_path: Path
) -> None:
    processes = [sample.process(tmp_path / "data", server.url("pause")) for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        first_lines = [pool.submit(process.stdout.readline) for process in processes]
        # Two wait for the third, which waits for the server.
        wait_until(lambda: sum(line.done() for line in first_lines) == 2)
        server.resume.set()
        outputs = [
            line.result(60) + process.communicate(timeout=60)[0]
            for line, process in zip(first_lines, processes, strict=True)
        ]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("Another process is bringing CIFAR-10" in output for output in outputs) == 2
    assert {output.splitlines()[-1] for output in outputs} == {str(int(IMAGES.sum() + LABELS.sum()))}
    assert len(server.requests) == 1


def test_process_that_waits_goes_on_where_the_killed_one_was(
    sample: Sample, server: MisbehavingServer, tmp_path: Path
) -> None:
    first = sample.process(tmp_path, server.url("pause"))
    server.at_half.wait(60)
    wait_until(lambda: cifar10.holdings(tmp_path).partial)
    second = sample.process(tmp_path, server.url("good"))
    assert "Another process is bringing CIFAR-10" in second.stdout.readline()
    first.kill()
    first.communicate()
    second.communicate(timeout=60)
    assert second.returncode == 0
    assert server.asked("good")[0].startswith("bytes=")


# --- Disks ---


def test_disk_that_fills_while_downloading_is_named_and_the_rest_follows_later(
    sample: Sample, server: MisbehavingServer, small_disk: SmallDisk
) -> None:
    folder = small_disk("size=128k")
    message = sample.failure(folder, server.url("good"), server.url("no-ranges"))
    assert "the disk is full: " in message
    assert server.asked("no-ranges") == [], "another mirror does not help against a full disk"
    small_disk("size=4m")
    assert_right(sample.load(folder, server.url("good")))
    assert server.asked("good")[1].startswith("bytes=")


def test_disk_that_fills_while_unpacking_leaves_only_the_archive(
    sample: Sample, server: MisbehavingServer, small_disk: SmallDisk
) -> None:
    folder = small_disk("size=256k")
    assert "the disk is full: " in sample.failure(folder, server.url("good"))
    assert {path.name for path in folder.iterdir()} == {cifar10.ARCHIVE, "cifar10.lock"}
    small_disk("size=4m")
    assert_right(sample.load(folder))


def test_read_only_folder_with_images_is_enough(sample: Sample, small_disk: SmallDisk) -> None:
    folder = small_disk("size=4m")
    sample.load(folder, sample.path.as_uri())
    small_disk("ro")
    assert_right(sample.load(folder))


def test_read_only_folder_without_images_is_named(sample: Sample, small_disk: SmallDisk) -> None:
    folder = small_disk("size=4m,ro")
    assert f"the data folder {folder} cannot be used: Read-only file system" in sample.failure(folder)


def test_folder_of_another_user_is_named(sample: Sample, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    # Root may write everywhere. The folder is given as "." because another user may not even come to it.
    code = LOAD.replace("folder,", "import os; os.getuid() or os.setuid(1000)\nfolder,", 1)
    process = sample.process(Path(), code=code, cwd=tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the data folder . cannot be used: Permission denied" in errors


# --- Removing ---


def test_clear_removes_what_is_ours_and_nothing_else(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("1,2")
    sample.load(tmp_path, sample.path.as_uri())
    freed = cifar10.clear(tmp_path)
    assert freed > IMAGES.size + sample.archive.size
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.csv", "cifar10.lock"}
    assert "could not be brought there" in sample.failure(tmp_path)


def test_clear_of_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert cifar10.clear(tmp_path / "nowhere") == 0
