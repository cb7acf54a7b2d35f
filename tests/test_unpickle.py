"""Files that are hostile, damaged or something else: one clear error that names the file, in bounded memory."""

from __future__ import annotations

import io
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_bodies import make_parts, smpl_sized
from safetensors.torch import save_file
from torch import nn

import hmrbench.files.pickled_data
import hmrbench.files.unpickle
from hmrbench import checkpoints, files
from hmrbench.body import check_same_body, install_body, read_body
from hmrbench.errors import DataError, WeightsError
from hmrbench.files.pickled_data import read_data
from hmrbench.files.torch_files import load_all, read_torch


@pytest.fixture
def bounded() -> Iterator[None]:
    """Less than 64 MiB and 20 seconds."""
    start = time.monotonic()
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert time.monotonic() - start < 20


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --------------------------------------------------------------------------- pickles


@pytest.mark.parametrize("protocol", range(6))
def test_data_is_what_pickle_reads(protocol: int) -> None:
    shared = [1, -(2**70), 2.5]
    content = {
        "texts": ["", "ä\n'\"\\", "x" * 300, b"\x00\xff" * 200], "numbers": (0, 255, 65536, -1, 1e300, True, None),
        "twice": [shared, shared], 5: {"deep": ((), [()], {})}, "ordered": OrderedDict(b=1, a=[2]),
        "arrays": [
            np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3, dtype="i2")), np.array(4, ">u4"),
            np.zeros((0, 3)),
        ],
        "scalar": np.float32(1.5), "objects": np.array([{"a": 1}, None], object), "text": np.array(["ab", "c"]),
    }  # fmt: skip
    found = read_data(pickle.dumps(content, protocol))
    for name in ("texts", "numbers", "twice", 5, "ordered"):
        assert found[name] == content[name], name
    assert found["twice"][0] is found["twice"][1]
    for a, b in zip(found["arrays"], content["arrays"], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert found["scalar"] == 1.5
    assert found["objects"].tolist() == [{"a": 1}, None]
    assert found["text"].tolist() == ["ab", "c"]


def chain(length: int, pair: bytes) -> bytes:
    """Each link holds the one before it twice."""
    links = b"".join(b"h%c" % i * 2 + pair + b"q%c" % (i + 1) for i in range(length))
    return b"\x80\x02)q\x00" + links + b"."


def selects(length: int) -> bytes:
    """chumpy's selections, each of whose array and indices are the next one."""
    body = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    body += b"(K\x01K\x01\x85cnumpy\ndtype\n"
    body += (
        b"U\x02i8K\x00K\x01\x87Rq\xf0(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + bytes(8)
        + b"tbq\x00"
    )
    for i in range(length):
        body += b"cchumpy.reordering\nSelect\n)\x81}(U\x01ah%cU\x04idxsh%cub" % (i, i) + b"q%c" % (i + 1)
    return body + b"."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02Nr\xff\xff\xff\xff.", None),  # a memo of 4 thousand million places
        (b"\x80\x02Np9999999999999\n.", None),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.", "truncated"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.", "truncated"),
        (b"\x80\x02X" + struct.pack("<I", 1 << 31) + b"x.", "truncated"),
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.", None),
        (chain(60, b"\x86")[:-1] + b"}h\x3cNs.", None),  # hashing it would never end
        (b"\x80\x04\x8f" + b"(" + chain(60, b"\x86")[2:-1] + b"\x90.", None),  # a set with it
        (chain(100, b"\x86"), None),
        (b"\x80\x02" + b"]" * 300 + b"a" * 299 + b".", "deep"),
        (b"\x80\x02]q\x00h\x00a.", "holds itself"),
        (b"\x80\x02}}b.", "state of a dict"),
        (b"\x80\x02K\x01)R.", "calls what is no name"),
        (b"\x80\x07N.", "no pickle"),
        (b"I" + b"9" * 100_000 + b"\n.", "damaged"),
    ],
)
def test_pickles_take_no_more_than_they_hold(data: bytes, message: str | None, bounded: None) -> None:
    if message is None:
        read_data(data)
        return
    with pytest.raises(DataError, match=message):
        read_data(data)


def test_a_chain_of_selections_is_worked_out_once_each(tmp_path: Path, bounded: None) -> None:
    with pytest.raises(DataError, match="no body in SMPL's format"):
        read_body(written(tmp_path / "select.pkl", selects(60)))


def test_a_pickle_has_a_bound_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmrbench.files.unpickle, "MAX_OPCODES", 100)
    with pytest.raises(DataError, match="more than 100 steps"):
        read_data(pickle.dumps(list(range(200)), 2))


