"""The workspace as a person meets it: Chromium follows the printed link and runs the lesson."""

import os
import re
from pathlib import Path

from labs import REPOSITORY, Container, Lab
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect
from workspace.base.places import LESSON

PICTURE = REPOSITORY / "tests/pictures/lab.png"
SMALL = {"dataset": "drawn", "epochs": 10.0, "train_images": 2000}


def set_parameters(lab: Lab, **values: object) -> None:
    """Edit the lesson's parameters cell, as a person would type."""
    lesson = lab.get(f"/api/contents/{LESSON}", lab.token).json()["content"]
    cell = next(cell for cell in lesson["cells"] if "parameters" in cell["metadata"].get("tags", []))
    for name, value in values.items():
        cell["source"], edits = re.subn(rf"(?m)^({name}: \w+ = ).*?(  #|$)", rf"\g<1>{value!r}\g<2>", cell["source"])
        assert edits == 1, name
    saved = lab.request("PUT", f"/api/contents/{LESSON}", lab.token, json={"type": "notebook", "content": lesson})
    assert saved.status_code == 200


def open_lesson(page: Page, lab: Lab) -> None:
    page.goto(lab.link)
    expect(page.get_by_role("heading", name="Your first image classifier with PyTorch")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=60_000)


def printed(page: Page, last: str) -> str:
    """What the lesson's cells print, once they have come to `last` and none is running."""
    expect(page.get_by_text(re.compile(last))).to_be_attached(timeout=300_000)
    expect(page.locator(".jp-InputPrompt", has_text="[*]")).to_have_count(0, timeout=300_000)
    expect(page.locator("[data-mime-type='application/vnd.jupyter.error']")).to_have_count(0)
    return "\n".join(page.locator(".jp-OutputArea-output").all_text_contents())


def test_link_shows_the_lesson_with_its_results_before_anything_runs(container_lab: Lab, page: Page) -> None:
    open_lesson(page, container_lab)
    page.get_by_text(re.compile("Accuracy of the network on the")).last.scroll_into_view_if_needed()
    page.get_by_text(re.compile("Accuracy of truck")).scroll_into_view_if_needed()
    shown = printed(page, "Accuracy of truck")
    assert re.search(r"Accuracy of the network on the 10000 test images: \d+ %", shown)
    if os.environ.get("WORKSPACE_PICTURES"):  # the README's picture is made again with this variable set
        heading = page.get_by_role("heading", name="7. Look at what it learned")
        heading.evaluate("heading => heading.scrollIntoView()")
        expect(page.locator("img[alt^='24 images']")).to_be_visible()  # drawn only now, and moves what is below
        heading.evaluate("heading => heading.scrollIntoView()")
        page.screenshot(path=PICTURE)


def collect_curves(page: Page) -> None:
    """Have the page keep each picture that the training's cell shows, from now on, in `window.curves`."""
    page.evaluate(
        """() => {
            window.curves = new Set();
            new MutationObserver(() => {
                for (const cell of document.querySelectorAll('.jp-CodeCell'))
                    if (cell.textContent.includes('charts.Curves('))
                        for (const picture of cell.querySelectorAll('img')) window.curves.add(picture.src);
            }).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ['src']});
        }"""
    )


def run_cell_by_cell(page: Page) -> None:
    """Press Shift+Enter in every cell, as a person without a mouse does, who waits until nothing runs any more."""
    for cell in range(1, int(page.get_by_text(re.compile(r"^Cell 1/\d+$")).inner_text().partition("/")[2])):
        page.keyboard.press("Shift+Enter")
        expect(page.get_by_text(f"Cell {cell + 1}/")).to_be_visible()
        expect(page.locator(".jp-InputPrompt", has_text="[*]")).to_have_count(0, timeout=300_000)
    page.keyboard.press("Shift+Enter")


def pictures(page: Page) -> list[bool]:
    """For each cell that draws something, whether a picture of some size stands below it."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.jp-CodeCell')]
            .filter(cell => /charts\\.(pictures|Curves|class_bars|confusion|looked)\\(|classify\\(output/.test(
                cell.querySelector('.jp-Cell-inputWrapper').textContent))
            .map(cell => [...cell.querySelectorAll('img')].some(picture => picture.naturalWidth > 300))"""
    )


def test_newcomer_runs_all_cells_and_sees_an_accuracy_for_each_class(fresh: Container, page: Page) -> None:
    lab = fresh.start()
    set_parameters(lab, **SMALL)
    page.emulate_media(color_scheme="dark")  # which the lab follows
    open_lesson(page, lab)
    collect_curves(page)
    run_cell_by_cell(page)
    expect(page.locator("body[data-jp-theme-light='false']")).to_be_attached()
    shown = printed(page, '"test_accuracy_star": ')
    assert re.search(r"Accuracy of the network on the \d+ test images: \d+ %", shown)
    assert len(re.findall(r"^Accuracy of \w+ : +\d+ %$", shown, re.MULTILINE)) == 10
    assert page.evaluate("window.curves.size") >= 3, "the curves did not move"
    assert pictures(page) == [True] * 13
    page.emulate_media(color_scheme="light")
    expect(page.locator("body[data-jp-theme-light='true']")).to_be_attached()
    assert pictures(page) == [True] * 13

    cell = page.locator(".jp-CodeCell", has_text="charts.upload(classify)")
    button = cell.get_by_role("button", name="Choose a picture")
    button.scroll_into_view_if_needed()
    with page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(cell.get_by_text("notes.txt cannot be read as a picture: no image.")).to_be_visible()
    with page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files(PICTURE)
    expect(cell.locator("img")).to_be_visible()


