"""--mode=serve: the web demo. An instruction as people write it, with pictures given or drawn by hand; pictures out.

The page is Gradio's, and is served to this machine alone unless config.serve.host says otherwise. Its function is open
to programs too, as /draw (gradio_client).
"""

import itertools
import json
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from logging import getLogger
from pathlib import Path

import gradio as gr
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from data_pipelines.images import read_image
from data_pipelines.instruction import Instruction, Reference, layout_of, load_instruction
from data_pipelines.loader import make_loader
from data_pipelines.text import MARKER
from imagen_jax.evaluation.training_report import write_instructions
from imagen_jax.pipeline import MAX_SEED, Pipeline, draw, open_pipeline

TITLE = "Instruct-Imagen"
HELP = (
    "Say what to draw, and name the pictures below where you mean them: *color the line drawing [ref#1]: a red apple*."
)
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts from elsewhere
CANVAS = 256  # pixels, the side of what is drawn by hand
# An editor shows a picture at once and sends it a moment later, 0.7 s as seen; until then it sends the one of before.
SETTLE = "() => new Promise(go => setTimeout(go, 1500))"
COLOURS = ["#000000", "#ffffff", "#d7263d", "#f5a623", "#ffdd33", "#3fa34d", "#2f6fde", "#8b572a"]


class AppError(ValueError):
    """A page that cannot be served; one line with the mend."""


def serve(config: ConfigDict, workdir: Path) -> None:
    """Serve the model of config.sample.run, or else of `workdir`, at config.serve until Ctrl-C.

    Held-out instructions of `config.data` are the page's examples; they are written to workdir/instructions.

    Raises:
      AppError, RunError, CheckpointError, CascadeError, LoaderError: one line, with the mend.
    """
    _check_address(config.serve.host, config.serve.port)  # first: the cheapest thing that can be wrong
    pipeline = open_pipeline(config, workdir)
    loader = make_loader(config.data, layout_of(pipeline.base.config), "test", config.seed)
    examples = write_instructions(loader, workdir / "instructions")
    logging.info("compiling, by drawing once")
    draw(pipeline, load_instruction(examples[0]), count=config.sample.count)
    app = make_app(pipeline, examples)
    launch(app, config.serve.host, config.serve.port, workdir / "instructions")
    print(f"serving at http://{config.serve.host}:{config.serve.port}, Ctrl-C stops", flush=True)
    app.block_thread()


def make_app(pipeline: Pipeline, examples: Sequence[Path]) -> gr.Blocks:
    """The page, which draws sample.count pictures an instruction; `examples` are instruction files."""
    slots = pipeline.base.config.data.max_references
    with gr.Blocks(title=TITLE, analytics_enabled=False) as app:
        gr.Markdown(f"# {TITLE}\n{HELP}")
        with gr.Row():
            text = gr.Textbox(label="instruction", lines=2, autofocus=True, scale=8)
            seed = gr.Number(label="seed", value=0, minimum=0, maximum=MAX_SEED, precision=0, min_width=100)
            button = gr.Button("Draw", variant="primary", min_width=100)
        with gr.Row():
            references = [*itertools.chain.from_iterable(_reference(k + 1) for k in range(slots))]
        pictures = gr.Gallery(label="pictures", format="png", columns=4, height=CANVAS + 64, object_fit="contain")
        settled = gr.on([button.click, text.submit], None, js=SETTLE, api_visibility="private")
        settled.then(partial(_answer, pipeline), [text, seed, *references], pictures, api_name="draw")
        gr.Examples([_example(path, slots) for path in examples], [text, *references], label="held-out instructions")
    return app


def _reference(number: int) -> Iterator[gr.components.Component]:
    """The inputs of one reference slot: its picture and what it shows."""
    marker = f"[ref#{number}]"
    with gr.Column(min_width=CANVAS):
        yield gr.ImageEditor(
            label=marker, type="filepath", format="png", canvas_size=(CANVAS, CANVAS), sources=("upload", "clipboard"),
            width=CANVAS + 84, height=CANVAS + 100,  # with the tools; without a width, Gradio draws it off centre
            layers=False, brush=gr.Brush(colors=COLOURS, default_size=6),
        )  # fmt: skip
        yield gr.Textbox(label=f"what {marker} shows", placeholder="a fox")


def _example(path: Path, slots: int) -> list:
    """The row of an instruction file: the text, then picture and text of each slot."""
    load_instruction(path)  # which says what is wrong with a file that was changed
    fields, row = json.loads(path.read_text(encoding="utf-8")), [None, ""] * slots
    for each in fields.get("references", []):
        if (number := int(MARKER.fullmatch(each["marker"])[1])) <= slots:
            row[2 * number - 2 : 2 * number] = str(path.parent / each["image"]), each["text"]
    return [fields["text"], *row]


def _answer(pipeline: Pipeline, text: str, seed: int | None, *slots) -> list[np.ndarray]:
    """The largest pictures that the cascade makes; what is wrong with the input is told on the page."""
    try:
        instruction = Instruction(text, tuple(_references(slots[::2], slots[1::2])), source="")
        return [*draw(pipeline, instruction, seed or 0, pipeline.sample.count).popitem()[1]]
    except ValueError as error:
        raise gr.Error(str(error).removeprefix(": "), print_exception=False) from None


def _references(editors: Sequence[dict | None], phrases: Sequence[str]) -> Iterator[Reference]:
    """Those whose slots hold a picture, an uploaded or a drawn one: an empty canvas is white."""
    for number, (editor, phrase) in enumerate(zip(editors, phrases, strict=True), start=1):
        if editor and editor["composite"] and ((image := read_image(editor["composite"])) < 255).any():
            yield Reference(f"[ref#{number}]", phrase, image)


def launch(app: gr.Blocks, host: str, port: int, examples: Path) -> None:
    """Begin to serve the page, whose examples' pictures lie in the folder `examples`; returns at once."""
    getLogger("httpx").setLevel("WARNING")
    app.launch(
        server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, theme=THEME,
        footer_links=[], allowed_paths=[str(examples.resolve())],
    )  # fmt: skip


def _check_address(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            told = f"config.serve: cannot serve at {host}:{port} ({error}); choose another host or port"
            raise AppError(told) from None
