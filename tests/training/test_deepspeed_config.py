"""The user's DeepSpeed config, merged with ours: what it says is in force, or is refused by name."""

from __future__ import annotations

import json

import pytest
import torch

from flowgen.config import Document, resolve
from flowgen.errors import UsageError
from flowgen.training.deepspeed_config import deepspeed_config


@pytest.fixture
def merged(tiny):
    def merge(deepspeed, ranks=1, **train):
        values = tiny("run", **train)
        values["deepspeed"] = deepspeed
        return deepspeed_config(resolve(Document(values)).config, ranks)

    return merge


def test_the_sizes_of_batches_follow_from_the_config(merged):
    found = merged({}, ranks=2, batch_size=24, micro_batch_size=3)
    assert found["train_batch_size"] == 24
    assert found["train_micro_batch_size_per_gpu"] == 3
    assert found["gradient_accumulation_steps"] == 4


def test_nothing_is_sharded_alone(merged):
    assert merged({})["zero_optimization"]["stage"] == 0
    assert merged({}, ranks=2)["zero_optimization"]["stage"] == 1


def test_sections_are_merged_key_by_key(merged):
    found = merged({"zero_optimization": {"reduce_bucket_size": 1000}, "comms_logger": {"enabled": True}}, ranks=2)
    assert found["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 1000}
    assert found["comms_logger"] == {"enabled": True}


def test_auto_and_equal_values_are_no_contradiction(merged):
    assert merged({"train_batch_size": "auto", "gradient_clipping": 1.0}, batch_size=8)["train_batch_size"] == 8


def test_a_json_file_is_read(merged, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    assert merged(str(path))["zero_optimization"]["stage"] == 2
    path.write_text('{"zero_optimization": }')
    with pytest.raises(UsageError, match=r"ds\.json:1: not valid JSON"):
        merged(str(path))
    path.write_text("[]")
    with pytest.raises(UsageError, match="must hold a JSON object"):
        merged(str(path))
    with pytest.raises(UsageError, match=r"cannot read .*nowhere"):
        merged(str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize(
    ("deepspeed", "sentence"),
    [
        ({"gradient_cliping": 1.0}, r"unknown key 'gradient_cliping'; did you mean 'gradient_clipping'\?"),
        ({"elasticity": {}}, "unknown key 'elasticity'"),
        ({"train_batch_size": 9}, r"deepspeed\.train_batch_size=9 contradicts train\.batch_size \(which gives 8\)"),
        ({"gradient_clipping": 0.3}, r"deepspeed\.gradient_clipping=0\.3 contradicts train\.clip"),
        ({"gradient_accumulation_steps": 4}, r"contradicts train\.micro_batch_size"),
        ({"optimizer": {"type": "Adam"}}, r"deepspeed\.optimizer: it is set by train\.optimizer"),
        ({"scheduler": {}}, r"it is set by train\.schedule"),
        (
            {"bf16": {"enabled": True}},
            r"deepspeed\.bf16 with zero_optimization\.stage=0 lets Adam take a step of zeros",
        ),
        (
            {"zero_optimization": {"stage": 2, "round_robin_gradients": True}},
            "round_robin_gradients makes DeepSpeed return wrong",
        ),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}, "device=nvme keeps weights"),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "needs a loss scaler"),
    ],
)
def test_what_is_unknown_contradictory_or_unsound_is_refused(merged, deepspeed, sentence):
    with pytest.raises(UsageError, match=sentence):
        merged(deepspeed)


def test_two_precisions_are_refused(merged):
    with pytest.raises(UsageError, match=r"deepspeed\.bf16 contradicts train\.precision=bfloat16"):
        merged({"bf16": {"enabled": True}}, ranks=2, precision="bfloat16")


def test_a_batch_that_does_not_divide_is_refused(merged):
    with pytest.raises(UsageError, match="does not divide among 3 ranks"):
        merged({}, ranks=3)
    with pytest.raises(UsageError, match="global batch = micro-batch x accumulation steps x ranks"):
        merged({}, ranks=2, micro_batch_size=3)


def test_a_wrong_key_inside_a_section_is_refused_by_deepspeed_itself(fit, tiny, tmp_path):
    with pytest.raises(UsageError, match=r"stgae"):
        fit(tiny(tmp_path / "run", {"zero_optimization": {"stgae": 1}}))


@pytest.mark.parametrize("section", ["fp16", "bf16"])
def test_a_precision_that_the_machine_lacks_is_refused_before_anything_is_built(
    fit, tiny, tmp_path, monkeypatch, section
):
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(type(get_accelerator()), "supported_dtypes", lambda self: [torch.float32])
    config = tiny(tmp_path / "run", {section: {"enabled": True}, "zero_optimization": {"stage": 1}})
    with pytest.raises(
        UsageError, match=rf"deepspeed\.{section}: this processor has no instructions for .*precision=bfloat16"
    ):
        fit(config)
    assert not (tmp_path / "run").exists()
