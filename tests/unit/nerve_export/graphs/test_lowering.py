"""Half precision written into networks: what is half, what stays float32, and what the audit sees."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nerve_export.graphs.diffusion import fold_time
from nerve_export.graphs.lowering import attend, lower, probabilities, watched_ranges
from nerve_export.graphs.modules import AttentionStage, ScoresStage
from nerve_export.graphs.networks import DiffusionHeads
from nerve_ref.params import NerveParams
from nerve_ref.pipeline import observe_affinity, observe_clip
from nerve_ref.providers.provider import StableDiffusion
from nerve_ref.weights.networks import Models
from nerve_runtime.errors import NumericError, UsageError


class Block(nn.Module):
    """A residual block whose first layer makes numbers that float16 cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.grow, self.shrink = nn.Linear(4, 4), nn.Linear(4, 4)
        with torch.no_grad():
            self.grow.weight.copy_(6e4 * torch.eye(4))
            self.shrink.weight.copy_(1e-5 * torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        grown: Tensor = self.grow(self.norm(x))
        return x + self.shrink(grown)


X = torch.tensor([[1.0, -2.0, 3.0, 0.5]])


@pytest.fixture
def block() -> Block:
    torch.manual_seed(3)
    return Block()


@pytest.fixture
def own(models: Models) -> Models:
    return Models.ready(copy.deepcopy(models.clip), models.tokenizer, copy.deepcopy(models.provider))


def dtypes_of(network: nn.Module) -> dict[str, torch.dtype]:
    return {name: weight.dtype for name, weight in network.named_parameters()}


def test_fp32_changes_nothing(block: Block) -> None:
    before = block(X)
    lower(block, "fp32")
    assert torch.equal(block(X), before)
    assert set(dtypes_of(block).values()) == {torch.float32}


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_norms_stay_float32_and_give_half(block: Block, precision: str, dtype: torch.dtype) -> None:
    lower(block, precision)  # type: ignore[arg-type]  # a Literal
    assert {name.partition(".")[0]: kind for name, kind in dtypes_of(block).items()} == {
        "norm": torch.float32,
        "grow": dtype,
        "shrink": dtype,
    }
    assert block.norm(X).dtype == dtype


def test_what_float16_cannot_hold_comes_out_right_when_it_is_kept(block: Block) -> None:
    expected = block(X)
    overflowing, kept = copy.deepcopy(block), copy.deepcopy(block)
    lower(overflowing, "fp16")
    lower(kept, "fp16", ("grow", "shrink"))
    assert not overflowing(X).isfinite().all()
    torch.testing.assert_close(kept(X), expected, atol=2e-3, rtol=2e-3)


def test_the_audit_names_what_is_beyond_float16(block: Block) -> None:
    with torch.no_grad(), watched_ranges(block) as largest:
        block(X)
        block(0.5 * X)
    assert set(largest) == {"norm", "grow", "shrink"}
    assert largest["grow"] == pytest.approx(float(block.grow(block.norm(X)).detach().abs().max()), rel=0.01)
    assert [path for path, value in largest.items() if value > 32752] == ["grow", "shrink"], "who reads it too"


def test_what_the_audit_names_is_enough_to_come_out_right(block: Block) -> None:
    expected = block(X)
    with torch.no_grad(), watched_ranges(block) as largest:
        block(X)
    lower(block, "fp16", tuple(path for path, value in largest.items() if value > 32752))
    torch.testing.assert_close(block(X), expected, atol=2e-3, rtol=2e-3)


class Summing(nn.Module):
    """A sum that float16 cannot hold, tamed by a norm, of parts that it can."""

    def __init__(self) -> None:
        super().__init__()
        self.grow, self.norm = nn.Linear(4, 4, bias=False), nn.LayerNorm(4)
        with torch.no_grad():
            self.grow.weight.copy_(15000 * torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        grown: Tensor = self.grow(x)
        tamed: Tensor = self.norm(grown + grown)
        return tamed


def test_a_sum_before_a_norm_keeps_the_module_that_makes_it() -> None:
    network = nn.ModuleDict({"block": Summing()})
    small = 0.5 * X
    expected = network["block"](small)
    with torch.no_grad(), watched_ranges(network) as largest:
        network["block"](small)
    beyond = tuple(path for path, value in largest.items() if value > 32752)
    assert beyond == ("block",), "grow gives at most 22500, the sum is 45000"
    lower(network, "fp16", beyond)
    torch.testing.assert_close(network["block"](small), expected, atol=2e-3, rtol=2e-3)


def test_a_weight_beyond_float16_is_named() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.fill_(1e5)
    network = nn.ModuleDict({"layer": layer})
    with pytest.raises(
        NumericError, match=r"a weight of layer is 1e\+05, beyond torch.float16; name layer under keep_fp32"
    ):
        lower(network, "fp16")


def test_the_audit_leaves_the_network_as_it_was(block: Block) -> None:
    expected = block(X)
    with torch.no_grad(), watched_ranges(block):
        block(X)
    assert torch.equal(block(X), expected)
    assert all(not module._forward_hooks for module in block.modules())


def test_a_number_that_is_none_counts_as_beyond_every_limit(block: Block) -> None:
    with torch.no_grad(), watched_ranges(block) as largest:
        block(torch.full((1, 4), float("nan")))
    assert largest["norm"] == float("inf")


class Attending(nn.Module):
    """Self-attention whose queries and keys fit float16 one by one, while their products do not."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.heads, self.to_q, self.to_k = 2, nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            self.to_q.weight.copy_(size * torch.eye(4))
            self.to_k.weight.copy_(size * torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return probabilities(self.to_q(x), self.to_k(x))


@pytest.mark.parametrize(("size", "named"), [(1.0, []), (100.0, ["attention"])])
def test_the_audit_names_an_attention_whose_logits_float16_cannot_hold(size: float, named: list[str]) -> None:
    network = nn.ModuleDict({"attention": Attending(size)})
    with torch.no_grad(), watched_ranges(network) as largest:
        network["attention"](X)
    assert [path for path, value in largest.items() if value > 32752] == named
    # Heads are the first two and the last two of (1, -2, 3, 0.5): the longer one has the square 9.25.
    assert largest["attention"] == pytest.approx(max(9.25 * size**2, 1), rel=1e-5)


def test_a_layer_to_keep_that_does_not_exist_is_named(block: Block) -> None:
    with pytest.raises(
        UsageError, match=r"keep_fp32 names 'growth', which is no layer; layers are named as in \['norm'"
    ):
        lower(block, "fp16", ("growth",))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_products_equals_the_one_operation(masked: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = torch.randn(3, 1, 2, 6, 8, generator=generator)
    mask = torch.full((6, 6), -1e4).triu(1) if masked else None
    fused = attend(query, key, value, native=True, mask=mask)
    apart = probabilities(query, key, mask) @ value
    torch.testing.assert_close(apart, fused)
    half = attend(query.half(), key.half(), value.half(), native=False, mask=mask)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), fused, atol=5e-3, rtol=5e-3)


def test_logits_beyond_float16_do_not_overflow_in_products() -> None:
    query = torch.full((1, 2, 8), 300.0, dtype=torch.float16)
    assert not (query @ query.transpose(1, 2)).isfinite().all()
    assert attend(query, query, query, native=False).isfinite().all()


@pytest.mark.parametrize("native", [False, True])
def test_half_precision_heads_are_near_the_references(
    native: bool, models: Models, own: Models, frame: Tensor, params: NerveParams
) -> None:
    z0, heads = observe_affinity(models, frame, params)
    stage = AttentionStage(own, params, (16, 16), native=native)
    lower(stage.network, "fp16")
    with torch.no_grad():
        (_, local_weights), taps = stage.tapped(frame[None])
    assert local_weights.dtype == taps["q0"].dtype == taps["latent"].dtype == torch.float32
    assert z0 is not None
    torch.testing.assert_close(taps["latent"], z0, atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(taps["q0"], heads[0].q, atol=3e-2, rtol=3e-2)
    assert not torch.equal(taps["q0"], heads[0].q)
    assert {torch.float16, torch.float32} == set(dtypes_of(stage.network).values())


@pytest.mark.parametrize("clip_mode", ["maskclip", "naclip", "vanilla", "early_fusion"])
def test_half_precision_clip_is_near_the_references(
    clip_mode: str, models: Models, own: Models, frame: Tensor, params: NerveParams
) -> None:

    varied = replace(params, clip_mode=clip_mode)  # type: ignore[arg-type]  # a Literal
    stage = ScoresStage(own, varied, (16, 16), native=False)
    lower(stage.network, "fp16")
    with torch.no_grad():
        features = stage.network(frame[None])
    expected = observe_clip(models, frame, varied).flatten(0, 1)
    assert features.dtype == torch.float32
    assert (features * expected).sum(1).min() > 0.999


def test_a_folded_unet_has_no_time_embedding_left(own: Models) -> None:
    provider = own.provider
    assert isinstance(provider, StableDiffusion)
    fold_time(provider.unet, 50)
    assert [name for name, _ in provider.unet.named_parameters() if "time" in name] == []


def test_keys_and_values_of_the_empty_prompt_are_constants(own: Models, params: NerveParams) -> None:
    assert isinstance(own.provider, StableDiffusion)
    before = [name for name, _ in own.provider.unet.named_parameters() if "attn2.to_k" in name or "attn2.to_v" in name]
    heads = DiffusionHeads(own.provider, params, native=True)
    left = [name for name, _ in heads.named_parameters() if "attn2.to_k" in name or "attn2.to_v" in name]
    constants = [name for name, _ in heads.named_buffers() if name.endswith(("processor.key", "processor.value"))]
    assert before
    assert left == []
    assert len(constants) == len(before)