def test_arrays_made_of_little_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import scipy.sparse

    monkeypatch.setattr(hmrbench.files.pickled_data, "MAX_BYTES", 1 << 20)
    matrix = scipy.sparse.coo_matrix((np.ones(1), ([0], [0])), shape=(1000, 1000))
    path = written(tmp_path / "b.pkl", pickle.dumps({"J_regressor": matrix}, 2))
    with pytest.raises(DataError, match=r"b\.pkl: refused: .* more than 1 MiB"):
        read_body(path)


# --------------------------------------------------------------------------- bodies


@pytest.mark.parametrize("kind", ["csc", "csr", "coo", "lil"])
@pytest.mark.parametrize("suffix", [".pkl", ".PKL", ".pickle"])
def test_every_sparse_matrix_and_name_of_a_pickle(tmp_path: Path, kind: str, suffix: str) -> None:
    import scipy.sparse

    parts = make_parts()
    sparse = getattr(scipy.sparse, f"{kind}_matrix")(parts["J_regressor"])
    path = written(tmp_path / f"body{suffix}", pickle.dumps({**parts, "J_regressor": sparse}, 2))
    assert read_body(path).sha256 == read_body(parts).sha256


@pytest.mark.parametrize(("joints", "name"), [(55, "SMPL-X"), (52, "SMPL-H")])
def test_another_family_is_called_by_its_name(tmp_path: Path, joints: int, name: str) -> None:
    parts = {**make_parts(), "J_regressor": np.zeros((joints, 80)), "joint2num": np.array({"a": 1}, object)}
    np.savez(tmp_path / "x.npz", **parts)
    with pytest.raises(DataError, match=rf"x\.npz: this is {name}"):
        read_body(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f": np.array([[0, 1, -1]])}, "f points at"),
        ({"f": np.array([0, 1, 2])}, "not triangles"),
        ({"joint_vertices": np.array(3)}, "joint_vertices"),
        ({"joint_vertices": np.full(11, -1)}, "joint_vertices points at"),
        ({"kintree_table": np.zeros((0, 24))}, "no tree"),
        ({"kintree_table": np.full((2, 24), "x")}, "no tree"),
        ({"v_template": np.full((80, 3), 1e300)}, "v_template is not finite"),
        ({"weights": np.ones((80, 24), complex)}, "weights is not finite numbers but complex"),
        ({"joint_map": np.array(1)}, "joint_map"),
    ],
)
def test_parts_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_body({**make_parts(), **change})


