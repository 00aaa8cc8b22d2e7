"""What the page in the browser is made of: where masks may come from, their cards and tables as HTML, and the training
that is watched. tests/test_browser.py looks at the page itself."""

import asyncio
import re
import runpy
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from hub_fixtures import LFS_UPLOAD_WARNING, use_hub
from loopback_hub import LoopbackHub
from torch import tensor

from aws_lottery import HubError, SignedMask, TrainingConfig, train
from aws_lottery.data import digit_images
from aws_lottery.evaluation import accuracy_of
from aws_lottery.mask_algebra import likeness
from aws_lottery.models.perceptron import fresh_perceptron

pytest.importorskip("gradio", reason="pip install 'aws-lottery[web]'")

from aws_lottery.web import digits, views
from aws_lottery.web.card import card_html
from aws_lottery.web.page import page
from aws_lottery.web.sources import Opened, Sources, local, public, shipped_in

ROOT = Path(__file__).parent.parent
EVIL = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


def small_mask(name: str = "a.weight") -> SignedMask:
    return SignedMask({name: tensor([[1, 0, -1, 0], [1, 0, 1, 0]], dtype=torch.int8)}, parameters=10)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        use_hub(hub, monkeypatch, tmp_path / "home")
        yield hub


# The card


def test_html_in_a_card_is_shown_as_text():
    html = card_html(f"{EVIL}\n\nText <img src=x onerror=alert(1)>\n\n| a |\n|---|\n| <b> |\n")
    assert ESCAPED in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "<td>&lt;b&gt;</td>" in html


def test_comments_and_front_matter_of_a_card_are_left_out():
    assert card_html("---\nlicense: mit\n---\n\n<!-- mark -->\n\nText <!-- more -->\n") == "<p>Text </p>\n"


def test_pictures_of_a_card_are_not_fetched():
    assert card_html("![a chart](https://elsewhere.org/x.png)") == "<p>[picture: a chart]</p>\n"


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "x"]
)
def test_a_card_links_to_nothing_but_the_web(address):
    assert "<a" not in card_html(f"[here]({address})")


def test_a_link_of_a_card_tells_nobody_where_it_was():
    html = card_html('[here](https://a.org/?x="y)')
    assert (
        html == '<p><a href="https://a.org/?x=%22y" target="_blank" rel="nofollow noopener noreferrer">here</a></p>\n'
    )


def test_headings_of_a_card_stand_below_those_of_the_page():
    assert card_html("# One\n\n## Two\n\n##### Five") == "<h3>One</h3>\n<h4>Two</h4>\n<h6>Five</h6>\n"


def test_a_card_of_hundreds_of_comments_takes_no_time():
    assert card_html("<!-- " * 50_000 + "x") != ""


# Where masks may come from


def test_a_shipped_mask_is_opened_by_its_name(tmp_path):
    small_mask().save_pretrained(tmp_path / "masks" / "mine")
    opened = public(tmp_path / "masks").open("mine")
    assert opened.mask == small_mask()
    assert "# Signed mask" in opened.card


def test_the_masks_of_the_checkout_are_offered():
    assert {"digits", "cifar10-resnet8-aws-0.11"} <= local().shipped.keys()


def test_a_folder_is_opened_on_ones_own_machine(tmp_path):
    small_mask().save_pretrained(tmp_path / "mask")
    (tmp_path / "mask/README.md").unlink()
    opened = local(tmp_path).open(f" {tmp_path / 'mask'} ")
    assert (opened.mask, opened.card) == (small_mask(), "")


@pytest.mark.parametrize("name", ["/etc", "..", "../masks/mine", "~/masks", "mine2", "a\\b", "a/b/c"])
def test_a_public_page_reads_no_folders(tmp_path, name):
    with pytest.raises(ValueError, match="is no id on the Hub; choose one of the list, or give owner/name"):
        public(tmp_path).open(name)


def test_a_public_page_asks_the_hub_where_a_folder_has_the_name(tmp_path, monkeypatch, hub):
    small_mask().save_pretrained(tmp_path / "secret/mask")
    monkeypatch.chdir(tmp_path)
    assert local().open("secret/mask").mask == small_mask()
    with pytest.raises(HubError, match="no repository 'secret/mask' on the Hub"):
        public(tmp_path).open("secret/mask")


