"""Files that are broken, about a dozen of each kind, made on the spot: bytes by name, or what makes one at a path."""

from __future__ import annotations

import copy
import functools
import gzip
import io
import json
import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from made_bodies import smpl_sized
from safetensors.torch import save

Content = bytes | Callable[[Path], None]
Corpus = Mapping[str, Content]

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
PAGE = b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>"


def put(path: Path, content: Content) -> Path:
    """The broken file at a path, in place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    return path


def _hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)


NO_FILES: Corpus = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "nowhere": lambda path: path.symlink_to("nowhere-at-all"),
}
ANY: Corpus = {
    **NO_FILES,
    "empty": b"",
    "page": PAGE,
    "pointer": POINTER,
    "zeros": bytes(4096),
    "noise": random.Random(0).randbytes(3000),
}


def cut(good: bytes) -> Corpus:
    return {"cut": good[: len(good) // 2], "cut at the end": good[:-3], "one byte": good[:1]}


# --------------------------------------------------------------------------- json

JSON: Corpus = {
    **ANY,
    "too long": _hole,
    "open": b"{",
    "deep": b"[" * 100_000,
    "null": b"null",
    "number": b"7",
    "text": b'"people"',
    "list": b"[1, [2]]",
    "object": b'{"a": {}}',
    "not a number": b"NaN",
    "utf-16": json.dumps({"a": 1}).encode("utf-16")[:-1],
    "half a character": b'{"\\ud800": "\\udfff"}',
    "huge number": b"[" + b"9" * 5000 + b"]",
}
_ODD = (None, "x", -1, 1e300, 10**30, True, [], {}, "\ud800", "a\0b", [[[1]]], [{}])


def mutated(good: Any, count: int, seed: int = 0) -> Corpus:
    """JSON with one value of a good one replaced by another's, or left out. Some are still good."""
    rng = random.Random(seed)
    places: list[tuple[Any, ...]] = []

    def walk(value: Any, place: tuple[Any, ...]) -> None:
        if place:
            places.append(place)
        entries = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
        for key, inner in entries:
            walk(inner, (*place, key))

    walk(good, ())
    made = {}
    for place in rng.sample(places, min(count, len(places))):
        new, odd = copy.deepcopy(good), rng.choice(_ODD)
        inner = functools.reduce(lambda value, key: value[key], place[:-1], new)
        if rng.random() < 0.2:
            del inner[place[-1]]
        else:
            inner[place[-1]] = odd
        made[f"{'.'.join(map(str, place))} {odd!r:.20}"] = json.dumps(new).encode()
    return made


