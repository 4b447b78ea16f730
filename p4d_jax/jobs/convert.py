"""The job `convert`: a released file of PyTorch or FLAME -> ours, without running anything that it holds.

Several files of one command are several networks, each recognised by its keys, or pieces of one. Written to
the workdir: a folder per network, `NAME/checkpoint` (Orbax) or, of FLAME, `NAME/head.npz`, and beside it
`NAME/about.json`: the source's name, size and sha256, the network's config, and every key of the source that
was left out with its reason. A folder appears when it is complete.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import flax
import numpy as np
from ml_collections import ConfigDict

from p4d_jax.convert import genhead, perception, reconstructor, released
from p4d_jax.convert.flame import MODEL_KEYS, load_flame
from p4d_jax.convert.mapping import NetworkImport, convert_state, names_fit
from p4d_jax.convert.pickles import Contents, LazyState, read_torch, scan
from p4d_jax.convert.released import Fingerprint
from p4d_jax.errors import UserError, nearest, printable
from p4d_jax.head.loading import save_head_model
from p4d_jax.jobs.settings import ConvertSettings
from p4d_jax.settings import from_config
from p4d_jax.train.network_folder import new_folder, save_converted

FLAME = "flame"
# In a file of StyleGAN's kind, the moving average is the network, and G its copy in training.
_AVERAGE, _TRAINED = "G_ema", "G"


@dataclass(frozen=True)
class Source:
    """What is to be converted.

    Attributes:
      label: names its files in messages.
      stem: of its first file's name.
      files: name, size and sha256 of each.
      parts: name -> tensors by their keys, of each network that the files may hold; '' is the
        rest.
    """

    label: str
    stem: str
    files: list[Fingerprint]
    parts: dict[str, dict]


@dataclass(frozen=True, eq=False)
class SourceFile:
    """A file that was read: where it lies, what identifies it, and the arrays in it."""

    path: Path
    found: Fingerprint
    value: Contents


def run(config: ConfigDict, workdir: str | Path) -> dict[str, dict]:
    """Converts `config.source` or `config.download`. Returns name -> about.json of each folder written."""
    config, workdir = from_config(ConvertSettings, config), Path(workdir)
    paths = source_files(config, workdir)
    if config.scan:
        for path in paths:
            print_scan(path)
        return {}
    found = [check_source(path, config.sha256) for path in paths]
    if config.download and not config.sha256:
        unknown = [name for name in released.names_of(config.download) if not released.RELEASED[name].sha256]
        if unknown:
            what = "this file's sha256" if len(unknown) == 1 else "the sha256 of these files"
            print(f"this package does not know {what}; --config.sha256 pins one above", flush=True)
    files = [SourceFile(path, one, read_torch(path)) for path, one in zip(paths, found, strict=True)]
    heads = [file for file in files if config.network in ("", FLAME) and is_flame(file.value)]
    if config.network == FLAME:
        heads = files
    sources = group_files([file for file in files if file not in heads], config.network)
    chosen = [(source, *choose(source, known_networks(), config.network, config.part)) for source in sources]
    check_folders([FLAME] * len(heads) + [name for _, name, _, _ in chosen])
    written = {name: convert_network(source, name, *how, workdir) for source, name, *how in chosen}
    for head in heads:
        written[FLAME] = convert_flame(config, head, workdir)
    return written


# Sources ---------------------------------------------------------------------------------------------------


def source_files(config: ConvertSettings, workdir: Path) -> list[Path]:
    """The files to read; fetched first, if the config names one or a set of them to download."""
    if bool(config.source) == bool(config.download):
        raise UserError("give either --config.source=FILE or --config.download=NAME")
    if config.download:
        try:
            names = released.names_of(config.download)
        except UserError as error:
            raise UserError(f"--config.download: {error}") from None
    else:
        one = Path(config.source).expanduser().exists()
        names = (config.source,) if one else tuple(config.source.split(","))
    if config.sha256 and len(names) > 1:
        given = "--config.download" if config.download else "--config.source"
        raise UserError(f"--config.sha256 is of one source, but {given} names several")
    if config.download:
        return [released.download(name, workdir / "downloads", config.endpoint) for name in names]
    return [Path(name.strip()).expanduser() for name in names]


def check_source(path: Path, sha256: str) -> Fingerprint:
    """Name, size and sha256 of a source, which must be that of the config or of the file's name."""
    found = released.fingerprint(path)
    if sha256:
        released.check_sha256(found, sha256, "--config.sha256")
    released.check_name(found)
    print(f"{path}: {found.size} bytes, sha256 {found.sha256}", flush=True)
    return found


def print_scan(path: Path) -> None:
    """Lists what a pickle names and calls, without doing it."""
    found = scan(path)
    print(
        f"{path}: names {len(found.asked)} things and calls {len(found.calls)}; none was imported or called"
    )
    for what, listed in (("calls", found.calls), ("names", found.asked)):
        for name, count, known in listed:
            told = "is read as data" if known else "is refused" if what == "calls" else "stays a text"
            print(f"  {what} {printable(name)} {count} times: {told}", flush=True)


