"""The plan's parts on small programs whose answer is known: work, memory, what devices send each other, targets."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagen_jax import train_check
from imagen_jax.planning import chips, compiled, hlo, programs
from imagen_jax.planning.estimate import abstract_mesh, estimate_sampling, estimate_training
from imagen_jax.planning.flops import flops
from imagen_jax.planning.liveness import measure
from imagen_jax.planning.plan import plan
from imagen_jax.planning.verdict import mend
from tests import tiny

MIB = 2**20


def config(target: str = "v5e:2x2", **train):
    c = tiny.config()
    c.optim.name = "adafactor"  # what the estimates are for
    c.plan.target = target
    c.train.update(batch_size=8, steps=3600, **train)
    c.sample.steps = 2
    return c


@functools.cache
def training(target: str = "v5e:2x2", remat: str = "none", accumulate: int = 1) -> dict:
    c = config(target, accumulate=accumulate)
    c.model.update(image_size=32, remat=remat)
    return estimate_training(c, chips.parse(target))


def jaxpr_of(function, *arguments):
    return jax.make_jaxpr(function)(*arguments).jaxpr


def whole(aval) -> float:
    return float(aval.size * aval.dtype.itemsize)


# -- work ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "padding"), [(1, "SAME"), (2, "SAME"), (1, "VALID")])
def test_flops_of_a_convolution_and_its_gradients_are_those_of_xla(stride, padding):
    def loss(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=dimensions).sum()

    arguments = jnp.zeros((2, 7, 7, 3)), jnp.zeros((3, 3, 3, 5))
    for function in (loss, jax.value_and_grad(loss, 0), jax.value_and_grad(loss, 1)):
        analysis = jax.jit(function).lower(*arguments).compile().cost_analysis()
        ours = flops(jaxpr_of(function, *arguments))
        assert ours == pytest.approx(analysis["flops"], rel=0.1)  # XLA also counts the sum


def test_flops_of_a_step_are_within_4_percent_of_xla():
    c = config()
    c.model.update(image_size=16, channels=(128, 256))  # wide enough for products to be nearly all
    from imagen_jax.partition import make_mesh

    program = programs.train_program(c, make_mesh({}, jax.devices()[:1]))
    traced = program.function.trace(*program.arguments)
    analysis = traced.lower().cost_analysis()
    assert flops(traced.jaxpr.jaxpr) == pytest.approx(analysis["flops"], rel=0.04)


def test_a_loop_counts_as_often_as_it_runs_and_a_branch_as_the_mean_of_its_sides():
    a = jnp.zeros((4, 4))

    def loop(x):
        return jax.lax.scan(lambda c, _: (c @ a, None), x, None, length=7)[0]

    def branch(flag, x):
        return jax.lax.cond(flag, lambda x: x @ a @ a, lambda x: x, x)

    assert flops(jaxpr_of(loop, a)) == 7 * 2 * 4**3
    assert flops(jaxpr_of(branch, True, a)) == 2 * 4**3


# -- memory -------------------------------------------------------------------------------------------------------


def test_memory_of_a_chain_is_its_widest_point_and_element_wise_results_are_free():
    a, b = jnp.zeros((1, MIB // 4)), jnp.zeros((MIB // 4, 1))

    def chain(x):  # [1, 1] -> 1 MiB -> [1, 1] -> 1 MiB -> [1, 1]
        for _ in range(2):
            x = jnp.sin(jnp.cos(x @ a)) @ b
        return x

    # The product's result, and its sine while the next product reads it.
    assert measure(jaxpr_of(chain, jnp.zeros((1, 1))), lambda aval: whole(aval)).peak == pytest.approx(
        2 * MIB, rel=0.01
    )


def test_what_the_backward_pass_needs_lives_and_recomputation_frees_it():
    layers = jnp.zeros((8, 256, 256))

    def loss(x, remat):
        layer = (
            jax.checkpoint(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w))
            if remat
            else lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w)
        )
        for w in layers:
            x = layer(x, w)
        return x.sum()

    x = jnp.zeros((1024, 256))  # 1 MiB
    kept, again = (
        measure(jaxpr_of(jax.grad(functools.partial(loss, remat=remat)), x), whole).peak for remat in (False, True)
    )
    assert 16 * MIB <= kept <= 20 * MIB
    assert 8 * MIB <= again <= 12 * MIB


def test_a_sharded_weight_is_whole_only_while_it_is_read_and_so_is_its_gradient():
    weights, x = [jnp.zeros((512, 512))] * 4, jnp.zeros((8, 512))

    def loss(weights, x):
        for w in weights:
            x = x @ w
        return x.sum()

    def stored(aval):
        return whole(aval) / (64 if aval.shape == (512, 512) else 1)

    memory = measure(jaxpr_of(jax.value_and_grad(loss), weights, x), stored)
    assert MIB <= memory.peak < 1.3 * MIB
    assert memory.scattered == 4 * MIB
    assert memory.gathered == 7 * MIB  # forward 4; backward 3, as no one asks for the gradient of x


def test_the_largest_arrays_are_named():
    def loss(x):
        return jnp.tanh(x @ x).sum()

    ((first, count, size), *_) = measure(jaxpr_of(jax.grad(loss), jnp.zeros((64, 64))), whole).largest
    assert first == "float32[64,64] dot_general" and count >= 1 and size == count * 64 * 64 * 4


# -- the estimate of a config --------------------------------------------------------------------------------------


def test_the_estimate_adds_up_and_shards_halve_with_twice_the_devices():
    few, many = training("v5e:2x2"), training("v5e:2x4")
    for report in (few, many):
        assert report["gib a device"] == pytest.approx(sum(report["gib"].values()))
        assert report["fits"] and report["seconds"]["floor"] <= report["seconds"]["expected"]
        assert report["chip-hours"] == pytest.approx(report["seconds"]["expected"] * (4 if report is few else 8))
    assert few["tflop"] == pytest.approx(many["tflop"], rel=0.02)
    assert many["gib"]["ema"] == pytest.approx(few["gib"]["ema"] / 2, rel=0.4)  # small leaves are not split
    assert few["gib"]["ema"] == pytest.approx(few["gib"]["parameters"])


def test_recomputation_and_micro_batches_lower_the_estimate():
    def peak(**change):
        return training(**change)["gib"]["activations"]

    assert peak() > 1.2 * peak(remat="block")
    assert peak() > 1.5 * peak(accumulate=2)


def test_with_precomputed_features_a_step_holds_no_text_encoder():
    c = config()
    c.text_encoder.update(frozen=True)
    mesh = abstract_mesh(c, chips.parse(c.plan.target))
    with_it = programs.train_program(c, mesh).arguments[1]
    c.text_encoder.precomputed = True
    c.model.dtype = "bfloat16"
    program = programs.train_program(c, mesh)
    _, frozen, batch = program.arguments
    assert with_it and frozen == {}
    assert (batch.text.features.shape, batch.text.features.dtype) == ((8, 48, 16), "bfloat16")
    assert batch.context.text.features.shape == (8, 2, 16, 16)
    program.function.trace(*program.arguments)
    assert estimate_training(c, chips.parse(c.plan.target))["gib"]["text encoder"] == 0


def test_what_the_references_lowest_blocks_put_out_is_kept_once():
    c = config()
    c.model.update(image_size=32, blocks=(1, 3), scan=True, remat="block")
    largest = estimate_training(c, chips.parse("v5e:2x2"))["largest"]  # two examples a device, with two references each
    assert [x["count"] for x in largest if x["array"] == "float32[3,4,8,8,16] scan"] == [1]


def test_sampling_costs_its_steps():
    one, two = config(), config()
    two.sample.steps = 4
    a, b = (estimate_sampling(c, chips.parse("v5e:2x2")) for c in (one, two))
    assert 1.3 < b["tflop"] / a["tflop"] < 2.0  # encoding is paid once
    assert a["pictures"] == 4


# -- the verdict ---------------------------------------------------------------------------------------------------


def test_the_mend_is_the_first_change_that_fits():
    def estimate(c, target):
        return {"gib a device": 10.0 / c.train.accumulate / (2 if c.model.remat == "block" else 1)}

    target = chips.parse("v5e:2x2")
    assert mend(config(), target, estimate, 6.0).startswith("--config.model.remat=block would fit, with 5.00")
    assert "--config.model.remat=block --config.train.accumulate=2 would fit" in mend(config(), target, estimate, 3.0)
    assert "take more chips" in mend(config(), target, estimate, 0.1)


def test_a_config_too_large_for_its_target_does_not_fit_and_says_what_would(tmp_path, monkeypatch, capsys):
    small = dataclasses.replace(chips.CHIPS["v5e"], usable=1e-3)
    monkeypatch.setitem(chips.CHIPS, "v5e", small)
    c = config()
    c.model.image_size = 64
    report = plan(c, tmp_path)
    assert not report["fits"] and report == json.loads((tmp_path / "plan.json").read_text())
    told = capsys.readouterr().out
    assert "DOES NOT FIT" in told and ("would fit" in told or "take more chips" in told)


BAD = {
    "v9:2x2": "v4, v5e, v5p, v6e, h200",
    "v5e": "v5e:4x4",
    "v5e:2x2x2": "v5e:4x4",
    "v4:2x2": "v4:4x4x4",
    "h200:9": "h200:1 to h200:8",
}


@pytest.mark.parametrize("target", BAD)
def test_a_bad_target_is_told_in_one_line(target):
    with pytest.raises(chips.PlanError) as error:
        chips.parse(target)
    assert BAD[target] in str(error.value) and "\n" not in str(error.value)


def test_devices_of_a_target():
    assert chips.parse("v5e:8x8").devices == 64
    assert chips.parse("v4:4x4x4").devices == 128  # two a chip
    assert chips.parse("h200:1").devices == 1


def test_a_batch_that_does_not_divide_is_told():
    with pytest.raises(train_check.TrainError, match=r"multiple of 64$"):
        estimate_training(config(), chips.parse("v5e:8x8"))


# -- a compiled program's text -------------------------------------------------------------------------------------

TEXT = """HloModule jit_step, is_scheduled=true

