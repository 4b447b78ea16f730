"""Rules for networks of losses and evaluation: PD-FGC, ArcFace, LPIPS, VGG-16, AlexNet, FID's Inception-v3.

LPIPS is published as two files: a classifier (torchvision's VGG-16 or AlexNet) and the weights of its
channels. Their keys differ, so that the two states together are one state, which `lpips_vgg` and `lpips_alex`
take; the state of a whole LPIPS module they take as well. `vgg16` and `alexnet` are the classifiers' features
alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import numpy as np

from p4d_jax.convert.mapping import NetworkImport, Rule, Rules, Unused, below, conv, dense, layer, shapes_of
from p4d_jax.networks.arcface import IRESNET_18, IRESNET_50, IResNet
from p4d_jax.networks.inception import InceptionV3
from p4d_jax.networks.lpips import LPIPS, ConvTrunk, alexnet, vgg16
from p4d_jax.networks.motion_encoder import MotionEncoder
from p4d_jax.types import shaped

# Where the convolutions stand in torchvision's `features`, between ReLUs and poolings.
VGG16_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
ALEXNET_CONVS = (0, 3, 6, 8, 10)


def batch_norm(key: str, path: str) -> list[Rule | Unused]:
    """A batch normalisation `key`, a pattern; `path` without its collection."""
    return [
        Rule(key + r"\.weight", f"params/{path}/scale"),
        Rule(key + r"\.bias", f"params/{path}/bias"),
        Rule(key + r"\.running_mean", f"batch_stats/{path}/mean"),
        Rule(key + r"\.running_var", f"batch_stats/{path}/var"),
        Unused(key + r"\.num_batches_tracked", "a counter of training steps"),
    ]


def _pyramid_block(key: str, path: str) -> list[Rule | Unused]:
    return [
        *batch_norm(key + r"\.bn(?P<number>\d)", path + r"/bn\g<number>"),
        *layer(key + r"\.conv(?P<number>\d)", path + r"/conv\g<number>", conv),
        *batch_norm(key + r"\.downsample\.0", path + "/shortcut_bn"),
        *layer(key + r"\.downsample\.2", path + "/shortcut", conv),
    ]


def _hourglass_block(kind: str, ours: str) -> list[Rule | Unused]:
    key = rf"model\.m0\.{kind}_(?P<level>\d)"
    return _pyramid_block(key, rf"trunk/hourglass/{ours}_\g<level>")


def _motion_head(key: str, ours: str) -> list[Rule | Unused]:
    return [
        *layer(rf"to_{key}\.0", f"to_{ours}/dense0", dense),
        *batch_norm(rf"to_{key}\.2", f"to_{ours}/bn"),
        *layer(rf"to_{key}\.3", f"to_{ours}/dense1", dense),
    ]


MOTION: Rules = [
    *layer(r"model\.conv1", "trunk/stem", conv),
    *batch_norm(r"model\.bn1", "trunk/stem_bn"),
    *_pyramid_block(r"model\.conv2", "trunk/block0"),
    *_pyramid_block(r"model\.conv3", "trunk/block1"),
    *_pyramid_block(r"model\.conv4", "trunk/block2"),
    *_hourglass_block("b1", "aside"),
    *_hourglass_block("b2", "down"),
    *_hourglass_block("b2_plus", "bottom"),
    *_hourglass_block("b3", "up"),
    *_pyramid_block(r"model\.top_m_0", "trunk/top"),
    *layer(r"model\.conv_last0", "trunk/mix", conv),
    *batch_norm(r"model\.bn_end0", "trunk/mix_bn"),
    *layer(r"model\.l0", "trunk/landmark_maps", conv),
    *batch_norm(r"model\.bn5", "trunk/landmark_bn"),
    *layer(r"model\.conv6", "trunk/squeeze", conv),
    *layer(r"model\.fc", "trunk/dense", dense),
    *_motion_head("mouth", "mouth"),
    *_motion_head("headpose", "headpose"),
    *_motion_head("eye", "eye"),
    *_motion_head("emo", "emotion"),
    *layer(r"headpose_embed\.1", "to_headpose/embed", dense),
    *layer(r"eye_embed\.1", "to_eye/embed", dense),
    *layer(r"emo_embed\.1", "to_emotion/embed", dense),
    Unused(r"mouth_embed\.1\.(weight|bias)", "the motion vector has the mouth's features before this layer"),
    Unused(r"(?!model\.|to_|mouth_|headpose_|eye_|emo_).*", "outside the motion encoder"),
]

_BLOCK = r"layer(?P<stage>\d)\.(?P<block>\d+)"
_OUR_BLOCK = r"layer\g<stage>_\g<block>"
IRESNET: Rules = [
    *layer("conv1", "conv1", conv),
    *batch_norm("bn1", "bn1"),
    Rule(r"prelu\.weight", "params/prelu/slope"),
    *batch_norm(_BLOCK + r"\.bn(?P<number>\d)", _OUR_BLOCK + r"/bn\g<number>"),
    *layer(_BLOCK + r"\.conv(?P<number>\d)", _OUR_BLOCK + r"/conv\g<number>", conv),
    Rule(_BLOCK + r"\.prelu\.weight", "params/" + _OUR_BLOCK + "/prelu/slope"),
    *layer(_BLOCK + r"\.downsample\.0", _OUR_BLOCK + "/shortcut", conv),
    *batch_norm(_BLOCK + r"\.downsample\.1", _OUR_BLOCK + "/shortcut_bn"),
    *batch_norm("bn2", "bn2"),
    *layer("fc", "dense", dense),
    *batch_norm("features", "embedding_bn"),
]


def channel_vector(value: np.ndarray) -> np.ndarray:
    """LPIPS' 1x1 convolution to one number, (1, C, 1, 1) -> (C,)."""
    return value.reshape(-1)