def is_flame(value: Contents) -> bool:
    """Whether this is a FLAME model's pickle."""
    return {"v_template", "shapedirs", "J_regressor"} <= set(value.names)


def find_parts(value: Contents, path: Path) -> dict[str, dict]:
    """`Source.parts` of a file: a part is a module or dict directly in its dict.

    The prefix that training on several devices leaves on every key is taken off.
    """
    parts: dict[str, dict] = {}
    for key, tensor in value.tensors.items():
        first, _, rest = key.partition(".")
        part, name = (first, rest) if first in value.nested else ("", key)
        parts.setdefault(part, {})[name] = tensor
    parts = {name: without_prefix(tensors, "module.") for name, tensors in parts.items() if tensors}
    if not parts:
        raise UserError(f"{path}: there are no tensors in it")
    return parts


def group_files(files: list[SourceFile], network: str) -> list[Source]:
    """Which files belong together: each is a network or, with another, a piece of one, as LPIPS' two are.

    Args:
      files: what was read.
      network: the one that the user says they all are, or ''.

    Raises:
      UserError: a file is no network, and none with another.
    """
    known = known_networks()
    if len(files) == 1:
        return [make_source(files)]
    whole = {file.path: not network and is_network(make_source([file]), known) for file in files}
    if not any(whole.values()):
        return [make_source(files)] if files else []
    groups, taken = [], set()
    for piece in (file for file in files if not whole[file.path]):
        pairs = [pair for other in files if (pair := pair_of(piece, other, known))]
        if len(pairs) != 1:
            many = (
                f", and {len(pairs)} with another of these files" if pairs else ", nor with another of these"
            )
            raise UserError(f"{piece.path}: no known network alone{many}; convert it by a command of its own")
        groups += pairs
        taken |= {file.name for file in pairs[0].files}
    return [make_source([f]) for f in files if whole[f.path] and f.found.name not in taken] + groups


def pair_of(piece: SourceFile, other: SourceFile, known: Mapping[str, NetworkImport]) -> Source | None:
    """Two files as one source, if they are one network; else None."""
    if other is piece or not all(set(find_parts(file.value, file.path)) == {""} for file in (piece, other)):
        return None
    try:
        source = make_source([piece, other])
    except UserError:  # a key of both
        return None
    name = recognise(source, "", known)
    fits = name and names_fit(source.parts[""], known[name].rules, known[name].init_shapes())
    return source if fits else None


def is_network(source: Source, known: Mapping[str, NetworkImport]) -> bool:
    """Whether one of a source's parts is a network."""
    return any(recognise(source, part, known) for part in source.parts)


def make_source(files: list[SourceFile]) -> Source:
    """One file with its parts, or the states of several as one."""
    values, paths = [file.value for file in files], [file.path for file in files]
    parts = find_parts(values[0], paths[0]) if len(files) == 1 else {"": merge_states(values, paths)}
    return Source(", ".join(map(str, paths)), paths[0].stem, [file.found for file in files], parts)


def check_folders(names: list[str]) -> None:
    """Every network has a folder of its own name, which another would replace."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"--config.source: several of the files are {twice[0]!r}, which has one folder in the workdir;"
            " convert them by commands with workdirs of their own"
        )


def merge_states(values: list, paths: list[Path]) -> dict:
    """The tensors of several files, each a piece of one network's state."""
    merged: dict = {}
    for path, value in zip(paths, values, strict=True):
        tensors = find_parts(value, path).get("", {})
        twice = sorted(merged.keys() & tensors.keys())
        if twice or not tensors:
            reason = f"its key {twice[0]!r} is in another source, too" if twice else "is no plain state"
            raise UserError(f"{path}: {reason}")
        merged |= tensors
    return merged


def without_prefix(tensors: dict, prefix: str) -> dict:
    """The same tensors, with a prefix that all of their keys have taken off."""
    if not all(key.startswith(prefix) for key in tensors):
        return tensors
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


# Which network ---------------------------------------------------------------------------------------------


def known_networks() -> dict[str, NetworkImport]:
    """Every network that can be converted, by name."""
    return {**reconstructor.NETWORKS, **genhead.NETWORKS, **perception.NETWORKS}


def choose(
    source: Source, networks: Mapping[str, NetworkImport], network: str, part: str
) -> tuple[str, str, NetworkImport]:
    """What to convert: a network's name, the part that it is made of, and how.

    Args:
      network, part: as the user says; '' finds out.
    """
    names = ", ".join([FLAME, *networks])
    if network and network not in networks:
        raise UserError(f"--config.network={network!r} is not one of {names}{nearest(network, networks)}")
    if part and part not in source.parts:
        there = ", ".join(repr(name) for name in source.parts if name) or "none"
        raise UserError(f"--config.part={part!r} is not in {source.label}, whose parts are: {there}")
    known = {network: networks[network]} if network else networks
    parts = [part] if part else sorted(source.parts, key=lambda p: (p != _AVERAGE, p == _TRAINED))
    for candidate in parts:
        if name := recognise(source, candidate, known):
            return name, candidate, networks[name]
    if network:
        return network, parts[0], networks[network]
    keys = ", ".join(map(repr, list(source.parts[parts[0]])[:3]))
    raise UserError(
        f"{source.label}: no known network has its keys ({keys}, ...); known are {names};"
        " --config.network=NAME forces one"
    )