@pytest.mark.parametrize(
    ("name", "gender"),
    [
        ("basicmodel_f_lbs_10_207_0_v1.1.0", "female"),
        ("SMPL_MALE", "male"),
        ("basicModel_m_lbs", "male"),
        ("neutral", ""),
    ],
)
def test_only_the_neutral_body_is_installed(tmp_path: Path, name: str, gender: str) -> None:
    np.savez(tmp_path / f"{name}.npz", **smpl_sized())
    if not gender:
        assert install_body(tmp_path / f"{name}.npz", tmp_path / "kept").is_file()
        return
    with pytest.raises(DataError, match=f"this is the {gender} body"):
        install_body(tmp_path / f"{name}.npz", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_the_body_of_a_checkpoint_is_the_installed_one(tmp_path: Path) -> None:
    parts = smpl_sized()
    install_body(parts, tmp_path)
    state = {f"smpl.{k}": torch.tensor(parts[k]).float() for k in ("v_template", "shapedirs", "J_regressor")}
    check_same_body(state, "last.ckpt", tmp_path)
    with pytest.raises(
        DataError, match=r"last\.ckpt: the SMPL body in it is not the one installed .*shapedirs differs"
    ):
        check_same_body({**state, "smpl.shapedirs": state["smpl.shapedirs"] + 0.01}, "last.ckpt", tmp_path)


# --------------------------------------------------------------------------- npz and npy


def npy_header(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(10, 3)", "(-1, 3)", "(99999999999, 0, 9)"])
def test_an_array_that_declares_more_than_it_holds(tmp_path: Path, shape: str, bounded: None) -> None:
    content = npy_header(shape) + bytes(16)
    with zipfile.ZipFile(tmp_path / "n.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    if ", 0," in shape:
        assert files.read_arrays(tmp_path / "n.npz", "file")["a"].size == 0
        return
    with pytest.raises(DataError, match=r"n\.npz: .*"):
        files.read_arrays(tmp_path / "n.npz", "file")
    with pytest.raises(DataError, match=r"n\.npy: .*"):
        files.read_npy(written(tmp_path / "n.npy", content), "file")


@pytest.mark.parametrize(
    "text", ["{'descr': '<f8',\n 'shape': (1,L", "(" * 500, "{}", "1", "\0", "{'descr': [], 'shape': 3}"]
)
def test_a_header_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
    with zipfile.ZipFile(tmp_path / "n.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(DataError, match=r"n\.npz: file is not a readable npz, .*a: its header cannot be read"):
        files.read_arrays(tmp_path / "n.npz", "file")
    with pytest.raises(DataError, match=r"n\.npy: file is not a readable npy, .*its header cannot be read"):
        files.read_npy(written(tmp_path / "n.npy", content), "file")


def test_arrays_of_a_file_have_a_bound(tmp_path: Path, bounded: None) -> None:
    np.savez_compressed(tmp_path / "n.npz", a=np.zeros(1 << 18), b=np.zeros(1 << 18))
    assert len(files.read_arrays(tmp_path / "n.npz", "file", 4 << 20)) == 2
    with pytest.raises(DataError, match=r"n\.npz: b declares .* more than"):
        files.read_arrays(tmp_path / "n.npz", "file", 3 << 20)


def test_arrays_are_numpys(tmp_path: Path) -> None:
    arrays = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "t": np.array(["a", "bc"]),
        "n": np.array(5),
        "e": np.zeros((0, 2)),
    }
    np.savez(tmp_path / "n.npz", **arrays, o=np.array([{}], object))
    found = files.read_arrays(tmp_path / "n.npz", "file")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


# --------------------------------------------------------------------------- checkpoints


class Net(nn.Module):
    """A network of nobody's layout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)


def weights(scale: float = 1.0) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {k: v * scale if v.is_floating_point() else v for k, v in Net().state_dict().items()}


def known(scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Keys of our own layout."""
    return {"encoder.a": torch.full((2,), scale), "head.b": torch.full((3,), scale)}


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{k}": v for k, v in state.items()}


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_torchs(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24.0)
    content = {
        "view": base.reshape(4, 6).T[1:, ::2], "whole": base, "scalar": torch.tensor(3), "empty": torch.zeros(0, 3),
        "half": torch.ones(2, dtype=torch.bfloat16), "bool": torch.tensor([True, False]), "complex": torch.ones(1) * 1j,
        "parameter": nn.Parameter(torch.ones(2)), "expanded": torch.ones(1).expand(3, 4), "list": [torch.ones(1), 5],
    }  # fmt: skip
    torch.save(content, tmp_path / "t.pth", _use_new_zipfile_serialization=zipped)
    found = load_all(tmp_path / "t.pth", read_torch(tmp_path / "t.pth"))
    assert found["list"][1] == 5
    for name in content.keys() - {"list"}:
        assert found[name].dtype == content[name].dtype
        assert torch.equal(found[name], content[name].data), name


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: prefixed("_orig_mod.", s),
        lambda s: {"state_dict": prefixed("model.", s)},
        lambda s: {"state_dict": prefixed("model._orig_mod.module.", s)},
        lambda s: {"model": {"state_dict": prefixed("module._orig_mod.", s)}, "epoch": 3},
        lambda s: prefixed("module.model.", s),
        lambda s: {"network": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(9)}}}},
        lambda s: {"params": s},
        lambda s: {"state_dict_ema": prefixed("module.", s)},
        lambda s: {"anything": {"else": s}, "step": torch.tensor(3)},
        lambda s: {"state_dict": {**prefixed("model.", s), "loss.weight": torch.ones(1)}},
        lambda s: {
            part: {k.partition(".")[2]: v for k, v in s.items() if k.startswith(part)} for part in ("encoder", "head")
        },
    ],
)
def test_wrappers_are_taken_off(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    torch.save(wrap(known()), tmp_path / "w.pth")
    assert checkpoints.read_state(tmp_path / "w.pth").keys() == known().keys()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"state_dict": known(), "state_dict_ema": known(2.0)}, "state_dict_ema"),
        ({"model": known(), "model_ema": prefixed("module.", known(2.0))}, "model_ema"),
        ({"params": known(), "params_ema": known(2.0)}, "params_ema"),
        ({"model": known(), "ema": {"decay": 0.9, "module": known(2.0)}}, "ema"),
        ({"state_dict": {**prefixed("model.", known()), **prefixed("ema_model.module.", known(2.0))}}, "ema_model"),
        ({"state_dict": known(2.0), "model_ema": None}, ""),
    ],
)
def test_averaged_weights_are_taken_and_said(tmp_path: Path, content: Any, part: str) -> None:
    torch.save(content, tmp_path / "e.pth")
    found = checkpoints.read_state(tmp_path / "e.pth")
    assert found.part == part
    assert found["head.b"].tolist() == [2.0] * 3


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": prefixed("module.", s)}, lambda s: {"model": s}]
)
def test_the_networks_own_keys_load_strictly(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    torch.save(wrap(weights(3.0)), tmp_path / "own.pth")
    net = Net()
    report = checkpoints.load_network(net, checkpoints.read_state(tmp_path / "own.pth"), "own.pth")
    assert report.layout == "the network's own"
    assert torch.equal(net.stem.weight, weights(3.0)["stem.weight"])
    less = {k: v for k, v in weights().items() if k != "stem.bias"}
    with pytest.raises(
        WeightsError, match=r"own\.pth: unknown checkpoint layout .*known: hmrbench.* the network itself"
    ):
        checkpoints.load_network(Net(), less, "own.pth")
    torch.save(wrap({**weights(), "stem.bias": torch.ones(5)}), tmp_path / "own.pth")
    with pytest.raises(WeightsError, match=r"stem\.bias is \(5,\), not \(4,\)"):
        checkpoints.load_network(Net(), checkpoints.read_state(tmp_path / "own.pth"), "own.pth")


def test_keys_beside_those_of_a_known_layout_are_the_networks_own(tmp_path: Path) -> None:
    net = nn.ModuleDict(
        {"body": nn.ModuleDict({"encoder": nn.Linear(1, 2), "head": nn.Linear(2, 1)}), "x": nn.Linear(1, 1)}
    )
    torch.save({"state_dict": prefixed("module.", net.state_dict())}, tmp_path / "own.pth")
    report = checkpoints.load_network(net, checkpoints.read_state(tmp_path / "own.pth"), "own.pth")
    assert (report.layout, report.unexpected) == ("the network's own", ())


def test_a_prefix_that_is_the_networks_own_stays(tmp_path: Path) -> None:
    wrapped = nn.Sequential()
    wrapped.add_module("model", Net())
    torch.save(wrapped.state_dict(), tmp_path / "own.pth")
    checkpoints.load_network(wrapped, checkpoints.read_state(tmp_path / "own.pth"), "own.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.to(torch.complex64), "stem.weight is complex"),
        (lambda v: (v * 10).to(torch.int8), "stem.weight is int8, not float32"),
        (lambda v: v * torch.nan, "stem.weight is not finite"),
        (lambda v: v.double() * 1e300, "stem.weight is not finite"),
        (lambda v: v.bool(), "stem.weight is bool"),
    ],
)
def test_weights_that_cannot_be_meant(change: Callable[[torch.Tensor], torch.Tensor], message: str) -> None:
    state = weights()
    with pytest.raises(WeightsError, match=f"x.pth: {message}"):
        checkpoints.load_network(Net(), {**state, "stem.weight": change(state["stem.weight"])}, "x.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.to("meta"), "without values"),
        (lambda v: v.to_sparse(), "sparse"),
        (lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8), "quantised"),
        (lambda v: torch.ones(1).expand(1 << 21), "declares 2097152 numbers"),
    ],
)
def test_odd_tensors_are_named(tmp_path: Path, change: Callable[[torch.Tensor], Any], message: str) -> None:
    torch.save({**known(), "head.b": change(torch.ones(2, 2))}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=rf"odd\.pth: head\.b.*{message}"):
        checkpoints.read_state(tmp_path / "odd.pth")


