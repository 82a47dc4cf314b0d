"""Has pictures made and stores them, as JPEG files, under the hash of their request."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vledit.data.build.chat import Cost, NoReply
from vledit.data.build.picture_models import Made, PictureModel, Wanted
from vledit.data.build.prompts import Prompt
from vledit.data.build.records import MadePicture, Rejection
from vledit.data.build.store import Store
from vledit.data.cache import sha256_bytes

QUALITY = 95
"""Of the JPEG files: what is verified is what is published, byte for byte."""


@dataclass(frozen=True)
class Order:
    """A picture that a record needs.  `number` counts the pictures of a role, and is the seed's last part."""

    record: str
    role: str
    number: int
    object: str


class Studio:
    """Makes the pictures of a build."""

    def __init__(
        self,
        model: PictureModel,
        prompt: Prompt,
        store: Store,
        seed: int = 0,
        price: float = 0.0,
        cost: Cost | None = None,
    ):
        self.model, self.prompt, self.store, self.seed, self.price = model, prompt, store, seed, price
        self.cost = cost or Cost()

    def wanted(self, order: Order) -> Wanted:
        """What the picture model is asked for."""
        return Wanted(self.prompt.fill(object=order.object), order.object, 1000 * self.seed + order.number)

    def known(self, order: Order) -> bool:
        """Whether the picture, or the reason why there is none, is there already."""
        return self._kept(self.wanted(order)) is not None

    def make(
        self, orders: Sequence[Order], progress: Callable[[str, int, int], None] = lambda *_: None
    ) -> tuple[list[MadePicture], list[Rejection], dict[str, str]]:
        """The pictures in order; those that there are none of; and, by record, why some could not be had now."""
        missing = list(dict.fromkeys(w for order in orders if self._kept(w := self.wanted(order)) is None))
        some = self.model.together
        batches = [missing[start : start + some] for start in range(0, len(missing), some)]
        failed: dict[Wanted, str] = {}
        done = len(orders) - len(missing)

        def one(batch: list[Wanted]) -> None:
            nonlocal done
            try:
                for wanted, made in zip(batch, self.model.make(batch), strict=True):
                    self._keep(wanted, made)
            except NoReply as error:
                failed.update(dict.fromkeys(batch, str(error)))
            done += len(batch)
            progress("pictures", done, len(orders))

        progress("pictures", done, len(orders))
        with ThreadPoolExecutor(self.model.threads, "vledit-pictures") as pool:
            try:
                list(pool.map(one, batches))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return self._collected(orders, failed)

    def _collected(
        self, orders: Sequence[Order], failed: dict[Wanted, str]
    ) -> tuple[list[MadePicture], list[Rejection], dict[str, str]]:
        made, rejections, unfinished = [], [], {}
        for order in orders:
            wanted = self.wanted(order)
            found = self._kept(wanted)
            if found is None:
                unfinished[order.record] = failed.get(wanted, "the picture was not made")
            elif found["refused"]:
                item = f"{order.role}/{order.number}"
                rejections.append(Rejection(order.record, order.role, item, found["refused"]))
            else:
                path = self.store.path("pictures", self._asked(wanted), ".jpg")
                made.append(
                    MadePicture(
                        order.record, order.role, order.number, wanted.prompt, path, found["sha256"], found["right"]
                    )
                )
        return made, rejections, unfinished

    def _asked(self, wanted: Wanted) -> dict[str, Any]:
        return {"model": self.model.about, "prompt": wanted.prompt, "object": wanted.object, "seed": wanted.seed}

    def _kept(self, wanted: Wanted) -> Any:
        asked = self._asked(wanted)
        found = self.store.get("pictures", asked)
        if found and found["sha256"] and not self.store.path("pictures", asked, ".jpg").is_file():
            return None
        return found

    def _keep(self, wanted: Wanted, made: Made) -> None:
        """Writes the picture first, then the record that says it is there."""
        digest = ""
        if made.image is not None:
            stream = io.BytesIO()
            made.image.convert("RGB").save(stream, "JPEG", quality=QUALITY, subsampling=0)
            digest = sha256_bytes(stream.getvalue())
            self.store.put_bytes("pictures", self._asked(wanted), stream.getvalue(), ".jpg")
            self.cost.add((0, 0), self.price, True)
        value = {"sha256": digest, "refused": made.refused, "right": made.right}
        self.store.put("pictures", self._asked(wanted), value)
