"""MuJoCo pictures with software OpenGL, tens of times faster: no multisampling, shadows, sky or fine tessellation.

Software OpenGL spends its time on these and not on the few pixels of a small picture. The background is exactly black.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import sys
from typing import Any

import numpy as np

_LIVE: list[Camera] = []
"""With OSMesa, the one camera that holds a renderer: two live ones return uninitialised memory without an error."""


def headless() -> None:
    """Choose EGL, and no window for pygame, where there is no display and no choice; before either is imported."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        if "mujoco" not in sys.modules:
            os.environ.setdefault("MUJOCO_GL", "egl")


def log_warnings() -> None:
    """Log MuJoCo's warnings, each once, instead of writing them to a file in the working folder."""
    if "mujoco" in sys.modules:
        sys.modules["mujoco"].set_mju_user_warning(log_warning)


@functools.cache
def log_warning(warning: str) -> None:
    """Log a warning of MuJoCo's; repeated ones are dropped by the cache."""
    logging.getLogger(__name__).warning("MuJoCo: %s", warning)


def fast_gl(model: Any, size: int) -> None:
    """Set a compiled MjModel to coarse, cheap rendering at ``size`` pixels a side, before its renderer is made.

    Only the appearance changes, not the simulation.
    """
    quality = model.vis.quality
    quality.offsamples = quality.shadowsize = 0
    quality.numslices, quality.numstacks, quality.numquads = 8, 4, 1
    model.vis.global_.offwidth = model.vis.global_.offheight = size


def is_mujoco(env: Any) -> bool:
    """Whether a Gymnasium environment holds a MuJoCo model and its data, as its own do and those of dm_control."""
    mujoco = sys.modules.get("mujoco")
    return mujoco is not None and isinstance(_simulated(env)[0], mujoco.MjModel)


def _simulated(env: Any) -> tuple[Any, Any]:
    """Model and data, None where there are none."""
    inner = env.unwrapped
    physics = getattr(getattr(inner, "_env", None), "physics", None)  # shimmy's, around an environment of dm_control
    if physics is not None:
        return physics.model.ptr, physics.data.ptr
    return getattr(inner, "model", None), getattr(inner, "data", None)


class Camera:
    """Renders environments that share a model through its camera "track", else through the camera that the environment
    places, else through the model's first one.
    """

    def __init__(self, env: Any, size: int):
        self.size, (self.model, _) = size, _simulated(env)
        fast_gl(self.model, size)
        self.camera = _camera(env.unwrapped, self.model)
        self.renderer: Any = None

    def __call__(self, env: Any) -> np.ndarray:
        """A picture uint8 ``[size, size, 3]`` of ``env`` as it stands. RuntimeError without OpenGL."""
        renderer = self._ready()
        renderer.update_scene(_simulated(env)[1], self.camera)
        return renderer.render()

    def close(self) -> None:
        """Release the renderer; the next picture makes a new one."""
        if self.renderer is not None:
            self.renderer.close()
            self.renderer = None
        if self in _LIVE:
            _LIVE.remove(self)

    def _ready(self) -> Any:
        if self.renderer is None:
            if os.environ.get("MUJOCO_GL") == "osmesa":
                for other in list(_LIVE):
                    other.close()
                _LIVE.append(self)
            _triton_first()
            self.renderer = _renderer(self.model, self.size)
        return self.renderer


@functools.cache
def _triton_first() -> None:
    """Load the triton that some builds of torch bring: it crashes if Mesa's OpenGL has loaded its own LLVM before."""
    if importlib.util.find_spec("triton"):
        importlib.import_module("triton")


def _renderer(model: Any, size: int) -> Any:
    import mujoco

    try:
        renderer = mujoco.Renderer(model, size, size)
    except Exception as error:
        chosen = os.environ.get("MUJOCO_GL", "")
        raise RuntimeError(
            f"no OpenGL for MuJoCo (MUJOCO_GL={chosen!r}; egl and osmesa need no display): {error}"
        ) from error
    flags = mujoco.mjtRndFlag
    for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX, flags.mjRND_HAZE):
        renderer.scene.flags[flag] = 0
    return renderer


def _camera(unwrapped: Any, model: Any) -> Any:
    import mujoco

    camera = mujoco.MjvCamera()
    track = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    has_renderer = hasattr(unwrapped, "mujoco_renderer")
    if track >= 0 or (model.ncam and not has_renderer):
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, max(track, 0)
        return camera
    mujoco.mjv_defaultFreeCamera(model, camera)
    config = (has_renderer and unwrapped.mujoco_renderer.default_cam_config) or {}
    for name, value in config.items():
        if isinstance(value, np.ndarray):
            getattr(camera, name)[:] = value
        else:
            setattr(camera, name, value)
    return camera
