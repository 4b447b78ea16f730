"""The released reconstructors' keys (Portrait4D, its static model, Portrait4D-v2) into our own.

A table a part, so that a reference case of one part is mapped by the very rules of the whole. The three
released models have one structure and differ in how they were trained.
"""

from __future__ import annotations

from p4d_jax.convert.mapping import (
    NetworkImport,
    Rule,
    Rules,
    Unused,
    below,
    conv,
    dense,
    layer,
    same,
)
from p4d_jax.reconstructor.weights import RELEASED, variable_shapes


def norm(key: str, path: str) -> list[Rule]:
    """A layer norm."""
    return layer(key, path, same, "scale")


def sequence(pattern: str, path: str, indices: tuple[int, ...]) -> list[Rule]:
    """Convolutions that stand at `indices` of a list become `path` with 0, 1, 2, ...; %d is their place."""
    return [
        rule for number, index in enumerate(indices) for rule in layer(pattern % index, f"{path}{number}")
    ]


ENCODER_GLOBAL: Rules = [
    *layer(r"encoder\.conv1", "encoder/conv1"),
    *layer(r"encoder\.layer(\d)\.(\d)\.(conv[12])", r"encoder/layer\1_\2/\3"),
    *layer(r"encoder\.layer(\d)\.(\d)\.downsample\.0", r"encoder/layer\1_\2/downsample"),
    *layer(r"decoder\.0\.convs\.0\.0", "decoder/branch_point"),
    *sequence(r"decoder\.0\.convs\.%d\.0", "decoder/branch_", (1, 2, 3)),
    *layer(r"decoder\.0\.convs\.4\.1", "decoder/branch_mean"),
    *layer(r"decoder\.0\.project\.0", "decoder/project"),
    *layer(r"decoder\.1", "decoder/mix"),
]

ENCODER_DETAIL: Rules = sequence(r"encoder\.%d", "conv", (0, 2, 4, 6, 8))

PATCH_EMBED: Rules = [*layer("proj", "proj"), *norm("norm", "norm")]

ATTENTION: Rules = [
    *layer("(q|kv|proj)", r"\1", dense),
    *layer("sr", "sr"),
    *norm("norm", "norm"),
]

BLOCK: Rules = [
    *norm("(norm[123])", r"\1"),
    *[rule for name in ("attn", "attn1", "attn2") for rule in below(f"{name}.", name, ATTENTION)],
    *layer(r"mlp\.(fc[12])", r"mlp/\1", dense),
    *layer(r"mlp\.dwconv\.dwconv", "mlp/dwconv"),
]


def blocks(key: str, path: str, count: int) -> list[Rule]:
    """A list of transformer blocks."""
    return [rule for index in range(count) for rule in below(f"{key}.{index}.", f"{path}{index}", BLOCK)]


def motion_tokens(suffix: str, scope: str) -> list[Rule]:
    """The two layers that map a motion vector, and the projection to its tokens."""
    return [
        *layer(rf"maps{suffix}\.0", f"{scope}/motion/map0", dense),
        *layer(rf"maps{suffix}\.2", f"{scope}/motion/map1", dense),
        *layer(rf"proj_y{suffix}", f"{scope}/motion/proj", dense),
    ]


ENCODER_CANONICAL: Rules = [
    *motion_tokens("_neutral", "canonicalizer"),
    *below("patch_embed.", "canonicalizer/patch_embed", PATCH_EMBED),
    *blocks("trans_blocks_neutral", "canonicalizer/block", 4),
    *motion_tokens("", "reenactor"),
    *blocks("trans_blocks_motion", "reenactor/block", 4),
    *sequence(r"convs\.%d", "reenactor/conv", (1, 4, 6)),
]

GENERATOR_TRIPLANE: Rules = [
    *sequence(r"convs1\.%d", "before", (0, 2)),
    *below("patch_embed.", "patch_embed", PATCH_EMBED),
    *blocks("trans_blocks", "block", 1),
    *sequence(r"convs2\.%d", "after", (0, 2, 4)),
    *layer("conv_last", "last"),
]

BACKGROUND: Rules = [
    *layer(r"input_conv\.0", "input"),
    *[
        rule
        for index in range(3)
        for rule in (
            *layer(rf"down_conv_{index + 1}\.0", f"down{index}"),
            *layer(rf"down_conv_{index + 1}\.2\.op", f"down{index}_stride"),
        )
    ],
    *layer(r"middle\.0", "middle"),
    *[
        rule
        for index in range(4)
        for rule in (
            *layer(rf"up_conv_{index + 1}\.0", f"up{index}"),
            *layer(rf"up_conv_{index + 1}\.2\.conv", f"up{index}_conv"),
        )
    ],
    *layer("out_conv", "out"),
]

SUPERRESOLUTION: Rules = [
    *layer(r"(block\d)\.(conv[01]|torgb)", r"\1/\2", conv, "weight"),
    *layer(r"(block\d)\.(conv[01]|torgb)\.affine", r"\1/\2/affine", dense, "weight"),
    Unused(r".*resample_filter", "the filter (1, 3, 3, 1) is a constant of the resampling layers"),
    Unused(r".*\.noise_(const|strength)", "super-resolution adds no noise"),
]

DECODER: Rules = [
    *layer(r"net\.0", "hidden_layer", dense, "weight"),
    *layer("out_sigma", "density", dense, "weight"),
    *layer("out_rgb", "features_layer", dense, "weight"),
]

RECONSTRUCTOR: Rules = [
    Rule("w_avg", "buffers/w_avg"),
    *below("encoder_global.", "encoder_global", ENCODER_GLOBAL),
    *below("encoder_detail.", "encoder_detail", ENCODER_DETAIL),
    *below("encoder_canonical.", "", ENCODER_CANONICAL),
    *below("generator_triplane.", "generator_triplane", GENERATOR_TRIPLANE),
    *below("background.", "background", BACKGROUND),
    *below("superresolution.", "superresolution", SUPERRESOLUTION),
    *below("decoder.", "decoder", DECODER),
    Unused(r"deformer\..*", "buffers of the head model: they come from the head asset"),
    Unused(r"renderer\..*", "axes of the planes: constants"),
]

CONFIG = RELEASED
MOTION_SOURCE = "pdfgc"  # whose motion vectors the three were trained with (`avatar.motion_source`)


def network(rules: Rules = RECONSTRUCTOR) -> NetworkImport:
    """What the job `convert` must know; one structure for the three released models."""
    return NetworkImport(
        rules=rules,
        init_shapes=variable_shapes,
        config=CONFIG.to_dict(),
        marks=("w_avg", "encoder_global.encoder.conv1.weight", "generator_triplane.conv_last.weight"),
        about={"motion_source": MOTION_SOURCE},
    )


NETWORKS: dict[str, NetworkImport] = {
    "portrait4d": network(),
    "portrait4d-static": network(),
    "portrait4d-v2": network(),
}