@pytest.mark.filterwarnings(LFS_UPLOAD_WARNING)
def test_a_mask_on_the_hub_comes_with_its_card(hub):
    small_mask().push_to_hub("me/mask")
    opened = local().open("me/mask", "main")
    assert opened.mask == small_mask()
    assert 'from_pretrained("me/mask")' in opened.card


@pytest.mark.filterwarnings(LFS_UPLOAD_WARNING)
def test_a_public_page_does_not_show_what_its_token_may_read(tmp_path, hub):
    small_mask().push_to_hub("me/private", private=True)
    with pytest.raises(HubError, match="no repository 'me/private' on the Hub"):
        public(tmp_path).open("me/private")
    assert local().open("me/private").mask == small_mask()


@pytest.mark.filterwarnings(LFS_UPLOAD_WARNING)
def test_a_file_that_is_too_large_is_not_downloaded(hub):
    small_mask().push_to_hub("me/mask")
    before = hub.count("GET *signed_mask.safetensors")
    with pytest.raises(ValueError, match=r"config.json of 'me/mask' at 'main' has [\d,]+ bytes, expected at most 100;"):
        Sources(max_bytes=100).open("me/mask")
    assert hub.count("GET *signed_mask.safetensors") == before


def test_a_mask_of_too_many_entries_is_refused(tmp_path):
    small_mask().save_pretrained(tmp_path / "mask")
    with pytest.raises(ValueError, match="it declares more than 7 elements"):
        Sources({"mask": tmp_path / "mask"}, max_parameters=7).open("mask")


@pytest.mark.parametrize("name", ["~nobody-of-that-name/mask", "/nowhere", "./nowhere"])
def test_a_folder_that_is_not_there_is_answered_by_what_to_give(name):
    with pytest.raises(FileNotFoundError, match="give a folder that save_pretrained wrote, or a Hub id"):
        local().open(name)


@pytest.mark.parametrize("name", ["", " ", None])
def test_no_name_is_answered_by_what_may_be_given(name):
    with pytest.raises(ValueError, match=r"no mask is chosen; choose one of the list, or give an id on the Hub"):
        local().open(name)


def test_a_revision_is_no_path():
    with pytest.raises(ValueError, match="is no revision"):
        Sources(folders=False).open("me/mask", "../../x")


# Tables and charts


def opened(mask: SignedMask, folder: Path) -> Opened:
    mask.save_pretrained(folder)
    return Opened(EVIL, mask, folder, "")


def test_names_of_layers_and_masks_are_escaped_wherever_they_stand(tmp_path):
    mask = small_mask(EVIL)
    for html in (
        views.layers_html(mask),
        views.summary_html(opened(mask, tmp_path)),
        views.likeness_html(EVIL, EVIL, likeness(mask, mask)),
        views.problem_html(EVIL, ValueError(EVIL)),
    ):
        assert "<script" not in html
        assert ESCAPED in html


def test_a_layer_has_a_row_with_its_shares_and_a_map():
    html = views.layers_html(small_mask())
    assert "2x4 · 8" in html
    assert "0.5000" in html  # 4 of 8 remain
    assert "0.75" in html  # 3 of these 4 are +
    assert 'alt="Map of a.weight: 0.5000 remaining, 0.75 of that +"' in html
    assert "width: 75.00%" in html


def test_bars_end_at_the_layer_with_most_left():
    values = {"a": tensor([1, 1, 0, 0], dtype=torch.int8), "b": tensor([1, 0, 0, 0], dtype=torch.int8)}
    widths = re.findall(r'class="left" style="width: ([\d.]+)%', views.layers_html(SignedMask(values)))
    assert widths == ["100.00", "50.00"]


def test_a_layer_with_nothing_left_has_no_signs():
    html = views.layers_html(SignedMask({"a": tensor([0, 0], dtype=torch.int8)}))
    assert "nothing remains" in html
    assert "nan" not in html.lower().replace("aria", "")


def test_a_mask_without_signs_says_so(tmp_path):
    html = views.layers_html(small_mask().binary())
    assert '<th scope="col">signs</th>' in html
    assert "minus" not in html


