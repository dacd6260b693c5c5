"""RetinaNet on zoo_shvit_s4, 12 epochs (1x).

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train detection/coco_retinanet_shvit_s4 data.root=COCO
Source:    Yun and Ro, arXiv:2401.16456;
           ysj9909/SHViT, downstream/configs/retinanet_shvit_s4_fpn_1x_coco.py
Hardware:  8 GPUs in the published run, 2 images each; we have not run this recipe
Published: box AP 38.8, AP50 59.8, AP75 41.1 (by the authors)

The backbone starts at stride 16. Finer levels are computed from it by transposed convolutions, 3 x 3 in the published
run and 2 x 2 here. The published run trains the scale and shift of the backbone's batch norm, this recipe does not.
"""

task = "detection"
seed = 0
epochs = 12
batch_size = 16
workers = None

model = dict(name="zoo_shvit_s4", pretrained=True)
detector = dict(head="retinanet", finer_levels=1, coarser_levels=1, frozen_batchnorm=True)

data = dict(name="coco", root="data/coco")
augment = [dict(type="RandomHorizontalFlip")]

optimizer = dict(opt="adamw", lr=1e-4, weight_decay=0.05)
# warmup over the first 500 steps of 16 images
schedule = dict(sched="multistep", decay_milestones=[8, 11], decay_rate=0.1, warmup_epochs=0.0682, warmup_lr=1e-7)
