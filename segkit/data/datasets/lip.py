"""Look into Person: `TrainVal_images/{split}_images/` and `TrainVal_parsing_annotations/{split}_segmentations/`."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.data.datasets.image_mask import Files
from segkit.data.files.pairing import Pairs, matched


@dataclass(kw_only=True, eq=False, repr=False)
class Lip(Files):
    """Single persons and 19 parts of bodies and clothes (arXiv 1703.05446).

    The two archives may also have been unpacked straight into the root, or into a folder of their own name.
    """

    test_split: str | None = None

    def find(self, split: str) -> Pairs:
        images, masks = "TrainVal_images", "TrainVal_parsing_annotations"
        return matched(
            self.base,
            self.images(*_places(images, f"{split}_images")),
            self.keyed(*_places(masks, f"{split}_segmentations")),
        )


def _places(archive: str, folder: str) -> tuple[str, str, str]:
    return f"{archive}/{folder}", f"{archive}/{archive}/{folder}", folder
