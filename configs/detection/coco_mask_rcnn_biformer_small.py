"""Mask R-CNN on biformer_small, 12 epochs (1x).

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train detection/coco_mask_rcnn_biformer_small data.root=COCO
Source:    Zhu et al., arXiv:2303.08810;
           rayleizhu/BiFormer, object_detection/configs/coco/maskrcnn.1x.biformer_small.py
Hardware:  8 GPUs in the published run, 2 images each; we have not run this recipe
Published: box AP 47.8, mask AP 43.2 in the paper, 48.1 and 43.6 in the repository (by the authors)

The larger model is model.name=biformer_base model.drop_path_rate=0.3 (published 48.6 and 43.7). The published run
trains the scale and shift of the backbone's batch norm, this recipe does not.
"""

task = "detection"
seed = 0
epochs = 12
batch_size = 16
workers = None
precision = "float16"

# 16 x 16 regions instead of 7 x 7, because the images are larger
model = dict(name="biformer_small", pretrained=True, regions=16, auto_pad=True, drop_path_rate=0.2)
detector = dict(head="mask_rcnn", normalize_features=True, frozen_batchnorm=True)

data = dict(name="coco", root="data/coco")
augment = [dict(type="RandomHorizontalFlip")]

optimizer = dict(opt="adamw", lr=1e-4, weight_decay=0.05)
# warmup over the first 500 steps of 16 images
schedule = dict(sched="multistep", decay_milestones=[8, 11], decay_rate=0.1, warmup_epochs=0.0682, warmup_lr=1e-7)
