"""A checkpoint is whole or absent, and gives back exactly what it was given."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.training import checkpoint, files

torch.set_num_threads(1)

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def same(a, b) -> bool:
    """Equal in type, structure and every bit."""
    if isinstance(a, torch.Tensor):
        flat = lambda x: x.detach().flatten().clone().as_strided((x.numel(),), (1,)).view(torch.uint8).tolist()
        return a.dtype == b.dtype and a.shape == b.shape and flat(a) == flat(b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    bits = torch.randint(0, 256, (*shape, 16), generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    dtype = draw(st.sampled_from(DTYPES))
    if dtype == torch.bool:
        return bits[..., 0] > 127
    x = bits.to(torch.uint8).contiguous().view(dtype)[..., 0]
    return x.transpose(0, -1) if x.ndim > 1 and draw(st.booleans()) else x


leaves = st.one_of(tensors(), st.integers(), st.floats(), st.text(), st.none(), st.booleans())
keys = st.one_of(st.text(max_size=4), st.integers(-3, 3), st.sampled_from(["$tensor", "__metadata__", "a/b", "$items"]))
trees = st.recursive(
    leaves, lambda x: st.lists(x, max_size=3) | st.tuples(x, x) | st.dictionaries(keys, x, max_size=3), max_leaves=8
)


@settings(deadline=None, max_examples=60)
@given(state=st.dictionaries(keys, trees, max_size=4))
def test_any_state_returns_bit_for_bit(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("c")
    step, back = checkpoint.read(checkpoint.write(folder, 7, state))
    assert step == 7 and same(state, back)


def test_optimizer_and_generator_resume_exactly(tmp_path):
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    _, back = checkpoint.read(checkpoint.write(tmp_path, 1, state))
    assert same(dict(back["net"]), dict(state["net"])) and same(back["optimizer"], state["optimizer"])
    again = torch.optim.AdamW(net.parameters(), lr=0.5)
    again.load_state_dict(back["optimizer"])
    assert same(again.state_dict(), optimizer.state_dict())
    torch.set_rng_state(back["rng"])


def test_shared_memory_is_stored_once_and_shared_again(tmp_path):
    tied, base = torch.randn(1000), torch.arange(10)
    state = {
        "embed": tied,
        "head": tied,
        "part": base[2:5],
        "rest": base[4:],
        "all": base,
        "square": tied.view(10, 100),
    }
    path = checkpoint.write(tmp_path, 0, state)
    back = checkpoint.read(path)[1]
    assert same(back, state) and back["embed"].data_ptr() == back["head"].data_ptr()
    assert (path / "tensors.safetensors").stat().st_size < 3 * tied.nbytes


@pytest.mark.parametrize("bad", [object(), {1, 2}, torch.eye(2).to_sparse(), torch.zeros(1, dtype=torch.complex128)])
def test_what_cannot_be_saved_says_where_it_stands(tmp_path, bad):
    with pytest.raises(ValueError, match=r"^cannot save policy/inner/1: [^\n]+$"):
        checkpoint.write(tmp_path, 1, {"policy": {"inner": [0, bad]}})
    assert not list(tmp_path.iterdir())


def test_two_are_kept_and_a_step_can_be_saved_again(tmp_path):
    for step in (5, 10, 1_000_000, 15):
        checkpoint.write(tmp_path, step, {"x": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000015", "step-1000000"]
    checkpoint.write(tmp_path, 15, {"x": "anew"})
    assert checkpoint.read(tmp_path / "step-000015")[1] == {"x": "anew"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000015", "step-1000000"]


@pytest.mark.parametrize("aside", [False, True])
def test_a_kill_between_the_two_renames_of_a_step_saved_again_loses_nothing(tmp_path, monkeypatch, aside):
    checkpoint.write(tmp_path, 3, {"x": "first"})
    renames = []

    def dying(path, target):
        renames.append(path)
        if len(renames) == (2 if aside else 1):
            raise KeyboardInterrupt
        return os.rename(path, target) or Path(target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tmp_path, 3, {"x": "second"})
    monkeypatch.undo()
    assert checkpoint.read(checkpoint.latest(tmp_path)) == (3, {"x": "first"})
    for _ in range(2):
        checkpoint.write(tmp_path, 3, {"x": "third"})
    assert checkpoint.read(checkpoint.latest(tmp_path)) == (3, {"x": "third"})
    assert [p.name for p in tmp_path.iterdir()] == ["step-000003"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "manifest", "list"])
def test_a_broken_checkpoint_is_recognised_and_passed_over(tmp_path, harm):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, {"x": torch.full((100,), step)})
    _harm(tmp_path / "step-000002", harm)
    with pytest.warns(UserWarning, match="step-000002 is broken.*going back to step-000001"):
        assert checkpoint.latest(tmp_path) == tmp_path / "step-000001"
    with pytest.raises(ValueError, match=r"^checkpoint [^\n]*step-000002 is broken[^\n]*$"):
        checkpoint.read(tmp_path / "step-000002")
    _harm(tmp_path / "step-000001", harm)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        checkpoint.latest(tmp_path)
    assert checkpoint.latest(tmp_path / "nowhere") is None


def _harm(path: Path, kind: str) -> None:
    file, manifest = path / "tensors.safetensors", path / "manifest.json"
    if kind == "truncate":
        os.truncate(file, file.stat().st_size - 1)
    elif kind == "flip":
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    elif kind == "delete":
        (path / "state.json").unlink()
    else:
        manifest.write_text("[]" if kind == "list" else manifest.read_text()[:20])


@pytest.mark.parametrize("call", ["save_file", "sync", "_publish", "_fingerprint"])
def test_a_full_disk_leaves_the_former_checkpoint_and_no_scrap(tmp_path, monkeypatch, call):
    checkpoint.write(tmp_path, 1, {"x": torch.ones(3)})
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(files if call == "sync" else checkpoint, call, lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match=r"^cannot write checkpoint [^\n]*step-000002: No space left on device$"):
        checkpoint.write(tmp_path, 2, {"x": torch.ones(3)})
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert checkpoint.read(checkpoint.latest(tmp_path))[0] == 1


def test_a_real_limit_of_the_system_is_met_with_one_line(tmp_path):
    checkpoint.write(tmp_path, 1, {"x": 1})
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, former[1]))
        with pytest.raises(OSError, match=r"^cannot write checkpoint [^\n]*File too large[^\n]*$"):
            checkpoint.write(tmp_path, 2, {"x": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


KILLER = """
    import os, random, signal, sys, time
    import torch
    from pathlib import Path
    from saccade.training import checkpoint
    torch.set_num_threads(1)
    folder, dice, reached, kills = Path(sys.argv[1]), random.Random(0), 0, 0

    def work():
        path = checkpoint.latest(folder)
        step = checkpoint.read(path)[0] if path else 0
        while True:
            if dice_of_child.random() < 0.7:
                step += 1
            big = torch.full((50_000,), step)
            checkpoint.write(folder, step, {"a": big, "b": [big[:7], step], "c": {"deep": float(step)}})

    begun = time.monotonic()
    while (kills < 15 or reached < 5 or time.monotonic() < begun + 2) and time.monotonic() < begun + 20:
        dice_of_child = random.Random(dice.random())
        child = os.fork()
        if not child:
            work()
        time.sleep(dice.uniform(0.005, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        path = checkpoint.latest(folder)
        if path is None:
            assert reached == 0
            continue
        step, state = checkpoint.read(path)
        assert step >= reached, (step, reached)
        assert state["b"][1] == step == state["c"]["deep"]
        assert bool((state["a"] == step).all()) and len(state["b"][0]) == 7
        reached = step
    print(kills, reached)
"""


def test_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """A process that saves in a loop is killed again and again; warnings (a broken folder met) count as failures."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", textwrap.dedent(KILLER), str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    kills, reached = map(int, done.stdout.split())
    assert kills >= 15 and reached >= 5
    checkpoint.write(tmp_path / "c", reached + 1, {"x": 1})
    assert not [p for p in (tmp_path / "c").iterdir() if p.name.startswith(".") or p.name.endswith("~")]


def test_the_manifest_names_every_file(tmp_path):
    path = checkpoint.write(tmp_path, 4, {"x": torch.ones(2)})
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 4 and set(manifest["files"]) | {"manifest.json"} == {p.name for p in path.iterdir()}
    with pytest.raises(ValueError, match="not -1"):
        checkpoint.write(tmp_path, -1, {})


def test_what_is_read_lies_in_memory_as_what_is_made(tmp_path):
    """Kernels round otherwise where a tensor is not aligned, which the bytes of a file are only by chance."""
    state = {"odd": torch.zeros(3, dtype=torch.uint8), "x": torch.ones(7), "n": {"y": torch.ones(5)}, "a": "é" * 7}
    _, back = checkpoint.read(checkpoint.write(tmp_path, 1, state))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in (back["odd"], back["x"], back["n"]["y"]))


def test_checkpoints_of_interruptions_make_way_for_those_that_are_due(tmp_path):
    """Interrupted after 5, 6 and 7 of steps saved every 4: as if it never was."""
    for step in (4, 5, 6, 7, 8):
        checkpoint.write(tmp_path, step, {"x": step}, passing=step % 4 > 0)
        assert len(list(tmp_path.iterdir())) == 2 - (step == 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000004", "step-000008"]


@pytest.mark.parametrize(
    "manifest", ['{"files": {}, "step": 2}', "[" * 100_000, '{"step": 2, "files": {"state.json": 1}}']
)
def test_a_manifest_that_vouches_for_nothing_is_no_checkpoint(tmp_path, manifest):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, {"x": step})
    (tmp_path / "step-000002" / "manifest.json").write_text(manifest)
    (tmp_path / "step-000003").write_text("a file")
    with pytest.warns(UserWarning, match="step-000002 is broken"):
        assert checkpoint.latest(tmp_path).name == "step-000001"
