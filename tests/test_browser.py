"""The page as people use it: `aws-lottery inspect --web` and the Space, each in a process of its own, in Chromium.

Skipped where there is no Chromium (in /usr/bin, or at the environment variable CHROMIUM) or no gradio.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from aws_lottery import Result, SignedMask, provenance

pytest.importorskip("gradio", reason="pip install 'aws-lottery[web]'")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'aws-lottery[test]'")

ROOT = Path(__file__).parent.parent
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
START, PATIENCE = 200, 90  # seconds, for a machine that does much else: a server's start, anything on the page
playwright.expect.set_options(timeout=1000 * PATIENCE)
TABS = ("Layers", "Card", "Compare", "Try it")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
HITS = (  # each sets window.hit if it runs
    "<img src=x onerror='window.hit=1'>",
    "</td></table><script>window.hit=1</script>",
    "${window.hit=1}",
    "{{#with window}}{{hit}}{{/with}}",
    '" onmouseover="window.hit=1" x="',
)
# Keeps each caption that the table of accuracies ever had: a slow browser may show one for less than a test's look.
KEEP_CAPTIONS = """
window.captions = []
const keep = () => document.querySelectorAll("table.accuracies caption").forEach(each => captions.push(each.innerText))
new MutationObserver(keep).observe(document.body, {childList: true, subtree: true, characterData: true})
"""
# Notes each address outside this machine that the server asks for, then runs what it is given.
GUARD = """
import socket, sys, runpy
log, *sys.argv = sys.argv[1:]
def noted(function):
    def inner(*args, **kwargs):
        host = next((a for a in args if isinstance(a, (str, tuple))), None)
        host = host[0] if isinstance(host, tuple) else host
        if host not in (None, "127.0.0.1", "::1", "localhost", "0.0.0.0"):
            open(log, "a").write(f"{function.__name__} {host}\\n")
        return function(*args, **kwargs)
    return inner
