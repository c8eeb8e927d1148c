"""The networks of `train_bench.py` in PyTorch, layer for layer, each with its training step.

Eager, with fused optimizers; bfloat16 is `torch.autocast`. Images are channels_last or contiguous, and
the GAN's discriminator is called twice or once on both halves: the best form counts.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from train_bench import (
    ALPHABET,
    BATCH,
    CHANNELS,
    CLASSES,
    EMA_DECAY,
    EMBEDDING,
    LATENT,
    LAYERS,
    UNITS,
    batch,
)


class Side(NamedTuple):
    """A training step, how many numbers it learns, and the mean losses so far."""

    run_steps: Callable[[int], None]
    parameters: list[nn.Parameter]
    losses: Callable[[], torch.Tensor]


def forms(name: str) -> Iterator[tuple[str, Side]]:
    """Every form that a network may be trained in."""
    for channels_last in (True, False) if name in ("gan", "cnn", "vae") else (False,):
        layout = "channels_last" if channels_last else "contiguous"
        if name == "gan":
            for one_call in (True, False):
                yield f"{layout}, {'one call' if one_call else 'two calls'}", gan(channels_last, one_call)
        elif name == "cnn":
            yield layout, supervised(Cnn(), channels_last)
        elif name == "vae":
            yield layout, vae(channels_last)
        else:
            yield "eager", recurrent(name)


def layout_of(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def pictures(name: str, channels_last: bool) -> tuple[torch.Tensor, torch.Tensor]:
    image, label = batch(name)
    image = torch.from_numpy(image).permute(0, 3, 1, 2).contiguous(memory_format=layout_of(channels_last))
    return image, torch.from_numpy(label).long()


def stepping(
    module: nn.Module, loss_of: Callable[[], torch.Tensor], clip: float = 0.0, ema: float = 0.0
) -> Side:
    """AdamW on `loss_of`, with clipping and an average of the weights where they are asked for."""
    parameters = list(module.parameters())
    averages = [p.detach().clone() for p in parameters] if ema else []
    adam = torch.optim.AdamW(parameters, lr=1e-3, eps=1e-7, fused=True)
    total, done = torch.zeros(1), 0

    def run_steps(count: int) -> None:
        nonlocal done
        for _ in range(count):
            loss = loss_of()
            adam.zero_grad(set_to_none=True)
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(parameters, clip)
            adam.step()
            total.add_(loss.detach().float())
            if averages:
                with torch.no_grad():
                    torch._foreach_lerp_(averages, parameters, 1 - ema)
            done += 1

    return Side(run_steps, parameters, lambda: total / done)


# Classifier -------------------------------------------------------------------------------------


class Block(nn.Module):
    """Pre-activation residual block of stride 2, with an averaging shortcut."""

    def __init__(self, before: int, width: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.BatchNorm2d(w, eps=1e-3, momentum=0.05) for w in (before, width))
        self.conv1 = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(before, width, 1, bias=False)

    def forward(self, x):
        y = functional.relu(self.norm1(x))
        shortcut = self.shortcut(functional.avg_pool2d(y, 2))
        return shortcut + self.conv2(functional.relu(self.norm2(self.conv1(y))))


class Cnn(nn.Module):
    """zoo.cnn with the preset cnn_mnist."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(Block(32, 64), Block(64, 128))
        self.norm = nn.BatchNorm2d(128, eps=1e-3, momentum=0.05)
        self.logits = nn.Linear(128, CLASSES)

    def forward(self, image):
        x = self.blocks(self.stem(image * 2 - 1))
        return self.logits(functional.relu(self.norm(x)).mean(dim=(2, 3)))


def supervised(module: nn.Module, channels_last: bool) -> Side:
    module = module.to(memory_format=layout_of(channels_last))
    image, label = pictures("cnn", channels_last)
    return stepping(
        module, lambda: functional.cross_entropy(module(image).float(), label, label_smoothing=0.05)
    )


# VAE --------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x):
        return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))


