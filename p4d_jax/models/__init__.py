"""Networks: reconstructor, genhead, discriminator, motion, identity, perceptual."""
