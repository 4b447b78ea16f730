"""The entry: runs the job that a config names.

    p4d quickstart [--workdir=DIR] [--field=value ...]
    python -m p4d_jax.main --config=configs/quickstart.py [--workdir=DIR] [--config.field=value ...]

Both are the same: a config is given by its file or, of those that ship, by its name; its fields with or
without `config.` before them. A config is a Python file whose `get_config()` returns an
`ml_collections.ConfigDict` with a field `job`: the name of a module in `p4d_jax/jobs`, whose
`run(config, workdir)` does the work. Whatever the user can put right (an unknown field, job or file) is one
line on stderr and exit code 2.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from p4d_jax.errors import Preempted, UserError, nearest, printable
from p4d_jax.jobs._publish import added_to_report, check_workdir
from p4d_jax.jobs.settings import SETTINGS
from p4d_jax.settings import help_text

USAGE = "usage: p4d CONFIG [--workdir=DIR] [--field=value ...]; CONFIG is a name, or --config=FILE"
HELP = """usage: p4d CONFIG [--workdir=DIR] [--field=value ...]
       python -m p4d_jax.main --config=configs/X.py [--workdir=DIR] [--config.field=value ...]
one of many processes: [--coordinator=HOST:PORT --processes=N --process=K] (docs/howto/launch.md)
the fields of a config, with what they mean: p4d CONFIG --help
"""
OWN_FLAGS = ("config", "workdir", "coordinator", "processes", "process")


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """What the user asked for; the last three are None unless they were given."""

    config: ConfigDict
    workdir: Path
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code."""
    argv = list(sys.argv if argv is None else argv)
    asked = [argument for argument in argv if argument not in ("--help", "-h")]
    try:
        if asked != argv:
            print(general_help() if len(asked) == 1 else config_help(asked))
            return 0
        start(parse_command_line(argv))
    except UserError as error:
        print(f"p4d_jax: {one_line(error)}", file=sys.stderr)
        return 2
    except Preempted as error:
        print(f"p4d_jax: {error}; the same command goes on", file=sys.stderr)
        return Preempted.EXIT_CODE
    except KeyboardInterrupt:
        print("\np4d_jax: stopped by Ctrl-C; what was not finished is not written", file=sys.stderr)
        return 130
    return 0


def run(config: str | Path, workdir: str | Path | None = None, **fields) -> Path:
    """Runs the job of a config as the command line does, from Python.

        p4d.run("reenact_demo", "runs/mine", batch=8, **{"loop.minutes": 20.0})

    Args:
      config: The name of a config that ships, or the path of one.
      workdir: The folder for all that the job writes; None is runs/<name of the config>.
      fields: Of the config, in place of what it says; nested ones have dots in their names.

    Returns:
      the workdir.

    Raises:
      UserError: There is no such config or field, or the job cannot use what it was given.
    """
    path = find_config(str(config))
    loaded = load_config(path)
    known = field_names(loaded)
    for name in fields:
        if name not in known:
            raise UserError(f"{name}: the config {path.stem} has no such field{nearest(name, known)}")
    try:
        loaded.update_from_flattened_dict(fields)
    except (TypeError, ValueError) as error:
        raise UserError(one_line(error)) from error
    workdir = home_expanded(workdir or Path("runs") / path.stem)
    start(CommandLine(loaded.lock(), workdir))
    return workdir


def start(command: CommandLine) -> None:
    """Runs the job of a command line in this process, after what belongs before any job."""
    enable_compilation_cache()
    use_exact_float32()
    join_processes(command)
    check_workdir(command.workdir)
    run_job(command)


def parse_command_line(argv: Sequence[str]) -> CommandLine:
    """The config with its overrides, the workdir (default: runs/<name of the config file>), the processes."""
    path, rest = take_config(argv)
    config = load_config(path)
    fields = field_names(config)
    rest = [rest[0], *(with_prefix(argument, fields) for argument in rest[1:])]
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
        known = nearest(error.flagname, [*OWN_FLAGS, *fields])
        raise UserError(f"unknown flag --{error.flagname}{known}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    if unused:
        raise UserError(f"unexpected argument {unused[0]!r}; {USAGE}")
    if "://" in (values.workdir or ""):
        raise UserError(
            f"--workdir={values.workdir}: runs write to folders; mount the bucket and give the folder's path"
        )
    workdir = home_expanded(values.workdir or Path("runs") / path.stem)
    return CommandLine(values.config, workdir, values.coordinator, values.processes, values.process)


# Configs ----------------------------------------------------------------------------------------------------


def take_config(argv: Sequence[str]) -> tuple[Path, list[str]]:
    """The file of the config that comes first or behind --config, and the command line without it."""
    rest, name = list(argv), None
    for i, argument in enumerate(argv):
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument):
            width = 1 if match[1] is not None else 2
            name = match[1] or "".join(argv[i + 1 : i + width])
            del rest[i : i + width]
            break
    if name is None and len(argv) > 1 and not argv[1].startswith("-"):
        name = rest.pop(1)
    if not name:
        raise UserError(f"--config is missing; {USAGE}")
    return find_config(name), rest


