"""scripts/azure against a small model of Azure (fake_az.py): what it asks for, in which order, and what failures leave.

With WORKSPACE_TEST_AZ, the path of a real `az`, that reads each command line, too: it knows the flags, and has no
login.
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

import fake_az
import pytest
from labs import REPOSITORY, command, free_port
from stand_ins import program
from workspace.base import programs
from workspace.base.cli import UserError
from workspace.cloud import azure, plan
from workspace.cloud.plan import Vm, Wishes

HERE = "8.8.4.4"
HERE_ALONE = [f"{HERE}/32"]
LINK = "http://anna.swedencentral.cloudapp.azure.com:8888/?token=" + "5" * 64
REPOSITORY_URL = "https://example.org/workspace.git"


class Model:
    """Azure as the model has it, and the VM as ssh finds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vm_says(LINK)

    def vm_says(self, *answers: str) -> None:
        """What ssh gets from the VM, look by look, the last one for ever; BLOCKED: ssh does not get there."""
        (self.folder / "ssh").write_text("\n".join(answer.replace("\n", "\\n") for answer in answers) + "\n")

    def fails(self, beginning: str, why: str) -> None:
        (self.folder / "fail").write_text(f"{beginning}|{why}\n")

    def is_mended(self) -> None:
        (self.folder / "fail").unlink()

    def calls(self) -> list[list[str]]:
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def commands(self) -> list[str]:
        """The words of each call before its options."""
        return [" ".join(call[: next((n for n, w in enumerate(call) if w[0] == "-"), 99)]) for call in self.calls()]

    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state").read_text())

    def has(self, **facts: object) -> None:
        (self.folder / "state").write_text(json.dumps(facts))

    def group(self, name: str = "anna") -> dict[str, Any]:
        return self.state()["groups"][name]


