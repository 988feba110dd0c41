"""The sockets of the lab's GPU dashboard, which are there where NVIDIA's library finds a GPU: a stub does here."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import websocket
from labs import Lab, NativeServer, free_port

SOCKETS = ["gpu_utilization", "gpu_usage", "gpu_resource", "pci_stats", "nvlink_throughput"]
ONE_GPU = """\
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &ONE_GPU; return 0; }
"""
NOT_SUPPORTED = [
    "nvmlDeviceGetNvLinkVersion",
    "nvmlDeviceGetMaxPcieLinkGeneration",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetMemoryInfo",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab on a machine whose library finds one GPU, and can tell nothing of it."""
    pytest.importorskip("jupyterlab_nvdashboard", reason="the CPU wheels come without the dashboard")
    if not shutil.which("cc"):
        pytest.skip("no C compiler for the stub")
    folder = tmp_path_factory.mktemp("nvml")
    refusals = "".join(f"int {name}() {{ return 3; }}\n" for name in NOT_SUPPORTED)
    source = folder / "nvml.c"
    source.write_text("static int ONE_GPU;\n" + ONE_GPU + refusals)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    with NativeServer(folder, free_port()).running(LD_LIBRARY_PATH=str(folder)) as lab:
        yield lab


def connect(lab: Lab, name: str, **options: object) -> contextlib.closing:
    return contextlib.closing(lab.socket(f"/nvdashboard/{name}", **options))


@pytest.mark.parametrize("name", SOCKETS)
def test_a_socket_of_the_dashboard_is_refused_without_the_token_and_from_another_site(lab: Lab, name: str) -> None:
    with connect(lab, name, token=lab.token):
        pass
    cookie = "; ".join(f"{key}={value}" for key, value in lab.cookies().items())
    with connect(lab, name, cookie=cookie, origin=lab.url):
        pass
    for attack in ({}, {"cookie": cookie, "origin": "https://elsewhere.example"}):
        with pytest.raises(websocket.WebSocketException, match=r"403|Invalid redirect target '/login"):
            connect(lab, name, **attack)
