"""The codebook: nearest neighbours, losses, moving averages, k-means, restarts, usage."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from seedtok.tokenizer.codebook import Codebook, CodebookConfig, codebook_usage, nearest, vq_loss


def build(**changes) -> Codebook:
    """Twenty codes of four numbers, spread out."""
    torch.manual_seed(0)
    codebook = Codebook(CodebookConfig(**({"size": 20, "dim": 4} | changes)))
    torch.nn.init.normal_(codebook.weight)
    return codebook


def distortion(codebook: Codebook, samples: torch.Tensor) -> float:
    return float(nearest(samples, codebook.weight.detach())[1].mean())


def test_starts_uniform():
    weight = Codebook(CodebookConfig(size=50, dim=8)).weight
    assert weight.abs().max() <= 1 / 50
    assert weight.abs().max() > 0.9 / 50


@pytest.mark.parametrize("size", [20, 64, 320])  # 64 and 320: found block by block
def test_nearest_is_brute_force(size):
    torch.manual_seed(1)
    z, table = torch.randn(37, 4), torch.randn(size, 4)
    squared = (z[:, None] - table[None]).square().sum(dim=2)
    codes, distances = nearest(z, table, chunk=10)
    assert torch.equal(codes, squared.argmin(dim=1))
    torch.testing.assert_close(distances, squared.min(dim=1).values)


@pytest.mark.parametrize("autocast", [False, True])
def test_float32_even_under_autocast(autocast):
    codebook = build(size=500).eval()
    z = torch.randn(3, 32, 4)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        vectors, codes, loss = codebook(z)
    expected = torch.cdist(z.double(), codebook.weight.double()).argmin(dim=2)
    assert torch.equal(codes, expected)
    assert torch.equal(vectors, codebook.weight[expected])
    assert (vectors.dtype, codes.dtype, loss.dtype) == (torch.float32, torch.int64, torch.float32)


def test_gradient_is_straight_through():
    codebook = build()
    z = torch.randn(2, 3, 4, requires_grad=True)
    weights = torch.randn(2, 3, 4)
    (codebook(z).vectors * weights).sum().backward()
    assert torch.equal(z.grad, weights)
    assert codebook.weight.grad is None


@pytest.mark.parametrize("legacy", [True, False])
def test_both_forms_of_the_loss(legacy):
    codebook = build(legacy=legacy, beta=0.25)
    z = torch.randn(2, 3, 4, requires_grad=True)
    vectors, codes, loss = codebook(z)
    difference = (vectors - z).detach()
    mean = difference.square().mean()
    assert loss.item() == pytest.approx(1.25 * mean.item())
    assert vq_loss(z, vectors, 0.25, legacy).item() == pytest.approx(loss.item())
    loss.backward()
    to_z, to_codes = (1, 0.25) if legacy else (0.25, 1)
    torch.testing.assert_close(z.grad, -2 * to_z * difference / z.numel())
    expected = torch.zeros(20, 4).index_add_(0, codes.flatten(), 2 * to_codes * difference.flatten(0, 1) / z.numel())
    torch.testing.assert_close(codebook.weight.grad, expected)


def test_moving_averages_by_hand():
    codebook = build(size=2, dim=1, ema_decay=0.9, beta=0.5, legacy=False).train()
    codebook.weight.copy_(torch.tensor([[0.0], [10.0]]))
    codebook.ema_sums.copy_(codebook.weight)
    z = torch.tensor([[[1.0], [2.0], [9.0]]], requires_grad=True)
    vectors, codes, loss = codebook(z)
    assert codes.tolist() == [[0, 0, 1]]
    assert vectors.flatten().tolist() == [0, 0, 10]  # the codes as they were
    assert loss.item() == pytest.approx(0.5 * (1 + 4 + 1) / 3)
    sizes = [0.9 + 0.1 * 2, 0.9 + 0.1 * 1]
    sums = [0.1 * 3, 0.9 * 10 + 0.1 * 9]
    total = sum(sizes)
    for i in range(2):
        smoothed = (sizes[i] + 1e-5) / (total + 2e-5) * total
        assert codebook.weight[i].item() == pytest.approx(sums[i] / smoothed)
    assert not list(codebook.parameters())
    loss.backward()
    torch.testing.assert_close(z.grad.flatten(), torch.tensor([1.0, 2.0, -1.0]) / 3)
    codebook.eval()
    before = codebook.weight.clone()
    codebook(z)
    assert torch.equal(codebook.weight, before)


def test_what_is_not_finite_is_not_learnt():
    """As where float16 overflows: the step is left out, and the codebook must be left as it was by it."""
    one, other = (build(ema_decay=0.9, restart_after=1).train() for _ in range(2))
    other.load_state_dict(one.state_dict())
    z = torch.randn(1, 12, 4)
    broken = torch.cat([z, torch.full((1, 2, 4), torch.nan), torch.full((1, 1, 4), torch.inf)], dim=1)
    for _ in range(3):
        torch.manual_seed(0)
        one(z)
        torch.manual_seed(0)
        other(broken)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    other(torch.full((1, 2, 4), torch.nan))
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


@pytest.mark.parametrize(("weight", "left"), [(1.0, 0.7), (0.02, 0.05)])
def test_how_soon_moving_averages_leave_k_means_depends_on_what_that_weighs(weight, left):
    codebook = build(ema_decay=0.9).train()
    codebook.start_weight = weight
    samples = torch.randn(2000, 4)
    codebook.initialise(samples)
    for _ in range(30):  # of 40 samples: the start, of 2,000 or 40, decays to a 24th
        codebook(samples[None, :40] + 3)
    mean = codebook.ema_sums.sum(0) / codebook.ema_sizes.sum()
    kept = ((samples[:40] + 3).mean(0) - mean).mean() / 3
    assert kept.item() == pytest.approx(left, abs=0.05)


def test_moving_averages_approach_the_data():
    codebook = build(ema_decay=0.8).train()
    z = torch.randn(4, 50, 4)
    before = distortion(codebook, z.flatten(0, 1))
    for _ in range(20):
        codebook(z)
    assert distortion(codebook, z.flatten(0, 1)) < 0.8 * before


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("ema_decay", [None, 0.99])
def test_k_means(normalize, ema_decay):
    codebook = build(size=64, normalize=normalize, ema_decay=ema_decay)
    generator = torch.Generator().manual_seed(3)
    centres = 5 * torch.randn(8, 4, generator=generator)  # few clusters: random starts would leave codes empty
    samples = centres.repeat(100, 1) + 0.1 * torch.randn(800, 4, generator=generator)
    targets = F.normalize(samples, dim=1) if normalize else samples
    codebook.initialise(samples, iterations=0, generator=torch.Generator().manual_seed(4))
    start = distortion(codebook, targets)
    codebook.initialise(samples, iterations=10, generator=torch.Generator().manual_seed(4))
    assert distortion(codebook, targets) < start
    codes = codebook.eval()(samples[None]).codes
    assert codebook_usage(codes.flatten().bincount(minlength=64)).used == 64
    again = build(size=64, normalize=normalize, ema_decay=ema_decay)
    again.initialise(samples, iterations=10, generator=torch.Generator().manual_seed(4))
    assert torch.equal(again.weight, codebook.weight)


def test_k_means_wants_enough_samples():
    with pytest.raises(ValueError, match="19 samples for 20 codes"):
        build().initialise(torch.randn(19, 4))


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_dead_codes_restart(ema_decay):
    codebook = build(restart_after=3, ema_decay=ema_decay).train()
    with torch.no_grad():
        codebook.weight[10:] = 100.0 + torch.arange(10)[:, None]  # nothing will ever choose these
        if ema_decay:
            codebook.ema_sums.copy_(codebook.weight)
    z = torch.randn(2, 40, 4)
    for _ in range(3):
        codebook(z)
    assert (codebook.weight[10:] > 50).all()
    state = {k: v.clone() for k, v in codebook.state_dict().items()}
    torch.manual_seed(5)
    z.requires_grad_()
    vectors, codes, loss = codebook(z)
    (vectors.sum() + loss).backward()
    assert (codebook.weight < 50).all()
    assert set(range(10, 20)) <= set(codes.flatten().tolist())
    assert (codebook.unused_steps[10:] == 0).all()

    resumed = build(restart_after=3, ema_decay=ema_decay).train()
    resumed.load_state_dict(state)
    torch.manual_seed(5)
    assert torch.equal(resumed(z).codes, codes)
    for key, value in codebook.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_a_small_batch_restarts_what_it_can():
    codebook = build(restart_after=1).train()
    z = torch.randn(1, 2, 4)
    codebook(z)
    dead = int((codebook.unused_steps >= 1).sum())
    before = codebook.weight.detach().clone()
    codebook(z)
    assert int((codebook.weight != before).any(dim=1).sum()) == 2
    assert int((codebook.unused_steps >= 2).sum()) >= dead - 2


def test_normalised_codes_lie_on_the_sphere():
    codebook = build(normalize=True)
    z = torch.randn(2, 8, 4, requires_grad=True)
    vectors, codes, loss = codebook(z)
    torch.testing.assert_close(vectors.norm(dim=2), torch.ones(2, 8))
    cosines = F.normalize(z, dim=2) @ F.normalize(codebook.weight, dim=1).T
    assert torch.equal(codes, cosines.argmax(dim=2))
    torch.testing.assert_close(loss, 1.25 * (2 - 2 * cosines.amax(dim=2)).mean() / 4)
    assert torch.equal(codebook(3 * z).codes, codes)


@pytest.mark.parametrize("codes", [[0, 20], [-1, 3]])
def test_codes_out_of_range(codes):
    with pytest.raises(ValueError, match=r"expected codes in 0\.\.19"):
        build().lookup(torch.tensor(codes))


def test_no_codes():
    assert build().lookup(torch.zeros(0, 32, dtype=torch.int64)).shape == (0, 32, 4)


@pytest.mark.parametrize("bad", [{"ema_decay": 1.0}, {"restart_after": 0}])
def test_bad_configurations(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        CodebookConfig(**bad)


def test_usage_by_hand():
    usage = codebook_usage(torch.tensor([4, 4, 0, 0]))
    assert (usage.used, usage.share) == (2, 0.5)
    assert usage.perplexity == pytest.approx(2)
    usage = codebook_usage(torch.tensor([2, 1, 1]))
    assert usage.perplexity == pytest.approx(math.exp(0.5 * math.log(2) + 0.5 * math.log(4)))
    assert codebook_usage(torch.full((8,), 3)).perplexity == pytest.approx(8)
    assert codebook_usage(torch.zeros(8)) == (0, 0.0, 0.0)


def _train_on_two_ranks(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    codebook = build(ema_decay=0.9, restart_after=2).train()
    batch = torch.randn(4, 6, 4, generator=torch.Generator().manual_seed(6))
    torch.manual_seed(rank)  # ranks draw differently, and still agree on restarts
    for _ in range(4):
        codebook(batch[2 * rank :][:2])
    torch.save(codebook.state_dict(), f"{out}{rank}")
    codebook.initialise(batch[2 * rank :][:2].flatten(0, 1) + rank)  # 12 samples of each rank for 20 codes
    torch.save(codebook.state_dict(), f"{out}{rank}.started")
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_agree(tmp_path):
    mp.spawn(_train_on_two_ranks, (str(tmp_path / "store"), str(tmp_path / "out")), nprocs=2)
    for name in ("", ".started"):
        states = [torch.load(tmp_path / f"out{rank}{name}", weights_only=True) for rank in range(2)]
        for key, value in states[0].items():
            assert torch.equal(value, states[1][key]), key
    assert states[0]["ema_sizes"].sum() == 24  # the samples of both ranks, each once
    assert (states[0]["ema_sizes"] > 0).all()
