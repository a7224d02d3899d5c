"""Alignment: any prefix, any wrapper, any loss is found or told; nothing is matched by chance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from score.errors import PrefixAmbiguous
from score.weights.align import WRAPPERS, align, common_wrapper, difference, unwrap

NAMES = st.sampled_from(["weight", "bias", "conv", "fc", "layer1", "layer2", "0", "1", "encoder", "head", "norm"])
KEYS = st.lists(NAMES, min_size=2, max_size=4).map(".".join)
SHAPES = st.lists(st.integers(1, 5), max_size=4).map(tuple)
MODELS = st.dictionaries(KEYS, SHAPES, min_size=2, max_size=12)
PREFIXES = st.lists(
    st.sampled_from([*sorted(WRAPPERS), "model", "net", "base_model.model", "dncnn"]), min_size=1, max_size=3
).map(lambda parts: ".".join(parts) + ".")


@given(MODELS)
def test_equal_keys_match_themselves(model: dict[str, tuple[int, ...]]) -> None:
    alignment = align(model, model)
    assert alignment.exact
    assert alignment.mapping == {key: key for key in model}
    assert alignment.prefix == alignment.added == ""


@given(MODELS, PREFIXES)
def test_a_prefix_on_all_keys_is_stripped(model: dict[str, tuple[int, ...]], prefix: str) -> None:
    alignment = align(model, {prefix + key: shape for key, shape in model.items()})
    assert alignment.exact
    assert all(source.endswith(key) for key, source in alignment.mapping.items())


@given(MODELS, PREFIXES)
def test_a_prefix_that_the_weights_lack_is_added(model: dict[str, tuple[int, ...]], prefix: str) -> None:
    alignment = align({prefix + key: shape for key, shape in model.items()}, model)
    assert alignment.exact


@given(MODELS, st.data())
def test_every_key_is_accounted_for(model: dict[str, tuple[int, ...]], data: st.DataObject) -> None:
    weights = data.draw(MODELS)
    try:
        alignment = align(model, weights)
    except PrefixAmbiguous:
        return
    matched = set(alignment.mapping)
    assert matched | set(alignment.missing) | set(alignment.absent) == set(model)
    assert not matched & set(alignment.missing)
    used = list(alignment.mapping.values())
    assert len(used) == len(set(used))
    assert set(used) | set(alignment.unexpected) == set(weights)
    assert not set(used) & set(alignment.unexpected)
    for key in matched - set(alignment.misshaped):
        assert model[key] == weights[alignment.mapping[key]]
    assert alignment.loads == (not alignment.missing and not alignment.misshaped)
    assert isinstance(difference(alignment, model, weights), str)


@given(MODELS, st.data())
def test_a_lost_key_is_missing(model: dict[str, tuple[int, ...]], data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(sorted(model)))
    alignment = align(model, {key: shape for key, shape in model.items() if key != lost})
    assert not alignment.loads
    assert lost in alignment.missing


MODEL = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "fc.weight": (2, 8), "fc.bias": (2,)}


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "net.", "_forward_module.", "module.module.", "_orig_mod.module.",
     "module.dncnn.", "base_model.model.", "whatever.it.is."],
)  # fmt: skip
def test_the_prefixes_that_are_seen(prefix: str) -> None:
    alignment = align(MODEL, {prefix + key: shape for key, shape in MODEL.items()})
    assert alignment.exact
    assert alignment.prefix == prefix


def test_a_prefix_on_all_but_a_few_keys() -> None:
    weights = {f"module.{key}": shape for key, shape in MODEL.items() if key != "fc.bias"} | {"fc.bias": (2,)}
    assert align(MODEL, weights).exact


def test_wrappers_inside_the_keys() -> None:
    weights = {"conv._orig_mod.weight": (8, 3, 3, 3), "conv._orig_mod.bias": (8,)}
    weights |= {"fc._checkpoint_wrapped_module.weight": (2, 8), "fc._checkpoint_wrapped_module.bias": (2,)}
    alignment = align(MODEL, weights)
    assert alignment.exact
    assert alignment.unwrapped


def test_a_real_submodule_called_module_is_left_alone() -> None:
    model = {"module.weight": (2, 2), "other.weight": (2, 2)}
    alignment = align(model, model)
    assert alignment.exact
    assert alignment.prefix == ""
    assert not alignment.unwrapped


def test_extra_networks_beside_the_model_are_unexpected_and_harmless() -> None:
    weights = {f"model.{key}": shape for key, shape in MODEL.items()} | {"criterion.weight": (10,)}
    alignment = align(MODEL, weights)
    assert alignment.loads
    assert not alignment.exact
    assert alignment.unexpected == ("criterion.weight",)


def test_two_equal_networks_are_ambiguous_until_one_is_named() -> None:
    weights = {f"{part}.{key}": shape for part in ("student", "teacher") for key, shape in MODEL.items()}
    with pytest.raises(PrefixAmbiguous, match="2 prefixes") as caught:
        align(MODEL, weights)
    assert "strip student." in caught.value.detail
    assert align(MODEL, weights, prefix="teacher.").mapping["fc.bias"] == "teacher.fc.bias"


def test_an_averaged_copy_is_not_taken_by_chance() -> None:
    weights = {f"{part}.{key}": shape for part in ("model_ema", "model") for key, shape in MODEL.items()}
    assert align(MODEL, weights).prefix == "model."


def test_counters_and_tied_weights_may_be_absent() -> None:
    model = {"emb.weight": (5, 2), "head.weight": (5, 2), "bn.num_batches_tracked": ()}
    alignment = align(model, {"emb.weight": (5, 2)}, tied=[["emb.weight", "head.weight"]])
    assert alignment.loads
    assert alignment.absent == ("head.weight", "bn.num_batches_tracked")
    assert not align(model, {"emb.weight": (5, 2)}).loads


def test_the_difference_pairs_each_missing_key_with_its_nearest() -> None:
    weights = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "classifier.weight": (2, 8), "classifier.bias": (3,)}
    alignment = align(MODEL, weights)
    text = difference(alignment, MODEL, weights)
    row = next(line for line in text.splitlines() if line.startswith("fc.weight"))
    assert "[2, 8]" in row
    assert "classifier.weight" in row


def test_the_difference_fits_on_a_screen() -> None:
    model = {f"layer{n}.weight": (n, n) for n in range(2000)}
    weights = {f"block{n}.weight": (n, n) for n in range(2000)}
    text = difference(align(model, weights), model, weights)
    assert len(text.splitlines()) < 70
    assert "more missing" in text


def test_wrapper_prefixes() -> None:
    assert unwrap("module._orig_mod.a.module.weight") == "a.weight"
    assert common_wrapper(["_orig_mod.module.a.b", "_orig_mod.module.c"]) == "_orig_mod.module."
    assert common_wrapper(["module.a", "b"]) == ""
    assert common_wrapper(["encoder.a", "encoder.b"]) == ""
