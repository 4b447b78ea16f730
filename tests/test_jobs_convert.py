"""The job convert: a file becomes a network's folder, whole or not at all."""

from __future__ import annotations

import hashlib
import http.server
import json
import pickle
import sys
import threading
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest
import torch
from scipy import sparse
from test_convert_flame import sphere
from torch_samples import Evil, legacy_file, pickled, public_code, zip_file

from p4d_jax import main
from p4d_jax.convert.mapping import NetworkImport, Rule, Unused, below, conv, dense, shapes_of
from p4d_jax.convert.released import RELEASED, SETS
from p4d_jax.errors import UserError
from p4d_jax.head.loading import load_head_model
from p4d_jax.jobs import convert
from p4d_jax.train.network_folder import load_converted, read_about, save_converted

CONFIG = Path(__file__).parents[1] / "configs/convert.py"


KNOWN = convert.known_networks


class Small(nn.Module):
    """The Flax side: a convolution and a linear layer."""

    features: int = 4

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.features, (3, 3), name="conv")(x)
        return nn.Dense(2, name="head")(x.mean((0, 1)))


def torch_side(features: int = 4) -> torch.nn.Module:
    net = torch.nn.Module()
    net.conv = torch.nn.Conv2d(3, features, 3)
    net.head = torch.nn.Linear(features, 2)
    net.register_buffer("steps", torch.tensor(3))
    return net


def small_import(features: int = 4, marks=("conv.weight", "head.weight")) -> NetworkImport:
    return NetworkImport(
        rules=[
            Rule(r"conv\.weight", "params/conv/kernel", conv),
            Rule(r"head\.weight", "params/head/kernel", dense),
            Rule(r"(conv|head)\.bias", r"params/\1/bias"),
            Unused("steps", "counts training steps"),
        ],
        init_shapes=lambda: shapes_of(Small(features).init, jnp.zeros((8, 8, 3))),
        config={"features": features},
        marks=marks,
    )


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    """Stand-ins for the released networks."""
    known = {
        "small": small_import(),
        "motion": small_import(marks=("eye.weight",)),
        "portrait4d": small_import(marks=("plane.weight",)),
        "portrait4d-v2": small_import(marks=("plane.weight",)),
    }
    monkeypatch.setattr(convert, "known_networks", lambda: known)
    return known


@pytest.fixture
def run(tmp_path, capsys):
    """Converts a file of the given bytes; returns the exit code and the lines of stdout and stderr."""

    def run(data: bytes | None, *arguments: str, name: str = "file.pth"):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        flags = [f"--config={CONFIG}", f"--workdir={tmp_path / 'out'}", *arguments]
        if not any(flag.startswith(("--config.source", "--config.download")) for flag in arguments):
            flags.append(f"--config.source={path}")
        code = main.main(["main.py", *flags])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return run


def fails(result, said: str, workdir: Path) -> None:
    """Exit code 2, one line, and nothing written."""
    code, _, errors = result
    assert code == 2 and len(errors) == 1, errors
    assert said in errors[0], errors[0]
    assert not list(workdir.glob("**/about.json")) and not list(workdir.glob(".*"))


@pytest.mark.parametrize("make", [zip_file, legacy_file])
def test_a_state_becomes_a_checkpoint(run, tmp_path, make):
    net = torch_side()
    code, lines, errors = run(make(net.state_dict()))
    assert (code, errors) == (0, [])
    assert any(hashlib.sha256((tmp_path / "file.pth").read_bytes()).hexdigest() in line for line in lines)
    name, config, variables = load_converted(tmp_path / "out" / "small")
    assert (name, config) == ("small", {"features": 4})
    image = np.random.default_rng(0).standard_normal((8, 8, 3)).astype(np.float32)
    ours = Small().apply(variables, image)
    with torch.no_grad():
        padded = torch.nn.functional.pad(torch.tensor(image).permute(2, 0, 1)[None], (1, 1, 1, 1))
        theirs = net.head(net.conv(padded).mean((2, 3)))[0]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    about = read_about(tmp_path / "out")
    assert about["unused"] == {"steps": "counts training steps"} and about["tensors"] == 5
    assert about["sources"][0]["size"] == (tmp_path / "file.pth").stat().st_size


