"""The page: a Gradio app. Whatever a mask holds reaches it through views.py and card.py, which escape it."""

import os
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
import gradio as gr
from gradio.themes import Base

from ..mask_algebra import likeness
from . import digits, views
from .card import card_html
from .offline import middleware
from .sources import Opened, Sources

TITLE = "Look at a signed mask"
INTRO = (
    "A signed mask says of every weight of a network whether it is pruned, and which sign it has otherwise. Multiplied "
    "with the magnitudes of a fresh initialization it makes a sparse network, to be trained from there."
)
DIGITS = (
    "Three copies of one fresh network, an 8-layer perceptron, learn the handwritten digits of scikit-learn: with the "
    "signs of the mask, with the mask alone, and dense. All start from the same initialization."
)
COMPARE = "Two masks of one network: how many weights both keep, and how many signs agree."
FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]  # of the reader's machine: nothing is loaded from elsewhere
MONOSPACE = ["ui-monospace", "Consolas", "monospace"]
FIRST = "digits"  # of the shipped masks: the one that all of the page is for
WRONG = (OSError, ValueError)  # what a mask, its source or its place in a network raise; their messages say what to do


def page(sources: Sources, *, chosen: str | None = None, revision: str | None = None) -> gr.Blocks:
    """The app, not launched yet.

    Args:
        chosen: the mask to show first; None: one of `sources.shipped`, if there are any.
    """
    shipped = sorted(sources.shipped, key=lambda name: name != FIRST)
    names = [chosen, *(name for name in shipped if name != chosen)] if chosen else shipped
    with gr.Blocks(title=TITLE, analytics_enabled=False) as app:
        gr.HTML(f"<h1>{TITLE}</h1><p>{INTRO}</p>", elem_classes="intro")
        with gr.Row():
            mask, at = _choice(("Mask", "Revision"), sources, names, names[0] if names else None, revision)
            show = gr.Button("Show", variant="primary", scale=0, min_width=120, elem_classes="go")
        summary = gr.HTML(elem_id="summary")
        with gr.Tabs():
            with gr.Tab("Layers", id="layers"):
                layers = gr.HTML(elem_id="layers")
            with gr.Tab("Card", id="card"):
                card = gr.HTML(elem_id="card")
            with gr.Tab("Compare", id="compare"):
                compared = _compare_tab(sources, names, mask, at)
            with gr.Tab("Try it", id="digits"):
                trained = _digits_tab(sources, mask, at)
        outputs = [summary, layers, card, compared, trained]  # the last two were about another mask
        chosen_mask: dict[str, Any] = {"fn": _shower(sources), "inputs": [mask, at], "outputs": outputs}
        for event in (show.click, at.submit, mask.input, app.load):
            _on(event, **chosen_mask)
    return app


def serve(
    sources: Sources, *, chosen: str | None = None, revision: str | None = None, in_browser: bool = False
) -> None:
    """Show the page on 127.0.0.1 (or GRADIO_SERVER_NAME, which a Space sets), until it is interrupted.

    Args:
        in_browser: open it in the browser of this machine.
    Raises: OSError if no port is free (GRADIO_SERVER_PORT asks for one).
    """
    app = page(sources, chosen=chosen, revision=revision)
    print(f"The page is at {launched(app, inbrowser=in_browser)} (Ctrl-C ends it).", flush=True)
    app.block_thread()


def launched(app: gr.Blocks, **options: Any) -> str:
    """Start the server of `page` and return its address. `options` are those of gradio's `launch`.

    Left out is what would talk to other machines, or take files of visitors: analytics, a public link, uploads,
    monitoring, a history of runs, an endpoint for programs.
    """
    app.queue(max_size=32, default_concurrency_limit=4)
    _, url, _ = app.launch(
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size=1,
        theme=_theme(),
        css=files(__package__ or "").joinpath("page.css").read_text(encoding="utf-8"),
        app_kwargs={"middleware": middleware(), "docs_url": None, "redoc_url": None, "openapi_url": None},
        **options,
    )
    return url


def _theme() -> Base:
    theme = Base(primary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=MONOSPACE)
    return theme.set(  # white on it has a contrast of 5.2; on gradio's own blue 3.7
        button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700"
    )


