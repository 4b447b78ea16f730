"""The entry: runs the job that a config names.

    python -m p4d_jax.main --config=configs/quickstart.py [--workdir=DIR] [--config.field=value ...]

A config is a Python file whose `get_config()` returns an `ml_collections.ConfigDict` with a field `job`: the
name of a module in `p4d_jax/jobs`, whose `run(config, workdir)` does the work. Whatever the user can put
right (an unknown field, job or file) is one line on stderr and exit code 2.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from p4d_jax.errors import UserError, nearest

USAGE = "usage: python -m p4d_jax.main --config=configs/X.py [--workdir=DIR] [--config.field=value ...]"
PROCESSES = "one of many processes: [--coordinator=HOST:PORT --processes=N --process=K] (docs/launch.md)"


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """What the user asked for; the last three are None unless they were given."""

    config: ConfigDict
    workdir: Path
    coordinator: str | None
    processes: int | None
    process: int | None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code."""
    argv = list(sys.argv if argv is None else argv)
    if {"--help", "-h"} & set(argv[1:]):
        print(f"{USAGE}\n{PROCESSES}\njobs: {', '.join(job_names())}")
        return 0
    try:
        command = parse_command_line(argv)
        enable_compilation_cache()
        use_exact_float32()
        join_processes(command)
        job = load_job(command.config)
        job.run(command.config, command.workdir)
    except UserError as error:
        print(f"p4d_jax: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def parse_command_line(argv: Sequence[str]) -> CommandLine:
    """The config with its overrides, the workdir (default: runs/<name of the config file>), the processes."""
    path, rest = take_config_flag(argv)
    config = load_config(path)
    fields = field_names(config)
    check_overrides(rest, fields)
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder for all that the job writes", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT where process 0 listens", flag_values=values)
    flags.DEFINE_integer("processes", None, "how many processes the run has", flag_values=values)
    flags.DEFINE_integer("process", None, "which of them this one is, from 0", flag_values=values)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=rest)
        unused = values(rest)[1:]
    except flags.UnrecognizedFlagError as error:
        own = ["config", "workdir", "coordinator", "processes", "process"]
        known = own + [f"config.{field}" for field in fields]
        raise UserError(f"unknown flag --{error.flagname}{nearest(error.flagname, known)}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    if unused:
        raise UserError(f"unexpected argument {unused[0]!r}; {USAGE}")
    workdir = Path(values.workdir or Path("runs") / path.stem)
    return CommandLine(values.config, workdir, values.coordinator, values.processes, values.process)


def join_processes(command: CommandLine) -> None:
    """Connects this process with the others of its run, if it has others."""
    from p4d_jax.train.processes import connect_processes

    connect_processes(command.coordinator, command.processes, command.process, os.environ)


def take_config_flag(argv: Sequence[str]) -> tuple[Path, list[str]]:
    """The file that --config names, and the command line without that flag."""
    rest, name = list(argv), None
    for i, argument in enumerate(argv):
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument):
            width = 1 if match[1] is not None else 2
            name = match[1] or "".join(argv[i + 1 : i + width])
            del rest[i : i + width]
            break
    if not name:
        raise UserError(f"--config is missing; {USAGE}")
    path = Path(name)
    if not path.is_file():
        there = [str(p) for p in path.parent.glob("*.py")]
        raise UserError(f"--config={name}: no such file{nearest(name, there)}")
    return path, rest


def load_config(path: Path) -> ConfigDict:
    """What the `get_config()` of a config file returns.

    The folder above `configs/` becomes importable, so that a config can import its neighbours as
    `configs.…` wherever the command is run.
    """
    for folder in path.resolve().parents:
        if folder.name == "configs" and str(folder.parent) not in sys.path:
            sys.path.insert(0, str(folder.parent))
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:
        raise UserError(f"--config={path} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={path}: get_config() must return a ConfigDict, not {type(config).__name__}"
        )
    return config


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Every field of a config, nested ones with dots."""
    names = []
    for key, value in config.items():
        names.append(prefix + key)
        if isinstance(value, ConfigDict):
            names += field_names(value, f"{prefix}{key}.")
    return names


def check_overrides(argv: Sequence[str], fields: Sequence[str]) -> None:
    """Every --config.field on the command line must be a field of the config."""
    for argument in argv[1:]:
        if not (match := re.match(r"--?config\.([^=]+)", argument)):
            continue
        name = match[1]
        if name not in fields:
            raise UserError(
                f"--config.{name}: the config has no field {name!r}"
                f"{nearest(name, fields) or '; it has ' + ', '.join(fields)}"
            )


def job_names() -> list[str]:
    """The modules of p4d_jax/jobs that can be run."""
    package = importlib.import_module("p4d_jax.jobs")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load_job(config: ConfigDict):
    """The module of the job that the config names."""
    name, names = config.get("job", ""), job_names()
    if name not in names:
        raise UserError(f"config.job={name!r} is not one of {', '.join(names)}{nearest(str(name), names)}")
    return importlib.import_module(f"p4d_jax.jobs.{name}")


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second run need not compile.

    JAX_COMPILATION_CACHE_DIR, when set, names another folder.
    """
    # A compiled program that was made on this very machine loads with a wall of feature notes otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "p4d_jax" / "compiled"
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def use_exact_float32() -> None:
    """Matrix products of float32 numbers are float32 products, also on GPUs and TPUs.

    JAX_DEFAULT_MATMUL_PRECISION, when set, is for the networks: `tensorfloat32` is faster on a GPU.
    """
    import jax

    if jax.config.jax_default_matmul_precision is None:
        jax.config.update("jax_default_matmul_precision", "float32")


def one_line(error: Exception) -> str:
    """The message of an error with its line breaks folded."""
    return re.sub(r"\s*\n\s*", " ", str(error)).strip()


if __name__ == "__main__":
    sys.exit(main())