def test_the_moving_average_of_a_stylegan_pickle_is_taken_and_the_rest_is_listed(run, tmp_path):
    average = torch_side()
    with public_code() as (persistent, easy_dict):
        file = {"training_set_kwargs": easy_dict(x=1), "G": persistent(torch_side())}
        file |= {"D": persistent(torch.nn.Linear(2, 2)), "G_ema": persistent(average)}
        data = pickled(file)
    assert run(data)[0] == 0
    _, _, variables = load_converted(tmp_path / "out")
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], average.head.weight.detach().T)
    unused = read_about(tmp_path / "out/small")["unused"]
    keys = {f"G.{key}" for key in average.state_dict()} | {"D.weight", "D.bias", "steps"}
    assert unused.keys() == keys
    assert "moving average" in unused["G.steps"] and "--config.part=D" in unused["D.bias"]
    assert run(data, "--config.part=G")[0] == 0
    assert read_about(tmp_path / "out/small")["part"] == "G"
    assert "'D'" in run(data, "--config.part=B")[2][0]


def test_wrapped_states_and_prefixes_of_parallel_training(run, tmp_path):
    state = {f"module.{key}": value for key, value in torch_side().state_dict().items()}
    assert run(zip_file({"epoch": 3, "state_dict": state, "optimizer": {"lr": torch.ones(1)}}))[0] == 0
    assert read_about(tmp_path / "out")["part"] == "state_dict"


def test_every_table_of_this_installation_is_known():
    known = KNOWN()
    assert all(isinstance(network, NetworkImport) for network in known.values())
    for network in known.values():
        json.dumps(network.config)
        assert network.marks


def test_two_files_make_one_network(run, tmp_path):
    state = torch_side().state_dict()
    halves = [{k: v for k, v in state.items() if k.startswith("conv") == first} for first in (True, False)]
    paths = [tmp_path / f"{k}.pth" for k in range(2)]
    for path, half in zip(paths, halves, strict=True):
        path.write_bytes(zip_file(half))
    assert run(None, f"--config.source={paths[0]},{paths[1]}")[0] == 0
    assert len(read_about(tmp_path / "out")["sources"]) == 2
    twice = run(None, f"--config.source={paths[0]},{paths[0]}")
    assert twice[0] == 2 and "in another source" in twice[2][0]
    pinned = run(None, f"--config.source={paths[0]},{paths[1]}", f"--config.sha256={'0' * 64}")
    assert pinned[0] == 2 and "names several" in pinned[2][0]


def pieces(state: dict) -> list[dict]:
    return [{k: v for k, v in state.items() if k.startswith("conv") == first} for first in (True, False)]


