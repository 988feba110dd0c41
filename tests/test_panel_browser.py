"""The panel as a person meets it: typed into, clicked and tabbed through in a real browser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import Lab, NativeServer, free_port, wait_until
from playwright.sync_api import Browser, Locator, Page, expect
from small import PARAMETERS, environment, notebook
from workspace.panel import panel as panels
from workspace.panel.watch import Watch
from workspace.runs.folders import Record
from workspace.runs.notebook import Notebook
from workspace.sweeps.ranking import Metric

SLOW_MS = 60_000
HOSTILE = "<img src=x onerror=\"document.title='hacked'\">"
RUNS = f"""
import json, time
from pathlib import Path

print("a" * 10_000_000)
print({HOSTILE!r}, "\\x1b[31mred", "b" * 10_000)
for step in range(1, 101):
    print(f"step {{step}} of 100", flush=True)
    time.sleep(rate)
Path(output_folder, "metrics.json").write_text(json.dumps({{"accuracy": x / 10, "loss": 1 - x / 10}}))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> NativeServer:
    return NativeServer(tmp_path_factory.mktemp("panel"), free_port())


@pytest.fixture(scope="module")
def lab(server: NativeServer) -> Iterator[Lab]:
    """A lab whose work folder has a hostile run in it."""
    run = server.folder / "work/runs/hostile"
    run.mkdir(parents=True)
    record = Record(
        status="failed", error=HOSTILE, notebook=f"/{HOSTILE}.ipynb", given={HOSTILE: HOSTILE}, started="no time"
    )
    record.write(run / "run.json")
    with server.running() as lab:
        yield lab


@pytest.fixture
def work(server: NativeServer, lab: Lab) -> Path:  # noqa: ARG001
    return server.folder / "work"


def open_panel(page: Page, lab: Lab, work: Path, name: str) -> Locator:
    """The panel of a notebook of that name, called as a person calls it, by keyboard."""
    file = work / f"{name}.ipynb"
    if not file.exists():
        notebook(file, "from workspace import panel\npanel.show()", RUNS, parameters=PARAMETERS)
    # A lab workspace of its own: in the shared one other tabs come back.
    page.goto(lab.link.replace("/?", f"/lab/workspaces/{name}/tree/{name}.ipynb?"))
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=SLOW_MS)
    page.locator(".jp-CodeCell", has_text="panel.show()").click()
    page.keyboard.press("Shift+Enter")
    panel = page.locator(".workspace-panel")
    expect(panel.get_by_role("heading", name=f"Rerun {name}.ipynb")).to_be_visible(timeout=SLOW_MS)
    return panel