def find_config(name: str) -> Path:
    """The file of a config: the name of one that ships, or a path."""
    path, shipped = Path(name), shipped_configs()
    if name in shipped:
        return shipped[name]
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        there = [str(neighbour) for neighbour in path.parent.glob("*.py")]
        raise UserError(f"--config={name}: no such file{nearest(name, [*there, *shipped])}")
    known = nearest(name, shipped) or f"; there are {', '.join(shipped)}"
    raise UserError(f"{name!r} is not a config{known}")


def shipped_configs() -> dict[str, Path]:
    """The configs of this package by name: in it where it is installed, beside it in a source tree."""
    package = Path(__file__).resolve().parent
    folder = next((f for f in (package / "configs", package.parent / "configs") if f.is_dir()), package)
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def load_config(path: Path) -> ConfigDict:
    """What the `get_config()` of a config file returns.

    A file in a package, as those that ship are, can import its neighbours: `from . import reenact`.
    """
    folder, name = path.resolve().parent, path.stem
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    if "." in name and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(name, path)
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


# Fields -----------------------------------------------------------------------------------------------------


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Every field of a config, nested ones with dots."""
    names = []
    for key, value in config.items():
        names.append(prefix + key)
        if isinstance(value, ConfigDict):
            names += field_names(value, f"{prefix}{key}.")
    return names


def with_prefix(argument: str, fields: Sequence[str]) -> str:
    """`--field=value` as `--config.field=value`; every other argument as it is."""
    if match := re.fullmatch(r"--?([\w.]+)(=.*)?", argument, re.DOTALL):
        name, value = match[1], match[2] or ""
        if name in fields:
            return f"--config.{name}{value}"
        if name.startswith("no") and name[2:] in fields:
            return f"--noconfig.{name[2:]}{value}"
    return argument


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


# Help -------------------------------------------------------------------------------------------------------


def general_help() -> str:
    """Usage, the configs that ship, each with the first line of its docstring, and the jobs."""
    shipped = shipped_configs()
    width = max(map(len, shipped), default=0)
    about = {name: ast.get_docstring(ast.parse(path.read_text())) or "" for name, path in shipped.items()}
    lines = [f"  {name:{width}}  {text.partition(chr(10))[0]}" for name, text in about.items()]
    return "\n".join([HELP, "configs:", *lines, "", f"jobs: {', '.join(SETTINGS)}"])


def config_help(argv: Sequence[str]) -> str:
    """Every field of the config of a command line, with its value and what it means."""
    config = parse_command_line(argv).config
    settings = SETTINGS[job_name(config)]
    title = f"job {config.job}: {settings.__doc__.partition(chr(10))[0]}"
    return f"{USAGE}\n\n{title}\n\n{help_text(settings, config)}"


# Jobs -------------------------------------------------------------------------------------------------------


def join_processes(command: CommandLine) -> None:
    """Connects this process with the others of its run, if it has others."""
    from p4d_jax.train.processes import connect_processes

    connect_processes(command.coordinator, command.processes, command.process, os.environ)


def job_name(config: ConfigDict) -> str:
    """The job that a config names, which must be one."""
    name = config.get("job", "")
    if name not in SETTINGS:
        raise UserError(
            f"config.job={name!r} is not one of {', '.join(SETTINGS)}{nearest(str(name), SETTINGS)}"
        )
    return name


def run_job(command: CommandLine) -> None:
    """Runs the job; says what was compiled for it in one line, and in its report.json where it has one."""
    from p4d_jax.train.processes import is_primary
    from p4d_jax.train.programs import count_programs

    with count_programs() as count, added_to_report(command.workdir, lambda: {"programs": count.report()}):
        load_job(command.config).run(command.config, command.workdir)
    if is_primary():
        print(count, flush=True)


def load_job(config: ConfigDict):
    """The module of the job that the config names."""
    return importlib.import_module(f"p4d_jax.jobs.{job_name(config)}")


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, if any, so that a second run need not compile.

    JAX_COMPILATION_CACHE_DIR, when set, names another folder.
    """
    # A compiled program that was made on this very machine loads with a wall of feature notes otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or (folder := cache_folder()) is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder / "p4d_jax" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def cache_folder() -> Path | None:
    """Where the user's caches lie; None of a user who has no home, as in some containers."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"])
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


def home_expanded(path: str | Path) -> Path:
    """A path with ~ as the user's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{str(path)!r}: {error}") from error


def use_exact_float32() -> None:
    """Matrix products of float32 numbers are float32 products, also on GPUs and TPUs.

    JAX_DEFAULT_MATMUL_PRECISION, when set, is for the networks: `tensorfloat32` is faster on a GPU.
    """
    import jax

    if jax.config.jax_default_matmul_precision is None:
        jax.config.update("jax_default_matmul_precision", "float32")


def one_line(error: Exception) -> str:
    """The message of an error with its line breaks folded, and nothing in it that a terminal would obey."""
    return printable(re.sub(r"\s*\n\s*", " ", str(error)).strip())


if __name__ == "__main__":
    sys.exit(main())
