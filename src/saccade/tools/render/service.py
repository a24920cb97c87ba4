"""Programs to pictures: what is known comes from the cache, what is too long never leaves, the rest goes to the
workers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib import import_module
from typing import Any

from saccade.tools.render.cache import Cache
from saccade.tools.render.pool import Pool
from saccade.tools.render.results import Box, Render, Request
from saccade.tools.render.workers import Answer

_CACHE_BYTES = 256 << 20


def render(code: str, lang: str, size: int, background: str = "#fff", box: Box | None = None) -> Render:
    """One program's picture, see `Request` and `Render`. Bad programs have a status and raise nothing."""
    return render_batch([Request(code, lang, size, background, box)])[0]


def render_batch(requests: Sequence[Request]) -> list[Render]:
    """The programs' pictures, in their order; equal requests are drawn once, and are one object.

    Blocks until all are done, on all cores that this process may use. `RendererBroken` if it is not the programs'
    fault.
    """
    keys = [_key(request) for request in requests]
    known = {key: _cache(os.getpid()).get(key) for key in keys}
    missing = {key: request for key, request in zip(keys, requests) if known[key] is None}
    for lang in {request.lang for request in missing.values()}:
        known |= _draw(lang, {key: request for key, request in missing.items() if request.lang == lang})
    return [known[key] for key in keys]


def find(text: str, lang: str) -> str:
    """The program of a language in what a model wrote around it; the text itself where there is none."""
    return _back_end(lang).find(text)


def canvas(code: str, lang: str) -> Box:
    """The box that a trusted program asks for, to show others in. `Refused` if it asks for none."""
    return _back_end(lang).canvas(code)


def _draw(lang: str, asked: dict[tuple, Request]) -> dict[tuple, Render]:
    back_end = _back_end(lang)
    sent = {key: request for key, request in asked.items() if len(request.code) <= back_end.LIMITS.characters}
    answers = dict(zip(sent, _pool(os.getpid(), lang).run([_job(request) for request in sent.values()])))
    most = back_end.LIMITS.characters
    long = lambda request: Answer("too_large", f"{len(request.code)} characters, more than {most}", 0.0)
    drawn = {key: _render(key, asked[key], answers.get(key) or long(asked[key])) for key in asked}
    for key, one in drawn.items():
        _cache(os.getpid()).put(key, one)
    return drawn


def _key(request: Request) -> tuple:
    back_end = _back_end(request.lang)
    code = sha256(request.code.encode("utf-8", "surrogatepass")).hexdigest()
    return code, back_end.renderer(), request.size, request.background, tuple(request.box or back_end.BOX)


def _job(request: Request) -> dict[str, Any]:
    box = request.box or _back_end(request.lang).BOX
    return {"code": request.code, "size": request.size, "background": request.background, "box": box}


def _render(key: tuple, request: Request, answer: Answer) -> Render:
    import numpy as np

    picture = None
    if answer.pixels:
        picture = np.frombuffer(answer.pixels, np.uint8).reshape(request.size, request.size, 3)
    return Render(picture, answer.status, answer.message, answer.ms, key[1], key[0])


@cache
def _back_end(lang: str) -> Any:
    return import_module(f"saccade.tools.render.{lang}")


@cache
def _pool(process: int, lang: str) -> Pool:
    """The workers of this process; one that was forked from it has workers of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Pool(f"saccade.tools.render.{lang}", cores)


@cache
def _cache(process: int) -> Cache:
    return Cache(_CACHE_BYTES)
