"""Environments: Gymnasium's and our own follow from seeds and actions; whatever one does wrong is said in one line."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from saccade.core import EnvironmentFailed
from saccade.envs import WORLDS, checks, environment, mujoco_fast, single
from saccade.envs.gym import Gym
from saccade.envs.reach import Reach, expert
from saccade.training.state import pack, unpack


def actions(world, steps: int, seed: int = 0) -> np.ndarray:
    """Random actions ``[steps, count, …]``, of a Box beyond its bounds too."""
    rng, space = np.random.default_rng(seed), world.action_space
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=(steps, world.count))
    return rng.normal(size=(steps, world.count, *space.shape)).astype(np.float32)


def played(world, acts: np.ndarray) -> list:
    """Every number of every step; rows that end begin again with a seed of their own."""
    found = []
    for time_, action in enumerate(acts):
        result = world.step(action)
        found += [
            *result.observation.values(),
            result.reward_B,
            result.terminated_B,
            result.truncated_B,
            *result.info.values(),
        ]
        rows = np.flatnonzero(result.terminated_B | result.truncated_B)
        if len(rows):
            found += list(world.begin(rows, [1000 * time_ + int(r) for r in rows]).values())
    return [np.array(x) for x in found]


def equal(one: list, other: list) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other))


def saved(world) -> dict:
    return unpack(*pack(world.state_dict()))


CASES = {
    "CartPole-v1": {},
    "Pendulum-v1": {},
    "HalfCheetah-v5": {"facts": ("x_position",), "repeat": 2},
    "MiniGrid-Empty-5x5-v0": {"leave_out": ("mission",), "stack": 2},
    "ALE/Pong-v5": {"size": 42, "grey": True, "stack": 3, "repeat": 2, "options": {"frameskip": 2}},
    "dm_control/cheetah-run-v0": {},
    "gym_pusht/PushT-v0": {"pixels": 32, "state": True},
    "reach": {"observe": "both", "distract": 1.0},
}
PACKAGES = {
    "HalfCheetah-v5": "mujoco",
    "MiniGrid-Empty-5x5-v0": "minigrid",
    "ALE/Pong-v5": "ale_py",
    "dm_control/cheetah-run-v0": "shimmy",
    "gym_pusht/PushT-v0": "gym_pusht",
}


@pytest.mark.parametrize("name", CASES)
def test_episodes_follow_from_seed_and_actions_and_resume_bit_for_bit(name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    world = environment(name, 2, **CASES[name])
    first = world.begin([0, 1], [5, 2**61])
    assert set(first) == set(world.observation_space)
    for key, space in world.observation_space.items():
        assert first[key].shape == (2, *space.shape) and first[key].dtype == space.dtype, key
        assert space.dtype in (np.float32, np.uint8, np.int64)
    acts = actions(world, 40)
    played(world, acts[:25])
    state, rest = saved(world), played(world, acts[25:])
    other = environment(name, 2, **CASES[name])
    other.load_state_dict(state)
    assert equal(rest, played(other, acts[25:]))
    alone = environment(name, 1, **CASES[name])
    alone.begin([0], [2**61])
    world.begin([1, 0], [2**61, 3])
    assert equal([x[1] for x in played(world, acts[:8])], [x[0] for x in played(alone, acts[:8, 1:])])


def test_pictures_are_grey_small_and_stacked_oldest_first():
    pytest.importorskip("ale_py")
    world = environment("ALE/Breakout-v5", 1, size=84, grey=True, stack=4)
    first = world.begin([0], [1])["state"]
    assert first.shape == (1, 84, 84, 4) and (first[..., 0] == first[..., 3]).all()
    before = [world.step(np.array([1])).observation["state"] for _ in range(2)]
    assert np.array_equal(before[1][..., :3], before[0][..., 1:])
    assert world.render([0]).shape[3] == 3


def test_repeated_actions_add_rewards_and_stop_at_the_end():
    once, thrice = environment("CartPole-v1", 1), environment("CartPole-v1", 1, repeat=3)
    states = [w.begin([0], [3])["state"] for w in (once, thrice)]
    assert np.array_equal(*states)
    rewards, result = [], None
    while result is None or not result.terminated_B[0]:
        result = once.step(np.array([1]))
        rewards.append(result.reward_B[0])
    sums, last = [], None
    while last is None or not last.terminated_B[0]:
        last = thrice.step(np.array([1]))
        sums.append(last.reward_B[0])
    assert sums == [sum(rewards[i : i + 3]) for i in range(0, len(rewards), 3)]
    assert np.array_equal(last.observation["state"], result.observation["state"])


# -- pictures of MuJoCo ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pixels():
    """MuJoCo's Reacher in 32 pixels; skipped where OpenGL cannot be had."""
    mujoco_fast.headless()
    pytest.importorskip("mujoco")
    world = environment("Reacher-v5", 2, pixels=32, state=True)
    try:
        world.begin([0, 1], [1, 2])
    except EnvironmentFailed as error:
        pytest.skip(str(error))
    yield world
    world.close()


