"""Body files: every format gives the same body; hostile, broken and wrong files are refused."""

from __future__ import annotations

import io
import os
import pickle
import sys
import types

import numpy as np
import pytest
import scipy.sparse
import torch
from made_bodies import PARENTS, make_parts

from hmrbench.body import Body, install_body, read_body, read_regressor
from hmrbench.body.arrays import OPENPOSE_ORDER
from hmrbench.errors import DataError


class Ch:
    """Pickles as chumpy's array does."""

    __module__ = "chumpy.ch"

    def __init__(self, x):
        self.__dict__.update(x=x, _dirty_vars=set(), _itr=None, _depends_on_deps={}, _status="new")


class Select(Ch):
    __module__ = "chumpy.reordering"

    def __init__(self, a, idxs, shape):
        super().__init__(None)
        del self.__dict__["x"]
        self.__dict__.update(a=a, idxs=idxs, preferred_shape=shape)


@pytest.fixture
def chumpy(monkeypatch):
    """Modules under chumpy's names, while a file is written."""
    contents = {"chumpy": {}, "chumpy.ch": {"Ch": Ch}, "chumpy.reordering": {"Select": Select}}
    for name, content in contents.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    yield
    monkeypatch.undo()
    assert "chumpy" not in sys.modules


def official_pickle(path, parts, protocol=2):
    """What the official files are: chumpy, sparse matrices, strings, under the module names of their time."""
    shapedirs = parts["shapedirs"]
    content = {
        **parts,
        "v_template": Ch(parts["v_template"]),
        "shapedirs": Select(Ch(np.append(shapedirs, 9.0)), np.arange(shapedirs.size), shapedirs.shape),
        "J_regressor": scipy.sparse.csc_matrix(parts["J_regressor"]),
        "J_regressor_prior": scipy.sparse.csr_matrix(parts["J_regressor"]),
        "posedirs": np.asfortranarray(parts["posedirs"]),
        "weights": parts["weights"].astype(">f8"),
        "bs_style": "lbs",
        "pose_training_info": {"gender": "x", "notes": ["a", np.array(["b"], object)]},
        "scalar": np.float64(3.0),
    }
    data = pickle.dumps(content, protocol)
    if protocol < 4:  # names end in a newline: they may change their length
        for new, old in ((b"scipy.sparse._cs", b"scipy.sparse.cs"), (b"numpy._core", b"numpy.core")):
            data = data.replace(new, old)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_the_same_body_in_every_format(tmp_path, chumpy, protocol):
    parts = make_parts()
    expected = read_body(parts)
    path = official_pickle(tmp_path / "body.pkl", parts, protocol)
    for name in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        del sys.modules[name]
    found = read_body(path)
    assert found.sha256 == expected.sha256
    assert found.source == str(path)
    for name in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights"):
        assert np.array_equal(getattr(found, name), parts[name].astype(np.float32))
    np.savez(tmp_path / "body.npz", **parts)
    assert read_body(tmp_path / "body.npz").sha256 == expected.sha256
    assert Body(found).sha256 == expected.sha256
    changed = {**parts, "joint_regressor_extra": parts["joint_regressor_extra"][::-1]}
    assert read_body(changed).sha256 != expected.sha256


def test_buffers_of_a_checkpoint():
    parts = make_parts()
    picked = torch.tensor(np.append(parts["joint_vertices"], np.arange(10)))
    state = {
        "smpl.v_template": torch.tensor(parts["v_template"]).float(),
        "smpl.shapedirs": torch.tensor(parts["shapedirs"]).float(),
        "smpl.posedirs": torch.tensor(parts["posedirs"].reshape(-1, 207).T.copy()).float(),
        "smpl.J_regressor": torch.tensor(parts["J_regressor"]).float(),
        "smpl.lbs_weights": torch.tensor(parts["weights"]).float(),
        "smpl.faces_tensor": torch.tensor(parts["f"].astype(np.int64)),
        "smpl.parents": torch.tensor(PARENTS),
        "smpl.joint_regressor_extra": torch.tensor(parts["joint_regressor_extra"]).float(),
        "smpl.joint_map": torch.tensor(OPENPOSE_ORDER),
        "smpl.vertex_joint_selector.extra_joints_idxs": picked,
        "backbone.pos_embed": torch.zeros(1, 193, 4),
    }
    expected = read_body(parts).sha256
    assert read_body(state).sha256 == expected
    with pytest.raises(DataError, match="joint_map is not that of 4D-Humans"):
        read_body({**state, "smpl.joint_map": torch.arange(25)})


