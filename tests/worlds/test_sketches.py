"""The world of sketches: strokes, simplification, the rasterizer compared with resvg, files in common formats."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.tools.render.svg import rasterize as resvg
from saccade.worlds import sketches
from saccade.worlds.sketches.strokes import Sketch
from saccade.worlds.sketches.svg import path_polylines

ROW = {"sketch": "a.svg", "photo": "a.png"}
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><g><path d="M0 0 L8 0 l0 8 H0 Z"/><polyline points="2,2 4,4"/></g></svg>'


@pytest.fixture(scope="module")
def pairs() -> sketches.SketchPairs:
    return sketches.generate_pairs(40, 2, 5, "train", 32)


def test_pairs_depend_on_their_seed_and_are_split_by_photo(pairs):
    same_seed, other = sketches.generate_pairs(40, 2, 5, "train", 32), sketches.generate_pairs(40, 2, 5, "held_out", 32)
    same = lambda a, b: all(
        np.array_equal(x, y) for s, t in zip(a.sketches, b.sketches) for x, y in zip(s.strokes, t.strokes)
    )
    assert same(pairs, same_seed) and np.array_equal(pairs.photos, same_seed.photos) and not same(pairs, other)
    first, last = pairs.split(10)
    assert (len(first.photos), len(last.photos), len(first.sketches), len(last.sketches)) == (30, 10, 60, 20)
    problem = last.problems()[13]
    assert problem.answer == 3 and problem.inputs is pairs.sketches[73] and problem.source == pairs.sources[73]
    assert torch.equal(
        last.pixels(torch.tensor([3]))[0] * 255, torch.from_numpy(pairs.photos[33]).permute(2, 0, 1).float()
    )
    with pytest.raises(ValueError, match="40 of 40 photos"):
        pairs.split(40)


def test_sketched_outlines_lie_on_the_edges_of_photographed_parts(pairs):
    from saccade.worlds.sketches.drawing import outlines
    from saccade.worlds.sketches.objects import KINDS, random_objects
    from saccade.worlds.sketches.photos import signed_distance, to_local

    objects = random_objects(60, np.random.default_rng(0))
    outline = outlines(objects)
    for kind in range(len(KINDS)):
        rows, parts = np.nonzero(objects.kind_NP == kind)
        assert len(rows)
        x, y = (outline[rows, parts, :, axis][:, None] for axis in (0, 1))
        u, v, _ = to_local(objects.shape_NPF[rows, parts], x, y)
        assert np.abs(signed_distance(kind, u, v)).max() < 1e-4
        assert (signed_distance(kind, 0.9 * u, 0.9 * v - 0.01) < 0.05).all()
    ink = sketches.rasterize(pairs.sketches, 32)
    assert ink.amin() >= 0 and ink.amax() <= 1 and (ink.flatten(1).sum(1) > 10).all()


def test_stroke5_round_trip_stops_at_the_end(pairs):
    for sketch in pairs.sketches[:9]:
        rows = sketches.to_stroke5(sketch)
        assert rows.shape == (sketch.points + 1, 5) and (rows[:, 2:].sum(1) == 1).all() and rows[-1, 4] == 1
        padded = np.concatenate([rows, np.tile([[9, 9, 0, 0, 1]], (4, 1))])
        back = sketches.from_stroke5(padded)
        assert all(np.array_equal(a, b) for a, b in zip(back.strokes, sketch.strokes, strict=True))


def rdp(points: np.ndarray, tolerance: float) -> np.ndarray:
    """The definition, by recursion."""
    a, b = points[0], points[-1]
    share = ((points - a) @ (b - a) / max(((b - a) ** 2).sum(), 1e-12)).clip(0, 1)
    far = np.linalg.norm(points - a - share[:, None] * (b - a), axis=1)
    k = int(far[1:-1].argmax()) + 1 if len(points) > 2 else 0
    if len(points) < 3 or far[k] <= tolerance:
        return points[[0, -1]]
    return np.concatenate([rdp(points[: k + 1], tolerance)[:-1], rdp(points[k:], tolerance)])


def test_simplification_is_ramer_douglas_peucker():
    rng = np.random.default_rng(0)
    strokes = [rng.normal(0, 1, (n, 2)).cumsum(0) for n in (40, 2, 17, 3, 90)]
    for tolerance in (0.0, 0.7, 5.0):
        for whole, short in zip(strokes, sketches.simplify_strokes([*strokes, strokes[0][:1]], tolerance)):
            assert np.array_equal(short, rdp(whole, tolerance))
    each = sketches.simplify_strokes(strokes[:2] * 2, np.array([0.7, 0, 5.0, 0]))
    assert len(each[0]) > len(each[2]) and len(sketches.simplify_strokes([strokes[0][:1]], 1.0)[0]) == 1


def test_rasterizer_agrees_with_resvg_and_does_not_depend_on_the_batch(pairs):
    for canvas in (16, 24, 64):
        ink = sketches.rasterize(pairs.sketches[:12], canvas)
        for i, sketch in enumerate(pairs.sketches[:12]):
            lines = "".join(
                f'<polyline points="{" ".join(f"{x * canvas},{y * canvas}" for x, y in s)}"/>' for s in sketch.strokes
            )
            size = f'viewBox="0 0 {canvas} {canvas}" width="{canvas}" height="{canvas}"'
            ends = f'stroke-width="{sketches.LINE_WIDTH * canvas}" stroke-linecap="round" stroke-linejoin="round"'
            group = f'<g fill="none" stroke="black" {ends}>{lines}</g>'
            png = resvg(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{group}</svg>'.encode(), canvas, "white")
            theirs = 1 - np.array(Image.open(io.BytesIO(png)).convert("L"), np.float32) / 255
            assert np.abs(ink[i].numpy() - theirs).mean() < 0.03
            assert torch.equal(sketches.rasterize([sketch], canvas)[0], ink[i])


def test_line_width_is_a_fraction_of_the_canvas():
    line = Sketch((np.array([[0.5, 0.1], [0.5, 0.9]], np.float32),))
    for canvas in (16, 32, 64):
        for width in (0.02, 0.0625, 0.15):
            across = sketches.rasterize([line], canvas, width)[0, canvas // 2]
            assert float(across.sum()) == pytest.approx(width * canvas, rel=1e-3)


def test_dots_are_drawn_and_lines_outside_the_canvas_are_clipped():
    dot = Sketch((np.array([[0.5, 0.5]], np.float32),))
    far = Sketch((np.array([[-3.0, 0.5], [4.0, 0.5]], np.float32),))
    ink = sketches.rasterize([dot, far], 16)
    assert 0 < ink[0].sum() < 4 and torch.allclose(ink[1].sum(0), ink[1, :, :1].sum().expand(16), atol=1e-4)
    assert torch.equal(sketches.draw([dot], 16)[0, 2], 1 - ink[0])


def test_svg_paths_become_polylines():
    square, tail = list(path_polylines("M0 0h4v4H0zm1,1 1 1"))
    assert square.tolist() == [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]] and tail.tolist() == [[1, 1], [2, 2]]
    (cubic,) = path_polylines("M0 0C0 4 4 4 4 0S8-4 8 0")
    assert (
        len(cubic) == 17
        and cubic[4].tolist() == [2, 3]
        and cubic[12].tolist() == [6, -3]
        and cubic[-1].tolist() == [8, 0]
    )
    (quadratic,) = path_polylines("M0 0 Q2 4 4 0 T8 0")
    assert quadratic[4].tolist() == [2, 2] and quadratic[12].tolist() == [6, -2]
    for bad in ("M0 0 A1 1 0 0 1 2 2", "M0", "L1", "5 5 L1 1", "M0 0 C1 1", "M0 0 $", "M0 0 Z 4"):
        with pytest.raises(ValueError):
            list(path_polylines(bad))


def written(folder, lines) -> str:
    (folder / "a.svg").write_text(SVG)
    offsets = np.array([[10, 10, 1, 0, 0], [20, 0, 0, 1, 0], [0, 20, 1, 0, 0], [-20, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
    np.save(folder / "a.npy", offsets)
    np.save(folder / "three.npy", np.array([[0, 0, 0], [20, 0, 1], [20, 20, 0], [0, 20, 1.0]]))
    Image.fromarray(np.full((20, 40, 3), 90, np.uint8)).save(folder / "a.png")
    (folder / "b.png").write_text("no picture")
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(file)


def test_pairs_load_from_each_format(tmp_path):
    npy = {"sketch": "a.npy", "photo": "a.png", "source": "shoe"}
    three = {"sketch": "three.npy", "photo": "b.png", "coordinates": "absolute"}
    pairs = sketches.load_pairs(written(tmp_path, [ROW, "", npy, three]), 16)
    assert list(pairs.photo_index) == [0, 0, 1] and pairs.sources == ["pairs", "shoe", "pairs"]
    assert [len(s.strokes) for s in pairs.sketches] == [2, 2, 2]
    corners = np.concatenate(pairs.sketches[1].strokes)
    assert np.allclose(corners, [[0.04, 0.04], [0.96, 0.04], [0.96, 0.96], [0.04, 0.96]], atol=1e-6)
    assert np.allclose(corners, np.concatenate(pairs.sketches[2].strokes), atol=1e-6)
    photo = pairs.photos[0]
    assert photo.shape == (16, 16, 3) and photo[0, 0, 0] == 255 and photo[8, 8, 0] == 90
    with pytest.raises(ValueError, match="pairs.jsonl:4: .*b.png: cannot be read as a picture"):
        pairs.photos[1]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ({"photo": "a.png"}, "sketch None must be a path"),
        (ROW | {"photo": "c.png"}, "photo .*c.png. does not exist"),
        (ROW | {"coordinates": "polar"}, "none of offsets, absolute"),
        (ROW | {"sketch": "bad.npy"}, "not .8, 4."),
        (ROW | {"sketch": "nan.npy"}, "finite"),
        (ROW | {"sketch": "none.npy"}, "no stroke"),
        (ROW | {"sketch": "object.npy"}, "object.npy: "),
        (ROW | {"sketch": "circle.svg"}, "<circle> is no stroke"),
        (ROW | {"sketch": "moved.svg"}, "<g> has a transform"),
        (ROW | {"sketch": "empty.svg"}, "no stroke"),
        (ROW | {"sketch": "torn.svg"}, "torn.svg: "),
        (ROW | {"sketch": "b.png"}, "b.png: "),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, why):
    file = written(tmp_path, [ROW, line])
    np.save(tmp_path / "bad.npy", np.zeros((8, 4)))
    np.save(tmp_path / "nan.npy", np.full((8, 5), np.nan))
    np.save(tmp_path / "none.npy", np.array([[0, 0, 0, 0, 1]]))
    np.save(tmp_path / "object.npy", np.array([{}, 1], object), allow_pickle=True)
    for name, inside in (
        ("circle", "<circle r='4'/>"),
        ("moved", "<g transform='scale(2)'><path d='M0 0L1 1'/></g>"),
        ("empty", ""),
    ):
        (tmp_path / f"{name}.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg">{inside}</svg>')
    (tmp_path / "torn.svg").write_text("<svg><path")
    with pytest.raises(ValueError, match=f"pairs.jsonl:2: .*{why}"):
        sketches.load_pairs(file, 16)


def test_a_file_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        sketches.load_pairs(tmp_path / "no.jsonl", 16)
    with pytest.raises(ValueError, match="no sketches in this file"):
        sketches.load_pairs(written(tmp_path, [""]), 16)