def test_mujoco_pictures_are_small_and_follow_from_the_state(pixels):
    one = pixels.begin([0, 1], [1, 2])
    assert one["image"].shape == (2, 32, 32, 3) and one["state"].dtype == np.float32
    again = pixels.begin([0, 1], [1, 2])
    assert np.array_equal(one["image"], again["image"]) and not np.array_equal(one["image"][0], one["image"][1])
    moved = [pixels.step(np.ones((2, 2), np.float32)) for _ in range(10)][-1].observation
    assert 0 < (moved["image"] != one["image"]).mean() < 0.5


def test_the_background_of_mujoco_pictures_is_black(pixels):
    walker = environment("Walker2d-v5", 1, pixels=32)
    sky = walker.begin([0], [0])["image"][0, :4]
    assert (sky == 0).all()
    walker.close()


def test_mujoco_warnings_are_logged_once_and_not_written_to_a_file(pixels, tmp_path, monkeypatch, caplog):
    import mujoco

    monkeypatch.chdir(tmp_path)
    mujoco_fast.log_warning.cache_clear()
    sick = "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    model = mujoco.MjModel.from_xml_string(sick)
    for _ in range(2):
        data = mujoco.MjData(model)
        data.qvel[0] = np.nan
        mujoco.mj_step(model, data)
    assert sum("MuJoCo: Nan" in line for line in caplog.messages) == 1 and not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("triton") is None, reason="this torch brings no triton")
