"""The keys of a cluster: one authority that signs once, one certificate that all its members show each other.

Whoever has the certificate belongs to the cluster; the authority's own key is thrown away.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

AUTHORITY, MEMBER = "authority.pem", "member.pem"

_YEARS_10 = "3650"
_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]


def make(folder: Path) -> bool:
    """Make authority.pem and member.pem (certificate and key) in `folder`, unless they are there; whether it did."""
    if (folder / MEMBER).exists():
        return False
    os.umask(0o077)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        new = Path(name)
        authority, signing = str(new / AUTHORITY), str(new / "authority.key")
        request, key, certificate = (str(new / f"member.{kind}") for kind in ("csr", "key", "crt"))
        subject = ["-subj", "/CN=workspace cluster"]
        _openssl("req", "-x509", *_NEW_KEY, *subject, "-days", _YEARS_10, "-keyout", signing, "-out", authority)
        _openssl("req", *_NEW_KEY, "-subj", "/CN=member", "-keyout", key, "-out", request)
        signed = ["-CA", authority, "-CAkey", signing, "-days", _YEARS_10]
        _openssl("x509", "-req", "-in", request, *signed, "-out", certificate)
        member = new / MEMBER
        member.write_text(Path(certificate).read_text() + Path(key).read_text())
        (new / AUTHORITY).rename(folder / AUTHORITY)
        member.rename(folder / MEMBER)  # last: where it is, all is
    return True


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print("made" if make(folder) else "kept", f"the cluster's keys in {folder}")