def _trunk(places: Sequence[int]) -> list[Rule | Unused]:
    """Convolutions of a classifier, as torchvision or as LPIPS' module names them."""
    rules: list[Rule | Unused] = [Unused(r"classifier\..*", "behind the features that are compared")]
    for number, place in enumerate(places):
        rules += layer(rf"(?:features|net\.slice\d)\.{place}", f"conv{number}", conv)
    return rules


def _lpips(places: Sequence[int]) -> list[Rule | Unused]:
    return [
        *below("", "trunk", _trunk(places)),
        Rule(r"lin(?P<stage>\d)\.model\.1\.weight", r"params/lin\g<stage>", channel_vector),
        Unused(r"lins\.\d\.model\.1\.weight", "the weights lin0 to lin4, listed a second time"),
        Unused(r"scaling_layer\.(shift|scale)", "constants of LPIPS 0.1, which the network has"),
    ]


LPIPS_VGG: Rules = _lpips(VGG16_CONVS)
LPIPS_ALEX: Rules = _lpips(ALEXNET_CONVS)

_UNIT = r"(?P<unit>Conv2d_\w+)"
_BRANCH = r"(?P<block>Mixed_\w+)\.(?P<unit>branch\w+)"
INCEPTION: Rules = [
    *layer(_UNIT + r"\.conv", r"\g<unit>/conv", conv),
    *batch_norm(_UNIT + r"\.bn", r"\g<unit>/bn"),
    *layer(_BRANCH + r"\.conv", r"\g<block>/\g<unit>/conv", conv),
    *batch_norm(_BRANCH + r"\.bn", r"\g<block>/\g<unit>/bn"),
    Unused(r"fc\.(weight|bias)", "the classifier behind the features"),
]


def _network(module: nn.Module, image_size: int, rules: Rules, *marks: str) -> NetworkImport:
    """What the import must know of a module that takes images (B, image_size, image_size, 3)."""
    images = shaped(1, image_size, image_size, 3)
    inputs = (images, images) if isinstance(module, LPIPS) else (images,)
    fields = (field.name for field in dataclasses.fields(module))
    sizes = {name: getattr(module, name) for name in fields if name not in ("parent", "name", "dtype")}
    if "stages" in sizes:
        sizes["stages"] = [dataclasses.asdict(stage) for stage in sizes["stages"]]
    return NetworkImport(rules, lambda: shapes_of(module.init, *inputs), sizes, marks)


_LIN = "lin4.model.1.weight"
_VGG, _ALEX = "features.28.weight", "features.3.weight"
NETWORKS: dict[str, NetworkImport] = {
    "motion": _network(MotionEncoder(), 224, MOTION, "model.m0.b2_plus_1.conv1.weight", "to_mouth.0.weight"),
    "arcface50": _network(
        IResNet(IRESNET_50),
        112,
        IRESNET,
        "layer3.13.prelu.weight",
        "layer4.0.prelu.weight",
        "features.weight",
    ),
    "arcface18": _network(IResNet(IRESNET_18), 112, IRESNET, "layer4.0.prelu.weight", "features.weight"),
    "lpips_vgg": _network(LPIPS(vgg16()), 64, LPIPS_VGG, _VGG, _LIN),
    "lpips_alex": _network(LPIPS(alexnet()), 64, LPIPS_ALEX, _ALEX, _LIN),
    "vgg16": _network(ConvTrunk(vgg16()), 64, _trunk(VGG16_CONVS), _VGG),
    "alexnet": _network(ConvTrunk(alexnet()), 64, _trunk(ALEXNET_CONVS), _ALEX),
    "inception_fid": _network(InceptionV3(), 299, INCEPTION, "Mixed_7c.branch_pool.conv.weight", "fc.weight"),
}
