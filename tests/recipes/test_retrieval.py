"""Finding photos: ranks, the triplet and relational losses, networks and their cost, a policy over a menu and its
rewards.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from saccade.algorithms.grpo import PolicyGradient
from saccade.core import Problem, generator, seeds
from saccade.recipes.recognition.sketch_flops import retrieval
from saccade.recipes.recognition.sketch_flops.compute import ComputeCost, RetrievalGallery, entropy_bonus
from saccade.recipes.recognition.sketch_flops.distillation import Matching, examples, relational, triplet
from saccade.recipes.recognition.sketch_flops.embedder import Embedder, Meter, embedder, flops, large, small
from saccade.recipes.recognition.sketch_flops.selector import CategoricalPolicy, Reader, drawn
from saccade.training.feeds import join
from saccade.training.groups import sample_groups
from saccade.training.learner import Update, Updates

D = torch.tensor([[0.1, 0.5, 0.9], [0.4, 0.4, 0.4], [0.9, 0.2, 0.3]])
TRUTH = torch.tensor([0, 1, 2])


# -- ranks ------------------------------------------------------------------------------------------------------


def test_a_perfect_embedding_finds_everything_first_and_one_that_makes_all_alike_nothing():
    codes = nn.functional.normalize(torch.randn(30, 8, generator=generator(0)), dim=1)
    rank = retrieval.rank(retrieval.distances(codes, codes), torch.arange(30))
    assert retrieval.within(rank, 1) == 1 and retrieval.mean_reciprocal_rank(rank) == 1
    same = retrieval.rank(torch.zeros(30, 30), torch.arange(30))
    assert retrieval.within(same, 1) == 0 and (same == 30).all()


def test_ranks_count_what_is_as_near_and_golden_values():
    rank = retrieval.rank(D, TRUTH)
    assert rank.tolist() == [1, 3, 2]
    assert retrieval.within(rank, 2) == pytest.approx(2 / 3) and retrieval.mean_reciprocal_rank(rank) == pytest.approx(
        11 / 18
    )
    broken = D.clone()
    broken[0, 0] = broken[2, 1] = math.nan
    assert retrieval.rank(broken, TRUTH).tolist() == [3, 3, 1]
    with pytest.raises(ValueError, match="number 3 of a gallery of 3"):
        retrieval.rank(D, TRUTH + 1)


def test_ranks_in_random_galleries_follow_from_their_seeds_and_have_the_right_mean():
    distance = torch.arange(10.0).repeat(4000, 1)
    own = [generator(i) for i in range(4000)]
    rank = retrieval.rank_among(distance, torch.full((4000,), 6), 3, own)
    assert set(rank.tolist()) == {1, 2, 3, 4} and float(rank.double().mean()) == pytest.approx(1 + 3 * 6 / 9, abs=0.05)
    again = retrieval.rank_among(distance[:5], torch.full((5,), 6), 3, [generator(i) for i in range(5)])
    assert torch.equal(again, rank[:5])
    assert torch.equal(retrieval.rank_among(D, TRUTH, 2, []), retrieval.rank(D, TRUTH))


def test_distances_are_those_of_cdist_and_differentiable_at_zero():
    a, b = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    assert torch.allclose(retrieval.distances(a, b), torch.cdist(a, b), atol=1e-7)
    a.requires_grad_()
    retrieval.distances(a, a).sum().backward()
    assert a.grad.isfinite().all()


# -- losses -----------------------------------------------------------------------------------------------------


def test_the_triplet_term_and_relational_term_by_hand():
    other = ~torch.eye(3, dtype=torch.bool)
    hinges = [max(0, 0.3 + D[i, i].item() - D[i, j].item()) for i in range(3) for j in range(3) if i != j]
    active = [h for h in hinges if h > 0]
    assert float(triplet(D, other, 0.3)) == pytest.approx(sum(active) / len(active))
    twin = torch.tensor([[False, False, True], [False, False, True], [True, True, False]])
    assert float(triplet(D, twin, 0.3)) == pytest.approx(((0.3 + 0.4 - 0.4) + (0.3 + 0.3 - 0.2)) / 2)
    huber = lambda x: 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5
    own, taught = (D, D.T + 2), (D + 0.5, D.T)
    expected = huber(0.5) + huber(0.5) + huber(2.0)
    assert float(relational(own, taught, other)) == pytest.approx(expected)
    assert float(relational(own, own, other)) == 0


def matching(**changes) -> tuple[Matching, list[Problem], nn.Module]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4, dtype=torch.float64))
    sketches, photos = torch.rand(6, 3, 8, 8, dtype=torch.float64), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    draw = lambda problems, canvas: nn.functional.interpolate(torch.stack([sketches[p.id] for p in problems]), canvas)
    embed = lambda pictures: nn.functional.normalize(net(pictures), dim=1)
    return (
        Matching(embed, draw, lambda i: photos[i], **{"canvases": (4, 8), **changes}),
        [Problem(i, None, i % 3) for i in range(6)],
        net,
    )


def test_matching_is_averaged_over_canvases_and_a_teacher_that_agrees_costs_nothing():
    loss, problems, net = matching()
    each = [matching(canvases=(c,))[0](examples(problems)).mean() for c in (4, 8)]
    assert loss(examples(problems)).mean().item() == pytest.approx(sum(each).item() / 2)
    alone, _, _ = matching(canvases=(8,))
    taught = alone.embed(alone.draw(problems, 8)).detach(), alone.embed(alone.photos(torch.arange(3))).detach()
    agreeing = replace(alone, balance=0.25, teacher=taught)(examples(problems))
    assert agreeing.mean().item() == pytest.approx(0.25 * float(agreeing.metrics["triplet"]) / 6)
    assert float(agreeing.metrics["distances"]) == pytest.approx(0, abs=1e-12)


def test_the_gradient_of_matching_is_that_of_finite_differences():
    teacher = torch.nn.functional.normalize(torch.randn(6, 5, dtype=torch.float64, generator=generator(1)), dim=1)
    loss, problems, net = matching(balance=0.5, teacher=(teacher, teacher[:3]))
    loss(examples(problems)).mean().backward()
    weight = net[2].weight
    for place in ((0, 0), (3, 7)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * 1e-6
                ends.append(float(loss(examples(problems)).mean()))
                weight[place] -= sign * 1e-6
        assert float(weight.grad[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


def test_balances_without_a_teacher_are_refused():
    with pytest.raises(ValueError, match="needs a teacher"):
        matching(balance=0.5)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        matching(balance=1.5)


# -- networks and cost ------------------------------------------------------------------------------------------


def test_the_student_is_small_and_cheap_and_every_canvas_goes_through_it():
    teacher, student = embedder("large", 64), embedder("small", 64)
    size = lambda net: sum(p.numel() for p in net.parameters())
    assert size(teacher) > 1.3e6 and size(student) < 0.11e6
    cost = {name: Meter(net, lambda c: torch.zeros(1, 3, c, c)) for name, net in (("t", teacher), ("s", student))}
    assert cost["s"](64) < 0.1 * cost["t"](64) and cost["s"](16) < 0.1 * cost["s"](64)
    for canvas in (16, 24, 64):
        out = student(torch.rand(3, 3, canvas, canvas))
        assert out.shape == (3, 64) and torch.allclose(out.norm(dim=1), torch.ones(3), atol=1e-5)
        assert torch.allclose(student(torch.rand(3, 3, canvas, canvas, generator=generator(1)))[:1],
                              student(torch.rand(3, 3, canvas, canvas, generator=generator(1))[:1]), atol=1e-5)  # fmt: skip


def test_costs_are_counted_not_typed_and_only_once():
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    assert flops(lambda: convolution(torch.zeros(1, 3, 10, 10))) == 2 * 100 * 8 * 27
    reader, calls = Reader(5, 32, 4), []
    read = lambda sequence: (calls.append(1), reader(sequence, torch.tensor([sequence.shape[1]])))
    meter = Meter(read, lambda points: torch.zeros(1, points, 5))
    assert meter(7) == 2 * (7 * 3 * 32 * (5 + 32) + 32 * 4) and meter(7) == meter(7) and len(calls) == 1


def test_networks_by_name_follow_from_their_seed_and_unknown_ones_are_named(tmp_path):
    same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
    assert same(embedder("small", 8, 3), embedder("small", 8, 3)) and not same(
        embedder("small", 8, 3), embedder("small", 8, 4)
    )
    assert embedder("small", 0)(torch.rand(1, 3, 16, 16)).shape == (1, 192 * 4)
    with pytest.raises(ValueError, match="unknown network 'tiny'"):
        embedder("tiny", 8)
    embedder("small", 8).export(tmp_path)
    assert (tmp_path / "embedder.safetensors").is_file()


def test_a_library_that_is_missing_is_named_in_one_line(monkeypatch):
    import sys

    for library in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ValueError, match=f"needs a package: pip install {library}"):
            embedder(f"{library}:mobilenet_v2", 0)


def test_a_network_of_a_library_gives_its_feature_maps_with_its_own_statistics(monkeypatch):
    import sys
    from types import SimpleNamespace

    made = nn.Sequential(nn.Conv2d(3, 6, 3, 4), nn.BatchNorm2d(6))
    get = lambda name, weights: SimpleNamespace(features=made)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=SimpleNamespace(get_model=get)))
    net = embedder("torchvision:mobilenet_v2", 0)
    pictures = torch.rand(2, 3, 32, 32)
    before = made[1].running_mean.clone()
    assert net(pictures).shape == (2, 6) and torch.equal(made[1].running_mean, before)
    assert isinstance(net, Embedder) and float(net.mean[0]) == pytest.approx(0.485)


# -- the menu ---------------------------------------------------------------------------------------------------


def menu(seed: int = 0, **changes) -> CategoricalPolicy:
    torch.manual_seed(seed)
    policy = CategoricalPolicy(
        Reader(2, 8, 3), (16, 32, 64), lambda values: torch.tensor(values, dtype=torch.float32).view(-1, 2), **changes
    )
    nn.init.normal_(policy.reader.head.weight)
    return policy


ASKED = [Problem(i, [i / 10, 1.0] * (1 + i % 4)) for i in range(8)]


def test_replay_of_a_choice_is_exact_and_an_attempt_depends_on_its_seed_alone():
    policy, own = menu(), seeds(3, 8)
    rollout = policy.rollout(ASKED, own)
    seen = policy.likelihood(rollout)
    assert torch.equal(seen.logp_BT, rollout.logp_BT) and seen.logp_BT.requires_grad
    backwards = policy.rollout(ASKED[::-1], own.flip(0))
    assert backwards.outputs[::-1] == rollout.outputs and torch.allclose(
        backwards.logp_BT.flip(0), rollout.logp_BT, atol=1e-6
    )
    alone = policy.rollout(ASKED[2:3], own[2:3])
    assert alone.outputs == rollout.outputs[2:3] and torch.allclose(alone.logp_BT, rollout.logp_BT[2:3], atol=1e-6)
    joined = join([alone, rollout])
    assert torch.allclose(policy.likelihood(joined).logp_BT, joined.logp_BT, atol=1e-6)


def test_choices_are_drawn_as_often_as_they_are_likely_and_greedy_takes_the_likeliest():
    share = torch.tensor([0.2, 0.0, 0.5, 0.3])
    counts = torch.bincount(drawn(share.log().expand(4000, 4), seeds(0, 4000)), minlength=4) / 4000
    assert torch.allclose(counts, share, atol=0.025) and counts[1] == 0
    policy = menu().greedy()
    logp = policy.likelihood(policy.rollout(ASKED, seeds(0, 8)))
    assert (logp.logp_BT.exp() >= 1 / 3 - 1e-6).all() and (logp.entropy_BT <= math.log(3) + 1e-6).all()
    fresh = CategoricalPolicy(Reader(2, 8, 3), (1, 2, 3), policy.read)
    assert torch.allclose(fresh.rollout(ASKED, seeds(0, 8)).logp_BT, torch.full((8, 1), -math.log(3)))


def test_reinforce_with_the_clip_off_has_the_gradient_of_its_formula_and_any_cut_the_full_one():
    policy = menu()
    rollout = policy.rollout(ASKED, seeds(1, 8))
    rollout.advantage_BT = torch.linspace(-1, 2, 8)[:, None]
    loss = PolicyGradient(policy, clip=math.inf)(rollout).mean()
    whole = torch.autograd.grad(loss, policy.trained)
    formula = -(policy.likelihood(rollout).logp_BT * rollout.advantage_BT).mean()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, torch.autograd.grad(formula, policy.trained)))
    parts = [PolicyGradient(policy, clip=math.inf)(rollout.rows(i)) for i in torch.arange(8).split(3)]
    cut = torch.autograd.grad(sum(p.total for p in parts) / sum(p.count for p in parts), policy.trained)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, cut))


def test_a_bandit_learns_which_sequences_need_the_dear_option():
    policy = menu(1)
    problems = [Problem(i, [float(i % 2), 1.0] * 3) for i in range(32)]
    worth = lambda r: torch.tensor([float(o == (64 if p.id % 2 else 16)) for p, o in zip(r.problems, r.outputs)])
    learner = Updates(
        [Update("choices", PolicyGradient(policy, math.inf), policy.trained, torch.optim.Adam(policy.trained, 0.03))]
    )
    for step in range(60):
        rollout = policy.rollout(problems, seeds(step, 32))
        rollout.advantage_BT = (worth(rollout) - worth(rollout).mean())[:, None]
        learner.update(rollout)
    assert float(worth(policy.greedy().rollout(problems, seeds(0, 32))).mean()) == 1


# -- rewards ----------------------------------------------------------------------------------------------------


def chosen(options) -> tuple[RetrievalGallery, object]:
    eye = torch.eye(3)
    query_NKD = torch.stack([eye, eye[[1, 1, 1]], eye[[1, 2, 0]]], 1)
    rollout = menu().rollout([Problem(i, [0.0, 0.0]) for i in range(3)], seeds(0, 3))
    rollout.outputs = list(options)
    return RetrievalGallery((16, 32, 64), query_NKD, eye, torch.arange(3)), rollout


def test_the_right_option_finds_the_right_one_and_costs_are_relative_to_their_span():
    search, rollout = chosen([16, 32, 64])
    assert search.reciprocal_rank(rollout).tolist() == pytest.approx([1, 1, 1 / 3])
    far = 0.3 + math.sqrt(2)
    assert search.margin_reward(rollout).tolist() == pytest.approx([0, 0, -(far + 0.3) / 2], abs=1e-3)
    assert search.ranks().tolist() == [[1, 3, 3], [1, 1, 3], [1, 3, 3]]
    assert ComputeCost({16: 1.0, 32: 2.0, 64: 5.0})(rollout).tolist() == [-0.25, -0.5, -1.25]
    assert torch.equal(entropy_bonus(rollout), -rollout.logp_BT[:, 0])
    with pytest.raises(ValueError, match="costs the same"):
        ComputeCost({16: 2.0, 32: 2.0})


def test_a_smaller_gallery_holds_the_right_one_always():
    search, rollout = chosen([64, 64, 64])
    small = replace(search, others=1)
    assert set(small.reciprocal_rank(rollout).tolist()) <= {1.0, 0.5} and torch.equal(
        small.found(rollout), small.found(rollout)
    )
    kept = replace(search, others=1).reciprocal_rank(chosen([16, 16, 16])[1])
    assert kept.tolist() == [1, 1, 1]


def test_attempts_that_are_compared_look_through_one_gallery():
    truth_N, gallery_MD = torch.arange(4), torch.randn(60, 8, generator=generator(0))
    search = RetrievalGallery((16, 64), torch.randn(4, 2, 8, generator=generator(1)), gallery_MD, truth_N, others=9)
    rollout = sample_groups(menu().rollout, [Problem(i, [0.0, 0.0]) for i in range(4)], seeds(0, 4), 6)
    rollout.outputs = [16] * 24
    found_GK = search.reciprocal_rank(rollout).view(4, 6)
    assert torch.equal(found_GK, found_GK[:, :1].expand(-1, 6)), "the same choice is worth the same"
    other = replace(rollout, extras={"seed_B": rollout.extras["seed_B"] + 1})
    assert not torch.equal(search.reciprocal_rank(other).view(4, 6), found_GK), "another step has other galleries"


def test_shuffled_choices_are_the_mean_over_all_ways_to_deal_them_out():
    from itertools import permutations

    from saccade.recipes.recognition.sketch_flops.task import choosing

    rank_NK, choice_N = torch.tensor([[1, 2], [2, 1], [1, 1], [3, 1]]), torch.tensor([0, 1, 0, 1])
    scores = choosing(rank_NK, choice_N, (16, 64))
    dealt = [
        (rank_NK.gather(1, choice_N[list(order)][:, None]) == 1).double().mean() for order in permutations(range(4))
    ]
    assert scores["acc@1"] == 1 and scores["acc@1, shuffled choice"] == pytest.approx(float(np.mean(dealt)))
    assert scores["entropy of choices"] == pytest.approx(math.log(2)) and scores["share, 16 px"] == 0.5
    assert scores["acc@1, if any canvas will do"] == 1 and scores["acc@1, random canvas"] == 0.625
    assert large()[1] == 384 and small()[1] == 192
