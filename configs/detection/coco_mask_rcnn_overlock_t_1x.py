"""Mask R-CNN on overlock_t, 12 epochs (1x).

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train detection/coco_mask_rcnn_overlock_t_1x data.root=COCO
Source:    Lou and Yu, arXiv:2502.20087;
           LMMMEng/OverLoCK, detection/configs/maskrcnn_overlock/mask_rcnn_overlock_t_in1k_fpn_1x_coco.py
Hardware:  8 GPUs in the published run, 2 images each; we have not run this recipe
Published: box AP 48.3, mask AP 43.3 (by the authors)

The other sizes are model.name=overlock_s model.drop_path_rate=0.4 (published 49.4 and 44.0) and model.name=overlock_b
model.drop_path_rate=0.6 (published 49.9 and 44.4).
"""

task = "detection"
seed = 0
epochs = 12
batch_size = 16
workers = None
sync_batchnorm = True

model = dict(name="overlock_t", pretrained=True, drop_path_rate=0.2)
# batch norm is trained, synchronized over all processes
detector = dict(head="mask_rcnn", normalize_features=True, frozen_batchnorm=False)

data = dict(name="coco", root="data/coco")
augment = [dict(type="RandomHorizontalFlip")]

optimizer = dict(opt="adamw", lr=2e-4, weight_decay=0.05)
# warmup over the first 500 steps of 16 images
schedule = dict(sched="multistep", decay_milestones=[8, 11], decay_rate=0.1, warmup_epochs=0.0682, warmup_lr=2e-7)