def _choice(
    labels: tuple[str, str], sources: Sources, names: list[str], value: str | None, revision: str | None = None
) -> tuple[gr.Dropdown, gr.Textbox]:
    kinds = f"One of the list, {sources.kinds}"
    mask = gr.Dropdown(names, value=value, label=labels[0], info=kinds, allow_custom_value=True, scale=3, min_width=240)
    at = gr.Textbox(
        revision or "", label=labels[1], info="Branch, tag or commit on the Hub", max_length=200, min_width=240
    )
    return mask, at


def _compare_tab(sources: Sources, names: list[str], mask: Any, at: Any) -> gr.HTML:
    with gr.Row():
        other, other_at = _choice(("Other mask", "Its revision"), sources, names, None)
        compare = gr.Button("Compare", variant="primary", scale=0, min_width=120, elem_classes="go")
    result = gr.HTML(elem_id="likeness")
    _on(compare.click, fn=_comparer(sources), inputs=[mask, at, other, other_at], outputs=[result])
    return result


def _digits_tab(sources: Sources, mask: Any, at: Any) -> gr.HTML:
    gr.HTML(views.note_html(DIGITS))
    with gr.Row():
        seed = gr.Number(
            1, label="Seed", info="Of the initialization", precision=0, minimum=0, maximum=2**32 - 1, min_width=240
        )
        epochs = gr.Slider(
            1, digits.MAX_EPOCHS, value=10, step=1, label="Epochs", info="Of each training", scale=2, min_width=240
        )
        start = gr.Button("Train", variant="primary", scale=0, min_width=120, elem_classes="go")
    result = gr.HTML(elem_id="training")
    _on(start.click, fn=_trainer(sources), inputs=[mask, at, seed, epochs], outputs=[result], concurrency_id="training")
    return result


def _on(event: Callable[..., Any], *, concurrency_id: str | None = None, **arguments: Any) -> None:
    """An event of the page alone: no endpoint for programs. One training at a time, as it takes a core."""
    limit = 1 if concurrency_id else "default"
    event(**arguments, api_visibility="private", show_progress="minimal", concurrency_limit=limit, trigger_mode="once")


def _shower(sources: Sources) -> Callable[[str, str], tuple[str, ...]]:
    def show(name: str, revision: str) -> tuple[str, ...]:
        if not (name or "").strip():
            return views.note_html(f"Choose a mask: {sources.kinds}."), "", "", "", ""
        try:
            opened = sources.open(name, revision)
            card = card_html(opened.card) or views.note_html("This mask has no card.")
            return views.summary_html(opened), views.layers_html(opened.mask), str(card), views.note_html(COMPARE), ""
        except WRONG as error:
            return views.problem_html(f"{name} can't be shown", error), "", "", "", ""

    return show


def _comparer(sources: Sources) -> Callable[[str, str, str, str], str]:
    def compare(first: str, first_at: str, second: str, second_at: str) -> str:
        try:
            masks = [sources.open(first, first_at), sources.open(second, second_at)]
            return views.likeness_html(first, second, likeness(*(opened.mask for opened in masks)))
        except WRONG as error:
            return views.problem_html("These two can't be compared", error)

    return compare


def _trainer(sources: Sources) -> Callable[[str, str, float, float], Iterator[str]]:
    def run(name: str, revision: str, seed: float, epochs: float) -> Iterator[str]:
        try:
            mask = _for_digits(sources.open(name, revision))
            yield views.note_html("Reading the digits …")
            epochs = int(epochs)
            for curves in digits.watch(mask, seed=int(seed), epochs=epochs):
                running = any(len(curve.accuracies) <= epochs for curve in curves)
                yield views.training_html(name, curves, epochs, running=running)
        except WRONG as error:
            yield views.problem_html("Nothing was trained", error)

    return run


def _for_digits(opened: Opened) -> Any:
    """The mask. Raises: ValueError if it is not one for the perceptron that is trained here."""
    if digits.misfit(opened.mask):
        made_for = (opened.mask.config and opened.mask.config.architecture) or "another network"
        raise ValueError(
            f"{opened.name} was made for {made_for}; this page trains the perceptron 64-8x128-10 of the digits. Choose "
            f"a mask of that network, such as '{FIRST}', which the project ships"
        )
    return opened.mask