def python2_array(array):
    """The opcodes with which Python 2 and numpy pickled an array: its bytes are a plain string."""
    shape = b"".join(b"I%d\n" % n for n in array.shape)
    raw = array.astype("<f8").tobytes()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n("
        + shape
        + b"tcnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        + b"T"
        + len(raw).to_bytes(4, "little")
        + raw
        + b"tb"
    )


def test_what_python_2_wrote(tmp_path):
    regressor = make_parts()["joint_regressor_extra"]
    path = tmp_path / "SMPL_to_J19.pkl"
    path.write_bytes(python2_array(regressor) + b".")
    assert np.array_equal(read_regressor(path), regressor.astype(np.float32))
    old_ch = b"ccopy_reg\n_reconstructor\n(cchumpy.ch\nCh\nc__builtin__\nobject\nNtR(dS'x'\n"
    old_ch += python2_array(regressor)
    path.write_bytes(old_ch + b"sb.")
    assert np.array_equal(read_regressor(path), regressor.astype(np.float32))
    np.save(tmp_path / "extra.npy", regressor)
    assert np.array_equal(read_regressor(tmp_path / "extra.npy"), regressor.astype(np.float32))
    body = read_body({k: v for k, v in make_parts().items() if k != "joint_regressor_extra"}, regressor=path)
    assert body.sha256 == read_body(make_parts()).sha256


# --- hostile and broken files


