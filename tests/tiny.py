"""Every family at a size that steps in milliseconds; the conformance tests run over this table."""

from zoo import cnn, gan

CONFIGS = {
    "cnn": cnn.Config(image_shape=(8, 8, 1), stem=4, widths=(8, 8)),
    "gan": gan.Config(image_shape=(8, 8, 1), latent_dim=6, channels=8),
}
