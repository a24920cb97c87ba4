"""The token decoder generates what the model generates: with shared or padded prompts, and rows that end early."""

import pytest
import tiny_language
import torch

from saccade.models.adapters import merged, trainable
from saccade.models.language import decoding
from saccade.models.language.decoding import generate
from saccade.models.language.layers import token_decoder


def model(kind: str):
    import transformers

    sizes = tiny_language.sizes(tiny_language.tokenizer())
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes)).eval()
    for p in made.parameters():
        p.data.mul_(8.0 if p.ndim > 1 else 1.0)
    return made.requires_grad_(False)


def prefilled(made, index):
    ids_PL = torch.randint(5, 200, (3, 9), generator=torch.Generator().manual_seed(1))
    attention_PL = (torch.arange(9) >= torch.tensor([[0], [3], [5]])).long()
    return tiny_language.prefilled(made, ids_PL, attention_PL, torch.tensor(index), 9 + 12)


def generated(made, index):
    uniform = torch.rand(len(index), 12, generator=torch.Generator().manual_seed(2))
    return generate(prefilled(made, index), uniform, lambda tokens: tokens[:, -1] % 5 == 0)


@pytest.mark.parametrize("kind", ["Qwen2", "Llama"])
@pytest.mark.parametrize("index", [[0, 1, 2], [0, 0, 0, 1, 1, 2, 2, 2], [2, 0, 1, 0, 2, 2, 0]])
def test_it_generates_the_same_tokens(kind, index, monkeypatch):
    made = model(kind)
    fast = generated(made, index)
    monkeypatch.setattr(decoding, "token_decoder", lambda *_: None)
    plain = generated(made, index)
    assert len(set(plain[2].tolist())) > 1, "no row ended before the others"
    assert torch.equal(fast[0], plain[0]) and torch.equal(fast[2], plain[2])
    torch.testing.assert_close(fast[1], plain[1], rtol=0, atol=2e-5)


@torch.no_grad()
def test_it_is_used_only_where_it_computes_the_same():
    made = model("Qwen2")
    cache = prefilled(made, [0, 1, 2]).cache
    assert token_decoder(made, cache, 3) is not None
    with torch.enable_grad():
        assert token_decoder(made, cache, 3) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert token_decoder(made, cache, 3) is None
    trainable(made, 2)
    assert token_decoder(made, cache, 3) is None, "adapters beside the weights"
    with merged(made):
        assert token_decoder(made, cache, 3) is not None
    assert token_decoder(made.to(torch.bfloat16), cache, 3) is None