def test_triton_can_be_loaded_after_rendering(pixels):
    program = "import numpy as np; from saccade.envs import environment as e; w = e('HalfCheetah-v5', 1);"
    program += " w.begin([0], [1]); w.render([0]); import triton"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_with_osmesa_one_renderer_lives_at_a_time(pixels, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    one, other = (environment("Reacher-v5", 1, pixels=16) for _ in range(2))
    first = one.begin([0], [1])["image"]
    assert one.render_one.renderer is not None
    assert np.array_equal(first, other.begin([0], [1])["image"])
    assert one.render_one.renderer is None and other.render_one.renderer is not None
    assert np.array_equal(first, one.begin([0], [1])["image"])
    one.close(), other.close()
    assert not mujoco_fast._LIVE


# -- what an environment may do wrong -------------------------------------------------------------------------


class Hostile(gymnasium.Env):
    """Goes wrong at its third step in the way it is result."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, wrong: str = ""):
        self.wrong = wrong

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        seen, reward, over = np.zeros(2, np.float32), 0.0, False
        match self.wrong if self.steps == 3 else "":
            case "raises":
                raise RuntimeError("the simulator\nfell over")
            case "hangs":
                time.sleep(20)
            case "nan":
                seen[1] = np.nan
            case "shape":
                seen = np.zeros(3, np.float32)
            case "dtype":
                seen = np.array(["a", "b"])
            case "reward":
                reward = np.inf
            case "end":
                over = None
        return seen, reward, over, False, {}


WRONGS = {
    "raises": "RuntimeError: the simulator",
    "hangs": "patience of 1 s",
    "nan": "observation 'state' is not finite",
    "shape": r"shape \(3,\), declared was \(2,\)",
    "dtype": "declared was float32",
    "reward": "the reward is inf",
    "end": "terminated is None",
}


@pytest.fixture(autouse=True, scope="module")
def hostile():
    gymnasium.register("Hostile-v0", entry_point=Hostile)


@pytest.mark.parametrize("wrong", WRONGS)
def test_a_failure_is_one_line_that_names_the_environment(wrong):
    world = environment("Hostile-v0", 2, options={"wrong": wrong}, patience=1.0 if wrong == "hangs" else 60.0)
    world.begin([0, 1], [7, 8])
    acts = np.zeros(2, np.int64)
    world.step(acts), world.step(acts)
    began = time.monotonic()
    with pytest.raises(EnvironmentFailed, match=WRONGS[wrong]) as caught:
        world.step(acts)
    line = str(caught.value)
    assert line.startswith("environment 'Hostile-v0' (row 0, seed 7, step 3)") and "\n" not in line
    assert time.monotonic() - began < 18


def test_slowness_outside_the_main_thread_is_found_afterwards(monkeypatch):
    pause = threading.Event()
    monkeypatch.setattr(time, "sleep", lambda seconds: pause.wait(1.5))
    world = environment("Hostile-v0", 1, options={"wrong": "hangs"}, patience=1.0)
    found = []

    def work():
        world.begin([0], [1])
        try:
            for _ in range(3):
                world.step(np.zeros(1, np.int64))
        except EnvironmentFailed as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found and "patience of 1 s" in found[0]


def test_an_action_that_is_not_finite_is_refused():
    world = environment("Pendulum-v1", 1)
    world.begin([0], [1])
    with pytest.raises(FloatingPointError, match="an action of the policy in .*'Pendulum-v1' .* is not finite"):
        world.step(np.full((1, 1), np.nan))


@pytest.mark.parametrize(
    "name, settings, says",
    [
        ("CartPol-v1", {}, "nearest: CartPole-v1"),
        ("reech", {}, "nearest: reach"),
        ("reach", {"distrct": 1}, "nearest: distract"),
        ("reach", {"palette": "dusk"}, "palette 'dusk'"),
        ("reach", {"distract": 2.0}, "distract from 0 to 1"),
        ("reach", {"soft": -1.0}, "soft and progress 0 or more"),
        ("reach", {"progress": ".5"}, "progress is a number such as 0.0, not '.5'"),
        ("CartPole-v1", {"stak": 2}, "nearest: stack"),
        ("CartPole-v1", {"stack": 0}, "stack 0"),
        ("Hostile-v0", {"patience": -1.0}, "patience -1"),
        ("Hostile-v0", {"longest": 0}, "longest 0"),
        ("no_such_module:World-v0", {}, "the module 'no_such_module' cannot be imported: ModuleNotFoundError"),
        ("CartPole-v1", {"options": {"gravity": 1}}, "'CartPole-v1' cannot be made: TypeError"),
    ],
)
def test_bad_input_is_a_value_error_of_one_line(name, settings, says):
    with pytest.raises(ValueError, match=says) as caught:
        environment(name, 1, **settings)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="count 0"):
        environment(name, 0, **settings)


# -- our own --------------------------------------------------------------------------------------------------


def test_reach_rewards_the_expert_and_not_random_actions():
    world = Reach(64, observe="state")

    def total(act) -> float:
        seen, sums = world.begin(range(64), range(64))["state"], 0.0
        for _ in range(50):
            result = world.step(act(seen))
            seen, sums = result.observation["state"], sums + result.reward_B
            assert ((result.reward_B > 0) & (result.reward_B <= 1)).all()
        assert result.truncated_B.all() and not result.terminated_B.any()
        return float(sums.mean())

    rng = np.random.default_rng(0)
    assert total(lambda s: expert(s)) > 44
    assert total(lambda s: rng.uniform(-1, 1, (64, 2))) < 14


def test_progress_rewards_the_decrease_of_the_distance():
    worlds = [Reach(4, observe="state", progress=progress) for progress in (0.0, 3.0)]
    start_B = np.linalg.norm(
        np.subtract(*np.split(worlds[0].begin(range(4), range(4))["state"][:, [0, 1, 4, 5]], 2, 1)), axis=1
    )
    worlds[1].begin(range(4), range(4))
    bare, paid = ([world.step(np.full((4, 2), 0.5)) for _ in range(6)] for world in worlds)
    more_B = sum(result.reward_B for result in paid) - sum(result.reward_B for result in bare)
    assert more_B == pytest.approx(3 * (start_B - bare[-1].info["distance"]), abs=1e-4)


def test_the_video_moves_smoothly_and_never_repeats():
    world, bare = Reach(1, distract=1.0, steps=10_000), Reach(1, steps=10_000)
    frames = [w.begin([0], [4])["image"].astype(float) for w in (world, bare)]
    video, still, phases = [frames[0]], np.zeros((1, 2)), []
    for _ in range(300):
        result = world.step(still)
        video.append(result.observation["image"].astype(float))
        phases.append(result.info["phase"][0])
        assert np.array_equal(bare.step(still).observation["image"], frames[1])
    apart = np.array([np.abs(f - video[0]).mean() for f in video])
    assert 0 < apart[1] < 15 < apart[20:].mean() and apart[10:].min() > 5
    assert np.allclose(np.linalg.norm(phases, axis=1), 1)
    assert len(np.unique(np.round(phases, 5), axis=0)) == 300


def test_palettes_show_the_same_states_in_other_colours():
    world = Reach(8, distract=0.5)
    world.begin(range(8), range(8))
    pairs = world.paired(world.state_B6)
    assert set(pairs) == {"day", "night"} and all(
        p.shape == (8, 32, 32, 3) and p.dtype == np.uint8 for p in pairs.values()
    )
    assert np.abs(pairs["day"].astype(int) - pairs["night"]).mean() > 10
    plain, dusk = Reach(8), Reach(8, palette="night")
    seen = [w.begin(range(8), range(8))["image"] for w in (plain, dusk)]
    again = plain.paired(plain.state_B6)
    assert np.array_equal(seen[0], again["day"]) and np.array_equal(seen[1], again["night"])


def test_clouds_are_where_discs_are_and_have_no_edge():
    discs, clouds = (w.begin(range(8), range(8))["image"].astype(float) for w in (Reach(8), Reach(8, soft=0.2)))
    brightest = [
        np.unravel_index(cloud[..., 0].argmax(), (32, 32)) for cloud in clouds
    ]  # the agent, the only one with much red
    assert all(disc[place][0] > 200 for disc, place in zip(discs, brightest))
    step = lambda pictures: np.abs(np.diff(pictures, axis=2)).max()
    assert step(clouds) < 0.25 * step(discs)


@pytest.mark.parametrize("world", WORLDS)
def test_gymnasium_makes_the_packages_worlds(world, request):
    if world == "backdrop":
        request.getfixturevalue("pixels")
    single.register()
    name = "".join(part.capitalize() for part in world.split("_"))
    made = gymnasium.make(f"saccade/{name}-v0", render_mode="rgb_array")
    check_env(made.unwrapped, skip_render_check=True)
    assert made.unwrapped.render().dtype == np.uint8


def test_worlds_through_gymnasium_have_the_same_episodes():
    own, other = Reach(1), Gym.of("saccade/Reach-v0", 1)
    first, second = own.begin([0], [9])["image"], other.begin([0], [9])["state"]
    assert np.array_equal(first, second)
    for action in actions(own, 5):
        one, two = own.step(action), other.step(action)
        assert np.array_equal(one.observation["image"], two.observation["state"]) and np.array_equal(
            one.reward_B, two.reward_B
        )


# -- spaces and episodes of others ----------------------------------------------------------------------------


class Own(gymnasium.Env):
    """Ends never; remembers the actions that it was given."""

    render_mode = "rgb_array"

    def __init__(self, seen: spaces.Space, acts: spaces.Space):
        self.observation_space, self.action_space, self.taken = seen, acts, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.taken.append(action)
        return self.observation_space.sample(), 1.0, False, False, {}

    def render(self):
        return np.zeros((8 + len(self.taken), 8, 3), np.uint8)


def own(seen: spaces.Space, acts: spaces.Space, **settings) -> Gym:
    gymnasium.registry.pop("Own-v0", None)
    gymnasium.register("Own-v0", entry_point=lambda **options: Own(seen, acts))
    return Gym.of("Own-v0", 1, **settings)


VECTOR = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    "acts", [spaces.Discrete(3, start=5), spaces.Discrete(2, start=-1), spaces.MultiDiscrete([2, 3], start=[1, 4])]
)
def test_choices_are_numbered_from_0_and_played_as_the_space_has_them(acts):
    world = own(VECTOR, acts)
    world.begin([0], [0])
    for number in range(world.action_space.n):
        world.step(np.array([number]))
    taken = world.envs[0].unwrapped.taken
    assert world.action_space.start == 0 and all(acts.contains(action) for action in taken)
    assert len({str(action) for action in taken}) == world.action_space.n
    again = own(VECTOR, acts)
    again.load_state_dict(saved(world))
    assert str(again.envs[0].unwrapped.taken) == str(taken)


def test_too_many_combinations_of_choices_are_refused():
    with pytest.raises(ValueError, match="combinations of choices"):
        own(VECTOR, spaces.MultiDiscrete([100, 100]))


@pytest.mark.parametrize(
    "seen, names",
    [
        (spaces.Discrete(4, start=-2), {"state": (1,)}),
        (spaces.MultiDiscrete([2, 3]), {"state": (1, 2)}),
        (spaces.Tuple((VECTOR, spaces.Discrete(2, start=1))), {"0": (1, 2), "1": (1,)}),
        (
            spaces.Dict({"robot": spaces.Dict({"arm": VECTOR, "eyes": spaces.Tuple((VECTOR, VECTOR))})}),
            {"robot_arm": (1, 2), "robot_eyes_0": (1, 2), "robot_eyes_1": (1, 2)},
        ),
    ],
)
def test_parts_of_nested_spaces_have_names_and_numbers_from_0(seen, names):
    world = own(seen, spaces.Discrete(2))
    world.begin([0], [3])
    for _ in range(9):
        observation = world.step(np.array([0])).observation
        assert {name: value.shape for name, value in observation.items()} == names
        assert all(space.contains(observation[name][0]) for name, space in world.observation_space.spaces.items()), (
            observation
        )


def test_an_episode_that_does_not_end_is_truncated_and_told():
    world = own(VECTOR, spaces.Discrete(2), longest=5)
    world.begin([0], [0])
    ends = [bool(world.step(np.array([0])).truncated_B[0]) for _ in range(4)]
    with pytest.warns(UserWarning, match="step 5.*does not end and is truncated"):
        assert world.step(np.array([0])).truncated_B[0] and not any(ends)


def test_pictures_of_changing_size_are_shown_in_that_of_the_first():
    world = own(VECTOR, spaces.Discrete(2))
    world.begin([0], [0])
    shapes = [world.render([0]).shape]
    world.step(np.array([0]))
    assert [*shapes, world.render([0]).shape] == [(1, 8, 8, 3)] * 2


def test_an_environment_of_a_module_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "own_world_of_a_module.py").write_text(
        "import gymnasium\ngymnasium.register('Pole-v7', entry_point='gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert environment("own_world_of_a_module:Pole-v7", 1).begin([0], [0])["state"].shape == (1, 4)


def test_an_environment_that_exits_is_an_error_that_names_its_line():
    world = own(VECTOR, spaces.Discrete(2))
    world.begin([0], [0])
    world.envs[0].unwrapped.step = lambda action: sys.exit(0)
    with pytest.raises(EnvironmentFailed, match=r"SystemExit: 0 \(.*test_control.py, line \d+\)"):
        world.step(np.array([0]))


@pytest.mark.parametrize("place", ["sys.exit(3)", "class World:\n    def __init__(self, **options): sys.exit(3)"])
def test_an_environment_that_exits_before_it_is_made_is_one_line(tmp_path, monkeypatch, place):
    (tmp_path / "leaving_world.py").write_text(f"import sys\n{place}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "leaving_world", raising=False)
    gymnasium.register("Leaving-v0", entry_point="leaving_world:World")
    with pytest.raises(ValueError, match=r"'Leaving-v0' cannot be made: .*SystemExit: 3 \(.*leaving_world.py, line"):
        environment("Leaving-v0", 1)
    gymnasium.registry.pop("Leaving-v0")


class Unsteady(gymnasium.Env):
    """An environment whose numbers do not follow from its seed and actions."""

    observation_space, action_space = spaces.Box(-9, 9, (1,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.random.default_rng().normal(size=1).clip(-9, 9).astype(np.float32), 0.0, False, False, {}


def test_a_replay_that_ends_elsewhere_and_a_changed_environment_are_told(recwarn):
    gymnasium.register("Unsteady-v0", entry_point=Unsteady)
    world = environment("Unsteady-v0", 2)
    world.begin([0, 1], [1, 2])
    world.load_state_dict(saved(world))
    assert not recwarn.list
    played(world, actions(world, 3))
    state = saved(world)
    with pytest.warns(UserWarning, match="'Unsteady-v0': an episode played again .* another observation"):
        environment("Unsteady-v0", 2).load_state_dict(state)
    with pytest.warns(UserWarning, match="'Unsteady-v0' has changed since the run was saved"):
        environment("Unsteady-v0", 2).load_state_dict(state | {"code": "other", "seen": [None, None]})


def test_a_look_at_a_vector_finds_what_the_full_check_finds():
    space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    good = np.array([1, -2, 3], np.float32)
    ones = np.ones_like(good)
    assert checks.is_finite_vector(good, ones)
    infinite = np.array([np.inf, -np.inf, 0], np.float32)
    for odd in (good * np.nan, infinite, np.abs(infinite), good[:2], good.astype(np.float64), good.tolist()):
        assert not checks.is_finite_vector(odd, ones)
    huge = np.float32(1e38) * good
    assert checks.checked_observation({"state": huge}, spaces.Dict({"state": space}))["state"] is huge
    assert checks.checked_outcome(1.5, False, True) == checks.checked_outcome(np.float64(1.5), np.False_, np.True_)
    for reward in (float("nan"), float("inf"), None):
        with pytest.raises(checks.InvalidStep):
            checks.checked_outcome(reward, False, False)