def test_several_files_are_several_networks_or_pieces_of_one(run, tmp_path, networks):
    """As of a release: a network, a second one, and a third in two files, of which one alone is a network."""
    networks["backbone"] = NetworkImport(
        networks["small"].rules,
        lambda: {"params": {"conv": small_import().init_shapes()["params"]["conv"]}},
        {},
        ("conv.weight",),
        {"of": "backbone"},
    )
    networks["motion"] = NetworkImport(
        [*below("eye.", "", networks["small"].rules)], small_import().init_shapes, {}, ("eye.conv.weight",)
    )
    state = torch_side().state_dict()
    eyes = {f"eye.{key}": value for key, value in torch_side().state_dict().items()}
    backbone, head = pieces(state)
    for name, tensors in (("backbone", backbone), ("head", head), ("eyes", eyes)):
        (tmp_path / f"{name}.pth").write_bytes(zip_file(tensors))
    of = lambda *names: "--config.source=" + ",".join(str(tmp_path / f"{name}.pth") for name in names)
    assert run(None, of("eyes", "head", "backbone"))[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["motion", "small"]
    assert [one["name"] for one in read_about(tmp_path / "out/small")["sources"]] == [
        "head.pth",
        "backbone.pth",
    ]
    kernel = load_converted(tmp_path / "out/motion").variables["params"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, eyes["eye.head.weight"].T)
    assert run(None, of("eyes", "backbone"))[0] == 0
    assert read_about(tmp_path / "out/backbone")["of"] == "backbone"
    elsewhere = f"--workdir={tmp_path / 'elsewhere'}"
    for files, said in (
        (("eyes", "head"), "head.pth: no known network alone, nor with another of these"),
        (("eyes", "eyes"), "several of the files are 'motion'"),
    ):
        code, _, errors = run(None, of(*files), elsewhere)
        assert code == 2 and len(errors) == 1 and said in errors[0]
        assert not (tmp_path / "elsewhere").exists()


def test_networks_of_the_same_keys_are_told_apart_by_the_file_name(run, tmp_path, networks):
    for name in ("portrait4d", "portrait4d-v2"):
        networks[name] = small_import()
    networks.pop("small")
    data = zip_file(torch_side().state_dict())
    fails(run(data), "portrait4d and of portrait4d-v2; say which", tmp_path / "out")
    assert run(data, name="portrait4d-v2-vfhq512.pkl")[0] == 0
    assert read_about(tmp_path / "out")["network"] == "portrait4d-v2"
    assert run(data, "--config.network=portrait4d")[0] == 0
    assert read_about(tmp_path / "out/portrait4d")["network"] == "portrait4d"
    with pytest.raises(UserError, match="portrait4d, portrait4d-v2"):
        load_converted(tmp_path / "out")


def test_networks_that_share_their_marks_are_told_apart_by_their_variables(run, tmp_path, networks):
    larger = small_import(5)
    networks["larger"] = NetworkImport(
        [*larger.rules, Rule("more", "params/more")],
        lambda: {"params": {**larger.init_shapes()["params"], "more": jnp.zeros(1)}},
        larger.config,
        larger.marks,
    )
    assert run(zip_file(torch_side().state_dict()))[0] == 0
    assert read_about(tmp_path / "out")["network"] == "small"


def test_what_is_wrong_is_one_line_and_nothing_is_written(run, tmp_path):
    state, out = torch_side().state_dict(), tmp_path / "out"
    fails(run(None), "cannot be read", out)
    fails(run(None, f"--config.source={tmp_path}"), "cannot be read", out)
    fails(run(None, "--config.source="), "either --config.source=FILE or --config.download=NAME", out)
    fails(run(zip_file({"a": torch.ones(1)})), "no known network has its keys ('a', ...)", out)
    fails(run(zip_file({"a": 1})), "no tensors", out)
    fails(run(zip_file(state), "--config.network=smal"), "did you mean 'small'", out)
    fails(run(zip_file(state), "--config.network=motion", "--config.part=x"), "whose parts are: none", out)
    fails(run(zip_file({**state, "extra": torch.ones(1)})), "a key 'extra' that this network does not", out)
    fails(
        run(zip_file({k: v for k, v in state.items() if k != "conv.bias"})), "nothing for 'params/conv", out
    )
    wrong = run(zip_file(torch_side(5).state_dict()))
    fails(wrong, "key 'conv.weight' of shape (5, 3, 3, 3) becomes", out)
    assert "(3, 3, 3, 4)" in wrong[2][0] and "features=4" in wrong[2][0]
    bad = {**state, "conv.bias": torch.tensor([0, float("nan"), 0, 0])}
    huge = {**state, "conv.bias": torch.full((4,), 1e300, dtype=torch.float64)}
    fails(run(zip_file(huge)), "'params/conv/bias' holds values that are not finite", out)
    complex_numbers = {**state, "conv.bias": torch.complex(torch.ones(4), torch.ones(4))}
    fails(run(zip_file(complex_numbers)), "key 'conv.bias' holds complex numbers", out)
    fails(run(zip_file(bad)), "'params/conv/bias' holds values that are not finite", out)
    fails(run(zip_file(Evil(open, "executed", "w"))), "refused", out)
    fails(run(legacy_file(state)[:-1]), "truncated or broken", out)
    fails(run(zip_file(state), f"--config.sha256={'0' * 64}"), "its sha256 is", out)
    fails(run(zip_file(state), "--config.sha256=abc"), "not a sha256", out)
    fails(run(zip_file(state), name="small-01234567.pth"), "its name says 01234567", out)
    flipped = bytearray(zip_file(state))
    flipped[bytes(flipped).find(state["conv.weight"].numpy().tobytes()) + 5] ^= 8
    fails(run(bytes(flipped)), "checksum", out)


def test_a_scan_prints_what_is_asked_for_and_converts_nothing(run, tmp_path):
    data = zip_file({"a": torch.ones(1), "b": Evil(open, "executed\x1b[31m", "w")})
    code, lines, errors = run(data, "--config.scan=True")
    assert (code, errors) == (0, []) and not (tmp_path / "out").exists()
    assert any("calls io.open 1 times: is refused" in line for line in lines)
    assert any("calls torch._utils._rebuild_tensor_v2 1 times: is read as data" in line for line in lines)


def test_names_of_a_file_are_printed_without_what_a_terminal_obeys(run, tmp_path):
    state = {"\x1b[31mred": torch.ones(1)}
    code, _, errors = run(zip_file({"part\x07": state, "other": state}))
    assert code == 2 and errors[0].isprintable() and "[31mred" in errors[0]
    code, lines, _ = run(zip_file({"\x1b[2Jpart": torch_side().state_dict()}))
    assert code == 0 and all(line.isprintable() for line in lines)


def test_right_sha256_and_right_name(run):
    data = zip_file(torch_side().state_dict())
    digest = hashlib.sha256(data).hexdigest()
    assert run(data, f"--config.sha256={digest.upper()}", name=f"small-{digest[:8]}.pth")[0] == 0


def test_a_folder_is_replaced_as_a_whole_or_left_as_it_was(run, tmp_path, monkeypatch):
    first, second = torch_side(), torch_side()
    assert run(zip_file(first.state_dict()))[0] == 0

    def stop(*_):
        raise OSError("no space left")

    save = ocp.save
    monkeypatch.setattr(ocp, "save", stop)
    code, _, errors = run(zip_file(second.state_dict()))
    assert code == 2 and "no space left" in errors[0]
    kernel = load_converted(tmp_path / "out").variables["params"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, first.head.weight.detach().T)
    monkeypatch.setattr(ocp, "save", save)
    assert run(zip_file(second.state_dict()))[0] == 0
    kernel = load_converted(tmp_path / "out").variables["params"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, second.head.weight.detach().T)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["small"]


def test_folders_of_others_are_not_touched(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="no converted network"):
        save_converted(tmp_path / "photos", {"network": "x", "config": {}}, {})
    with pytest.raises(UserError, match="cannot be written"):
        save_converted(tmp_path / "photos/me.jpg/x", {"network": "x", "config": {}}, {})


def test_broken_folders_are_one_line(tmp_path):
    with pytest.raises(UserError, match="there is none"):
        load_converted(tmp_path)
    (tmp_path / "about.json").write_text("[]")
    with pytest.raises(UserError, match="missing or broken"):
        load_converted(tmp_path)
    (tmp_path / "about.json").write_text(json.dumps({"network": "x", "config": {}}))
    with pytest.raises(UserError, match="no network's checkpoint"):
        load_converted(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(UserError, match="broken checkpoint"):
        load_converted(tmp_path)


# FLAME -----------------------------------------------------------------------------------------------------


@pytest.fixture
def flame_files(tmp_path):
    rng = np.random.default_rng(0)
    vertices, faces = sphere()
    count, faces = len(vertices), faces.astype(np.int64)
    regressor, weights = rng.random((5, count)), rng.random((count, 5))
    model = {
        "v_template": vertices, "shapedirs": rng.normal(size=(count, 3, 400)).astype(np.float32),
        "posedirs": rng.normal(size=(count, 3, 36)), "f": faces, "bs_style": "lbs",
        "J_regressor": sparse.csc_matrix(regressor / regressor.sum(1, keepdims=True)),
        "weights": weights / weights.sum(1, keepdims=True),
    }  # fmt: skip
    masks = {name: np.arange(k, k + 5) for k, name in enumerate(("face", "left_eyeball", "right_eyeball"))}
    masks |= {"lips": np.arange(9, 12), "eye_region": np.arange(20, 30), "noinmouth": np.arange(100)}
    landmarks = {
        "full_lmk_faces_idx": rng.integers(0, len(faces), (1, 70)),
        "full_lmk_bary_coords": rng.dirichlet([1, 1, 1], (1, 70)),
        "dynamic_lmk_faces_idx": torch.tensor(rng.integers(0, len(faces), (79, 17))),
        "dynamic_lmk_bary_coords": torch.tensor(rng.dirichlet([1, 1, 1], (79, 17)).astype(np.float32)),
    }
    decimation = {
        "idxs": rng.integers(0, count, (40, 3)), "baris": rng.dirichlet([1, 1, 1], 40),
        "faces": rng.integers(0, 40, (60, 3)), "coarse_face_region_idxs": np.zeros((60, 50), int),
    }  # fmt: skip
    neighbours = {
        "vertices_region_idxs": rng.integers(0, count + 1, (count, 10)),
        "eyelids_idxs": np.arange(20, 25),
    }
    (tmp_path / "generic_model.pkl").write_bytes(pickle.dumps(model, protocol=2))
    (tmp_path / "masks.pkl").write_bytes(pickle.dumps(masks, protocol=2))
    for name, value in (("landmarks", landmarks), ("decimation", decimation), ("neighbours", neighbours)):
        np.save(tmp_path / f"{name}.npy", value, allow_pickle=True)
    return {"masks": masks, "decimation": decimation, "neighbours": neighbours, "landmarks": landmarks}


def companion_flags(folder, names) -> list[str]:
    endings = {"masks": "pkl"}
    return [f"--config.{name}={folder / name}.{endings.get(name, 'npy')}" for name in names]


def test_flame_becomes_a_head_asset(run, tmp_path, flame_files):
    source = f"--config.source={tmp_path / 'generic_model.pkl'}"
    files = [
        f"--config.{name}={tmp_path / name}.{'pkl' if name == 'masks' else 'npy'}" for name in flame_files
    ]
    fails(run(None, source), "give --config.masks, too", tmp_path / "out")
    fails(run(None, source, files[0]), "give --config.landmarks, too", tmp_path / "out")
    code, _, errors = run(None, source, *files)
    assert (code, errors) == (0, [])
    head = load_head_model(tmp_path / "out/flame/head.npz")
    np.testing.assert_array_equal(head.neighbours, flame_files["neighbours"]["vertices_region_idxs"])
    np.testing.assert_array_equal(head.decimated_triangles, flame_files["decimation"]["idxs"])
    np.testing.assert_allclose(head.decimated_barycentric, flame_files["decimation"]["baris"], rtol=1e-6)
    np.testing.assert_array_equal(head.decimated_faces, flame_files["decimation"]["faces"])
    np.testing.assert_array_equal(head.regions["without_inner_mouth"], np.arange(100))
    np.testing.assert_array_equal(head.regions["eyelids"], np.arange(20, 25))
    assert head.landmark_triangles.shape == (68, 3)
    about = read_about(tmp_path / "out")
    kinds = [source["as"] for source in about["sources"]]
    assert kinds == ["model", "masks", "landmarks", "decimation", "neighbours"]
    assert list(about["unused"]) == ["model.bs_style"]
    with pytest.raises(UserError, match="no network's checkpoint"):
        load_converted(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("decimation", "faces", np.full((60, 3), 40), "faces has an index outside 0..39"),
        ("decimation", "baris", np.ones((3, 3)), "have shapes"),
        ("decimation", "idxs", None, "an array of numbers was expected"),
        ("neighbours", "vertices_region_idxs", np.zeros((3, 10), int), "has shape (3, 10)"),
        ("neighbours", "eyelids_idxs", np.array([-1]), "outside"),
        ("landmarks", "full_lmk_faces_idx", np.zeros((1, 60), int), "expected 68 landmarks"),
    ],
)
def test_wrong_companions_of_flame(run, tmp_path, flame_files, name, key, value, said):
    np.save(tmp_path / f"{name}.npy", {**flame_files[name], key: value}, allow_pickle=True)
    source = f"--config.source={tmp_path / 'generic_model.pkl'}"
    files = companion_flags(tmp_path, flame_files)
    fails(run(None, source, *files), said, tmp_path / "out")


# Download --------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine: files by path, with the headers that the real one gives."""
    files: dict[str, bytes] = {}
    headers: dict[str, str] = {}
    asked: list[dict] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(dict(self.headers))
            data = files.get(self.path)
            self.send_response(200 if data is not None else 404)
            if data is not None:
                sent = {
                    "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                    "X-Repo-Commit": "0" * 40,
                    "Content-Length": str(len(data)),
                    **headers,
                }
                for name, value in sent.items():
                    self.send_header(name, value)
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return data

        def do_GET(self):
            if data := self.do_HEAD():
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.files, server.sent_headers, server.asked = files, headers, asked
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_TOKEN", "secret")
    yield server
    server.shutdown()
    server.server_close()


MOTION = f"/{RELEASED['motion_model'].repository}/resolve/main/{RELEASED['motion_model'].path}"


def test_a_named_file_is_fetched_checked_and_converted(run, tmp_path, hub):
    hub.files[MOTION] = zip_file(torch_side().state_dict())
    flags = ("--config.download=motion_model", f"--config.endpoint={hub.url}")
    code, lines, _ = run(None, *flags)
    assert code == 0 and any("does not know this file's sha256" in line for line in lines)
    about = read_about(tmp_path / "out/small")
    assert about["sources"][0]["sha256"] == hashlib.sha256(hub.files[MOTION]).hexdigest()
    assert not any("secret" in str(headers) for headers in hub.asked)
    code, lines, _ = run(None, *flags, f"--config.sha256={about['sources'][0]['sha256']}")
    assert code == 0 and not any("does not know" in line for line in lines)
    assert run(None, *flags, f"--config.sha256={'1' * 64}")[0] == 2


def test_a_named_set_is_fetched_and_converted_whole(run, tmp_path, hub, networks):
    networks["portrait4d-v2"] = small_import(marks=("conv.weight",))
    networks["portrait4d-v2"].about["motion_source"] = "pdfgc"
    networks["motion"] = NetworkImport(
        [*below("eye.", "", small_import().rules)], small_import().init_shapes, {}, ("eye.conv.weight",)
    )
    networks.pop("small"), networks.pop("portrait4d")
    eyes = {f"eye.{key}": value for key, value in torch_side().state_dict().items()}
    for name, state in zip(SETS["portrait4d_v2"], (torch_side().state_dict(), eyes), strict=True):
        file = RELEASED[name]
        hub.files[f"/{file.repository}/resolve/main/{file.path}"] = zip_file(state)
    flags = ("--config.download=portrait4d_v2", f"--config.endpoint={hub.url}")
    code, lines, errors = run(None, *flags)
    assert (code, errors) == (0, []) and any("the sha256 of these files" in line for line in lines)
    networks = {path.parent.name for path in (tmp_path / "out").glob("*/about.json")}
    assert networks == {"portrait4d-v2", "motion"}
    assert read_about(tmp_path / "out/portrait4d-v2")["motion_source"] == "pdfgc"
    pinned = run(None, *flags, f"--config.sha256={'0' * 64}")
    assert pinned[0] == 2 and "--config.download names several" in pinned[2][0]
    assert all(set(files) <= set(RELEASED) for files in SETS.values())


def test_what_the_hub_delivers_is_checked(run, tmp_path, hub, monkeypatch):
    out = tmp_path / "out"
    flags = ("--config.download=motion_model", f"--config.endpoint={hub.url}")
    fails(run(None, *flags), "cannot be fetched", out)
    hub.files[MOTION] = zip_file(torch_side().state_dict())
    hub.sent_headers["ETag"] = f'"{"a" * 64}"'
    fails(run(None, *flags), "but the hub says " + "a" * 64, out)
    hub.sent_headers["ETag"] = '"none"'
    hub.sent_headers["X-Linked-Size"] = "12"
    code, _, errors = run(None, *flags)
    assert code == 2 and len(errors) == 1 and "12" in errors[0]
    fails(run(None, "--config.download=motion"), "did you mean 'motion_model'", out)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    fails(run(None, *flags), "pip install 'p4d_jax[convert]'", out)
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    fails(run(None, flags[0], "--config.endpoint=http://127.0.0.1:9"), "cannot be fetched", out)
