"""Who a person is to look at: skin and face, hair, clothes and shoes, drawn from a random generator.

Garments are cut in rest coordinates of the average shape, so that hems, sleeves and necklines sit alike on
every shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hmrbench.records import Array
from hmrbench_synth import anatomy as an
from hmrbench_synth import materials as mt
from hmrbench_synth import raster
from hmrbench_synth.accessories import shoes, skirt, worn_things
from hmrbench_synth.anatomy import Body
from hmrbench_synth.hair import hair_and_hat
from hmrbench_synth.meshes import Part, shell

Rng = np.random.Generator
SKINS = np.array(
    [[0.9, 0.77, 0.68], [0.89, 0.72, 0.6], [0.86, 0.67, 0.51], [0.8, 0.58, 0.42], [0.66, 0.45, 0.31],
     [0.5, 0.33, 0.22], [0.38, 0.25, 0.17], [0.28, 0.18, 0.13], [0.91, 0.74, 0.65]]
)  # fmt: skip
EYES = np.array([[0.16, 0.09, 0.05], [0.08, 0.05, 0.04], [0.25, 0.4, 0.6], [0.3, 0.42, 0.28], [0.35, 0.25, 0.15]])
PATTERNS = {
    mt.ACROSS: 0.27, mt.ALONG: 0.1, mt.GINGHAM: 0.1, mt.PLAID: 0.13, mt.CHECKER: 0.05, mt.DOTS: 0.1,
    mt.CAMO: 0.07, mt.FADE: 0.06, mt.BLOCK: 0.07, mt.DIAMONDS: 0.05,
}  # fmt: skip
WAIST_Y, CROTCH_Y, KNEE_Y, ANKLE_Y = 0.09, -0.09, -0.455, -0.908
SHOULDER_X, ELBOW_X, WRIST_X, ARM_Y, ARM_Z = 0.184, 0.465, 0.716, 0.475, 0.012


@dataclass(frozen=True)
class Cloth:
    """One garment: where it is (`cover`, metres from its edge, (V,)), how thick (V,), and its materials."""

    cover: Array
    thickness: Array
    rows: tuple[Array, ...]
    stiff: bool = True


def fabric(rng: Rng, skin: Array, plain: float = 0.5) -> Array:
    """A material row of cloth: colours, pattern, folds."""
    a, b, c = (mt.cloth_colour(rng, skin) for _ in range(3))
    kind, period, duty = mt.PLAIN, 0.1, 0.5
    if rng.random() > plain:
        kind = int(rng.choice(list(PATTERNS), p=list(PATTERNS.values())))
        period, duty = rng.uniform(0.025, 0.11), rng.uniform(0.25, 0.7)
        if kind == mt.FADE:
            period, duty = rng.uniform(0.15, 0.5), rng.uniform(0.15, 0.4)
        if kind == mt.BLOCK:
            duty = rng.uniform(0.2, 0.42)
        if kind == mt.CAMO:
            period, b = (
                rng.uniform(0.03, 0.07),
                np.clip(a * rng.uniform(0.5, 0.75) + rng.normal(0, 0.04, 3), 0.03, 1),
            )
    return mt.material(
        a, b, c, pattern=kind, period=period, duty=duty, phase=rng.uniform(0, 0.1), soft=0.25,
        gloss=rng.choice([0.0, 0.01, 0.03]), sharpness=12, tone=0.1, tone_freq=1.3,
        bump=rng.uniform(0.004, 0.011), bump_freq=rng.uniform(1.3, 2.4), stretch=rng.uniform(0.5, 1.4),
    )  # fmt: skip


def _around_body(row: Array) -> tuple[Array, Array, Array]:
    """The row laid around the trunk, an arm and a leg."""
    return (
        mt.with_columns(row, wrap=mt.AROUND_Y, centre_1=0.03, radius=0.15),
        mt.with_columns(row, wrap=mt.AROUND_X, centre_0=ARM_Y, centre_1=ARM_Z, radius=0.055, logo=mt.NO_LOGO),
        mt.with_columns(row, wrap=mt.AROUND_Y, centre_0=0.15, centre_1=0.0, radius=0.085, logo=mt.NO_LOGO),
    )


def _regions(body: Body) -> Array:
    """0 for the trunk, 1 for arms, 2 for legs, (V,)."""
    p = body.template
    out = np.zeros(len(p), dtype=np.int64)
    out[np.abs(p[:, 0]) > SHOULDER_X + 0.03] = 1
    out[p[:, 1] < CROTCH_Y] = 2
    return out


def _neckline(p: Array, rng: Rng) -> Array:
    """Metres below the neckline, (V,): round, V-shaped, wide or high."""
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    kind = rng.choice(["crew", "v", "scoop", "high"], p=[0.5, 0.17, 0.15, 0.18])
    if kind == "high":
        return 0.615 - 0.45 * (z - 0.01) - y
    if kind == "v":
        return (
            np.where(z > 0.0, 0.565 - 1.1 * z - np.maximum(0, 0.075 - x) * 1.0, 0.575 - 0.2 * z)
            - y
            + 0.5 * np.maximum(0, x - 0.08)
        )
    return (
        (0.555 if kind == "crew" else 0.53)
        - (0.62 if kind == "crew" else 0.95) * z
        - y
        + 0.6 * np.maximum(0, x - 0.075)
    )


def top(body: Body, rng: Rng, skin: Array, tucked: bool) -> Cloth:
    """A shirt, pullover or vest."""
    p = body.template
    x, y = np.abs(p[:, 0]), p[:, 1]
    sleeve = rng.choice(
        [SHOULDER_X - 0.02, SHOULDER_X + 0.16, ELBOW_X + 0.02, WRIST_X - 0.01], p=[0.12, 0.42, 0.08, 0.38]
    )
    hem = WAIST_Y - (0.05 if tucked else rng.uniform(0.03, 0.19))
    cover = np.minimum(y - hem, _neckline(p, rng))
    if sleeve < SHOULDER_X:  # a vest: the armhole slants
        cover = np.minimum(cover, sleeve - x + 0.3 * np.maximum(0, y - 0.45))
    else:
        cover = np.minimum(cover, sleeve - x)
    cover[(body.part == an.HEAD) | (y > 0.64)] = -0.05
    loose = rng.uniform(0.004, 0.02)
    flare = np.clip((0.3 - y) / 0.3, 0, 1) * (0.0 if tucked else rng.uniform(0.004, 0.02))
    sleeve_flare = np.clip((x - 0.2) / 0.5, 0, 1) * rng.uniform(-0.004, 0.016)
    row = fabric(rng, skin)
    if rng.random() < 0.6:
        row = mt.with_columns(row, trim=rng.uniform(0.006, 0.02))
    if row[mt.PATTERN] == mt.PLAIN and rng.random() < 0.5:
        kind = int(
            rng.choice(
                [mt.DISC, mt.RING, mt.BAR, mt.WORDS, mt.NUMBER, mt.BUTTONS],
                p=[0.12, 0.12, 0.14, 0.3, 0.16, 0.16],
            )
        )
        row = mt.with_columns(row, logo=kind, logo_y=rng.uniform(0.26, 0.36), logo_r=rng.uniform(0.04, 0.085))
    return Cloth(cover, loose + flare + sleeve_flare * (y > 0.3), _around_body(row))


def jacket(body: Body, rng: Rng, skin: Array, under: Cloth) -> Cloth:
    """An open or closed jacket over a top."""
    p = body.template
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    hem = WAIST_Y - rng.uniform(0.06, 0.2)
    cover = np.minimum(np.minimum(y - hem, WRIST_X - 0.005 - x), 0.6 - 0.7 * z - y)
    row = fabric(rng, skin, plain=0.75)
    if rng.random() < 0.7:  # open at the front
        gap = rng.uniform(0.02, 0.055) + rng.uniform(0.0, 0.12) * np.maximum(0, y - 0.2)
        cover = np.where(z > 0.0, np.minimum(cover, x - gap), cover)
    else:
        row = mt.with_columns(row, logo=int(rng.choice([mt.ZIP, mt.BUTTONS])))
    cover[(body.part == an.HEAD) | (y > 0.64)] = -0.05
    row = mt.with_columns(row, trim=float(rng.choice([0.0, 0.01, 0.016])), bump=row[mt.BUMP] * 1.2)
    return Cloth(cover, np.maximum(under.thickness, 0.006) + rng.uniform(0.01, 0.02), _around_body(row))


def trousers(body: Body, rng: Rng, skin: Array, tucked: bool, short: bool) -> Cloth:
    """Trousers, shorts or tights."""
    p = body.template
    y = p[:, 1]
    if short:
        cut = rng.choice([KNEE_Y - 0.03, KNEE_Y + 0.08, CROTCH_Y - 0.12])
    else:
        cut = rng.choice([ANKLE_Y + 0.035, ANKLE_Y + 0.09, KNEE_Y - 0.15], p=[0.74, 0.18, 0.08])
    waist = WAIST_Y + rng.uniform(-0.03, 0.03)
    cover = np.minimum(waist - y, y - cut)
    cover[np.abs(p[:, 0]) > 0.4] = -0.05
    down = np.clip((CROTCH_Y - y) / 0.75, 0, 1)
    style = rng.choice(["tight", "straight", "wide", "taper"], p=[0.22, 0.42, 0.14, 0.22])
    base, growth = {
        "tight": (0.004, 0.0),
        "straight": (0.01, 0.018),
        "wide": (0.014, 0.05),
        "taper": (0.018, -0.004),
    }[str(style)]
    row = fabric(rng, skin, plain=0.82)
    if rng.random() < 0.35 and row[mt.PATTERN] == mt.PLAIN:
        colour = mt.hsv(rng.normal(216, 6), rng.uniform(0.35, 0.65), rng.uniform(0.25, 0.6))
        row = mt.material(
            colour, np.clip(colour * 1.5 + 0.1, 0, 1), colour * 0.5, pattern=mt.DENIM, soft=0.2,
            bump=0.008, bump_freq=2.0, stretch=1.2, tone=0.1, tone_freq=1.0,
        )  # fmt: skip
    rows = _around_body(row)
    if tucked and rng.random() < 0.6:  # a belt
        belt = mt.with_columns(rows[0], trim=0.028)
        belt[mt.COLOUR_C : mt.COLOUR_C + 3] = mt.linear(
            np.full(3, 0.08) + rng.uniform(0, 0.2) * np.array([1, 0.6, 0.3])
        )
        rows = (belt, rows[1], rows[2])
    return Cloth(cover, base + growth * down + (0.014 if tucked else 0.0), rows)


def dress(rng: Rng, body: Body, betas: Array, rest: Array, joints: Array, upright: bool) -> list[Part]:
    """Everything a person wears and is, as parts, the skin first; vertices `rest` (V, 3), `joints` (24, 3) of
    the shape.

    Who is not upright wears no long skirt: legs folded tightly would come through it.
    """
    feminine = bool(betas[1] + rng.normal(0, 0.4) > 0)  # the second beta widens chest against shoulders
    normals = raster.vertex_normals(rest, body.faces)
    tone = int(rng.integers(len(SKINS)))
    skin = np.clip(SKINS[tone] * rng.uniform(0.9, 1.04) + rng.normal(0, 0.012, 3), 0.08, 1)
    regions = _regions(body)
    p, y = body.template, body.template[:, 1]
    hair_colour, head_parts = hair_and_hat(rng, body, rest, normals, skin, feminine)

    tucked = rng.random() < 0.3
    garments: list[Cloth] = []
    upper = top(body, rng, skin, tucked)
    parts: list[Part] = []
    hidden = np.full(len(p), 1.0)
    skirted = feminine and rng.random() < 0.34
    short = rng.random() < 0.3
    if skirted:
        gown = rng.random() < 0.5
        row = upper.rows[0] if gown else _around_body(fabric(rng, skin, 0.6))[0]
        hem = float(
            rng.choice(
                [CROTCH_Y - 0.16, KNEE_Y + 0.04, KNEE_Y - 0.2, ANKLE_Y + 0.1],
                p=[0.25, 0.4, 0.2, 0.15] if upright else [0.6, 0.4, 0, 0],
            )
        )
        parts.append(skirt(rng, body, rest, joints, row, hem))
        hidden = np.where((y < WAIST_Y) & (np.abs(p[:, 0]) < 0.4), hem + 0.06 - y, hidden)
        if rng.random() < 0.4:  # tights
            tights = mt.material(mt.cloth_colour(rng, skin), bump=0.0, tone=0.05, tone_freq=1, soft=0.3)
            leg = np.minimum(CROTCH_Y - 0.03 - y, y - (ANKLE_Y - 0.04))
            garments.append(Cloth(leg, np.full(len(p), 0.003), (tights,) * 3, stiff=False))
    else:
        garments.append(trousers(body, rng, skin, tucked, short))
        if not tucked:
            upper = Cloth(
                upper.cover,
                upper.thickness + np.where(y < WAIST_Y + 0.05, garments[-1].thickness + 0.003, 0),
                upper.rows,
            )
    garments.append(upper)
    if rng.random() < 0.22:
        garments.append(jacket(body, rng, skin, upper))
    shoe_parts, socks, bare = shoes(rng, body, rest, joints, skin)
    if socks is not None:
        garments.append(
            Cloth(
                socks,
                np.full(len(p), 0.004),
                (mt.material(rng.choice([0.9, 0.15, 0.5]) * np.ones(3), soft=0.2),) * 3,
                stiff=False,
            )
        )
    hidden = np.minimum(hidden, bare)
    for cloth in garments:
        hidden = np.minimum(hidden, 0.02 - cloth.cover)
        parts.append(shell(body, rest, normals, cloth.cover, cloth.thickness, cloth.rows, regions, cloth.stiff))
    mark = np.where(body.masks["eye"], -1.0, np.where(body.masks["lips"], 1.0, 0.0))
    eye = int(rng.integers(5) if skin.sum() > 1.7 else rng.integers(2))
    beard = 0.0 if feminine else float(rng.choice([0.0, rng.uniform(0.15, 0.4), 0.75], p=[0.5, 0.3, 0.2]))
    face = mt.material(
        skin, hair_colour, EYES[eye], pattern=mt.FACE, gloss=0.035, sharpness=18, tone=0.1, tone_freq=2.0,
        soft=1.0, beard=beard, lips=1.0 if feminine and rng.random() < 0.5 else 0.6, gaze=rng.normal(0, 0.12),
        brow=rng.uniform(0.02, 0.025),
    )  # fmt: skip
    parts.insert(
        0,
        Part(
            rest,
            body.faces,
            body.bones,
            body.weights,
            p,
            hidden,
            mark,
            (face,),
            np.zeros(len(body.faces), dtype=np.int64),
        ),
    )
    return [*parts, *shoe_parts, *head_parts, *worn_things(rng, body, rest, skin)]