def test_a_run_is_asked_for_refused_started_watched_left_found_again_and_stopped(
    browser: Browser, lab: Lab, work: Path
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    panel = open_panel(page, lab, work, "story")
    panel.get_by_label("x", exact=True).fill("77")
    refusal = panel.get_by_text("x = 77 makes no sense here. Allowed: 0 to 10 (int).")
    expect(refusal).to_be_visible(timeout=SLOW_MS)
    expect(panel.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    panel.get_by_label("x", exact=True).fill("5")
    panel.get_by_label("rate", exact=True).fill("1")
    expect(refusal).to_be_hidden(timeout=SLOW_MS)
    panel.get_by_role("button", name="Run", exact=True).click()
    row = panel.locator(".work", has_text="story · x 5, rate 1")
    expect(row).to_contain_text(re.compile(r"cell 4 of 4 · step \d+ of 100 · .*about .* left"), timeout=SLOW_MS)
    row.get_by_role("button", name="Log of").click()
    log = panel.locator("pre")
    expect(log).to_contain_text("step 3 of 100", timeout=SLOW_MS)
    expect(log).to_contain_text(f"{HOSTILE} red bbbb")
    assert len(log.inner_text()) < 20_000, "long lines are cut"
    page.close()
    [kernel] = [one["kernel"]["id"] for one in lab.get("/api/sessions", lab.token).json() if "story" in one["path"]]
    assert lab.request("POST", f"/api/kernels/{kernel}/restart", lab.token).ok

    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    panel = open_panel(page, lab, work, "story")
    panel.get_by_role("button", name="Stop the run").click()
    panel.get_by_role("button", name="Keep").click()
    expect(row := panel.locator(".work")).to_be_visible()
    panel.get_by_role("button", name="Stop the run").click()
    panel.locator(".said").get_by_role("button", name="Stop", exact=True).click()
    expect(row).to_be_hidden(timeout=SLOW_MS)
    expect(panel.locator("tr", has_text="stopped")).to_be_visible()
    [record] = work.glob("runs/story-*/run.json")
    assert json.loads(record.read_text())["status"] == "stopped"
    assert page.title() != "hacked", "what a run has in it is text"
    expect(panel.locator("tr", has_text="failed").locator(".error")).to_have_text(HOSTILE)
    page.close()


def test_a_sweep_of_four_is_counted_first_then_compared_removed_and_taken_back_in_the_dark_on_a_narrow_page(
    browser: Browser, lab: Lab, work: Path
) -> None:
    page = browser.new_page(viewport={"width": 900, "height": 1000}, color_scheme="dark")
    panel = open_panel(page, lab, work, "many")
    panel.get_by_label("rate", exact=True).fill("0.01")  # 1 s a run: long enough to be seen under way
    panel.get_by_label("x", exact=True).fill("2, 4")
    panel.get_by_label("seed", exact=True).fill("0, 1")
    start = panel.get_by_role("button", name="Start 4 runs")
    expect(start).to_be_visible(timeout=SLOW_MS)
    expect(panel.locator(".start .hint")).to_contain_text("every combination of x and seed", timeout=SLOW_MS)
    start.click()
    expect(panel.locator(".sweep .words")).to_contain_text(" of 4 done", timeout=SLOW_MS)
    for mean in ("0.2", "0.4"):
        expect(panel.locator("tr", has_text=f"{mean} ± 0 of 2 seeds")).to_be_visible(timeout=SLOW_MS)
    [report] = wait_until(lambda: list(work.glob("runs/many-sweep-*/report.html")))
    for mean in ("0.2", "0.4"):
        panel.locator("tr", has_text=f"{mean} ±").get_by_role("checkbox").check()
    panel.get_by_role("button", name="Compare").click()
    link = panel.get_by_role("link", name="Open the report")
    expect(link).to_be_visible(timeout=SLOW_MS)
    opens = json.loads(link.get_attribute("data-commandlinker-args"))
    assert (work / opens["path"]).read_text().startswith("<!doctype html>")
    assert len(list(report.parent.glob("x-*/run.json"))) == 4
    panel.get_by_role("button", name="Remove 4 runs").click()
    expect(panel.get_by_text("Remove 4 runs? You can take it back.")).to_be_visible()
    panel.get_by_role("button", name="Remove", exact=True).click()
    take_back = panel.locator(".said").get_by_role("button", name="Take back")
    expect(take_back).to_be_visible(timeout=SLOW_MS)
    assert not list(report.parent.glob("x-*"))
    take_back.click()
    expect(panel.get_by_text("4 taken back")).to_be_visible(timeout=SLOW_MS)
    assert len(list(report.parent.glob("x-*/run.json"))) == 4
    ground = panel.locator("tbody tr").first.evaluate("row => getComputedStyle(row).backgroundColor")
    assert max(map(int, re.findall(r"\d+", ground)[:3])) < 60, "the page is dark"
    for part in (panel, panel.locator(".scroll")):
        assert part.evaluate("part => part.scrollWidth <= part.clientWidth"), "it fits the page"
    page.close()


def test_all_of_it_goes_by_keyboard_and_a_saved_notebook_shows_a_still(page: Page, lab: Lab, work: Path) -> None:
    panel = open_panel(page, lab, work, "keys")
    panel.get_by_label("x", exact=True).focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("3")
    page.keyboard.press("Tab")
    expect(panel.get_by_label("Back to the default of x, 1")).to_be_focused()
    page.keyboard.press("Tab")
    expect(panel.get_by_label("rate", exact=True)).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("0.001")
    page.keyboard.press("Enter")
    row = panel.locator("tr", has=page.get_by_label("Select keys-"))
    expect(row).to_be_visible(timeout=SLOW_MS)
    row.get_by_role("checkbox").focus()
    page.keyboard.press("Space")
    expect(panel.get_by_text("1 selected")).to_be_visible()
    page.keyboard.type("dd")  # deletes a cell where the lab hears it
    expect(panel).to_be_visible()
    panel.get_by_role("button", name="Same values in the form").focus()
    page.keyboard.press("Enter")
    expect(panel.get_by_label("x", exact=True)).to_have_value("3", timeout=SLOW_MS)
    page.keyboard.press("Control+s")
    saved = work / "keys.ipynb"
    wait_until(lambda: "Run this cell to use it" in saved.read_text())
    assert "widget-view" not in saved.read_text()
    page.reload()
    expect(page.get_by_text("Run this cell to use it.")).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_text("Error displaying widget")).to_have_count(0)


ELSEWHERE = """async ([code, style, first, config]) => {
  document.body.innerHTML = `<style>${style}</style><div id="panel"></div>`;
  if (config) document.head.innerHTML += `<script id="jupyter-config-data" type="application/json">${config}</script>`;
  window.sent = [];
  const on = (_, hear) => (window.hears = hear);
  const model = { get: () => first, on, off: () => {}, send: (wish) => sent.push(wish) };
  const { default: widget } = await import(`data:text/javascript,${encodeURIComponent(code)}`);
  widget.render({ model, el: document.getElementById("panel") });
}"""


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[panels.Panel]:
    """A panel of a work folder with two runs that differ in many parameters."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    source = Notebook.read(notebook(tmp_path / "here.ipynb", parameters=PARAMETERS))
    for number in range(2):
        (run := tmp_path / f"runs/r{number}").mkdir(parents=True)
        notebook(run / "here.ipynb")
        values = {f"a_parameter_{at}": f"{at} of {number}" for at in range(8)}
        Record(status="completed", notebook="here.ipynb", parameters=values).write(run / "run.json")
    watch = Watch()
    watch.look()
    panel = panels.Panel(watch, source, Metric("accuracy", "max"))
    yield panel
    panel.end()


def elsewhere(page: Page, panel: panels.Panel, config: str = "") -> Locator:
    """The panel's page in one that is not the lab's, and without a kernel."""
    files = [Path(panels.__file__).with_suffix(kind).read_text() for kind in (".js", ".css")]
    page.evaluate(ELSEWHERE, [*files, panel.first, config])
    return page.locator(".workspace-panel")


def test_links_lead_below_the_labs_own_address_and_nowhere_outside_of_jupyter(page: Page, first: panels.Panel) -> None:
    panel = elsewhere(page, first)
    expect(panel.locator("tbody tr")).to_have_count(2)
    page.evaluate("""hears({ said: { done: "compared: runs/c/report.html", open: "runs/c/report.html" } })""")
    expect(panel.get_by_text("compared: runs/c/report.html")).to_be_visible()
    expect(panel.locator("a")).to_have_count(0)
    panel = elsewhere(page, first, json.dumps({"baseUrl": "/user/x/"}))
    links = panel.locator("a").evaluate_all("all => all.map((one) => one.getAttribute('href'))")
    assert sorted(links) == [f"/user/x/lab/tree/runs/r{number}/here.ipynb" for number in range(2)]


def test_a_table_that_does_not_fit_takes_several_lines_a_run_and_none_is_cut(page: Page, first: panels.Panel) -> None:
    panel = elsewhere(page, first)
    for width in (2000, 600, 900):
        page.set_viewport_size({"width": width, "height": 900})
        expect(panel.locator(".scroll")).to_have_class("scroll" if width == 2000 else "scroll narrow")
        assert panel.locator(".scroll").evaluate("box => box.scrollWidth <= box.clientWidth")
    expect(panel.locator("tbody tr").first).to_contain_text("7 of ")


def test_what_is_removed_is_asked_for_first_and_the_harmless_answer_is_at_hand(page: Page, first: panels.Panel) -> None:
    panel = elsewhere(page, first)
    panel.get_by_label("Select r0").check()
    panel.get_by_role("button", name="Remove r0").click()
    expect(panel.get_by_role("button", name="Keep")).to_be_focused()
    assert not page.evaluate("sent.some((wish) => wish.do === 'remove')")
    panel.get_by_role("button", name="Remove", exact=True).click()
    assert page.evaluate("sent.at(-1).do") == "remove"


def test_a_sweep_starts_when_its_number_of_runs_was_shown_and_not_before(page: Page, first: panels.Panel) -> None:
    def wishes() -> list[str]:
        return page.evaluate("sent.map((wish) => wish.do)")

    panel = elsewhere(page, first)
    page.wait_for_function("sent.some((wish) => wish.do === 'check')")
    panel.get_by_label("x", exact=True).fill("1,2")
    page.keyboard.press("Enter")
    page.wait_for_function("sent.filter((wish) => wish.do === 'check').length === 2")
    checked = first._checked({"x": "1,2"})
    page.evaluate("checked => hears({ checked })", checked | {"number": 2})
    expect(panel.get_by_role("button", name="Start 2 runs")).to_be_visible()
    assert "start" not in wishes()
    page.keyboard.press("Enter")
    assert wishes()[-1] == "start"