SSH = """\
cd {folder}
echo "$*" >> ssh-calls
said=$(head -n 1 ssh)
[ "$(wc -l < ssh)" = 1 ] || sed -i 1d ssh
[ "$said" = BLOCKED ] && exit 255
printf "$said\\n"
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    program(tmp_path / "bin/az", f'exec {sys.executable} -S -E {REPOSITORY}/tests/fake_az.py {tmp_path} "$@"')
    program(tmp_path / "bin/ssh", SSH.format(folder=tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    really_ask = programs.ask

    def ask(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """In place of a process that runs fake_az.py: the same, many times faster."""
        if command[0] == "az":
            return subprocess.CompletedProcess(command, *fake_az.run([*command[1:]], tmp_path))
        return really_ask(*command, **options)

    monkeypatch.setattr(programs, "ask", ask)
    monkeypatch.setattr(azure, "_RECORD", tmp_path / "azure.json")
    monkeypatch.setattr(azure, "_KNOWN_HOSTS", tmp_path / "known-hosts")
    monkeypatch.setattr(azure, "_LOOKS_EVERY_S", 0)
    monkeypatch.setattr(azure, "_PRICES", f"http://127.0.0.1:{free_port()}")
    return Model(tmp_path)


def up(name: str = "anna", region: str | None = None, subscription: str | None = None, **wishes: Any) -> None:  # noqa: ANN401
    wanted = {"source": HERE, "repository": REPOSITORY_URL} | wishes
    azure.up(name, region, subscription, Wishes(**wanted))


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_up_makes_it_in_order_and_ends_with_the_link(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    up()
    assert model.commands() == [
        "version",
        "account list",
        "group list",
        "vm list-skus",
        "vm list-usage",
        "group create",
        "network nsg create",
        "network nsg rule create",
        "network nsg rule create",
        "vm create",
    ]
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == LINK
    assert re.search(r"virtual machine: done in \d+ s", shown)
    vm = model.group()["vms"]["anna"]
    assert vm["tags"] == {"pytorch-workspace-host": "anna.swedencentral.cloudapp.azure.com"}
    assert vm["size"] == "Standard_D4s_v5"


@pytest.mark.parametrize(
    ("wishes", "ports"), [({}, {"22", "8888"}), ({"tls": True}, {"22", "80", "443"}), ({"tunnel": True}, {"22"})]
)
def test_every_rule_lets_in_the_caller_alone(model: Model, wishes: dict[str, bool], ports: set[str]) -> None:
    up(**wishes)
    rules = model.group()["rules"]
    assert {name.removeprefix("allow-") for name in rules} == ports
    assert all(sources == HERE_ALONE for sources in rules.values())
    [made] = [call for call in model.calls() if call[:2] == ["vm", "create"]]
    assert made[made.index("--nsg-rule") + 1] == "NONE"  # its default lets everybody in


@pytest.mark.parametrize(
    ("wishes", "flags"),
    [
        ({"gpu": True}, "--size Standard_NC4as_T4_v3 --enable-secure-boot false --os-disk-size-gb 128"),
        ({"spot": True}, "--priority Spot --eviction-policy Deallocate --max-price -1"),
        ({"size": "Standard_D4s_v5"}, "--size Standard_D4s_v5 --os-disk-size-gb 64"),
    ],
)
def test_wishes_reach_the_vm(model: Model, wishes: dict[str, Any], flags: str) -> None:
    up(**wishes)
    made = " ".join(next(call for call in model.calls() if call[:2] == ["vm", "create"]))
    assert all(flag in made for flag in re.findall(r"--\S+ \S+", flags))
    plain = {"--enable-secure-boot", "--priority"} & set(made.split())
    assert plain == ({"--enable-secure-boot"} if "gpu" in wishes else {"--priority"} if "spot" in wishes else set())


def first_boot(model: Model) -> tuple[list[str], str]:
    """The command that the VM runs at its first boot, and its settings."""
    head, _, text = model.group()["custom-data"].partition("\n")
    assert head == "#cloud-config"
    config = json.loads(text)
    files = {file["path"]: file["content"] for file in config["write_files"]}
    [ran] = config["runcmd"]
    assert files[ran[1]] == (REPOSITORY / "scripts/bootstrap-vm").read_text()
    return ran, files["/opt/pytorch-workspace/.env"]


def test_first_boot_bootstraps_that_commit_with_no_secret(model: Model) -> None:
    up(commit="v1.2", tls=True, idle=60)
    ran, settings = first_boot(model)
    assert ran[2:] == ["--repository", REPOSITORY_URL, "--commit", "v1.2", "--idle", "60", "--tls"]
    host = "WORKSPACE_PUBLIC_HOST=anna.swedencentral.cloudapp.azure.com"
    assert settings.splitlines() == [host, "WORKSPACE_TLS_ISSUER=internal"]
    assert not re.search(r"token=\w", model.group()["custom-data"])
    assert len(model.group()["custom-data"]) < 65535 * 3 / 4  # it is sent in base64


def test_tunnel_opens_no_port_and_prints_the_ssh_line(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    model.vm_says(f"http://localhost:8888/?token={'5' * 64}")
    up(tunnel=True)
    ssh, link = capsys.readouterr().out.splitlines()[-2:]
    assert ssh.startswith("ssh -L 8888:localhost:8888 azureuser@anna.swedencentral.cloudapp.azure.com")
    assert link.startswith("http://localhost:8888/?token=")
    assert first_boot(model)[1].splitlines() == ["WORKSPACE_PUBLIC_HOST=localhost", "WORKSPACE_BIND=127.0.0.1"]


def test_dry_run_prints_what_up_does_and_does_nothing(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    wishes = Wishes(source=HERE, repository=REPOSITORY_URL, gpu=True, spot=True, idle=60, shutdown="1900")
    azure.up("anna", None, None, wishes, dry_run=True)
    printed = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]
    assert model.calls() == []
    assert not (model.folder / "azure.json").exists()
    azure.up("anna", None, None, wishes)
    done = [call for call in model.calls() if call[0] not in ("version", "account")]
    assert [without_what_differs(call) for call in printed] == [without_what_differs(call) for call in done]


def without_what_differs(call: list[str]) -> str:
    return re.sub(
        r"/tmp/\S+|cloud-init.yaml|PRINCIPAL|principal-1|SUBSCRIPTION|sub-1|owner=\S+",  # noqa: S108
        "",
        " ".join(call),
    )


# What goes wrong.

QUOTA = (
    "(QuotaExceeded) Operation could not be completed as it results in exceeding approved NCASv3_T4 Family Cores quota"
)


@pytest.mark.parametrize(
    ("at", "said", "told"),
    [
        ("group create", "Please run 'az login' to setup account.", "you are not logged in"),
        ("group create", "(AuthorizationFailed) The client 'anna' does not have authorization", "role Contributor"),
        (
            "network nsg create",
            "(MissingSubscriptionRegistration) not registered to use namespace 'X'",
            "az provider register",
        ),
        ("network nsg rule create", "HTTPSConnectionPool: Max retries exceeded with url", "Azure cannot be reached"),
        ("vm create", QUOTA, "no quota for this size in swedencentral: ask for it in the portal"),
        ("vm create", "(SkuNotAvailable) The requested VM size is not available in location", "another --region"),
        ("vm create", "(InvalidTemplateDeployment) AllocationFailed", "another --region"),
        ("vm create", "(DnsRecordInUse) DNS record is already used", "another --name"),
        (
            "vm auto-shutdown",
            "(Conflict) what nobody foresaw",
            "az vm auto-shutdown: ERROR: (Conflict) what nobody foresaw",
        ),
    ],
)
def test_failure_is_named_with_its_remedy_and_what_exists_and_up_goes_on(
    model: Model, capsys: pytest.CaptureFixture[str], at: str, said: str, told: str
) -> None:
    model.fails(at, said)
    with pytest.raises(UserError, match=re.escape(told)):
        up(shutdown="1900")
    assert "scripts/azure down --name anna removes it" in capsys.readouterr().out
    model.is_mended()
    azure.up(None, None, None, Wishes(source=HERE, repository=REPOSITORY_URL, shutdown="1900"))
    assert last_line(capsys) == LINK
    assert model.group()["vms"]["anna"]["shutdown"] == "1900"
    assert model.commands().count("vm create") == (2 if at == "vm create" else 1)


def test_ctrl_c_asks_nothing_and_says_what_exists(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(azure, "_ssh", interrupt)
    with pytest.raises(KeyboardInterrupt):
        up()
    assert last_line(capsys).endswith("scripts/azure up goes on, scripts/azure down --name anna removes it.")
    assert "anna" in model.state()["groups"]


@pytest.mark.parametrize(
    ("facts", "wishes", "told"),
    [
        ({"used": 8}, {}, "needs 4 cores, and of 'standardDSv5Family' in swedencentral your quota has 2 of 10 left"),
        ({"limit": 0}, {"gpu": True}, "has 0 of 0 left: ask for more in the portal under Quotas"),
        ({"limit": 0}, {"spot": True}, "of 'lowPriorityCores'"),
        ({}, {"region": "nowhere"}, "nowhere has no Standard_D4s_v5 .* --region: westeurope"),
        ({"version": "2.30.1"}, {}, r"az is 2.30.1, and 2.50 or newer is needed: az upgrade"),
        ({"accounts": []}, {}, "you are not logged in: az login"),
        (
            {"accounts": [{"id": "1", "name": "Lesson"}, {"id": "2", "name": "Company"}]},
            {},
            "several subscriptions could pay: name one of them, --subscription NAME: Company, Lesson",
        ),
        ({}, {"subscription": "Mine"}, "there is no subscription Mine: .*: Lesson"),
        ({"groups": {"anna": {"tags": {"owner": "ben@example.org"}}}}, {}, "is ben@example.org's: another --name"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_made(
    model: Model, facts: dict[str, Any], wishes: dict[str, Any], told: str
) -> None:
    model.has(**facts)
    with pytest.raises(UserError, match=told):
        up(**wishes)
    assert not [command for command in model.commands() if "create" in command]


def test_machine_without_az_is_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    (model.folder / "bin/az").unlink()
    monkeypatch.setenv("PATH", str(model.folder / "bin"))
    with pytest.raises(UserError, match="there is no command `az`: install the Azure CLI"):
        up()


EVERYBODY_AND_NOBODY = ["*", "0.0.0.0/0", "8.0.0.0/8", "10.0.0.4", "Internet", "127.0.0.1", "8.8.8.8/24", "::1"]


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        *(({"source": source}, source) for source in EVERYBODY_AND_NOBODY),
        ({"shutdown": "25:00"}, "HHMM"),
        ({"shutdown": "2460"}, "HHMM"),
        ({"idle": 5}, "at least 20 minutes"),
        ({"repository": "git@example.org:x.git"}, "cannot fetch from git@example.org"),
        ({"name": "Anna_1"}, "small letters"),
    ],
)
def test_bad_wish_is_refused_before_anything_is_asked(model: Model, wishes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)) as refused:
        up(**wishes)
    assert refused.value.exit_code == 2
    assert model.calls() == []


def test_commit_that_its_origin_has_not_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], cwd=tmp_path, check=True)

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message=one")
    git("remote", "add", "origin", REPOSITORY_URL)
    monkeypatch.setattr(plan.places, "REPOSITORY", tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/bootstrap-vm").touch()
    with pytest.raises(UserError, match="this checkout's commit is not at its origin: push it"):
        plan.cloud_config(Vm("anna"), Wishes())
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    assert REPOSITORY_URL in plan.cloud_config(Vm("anna"), Wishes())


def test_two_people_in_one_subscription_get_two_vms(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = []
    for user in ("anna", "ben"):
        monkeypatch.setattr(azure, "_RECORD", model.folder / f"{user}.json")
        monkeypatch.setattr(azure.getpass, "getuser", lambda user=user: user)
        both.append(azure.new_name())
        up(both[-1])
        assert last_line(capsys) == LINK
    assert [name.rpartition("-")[0] for name in both] == ["pytorch-anna", "pytorch-ben"]
    assert sorted(model.state()["groups"]) == sorted(both)
    assert all(len(group["vms"]) == 1 for group in model.state()["groups"].values())


# Between the VM and its link.


def test_gpu_whose_driver_waits_for_a_reboot_gets_one(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    model.vm_says("BLOCKED", "status: running", "12:00:00 a reboot is due, for it\nstatus: done", "BLOCKED", LINK)
    up(gpu=True)
    assert model.commands().count("vm restart") == 1
    assert last_line(capsys) == LINK


def test_bootstrap_that_failed_is_told_with_its_last_line(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    model.vm_says("12:00:00 engine: the disk is full\nstatus: error")
    with pytest.raises(UserError, match="its workspace is not: 12:00:00 engine: the disk is full"):
        up()
    assert "scripts/azure down --name anna removes it" in capsys.readouterr().out


def test_where_ssh_is_blocked_azures_agent_tells_the_link(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(azure, "_BOOTS_WITHIN_S", 0)
    model.vm_says("BLOCKED")
    (model.folder / "agent").write_text(LINK)
    up()
    shown = capsys.readouterr().out
    assert "ssh does not get there (has your address changed? scripts/azure allow)" in shown
    assert shown.splitlines()[-1] == LINK


# A VM that is there.


@pytest.fixture
def anna(model: Model) -> Model:
    up()
    (model.folder / "calls").unlink()
    return model


def run(command: str, **options: object) -> None:
    getattr(azure, command)(azure.find(None, None, None), **options)


def test_commands_mean_the_vm_that_was_made_last_or_the_one_that_is_named(anna: Model) -> None:
    assert azure.find(None, None, None) == Vm("anna")
    assert azure.find("ben", "westeurope", None) == Vm("ben", "westeurope")
    (anna.folder / "azure.json").unlink()
    with pytest.raises(UserError, match="no VM was made from this checkout"):
        azure.find(None, None, None)


def test_allow_replaces_the_address_in_every_rule(anna: Model) -> None:
    run("allow", source="9.9.9.9")
    assert anna.group()["rules"] == {"allow-22": ["9.9.9.9/32"], "allow-8888": ["9.9.9.9/32"]}


def test_vm_that_is_stopped_is_deallocated_and_has_a_link_again_when_it_is_started(
    anna: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    run("link")
    assert last_line(capsys) == LINK
    run("stop")
    assert anna.group()["vms"]["anna"]["power"] == "VM deallocated"
    assert "still costs" in last_line(capsys)
    with pytest.raises(UserError, match=r"it does not run \(VM deallocated\): scripts/azure start"):
        run("link")
    run("start", size=None)
    assert last_line(capsys) == LINK


def test_status_says_what_runs_and_what_costs(
    anna: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("status")
    first = capsys.readouterr().out
    assert "VM running, Standard_D4s_v5\n" in first
    assert "a price that cannot be asked for now" in first
    prices = [("Standard", 0.2, "Virtual Machines"), ("D4s v5 Spot", 0.04, "Virtual Machines"), ("D4s", 0.1, "Windows")]
    items = [{"skuName": name, "retailPrice": price, "productName": product} for name, price, product in prices]
    told = json.dumps({"Items": items}).encode()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: contextlib.closing(BytesIO(told)))
    run("status")
    shown = capsys.readouterr().out
    assert "0.200 USD an hour" in shown
    assert "Deallocated: its disk and public address." in shown
    assert len(anna.calls()) == 6


def test_start_in_another_size_keeps_the_disk_and_bootstraps_again(anna: Model) -> None:
    run("start", size="Standard_NC4as_T4_v3")
    assert anna.commands()[2:] == ["vm deallocate", "vm resize", "vm start"]
    assert anna.group()["vms"]["anna"]["size"] == "Standard_NC4as_T4_v3"
    assert "sudo sh /var/lib/cloud/instance/scripts/runcmd" in (anna.folder / "ssh-calls").read_text()


def test_down_names_what_it_deletes_and_leaves_nothing(anna: Model, capsys: pytest.CaptureFixture[str]) -> None:
    run("down", yes=True)
    shown = capsys.readouterr().out
    assert "virtualMachines         anna\n" in shown
    assert shown.endswith("Nothing is left.\n")
    assert anna.state()["groups"] == {}
    assert not (anna.folder / "azure.json").exists()


@pytest.mark.parametrize("typed", ["y", "", None])
def test_down_asks_and_takes_no_other_answer_than_the_name(
    anna: Model, monkeypatch: pytest.MonkeyPatch, typed: str | None
) -> None:
    def answer(_: str) -> str:
        if typed is None:
            raise EOFError
        return typed

    monkeypatch.setattr("builtins.input", answer)
    with pytest.raises(UserError, match="nothing is deleted"):
        run("down", yes=False)
    assert "anna" in anna.state()["groups"]
    monkeypatch.setattr("builtins.input", lambda _: "anna")
    run("down", yes=False)
    assert anna.state()["groups"] == {}


def test_down_that_azure_does_not_complete_is_told(anna: Model) -> None:
    anna.fails("group delete", "(ScopeLocked) The scope cannot perform delete operation because it is locked")
    with pytest.raises(UserError, match="ScopeLocked"):
        run("down", yes=True)
    assert azure.find(None, None, None) == Vm("anna")


def test_idle_vm_may_deallocate_itself_and_nothing_else(model: Model) -> None:
    up(idle=60)
    [role] = model.state()["roles"]
    assert role["Actions"] == ["Microsoft.Compute/virtualMachines/deallocate/action"]
    assigned = next(call for call in model.calls() if call[:3] == ["role", "assignment", "create"])
    assert assigned[assigned.index("--scope") + 1].endswith(
        "/resourceGroups/anna/providers/Microsoft.Compute/virtualMachines/anna"
    )
    run("down", yes=True)
    assert model.state()["roles"] == []


@pytest.mark.parametrize(("shutdown", "hour"), [(None, "1900"), ("2200", "2200")])
def test_where_no_identity_may_be_lent_the_clock_stops_the_vm(
    model: Model, capsys: pytest.CaptureFixture[str], shutdown: str | None, hour: str
) -> None:
    model.fails("role assignment create", "(AuthorizationFailed) The client 'anna' does not have authorization")
    up(idle=60, shutdown=shutdown)
    shown = capsys.readouterr().out
    assert f"in its place: shutdown at {hour} UTC, every day" in shown
    assert shown.splitlines()[-1] == LINK
    assert model.group()["vms"]["anna"]["shutdown"] == hour


def test_command_line_is_understood(checkout: Path, model: Model) -> None:
    made = command(checkout, "scripts/azure", "up", "--name=anna", f"--allow={HERE}", f"--repository={REPOSITORY_URL}")
    assert (made.returncode, made.stdout.splitlines()[-1]) == (0, LINK), made.stderr
    gone = command(checkout, "scripts/azure", "down", "--yes")
    assert (gone.returncode, model.state()["groups"]) == (0, {}), gone.stderr
    printed = command(checkout, "scripts/azure", "up", "--dry-run", "--tunnel", "--repository", REPOSITORY_URL)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.count("az network nsg rule create") == 1
    assert "--source-address-prefixes YOUR-ADDRESS --destination-port-ranges 22" in printed.stdout
    for words, told in (
        (["up", "--tls", "--tunnel"], "not allowed with"),
        (["link"], "no VM was made from this checkout"),
    ):
        refused = command(checkout, "scripts/azure", *words)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert told in refused.stderr


@pytest.mark.skipif("WORKSPACE_TEST_AZ" not in os.environ, reason="WORKSPACE_TEST_AZ names no Azure CLI")
def test_real_az_understands_every_command(model: Model, tmp_path: Path) -> None:
    up(gpu=True, spot=True, idle=60, shutdown="1900")
    for name, options in (
        ("allow", {"source": "9.9.9.9"}),
        ("status", {}),
        ("stop", {}),
        ("start", {"size": "Standard_D4s_v5"}),
        ("down", {"yes": True}),
    ):
        run(name, **options)
    calls = [call for call in model.calls() if call[0] not in ("version", "account")]
    # Asked by hand alone, where ssh is blocked or a reboot is due.
    calls += [["vm", "restart", *Vm("anna").it]]
    calls += [
        ["vm", "run-command", "invoke", *Vm("anna").it, "--command-id", "RunShellScript", "--scripts", azure._LOOK]
    ]
    environment = os.environ | {"AZURE_CONFIG_DIR": str(tmp_path / "config"), "AZURE_CORE_COLLECT_TELEMETRY": "false"}
    read = set()
    for call in calls:
        if tuple(map(without_values, call)) in read:
            continue
        read.add(tuple(map(without_values, call)))
        asked = programs.ask(os.environ["WORKSPACE_TEST_AZ"], *call, env=environment)
        assert (asked.returncode, "az login" in asked.stderr) == (1, True), f"{call}: {asked.stderr}"
    wrong = [os.environ["WORKSPACE_TEST_AZ"], "vm", "start", *Vm("anna").it, "--fast"]
    assert programs.ask(*wrong, env=environment).returncode == 2


def without_values(word: str) -> str:
    return word if word.startswith("--") or word.isalpha() else ""