def recognise(source: Source, part: str, networks: Mapping[str, NetworkImport]) -> str:
    """The network whose marks are among a part's keys, or ''.

    Of several, those whose rules fit all the keys; of networks with the same keys, the one that the file's
    name starts with.
    """
    tensors = source.parts[part]
    marked = [name for name, network in networks.items() if set(network.marks) <= tensors.keys()]
    # Shapes of a large network take seconds; networks that differ by their weights alone need none here.
    sizes = [(networks[name].config, networks[name].rules) for name in marked]
    if any(size != sizes[0] for size in sizes):
        fits = lambda net: names_fit(tensors, net.rules, net.init_shapes())
        marked = [name for name in marked if fits(networks[name])] or marked
    if len(marked) > 1:
        plain = lambda name: name.replace("_", "-")
        named = [name for name in marked if plain(source.stem).startswith(plain(name))]
        if not named:
            raise UserError(
                f"{source.label}: its keys are those of {' and of '.join(marked)}; say which it is by"
                " --config.network=NAME"
            )
        marked = [max(named, key=len)]
    return marked[0] if marked else ""


# Conversion ------------------------------------------------------------------------------------------------


def convert_network(source: Source, name: str, part: str, network: NetworkImport, workdir: Path) -> dict:
    """Converts a part of the source and writes its folder. Returns its about.json."""
    where = f"{source.label} ({part})" if part else source.label
    state = LazyState(source.parts[part], where)
    sizes = ", ".join(f"{key}={value}" for key, value in list(network.config.items())[:8])
    what = f"{where} as {name} ({sizes})"
    unreal = [key for key, tensor in state.tensors.items() if tensor.dtype.kind == "c"]
    if unreal:
        raise UserError(f"{what}: key {unreal[0]!r} holds complex numbers")
    with np.errstate(over="ignore"):  # of float64 to float32: what is not finite is found below
        converted = convert_state(state, network.rules, network.init_shapes(), what)
    flat = flax.traverse_util.flatten_dict(converted.variables, sep="/")
    for path, value in flat.items():
        if not np.isfinite(value).all():
            raise UserError(f"{what}: {path!r} holds values that are not finite; the file is damaged")
    elsewhere = {
        f"{other}.{key}" if other else key: why_not(other, source)
        for other, tensors in source.parts.items()
        if other != part
        for key in tensors
    }
    about = {
        "network": name,
        "config": network.config,
        "sources": [dataclasses.asdict(file) for file in source.files],
        "part": part,
        "tensors": len(state),
        "unused": converted.unused | elsewhere,
        **network.about,
    }
    save_converted(workdir / name, about, converted.variables)
    print(
        f"{workdir / name}: {sum(value.size for value in flat.values())} numbers from"
        f" {len(state) - len(converted.unused)} tensors of {printable(where)};"
        f" {len(about['unused'])} tensors of the source are left out, about.json says why",
        flush=True,
    )
    return about


def why_not(part: str, source: Source) -> str:
    """The reason why a part is not in the folder of another."""
    if part == _TRAINED and _AVERAGE in source.parts:
        return f"the copy in training, of which {_AVERAGE} is the moving average"
    return f"another network; --config.part={part} converts it" if part else "of no part of the source"


def convert_flame(config: ConvertSettings, source: SourceFile, workdir: Path) -> dict:
    """A FLAME pickle and what belongs to it to a head asset. Returns its about.json."""
    path, model = source.path, source.value
    names = ("masks", "landmarks", "mediapipe", "decimation", "neighbours")
    missing = [name for name in names[:2] if not getattr(config, name)]
    if missing:
        raise UserError(f"{path}: FLAME's model alone is no head; give --config.{missing[0]}, too")
    given = {name: getattr(config, name) for name in names}
    companions = {name: Path(path).expanduser() for name, path in given.items() if path}
    head = load_flame(path, **companions)
    found = {name: released.fingerprint(file) for name, file in companions.items()}
    about = {
        "network": FLAME,
        "config": {"vertices": len(head.template), "triangles": len(head.faces)},
        "sources": [
            dataclasses.asdict(source.found) | {"as": "model"},
            *(dataclasses.asdict(file) | {"as": name} for name, file in found.items()),
        ],
        "unused": {
            f"model.{key}": "not needed: the same for every FLAME model, or for fitting only"
            for key in model.names
            if key not in MODEL_KEYS
        },
    }
    with new_folder(workdir / FLAME, about) as folder:
        save_head_model(folder / "head.npz", head)
    print(f"{workdir / FLAME / 'head.npz'}: {len(head.template)} vertices", flush=True)
    return about
