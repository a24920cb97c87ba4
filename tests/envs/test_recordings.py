"""Recorded episodes load as they were, from our folders, Minari's and LeRobot's; damaged ones raise one line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from saccade.core import Step
from saccade.envs.recordings import Recorder, Recording, add_episodes, open_recording, record_episodes, to_transitions
from saccade.training.buffers import Buffer

LENGTH = 6


class Counting:
    """An environment whose episode of ``seed % 5 + 2`` steps counts them, beside a picture of that count."""

    name, count = "counting", 3
    observation_space = spaces.Dict(
        {"state": spaces.Box(0, 99, (2,)), "picture": spaces.Box(0, 255, (4, 5, 3), np.uint8)}
    )
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self):
        self.seed_B, self.step_B, self.steps = np.zeros(3, int), np.zeros(3, int), 0

    def begin(self, rows, seeds):
        self.seed_B[rows], self.step_B[rows] = seeds, 0
        return {name: value[rows] for name, value in self._observation().items()}

    def step(self, action_B):
        self.step_B += 1
        self.steps += 1
        ended_B = self.step_B >= self.seed_B % 5 + 2
        even_B = self.seed_B % 2 == 0
        return Step(
            self._observation(),
            action_B[:, 0] * 1.0,
            ended_B & even_B,
            ended_B & ~even_B,
            {"success": even_B & ended_B},
        )

    def _observation(self):
        state = np.stack([self.seed_B, self.step_B], 1).astype(np.float32)
        return {
            "state": state,
            "picture": np.broadcast_to(self.step_B[:, None, None, None], (3, 4, 5, 3)).astype(np.uint8),
        }


def act(observation, seed_B, step_B):
    assert (observation["state"] == np.stack([seed_B, step_B], 1)).all()
    return (seed_B + step_B / 10)[:, None].astype(np.float32)


def test_recorded_episodes_load_as_they_were(tmp_path):
    assert record_episodes(Counting(), act, range(8), tmp_path / "r") == 8
    episodes = {int(e["seed"]): e for e in open_recording(tmp_path / "r")}
    assert sorted(episodes) == list(range(8)) and {p.suffix for p in (tmp_path / "r").iterdir()} == {".npz", ".jsonl"}
    for seed, episode in episodes.items():
        length = seed % 5 + 2
        assert (
            episode["observation.picture"].shape == (length + 1, 4, 5, 3)
            and episode["observation.picture"].dtype == np.uint8
        )
        assert (episode["observation.state"] == [[seed, t] for t in range(length + 1)]).all()
        assert np.allclose(episode["action"][:, 0], [seed + t / 10 for t in range(length)])
        assert (episode["reward"] == episode["action"][:, 0]).all()
        assert episode["terminated"][-1] == (seed % 2 == 0) and episode["truncated"][-1] == (seed % 2 == 1)
    line = Recording(tmp_path / "r").lines[0]
    assert line["environment"] == "counting" and line["end"] == "terminated" and line["info.success"] == 1.0


def test_an_interrupted_recording_continues_and_long_episodes_are_truncated(tmp_path):
    assert record_episodes(Counting(), act, [0, 1, 2], tmp_path) == 3
    index = tmp_path / "index.jsonl"
    index.write_bytes(index.read_bytes()[:-9])
    (tmp_path / ".000007.npz.new").write_bytes(b"incomplete")
    assert record_episodes(Counting(), act, [0, 1, 2, 3], tmp_path, longest=4) == 2
    assert record_episodes(Counting(), act, [0], tmp_path) == 0
    found = {int(e["seed"]): e for e in open_recording(tmp_path)}
    assert sorted(found) == [0, 1, 2, 3] and len(found[3]["reward"]) == 4 and found[3]["truncated"][-1]


def test_a_recording_of_version_0_1_is_read(tmp_path):
    record_episodes(Counting(), act, [4], tmp_path)
    (path,) = tmp_path.glob("*.npz")
    with np.load(path) as file:
        arrays = {name.replace("observation.", "seen."): file[name] for name in file.files}
    np.savez(path, **arrays)
    (episode,) = open_recording(tmp_path)
    assert "seen.state" in arrays and (episode["observation.state"][:, 1] == range(7)).all()


def test_a_recording_fills_the_buffer(tmp_path):
    record_episodes(Counting(), act, [4, 3], tmp_path)
    buffer = Buffer(64)
    assert add_episodes(buffer, open_recording(tmp_path)) == len(buffer) == 11
    sampled = buffer.sample(32, 0).decisions
    assert sampled["observation.picture_B"].dtype == torch.uint8
    assert (sampled["next_observation.state_B"] - sampled["observation.state_B"] == torch.tensor([0.0, 1.0])).all()
    assert (sampled["next_observation.picture_B"][:, 0, 0, 0] == sampled["next_observation.state_B"][:, 1]).all()


def test_transitions_have_the_fields_of_the_buffer_and_numbered_episodes(tmp_path):
    record_episodes(Counting(), act, [4, 3], tmp_path)
    buffer = Buffer(64)
    add_episodes(buffer, open_recording(tmp_path), first=7)
    assert set(buffer.columns["episode"][: len(buffer)]) == {7, 8}
    first = to_transitions(next(iter(open_recording(tmp_path))), 7)
    observed = {f"{when}.{name}" for when in ("observation", "next_observation") for name in ("state", "picture")}
    assert set(first) == observed | {"action", "reward", "terminated", "truncated", "episode"}
    assert all(len(value) == len(first["reward"]) for value in first.values())
    assert (first["next_observation.state"][:-1] == first["observation.state"][1:]).all()


@pytest.mark.filterwarnings("ignore")
def test_minari(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari.create_dataset_from_buffers("tests/walk-v0", [_walk(3, LENGTH), _walk(4, 2)], data_format="arrow", **SPACES)
    for place in ("minari:tests/walk-v0", tmp_path / "tests" / "walk-v0"):
        first, second = open_recording(place)
        assert (first["observation.place"][:, 0] == np.arange(LENGTH + 1) + 3).all()
        assert first["observation.deep_id"].dtype == np.int64
        assert np.allclose(first["action"][:, 0], np.arange(LENGTH) / 10)
        assert first["terminated"].tolist() == [False] * 5 + [True]
        assert len(second["reward"]) == 2 and second["truncated"][-1]
        assert (first["info.success"] == first["terminated"]).all()
    with pytest.raises(ValueError, match="not a local Minari data set"):
        open_recording("minari:tests/none-v0")
    (tmp_path / "tests" / "walk-v0" / "data" / "metadata.json").write_text("{")
    with pytest.raises(ValueError, match="not a readable Minari data set") as caught:
        open_recording(tmp_path / "tests" / "walk-v0")
    assert "\n" not in str(caught.value)


SPACES = {
    "observation_space": spaces.Dict(
        {"place": spaces.Box(0, 99, (1,), np.float64), "deep": spaces.Dict({"id": spaces.Discrete(9)})}
    ),
    "action_space": spaces.Box(-1, 1, (1,)),
}


def _walk(start: int, length: int):
    """Steps upwards from ``start`` as Minari buffers them; six terminate the episode, fewer have no end."""
    from minari.data_collector import EpisodeBuffer

    time = np.arange(length + 1)
    return EpisodeBuffer(
        seed=start,
        observations={"place": (start + time[:, None]).astype(np.float64), "deep": {"id": time}},
        actions=(time[:-1, None] / 10).astype(np.float32),
        rewards=list(time[:-1] / 10.0),
        terminations=list(time[1:] == LENGTH),
        truncations=[False] * length,
        infos={"success": (time == LENGTH).tolist()},
    )


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("pictures", ["image", "video"])
def test_lerobot(tmp_path, version, pictures):
    lerobot(tmp_path, version, pictures)
    found = open_recording(tmp_path, size=(8, 8))
    episodes = list(found)
    assert len(found) == 2 and [str(e["task"]) for e in episodes] == ["push", "reach"]
    won, cut = episodes
    assert (
        (won["observation.state"][:, 1] == [*range(LENGTH), LENGTH - 1]).all()
        and won["terminated"][-1]
        and won["reward"][-1] == 1
    )
    assert (
        (cut["observation.state"][:, 1] == range(LENGTH)).all()
        and cut["truncated"][-1]
        and len(cut["action"]) == LENGTH - 1
    )
    assert (
        won["observation.top"].shape == (LENGTH + 1, 8, 8, 3)
        and won["action"].shape == (LENGTH, 2)
        and won["info.success"][-1]
    )
    for number, episode in enumerate(episodes):
        grey = episode["observation.top"][:LENGTH].mean((1, 2, 3))
        assert np.abs(grey - (100 * number + 10 * np.arange(LENGTH))).max() < (1 if pictures == "image" else 8)
    assert set(to_transitions(won, 0)) == {
        "observation.state",
        "next_observation.state",
        "observation.top",
        "next_observation.top",
        "action",
        "reward",
        "terminated",
        "truncated",
        "episode",
    }
    assert [len(e["reward"]) for e in open_recording(tmp_path, successes=True)] == [LENGTH, LENGTH]


def lerobot(folder: Path, version: int, pictures: str) -> None:
    """Two episodes of six frames in LeRobot's layout: grey pictures that grow lighter, the first a success."""
    pytest.importorskip("pyarrow")
    from pyarrow import Table, parquet

    kind = {"dtype": pictures, "shape": [3, 16, 16], "names": ["channels", "height", "width"]}
    vector = {"dtype": "float32", "shape": [2], "names": None}
    features = {"observation.images.top": kind, "observation.state": vector, "action": vector}
    features |= {name: {"dtype": "bool", "shape": [1]} for name in ("next.done", "next.success")} | {
        "next.reward": {"dtype": "float32", "shape": [1]}
    }
    new = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    paths = {"data_path": f"data/{new}.parquet", "video_path": f"videos/{{video_key}}/{new}.mp4"} if version == 3 else {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    info = {
        "codebase_version": f"v{version}.0",
        "total_episodes": 2,
        "fps": 10,
        "chunks_size": 1000,
        "features": features,
        **paths,
    }
    (folder / "meta").mkdir(exist_ok=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    rows = [_row(number, t, pictures) for number in range(2) for t in range(LENGTH)]
    place = lambda kind, e: (
        folder
        / paths[kind].format(
            chunk_index=0, file_index=0, episode_chunk=0, episode_index=e, video_key="observation.images.top"
        )
    )
    parts = [rows] if version == 3 else [rows[:LENGTH], rows[LENGTH:]]
    for number, part in enumerate(parts):
        place("data_path", number).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(Table.from_pylist(part), place("data_path", number))
        if pictures == "video":
            _video(place("video_path", number), [100 * row["episode_index"] + 10 * row["frame_index"] for row in part])
    if version == 2:
        (folder / "meta" / "tasks.jsonl").write_text(
            '{"task_index": 0, "task": "push"}\n{"task_index": 1, "task": "reach"}\n'
        )
        return
    parquet.write_table(
        Table.from_pylist(
            [{"task_index": 1, "__index_level_0__": "reach"}, {"task_index": 0, "__index_level_0__": "push"}]
        ),
        folder / "meta" / "tasks.parquet",
    )
    at = {f"{part}/{name}_index": 0 for part in ("data", "videos/observation.images.top") for name in ("chunk", "file")}
    (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    start = "videos/observation.images.top/from_timestamp"
    meta = [
        {"episode_index": e, "length": LENGTH, start: e * LENGTH / 10, "stats/action/min": [0.0], **at} for e in (1, 0)
    ]
    parquet.write_table(Table.from_pylist(meta), folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet")


def _row(number: int, t: int, pictures: str) -> dict:
    last = t == LENGTH - 1 and number == 0
    row = {
        "observation.state": [float(number), float(t)],
        "action": [t / 10, 0.5],
        "next.reward": float(last),
        "next.done": last,
        "next.success": last,
    }
    row |= {"episode_index": number, "frame_index": t, "timestamp": t / 10, "task_index": number}
    return row | (
        {"observation.images.top": {"bytes": _png(100 * number + 10 * t), "path": None}} if pictures == "image" else {}
    )


def _png(grey: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (grey,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def _video(path: Path, greys: list[int]) -> None:
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for grey in greys:
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), grey, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def test_damaged_and_other_folders_raise_one_line(tmp_path):
    record_episodes(Counting(), act, [0, 1], tmp_path / "own")
    path = tmp_path / "own" / "000001.npz"
    complete = path.read_bytes()
    arrays = dict(np.load(path))
    unreadable = "cannot be read as an episode"
    short = {name: value[:2] for name, value in arrays.items() if value.ndim} | {"reward": arrays["reward"][:1]}
    for content, why in [
        (complete[:200], unreadable),
        (b"", unreadable),
        (b"no", unreadable),
        ({**arrays, "action": np.array([{}, {}, {}])}, unreadable),
        ({**arrays, "reward": arrays["reward"] * np.nan}, "reward contains NaN"),
        ({**arrays, "action": arrays["action"][1:]}, "action has 2 rows, but 3 rewards need 3"),
        ({**arrays, "truncated": arrays["truncated"] * False}, "must end at its last step"),
        ({"reward": arrays["reward"]}, "without action, terminated"),
        (short, "rows"),
    ]:
        path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
        with pytest.raises(ValueError, match=why) as caught:
            list(open_recording(tmp_path / "own"))
        assert "000001.npz" in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "own" / "index.jsonl").write_text('{"file": "../x.npz", "length": 3}\n')
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "a").touch()
    for place, why in [
        (tmp_path / "own", "line 1 describes no episode"),
        (tmp_path / "else", "is no recording"),
        (tmp_path / "none", "is no recording"),
    ]:
        with pytest.raises(ValueError, match=why):
            open_recording(place)
    with pytest.raises(ValueError, match="exists and is no recording"):
        Recorder(tmp_path / "else")
    with pytest.raises(ValueError, match="without steps"):
        empty = dict.fromkeys(("action", "reward", "terminated", "truncated"), np.zeros(0))
        Recorder(tmp_path / "new").add({"observation.state": np.zeros((1, 2)), **empty})
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["index.jsonl"]


def test_damaged_lerobot_folders_raise_one_line(tmp_path):
    lerobot(tmp_path, 3, "image")
    info = tmp_path / "meta" / "info.json"
    known = json.loads(info.read_text())
    features = known["features"]
    without_reward = {name: feature for name, feature in features.items() if name != "next.reward"}
    another = features | {"observation.more": {"dtype": "float32"}}
    for change, why in [
        ({"codebase_version": "v1.6"}, "layout v1.6 is not supported"),
        ({"features": 3}, "does not describe a LeRobot data set"),
        ({"total_episodes": 3}, "describes 2 episodes, info.json 3"),
        ({"data_path": "../{chunk_index}/{file_index}"}, "missing"),
        ({"features": without_reward}, "has no next.reward"),
        ({"features": another}, "damaged, or not as meta/info.json describes it"),
        ({"features": features | {"observation.images.top": {"dtype": "video"}}}, "missing|from_timestamp"),
    ]:
        info.write_text(json.dumps(known | change))
        with pytest.raises(ValueError, match=why) as caught:
            list(open_recording(tmp_path))
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    info.write_text(json.dumps(known))
    next(tmp_path.glob("data/*/*")).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="not a readable parquet file"):
        list(open_recording(tmp_path))


def test_a_file_that_unfolds_beyond_memory_is_refused_by_its_size(tmp_path, monkeypatch):
    folder = tmp_path / "rec"
    folder.mkdir()
    np.savez_compressed(folder / "000000.npz", **{"seen.state": np.zeros((1000, 1000), np.float32)})
    (folder / "index.jsonl").write_text('{"file": "000000.npz", "length": 5}\n')
    monkeypatch.setattr("saccade.envs.recordings.recorder.EPISODE_BYTES", 1_000_000)
    with pytest.raises(ValueError, match="it unfolds to 0.0 GB, more than 0.0 GB"):
        list(Recording(folder))