socket.getaddrinfo = noted(socket.getaddrinfo)
socket.socket.connect = noted(socket.socket.connect)
if sys.argv[0] == "aws_lottery":
    from aws_lottery.cli.main import main
    sys.exit(main(sys.argv[1:]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no Chromium at {CHROMIUM}; CHROMIUM says where it is"),
]


@dataclass
class Server:
    process: subprocess.Popen
    url: str
    outside: Path  # lines of addresses that it asked for on other machines


@contextmanager
def served(folder: Path, *argv: str) -> Iterator[Server]:
    """`aws_lottery ARGV`, or a script, in a new process with an empty home, at a free port."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "HF_", "SPACE_"))}
    settings = {
        "PYTHONPATH": str(ROOT / "src"),
        "GRADIO_SERVER_PORT": str(port),
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "BROWSER": "true",  # the program of that name, which opens nothing
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", GUARD, str(folder / "outside.txt"), *argv]
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, env={**kept, **settings}, cwd=folder, stdout=log, stderr=log)
    try:
        yield Server(process, f"http://127.0.0.1:{port}", folder / "outside.txt")
    finally:
        process.terminate()
        process.wait()


def wait_for(server: Server) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and server.process.poll() is None:
        try:
            urllib.request.urlopen(server.url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail((server.outside.parent / "log.txt").read_text())


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    """hostile: names, card and results of an attacker; broken: signs that are cut off."""
    folder = tmp_path_factory.mktemp("masks")
    values = {hit: torch.tensor([[1, 0, -1, 0]], dtype=torch.int8) for hit in HITS}
    results = [Result(HITS[0], HITS[1], values=[1.0])]
    mask = SignedMask(values, results=results, provenance=provenance(command=HITS[0], dataset=HITS[2], date=HITS[3]))
    mask.save_pretrained(folder / "hostile")
    (folder / "hostile/README.md").write_text("\n\n".join(["# Card", *HITS, "[x](javascript:window.hit=1)", *HITS]))
    mask.save_pretrained(folder / "broken")
    whole = (folder / "broken/signed_mask.safetensors").read_bytes()
    (folder / "broken/signed_mask.safetensors").write_bytes(whole[:-5])
    return folder


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[dict[str, Server]]:
    """Both ways to the page, started at once: `inspect --web` on the digits, and the Space."""
    folder = tmp_path_factory.mktemp("served")
    command = ("aws_lottery", "inspect", str(ROOT / "model_cards/digits"), "--web")
    with (
        served(folder / "local", *command) as local,
        served(folder / "space", str(ROOT / "spaces/mask-viewer/app.py")) as space,
    ):
        wait_for(local)
        wait_for(space)
        yield {"local": local, "space": space}
        for server in (local, space):  # about all that the tests made them do
            assert not server.outside.exists(), server.outside.read_text()


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    with playwright.sync_playwright() as starter, tempfile.TemporaryDirectory() as profile:
        context = starter.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=FLAGS
        )
        yield context
        context.close()


@dataclass
class Visit:
    """A tab of the browser, and what happened in it."""

    page: object
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def show(self, mask: str) -> None:
        box = self.page.get_by_label("Mask", exact=True)
        box.fill(mask)
        box.press("Enter")
        self.page.get_by_role("button", name="Show").click()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def sees(self, selector: str, text: str | None = None) -> str:
        """The text of the first such element, once it is there."""
        found = self.page.locator(selector, has_text=text).first
        found.wait_for()
        return found.inner_text()


@pytest.fixture
def visit(chromium, servers):
    visits = []

    def open_page(server: str = "local", size: dict = DESK, scheme: str = "light") -> Visit:
        seen = Visit(chromium.new_page())
        visits.append(seen)
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.set_default_timeout(1000 * PATIENCE)
        seen.page.set_viewport_size(size)
        seen.page.emulate_media(color_scheme=scheme)
        seen.page.goto(servers[server].url)
        seen.sees(".figures")
        return seen

    yield open_page
    for each in visits:
        addresses = {url.split("/")[2].split(":")[0] for url in each.requests if url.startswith(("http", "ws"))}
        assert addresses == {"127.0.0.1"}
        assert each.errors == []
        each.page.close()


def test_the_mask_of_the_command_line_is_shown(visit):
    seen = visit()
    assert "model_cards/digits" in seen.sees(".summary h2")
    assert "0.0180" in seen.sees(".figures")
    assert "22.weight" in seen.sees("#layers table")
    assert seen.page.locator("#layers figure img").count() == 8
    seen.tab("Card")
    assert "52.50 ± 3.49" in seen.sees("#card")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_nothing_scrolls_sideways(visit, size, scheme):
    seen = visit(size=size, scheme=scheme)
    for tab in TABS:
        seen.tab(tab)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= size["width"], tab


def test_a_training_is_watched_epoch_by_epoch(visit):
    seen = visit()
    seen.tab("Try it")
    seen.page.evaluate(KEEP_CAPTIONS)
    slider = seen.page.get_by_label("range slider for Epochs")
    playwright.expect(slider).to_have_value("10")  # what is filled in before the slider has its value is lost
    seen.page.get_by_label("number input for Epochs").fill("12")
    playwright.expect(slider).to_have_value("12")
    seen.page.get_by_role("button", name="Train").click()
    seen.sees("table.accuracies caption", "after 12 epochs")
    assert any("of 12 epochs so far" in caption for caption in seen.page.evaluate("window.captions"))
    rows = [row.split("\t") for row in seen.sees("table.accuracies tbody").splitlines() if row.strip()]
    before = {name.strip(): float(first) for name, first, _ in rows}
    after = {name.strip(): float(last) for name, _, last in rows}
    assert before["fresh + signed mask"] > 30 > before["fresh + mask only"]
    assert after["dense"] > before["dense"] + 50
    assert seen.page.locator("#training circle.signs").count() == 13


def test_a_mask_of_another_network_is_not_trained(visit):
    seen = visit()
    seen.show("cifar10-resnet8-aws-0.11")
    seen.sees(".summary h2", "cifar10")
    seen.tab("Try it")
    seen.page.get_by_role("button", name="Train").click()
    assert "was made for resnet8; this page trains the perceptron" in seen.sees("#training .problem")


def test_two_masks_are_compared(visit):
    seen = visit()
    seen.tab("Compare")
    seen.page.get_by_label("Other mask").fill("digits")
    seen.page.get_by_label("Other mask").press("Enter")
    seen.page.get_by_role("button", name="Compare").click()
    assert "both keep 1.0000 (by chance 0.0295)" in seen.sees("#likeness p", "by chance")
    seen.page.get_by_label("Other mask").fill("tiny32-resnet20-aws-0.13")
    seen.page.get_by_label("Other mask").press("Enter")
    seen.page.get_by_role("button", name="Compare").click()
    assert "the masks are not of one network" in seen.sees("#likeness .problem")


def test_a_broken_mask_is_answered_by_what_is_wrong(visit, masks):
    seen = visit()
    seen.show(str(masks / "broken"))
    problem = seen.sees('.problem[role="alert"]')
    assert f"{masks / 'broken'} can't be shown" in problem
    assert "signed_mask.safetensors" in problem
    seen.show(str(masks / "missing"))
    assert "give a folder that save_pretrained wrote, or a Hub id" in seen.sees(".problem", "missing")


def test_nothing_of_a_hostile_mask_runs(visit, masks):
    seen = visit()
    seen.show(str(masks / "hostile"))
    seen.sees(".summary h2", "hostile")
    seen.page.locator(".summary summary").click()
    for tab in TABS:
        seen.tab(tab)
        seen.page.locator(".summary, #layers, #card").all_inner_texts()
    seen.tab("Card")
    card = seen.sees("#card")
    seen.tab("Layers")
    layers = seen.sees("#layers table")
    for hit in HITS:
        assert hit in card
        assert hit in layers
    seen.page.locator("#layers th .name").last.hover()
    assert seen.page.evaluate("window.hit") is None
    assert seen.page.locator("#card a, #card img, #card script, #layers script, #layers img[src='x']").count() == 0


def test_the_space_reads_no_folders_of_its_server(visit, masks):
    seen = visit("space")
    assert "or a folder" not in seen.page.locator("body").inner_text()
    for folder in (str(masks / "hostile"), "../masks", "~/mask"):
        seen.show(folder)
        assert "is no id on the Hub" in seen.sees(".problem", folder)


def test_everything_has_a_name_for_those_who_do_not_see(visit):
    seen = visit()
    for tab in TABS:
        seen.tab(tab)
        unnamed = seen.page.evaluate(
            """[...document.querySelectorAll("input, select, textarea, button")].filter(e => e.offsetParent !== null)
            .filter(e => !(e.getAttribute("aria-label") || e.labels?.length || e.innerText?.trim() || e.title
                || e.getAttribute("aria-labelledby"))).map(e => e.outerHTML.slice(0, 200))"""
        )
        assert unnamed == [], tab
    assert seen.page.locator("img:not([alt])").count() == 0
    assert seen.page.locator("h1").count() == 1
    assert seen.page.locator("html").get_attribute("lang") == "en"


def test_the_keyboard_is_enough(visit):
    seen = visit()
    box = seen.page.get_by_label("Mask", exact=True)
    box.focus()
    box.fill("cifar10-resnet8-aws-0.11")
    seen.page.keyboard.press("Enter")
    seen.sees(".summary h2", "cifar10")
    for _ in range(12):
        seen.page.keyboard.press("Tab")
        if seen.page.evaluate("document.activeElement.innerText") == "Card":
            break
    seen.page.keyboard.press("Enter")
    assert "ResNet" in seen.sees("#card") or "resnet" in seen.sees("#card")


@pytest.mark.parametrize("server", ["local", "space"])
def test_the_server_gives_away_no_files_and_takes_none(servers, server, masks):
    url = servers[server].url
    for path in (ROOT / "pyproject.toml", masks / "hostile/README.md", "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match=r"40[34]"):
            urllib.request.urlopen(f"{url}/gradio_api/file={path}", timeout=PATIENCE)
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nsome text\r\n--x--\r\n'
    upload = urllib.request.Request(
        f"{url}/gradio_api/upload", form, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with pytest.raises(urllib.error.HTTPError, match=r"4\d\d"):
        urllib.request.urlopen(upload, timeout=PATIENCE)


def test_the_browser_is_told_to_load_nothing_from_elsewhere(servers):
    with urllib.request.urlopen(servers["space"].url, timeout=PATIENCE) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    with urllib.request.urlopen(f"{servers['space'].url}/gradio_api/info", timeout=PATIENCE) as answer:
        assert json.load(answer)["named_endpoints"] == {}
