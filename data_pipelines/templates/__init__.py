"""Phrasings of each task's instruction, one a line in TASK.txt (paper section 3: rephrased templates, hand-checked).

A template's placeholders are those of its task in PLACEHOLDERS. `{ref1}` and `{ref2}` become a marker with its phrase,
"[ref#1] line drawing"; `{references}` becomes a list of one or more: "[ref#1] a fox, [ref#2] a wolf and [ref#3] a dog".
What reads well as phrases, in the order of `references`:
  line: "line drawing", "sketch"    edge: "edge map"    depth: "depth map"    mask: "mask"
  subject, neighbors: "a dog"       face: "reference image"                   style: "style image", "Realism style"
  style_transfer: as for style, then "content image"    edit: "content image"    masked_edit: "mask", "content image"
The composed tasks join references of these: the control, then the subject, then the style. A caption may be a name
("red apple"), a phrase or a sentence, which is quoted where it would stand inside another one: Draw "A man rides a
horse". A change is an order: "replace the hat with a crown".
"""

import functools
import re
from collections.abc import Sequence
from importlib import resources

PLACEHOLDERS: dict[str, frozenset[str]] = {
    "text_to_image": frozenset({"caption"}),
    "line": frozenset({"caption", "ref1"}),
    "edge": frozenset({"caption", "ref1"}),
    "depth": frozenset({"caption", "ref1"}),
    "mask": frozenset({"caption", "ref1"}),
    "subject": frozenset({"caption", "references"}),
    "face": frozenset({"caption", "references"}),
    "style": frozenset({"caption", "ref1"}),
    "style_transfer": frozenset({"ref1", "ref2"}),
    "edit": frozenset({"change", "ref1"}),
    "masked_edit": frozenset({"change", "ref1", "ref2"}),
    "neighbors": frozenset({"caption", "references"}),
    "styled_subject": frozenset({"caption", "ref1", "ref2"}),  # subject, style
    "line_style": frozenset({"caption", "ref1", "ref2"}),
    "mask_style": frozenset({"caption", "ref1", "ref2"}),
    "depth_style": frozenset({"caption", "ref1", "ref2"}),
    "subject_line": frozenset({"caption", "ref1", "ref2"}),  # line, subject
    "multi_subject": frozenset({"caption", "ref1", "ref2"}),
    "styled_subject_line": frozenset({"caption", "ref1", "ref2", "ref3"}),  # line, subject, style
}
# Never trained on: whether they succeed is the paper's question of zero-shot generalisation (section 4.2).
COMPOSED = frozenset(
    {
        "styled_subject", "line_style", "mask_style", "depth_style", "subject_line", "multi_subject",
        "styled_subject_line",
    }
)  # fmt: skip

_INSIDE = re.compile(r"(?<=[a-z,;] )\{caption\}")  # in the middle of a sentence
_SENTENCE = re.compile(r'[A-Z][^\s"]*( [^\s"]+){3,}')  # what a caption is that begins with a capital and goes on


@functools.cache
def templates(task: str) -> tuple[str, ...]:
    """All templates of a task. Raises ValueError for an unknown one."""
    if task not in PLACEHOLDERS:
        raise ValueError(f"task {task!r} has no templates; the tasks are {', '.join(PLACEHOLDERS)}")
    return tuple(resources.files(__name__).joinpath(f"{task}.txt").read_text(encoding="utf-8").splitlines())


def count(task: str) -> int:
    """How many templates a task has."""
    return len(templates(task))


def least_references(task: str) -> int:
    """The fewest references that a task takes; only `{references}` takes more."""
    wanted = PLACEHOLDERS[task]
    return 1 if "references" in wanted else sum(name.startswith("ref") for name in wanted)


def render(task: str, index: int, *, caption: str = "", change: str = "", references: Sequence[str] = ()) -> str:
    """Template `index` of a task, in [0, count(task)), filled in: the text of an instruction.

    Args:
      caption, change: without a full stop at the end (one is taken off); given if the task asks for it, and only then.
      references: phrases with their markers, "[ref#1] a dog"; `{ref1}` is the first. Exactly as many as the task asks.
    Raises:
      ValueError: unknown task, an index out of range, a field missing or of no use to the task.
    """
    if not 0 <= index < count(task):
        raise ValueError(f"template {index} of task {task!r} does not exist; it has 0 to {count(task) - 1}")
    wanted = PLACEHOLDERS[task]
    fields = {"caption": _bare(caption), "change": _bare(change)}
    if "references" in wanted:
        fields["references"] = _join(references)
    else:
        fields |= {f"ref{k}": phrase for k, phrase in enumerate(references, start=1)}
    given = {name for name, value in fields.items() if value}
    if given != wanted:
        raise ValueError(
            f"task {task!r} takes {', '.join(sorted(wanted))}; got {', '.join(sorted(given)) or 'nothing'}"
        )
    template = templates(task)[index]
    if _SENTENCE.fullmatch(fields["caption"]):
        template = _INSIDE.sub('"{caption}"', template)
    text = template.format(**fields)
    return text.replace("?.", "?").replace("!.", "!")  # a caption's own mark ends the sentence


def _bare(sentence: str) -> str:
    return sentence.strip().removesuffix(".")


def _join(phrases: Sequence[str]) -> str:
    *first, last = phrases or [""]
    return f"{', '.join(first)} and {last}" if first else last
