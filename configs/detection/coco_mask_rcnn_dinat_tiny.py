"""Mask R-CNN on dinat_tiny, 36 epochs (3x).

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train detection/coco_mask_rcnn_dinat_tiny data.root=COCO
Source:    Hassani and Shi, arXiv:2209.15001;
           SHI-Labs/Neighborhood-Attention-Transformer, detection/configs/dinat/mask_rcnn_dinat_tiny_3x_coco.py
Hardware:  8 GPUs in the published run, 2 images each; we have not run this recipe
Published: box AP 48.6, mask AP 43.5 (by the authors)

The other sizes are model.name=dinat_mini (published 47.2 and 42.5) and model.name=dinat_small
model.drop_path_rate=0.35 (published 49.3 and 44.0). The published run applies weight decay to biases, timm's
optimizers do not.
"""

task = "detection"
seed = 0
epochs = 36
batch_size = 16
workers = None

model = dict(name="dinat_tiny", pretrained=True, drop_path_rate=0.2)
# the shorter side of each image is drawn from these in training; the last one is for evaluation
detector = dict(
    head="mask_rcnn",
    min_size=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    normalize_features=True,
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