class Vae(nn.Module):
    """zoo.vae with the preset vae_mnist: residual blocks at 7x7 alone."""

    def __init__(self):
        super().__init__()
        self.down0, self.down1 = (nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in ((1, 16), (16, 32)))
        self.encoding = nn.Sequential(Residual(32), Residual(32))
        self.hidden, self.project = nn.Linear(7 * 7 * 32, 512), nn.Linear(512, 7 * 7 * 32)
        self.mean, self.log_variance = nn.Linear(512, 32), nn.Linear(512, 32)
        self.z_hidden = nn.Linear(32, 512)
        self.decoding = nn.Sequential(Residual(32), Residual(32))
        self.up1 = nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1)
        self.up0 = nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1)
        nn.init.zeros_(self.log_variance.weight)

    def forward(self, image):
        x = self.encoding(self.down1(functional.relu(self.down0(image * 2 - 1))))
        x = functional.relu(self.hidden(functional.relu(x).flatten(1)))
        mean, log_variance = self.mean(x).float(), self.log_variance(x).float()
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        x = self.project(functional.relu(self.z_hidden(z))).view(-1, 32, 7, 7)
        x = functional.relu(self.up1(functional.relu(self.decoding(x))))
        return self.up0(x).float(), mean, log_variance


def vae(channels_last: bool) -> Side:
    module = Vae().to(memory_format=layout_of(channels_last))
    image, _ = pictures("vae", channels_last)

    def loss() -> torch.Tensor:
        drawn = (torch.rand_like(image) < image).float()
        logits, mean, log_variance = module(drawn)
        kl = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(dim=1)
        error = functional.binary_cross_entropy_with_logits(logits, drawn, reduction="none")
        return (kl + error.sum(dim=(1, 2, 3))).mean()

    return stepping(module, loss)


# Language model ---------------------------------------------------------------------------------


def recurrent(name: str) -> Side:
    kind: Any = {"lstm": nn.LSTM, "gru": nn.GRU}[name]
    module = nn.ModuleDict(
        {
            "embedding": nn.Embedding(len(ALPHABET), EMBEDDING),
            "recurrent": kind(EMBEDDING, UNITS, LAYERS, batch_first=True, dropout=0.2),
            "output": nn.Linear(UNITS, len(ALPHABET)),
        }
    )
    ids, following = (torch.from_numpy(x).long() for x in batch(name))

    def loss() -> torch.Tensor:
        x = functional.dropout(module["recurrent"](module["embedding"](ids))[0], 0.2)
        return functional.cross_entropy(module["output"](x).float().flatten(0, 1), following.flatten())

    return stepping(module, loss, clip=1.0, ema=EMA_DECAY)


# GAN --------------------------------------------------------------------------------------------


