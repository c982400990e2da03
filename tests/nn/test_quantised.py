"""Linear layers with quantised weights: their error, bytes, gradients, precision and files."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import linear

from flowgen.nn.quantised import QuantisedLinear, bytes_of, quantise

PRECISIONS = ("bfloat16", "int8", "int4")


def layer(precision, inputs=96, outputs=64):
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=rng)
    return weight, QuantisedLinear(weight, nn.Parameter(torch.ones(outputs), False), precision)


@pytest.mark.parametrize("inputs", [96, 70, 5])
@pytest.mark.parametrize(("precision", "levels"), [("bfloat16", 128), ("int8", 127), ("int4", 7)])
def test_a_weight_is_off_by_half_a_step_at_most(precision, levels, inputs):
    weight, quantised = layer(precision, inputs)
    assert quantised.weight.shape == weight.shape
    largest = weight.abs() if precision == "bfloat16" else weight.abs().amax(1, keepdim=True)
    assert ((quantised.weight - weight).abs() <= 0.51 * largest / levels * 1.01).all()


@pytest.mark.parametrize(("precision", "share"), [("bfloat16", 1 / 2), ("int8", 1 / 4), ("int4", 4.5 / 32)])
def test_its_bytes(precision, share):
    network = nn.Sequential(nn.Linear(1024, 1024, bias=False))
    before = bytes_of(network)
    quantise(network, precision)
    assert bytes_of(network) == pytest.approx(share * before, rel=0.01)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_output_and_derivatives_are_those_of_the_weight_it_stands_for(precision):
    _, quantised = layer(precision)
    x, tangent = torch.randn(2, 5, 96, dtype=torch.float64), torch.randn(2, 5, 96, dtype=torch.float64)
    weight, bias = quantised.dequantised(torch.float64), quantised.bias.double()
    torch.testing.assert_close(quantised(x), linear(x, weight, bias))
    assert torch.autograd.gradcheck(quantised, x.requires_grad_(True), check_forward_ad=True)
    derivative = torch.func.jvp(quantised, (x.detach(),), (tangent,))[1]
    torch.testing.assert_close(derivative, tangent @ weight.t())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_autocast_decides_the_precision_of_the_product(precision):
    _, quantised = layer(precision)
    with torch.autocast("cpu", torch.bfloat16):
        assert quantised(torch.randn(2, 96)).dtype == torch.bfloat16
    assert quantised(torch.randn(2, 96)).dtype == torch.float32


def test_the_backward_pass_keeps_no_weight():
    _, quantised = layer("int8")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        quantised(torch.randn(2, 96, requires_grad=True)).sum()
    assert torch.Size((64, 96)) not in kept


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_state_goes_to_a_file_and_back(precision, tmp_path):
    _, quantised = layer(precision)
    save_file(quantised.state_dict(), tmp_path / "a.safetensors")
    other = QuantisedLinear(torch.zeros(64, 96), nn.Parameter(torch.zeros(64)), precision)
    other.load_state_dict(load_file(tmp_path / "a.safetensors"))
    assert torch.equal(other.weight, quantised.weight)
    assert torch.equal(copy.deepcopy(quantised).weight, quantised.weight)


def test_what_is_named_and_what_is_no_plain_linear_layer_stays():
    network = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.MultiheadAttention(4, 1)})
    quantise(network, "int8", ["b.weight"])
    assert isinstance(network["a"], QuantisedLinear)
    assert type(network["b"]) is nn.Linear
    assert not isinstance(network["c"].out_proj, QuantisedLinear)
