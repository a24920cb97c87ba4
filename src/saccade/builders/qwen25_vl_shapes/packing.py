"""Conversations as packed rows of tokens, with attention masks and positions.

Several questions about one picture are packed into one row behind the picture. Each attends to the picture and itself
but not to the others, and its positions continue those of the picture: the results equal those of separate rows, at a
fraction of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from saccade.builders.parts.texts import rows_by_kind
from saccade.builders.qwen25_vl_shapes.preprocessing import CELL
from saccade.builders.qwen25_vl_shapes.vision import vision_tokens

USER = "<|im_start|>user\n"

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"

ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"

END = "<|im_end|>"


@dataclass(frozen=True)
class Segment:
    """A text or a picture. Segments of ``branch`` 0 are visible to all branches, those of another only to their own."""

    text: str = ""
    picture: np.ndarray | None = None
    trained: bool = False
    branch: int = 0


@dataclass(frozen=True)
class PackedRows:
    """B rows of L tokens, padded on the right.

    Token ids, weights in the loss and whether a token belongs to a picture ``[B, L]``, positions ``[3, B, L]``, the
    attention mask ``[B, 1, L, L]``, and the pictures in the order of their tokens. The tokens of an answer of n have
    weight 1 / sqrt(n) each, so that a list of boxes does not outweigh a yes.
    """

    ids_BL: Tensor
    weight_BL: Tensor
    is_image_BL: Tensor
    position_3BL: Tensor
    mask_B1LL: Tensor
    pictures: list[np.ndarray]


def questions_about(picture: np.ndarray, pairs: Sequence[tuple[str, str]]) -> list[Segment]:
    """One picture and several questions about it with their answers, each in a branch of its own."""
    asked = [
        segment
        for k, (question, answer) in enumerate(pairs, 1)
        for segment in (Segment(question + ASSISTANT, branch=k), Segment(answer + END, trained=True, branch=k))
    ]
    return [Segment(USER + VISION_START), Segment(picture=picture), Segment(VISION_END), *asked]


def turn(
    pictures: Sequence[np.ndarray], question: str, answer: str, trained: bool = True, first: bool = True
) -> list[Segment]:
    """One turn of a conversation: pictures, a question and the answer."""
    shown = [segment for p in pictures for segment in (Segment(VISION_START), Segment(picture=p), Segment(VISION_END))]
    return [
        Segment(USER if first else "\n" + USER),
        *shown,
        Segment(question + ASSISTANT),
        Segment(answer + END, trained=trained),
    ]


def pack(tokenizer: Any, rows: Sequence[Sequence[Segment]]) -> PackedRows:
    """Tokenize rows of segments and pad them to one length."""
    texts = list({segment.text for row in rows for segment in row if segment.picture is None})
    ids = dict(zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"]))
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    fills = (tokenizer.pad_token_id, 0, -1, 0)
    columns = zip(*(_row(row, ids, pad) for row in rows))
    ids_BL, weight_BL, branch_BL, position_BL3 = (
        pad_sequence(column, True, fill) for column, fill in zip(columns, fills)
    )
    before_LL = torch.ones(ids_BL.shape[1], ids_BL.shape[1], dtype=torch.bool).tril()
    shared = (branch_BL[:, None, :] == 0) | (branch_BL[:, None, :] == branch_BL[:, :, None])
    pictures = [segment.picture for row in rows for segment in row if segment.picture is not None]
    return PackedRows(
        ids_BL, weight_BL.float(), ids_BL == pad, position_BL3.movedim(-1, 0), (shared & before_LL)[:, None], pictures
    )


def _row(row: Sequence[Segment], ids: dict[str, list[int]], pad: int) -> list[Tensor]:
    """Tokens, weights, branches ``[L]`` and positions ``[L, 3]`` of one row."""
    parts, after = [], {0: 0}
    for segment in row:
        start = after.get(segment.branch, after[0])
        if segment.picture is None:
            tokens = np.array(ids[segment.text])
            position = np.arange(len(tokens))[:, None].repeat(3, 1)
            after[segment.branch] = start + len(tokens)
        else:
            height, width = (side // CELL for side in segment.picture.shape[:2])
            tokens = np.full(height * width, pad)
            down, across = np.divmod(np.arange(height * width), width)
            position = np.stack([0 * down, down, across], -1)
            after[segment.branch] = start + max(height, width)
        counts = np.full(len(tokens), segment.trained / len(tokens) ** 0.5)
        parts.append((tokens, counts, np.full(len(tokens), segment.branch), start + position))
    return [torch.from_numpy(np.concatenate(column)) for column in zip(*parts)]


def features(visual: nn.Module, pictures: Sequence[np.ndarray]) -> list[Tensor]:
    """Vision tokens ``[cells, width]`` of each picture; pictures of one size are encoded together."""
    found: dict[int, Tensor] = {}
    for index in rows_by_kind(picture.shape for picture in pictures).values():
        found |= zip(index.tolist(), vision_tokens(visual, np.stack([pictures[i] for i in index])))
    return [found[i] for i in range(len(pictures))]


def states(model: nn.Module, rows: PackedRows, tokens: Sequence[Tensor]) -> Tensor:
    """Last hidden states ``[B, L, D]`` of rows whose pictures were encoded as ``tokens``."""
    decoder = model.model.language_model
    embedded = decoder.embed_tokens(rows.ids_BL)
    shown = torch.cat(list(tokens)).to(embedded.dtype)
    embedded = embedded.masked_scatter(rows.is_image_BL[..., None], shown)
    mask = {"full_attention": rows.mask_B1LL}
    return decoder(
        inputs_embeds=embedded, attention_mask=mask, position_ids=rows.position_3BL, use_cache=False
    ).last_hidden_state
