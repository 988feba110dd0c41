"""The file that makes a process a member of a cluster: Dask's configuration, with the scheduler's address and the keys.

One authority signs one certificate, which all members show each other, and its key is thrown away: whoever has the file
belongs to the cluster, and nobody else ever will.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from workspace.base import cli
from workspace.base.files import replacing

FILE = "cluster.yaml"

_YEARS_10 = "3650"
_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]


def write(file: Path, scheduler: str) -> None:
    """Write the members' file for the scheduler at the address `scheduler`; keys that are in it already stay."""
    os.umask(0o077)
    configuration = yaml.safe_load(file.read_text()) if file.exists() else {"distributed": {"comm": _keys()}}
    configuration["scheduler-address"] = scheduler
    with replacing(file) as new:
        new.write_text(f"# Who has this file belongs to the cluster.\n{yaml.safe_dump(configuration)}")


def _keys() -> dict[str, Any]:
    """Dask's settings, under distributed.comm, with new keys: https://distributed.dask.org/en/stable/tls.html."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority, signing, request, key, certificate = (
            folder / file for file in ("authority.pem", "authority.key", "member.csr", "member.key", "member.pem")
        )
        subject = ["-subj", "/CN=workspace cluster"]
        _openssl("req", "-x509", *_NEW_KEY, *subject, "-days", _YEARS_10, "-keyout", signing, "-out", authority)
        _openssl("req", *_NEW_KEY, "-subj", "/CN=member", "-keyout", key, "-out", request)
        signed = ["-CA", authority, "-CAkey", signing, "-days", _YEARS_10]
        _openssl("x509", "-req", "-in", request, *signed, "-out", certificate)
        member = {"cert": certificate.read_text() + key.read_text()}
        keys = {"ca-file": authority.read_text(), "scheduler": member, "worker": member, "client": member}
    return {"require-encryption": True, "tls": keys}


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
    cli.say(f"the cluster's address and keys are in {sys.argv[1]}")
