"""Rendering of batches: from the cache or in the workers; programs that are too long are not sent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib import import_module
from typing import Any, cast

from saccade.tools.render.cache import Cache
from saccade.tools.render.pool import Pool
from saccade.tools.render.results import BackEnd, Box, Render, Request
from saccade.tools.render.workers import Answer

_CACHE_BYTES = 256 << 20


def render(code: str, lang: str, size: int, background: str = "#fff", box: Box | None = None) -> Render:
    """The render of one program, see `Request` and `Render`. Invalid programs have a status and raise nothing."""
    return render_batch([Request(code, lang, size, background, box)])[0]


def render_batch(requests: Sequence[Request]) -> list[Render]:
    """The renders of programs, in their order; equal requests are rendered once, and are one object.

    Blocks until all are done, on all cores that this process may use. `RendererBroken` if the renderer itself fails.
    """
    keys = [_key(request) for request in requests]
    cached = {key: _cache(os.getpid()).get(key) for key in keys}
    renders = {key: render for key, render in cached.items() if render is not None}
    missing = {key: request for key, request in zip(keys, requests) if key not in renders}
    for lang in {request.lang for request in missing.values()}:
        renders |= _render_missing(lang, {key: request for key, request in missing.items() if request.lang == lang})
    return [renders[key] for key in keys]


def find_program(text: str, lang: str) -> str:
    """The program of a language in a model's text; the text itself if it has none."""
    return _back_end(lang).find_program(text)


def declared_canvas(code: str, lang: str) -> Box:
    """The box that a trusted program declares. `Refused` if it declares none."""
    return _back_end(lang).declared_canvas(code)


def _render_missing(lang: str, requests: dict[tuple, Request]) -> dict[tuple, Render]:
    limit = _back_end(lang).LIMITS.characters
    sent = {key: request for key, request in requests.items() if len(request.code) <= limit}
    answers = dict(zip(sent, _pool(os.getpid(), lang).run([_job(request) for request in sent.values()])))
    too_long = lambda request: Answer("too_large", f"{len(request.code)} characters, more than {limit}", 0.0)
    renders = {key: _render(key, one, answers.get(key) or too_long(one)) for key, one in requests.items()}
    for key, one in renders.items():
        _cache(os.getpid()).put(key, one)
    return renders


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
def _back_end(lang: str) -> BackEnd:
    return cast(BackEnd, import_module(f"saccade.tools.render.{lang}"))


@cache
def _pool(process: int, lang: str) -> Pool:
    """The workers of this process; a process that is forked from it starts its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Pool(f"saccade.tools.render.{lang}", cores)


@cache
def _cache(process: int) -> Cache:
    return Cache(_CACHE_BYTES)
