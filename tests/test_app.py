"""The web page draws what the pipeline draws, says what is wrong in one line, and needs an address that is free."""

import socket
import sys

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError as Told
from PIL import Image

from data_pipelines.instruction import Instruction, Reference
from experiments import stage2
from imagen_jax import app, main, pipeline
from imagen_jax.runs import RunError
from imagen_jax.workdir import write_json
from tests import small_run

TEXT = "Draw [ref#2] again."


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    config = stage2.get_config()
    config.sample.update(steps=2, count=2)
    return pipeline.open_pipeline(config, small_run.write_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def client(opened, tmp_path_factory):
    """A client of the page, as it is served, with one example."""
    workdir = tmp_path_factory.mktemp("served")
    Image.new("RGB", (8, 8), "red").save(workdir / "red.png")
    reference = {"marker": "[ref#1]", "text": "a red square", "image": "red.png"}
    example = write_json(workdir / "red.json", {"text": "Draw [ref#1].", "references": [reference]})
    page = app.make_app(opened, [example])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app.launch(page, "127.0.0.1", port, workdir)
    yield Client(f"http://127.0.0.1:{port}", verbose=False)
    page.close()


def slots(path):
    """The page's three slots, with a picture in the second alone; the first holds an empty canvas."""
    blank = path.with_name("blank.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(blank)
    drawn = [{"background": None, "layers": [], "composite": handle_file(str(each))} for each in (blank, path)]
    return [drawn[0], "", drawn[1], "a square", None, ""]


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "given.png")
    return tmp_path / "given.png", pixels


def test_it_draws_as_the_pipeline_does(client, opened, picture):
    path, pixels = picture
    gallery = client.predict(TEXT, 3, *slots(path), api_name="/draw")
    shown = np.stack([np.asarray(Image.open(each["image"]).convert("RGB")) for each in gallery])
    instruction = Instruction(TEXT, (Reference("[ref#2]", "a square", pixels),))
    np.testing.assert_array_equal(shown, pipeline.draw(opened, instruction, seed=3, count=2)["base"])


@pytest.mark.parametrize("seed", [-1, 2**32])  # their keys are those of 2**32 - 1 and 0
def test_a_seed_that_would_repeat_another_is_refused(opened, seed):
    with pytest.raises(RunError, match=f"seed {seed}: must be from 0 to 4294967295"):
        pipeline.draw(opened, Instruction("Draw it."), seed)


@pytest.mark.parametrize(
    ("text", "told"),
    {
        "Draw [ref#1].": "text: [ref#1] has no reference; add one, or take it out of the text",
        " ": "text: is empty; say what to draw",
        "Draw it.": "references[0]: marker: [ref#2] is not in the text",
    }.items(),
)
def test_an_instruction_that_cannot_be_followed_is_told_on_the_page(text, told, client, picture):
    given = slots(picture[0]) if text == "Draw it." else [None, ""] * 3
    with pytest.raises(Told) as error:
        client.predict(text, 0, *given, api_name="/draw")
    assert str(error.value).startswith(told)


def test_an_address_that_is_taken_is_told_before_anything_is_loaded(tmp_path):
    config = stage2.get_config()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config.serve.port = taken.getsockname()[1]
        with pytest.raises(app.AppError, match=r"config\.serve: cannot serve at .* choose another") as told:
            app.serve(config, tmp_path / "nothing here")
    assert "\n" not in str(told.value)


def test_no_pictures_is_an_error():
    config = stage2.get_config()
    config.sample.count = 0
    with pytest.raises(RunError, match=r"config\.sample\.count=0 must be at least 1"):
        pipeline.open_pipeline(config, "released")


def test_without_gradio_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "imagen_jax.app")
    monkeypatch.delattr("imagen_jax.app")
    with pytest.raises(ValueError, match=r"^--mode=serve needs gradio: pip install -e '\.\[app\]'$"):
        main._serve(stage2.get_config(), tmp_path)
