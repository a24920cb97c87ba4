"""The quick decoder writes what the model writes: prompts shared or not, padded, with rows that end early or are
told more.
"""

import pytest
import tiny_language
import torch

from saccade.models.adapters import merged, trainable
from saccade.models.language import decoding
from saccade.models.language.decoding import generate, positions, prefill
from saccade.models.language.layers import token_decoder


def model(kind: str):
    import transformers

    sizes = tiny_language.sizes(tiny_language.tokenizer())
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes)).eval()
    for p in made.parameters():
        p.data.mul_(8.0 if p.ndim > 1 else 1.0)
    return made.requires_grad_(False)


def reading(made, index):
    ids_PL = torch.randint(5, 200, (3, 9), generator=torch.Generator().manual_seed(1))
    attention_PL = (torch.arange(9) >= torch.tensor([[0], [3], [5]])).long()
    return prefill(made, ids_PL, attention_PL, positions(attention_PL)[:, None], torch.tensor(index), 9 + 12)


def written(made, index):
    uniform = torch.rand(len(index), 12, generator=torch.Generator().manual_seed(2))
    return generate(reading(made, index), uniform, lambda tokens: tokens[:, -1] % 5 == 0)


@pytest.mark.parametrize("kind", ["Qwen2", "Llama"])
@pytest.mark.parametrize("index", [[0, 1, 2], [0, 0, 0, 1, 1, 2, 2, 2], [2, 0, 1, 0, 2, 2, 0]])
def test_it_writes_the_same_words(kind, index, monkeypatch):
    made = model(kind)
    quick = written(made, index)
    monkeypatch.setattr(decoding, "token_decoder", lambda *_: None)
    plain = written(made, index)
    assert len(set(plain[2].tolist())) > 1, "no row ended before the others"
    assert torch.equal(quick[0], plain[0]) and torch.equal(quick[2], plain[2])
    torch.testing.assert_close(quick[1], plain[1], rtol=0, atol=2e-5)


@torch.no_grad()
def test_it_is_used_only_where_it_computes_the_same():
    made = model("Qwen2")
    cache = reading(made, [0, 1, 2]).cache
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