# --------------------------------------------------------------------------- arrays


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def declared(header: str, data: bytes = bytes(64)) -> bytes:
    """An npy with a header of one's own."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


NPY: Corpus = {
    **ANY,
    **cut(npy(np.arange(300.0))),
    "json": b"{}",
    "objects": npy(np.array([{}], object)),
    "huge": declared("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,)}"),
    "negative": declared("{'descr': '<f8', 'fortran_order': False, 'shape': (-8,)}"),
    "no width": declared("{'descr': '|V0', 'fortran_order': False, 'shape': (100000000000,)}"),
    "no number": declared("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 10000000000000000000000)}"),
    "no header": declared("{"),
    "deep header": declared("(" * 9000),
    "code": declared("__import__('os').abort()"),
    "long header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"(" * 1000,
    "version": b"\x93NUMPY\x09\x00" + bytes(100),
    "bytes": npy(np.frombuffer(b"abcdef", "S3")),
    "scalar": npy(np.float32(1)),
    "not finite": npy(np.full((19, 6890), np.nan)),
}


def npzs(good: bytes) -> Corpus:
    """Of a good one too: each array in turn of another length, type, or number of dimensions, or not there."""
    with np.load(io.BytesIO(good)) as file:
        arrays = dict(file)
    first = next(iter(arrays))
    bad = {name: declared for name, declared in NPY.items() if isinstance(declared, bytes)}
    members = {f"member {name}": zipped({f"{first}.npy": content}) for name, content in bad.items()}
    changed: dict[str, Content] = {}
    for name, array in arrays.items():
        changed |= {
            f"{name} shorter": npz(**{**arrays, name: array[:-1] if array.ndim else array}),
            f"{name} text": npz(**{**arrays, name: np.full(array.shape, "x")}),
            f"{name} complex": npz(**{**arrays, name: np.zeros(array.shape, complex)}),
            f"{name} flat": npz(**{**arrays, name: array.ravel()[:5]}),
            f"{name} objects": npz(**{**arrays, name: np.full(array.shape, None, object)}),
            f"{name} gone": npz(**{k: v for k, v in arrays.items() if k != name}),
            f"{name} not finite": npz(**{**arrays, name: np.full(array.shape, np.nan)}),
        }
    return {
        **ANY,
        **cut(good),
        **members,
        "no members": zipped({}),
        "other members": zipped({"a.txt": b"a", "b/": b""}),
        "encrypted": _flagged(good),
        "many": zipped({f"{i}.npy": b"" for i in range(3000)}),
        **dict(random.Random(0).sample(sorted(changed.items()), min(14, len(changed)))),
    }


def _flagged(content: bytes) -> bytes:
    """A zip whose members say that they are encrypted."""
    found = bytearray(content)
    for sign, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = 0
        while (place := found.find(sign, place)) >= 0:
            found[place + at] |= 1
            place += 4
    return bytes(found)


# --------------------------------------------------------------------------- weights


def torch_file(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


class _Call:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("made-by-a-pickle",))


def _safetensors(header: Any, data: bytes = bytes(64)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


WEIGHTS: Corpus = {
    **ANY,
    **cut(torch_file({"a": torch.ones(1000)})),
    "safetensors cut": save({"a": torch.ones(1000)})[:-100],
    "old cut": torch_file({"a": torch.ones(1000)}, _use_new_zipfile_serialization=False)[:-100],
    "no tensors": torch_file({"epoch": 3}),
    "list": torch_file([torch.ones(3)]),
    "tensor": torch_file(torch.ones(3)),
    "module": torch_file(torch.nn.Linear(2, 2)),
    "call": pickle.dumps(_Call()),
    "call in a zip": torch_file({"a": _Call()}),
    "bare pickle": pickle.dumps({"a": 1}),
    "numbers": torch_file({"a.weight": 3.0, 5: torch.ones(2)}),
    "strange keys": torch_file({"\ud800": torch.ones(2), "": torch.ones(2)}),
    "complex": torch_file({"a": torch.ones(2, dtype=torch.cfloat)}),
    "sparse": torch_file({"a": torch.eye(3).to_sparse()}),
    "meta": torch_file({"a": torch.ones(3, device="meta")}),
    "onnx": b"\x08\x08\x12\x07pytorch" + bytes(200),
    "npz": npz(a=np.ones(3)),
    "zip": zipped({"a.txt": b""}),
    "zip pickle": zipped({"x/data.pkl": b"\x80\x02]q\x00(h\x00h\x00", "x/byteorder": b"little"}),
    "memo": zipped({"x/data.pkl": b"\x80\x04r\xff\xff\xff\x7f."}),
    "deep pickle": b"\x80\x02" + b"(" * 200_000,
    "big endian": zipped({"x/data.pkl": pickle.dumps({}), "x/byteorder": b"big"}),
    "torchscript": zipped({"x/data.pkl": b"\x80\x02}.", "x/constants.pkl": b"\x80\x02)."}),
    "safetensors header": _safetensors(b"{"),
    "safetensors empty": _safetensors({}),
    "safetensors deep": _safetensors(b"[" * 100_000),
    "safetensors long": struct.pack("<Q", 1 << 40) + b"{}",
    "safetensors type": _safetensors({"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}),
    "safetensors outside": _safetensors({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}),
    "safetensors overflow": _safetensors({"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 8]}}),
}


# --------------------------------------------------------------------------- bodies


def bodies() -> Corpus:
    """Pickles that are no body."""
    good = smpl_sized(f=np.zeros((4, 3), np.int64))
    changed = {}
    for name in good:
        changed[f"{name} gone"] = pickle.dumps({k: v for k, v in good.items() if k != name})
        changed[f"{name} text"] = pickle.dumps({**good, name: "x"})
        changed[f"{name} scalar"] = pickle.dumps({**good, name: np.float64(1)})
    whole = pickle.dumps(good)
    return {
        **ANY,
        **cut(whole),
        **changed,
        "call": pickle.dumps(_Call()),
        "nothing": pickle.dumps(None),
        "list": pickle.dumps([1]),
        "number": pickle.dumps(np.ones((19, 5))),
        "deep": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        "memo": b"\x80\x04r\xff\xff\xff\x7f.",
        "long": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        "text": b"cos\nsystem\n(S'true'\ntR.",
        "huge array": b"\x80\x02cnumpy\nndarray\nq\x00(I1000000000000\ntR.",
    }


# --------------------------------------------------------------------------- yaml

_BOMB = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]",
        *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)),
    ]
)
YAML: Corpus = {
    **ANY,
    **{
        name: text.encode()
        for name, text in {
            "open": "a: [",
            "deep": "a: " + "[" * 50_000,
            "bomb": _BOMB,
            "itself": "a: &a [*a]",
            "list": "- a\n- b",
            "text": "people",
            "call": "a: !!python/object/apply:os.mkdir [made-by-yaml]",
            "tab": "a:\n\t- b",
            "twice": "a: 1\na: 2",
            "number": "7: b",
            "two": "a: 1\n---\nb: 2",
            "unknown": "no-such-key: 1",
            "wrong kind": "models: 5\nfamily: [1]\nruns: {a: b}\noptimizer: 3",
            "nested": "models: {x: {input: [64, 48], task: 3, options: 5}}\noptimizer: {lr: fast}\nsteps: [1]",
            "half": '"\\ud800": 1',
        }.items()
    },
    "latin-1": b"a: \xe4",
    "utf-16": "a: 1".encode("utf-16"),
    "control": b"a: \x00\x07",
}
_CARD = """
family: broken
defaults: {task: hpe, size: t, licence: none, paper_name: B, input: [64, 48]}
models: {broken: {%s}}
"""
CARDS: Corpus = {
    name: (_CARD % fields).encode()
    for name, fields in {
        "no builder": "build: 'no_such_module:build'",
        "no function": "build: 'json:__name__'",
        "raises": "build: 'json:loads'",
        "no network": "build: 'broken_files:no_network'",
        "exits": "build: 'broken_files:leaves'",
        "no encoder": "encoder: swin-q",
        "no such stage": "encoder: swin-t, stages: 9",
        "option": "encoder: swin-t, stages: 2, options: {no_such: 1}",
        "option of a wrong kind": "encoder: swin-t, stages: 2, options: {drop_path: [1]}",
        "huge input": "encoder: vit-s, input: [10000000, 48]",
        "huge image": "encoder: vit-s, options: {image_size: [16000000, 16000000]}",
        "no image": "encoder: vit-s, options: {image_size: 7}",
        "negative image": "encoder: vit-s, options: {image_size: [-16, 16]}",
        "head": "encoder: swin-t, stages: 2, head: {kind: smpl}",
        "module alone": "build: 'json.decoder'",
        "nothing": "",
        "bad path": "build: ':'",
        "encoder of another kind": "encoder: 'json:loads'",
    }.items()
}


def no_network(card: Any) -> str:
    return "a network"


def leaves(card: Any) -> None:
    raise SystemExit(0)


# --------------------------------------------------------------------------- pictures


def encoded(suffix: str, size: tuple[int, int] = (60, 80)) -> bytes:
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    return cv2.imencode(suffix, picture)[1].tobytes()


_SIZES = struct.pack(">II", 100_000, 100_000)
PICTURES: Corpus = {
    **ANY,
    **cut(encoded(".jpg")),
    **{f"png {name}": content for name, content in cut(encoded(".png")).items() if name == "cut"},
    "huge png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + _SIZES + b"\x08\x02\x00\x00\x00" + bytes(4),
    "json": b"{}",
    "text": b"P6 99999 99999 255\n",
    "gif": b"GIF89a\xff\xff\xff\xff\xf7\x00\x00",
    "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 2**31 - 1, 2**31 - 1),
    "tiff": b"II*\x00\x08\x00\x00\x00\xff\xff",
    "no end": encoded(".jpg")[:-2],
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


# --------------------------------------------------------------------------- archives


def tarred(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def archives(name: str) -> Corpus:
    """Archives of which nobody can take a whole member of that name."""
    content = random.Random(1).randbytes(50_000)
    good = zipped({name: content})
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hole = tarfile.TarInfo(name)
    hole.size = 1 << 50
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = tarfile.XHDTYPE, 64 << 20
    return {
        **ANY,
        **cut(good),
        "encrypted": _flagged(good),
        "above": zipped({f"../{name}": content}),
        "other": zipped({"a": b""}),
        "root": tarred({f"/{name}": content}),
        "tar cut": tarred({name: content})[:20_000],
        "gz cut": tarred({name: content}, "w:gz")[:-500],
        "link": link.tobuf() + bytes(1024),
        "hole": hole.tobuf() + bytes(4096),
        "no end": tarred({name: content})[:50_688],
        "long header": gzip.compress(pax.tobuf() + bytes(64 << 20), 1),
        "xz": b"\xfd7zXZ\x00" + bytes(100),
        "bz2": b"BZh9" + bytes(100),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(100),
    }
