"""The training that `against_lightning.py` compares with, as users of Lightning, smp and torchmetrics write it.

    python lightning_training.py FOLDER --classes 11 --steps 35 --workers 2 [--network segkit] [--channels-last] ...

Prints the seconds from the end of step `--warm-up` to the end of the last, and the network's parameters, as JSON.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import albumentations as A
import cv2
import lightning as L
import segmentation_models_pytorch as smp
import torch
from albumentations.pytorch import ToTensorV2
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassJaccardIndex

IGNORED = 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Folder(Dataset):
    """Images and masks of FOLDER/train, augmented as conf/transform/default_albumentations.yaml does it."""

    def __init__(self, folder: Path, crop_size: int) -> None:
        self.images = sorted((folder / "train" / "images").iterdir())
        self.masks = folder / "train" / "masks"
        self.transform = A.Compose(
            [
                A.RandomScale(scale_limit=0.5, p=0.5),
                A.PadIfNeeded(crop_size, crop_size, fill_mask=IGNORED),
                A.RandomCrop(crop_size, crop_size),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.5),
                A.GaussianBlur(blur_limit=(3, 7), p=0.3),
                A.Normalize(MEAN, STD),
                ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = cv2.imread(str(self.images[index]), cv2.IMREAD_COLOR_RGB)
        mask = cv2.imread(str(self.masks / self.images[index].name), cv2.IMREAD_UNCHANGED)
        sample = self.transform(image=image, mask=mask)
        return sample["image"], sample["mask"].long()


class Segmentation(L.LightningModule):
    def __init__(self, network: torch.nn.Module, classes: int, total_steps: int, options: argparse.Namespace) -> None:
        super().__init__()
        self.network = network
        self.dice = smp.losses.DiceLoss(smp.losses.MULTICLASS_MODE, ignore_index=IGNORED)
        self.cross_entropy = (
            torch.nn.CrossEntropyLoss(ignore_index=IGNORED)
            if options.torch_cross_entropy
            else smp.losses.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=IGNORED)
        )
        self.train_iou = None
        if not options.without_metric:
            self.train_iou = MulticlassJaccardIndex(classes, ignore_index=IGNORED)
        self.total_steps = total_steps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, masks = batch
        logits = self(images)
        loss = self.cross_entropy(logits, masks) + self.dice(logits, masks)
        self.log("train/loss", loss, prog_bar=True)
        if self.train_iou is not None:
            self.train_iou.update(logits.argmax(dim=1), masks)
            self.log("train/iou", self.train_iou, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, self.total_steps, power=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Timer(L.Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer, *rest) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


class Segkits(torch.nn.Module):
    """segkit's own network, without its normalisation, at the size of the images."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        network.normalize = torch.nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.network(images).logits
        return torch.nn.functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def make_network(name: str, classes: int) -> torch.nn.Module:
    if name == "smp":
        return smp.DeepLabV3Plus("tu-resnet18", encoder_weights=None, classes=classes)
    from segkit.models.backbones.timm_backbone import TimmBackbone
    from segkit.models.heads.deeplabv3plus import DeepLabV3PlusHead
    from segkit.models.segmenter import Segmenter

    return Segkits(
        Segmenter(
            lambda **extra: TimmBackbone("resnet18", **extra),
            DeepLabV3PlusHead,
            num_classes=classes,
            mean=MEAN,
            std=STD,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--network", choices=("smp", "segkit"), default="smp")
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--crop-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--without-metric", action="store_true")
    parser.add_argument("--torch-cross-entropy", action="store_true")
    parser.add_argument("--logs", type=Path, required=True)
    options = parser.parse_args()
    L.seed_everything(0)
    data = Folder(options.folder, options.crop_size)
    loader = DataLoader(
        data,
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    network = make_network(options.network, options.classes)
    module = Segmentation(network, options.classes, options.steps, options)
    if options.channels_last:
        module = module.to(memory_format=torch.channels_last)
    timer = Timer()
    trainer = L.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision=options.precision,
        max_steps=options.steps,
        max_epochs=math.ceil(options.steps / len(loader)),
        logger=CSVLogger(options.logs),
        callbacks=[ModelCheckpoint(dirpath=options.logs / "checkpoints"), timer],
    )
    trainer.fit(module, loader)
    seconds = timer.ends[-1] - timer.ends[options.warm_up - 1]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(json.dumps({"seconds": seconds, "steps": len(timer.ends) - options.warm_up, "parameters": parameters}))


if __name__ == "__main__":
    main()