%body (p: (bf16[8])) -> (bf16[8]) {
  %all-gather.1 = bf16[3,3,64,128]{3,2,1,0:T(8,128)(2,1)} all-gather(%x), channel_id=1, replica_groups={{0,1}}
}

%all-reduce-scatter (input: f32[8,4]) -> f32[4,4] {
  %all-reduce.9 = f32[8,4]{1,0} all-reduce(%input), replica_groups={{0,1}}, to_apply=%add
}

%side_a (p: f32[]) -> f32[] {
  %all-reduce.2 = f32[100]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

%side_b (p: f32[]) -> f32[] {
  ROOT %n = f32[] negate(%p)
}

%unused (p: f32[]) -> f32[] {
  %all-reduce.3 = f32[1000000]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (bf16[8]) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %ag = (f32[128]{0}, f32[256]{0}) all-gather-start(%a), replica_groups=[1,2]<=[2], dimensions={0}
  %agd = f32[256]{0} all-gather-done(%ag)
  %rs = f32[4,4]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter
  %rs2 = f32[4]{0} reduce-scatter(%a), replica_groups=[1,2]<=[2], dimensions={0}, to_apply=%add
  %rs3 = f32[4]{0} reduce-scatter(%a), replica_groups=mesh['data'=1,'fsdp'=4] {'fsdp'}, to_apply=%add
  %cond = f32[] conditional(%i, %a, %a), branch_computations={%side_a, %side_b}
  %cp = (f32[10]{0}, f32[10]{0}, u32[]{:}, u32[]{:}) collective-permute-start(%a), source_target_pairs={{0,1},{1,0}}
}
"""


def test_collectives_are_counted_by_kind_and_dtype():
    found = hlo.summary(hlo.collectives(TEXT))
    sizes = {name: entry["gib"] * 2**30 for name, entry in found.items()}
    assert sizes == pytest.approx({
        "all-gather bf16": 5 * 3 * 3 * 64 * 128 * 2,
        "all-gather f32": 1024,
        "reduce-scatter f32": 128 + 32 + 64,
        "all-reduce f32": 400 / 2,
        "collective-permute f32": 40,
    })  # fmt: skip
    assert math.isclose(sum(c.bytes for c in hlo.collectives(TEXT)), sum(sizes.values()))


def test_a_loop_whose_line_does_not_tell_counts_as_its_condition_says():
    """As the TPU's compiler prints loops at its lowest effort."""
    text = """
%cond (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]) parameter(0)
  %bound = s32[]{:T(128)} constant(24)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %sum = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  ROOT %t = (s32[], f32[8]) tuple(%i, %sum)
}

ENTRY %main (a: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = (s32[], f32[8]) parameter(0)
  ROOT %w = (s32[], f32[8]) while(%a), condition=%cond, body=%body, metadata={op_name="jit(step)/while"}
}
"""
    assert [c.bytes for c in hlo.collectives(text)] == [24 * 32]


def test_gathers_of_weights_are_found_whatever_the_order_of_their_axes():
    found = hlo.collectives(TEXT)
    assert len(hlo.gathers_of(found, "bf16", [(3, 3, 128, 64)])) == 1
    assert len(hlo.gathers_of(found, "f32", [(1, 256)])) == 1
    assert not hlo.gathers_of(found, "f32", [(3, 3, 128, 64)])


def test_gathers_of_a_slice_of_stacked_weights_count_where_blocks_are_loops():
    c = config()
    c.model.update(channels=(8, 128), blocks=(2, 2), scan=True, dtype="bfloat16")
    slice_ = "f32[3,3,128,128]"
    text = f"""ENTRY %main (a: {slice_}) -> {slice_} {{
  %ag = {slice_}{{3,2,1,0}} all-gather(%a), replica_groups=[1,2]<=[2], dimensions={{0}}
}}
"""
    shapes = {leaf.shape for leaf in jax.tree.leaves(programs.parameters(c)["unet"])}
    assert (2, 3, 3, 128, 128) in shapes and (3, 3, 128, 128) not in shapes
    assert compiled.collectives(text, c, scanned=1)["float32 weight gathers"] == 1


def test_collectives_of_a_real_program_are_found():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    whole_ = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    x = jax.ShapeDtypeStruct((64, 16), np.float32, sharding=split)
    text = jax.jit(lambda x: x * 2, out_shardings=whole_).lower(x).compile().as_text()
    assert hlo.summary(hlo.collectives(text))["all-gather f32"]["gib"] * 2**30 == 64 * 16 * 4
