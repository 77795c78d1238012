"""Which layers LoRA finds, what it leaves alone, and that it is gone afterwards."""

from __future__ import annotations

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.errors import LearnError
from bowerbird.learn.finetune.lora import inject

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("peft", reason="the extra `train` is not installed")


class Network(torch.nn.Module):
    """A convolution, PyTorch's own attention, two linear layers, and one that nothing depends on."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 4, 4)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc1 = torch.nn.Linear(8, 16)
        self.my_fc1 = torch.nn.Linear(16, 8)
        self.unused = torch.nn.Linear(8, 8)

    def forward(self, pixels):
        tokens = self.stem(pixels).flatten(2).transpose(1, 2)
        seen, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.my_fc1(torch.nn.functional.gelu(self.fc1(tokens + seen))).mean(1)


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network().eval()


def reached(network):
    return {id(weight) for name, weight in network.named_parameters() if "unused" not in name}


def learning(network):
    return {name for name, weight in network.named_parameters() if weight.requires_grad}


def beside(network):
    return {name.partition(".lora_")[0].replace(".base_layer", "") for name in learning(network)}


PIXELS = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32))


def test_linear_layers_and_attention_are_found_by_what_they_are(network):
    before = network(PIXELS).detach()
    merge = inject(network, bb.LoRA(rank=2), reached(network), seed=0)
    assert beside(network) == {"attention", "attention.out_proj", "fc1", "my_fc1"} or beside(network) == {
        "attention",
        "fc1",
        "my_fc1",
    }
    torch.testing.assert_close(network(PIXELS), before, msg="it begins as it was")
    optimizer = torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        network(PIXELS).square().sum().backward()
        optimizer.step()
    after = network(PIXELS).detach()
    assert (after - before).abs().max() > 0.01
    merge()
    torch.testing.assert_close(network(PIXELS), after, atol=1e-5, rtol=1e-5)
    assert not [name for name in network.state_dict() if "lora" in name]
    assert type(network.fc1) is torch.nn.Linear
    assert type(network.attention) is torch.nn.MultiheadAttention


def test_a_name_means_that_layer_and_no_other_that_ends_in_it(network):
    inject(network, bb.LoRA(targets=("fc1",)), reached(network), seed=0)
    assert beside(network) == {"fc1"}


def test_convolutions_are_taken_where_they_are_named(network):
    before = network(PIXELS).detach()
    merge = inject(network, bb.LoRA(rank=1, targets=("stem",)), reached(network), seed=0)
    assert beside(network) == {"stem"}
    merge()
    torch.testing.assert_close(network(PIXELS), before)


def test_the_seed_decides_where_it_begins(network):
    def drawn(seed):
        made = Network()
        made.load_state_dict(network.state_dict())
        inject(made, bb.LoRA(rank=2), reached(made), seed=seed)
        return {
            name: weight.detach().clone() for name, weight in made.named_parameters() if weight.requires_grad
        }

    state = torch.random.get_rng_state()
    one, same, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(torch.random.get_rng_state()[:0], state[:0])
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_names_that_are_none(network):
    with pytest.raises(LearnError, match="no linear layer called q_proj") as error:
        inject(network, bb.LoRA(targets=("q_proj",)), reached(network), seed=0)
    assert "fc1" in error.value.hint
    with pytest.raises(LearnError, match="no layer called 'q_proj'"):
        inject(network, bb.LoRA(targets=("fc1", "q_proj")), reached(network), seed=0)
    with pytest.raises(LearnError, match="no linear layer"):
        inject(torch.nn.Conv2d(3, 3, 1), bb.LoRA(), set(), seed=0)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}, {"dropout": 1.0}])
def test_values_out_of_range(wrong):
    with pytest.raises(LearnError, match=f"The {next(iter(wrong))} of LoRA"):
        bb.LoRA(**wrong)