def test_a_mask_of_many_layers_is_shown_in_part():
    html = views.layers_html(SignedMask({f"layer{i}": tensor([1], dtype=torch.int8) for i in range(310)}))
    assert "10 more tensors are not shown" in html
    assert html.count("<tr>") == 1 + 300
    assert html.count("<img") == 60


def test_likeness_stands_beside_chance():
    other = SignedMask({"a.weight": tensor([[1, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.int8)}, parameters=10)
    html = views.likeness_html("one", "two", likeness(small_mask(), other))
    assert "both keep <b>0.4000</b>" in html  # 2 of the 5 places that either has
    assert "<b>0.5000</b> of the signs are the same" in html


def test_a_chart_goes_from_the_lower_left_to_the_upper_right():
    chart = views.Chart(epochs=2)
    assert chart.points([0.0, 50.0, 100.0]) == [(46.0, 274.0), (336.0, 143.0), (626.0, 12.0)]


# The training that is watched


def test_a_mask_of_another_network_does_not_fit_the_digits():
    assert "does not fit this Sequential" in (digits.misfit(small_mask()) or "")


def test_the_mask_of_the_demo_fits_the_digits():
    assert digits.misfit(SignedMask.from_pretrained(ROOT / "model_cards/digits")) is None


def test_each_start_is_measured_before_training_and_after_each_epoch():
    mask = SignedMask.from_pretrained(ROOT / "model_cards/digits")
    steps = [[len(curve.accuracies) for curve in curves] for curves in digits.watch(mask, seed=1, epochs=1)]
    assert steps == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1], [2, 2, 1], [2, 2, 2]]


def test_what_is_watched_is_a_training_as_any_other():
    *_, curves = digits.watch(SignedMask.from_pretrained(ROOT / "model_cards/digits"), seed=3, epochs=2)
    data, model, accelerator = digit_images("train"), fresh_perceptron(seed=3), Accelerator(cpu=True)
    train(model, data, TrainingConfig(epochs=2, batch_size=64), accelerator=accelerator, seed=3)
    accuracy = accuracy_of(model, digit_images("test"), train_data=data, batch_size=64, accelerator=accelerator)
    assert [curve.name for curve in curves] == ["fresh + signed mask", "fresh + mask only", "dense"]
    assert curves[-1].accuracies[-1] == accuracy


def test_a_mask_without_signs_is_not_trained_with_signs():
    mask = SignedMask.from_pretrained(ROOT / "model_cards/digits").binary()
    assert [curve.start for curve in next(digits.watch(mask, seed=1, epochs=1))] == ["mask", "dense"]


@pytest.mark.parametrize(("seed", "epochs"), [(1, 0), (1, 21), (-1, 1), (2**32, 1)])
def test_seed_and_epochs_are_bounded(seed, epochs):
    with pytest.raises(ValueError, match=r"epochs must be in 1..20 and seed in 0..2\^32-1"):
        next(digits.watch(small_mask(), seed=seed, epochs=epochs))


# The Space


def test_the_space_shows_shipped_and_public_masks_only(monkeypatch):
    seen = []
    monkeypatch.setattr("aws_lottery.web.page.serve", seen.append)
    runpy.run_path(str(ROOT / "spaces/mask-viewer/app.py"), run_name="__main__")
    (sources,) = seen
    assert sources == public(ROOT / "model_cards")
    assert (sources.folders, sources.token) == (False, False)
    assert "digits" in sources.shipped


def test_the_space_asks_for_the_gradio_that_the_tests_ran_with():
    front_matter = (ROOT / "spaces/mask-viewer/README.md").read_text().split("---")[1]
    pinned = re.search(r"gradio==(\S+)", (ROOT / "constraints.txt").read_text())
    assert pinned
    assert f"sdk_version: {pinned[1]}\n" in front_matter


def test_the_page_has_no_endpoints_for_programs(tmp_path):
    async def built():  # within a loop, as gradio leaves open the one that it makes otherwise
        return page(public(tmp_path))

    assert asyncio.run(built()).get_api_info()["named_endpoints"] == {}


def test_no_masks_are_offered_where_there_are_none(tmp_path):
    assert shipped_in(tmp_path / "missing") == {}