class Generator(nn.Module):
    def __init__(self, channels_last: bool):
        super().__init__()
        self.channels_last = channels_last
        self.project = nn.Linear(LATENT + CLASSES, 7 * 7 * 2 * CHANNELS, bias=False)
        self.project_bn = nn.BatchNorm1d(7 * 7 * 2 * CHANNELS, eps=1e-3, momentum=0.1)  # Keras: 1 - .9
        self.up0 = nn.ConvTranspose2d(2 * CHANNELS, CHANNELS, 4, stride=2, padding=1, bias=False)
        self.up0_bn = nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=0.1)
        self.up1 = nn.ConvTranspose2d(CHANNELS, CHANNELS // 2, 4, stride=2, padding=1, bias=False)
        self.up1_bn = nn.BatchNorm2d(CHANNELS // 2, eps=1e-3, momentum=0.1)
        self.image = nn.Conv2d(CHANNELS // 2, 1, 3, padding=1)
        widths = {"up0": CHANNELS, "up1": CHANNELS // 2}
        self.scale = nn.ModuleDict({n: nn.Linear(CLASSES, w, bias=False) for n, w in widths.items()})
        self.shift = nn.ModuleDict({n: nn.Linear(CLASSES, w, bias=False) for n, w in widths.items()})

    def modulated(self, x, condition, name):
        scale = self.scale[name](condition)[:, :, None, None]
        return x + x * scale + self.shift[name](condition)[:, :, None, None]

    def forward(self, z, condition):
        x = functional.relu(self.project_bn(self.project(torch.cat([z, condition], dim=1))))
        # Either view is in its layout already: no copy.
        nhwc, nchw = (-1, 7, 7, 2 * CHANNELS), (-1, 2 * CHANNELS, 7, 7)
        x = x.view(nhwc).permute(0, 3, 1, 2) if self.channels_last else x.view(nchw)
        x = functional.relu(self.modulated(self.up0_bn(self.up0(x)), condition, "up0"))
        x = functional.relu(self.modulated(self.up1_bn(self.up1(x)), condition, "up1"))
        return torch.clip(1.1 * torch.tanh(self.image(x)), -1.0, 1.0)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.label_map = nn.Linear(CLASSES, 28 * 28)
        self.down0 = nn.Conv2d(2, CHANNELS, 4, stride=2, padding=1)
        self.down1 = nn.Conv2d(CHANNELS, 2 * CHANNELS, 4, stride=2, padding=1)
        self.feature = nn.Linear(7 * 7 * 2 * CHANNELS, 64)
        self.logit = nn.Linear(64, 1)
        self.label_embedding = nn.Linear(CLASSES, 64, bias=False)

    def forward(self, image, condition):
        label_map = self.label_map(condition).view(-1, 1, 28, 28)
        x = functional.leaky_relu(self.down0(torch.cat([image, label_map], dim=1)), 0.2)
        x = functional.leaky_relu(self.down1(x), 0.2)
        x = functional.leaky_relu(self.feature(x.flatten(1)), 0.2)
        projection = (self.label_embedding(condition) * x).sum(dim=1)
        return self.logit(x).squeeze(1) + projection


def initialise(module: nn.Module) -> None:
    """Keras' defaults: losses of the two sides can then be compared."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def gan(channels_last: bool, one_call: bool) -> Side:
    """zoo.gan layer for layer: DCGAN with a projection discriminator."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator = Generator(channels_last).apply(initialise).to(memory_format=layout)
    for linear in [*generator.scale.values(), *generator.shift.values()]:
        nn.init.zeros_(linear.weight)
    average = Generator(channels_last).to(memory_format=layout)
    average.load_state_dict(generator.state_dict())
    discriminator = Discriminator().apply(initialise).to(memory_format=layout)
    adam = {"lr": 4e-4, "betas": (0.5, 0.999), "eps": 1e-7, "fused": True}
    generator_adam = torch.optim.Adam(generator.parameters(), **adam)
    discriminator_adam = torch.optim.Adam(discriminator.parameters(), **adam)
    weights, averages = (
        [*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())]
        for net in (generator, average)
    )
    numpy_image, numpy_label = batch("gan")
    image = torch.from_numpy(numpy_image).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    label = torch.from_numpy(numpy_label).long()
    totals = torch.zeros(2)
    done = 0

    def run_steps(count: int) -> None:
        nonlocal done
        for _ in range(count):
            real = image * 2 - 1
            condition = functional.one_hot(label, CLASSES).float()
            fake = generator(torch.randn(BATCH, LATENT), condition)

            discriminator.requires_grad_(True)
            if one_call:
                both = torch.cat([real, fake.detach()])
                logits = discriminator(both, condition.repeat(2, 1))
                real_logit, fake_logit = logits.split(BATCH)
            else:
                real_logit = discriminator(real, condition)
                fake_logit = discriminator(fake.detach(), condition)
            discriminator_loss = (
                functional.softplus(-real_logit).mean() + functional.softplus(fake_logit).mean()
            )
            discriminator_adam.zero_grad(set_to_none=True)
            discriminator_loss.backward()
            discriminator_adam.step()

            discriminator.requires_grad_(False)
            generator_loss = functional.softplus(-discriminator(fake, condition)).mean()
            generator_adam.zero_grad(set_to_none=True)
            generator_loss.backward()
            generator_adam.step()

            totals.add_(torch.stack([generator_loss.detach(), discriminator_loss.detach()]))
            decay = min(EMA_DECAY, (1 + done) / (10 + done))
            with torch.no_grad():
                torch._foreach_lerp_(averages, weights, 1 - decay)
            done += 1

    return Side(run_steps, [*generator.parameters(), *discriminator.parameters()], lambda: totals / done)


def precisions() -> Iterator[tuple[str, Any]]:
    yield "float32", contextlib.nullcontext()
    # Without the cache, which would keep a weight of the first step for all steps within.
    yield "bfloat16", torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


def measured(name: str, speed: Callable[[Callable[[int], None]], float]) -> dict[str, Any]:
    """The speed of each form in each precision, and what shows that it is the same network."""
    torch.set_num_threads(1)
    speeds: dict[str, float] = {}
    count, losses = 0, []
    for precision, context in precisions():
        for form, side in forms(name):
            with context:
                speeds[f"{precision}, {form}"] = speed(side.run_steps)
            count = sum(int(np.prod(tuple(p.shape))) for p in side.parameters)
            losses = side.losses().tolist()
    return {"version": torch.__version__, "parameters": count, "losses": losses, "speed": speeds}
