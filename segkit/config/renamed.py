"""Modules that have moved, so that what an earlier version wrote still names its classes.

Checkpoints, studies and config files hold dotted names. Version 0.1 had those on the left.
"""

from __future__ import annotations

from typing import Any

RENAMED = {
    "segkit.models.ranges": "segkit.config.types",
    "segkit.engine.run_folder": "segkit.run.run_folder",
    "segkit.engine.strategy.base": "segkit.engine.strategy.single_device",
    "segkit.engine.checkpoint": "segkit.run.checkpoint",
    "segkit.engine.checkpoint_keeper": "segkit.run.checkpoint_store",
    "segkit.tracking.provenance": "segkit.run.provenance",
    "segkit.data.source": "segkit.data.datasets.source",
    "segkit.data.files": "segkit.data.datasets.image_mask",
    "segkit.data.views": "segkit.data.datasets.subsets",
    "segkit.data.decoded_cache": "segkit.data.datasets.decoded_cache",
    "segkit.data.table": "segkit.data.datasets.csv_table",
    "segkit.data.folder": "segkit.data.datasets.folder",
    "segkit.data.split_lists": "segkit.data.datasets.split_lists",
    "segkit.data.shapes": "segkit.data.datasets.shapes",
    "segkit.data.ade20k": "segkit.data.datasets.ade20k",
    "segkit.data.bdd100k": "segkit.data.datasets.bdd100k",
    "segkit.data.cityscapes": "segkit.data.datasets.cityscapes",
    "segkit.data.coco_stuff": "segkit.data.datasets.coco_stuff",
    "segkit.data.lip": "segkit.data.datasets.lip",
    "segkit.data.mapillary": "segkit.data.datasets.mapillary",
    "segkit.data.sbd": "segkit.data.datasets.sbd",
    "segkit.data.voc": "segkit.data.datasets.voc",
    "segkit.data.reading": "segkit.data.files.decode",
    "segkit.data.content": "segkit.data.files.bounded",
    "segkit.data.tiff": "segkit.data.files.tiff",
    "segkit.data.file_list": "segkit.data.files.file_list",
    "segkit.data.pairing": "segkit.data.files.pairing",
    "segkit.data.label_map": "segkit.data.files.label_map",
    "segkit.data.inspection": "segkit.data.files.inspection",
    "segkit.data.fused": "segkit.data.transforms.fused",
    "segkit.data.windows": "segkit.data.transforms.crop_window",
    "segkit.data.pixel_steps": "segkit.data.transforms.color",
    "segkit.data.copy_paste": "segkit.data.transforms.copy_paste",
    "segkit.data.transforms": "segkit.data.transforms.albumentations_pipeline",
    "segkit.data.augmentation": "segkit.data.transforms.apply",
    "segkit.data.workers": "segkit.data.workers.pool",
    "segkit.data.worker_process": "segkit.data.workers.process",
    "segkit.data.worker_faults": "segkit.data.workers.faults",
    "segkit.data.keyed_samples": "segkit.data.workers.samples",
    "segkit.data.collating": "segkit.data.workers.collate",
    "segkit.data.equal_sizes": "segkit.data.workers.same_size",
    "segkit.data.statistics": "segkit.data.statistics.counts",
    "segkit.data.class_weights": "segkit.data.statistics.class_weights",
    "segkit.data.folds": "segkit.data.statistics.folds",
    "segkit.data.stratification": "segkit.data.statistics.stratification",
    "segkit.data.recognition": "segkit.data.discovery.layout",
    "segkit.data.mask_survey": "segkit.data.discovery.mask_survey",
    "segkit.data.class_names": "segkit.data.discovery.class_names",
    "segkit.models.backbone": "segkit.models.backbones.timm_backbone",
    "segkit.models.timm_source": "segkit.models.backbones.timm_models",
    "segkit.models.mit": "segkit.models.backbones.mix_transformer",
    "segkit.models.pyramid": "segkit.models.backbones.pyramid",
    "segkit.models.atrous": "segkit.models.layers.atrous",
    "segkit.models.batch_norm": "segkit.models.layers.batch_norm",
    "segkit.models.normalization": "segkit.models.layers.normalization",
    "segkit.models.heads.layers": "segkit.models.layers.head_blocks",
    "segkit.models.realtime.layers": "segkit.models.layers.realtime_blocks",
    "segkit.models.unet": "segkit.models.networks.unet",
    "segkit.models.simple_unet": "segkit.models.networks.simple_unet",
    "segkit.models.eomt": "segkit.models.networks.eomt",
    "segkit.models.smp": "segkit.models.networks.smp",
    "segkit.losses.resizing": "segkit.losses.tiled.resize",
    "segkit.losses.bands": "segkit.losses.tiled.tiling",
    "segkit.losses.readings": "segkit.losses.tiled.probabilities",
    "segkit.losses.sums": "segkit.losses.tiled.class_sums",
    "segkit.losses.one_class": "segkit.losses.tiled.per_class",
    "segkit.metrics.listed": "segkit.metrics.torchmetric",
    "segkit.predict.whole": "segkit.predictors.whole_image",
    "segkit.predict.sliding": "segkit.predictors.sliding",
    "segkit.engine.learning": "segkit.engine.components",
    "segkit.engine.recording": "segkit.engine.outputs",
    "segkit.engine.interrupts": "segkit.engine.signals",
    "segkit.tracking.mlflow": "segkit.tracking.mlflow.tracker",
    "segkit.tracking.store": "segkit.tracking.mlflow.client",
    "segkit.tracking.names": "segkit.tracking.mlflow.keys",
    "segkit.tracking.delivery": "segkit.tracking.mlflow.delivery",
    "segkit.tracking.run_folder": "segkit.run.record",
    "segkit.tracking.figures": "segkit.reporting.figures",
    "segkit.tracking.panels": "segkit.reporting.panels",
    "segkit.tracking.sample_sheet": "segkit.reporting.sample_sheet",
    "segkit.tracking.data_page": "segkit.reporting.dataset_page",
    "segkit.sweep_record": "segkit.sweep.summary_run",
}


def with_current_names(config: Any) -> Any:
    """A copy of a plain config in which every `_target_` is the class's current name."""
    if isinstance(config, dict):
        return {
            name: _current(value) if name == "_target_" else with_current_names(value)
            for name, value in config.items()  # pyright: ignore
        }
    return [with_current_names(value) for value in config] if isinstance(config, list) else config  # pyright: ignore


def _current(target: Any) -> Any:
    module, _, name = str(target).rpartition(".")
    return f"{RENAMED[module]}.{name}" if module in RENAMED else target
