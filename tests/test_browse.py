"""The page shows what the model will see, escapes whatever the data holds, and needs nothing from outside."""

import base64
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("array_record")

from data_pipelines import records, stored
from data_pipelines.browse import main
from data_pipelines.images import encode_image
from data_pipelines.instruction import Instruction, Layout, Reference, pack
from data_pipelines.page import Shown, make_page
from data_pipelines.record_writer import DatasetWriter
from data_pipelines.retrieval.clusters import Cluster, Member, encode_cluster
from data_pipelines.text import load_tokenizer
from data_pipelines.wording import Example

LAYOUT = Layout(image_size=16, max_references=2, text_length=20, reference_text_length=8)
VOID = {"meta", "img"}
TAGS = """
    html head meta title style body h1 dl dt dd div main article header a span code p mark small strong del figure img
    figcaption b"""
ATTRIBUTES = "class style id href src alt width height title lang charset name content http-equiv"


class Reader(html.parser.HTMLParser):
    """The page as a browser sees it: its tags, which must close in order, its texts and its pictures."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.pictures, self.tags = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            data = dict(attributes)["src"].partition("base64,")[2]
            self.pictures.append(np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" not in self.open:
            self.texts.append(text)

    @property
    def text(self):
        return " ".join("".join(self.texts).split())


def _picture(seed, height=16, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _example(number, text="Draw [ref#1] near [ref#2]."):
    fox, hen = _picture(100 + number, 20, 40), _picture(200 + number)
    references = Reference("[ref#1]", "a fox", fox), Reference("[ref#2]", "a hen", hen)
    return Example(Instruction(text, references), _picture(number, 30, 20), "subject")


def _page(*shown):
    return make_page("data", {"source": "MIT"}, shown, LAYOUT, load_tokenizer())


def test_pictures_and_words_are_those_that_the_model_gets():
    example = _example(1)
    seen = Reader(_page(Shown("place:3", example, key="k1", group="g1", source="a set, CC0")))
    _, context = pack(example.instruction, load_tokenizer(), LAYOUT)
    np.testing.assert_array_equal(seen.pictures[:2], context.images)
    assert seen.pictures[2].shape == (16, 16, 3) and len(seen.pictures) == 3
    for words in (
        "place:3",
        "subject",
        "k1",
        "g1",
        "a set, CC0",
        "Draw [ref#1] near [ref#2].",
        "[ref#1] a fox",
        "target",
    ):
        assert words in seen.text
    tokens = len(load_tokenizer().encode(example.instruction.text))
    assert f"{tokens}/20 tokens" in seen.text and "from 40 x 20" in seen.text and "cut" not in seen.text
    marks = [attributes["class"] for tag, attributes in seen.tags if tag == "mark"]
    assert marks == ["m1", "m2", "m1", "m2"]


def test_what_would_be_cut_is_struck_through():
    text = "Draw [ref#1] near [ref#2] " + "again and " * 12 + "stop."
    seen = _page(Shown("", _example(1, text)))
    kept, lost = re.search(r'<p class="text">(.*?)<del>(.*?)</del>', seen).groups()
    tokenizer = load_tokenizer()
    kept = re.sub("<[^>]*>", "", kept)
    assert kept + lost == text
    following = kept + re.match(r"\s*\S+", lost)[0]
    assert len(tokenizer.encode(kept)) <= LAYOUT.text_length < len(tokenizer.encode(following))
    assert f"{len(tokenizer.encode(text)) - LAYOUT.text_length} cut" in Reader(seen).text


def test_what_the_model_cannot_take_is_said_and_shown_nevertheless():
    text = "again " * 30 + "[ref#1] [ref#2]"
    seen = Reader(_page(Shown("", _example(1, text)), Shown("x:1", error="is <b>broken</b>")))
    assert "it would lose [ref#1]" in seen.text and len(seen.pictures) == 3
    assert "is <b>broken</b>" in seen.text


NASTY = """<script>alert('1')</script> & "quoted" <img src=x onerror=alert(1)> </p></article>"""


def test_all_text_is_escaped_and_nothing_comes_from_outside():
    references = (Reference("[ref#1]", NASTY, _picture(1)),)
    example = Example(Instruction(f"[ref#1] {NASTY}", references), _picture(2), NASTY)
    shown = Shown(NASTY, example, key=NASTY, group=NASTY, source=NASTY)
    page = make_page(NASTY, {NASTY: NASTY}, [shown, Shown(NASTY, error=NASTY)], LAYOUT, load_tokenizer())
    seen = Reader(page)
    assert {tag for tag, _ in seen.tags} <= set(TAGS.split())
    assert seen.text.count("<script>alert('1')</script>") >= 8
    for tag, attributes in seen.tags:
        assert attributes.keys() <= set(ATTRIBUTES.split()), tag
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in page and "@import" not in page
    assert any(attributes.get("content", "").startswith("default-src 'none'") for _, attributes in seen.tags)


def test_light_dark_and_small_screens_are_provided_for():
    page = _page(Shown("", _example(1)))
    assert "prefers-color-scheme: dark" in page and "max-width: 40rem" in page and "width=device-width" in page


@pytest.fixture
def root(tmp_path):
    """Two data sets of records: examples and clusters."""
    with DatasetWriter(tmp_path / "root" / "subjects", shard_records=7) as writer:
        for split, count in (("train", 30), ("test", 3)):
            for i in range(count):
                writer.split(split).write(records.encode(_example(i), f"{split}/{i}", f"group {i // 2}"))
            source = {"title": "Foxes", "licence": "CC0"}
            writer.split(split).finish(kind="examples", size=16, source=source, arguments={"text_length": 40})
    with DatasetWriter(tmp_path / "root" / "neighbors") as writer:
        for i in range(4):
            members = tuple(Member(f"fox {k}", encode_image(_picture(10 * i + k), "png")) for k in range(5))
            writer.split("train").write(encode_cluster(Cluster(members, np.eye(5))))
        writer.split("train").finish(kind="clusters", threshold=0.95, size=16)
    return tmp_path / "root"


@pytest.fixture
def show(tmp_path, capsys):
    """Runs the command; gives the page as a browser sees it."""

    def run(*arguments):
        code = main([*map(str, arguments), f"--output={tmp_path / 'page.html'}"])
        assert code == 0, capsys.readouterr().err
        assert not list(tmp_path.glob("*.tmp"))
        return Reader((tmp_path / "page.html").read_text())

    return run


def _cards(seen):
    return sum(tag == "article" for tag, _ in seen.tags)


def test_records_of_every_form(root, show):
    assert _cards(show(root / "subjects" / "test")) == 3
    seen = show(root / "subjects", "--count=5", "--split=train")
    assert _cards(seen) == 5 and "Foxes, CC0" in seen.text and "/40 tokens" in seen.text and "train/" in seen.text
    assert _cards(show(root, "--count=100")) == 37
    seen = show(root, "--task=neighbors")
    assert _cards(seen) == 4 and "fox" in seen.text and "[ref#3]" in seen.text
    assert seen.pictures[0].shape == (16, 16, 3) and len(seen.pictures) == 16


def test_few_records_are_read_and_the_seed_decides_which(root, show, monkeypatch):
    read = []
    monkeypatch.setattr(stored.Records, "read", lambda self, index: read.append(index) or self.reader.read(index))
    first = show(root / "subjects" / "train", "--count=3").text
    assert len(read) == 3
    assert show(root / "subjects" / "train", "--count=3").text == first
    assert show(root / "subjects" / "train", "--count=3", "--seed=1").text != first


def test_lines_and_a_single_instruction(tmp_path, show):
    for name in ("a", "b"):
        Image.fromarray(_picture(ord(name), 24, 24)).save(tmp_path / f"{name}.png")
    references = [{"marker": "[ref#1]", "text": "sketch", "image": "a.png"}]
    fields = {"text": "Color [ref#1].", "references": references}
    line = json.dumps(fields | {"target": "b.png", "task": "line"})
    (tmp_path / "data.jsonl").write_text(f"{line}\n\n{{\n{line.replace('b.png', 'none.png')}\n")
    seen = show(tmp_path / "data.jsonl", "--size=16")
    assert _cards(seen) == 3 and "data.jsonl:1" in seen.text and len(seen.pictures) == 2
    assert "invalid JSON" in seen.text and "no such image file" in seen.text
    assert _cards(show(tmp_path / "data.jsonl", "--task=line")) == 2
    (tmp_path / "one.json").write_text(json.dumps(fields))
    assert len(show(tmp_path / "one.json").pictures) == 1


def test_what_training_on_a_config_would_see(show):
    seen = show("--config=experiments/stage2.py", "--config.model.image_size=16", "--count=6", "--task=style_transfer")
    assert _cards(seen) == 6 and len(seen.pictures) == 18 and "of the stream" in seen.text and "/48 tokens" in seen.text
    assert "corpus fixture: Apache-2.0, MIT" in seen.text
    assert "[ref#3]" in seen.text, "markers are dealt, as in training"


def test_a_corpus(show):
    assert _cards(show("fixture", "--count=2", "--size=16", "--task=edge", "--split=test")) == 2
    seen = show("fixture", "--count=40", "--size=16")
    assert _cards(seen) == 40 and "style_transfer" in seen.text and "depth" not in seen.text  # which has no pairs there


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either a PATH or --config=FILE"),
        (["nothing"], "is no folder"),
        (["nothing.jsonl"], "cannot be read"),
        (["x", "--config=experiments/stage2.py"], "give either"),
        (["x", "--config.data.seed=3"], "unexpected argument"),
        (["x", "--county=3"], "unexpected argument '--county=3'"),
        (["x", "--count=0"], "--count must be 1 or more"),
        (["--config=experiments/none.py"], "No such file"),
        (["--config=experiments/stage2.py:huge"], "unknown size"),
        (["--config=experiments/stage2.py", "--config.data.foo=3"], "it has no key foo"),
        (["--config=experiments/stage2.py", "--size=32"], "--size is the config's to say"),
        (["--config=experiments/stage2.py", "--task=face"], "--task=face is none of"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_leaves_no_page(tmp_path, capsys, arguments, words):
    assert main([*arguments, f"--output={tmp_path / 'page.html'}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err
    assert not list(tmp_path.iterdir())


def test_a_task_that_is_not_there(root, tmp_path, capsys):
    assert main([str(root), "--task=juggle", f"--output={tmp_path / 'page.html'}"]) == 2
    assert "holds no example of task 'juggle'" in capsys.readouterr().err
