"""Mask R-CNN on overlock_t, 36 epochs (3x).

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train detection/coco_mask_rcnn_overlock_t_3x data.root=COCO
Source:    Lou and Yu, arXiv:2502.20087;
           LMMMEng/OverLoCK, detection/configs/maskrcnn_overlock/mask_rcnn_overlock_t_in1k_fpn_3x_coco.py
Hardware:  8 GPUs in the published run, 2 images each; we have not run this recipe
Published: box AP 49.6, mask AP 43.9 (by the authors)

The other sizes are model.name=overlock_s model.drop_path_rate=0.4 (published 51.0 and 45.0) and model.name=overlock_b
model.drop_path_rate=0.6 (published 51.4 and 45.3).
"""

task = "detection"
seed = 0
epochs = 36
batch_size = 16
workers = None
sync_batchnorm = True

model = dict(name="overlock_t", pretrained=True, drop_path_rate=0.2)
# batch norm is trained, synchronized over all processes
detector = dict(
    head="mask_rcnn",
    min_size=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    normalize_features=True,
    frozen_batchnorm=False,
)

data = dict(name="coco", root="data/coco")
# crop half of the images as in DETR; the published crops have sides of 384 to 600 pixels
augment = [
    dict(type="RandomHorizontalFlip"),
    dict(
        type="RandomChoice",
        transforms=[
            dict(type="Identity"),
            dict(
                type="Compose",
                transforms=[
                    dict(type="RandomShortestSize", min_size=[400, 500, 600], max_size=1333),
                    dict(type="RandomCrop", size=(384, 384), pad_if_needed=True),
                ],
            ),
        ],
    ),
]

optimizer = dict(opt="adamw", lr=1e-4, weight_decay=0.05)
# warmup over the first 500 steps of 16 images
schedule = dict(sched="multistep", decay_milestones=[27, 33], decay_rate=0.1, warmup_epochs=0.0682, warmup_lr=1e-7)