HALF = """\
import time
from pathlib import Path
from lesson import charts

curves = charts.Curves(10)
with curves:
    for _ in curves.follow(range(40)):
        if curves.due:
            curves.add(2 / curves.step, curves.step / 50)
        if curves.step == 20:
            print("half of it")
            while not Path("go-on.txt").exists():
                time.sleep(0.05)
"""


def test_training_goes_on_while_its_tab_is_closed_and_is_shown_on_return(native_lab: Lab, browser: Browser) -> None:
    native_lab.save_notebook("leave.ipynb", HALF)
    link = native_lab.link.replace("/?", "/lab/workspaces/leave/tree/leave.ipynb?")

    def open_tab() -> Page:
        tab = browser.new_page()
        tab.goto(link)
        expect(tab.get_by_text(re.compile(r"Python 3 \(ipykernel\) \| (Idle|Busy)"))).to_be_visible(timeout=60_000)
        return tab

    tab = open_tab()
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(tab.locator(".jp-OutputArea-output", has_text="half of it")).to_be_visible(timeout=60_000)
    tab.close()
    native_lab.request(
        "PUT", "/api/contents/go-on.txt", native_lab.token, json={"type": "file", "format": "text", "content": ""}
    )
    tab = open_tab()
    tab.get_by_role("menuitem", name="Edit", exact=True).click()
    tab.get_by_role("menuitem", name="Clear Outputs of All Cells", exact=True).click()
    tab.locator(".jp-CodeCell .cm-content").click()
    tab.keyboard.press("Control+a")
    tab.keyboard.insert_text("curves.show()")
    tab.keyboard.press("Shift+Enter")
    expect(tab.locator("img[alt^='Two curves over 4 of 4 epochs. Loss: from 0.10 to 0.05.']")).to_be_visible(
        timeout=60_000
    )
    tab.close()
    for name in ("leave.ipynb", "go-on.txt"):
        native_lab.request("DELETE", f"/api/contents/{name}", native_lab.token)


def test_page_without_the_token_asks_for_it(container_lab: Lab, page: Page) -> None:
    page.goto(container_lab.url)
    expect(page.get_by_text("Token authentication is enabled")).to_be_visible()
    page.locator("#password_input").fill("f" * 64)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("Invalid credentials")).to_be_visible()


def test_reason_for_a_kernels_death_stands_below_the_cell_that_ran(container_lab: Lab, page: Page) -> None:
    dying = "import os, time\nprint('working', flush=True)\ntime.sleep(1)\nos.kill(os.getpid(), 7)"
    container_lab.save_notebook("die.ipynb", dying)
    # A lab workspace of its own: in the shared one the lesson's tab may come back and be what is run.
    page.goto(container_lab.link.replace("/?", "/lab/workspaces/death/tree/die.ipynb?"))
    expect(page.get_by_text("time.sleep")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("appears to have died", timeout=60_000)
    below = page.locator(".jp-OutputArea-output")
    expect(below.filter(has_text="The kernel was ended by SIGBUS")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Ok").click()
    container_lab.request("DELETE", "/api/contents/die.ipynb", container_lab.token)


def test_picture_of_a_phone_is_taken_and_what_cannot_be_read_takes_no_older_answer_for_its_own(
    native_lab: Lab, page: Page, tmp_path: Path
) -> None:
    """12 megapixels of noise, 11 MB: more than a phone's pictures have, and than Jupyter's own limit takes."""
    photo = tmp_path / "photo.jpg"
    Image.effect_noise((4000, 3000), 90).convert("RGB").save(photo, quality=95)
    assert photo.stat().st_size > 10 << 20
    code = "from lesson import charts, images\ncharts.upload(lambda file: print('seen', images.decode(file).shape))"
    native_lab.save_notebook("upload.ipynb", code)
    page.goto(native_lab.link.replace("/?", "/lab/workspaces/upload/tree/upload.ipynb?"))
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    button = page.get_by_role("button", name="Choose a picture")
    answers = page.locator(".jp-OutputArea-output pre")

    def choose(file: Path | FilePayload) -> None:
        with page.expect_file_chooser(timeout=60_000) as chooser:
            button.click()
        chooser.value.set_files(file)

    choose(photo)
    expect(answers).to_have_text(["seen (32, 32, 3)"], timeout=60_000)
    choose({"name": "IMG_1.HEIC", "mimeType": "image/heic", "buffer": b"\0\0\0\x18ftypheic" + bytes(50)})
    expect(answers).to_have_text(["IMG_1.HEIC cannot be read as a picture: a HEIC picture; save it as JPEG first."])
    choose(photo)
    expect(answers).to_have_text(["seen (32, 32, 3)"], timeout=60_000)
    large = tmp_path / "scan.tif"
    with large.open("wb") as file:
        file.truncate(70 << 20)  # more than a message may have
    choose(large)
    expect(answers).to_have_text(["scan.tif has 73 MB, more than the 60 that fit. Save it smaller, or as JPEG."])
    native_lab.request("DELETE", "/api/contents/upload.ipynb", native_lab.token)
