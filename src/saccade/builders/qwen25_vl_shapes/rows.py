"""Conversations as rows of tokens: what is learnt, what may look at what, and where every token stands.

Several questions about one picture lie in one row behind it. Each sees the picture and itself but not the others, and
counts its positions from where the picture ends: so the numbers are those of separate rows, at a fraction of the work.
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
from saccade.builders.qwen25_vl_shapes.shown import CELL
from saccade.builders.qwen25_vl_shapes.sight import see

OPEN = "<|im_start|>user\n"

LOOK, LOOKED = "<|vision_start|>", "<|vision_end|>"

REPLY = "<|im_end|>\n<|im_start|>assistant\n"

END = "<|im_end|>"


@dataclass(frozen=True)
class Piece:
    """Words, or a picture. ``branch`` 0 is what all share; pieces of another branch do not see those of a third."""

    words: str = ""
    picture: np.ndarray | None = None
    learnt: bool = False
    branch: int = 0


@dataclass(frozen=True)
class Rows:
    """B rows of L tokens, padded on the right: ids, what each counts in the loss, whether it is a picture's [B, L],
    positions [3, B, L], who sees whom [B, 1, L, L], and the pictures in the order of their tokens.

    The tokens of an answer of n count 1 / sqrt(n) each, so that a list of boxes does not drown a yes.
    """

    ids_BL: Tensor
    weight_BL: Tensor
    seen_BL: Tensor
    place_3BL: Tensor
    mask_B1LL: Tensor
    pictures: list[np.ndarray]


def about(picture: np.ndarray, talk: Sequence[tuple[str, str]]) -> list[Piece]:
    """One picture and what is asked about it."""
    asked = [
        piece
        for k, (question, answer) in enumerate(talk, 1)
        for piece in (Piece(question + REPLY, branch=k), Piece(answer + END, learnt=True, branch=k))
    ]
    return [Piece(OPEN + LOOK), Piece(picture=picture), Piece(LOOKED), *asked]


def turn(
    pictures: Sequence[np.ndarray], question: str, answer: str, learnt: bool = True, first: bool = True
) -> list[Piece]:
    """One turn of a conversation: pictures, a question and the answer."""
    shown = [piece for p in pictures for piece in (Piece(LOOK), Piece(picture=p), Piece(LOOKED))]
    return [Piece(OPEN if first else "\n" + OPEN), *shown, Piece(question + REPLY), Piece(answer + END, learnt=learnt)]


def lay(tokenizer: Any, rows: Sequence[Sequence[Piece]]) -> Rows:
    """Rows side by side."""
    words = list({piece.words for row in rows for piece in row if piece.picture is None})
    ids = dict(zip(words, tokenizer(words, add_special_tokens=False)["input_ids"]))
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    fills = (tokenizer.pad_token_id, 0, -1, 0)
    columns = zip(*(_row(row, ids, pad) for row in rows))
    ids_BL, weight_BL, branch_BL, place_BL3 = (pad_sequence(column, True, fill) for column, fill in zip(columns, fills))
    before_LL = torch.ones(ids_BL.shape[1], ids_BL.shape[1], dtype=torch.bool).tril()
    shared = (branch_BL[:, None, :] == 0) | (branch_BL[:, None, :] == branch_BL[:, :, None])
    pictures = [piece.picture for row in rows for piece in row if piece.picture is not None]
    return Rows(
        ids_BL, weight_BL.float(), ids_BL == pad, place_BL3.movedim(-1, 0), (shared & before_LL)[:, None], pictures
    )


def _row(row: Sequence[Piece], ids: dict[str, list[int]], pad: int) -> list[Tensor]:
    """Tokens, weights, branches [L] and positions [L, 3] of one row."""
    parts, after = [], {0: 0}
    for piece in row:
        start = after.get(piece.branch, after[0])
        if piece.picture is None:
            tokens = np.array(ids[piece.words])
            place = np.arange(len(tokens))[:, None].repeat(3, 1)
            after[piece.branch] = start + len(tokens)
        else:
            high, wide = (side // CELL for side in piece.picture.shape[:2])
            tokens = np.full(high * wide, pad)
            down, across = np.divmod(np.arange(high * wide), wide)
            place = np.stack([0 * down, down, across], -1)
            after[piece.branch] = start + max(high, wide)
        counts = np.full(len(tokens), piece.learnt / len(tokens) ** 0.5)
        parts.append((tokens, counts, np.full(len(tokens), piece.branch), start + place))
    return [torch.from_numpy(np.concatenate(column)) for column in zip(*parts)]


def features(visual: nn.Module, pictures: Sequence[np.ndarray]) -> list[Tensor]:
    """Tokens [cells, width] of each picture; those of one size go through the tower together."""
    found: dict[int, Tensor] = {}
    for index in rows_by_kind(picture.shape for picture in pictures).values():
        found |= zip(index.tolist(), see(visual, np.stack([pictures[i] for i in index])))
    return [found[i] for i in range(len(pictures))]


def states(model: nn.Module, rows: Rows, tokens: Sequence[Tensor]) -> Tensor:
    """Last hidden states [B, L, D] of rows whose pictures became ``tokens``."""
    writer = model.model.language_model
    embedded = writer.embed_tokens(rows.ids_BL)
    shown = torch.cat(list(tokens)).to(embedded.dtype)
    embedded = embedded.masked_scatter(rows.seen_BL[..., None], shown)
    mask = {"full_attention": rows.mask_B1LL}
    return writer(
        inputs_embeds=embedded, attention_mask=mask, position_ids=rows.place_3BL, use_cache=False
    ).last_hidden_state