def tensor_pickle(size: bytes, stride: bytes, count: int, offset: int = 0) -> bytes:
    number = lambda n: b"\x8a\x08" + struct.pack("<q", n)  # noqa: E731
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + number(count) + b"tQ"
    rest = number(offset) + size + stride + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x09\x00\x00\x00encoder.xctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"s."


def torch_zip(path: Path, content: bytes, storage: bytes, how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", content)
        file.writestr("a/data/0", storage, how)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensor_pickle(b"K\x02\x85", b"J\xff\xff\xff\xff\x85", 4), "cannot be"),
        (tensor_pickle(b"J\xff\xff\xff\xff\x85", b"K\x01\x85", 4), "cannot be"),
        (tensor_pickle(b"K\x05\x85", b"K\x01\x85", 4), "declares 5 numbers"),
        (tensor_pickle(b"K\x02\x85", b"K\x01\x85", 4, 3), "declares 2 numbers"),
        (tensor_pickle(b"J\xff\xff\xff\x7f\x85", b"K\x00\x85", 4), "declares 2147483647 numbers"),
        (tensor_pickle(b"K\x04\x85", b"K\x01\x85", 1 << 40), "declares 4398046511104 bytes and 16"),
    ],
)
def test_tensors_that_reach_beyond_their_numbers(tmp_path: Path, content: bytes, message: str, bounded: None) -> None:
    with pytest.raises(WeightsError, match=rf"t\.pth: encoder\.x: .*{message}"):
        checkpoints.read_state(torch_zip(tmp_path / "t.pth", content, bytes(16)))


