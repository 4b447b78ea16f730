"""StyleGAN2's layers, resizing and super-resolution against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from p4d_jax.imaging import resizing
from p4d_jax.nn import stylegan2
from p4d_jax.nn.superresolution import SuperResolution

TAPS = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


def _torch_image(x):
    return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def _jax_image(x):
    return x.permute(0, 2, 3, 1).detach().numpy()


def _torch_filter(x, before, after, gain=1.0):
    padded = torch.nn.functional.pad(x, (before, after, before, after))
    kernel = (TAPS * gain).expand(x.shape[1], 1, 4, 4)
    return torch.nn.functional.conv2d(padded, kernel, groups=x.shape[1])


def _torch_spread(x):
    """Zeros between the pixels: (B, C, H, W) -> (B, C, 2H, 2W)."""
    spread = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    spread[..., ::2, ::2] = x
    return spread


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(12, 20), (5, 6), (16, 7), (11, 13)])
def test_resizing_agrees_with_torch(rng, antialias, size):
    image = rng.standard_normal((2, 11, 13, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        _torch_image(image), size=size, mode="bilinear", align_corners=False, antialias=antialias
    )
    resize = resizing.resize_antialiased if antialias else resizing.resize_bilinear
    np.testing.assert_allclose(resize(jnp.asarray(image), size), _jax_image(expected), atol=1e-5)


def test_resizing_needs_an_image():
    with pytest.raises(ValueError, match="image"):
        resizing.resize_bilinear(jnp.zeros((4, 4)), 2)


def test_upsampling_and_downsampling_agree_with_torch(rng):
    image = rng.standard_normal((2, 6, 8, 3)).astype(np.float32)
    up = _torch_filter(_torch_spread(_torch_image(image)), 2, 1, gain=4.0)
    np.testing.assert_allclose(stylegan2.upsample2d(jnp.asarray(image)), _jax_image(up), atol=1e-5)
    down = _torch_filter(_torch_image(image), 1, 1)[..., ::2, ::2]
    np.testing.assert_allclose(stylegan2.downsample2d(jnp.asarray(image)), _jax_image(down), atol=1e-5)


def test_upsampled_convolution_and_gradients_agree_with_a_transposed_one(rng):
    image = rng.standard_normal((2, 5, 7, 3)).astype(np.float32)
    weight = rng.standard_normal((3, 3, 3, 4)).astype(np.float32)
    x = torch.tensor(image, requires_grad=True)
    w = torch.tensor(weight, requires_grad=True)
    spread = torch.nn.functional.conv_transpose2d(x.permute(0, 3, 1, 2), w.permute(2, 3, 0, 1), stride=2)
    expected = _torch_filter(spread, 1, 1, gain=4.0)
    expected.square().sum().backward()
    assert expected.shape[2:] == (10, 14)

    ours = jax.jit(stylegan2.convolve_upsampled)(image, weight)
    np.testing.assert_allclose(ours, _jax_image(expected), atol=1e-4)
    loss = lambda x, w: jnp.square(stylegan2.convolve_upsampled(x, w)).sum()
    for gradient, theirs in zip(jax.jit(jax.grad(loss, (0, 1)))(image, weight), (x, w), strict=True):
        np.testing.assert_allclose(gradient, theirs.grad, rtol=1e-4, atol=2e-2)


def test_modulation_scales_each_images_own_weight(rng):
    image = rng.standard_normal((2, 6, 6, 4)).astype(np.float32)
    weight = rng.standard_normal((3, 3, 4, 5)).astype(np.float32)
    style = rng.standard_normal((2, 4)).astype(np.float32)
    ours = stylegan2.modulated_convolution(
        jnp.asarray(image), jnp.asarray(weight), jnp.asarray(style), demodulate=True
    )
    for index in range(2):
        scaled = weight * style[index, :, None]
        scaled = scaled / np.sqrt(np.square(scaled).sum((0, 1, 2)) + 1e-8)
        expected = torch.nn.functional.conv2d(
            _torch_image(image[index : index + 1]), torch.tensor(scaled).permute(3, 2, 0, 1), padding=1
        )
        np.testing.assert_allclose(ours[index], _jax_image(expected)[0], atol=1e-4)


def test_equalised_layers_keep_unit_variance(key):
    x = jax.random.normal(key, (512, 256))
    layer = stylegan2.EqualizedDense(300, lr_multiplier=0.01)
    variables = layer.init(key, x)
    assert variables["params"]["weight"].std() == pytest.approx(100, rel=0.05)
    assert layer.apply(variables, x).std() == pytest.approx(1, rel=0.05)
    image = jax.random.normal(key, (2, 16, 16, 32))
    synthesis = stylegan2.SynthesisLayer(48)
    output = jax.jit(synthesis.init_with_output)(key, image, jax.random.normal(key, (2, 64)))[0]
    assert jnp.sqrt(jnp.square(output).mean()) == pytest.approx(1, rel=0.15)


def test_superresolution_takes_its_sizes_and_precision_from_arguments(key):
    features, style = jax.random.normal(key, (2, 16, 16, 8)), jnp.ones((2, 12))
    full = SuperResolution(channels=(6,), input_resolution=24)
    variables = jax.jit(full.init)(key, features, style)
    assert set(variables["params"]) == {"block0"}
    image = jax.jit(full.apply)(variables, features, style)
    assert image.shape == (2, 48, 48, 3)
    half = SuperResolution(channels=(6,), input_resolution=24, dtype=jnp.bfloat16)
    assert all(
        leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(jax.eval_shape(half.init, key, features, style))
    )
    coarse = jax.jit(half.apply)(variables, features, style)
    assert coarse.dtype == jnp.float32
    np.testing.assert_allclose(coarse, image, atol=0.1)
    with pytest.raises(ValueError, match="features"):
        full.apply(variables, features[0], style)