class Runs:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def hostile(tmp_path):
    marker = tmp_path / "it-ran"
    touch = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    evil = {
        "system": Runs(os.system, f"touch {marker}"),
        "exec": Runs(exec, touch),
        "getattr": Runs(getattr, "text", "upper"),
        "open": Runs(open, str(marker), "w"),
        "mkdir": Runs(os.mkdir, str(marker)),
        "subprocess": Runs(__import__("subprocess").check_output, ["touch", str(marker)]),
        "numpy": Runs(np.save, str(marker), 1),
        "nested": {"v_template": [{"a": (Runs(exec, touch),)}]},
    }
    written = {
        # a dotted name reaches attributes of what is allowed
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
        # dill, cloudpickle, torch storages, persistent ids
        "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "i-opcode": b"(S'touch " + str(marker).encode() + b"'\nios\nsystem\n.",
        "extension": b"\x80\x02\x82\x01.",
    }
    return marker, {name: pickle.dumps({"v_template": e}, 2) for name, e in evil.items()} | written


@pytest.mark.parametrize(
    "name",
    [
        "system",
        "exec",
        "getattr",
        "open",
        "mkdir",
        "subprocess",
        "numpy",
        "nested",
        "dotted",
        "persistent",
        "i-opcode",
        "extension",
    ],
)
def test_a_hostile_pickle_runs_nothing(tmp_path, name):
    marker, files = hostile(tmp_path)
    path = tmp_path / "body.pkl"
    path.write_bytes(files[name])
    with pytest.raises(DataError, match=r"body\.pkl: (refused: the pickle (wants|refers)|cannot be read)"):
        read_body(path)
    assert not marker.exists()
    with pytest.raises(DataError):
        install_body(path, tmp_path / "bodies")
    assert not (tmp_path / "bodies").exists()


def test_a_hostile_pickle_changes_nothing_for_the_next_file(tmp_path, chumpy):
    """The classes it names are its own: attributes set on them are gone with it."""
    poison = b"cnumpy\nndarray\n(N(dS'__setstate__'\nNtb."
    (tmp_path / "poison.pkl").write_bytes(poison)
    with pytest.raises(DataError):
        read_body(tmp_path / "poison.pkl")
    read_body(official_pickle(tmp_path / "body.pkl", make_parts()))


def test_impossible_sizes_are_refused(tmp_path):
    huge = scipy.sparse.csc_matrix(np.eye(3))
    huge._shape = (10**9, 10**9)
    outside = scipy.sparse.csc_matrix(np.eye(3))
    outside.indices = np.array([0, 1, 10**6], np.int32)
    for matrix in (huge, outside):
        (tmp_path / "body.pkl").write_bytes(pickle.dumps({"J_regressor": matrix}, 2))
        with pytest.raises(DataError, match="cannot be read"):
            read_body(tmp_path / "body.pkl")


@pytest.mark.parametrize("suffix", [".pkl", ".npz", ".npy"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.4, 0.7, 0.999])
def test_a_truncated_file_is_one_clear_error(tmp_path, suffix, keep):
    parts, buffer = make_parts(), io.BytesIO()
    if suffix == ".npz":
        np.savez(buffer, **parts)
    elif suffix == ".pkl":
        pickle.dump(parts, buffer)
    else:
        np.save(buffer, parts["joint_regressor_extra"])
    path = tmp_path / f"body{suffix}"
    path.write_bytes(buffer.getvalue()[: int(keep * len(buffer.getvalue()))])
    with pytest.raises(DataError, match=r"body\.\w+: .*(cannot be read|not a readable np|, and holds)"):
        read_body(path)


def test_other_files_are_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_body(tmp_path / "absent.pkl")
    (tmp_path / "body.obj").write_text("v 0 0 0")
    with pytest.raises(DataError, match=r"a body is a \.pkl or \.npz file"):
        read_body(tmp_path / "body.obj")
    np.savez(tmp_path / "objects.npz", v_template=np.array([{}], object))
    with pytest.raises(DataError, match="it lacks v_template"):
        read_body(tmp_path / "objects.npz")
    np.save(tmp_path / "seven.npy", np.zeros((7, 80)))
    with pytest.raises(DataError, match="no regressor of 19 joints"):
        read_regressor(tmp_path / "seven.npy")


def without(part):
    return {k: v for k, v in make_parts().items() if k != part}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (without("weights"), "it lacks weights"),
        (without("kintree_table"), "it lacks kintree_table"),
        ({**make_parts(), "J_regressor": np.zeros((52, 80))}, r"SMPL-H \(52 joints\), not SMPL"),
        ({**make_parts(), "weights": np.zeros((81, 24))}, r"weights is \(81, 24\), not \(80.*topologies"),
        ({**make_parts(), "J_regressor": np.zeros((24, 79))}, r"J_regressor is \(24, 79\).*topologies"),
        ({**make_parts(), "posedirs": np.zeros((79, 3, 207))}, r"posedirs is \(79, 3, 207\).*topologies"),
        ({**make_parts(), "joint_regressor_extra": np.zeros((19, 6890))}, "topologies"),
        ({**make_parts(), "shapedirs": np.zeros((80, 3, 9))}, "fewer than 10 betas"),
        ({**make_parts(), "weights": np.full((80, 24), "a")}, "weights is not finite"),
        ({**make_parts(), "J_regressor": np.array(3.0)}, "1 joints, not 24"),
        ({**make_parts(), "f": np.array([[0, 1, 80]])}, "f points at vertices that are not there"),
        ({**make_parts(), "joint_vertices": np.arange(80, 91)}, "joint_vertices points at vertices"),
        ({**make_parts(), "v_template": np.full((80, 3), np.nan)}, "v_template is not finite"),
        ({**make_parts(), "kintree_table": np.zeros((2, 22))}, "no tree of 24 joints"),
        ({**make_parts(), "kintree_table": np.stack([np.arange(24)] * 2)}, "no tree of 24 joints"),
    ],
)
def test_a_body_that_is_not_one_is_refused(parts, message):
    with pytest.raises(DataError, match=message):
        read_body(parts)
