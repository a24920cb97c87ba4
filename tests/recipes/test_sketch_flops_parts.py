"""Parts of sketch_flops: ranks, triplet and distance losses, networks and their cost, the selector and its rewards."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from saccade.algorithms.grpo import PolicyGradient
from saccade.core import Problem
from saccade.random import generator, seeds
from saccade.recipes.recognition.sketch_flops import retrieval
from saccade.recipes.recognition.sketch_flops.distillation import (
    DistillationLoss,
    distance_loss,
    supervised_batch,
    triplet_loss,
)
from saccade.recipes.recognition.sketch_flops.networks import Embedder, FlopMeter, build_embedder, flops, large, small
from saccade.recipes.recognition.sketch_flops.retrieval import RetrievalGallery
from saccade.recipes.recognition.sketch_flops.selector import (
    CategoricalPolicy,
    ComputeCost,
    SequenceClassifier,
    entropy_bonus,
    sample_categorical,
)
from saccade.training.feeds import join
from saccade.training.groups import sample_groups
from saccade.training.learner import Update, Updates

D = torch.tensor([[0.1, 0.5, 0.9], [0.4, 0.4, 0.4], [0.9, 0.2, 0.3]])
CORRECT = torch.tensor([0, 1, 2])


# -- ranks ------------------------------------------------------------------------------------------------------


def retrieval_means(rank_N):
    return {name: float(value_N.mean()) for name, value_N in retrieval.retrieval_metrics(rank_N).items()}


def test_a_perfect_embedding_ranks_everything_first_and_a_constant_one_nothing():
    codes = nn.functional.normalize(torch.randn(30, 8, generator=generator(0, "test")), dim=1)
    rank = retrieval.rank(retrieval.distances(codes, codes), torch.arange(30))
    assert retrieval_means(rank) == {"acc@1": 1, "acc@5": 1, "MRR": 1}
    same = retrieval.rank(torch.zeros(30, 30), torch.arange(30))
    assert retrieval_means(same)["acc@1"] == 0 and (same == 30).all()


def test_ties_rank_before_the_correct_item():
    rank = retrieval.rank(D, CORRECT)
    assert rank.tolist() == [1, 3, 2]
    assert retrieval_means(rank) == pytest.approx({"acc@1": 1 / 3, "acc@5": 1, "MRR": 11 / 18})
    broken = D.clone()
    broken[0, 0] = broken[2, 1] = math.nan
    assert retrieval.rank(broken, CORRECT).tolist() == [3, 3, 1]
    with pytest.raises(ValueError, match="index 3 in a gallery of 3"):
        retrieval.rank(D, CORRECT + 1)


def test_ranks_in_random_galleries_depend_on_their_seeds_and_have_the_expected_mean():
    distance = torch.arange(10.0).repeat(4000, 1)
    generators = [generator(i, "test") for i in range(4000)]
    rank = retrieval.rank_among(distance, torch.full((4000,), 6), 3, generators)
    assert set(rank.tolist()) == {1, 2, 3, 4} and float(rank.double().mean()) == pytest.approx(1 + 3 * 6 / 9, abs=0.05)
    first = retrieval.rank_among(distance[:5], torch.full((5,), 6), 3, [generator(i, "test") for i in range(5)])
    assert torch.equal(first, rank[:5])
    assert torch.equal(retrieval.rank_among(D, CORRECT, 2, []), retrieval.rank(D, CORRECT))


def test_distances_are_those_of_cdist_and_differentiable_at_zero():
    a, b = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    assert torch.allclose(retrieval.distances(a, b), torch.cdist(a, b), atol=1e-7)
    a.requires_grad_()
    retrieval.distances(a, a).sum().backward()
    assert a.grad.isfinite().all()


# -- losses -----------------------------------------------------------------------------------------------------


def test_triplet_and_distance_losses_equal_explicit_sums():
    other = ~torch.eye(3, dtype=torch.bool)
    hinges = [max(0, 0.3 + D[i, i].item() - D[i, j].item()) for i in range(3) for j in range(3) if i != j]
    active = [h for h in hinges if h > 0]
    assert float(triplet_loss(D, other, 0.3)) == pytest.approx(sum(active) / len(active))
    twin = torch.tensor([[False, False, True], [False, False, True], [True, True, False]])
    assert float(triplet_loss(D, twin, 0.3)) == pytest.approx(((0.3 + 0.4 - 0.4) + (0.3 + 0.3 - 0.2)) / 2)
    huber = lambda x: 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5
    student, teacher = (D, D.T + 2), (D + 0.5, D.T)
    expected = huber(0.5) + huber(0.5) + huber(2.0)
    assert float(distance_loss(student, teacher, other)) == pytest.approx(expected)
    assert float(distance_loss(student, student, other)) == 0


def matching(**changes) -> tuple[DistillationLoss, list[Problem], nn.Module]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4, dtype=torch.float64))
    sketches, photos = torch.rand(6, 3, 8, 8, dtype=torch.float64), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    draw = lambda problems, canvas: nn.functional.interpolate(torch.stack([sketches[p.id] for p in problems]), canvas)
    embed = lambda pictures: nn.functional.normalize(net(pictures), dim=1)
    return (
        DistillationLoss(embed, draw, lambda i: photos[i], **{"canvases": (4, 8), **changes}),
        [Problem(i, None, i % 3) for i in range(6)],
        net,
    )


def test_the_loss_is_averaged_over_canvases_and_zero_for_an_equal_teacher():
    loss, problems, _ = matching()
    each = [matching(canvases=(c,))[0](supervised_batch(problems)).mean() for c in (4, 8)]
    assert loss(supervised_batch(problems)).mean().item() == pytest.approx(sum(each).item() / 2)
    alone, _, _ = matching(canvases=(8,))
    targets = alone.embed(alone.draw(problems, 8)).detach(), alone.embed(alone.photos(torch.arange(3))).detach()
    agreeing = replace(alone, triplet_weight=0.25, teacher=targets)(supervised_batch(problems))
    assert agreeing.mean().item() == pytest.approx(0.25 * float(agreeing.metrics["triplet"]) / 6)
    assert float(agreeing.metrics["distances"]) == pytest.approx(0, abs=1e-12)


def test_the_gradient_equals_finite_differences():
    teacher = torch.nn.functional.normalize(
        torch.randn(6, 5, dtype=torch.float64, generator=generator(1, "test")), dim=1
    )
    loss, problems, net = matching(triplet_weight=0.5, teacher=(teacher, teacher[:3]))
    loss(supervised_batch(problems)).mean().backward()
    weight = net[2].weight
    for place in ((0, 0), (3, 7)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * 1e-6
                ends.append(float(loss(supervised_batch(problems)).mean()))
                weight[place] -= sign * 1e-6
        assert float(weight.grad[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


def test_a_triplet_weight_without_a_teacher_raises_an_error():
    with pytest.raises(ValueError, match="needs a teacher"):
        matching(triplet_weight=0.5)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        matching(triplet_weight=1.5)


# -- networks and cost ------------------------------------------------------------------------------------------


def test_the_student_is_small_and_cheap_and_every_canvas_goes_through_it():
    teacher, student = build_embedder("large", 64), build_embedder("small", 64)
    size = lambda net: sum(p.numel() for p in net.parameters())
    assert size(teacher) > 1.3e6 and size(student) < 0.11e6
    cost = {name: FlopMeter(net, lambda c: torch.zeros(1, 3, c, c)) for name, net in (("t", teacher), ("s", student))}
    assert cost["s"](64) < 0.1 * cost["t"](64) and cost["s"](16) < 0.1 * cost["s"](64)
    for canvas in (16, 24, 64):
        out = student(torch.rand(3, 3, canvas, canvas))
        assert out.shape == (3, 64) and torch.allclose(out.norm(dim=1), torch.ones(3), atol=1e-5)
        pictures = torch.rand(3, 3, canvas, canvas, generator=generator(1, "test"))
        assert torch.allclose(student(pictures)[:1], student(pictures[:1]), atol=1e-5)


def test_costs_are_counted_not_typed_and_only_once():
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    assert flops(lambda: convolution(torch.zeros(1, 3, 10, 10))) == 2 * 100 * 8 * 27
    reader, calls = SequenceClassifier(5, 32, 4), []
    read = lambda sequence: (calls.append(1), reader(sequence, torch.tensor([sequence.shape[1]])))
    meter = FlopMeter(read, lambda points: torch.zeros(1, points, 5))
    assert meter(7) == 2 * (7 * 3 * 32 * (5 + 32) + 32 * 4) and meter(7) == meter(7) and len(calls) == 1


def test_networks_by_name_follow_from_their_seed_and_unknown_ones_are_named(tmp_path):
    same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
    assert same(build_embedder("small", 8, 3), build_embedder("small", 8, 3)) and not same(
        build_embedder("small", 8, 3), build_embedder("small", 8, 4)
    )
    assert build_embedder("small", 0)(torch.rand(1, 3, 16, 16)).shape == (1, 192 * 4)
    with pytest.raises(ValueError, match="unknown network 'tiny'"):
        build_embedder("tiny", 8)
    build_embedder("small", 8).export(tmp_path)
    assert (tmp_path / "embedder.safetensors").is_file()


def test_a_library_that_is_missing_is_named_in_one_line(monkeypatch):
    import sys

    for library in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ValueError, match=f"needs a package: pip install {library}"):
            build_embedder(f"{library}:mobilenet_v2", 0)


def test_a_network_of_a_library_gives_its_feature_maps_with_its_own_statistics(monkeypatch):
    import sys
    from types import SimpleNamespace

    made = nn.Sequential(nn.Conv2d(3, 6, 3, 4), nn.BatchNorm2d(6))
    get = lambda name, weights: SimpleNamespace(features=made)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=SimpleNamespace(get_model=get)))
    net = build_embedder("torchvision:mobilenet_v2", 0)
    pictures = torch.rand(2, 3, 32, 32)
    before = made[1].running_mean.clone()
    assert net(pictures).shape == (2, 6) and torch.equal(made[1].running_mean, before)
    assert isinstance(net, Embedder) and float(net.mean[0]) == pytest.approx(0.485)


# -- the selector ---------------------------------------------------------------------------------------------------


def selector(seed: int = 0, **changes) -> CategoricalPolicy:
    torch.manual_seed(seed)
    policy = CategoricalPolicy(
        SequenceClassifier(2, 8, 3),
        (16, 32, 64),
        lambda values: torch.tensor(values, dtype=torch.float32).view(-1, 2),
        **changes,
    )
    nn.init.normal_(policy.network.head.weight)
    return policy


PROBLEMS = [Problem(i, [i / 10, 1.0] * (1 + i % 4)) for i in range(8)]


def test_choices_replay_exactly_and_depend_on_their_seeds_alone():
    policy, seeds_B = selector(), seeds(3, 8, "test")
    rollout = policy.rollout(PROBLEMS, seeds_B)
    likelihood = policy.likelihood(rollout)
    assert torch.equal(likelihood.logp_BT, rollout.logp_BT) and likelihood.logp_BT.requires_grad
    backwards = policy.rollout(PROBLEMS[::-1], seeds_B.flip(0))
    assert backwards.outputs[::-1] == rollout.outputs and torch.allclose(
        backwards.logp_BT.flip(0), rollout.logp_BT, atol=1e-6
    )
    alone = policy.rollout(PROBLEMS[2:3], seeds_B[2:3])
    assert alone.outputs == rollout.outputs[2:3] and torch.allclose(alone.logp_BT, rollout.logp_BT[2:3], atol=1e-6)
    joined = join([alone, rollout])
    assert torch.allclose(policy.likelihood(joined).logp_BT, joined.logp_BT, atol=1e-6)


def test_choices_are_sampled_by_their_probabilities_and_greedy_takes_the_most_likely():
    share = torch.tensor([0.2, 0.0, 0.5, 0.3])
    counts = torch.bincount(sample_categorical(share.log().expand(4000, 4), seeds(0, 4000, "test")), minlength=4) / 4000
    assert torch.allclose(counts, share, atol=0.025) and counts[1] == 0
    policy = selector().greedy()
    logp = policy.likelihood(policy.rollout(PROBLEMS, seeds(0, 8, "test")))
    assert (logp.logp_BT.exp() >= 1 / 3 - 1e-6).all() and (logp.entropy_BT <= math.log(3) + 1e-6).all()
    fresh = CategoricalPolicy(SequenceClassifier(2, 8, 3), (1, 2, 3), policy.encode)
    assert torch.allclose(fresh.rollout(PROBLEMS, seeds(0, 8, "test")).logp_BT, torch.full((8, 1), -math.log(3)))


def test_reinforce_with_the_clip_off_has_the_gradient_of_its_formula_and_any_cut_the_full_one():
    policy = selector()
    rollout = policy.rollout(PROBLEMS, seeds(1, 8, "test"))
    rollout.advantage_BT = torch.linspace(-1, 2, 8)[:, None]
    loss = PolicyGradient(policy, clip=math.inf)(rollout).mean()
    whole = torch.autograd.grad(loss, policy.trained)
    formula = -(policy.likelihood(rollout).logp_BT * rollout.advantage_BT).mean()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, torch.autograd.grad(formula, policy.trained)))
    parts = [PolicyGradient(policy, clip=math.inf)(rollout.rows(i)) for i in torch.arange(8).split(3)]
    cut = torch.autograd.grad(sum(p.total for p in parts) / sum(p.count for p in parts), policy.trained)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, cut))


def test_a_bandit_learns_which_sequences_need_the_expensive_option():
    policy = selector(1)
    problems = [Problem(i, [float(i % 2), 1.0] * 3) for i in range(32)]
    worth = lambda r: torch.tensor([float(o == (64 if p.id % 2 else 16)) for p, o in zip(r.problems, r.outputs)])
    learner = Updates(
        [Update("choices", PolicyGradient(policy, math.inf), policy.trained, torch.optim.Adam(policy.trained, 0.03))]
    )
    for step in range(60):
        rollout = policy.rollout(problems, seeds(step, 32, "test"))
        rollout.advantage_BT = (worth(rollout) - worth(rollout).mean())[:, None]
        learner.update(rollout)
    assert float(worth(policy.greedy().rollout(problems, seeds(0, 32, "test"))).mean()) == 1


# -- rewards ----------------------------------------------------------------------------------------------------


def chosen(options) -> tuple[RetrievalGallery, object]:
    eye = torch.eye(3)
    query_NKD = torch.stack([eye, eye[[1, 1, 1]], eye[[1, 2, 0]]], 1)
    rollout = selector().rollout([Problem(i, [0.0, 0.0]) for i in range(3)], seeds(0, 3, "test"))
    rollout.outputs = list(options)
    return RetrievalGallery((16, 32, 64), query_NKD, eye, torch.arange(3)), rollout


def test_rewards_of_rank_margin_and_relative_cost():
    gallery, rollout = chosen([16, 32, 64])
    assert gallery.reciprocal_rank(rollout).tolist() == pytest.approx([1, 1, 1 / 3])
    far = 0.3 + math.sqrt(2)
    assert gallery.margin_reward(rollout).tolist() == pytest.approx([0, 0, -(far + 0.3) / 2], abs=1e-3)
    assert gallery.ranks().tolist() == [[1, 3, 3], [1, 1, 3], [1, 3, 3]]
    assert ComputeCost({16: 1.0, 32: 2.0, 64: 5.0})(rollout).tolist() == [-0.25, -0.5, -1.25]
    assert torch.equal(entropy_bonus(rollout), -rollout.logp_BT[:, 0])
    with pytest.raises(ValueError, match="cost the same"):
        ComputeCost({16: 2.0, 32: 2.0})


def test_a_random_gallery_contains_the_correct_item():
    gallery, rollout = chosen([64, 64, 64])
    small = replace(gallery, distractors=1)
    assert set(small.reciprocal_rank(rollout).tolist()) <= {1.0, 0.5} and torch.equal(
        small.reciprocal_rank(rollout), small.reciprocal_rank(rollout)
    )
    kept = replace(gallery, distractors=1).reciprocal_rank(chosen([16, 16, 16])[1])
    assert kept.tolist() == [1, 1, 1]


def test_the_rollouts_of_a_group_search_one_gallery():
    correct_N, gallery_MD = torch.arange(4), torch.randn(60, 8, generator=generator(0, "test"))
    gallery = RetrievalGallery(
        (16, 64), torch.randn(4, 2, 8, generator=generator(1, "test")), gallery_MD, correct_N, distractors=9
    )
    rollout = sample_groups(selector().rollout, [Problem(i, [0.0, 0.0]) for i in range(4)], seeds(0, 4, "test"), 6)
    rollout.outputs = [16] * 24
    found_GK = gallery.reciprocal_rank(rollout).view(4, 6)
    assert torch.equal(found_GK, found_GK[:, :1].expand(-1, 6)), "equal choices have equal rewards"
    other = replace(rollout, extras={"seed_B": rollout.extras["seed_B"] + 1})
    assert not torch.equal(gallery.reciprocal_rank(other).view(4, 6), found_GK), "another step has other galleries"


def test_the_shuffled_score_is_the_mean_over_all_permutations():
    from itertools import permutations

    from saccade.recipes.recognition.sketch_flops.task import choice_metrics

    rank_NK, choice_N = torch.tensor([[1, 2], [2, 1], [1, 1], [3, 1]]), torch.tensor([0, 1, 0, 1])
    found = choice_metrics(rank_NK, choice_N, (16, 64))
    scores = {name: float(torch.as_tensor(value).mean()) for name, value in found.items()}
    permuted = [
        (rank_NK.gather(1, choice_N[list(order)][:, None]) == 1).double().mean() for order in permutations(range(4))
    ]
    assert scores["acc@1"] == 1 and scores["acc@1, shuffled choice"] == pytest.approx(float(np.mean(permuted)))
    assert scores["entropy of choices"] == pytest.approx(math.log(2)) and scores["share, 16 px"] == 0.5
    assert scores["acc@1, if any canvas will do"] == 1 and scores["acc@1, random canvas"] == 0.625
    assert large()[1] == 384 and small()[1] == 192
