"""Which language models can be decoded on our cache: each is tried once, on a few ids, and its states are compared.

Models differ in what they do with a cache, a mask and position ids: ALiBi takes distances from places in the cache,
recurrent layers have no keys, some attention kernels take no tree masks. What a model does is not written in its
config, and releases of transformers change it. So before the first decoding of a model a small one is run and compared
with forwards without cache, padding or mask, which are right for every model. A model that disagrees, or raises, is
decoded by transformers' `generate`, or without a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seedtok.lm.beams import BeamSearch, SearchSettings
from seedtok.lm.model import JointLM
from seedtok.lm.sequences import CachedSequences

Comparison = tuple[Float[Tensor, "n hidden"], Float[Tensor, "n hidden"]]  # states to try, states that are right
LENGTHS = 3, 9  # ids of the two prompts of a probe
_results: WeakKeyDictionary[JointLM, dict[Callable[[JointLM], Comparison], bool]] = WeakKeyDictionary()


def supports_cache(model: JointLM) -> bool:
    """Whether left-padded sequences of a model can grow, be truncated and be selected on our cache."""
    return _agrees(model, _grown_states)


def supports_beam_search(model: JointLM) -> bool:
    """Whether a model's attention takes the masks and position ids of our beam search."""
    return _agrees(model, _beam_states)


def _agrees(model: JointLM, probe: Callable[[JointLM], Comparison]) -> bool:
    """Runs a probe once for each model; False where its states are not the right ones, or it raises.

    What is called before states is not called in a probe, and a device without memory says nothing of the model.
    """
    results = _results.setdefault(model, {})
    if probe not in results:
        training = [module for module in model.modules() if module.training]  # dropout would change the states
        model.eval()
        calls, model.before_states = model.before_states, []
        try:
            with torch.no_grad():
                results[probe] = _is_close(*probe(model))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # of any kind: whatever a model says to a cache or a mask that it does not know
            results[probe] = False
        finally:
            model.before_states = calls
            for module in training:
                module.training = True
    return results[probe]


def _grown_states(model: JointLM) -> Comparison:
    rows = _prompts(model)
    new = _ids(model, 3)
    sequences = CachedSequences(model, rows)
    states = [*sequences.states, *sequences.extend(new[:2].expand(2, -1)).flatten(0, 1)]
    right = [_right_state(model, row) for row in rows]
    right += [_right_state(model, [*row, *new[:n].tolist()]) for row in rows for n in (1, 2)]
    sequences.truncate(1)
    sequences.select_rows(torch.tensor([1, 0, 1], device=model.device))
    states += sequences.append(new[2:].expand(3))
    right += [_right_state(model, [*rows[i], int(new[0]), int(new[2])]) for i in (1, 0, 1)]
    return torch.stack(states), torch.stack(right)


def _beam_states(model: JointLM) -> Comparison:
    rows = _prompts(model)
    search = BeamSearch(model, rows, SearchSettings(beams=2, max_new_tokens=4))
    for _ in range(3):
        search.step({})
        search.advance()
    texts = zip(rows, search.tokens[..., :3].tolist(), strict=True)
    right = [_right_state(model, [*row, *tokens]) for row, beams in texts for tokens in beams]
    return search.states.flatten(0, 1), torch.stack(right)


def _ids(model: JointLM, count: int) -> Int[Tensor, " n"]:
    """Some text ids, spread over the vocabulary."""
    return torch.arange(1, count + 1, device=model.device) * 7919 % model.vocabulary.text


def _prompts(model: JointLM) -> list[list[int]]:
    return [part.tolist() for part in _ids(model, sum(LENGTHS)).split(LENGTHS)]


def _right_state(model: JointLM, ids: list[int]) -> Float[Tensor, " hidden"]:
    """The state at the last of some ids, by a forward without cache, padding or mask."""
    return model.states(model.embed(torch.tensor([ids], device=model.device)))[0, -1]


def _is_close(tried: Float[Tensor, "n hidden"], right: Float[Tensor, "n hidden"]) -> bool:
    """Whether states are equal but for rounding: each to 0.1% of its norm, or 16 units of the dtype's precision."""
    tolerance = max(1e-3, 16 * torch.finfo(tried.dtype).eps)
    return bool(((tried - right).float().norm(dim=1) <= tolerance * right.float().norm(dim=1)).all())