def test_compressed_storages_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounded: None) -> None:
    content = tensor_pickle(b"J\x00\x00\x10\x00\x85", b"K\x01\x85", 1 << 20)
    path = torch_zip(tmp_path / "t.pth", content, bytes(4 << 20), zipfile.ZIP_DEFLATED)
    assert checkpoints.read_state(path)["encoder.x"].shape == (1 << 20,)
    monkeypatch.setattr("hmrbench.files.torch_files.MAX_INFLATED", 1 << 20)
    with pytest.raises(WeightsError, match="refused: storage 0"):
        checkpoints.read_state(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "web page"),
        (b"\n<html><body>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n", "Git LFS"),
        (b"\x08\x0a\x12\x07pytorch\x1a\x032.9", "ONNX"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"", "empty"),
        (pickle.dumps(print), "refused: the pickle wants to use builtins.print"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "body.pkl"])
def test_what_it_is_instead_is_said(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = written(tmp_path / name, content)
    if name.endswith(".safetensors") and "refused" in message:
        message = "not a readable safetensors"
    with pytest.raises(DataError) as caught:
        read_body(path) if name.endswith("pkl") else checkpoints.read_state(path)
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_safetensors_are_read_whatever_their_name(tmp_path: Path) -> None:
    save_file(known(), tmp_path / "s.pth")
    assert torch.equal(checkpoints.read_state(tmp_path / "s.pth")["head.b"], known()["head.b"])


def test_a_whole_network_and_torchscript_are_called_that(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "whole.pth")
    with pytest.raises(WeightsError, match=r"whole\.pth: holds a whole torch.nn.*save its state_dict"):
        checkpoints.read_state(tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as file:
        file.writestr("a/data.pkl", pickle.dumps({}, 2))
        file.writestr("a/constants.pkl", b"")
    with pytest.raises(WeightsError, match="TorchScript"):
        checkpoints.read_state(tmp_path / "script.pt")


def test_weights_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(DataError, match=r"w\.safetensors: cannot be written \(No space left"):
        checkpoints.save_state(known(), tmp_path / "w.safetensors", {})
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------- any damage at all


def samples() -> dict[str, bytes]:
    """A small valid file of each kind."""
    found = {}
    parts = {k: v for k, v in make_parts(30).items() if k != "posedirs"}
    buffer = io.BytesIO()
    np.savez(buffer, **parts)
    found["n.npz"] = buffer.getvalue()
    found["b.pkl"] = pickle.dumps({**parts, "extra": [np.float64(1), {"a": (1, "x")}]}, 2)
    for name, zipped in (("z.pth", True), ("l.pth", False)):
        buffer = io.BytesIO()
        torch.save({"state_dict": known(), "epoch": 1}, buffer, _use_new_zipfile_serialization=zipped)
        found[name] = buffer.getvalue()
    return found


READERS: dict[str, Callable[[Path], object]] = {"npz": read_body, "pkl": read_body, "pth": checkpoints.read_state}


@pytest.mark.parametrize("name", ["n.npz", "b.pkl", "z.pth", "l.pth"])
def test_any_damage_is_one_error_that_names_the_file(tmp_path: Path, name: str, bounded: None) -> None:
    content, rng = samples()[name], random.Random(name)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged))
            how = rng.randrange(4)
            if how == 0:
                damaged[at] = rng.randrange(256)
            elif how == 1:
                del damaged[at : at + rng.randint(1, 20)]
            elif how == 2:
                damaged[at:at] = damaged[: rng.randint(1, 20)]
            else:
                damaged[at : at + 4] = b"\xff\xff\xff\x7f"
        path = written(tmp_path / name, bytes(damaged))
        try:
            READERS[name.partition(".")[2]](path)
        except DataError as e:
            assert name in str(e)  # noqa: PT017
