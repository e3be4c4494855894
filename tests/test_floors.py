"""The house stands: a module imports only from below, and each heavy library has one door (the map in WORKSPACE.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Ground floor first; a module may import those before it.
FLOORS = [
    *("types", "partition"),
    *("schedules", "diffusion", "guidance", "samplers"),
    *("nn.products", "nn.layers", "nn.attention", "nn.blocks", "nn.unet", "nn.t5"),
    *("hosts", "workdir", "model", "muon", "optim", "metrics", "pretrained", "t5x", "release", "growth"),
    *("preemption", "checkpoint_describe", "checkpoint"),
    *("train_step", "runs"),
    *(f"evaluation.judge_{name}" for name in ("networks", "training", "gallery")),
    *(f"evaluation.measure_{name}" for name in ("pictures", "sets", "networks")),
    *(f"evaluation.judge_{name}" for name in ("style", "subject", "depth")),
    *("evaluation.judges", "evaluation.measures", "evaluation.intervals"),
    *("grid", "cascade", "pipeline", "evaluation.super_res_report", "evaluation.training_report"),
    *("sample", "app", "train_check", "train", "gradient_noise", "export"),
    *("planning.chips", "planning.flops", "planning.liveness", "planning.hlo", "planning.programs"),
    *("planning.parameters", "planning.estimate", "planning.compiled", "planning.verdict", "planning.tables"),
    "planning.plan",
    *("benchmarks.tables", "benchmarks.ratings", "benchmarks.metrics", "benchmarks.generation", "benchmarks.scoring"),
    *("benchmarks.dreambench", "benchmarks.customconcept101", "benchmarks.magicbrush", "benchmarks.kitten"),
    *("benchmarks.imagenhub", "benchmarks.__main__"),
    *("evaluation.arms", "evaluation.overall", "evaluation.targets", "evaluation.report", "evaluation.curves"),
    *("evaluation.page", "evaluation.evaluate", "evaluation.compare"),
    "main",
]
# library -> the only modules of the project that may import it
DOORS = {
    "apache_beam": {"data_pipelines.retrieval.pipeline"},
    "array_record": {"data_pipelines.records", "data_pipelines.record_writer"},
    "cv2": {"data_pipelines.conditions.planes"},
    "faiss": {"data_pipelines.retrieval.ivf"},
    "gradio": {"imagen_jax.app"},
    "h5py": {"data_pipelines.networks.hed"},
    "onnxruntime": {"data_pipelines.networks.onnx"},
    "orbax": {"imagen_jax.checkpoint"},
    "pyarrow": {"data_pipelines.sources.formats.parquet"},
    "sentencepiece": {"data_pipelines.text"},
    "tensorflow": {"data_pipelines.streaming", "data_pipelines.sources.formats.tfds"},
    "tensorflow_datasets": {
        "data_pipelines.tfds_builders",
        "data_pipelines.sources.formats.tfds",
        "data_pipelines.sources.tfds_records",
    },
    "tensorstore": {"imagen_jax.t5x"},
}


def modules(package: str):
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.name != "__init__.py":
            yield name, ast.parse(path.read_text())


def imports(tree: ast.AST):
    """Dotted names that a module imports, `from a import b` as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def names_module(dotted: str, module: str) -> bool:
    return dotted == module or dotted.startswith(module + ".")


ALL = [*modules("imagen_jax"), *modules("data_pipelines")]


def test_every_module_has_a_floor():
    assert {name.removeprefix("imagen_jax.") for name, _ in modules("imagen_jax")} == set(FLOORS)


@pytest.mark.parametrize(("name", "tree"), [*modules("imagen_jax")], ids=[name for name, _ in modules("imagen_jax")])
def test_imports_only_from_below(name, tree):
    floor = FLOORS.index(name.removeprefix("imagen_jax."))
    above = [f"imagen_jax.{module}" for module in FLOORS[floor:]]
    assert not [dotted for dotted in imports(tree) if any(names_module(dotted, module) for module in above)]


def test_data_pipelines_know_only_the_types_of_the_model_but_for_one_that_runs_its_text_encoder():
    runs_the_encoder = "data_pipelines.embed_text"
    for name, tree in modules("data_pipelines"):
        used = [dotted for dotted in imports(tree) if dotted.startswith(("imagen_jax", runs_the_encoder))]
        allowed = name == runs_the_encoder or all(names_module(dotted, "imagen_jax.types") for dotted in used)
        assert allowed, (name, used)  # and nothing imports that one


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_one_door(library):
    users = {name for name, tree in ALL if any(names_module(dotted, library) for dotted in imports(tree))}
    assert users == DOORS[library]


def test_partition_specs_are_written_in_two_places():
    users = {name for name, tree in ALL if any(dotted.endswith(".PartitionSpec") for dotted in imports(tree))}
    assert users == {"imagen_jax.partition", "data_pipelines.retrieval.search"}  # parameters; neighbours


def test_a_stage_is_a_config_and_not_code():
    for path in (ROOT / "imagen_jax").rglob("*.py"):
        if path.name != "main.py":  # its help names the experiment files
            assert "stage1" not in path.read_text() and "stage2" not in path.read_text(), path


@pytest.mark.parametrize("package", ["imagen_jax", "data_pipelines", "experiments"])
def test_files_stay_readable(package):
    assert not [path for path in (ROOT / package).rglob("*.py") if len(path.read_text().splitlines()) > 300]
