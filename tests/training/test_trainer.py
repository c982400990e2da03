"""What a run computes, on one process."""

from __future__ import annotations

import itertools

import pytest
import torch
from safetensors.torch import load_file

from flowgen.config import Document, resolve
from flowgen.config.schema import Schedule
from flowgen.core.random import Randomness
from flowgen.data.loader import Order, Split, batches
from flowgen.errors import UsageError
from flowgen.runs.experiment import Experiment
from flowgen.training.ema import exponent, power
from flowgen.training.loggers import read_log
from flowgen.training.prepare import sample_clips
from flowgen.training.schedule import learning_rate


def losses(folder):
    return [entry["loss"] for entry in read_log(folder)]


def weights(folder, step, which="network"):
    return load_file(folder / "checkpoints" / f"step-{step:08d}" / f"{which}.safetensors")


def plain_loop(values):
    """The same training in plain torch: the losses, and the weights after each step."""
    config = resolve(Document(values)).config
    experiment = Experiment(config).complete()
    dataset, encoder, conditioners = experiment.dataset, experiment.encoder, experiment.conditioners
    encoder.fit(sample_clips(dataset, 0, 256))
    loss, network = experiment.loss, experiment.network
    options = config.train
    groups = [
        {"params": [p for p in network.parameters() if p.ndim >= 2]},
        {"params": [p for p in network.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    own = options.optimizer.options
    adamw = torch.optim.AdamW(groups, betas=tuple(own["betas"]), weight_decay=own["weight_decay"])
    data = batches(dataset, 0, Split(options.batch_size, options.batch_size))
    seen, history = [], []
    for step in range(options.steps):
        clips = next(data)
        x1 = encoder.encode(clips).x
        kinds = torch.stack([conditioners["kind"].encode(c.conditions["kind"]) for c in clips])
        random = Randomness(0, step, options.batch_size)
        dropped = random.uniform("drop all") < options.condition_dropout
        cond = {"kind": torch.where(dropped, conditioners["kind"].null(), kinds)}
        total = loss(network, x1, cond, random).total.mean()
        adamw.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(options.schedule, own["lr"], step, options.steps)
        adamw.step()
        seen.append(total.item())
        history.append({k: v.clone() for k, v in network.state_dict().items()})
    return seen, history


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("micro", [8, 2])
def test_losses_and_averages_are_those_of_a_plain_loop(fit, tiny, tmp_path, stage, micro):
    network = {"type": "tiny-blocks", "dropout": 0.0}
    values = tiny(
        tmp_path / "run",
        {"zero_optimization": {"stage": stage}},
        network=network,
        micro_batch_size=micro,
        clip=0.5,
        condition_dropout=0.3,
    )
    fit(values)
    expected, history = plain_loop(values)
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=1e-5 if micro < 8 else 1e-6)
    raw = weights(tmp_path / "run", 20)
    for name in raw:
        torch.testing.assert_close(raw[name], history[-1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_average_is_a_plain_one_in_float32(fit, tiny, tmp_path, stage):
    values = tiny(
        tmp_path / "run",
        {"zero_optimization": {"stage": stage}},
        steps=20,
        ema={"decay": 0.9, "profiles": [0.1]},
        checkpoint={"every": 1, "keep": 30},
    )
    fit(values)
    config = resolve(Document(values)).config
    average = {k: v.clone() for k, v in Experiment(config).complete().network.state_dict().items()}
    profile = dict(average)
    gamma = exponent(0.1)
    for step in range(20):
        decay, other = min(0.9, (1 + step) / (10 + step)), (1 - 1 / (step + 1)) ** (gamma + 1)
        for name, new in weights(tmp_path / "run", step + 1).items():
            average[name] = torch.lerp(average[name], new, 1 - decay)
            profile[name] = torch.lerp(profile[name], new, 1 - other)
        for which, expected in (("ema", average), ("ema-0.1", profile)):
            for name, ours in weights(tmp_path / "run", step + 1, which).items():
                torch.testing.assert_close(ours, expected[name], rtol=0, atol=0)


def test_a_power_profile_has_the_width_it_is_named_by():
    for width in (0.05, 0.1, 0.2):
        decay = power(width)
        steps = 20_000
        share = torch.zeros(steps, dtype=torch.float64)
        for step in range(steps):
            share[:step] *= decay(step)
            share[step] = 1 - decay(step)
        t = torch.arange(steps, dtype=torch.float64) / steps
        spread = ((share * t**2).sum() - (share * t).sum() ** 2).sqrt()
        assert float(spread) == pytest.approx(width, rel=0.01)


@pytest.mark.parametrize(("decay", "end"), [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1)])
def test_the_learning_rate_warms_up_and_decays(decay, end):
    schedule = Schedule(warmup=10, decay=decay, floor=0.1)
    rates = [learning_rate(schedule, 2.0, step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == 2.0
    assert rates[100] == pytest.approx(2.0 * end)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_the_rate_in_the_log_is_the_schedules(fit, tiny, tmp_path):
    fit(tiny(tmp_path / "run", steps=6, schedule={"warmup": 2, "decay": "linear"}, optimizer={"lr": 0.1}))
    rates = [entry["learning_rate"] for entry in read_log(tmp_path / "run")]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.075, 0.05, 0.025])


def test_every_clip_once_an_epoch_in_another_order():
    order = Order(seed=3, length=17)
    epochs = [[order[i] for i in range(e * 17, e * 17 + 17)] for e in range(3)]
    for number, places in enumerate(epochs):
        assert sorted(p.index for p in places) == list(range(17))
        assert {p.epoch for p in places} == {number}
    assert len({tuple(p.index for p in places) for places in epochs}) == 3


def test_the_split_of_a_batch_covers_it():
    for ranks, micro in ((1, 12), (2, 3), (4, 1)):
        splits = [Split(12, micro, ranks, rank) for rank in range(ranks)]
        rows = torch.cat([s.rows(m) for s in splits for m in range(s.accumulation)])
        assert sorted(rows.tolist()) == list(range(12))


def test_the_log_tells_speed_memory_and_where_time_goes(fit, tiny, tmp_path):
    fit(tiny(tmp_path / "run", steps=4, log_every=2, modality={"type": "tiny", "length": 6}))
    last = read_log(tmp_path / "run")[-1]
    assert last["positions_per_second"] == pytest.approx(6 * last["clips_per_second"])
    assert last["media_seconds_per_second"] == pytest.approx(6 * last["clips_per_second"])
    shares = {k: v for k, v in last.items() if k.startswith("share_of_time/")}
    assert {"share_of_time/data", "share_of_time/forward", "share_of_time/backward"} <= shares.keys()
    assert sum(shares.values()) == pytest.approx(1, abs=0.05)
    assert last["gradient_norm_max"] >= last["gradient_norm"] > 0
    assert last["memory_gb"] > 0


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("option", [{"activation_checkpointing": True}, {"compile": "eager"}])
def test_recomputed_and_compiled_blocks_train_alike(fit, tiny, tmp_path, stage, option):
    folders = []
    for name, options in (("plain", {}), ("other", option)):
        fit(tiny(tmp_path / name, {"zero_optimization": {"stage": stage}}, steps=6, checkpoint={"every": 6}, **options))
        folders.append(tmp_path / name)
    assert losses(folders[0]) == pytest.approx(losses(folders[1]), rel=1e-6)
    assert weights(folders[0], 6).keys() == weights(folders[1], 6).keys()


def test_options_for_blocks_refuse_a_network_without_any(fit, tiny, tmp_path):
    with pytest.raises(
        UsageError, match=r"train\.activation_checkpointing works on repeated blocks, and MLP declares none"
    ):
        fit(tiny(tmp_path / "run", network="mlp", activation_checkpointing=True))
    with pytest.raises(UsageError, match=r"train\.compile: unknown backend 'fastest'"):
        fit(tiny(tmp_path / "run", compile="fastest"))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_trains_alike(fit, tiny, tmp_path, stage):
    zero = {"stage": stage}
    fit(tiny(tmp_path / "plain", {"zero_optimization": zero}, steps=6))
    fit(tiny(tmp_path / "offload", {"zero_optimization": {**zero, "offload_optimizer": {"device": "cpu"}}}, steps=6))
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "offload"), rel=1e-6)
