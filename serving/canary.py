"""A share of the requests for a new version, chosen by the client.

    rollout = Split({"stable": 95, "canary": 5})             # labels; Split({3: 95, 4: 5}): versions
    client.predict("gan_fashion", inputs, split=rollout)              # at random
    client.predict("gan_fashion", inputs, split=rollout.by(user))     # the same user, the same version
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

Arm = int | str


class Split:
    """Versions (int) or labels (str) of a model, and the share of each."""

    def __init__(self, shares: Mapping[Arm, float]) -> None:
        """
        Args:
          shares: arm -> its weight, 0 or more; they need not add up to 1 or 100.
        Raises:
          ValueError: no arm, one that is neither int nor str, or a weight that is negative or not finite.
        """
        for arm, share in shares.items():
            if isinstance(arm, bool) or not isinstance(arm, (int, str)):
                raise ValueError(f"expected a version (int) or a label (str), given {arm!r}")
            if not (math.isfinite(share) and share >= 0.0):
                raise ValueError(f"the share of {arm!r} must be 0 or more, given {share!r}")
        self._shares = {arm: float(share) for arm, share in shares.items() if share}
        if not self._shares:
            raise ValueError(f"a split needs an arm with a share above 0, given {dict(shares)!r}")

    def by(self, key: str | bytes | int) -> Split:
        """The one arm that belongs to a key, as a split of its own.

        The same on every machine. When a share grows, keys move to that arm and between no others
        (weighted rendezvous hashing: the arm with the least -log(u) / share, u uniform from key and arm).
        """
        raw = key if isinstance(key, bytes) else str(key).encode()
        chosen = min(self._shares, key=lambda arm: -math.log(_uniform(raw, arm)) / self._shares[arm])
        return Split({chosen: 1.0})

    def choose(self) -> Arm:
        """An arm, at random by the shares."""
        arms = list(self._shares)
        return arms[0] if len(arms) == 1 else random.choices(arms, list(self._shares.values()))[0]

    def __repr__(self) -> str:
        return f"Split({self._shares!r})"


def _uniform(key: bytes, arm: Arm) -> float:
    """A number in (0, 1) that depends on key and arm alone."""
    import hashlib  # half a megabyte

    # repr tells the label "3" from the version 3.
    arm_digest = hashlib.blake2b(repr(arm).encode(), digest_size=16).digest()
    digest = hashlib.blake2b(key, digest_size=8, key=arm_digest).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2.0**64
