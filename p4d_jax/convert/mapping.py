"""PyTorch's names and layouts into ours: a table of rules a network, and the one function that applies it.

A rule is a regular expression over whole keys of a `state_dict`. The first that matches decides: `Rule` says
which of our variables the tensor becomes and how its axes turn, `Unused` why it is left out. A key that no
rule knows, a variable that no key fills and a shape that does not fit are errors, each in one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import flax
import jax
import numpy as np

from p4d_jax.errors import UserError

Layout = Callable[[np.ndarray], np.ndarray]


def same(value: np.ndarray) -> np.ndarray:
    """Biases, norms, buffers: as they are."""
    return value


def dense(value: np.ndarray) -> np.ndarray:
    """Linear weight (out, in) -> (in, out)."""
    return value.T


def conv(value: np.ndarray) -> np.ndarray:
    """Convolution weight OIHW -> HWIO."""
    return value.transpose(2, 3, 1, 0)


def image(value: np.ndarray) -> np.ndarray:
    """Image CHW -> HWC."""
    return value.transpose(1, 2, 0)


@dataclass(frozen=True)
class Rule:
    """Keys that become variables.

    Attributes:
      pattern: regular expression over a whole key.
      path: our variable, collection first, as `params/encoder/conv1/kernel`; groups of the pattern as \\1.
      layout: turns the tensor's axes.
    """

    pattern: str
    path: str
    layout: Layout = same


@dataclass(frozen=True)
class Unused:
    """Keys that are left out, and why."""

    pattern: str
    reason: str


Rules = Sequence[Rule | Unused]


@dataclass(frozen=True)
class NetworkImport:
    """All that the job `convert` must know of a network.

    A module of this package lists its own in `NETWORKS`, a dict from name to this.

    Attributes:
      rules: of the whole state.
      init_shapes: () -> our variables' shapes, nested (`shapes_of`).
      config: sizes, JSON-able; written beside the checkpoint, for whoever loads it.
      marks: keys by which a state is recognised: where all are present, it is this network's.
      about: what else the network's about.json says, JSON-able.
    """

    rules: Rules
    init_shapes: Callable[[], dict]
    config: dict
    marks: tuple[str, ...]
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Converted:
    """What became of a state.

    Attributes:
      variables: Flax variables, nested, float32 NumPy arrays.
      unused: key -> reason, of every key that was left out.
    """

    variables: dict
    unused: dict[str, str]


def layer(key: str, path: str, layout: Layout = conv, weight: str = "kernel") -> list[Rule]:
    """A layer's weight and bias.

    Args:
      key: pattern of its keys, without `.weight` and `.bias`.
      path: of its variables, without their collection.
      layout: of the weight.
      weight: our name of the weight.
    """
    return [
        Rule(rf"{key}\.weight", f"params/{path}/{weight}", layout),
        Rule(rf"{key}\.bias", f"params/{path}/bias"),
    ]


def below(prefix: str, scope: str, rules: Rules) -> list[Rule | Unused]:
    """The rules of a part as those of the whole.

    Args:
      prefix: of its keys, with its dot, as `encoder_global.`.
      scope: of its variables inside their collection, as `encoder_global`; '' for the whole itself.
      rules: of the part alone.
    """

    def deepen(rule: Rule | Unused) -> Rule | Unused:
        pattern = re.escape(prefix) + f"(?:{rule.pattern})"
        if isinstance(rule, Unused):
            return replace(rule, pattern=pattern)
        collection, rest = rule.path.split("/", 1)
        return replace(rule, pattern=pattern, path="/".join(filter(None, (collection, scope, rest))))

    return [deepen(rule) for rule in rules]


def convert_state(state: Mapping[str, np.ndarray], rules: Rules, expected: dict, what: str) -> Converted:
    """Applies rules to a state.

    Args:
      state: key -> tensor; each is read once, so a mapping that reads lazily holds one at a time.
      rules: see `Rule` and `Unused`.
      expected: our variables or their shapes (`jax.eval_shape` of the module's `init`).
      what: names network and config in errors.

    Raises:
      UserError: a key is unknown, a variable stays without value, or a shape differs.
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    shapes = flax.traverse_util.flatten_dict(expected, sep="/")
    flat, unused, sources = {}, {}, {}
    for key in state:
        match, rule = next(((m, r) for p, r in compiled if (m := p.fullmatch(key))), (None, None))
        if rule is None:
            raise UserError(f"{what}: the source has a key {key!r} that this network does not know")
        if isinstance(rule, Unused):
            unused[key] = rule.reason
            continue
        path = match.expand(rule.path)
        if path in flat:
            raise UserError(f"{what}: keys {sources[path]!r} and {key!r} are the same variable {path!r}")
        if path not in shapes:
            raise UserError(f"{what}: key {key!r} would be {path!r}, which this config does not have")
        raw = np.asarray(state[key])
        value = rule.layout(raw) if raw.ndim == _rank(rule.layout, raw) else raw
        if value.shape != tuple(shapes[path].shape):
            raise UserError(
                f"{what}: key {key!r} of shape {raw.shape} becomes {path!r} of shape {value.shape},"
                f" where this config has {tuple(shapes[path].shape)}"
            )
        flat[path], sources[path] = np.asarray(value, np.float32, order="C"), key
    missing = sorted(set(shapes) - set(flat))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{what}: the source has nothing for {missing[0]!r}{more}")
    return Converted(flax.traverse_util.unflatten_dict(flat, sep="/"), unused)


def _rank(layout: Layout, value: np.ndarray) -> int:
    """The rank that a layout turns; a tensor of another rank fails by its shape, with both shapes named."""
    return {dense: 2, conv: 4, image: 3}.get(layout, value.ndim)


def names_fit(keys: Iterable[str], rules: Rules, expected: dict) -> bool:
    """Whether rules know every key and the keys fill every variable; shapes are not looked at."""
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    paths = set()
    for key in keys:
        match, rule = next(((m, r) for p, r in compiled if (m := p.fullmatch(key))), (None, None))
        if rule is None:
            return False
        if isinstance(rule, Rule):
            paths.add(match.expand(rule.path))
    return paths == set(flax.traverse_util.flatten_dict(expected, sep="/"))


def shapes_of(init: Callable, *arguments) -> dict:
    """Shapes of the variables that `init(key, *arguments)` would make, without making them."""
    return jax.eval_shape(init, jax.random.key(0), *arguments)
