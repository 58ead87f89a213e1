"""The VQ codebook: embeddings <-> discrete codes with straight-through gradients, and its usage (section 2.2)."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from seedtok.core.device import FixedDtypeModule, from_rank_0, of_all_ranks, rank_and_world
from seedtok.core.errors import ConfigError, DataError, InputError


@dataclass(frozen=True)
class CodebookConfig:
    """Sizes and training of a `Codebook`; the defaults are SEED's.

    Attributes:
        size: number of codes.
        dim: dimension of their vectors.
        beta: weight of one of the two terms of `vq_loss`.
        legacy: beta weights the codebook term, as in the published code, and not the commitment term.
        normalize: L2-normalise inputs and code vectors, as in BEiT v2.
        ema_decay: decay of the moving averages that replace the codebook term; None trains by the codebook term.
        restart_after: training steps without use after which a code is replaced by a random vector of the batch.
    """

    size: int = 8192
    dim: int = 32
    beta: float = 0.25
    legacy: bool = True
    normalize: bool = False
    ema_decay: float | None = None
    restart_after: int | None = None

    def __post_init__(self):
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay is {self.ema_decay}; expected 0 <= ema_decay < 1")
        if self.restart_after is not None and self.restart_after < 1:
            raise ConfigError(f"restart_after is {self.restart_after}; expected at least 1 step")


class Quantized(NamedTuple):
    """Code vectors (B, N, dim) with a straight-through gradient, codes int64 (B, N), and the scalar loss."""

    vectors: Tensor
    codes: Tensor
    loss: Tensor


class Usage(NamedTuple):
    """The number of used codes, their share of the codebook, and the perplexity, exp(entropy), of the codes."""

    used: int
    share: float
    perplexity: float


def mean_and_scale(vectors: Float[Tensor, "size d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, ""]]:
    """The mean of code vectors, and the root of the mean square of what is left of them without it, above 0."""
    mean = vectors.mean(0)
    return mean, (vectors - mean).square().mean().sqrt().clamp(min=1e-6)


def codebook_usage(counts: Int[Tensor, " size"] | Float[Tensor, " size"]) -> Usage:
    """Utilisation of a codebook from the counts of its codes; perplexity is `size` when all are equally frequent."""
    counts = counts.cpu().double()  # Apple GPUs have no float64
    total = counts.sum()
    if total == 0:
        return Usage(0, 0.0, 0.0)
    used = int((counts > 0).sum())
    entropy = torch.special.entr(counts / total).sum()
    return Usage(used, used / counts.numel(), float(entropy.exp()))


def vq_loss(z: Float[Tensor, "*b d"], z_q: Float[Tensor, "*b d"], beta: float, legacy: bool) -> Float[Tensor, ""]:
    """The commitment term, which moves z to its code vector, plus the codebook term, which moves the vector to z.

    beta weights the codebook term with `legacy`, as in SEED's published code, and otherwise the commitment term, as in
    VQ-VAE (van den Oord et al. 2017, equation 3).
    """
    commitment = F.mse_loss(z, z_q.detach())
    codebook = F.mse_loss(z_q, z.detach())
    return commitment + beta * codebook if legacy else beta * commitment + codebook


class Codebook(FixedDtypeModule):  # rounded vectors would change which code is the nearest
    """`size` code vectors; each input is replaced by the nearest one in L2 distance, in float32 even under autocast.

    The state of training is in buffers, so that a checkpoint resumes exactly, and equal on all ranks. Each forward in
    training mode is one step. In moving averages, a sample that a code starts from weighs `start_weight` of a batch's.
    """

    weight: Tensor  # (size, dim)
    ema_sizes: Tensor  # (size,)
    ema_sums: Tensor  # (size, dim)
    unused_steps: Tensor  # (size,) int64

    def __init__(self, config: CodebookConfig):
        super().__init__()
        self.config, self.start_weight = config, 1.0
        weight = torch.empty(config.size, config.dim).uniform_(-1 / config.size, 1 / config.size)
        if config.ema_decay is None:
            self.weight = nn.Parameter(weight)
        else:  # not a parameter: it has no gradient
            weight = F.normalize(weight, dim=-1) if config.normalize else weight
            self.register_buffer("weight", weight)
            self.register_buffer("ema_sizes", torch.ones(config.size))
            self.register_buffer("ema_sums", weight.clone())
        if config.restart_after is not None:
            self.register_buffer("unused_steps", torch.zeros(config.size, dtype=torch.int64))

    @property
    def writes_parameters(self) -> str:
        """What writes into the parameters, other than an optimizer; "" where nothing does."""
        restarts = self.config.restart_after is not None and self.config.ema_decay is None
        return "codes that restart: set stage.restart_after=none, or stage.ema_decay" if restarts else ""

    def forward(self, z: Float[Tensor, "b n d"]) -> Quantized:
        """Quantises (B, N, dim); in training mode it also restarts dead codes and updates the moving averages.

        The vectors are exactly `lookup(codes)`, and their gradient passes to `z` unchanged (through the normalisation,
        if any). The loss is `vq_loss`, or with moving averages its commitment term alone.
        """
        with torch.autocast(z.device.type, enabled=False):
            z = self.normalized(z.float())
            learnt = z.detach().flatten(0, 1)
            if self.training and self.config.restart_after is not None:
                self._restart(learnt)
            table = self.table()
            codes = nearest(learnt, table.detach())[0].view(z.shape[:-1])
            z_q = F.embedding(codes, table)
            vectors = z_q.detach() + (z - z.detach())  # exactly z_q, without the rounding error of z + (z_q - z)
            if self.training:
                self._track(learnt, codes.flatten())
            return Quantized(vectors.to(self.weight.dtype), codes, self._loss(z, z_q))

    def fingerprint(self, order: tuple[int, ...] | None = None) -> str:
        """A hash of the code vectors, and of the order of an image's codes where that is not the causal one."""
        vectors = self.weight.detach().float().cpu().contiguous().numpy()
        return hashlib.sha256(vectors.tobytes() + (str(order) if order else "").encode()).hexdigest()[:16]

    @torch.no_grad()
    def encode(self, z: Float[Tensor, "*b d"]) -> Int[Tensor, "*b"]:
        """The codes (...), int64, of vectors (..., dim)."""
        with torch.autocast(z.device.type, enabled=False):
            return nearest(self.normalized(z.float()).flatten(0, -2), self.table())[0].view(z.shape[:-1])

    def lookup(self, codes: Int[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """Codes (...) -> their vectors (..., dim).

        Raises:
            InputError: a code is outside 0..size-1.
        """
        if codes.numel():
            low, high = int(codes.min()), int(codes.max())
            if low < 0 or high >= self.config.size:
                raise InputError(f"codes in {low}..{high}; expected codes in 0..{self.config.size - 1}")
        return F.embedding(codes, self.table()).to(self.weight.dtype)

    @torch.no_grad()
    def initialise(
        self, samples: Float[Tensor, "n d"], iterations: int = 10, generator: torch.Generator | None = None
    ) -> None:
        """Initialises the code vectors by k-means on encoder outputs (n, dim); each rank gives its own.

        The initial centroids are distinct random samples, equally many from each rank. A centroid without samples moves
        to the sample of rank 0 that is farthest from its centroid. `generator` is a CPU generator.

        Raises:
            DataError: fewer samples on this rank than initial centroids.
        """
        size, ranks = self.config.size, rank_and_world()[1]
        own = -(-size // ranks)
        if len(samples) < own:
            raise DataError(f"{len(samples)} samples for {own} codes; expected at least {own}")
        samples = self.normalized(samples.detach().float().to(self.weight.device))
        start = torch.randperm(len(samples), generator=generator)[:own]
        table = of_all_ranks(samples[start.to(samples.device)])[:size]
        sizes = torch.ones(size, device=table.device)
        for step in range(iterations + 20):  # after `iterations` only while there are empty clusters
            codes, distances = nearest(samples, table)
            sizes, sums = _cluster(samples, codes, size)
            empty = (sizes == 0).nonzero().flatten()
            if step >= iterations and not len(empty):
                break
            used = sizes > 0
            table[used] = self.normalized(sums[used] / sizes[used, None])
            if len(empty):  # `own` at a time, as many as each rank has samples
                moved = empty[:own]
                table[moved] = from_rank_0(samples[distances.topk(len(moved)).indices])
        self.weight.copy_(table)
        if self.config.ema_decay is not None:
            self.ema_sizes.copy_(sizes * self.start_weight)
            self.ema_sums.copy_(table * self.ema_sizes[:, None])
        if self.config.restart_after is not None:
            self.unused_steps.zero_()

    def normalized(self, x: Tensor) -> Tensor:
        """Vectors (..., dim) divided by their L2 norm if `config.normalize` is set, else unchanged."""
        return F.normalize(x, dim=-1) if self.config.normalize else x

    def table(self) -> Tensor:
        """The code vectors (size, dim) in float32, normalised where `normalize` says so."""
        return self.normalized(self.weight.float())

    def _loss(self, z: Tensor, z_q: Tensor) -> Tensor:
        if self.config.ema_decay is None:
            return vq_loss(z, z_q, self.config.beta, self.config.legacy)
        return (1.0 if self.config.legacy else self.config.beta) * F.mse_loss(z, z_q.detach())

    @torch.no_grad()
    def _restart(self, z: Tensor) -> None:
        """Replaces dead codes by inputs; before quantisation, so that these inputs are assigned to them."""
        assert self.config.restart_after is not None
        dead = (self.unused_steps >= self.config.restart_after).nonzero().flatten()
        if not len(dead):
            return
        z = z[z.isfinite().all(dim=1)]
        old = self.weight[dead]
        chosen = z[torch.randperm(len(z), device=z.device)[: len(dead)]].to(old.dtype)
        new = from_rank_0(torch.cat([chosen, old[len(chosen) :]]))  # where the batch is small, some wait for the next
        moved = (new != old).any(dim=1)
        self.weight[dead] = new
        self.unused_steps[dead[moved]] = 0
        if self.config.ema_decay is not None:
            self.ema_sums[dead[moved]] = new[moved].to(self.ema_sums.dtype) * self.start_weight
            self.ema_sizes[dead[moved]] = self.start_weight

    @torch.no_grad()
    def _track(self, z: Tensor, codes: Tensor) -> None:
        """Updates the moving averages and the steps without use by the codes of a batch.

        What is not finite, as where float16 overflows, counts as not there.
        """
        decay, restart_after = self.config.ema_decay, self.config.restart_after
        if decay is None and restart_after is None:
            return
        is_finite = z.isfinite().all(dim=1)  # without values in the shapes, so that plans can count it
        sizes, sums = _cluster(z.where(is_finite[:, None], 0), codes, self.config.size, is_finite)
        is_any = sizes.any()
        if restart_after is not None:
            self.unused_steps += is_any
            self.unused_steps.masked_fill_(sizes > 0, 0)
        if decay is not None:
            share = ((1 - decay) * is_any).to(self.ema_sizes.dtype)
            self.ema_sizes.lerp_(sizes.to(self.ema_sizes.dtype), share)
            self.ema_sums.lerp_(sums.to(self.ema_sums.dtype), share)
            total, epsilon = self.ema_sizes.sum(), 1e-5
            smoothed = (self.ema_sizes + epsilon) / (total + self.config.size * epsilon) * total
            self.weight.copy_(torch.where(is_any, self.normalized(self.ema_sums / smoothed[:, None]), self.weight))


def nearest(
    z: Float[Tensor, "n d"], table: Float[Tensor, "size d"], chunk: int | None = None
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """For each row of `z`, the index of the nearest row of `table` and the squared distance; of ties, the first.

    Processes `chunk` rows at a time to limit the size of the distance matrix, on a CPU to that of its cache.
    """
    chunk = chunk or (64 if z.device.type == "cpu" else 4096)
    squares = table.square().sum(dim=1)
    best = [_smallest(torch.addmm(squares, part, table.T, alpha=-2)) for part in z.split(chunk)]
    distances = torch.cat([values for values, _ in best]) + z.square().sum(dim=1)
    return torch.cat([indices for _, indices in best]), distances.clamp(min=0)


def _smallest(distances: Float[Tensor, "n size"], block: int = 64) -> tuple[Tensor, Tensor]:
    """`distances.min(dim=1)` in two steps, first within blocks and then over them, which is three times as fast."""
    if distances.shape[1] % block:
        return distances.min(dim=1)
    blocks = distances.unflatten(1, (-1, block))
    values, which = blocks.amin(dim=2).min(dim=1)
    within = blocks[torch.arange(len(blocks), device=blocks.device), which].argmin(dim=1)
    return values, which * block + within


def _cluster(z: Tensor, codes: Tensor, size: int, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The number of vectors assigned to each code (size,) and their sums (size, dim), over all ranks.

    With `counted` (n,), a vector where that is false, which has to be zero, is not counted.
    """
    ones = z.new_ones(len(codes)) if counted is None else counted.to(z.dtype)
    sizes = z.new_zeros(size).index_add_(0, codes, ones)
    sums = z.new_zeros(size, z.shape[1]).index_add_(0, codes, z)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sizes)
        dist.all_reduce(sums)
    return sizes, sums
