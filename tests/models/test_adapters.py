"""LoRA: no effect at initialization, merged equals unmerged, and the original tensors are restored to the bit."""

from __future__ import annotations

import pytest
import tiny_language
import torch

from saccade.models.adapters import load_weights, merged, trainable, weights


def language():
    module = tiny_language.qwen2(loud=1.0).model
    ids = torch.arange(12).reshape(2, 6)
    return module, lambda: module(input_ids=ids).logits


def transformer():
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    module = SD3Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=8,
        pos_embed_max_size=4,
    )  # fmt: skip
    x, tokens, pooled, t = torch.randn(2, 4, 4, 4), torch.randn(2, 3, 16), torch.randn(2, 8), torch.tensor([500.0, 9.0])
    return module, lambda: module(x, tokens, pooled, t, return_dict=False)[0]


BOTH = pytest.mark.parametrize("make", [language, transformer])


@BOTH
@torch.no_grad()
def test_merged_equals_unmerged_and_restores_to_the_bit(make, tmp_path):
    module, run = make()
    plain_names, before = list(module.state_dict()), run()
    trained = trainable(module, lora_rank=4)
    torch.testing.assert_close(run(), before, rtol=0, atol=1e-6)  # B = 0
    for p in trained:
        p.add_(torch.randn_like(p) * 0.1)
    adapted, originals = run(), {name: (p.data_ptr(), p.clone()) for name, p in module.named_parameters()}
    with merged(module) as folded:
        assert list(folded.state_dict()) == plain_names
        assert not torch.allclose(before, run(), atol=1e-3)
        torch.testing.assert_close(run(), adapted, rtol=1e-5, atol=1e-5)
        folded.save_pretrained(tmp_path)
    assert torch.equal(run(), adapted)
    assert {name: p.data_ptr() for name, p in module.named_parameters()} == {n: at for n, (at, _) in originals.items()}
    assert all(torch.equal(p, originals[name][1]) for name, p in module.named_parameters())
    loaded = type(module).from_pretrained(tmp_path).eval()
    plain = loaded.state_dict()
    with merged(module) as folded:
        assert all(torch.equal(tensor, plain[name]) for name, tensor in folded.state_dict().items())


@BOTH
def test_only_the_adapters_are_trained_and_gradients_reach_them(make):
    module, run = make()
    trained = trainable(module, lora_rank=2, lora_alpha=2)
    assert {id(p) for p in trained} == {id(p) for p in module.parameters() if p.requires_grad}
    run().square().sum().backward()
    assert all(p.grad is not None for p in trained) and any(p.grad.abs().sum() > 0 for p in trained)


def test_merged_restores_after_an_error_and_does_nothing_without_lora():
    module, _ = language()
    with merged(module) as same:
        assert same is module
    trained = trainable(module, lora_rank=2)
    names = list(module.state_dict())
    with pytest.raises(KeyError), merged(module):
        raise KeyError
    assert list(module.state_dict()) == names and len(trained) == 2 * 4 * 2


def test_adapters_depend_on_their_seed_alone():
    def adapter(seed):
        module, _ = language()
        torch.manual_seed(int(torch.randint(9999, ())))
        return weights(trainable(module, lora_rank=2, seed=seed))["0"]

    state = torch.random.get_rng_state()
    module, _ = language()
    torch.random.set_rng_state(state)
    trainable(module, lora_rank=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(adapter(1), adapter(1)) and not torch.equal(adapter(1), adapter(2))


def test_half_precision_bases_carry_float32_adapters():
    module, run = language()
    module.to(torch.bfloat16)
    assert {p.dtype for p in trainable(module, lora_rank=2)} == {torch.float32}
    with torch.no_grad(), merged(module) as folded:
        assert run().dtype == torch.bfloat16 and {p.dtype for p in folded.parameters()} == {torch.bfloat16}


def test_rank_zero_trains_all_or_the_targets():
    module, _ = language()
    assert sum(p.numel() for p in trainable(module)) == sum(p.numel() for p in module.parameters())
    chosen = trainable(module, targets=["layers.1.mlp"])
    assert len(chosen) == 3 and sum(p.requires_grad for p in module.parameters()) == 3


def test_errors_name_the_nearest_module():
    module, _ = language()
    with pytest.raises(ValueError, match="nearest: q_proj"):
        trainable(module, lora_rank=2, targets=["q_prj"])
    with pytest.raises(ValueError, match="no known attention projections"):
        trainable(torch.nn.Sequential(torch.nn.Linear(2, 2)), lora_rank=2)
    trainable(module, lora_rank=2)
    with pytest.raises(ValueError, match="has LoRA already"):
        trainable(module, lora_rank=2)


def test_saved_weights_are_loaded():
    module, _ = language()
    trained = trainable(module, lora_rank=2)
    saved = {name: tensor.clone() for name, tensor in weights(trained).items()}
    for p in trained:
        p.data.normal_()
    load_weights(trained, saved)
    assert all(torch.equal(p, saved[str(i)]) for i, p in enumerate(trained))
    with pytest.raises(ValueError, match="holds 1 trained weights"):
        load_weights(trained, {"0": saved["0"]})
    with pytest.raises(ValueError, match="shape"):
        load_weights(trained, saved | {"0": torch.zeros(1)})
