"""RetinaNet on biformer_small, 12 epochs (1x).

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train detection/coco_retinanet_biformer_small data.root=COCO
Source:    Zhu et al., arXiv:2303.08810;
           rayleizhu/BiFormer, object_detection/configs/coco/retinanet.1x.biformer_small.py
Hardware:  8 GPUs in the published run, 2 images each; we have not run this recipe
Published: box AP 45.9 in the paper, 47.3 in the repository (by the authors)

The larger model is model.name=biformer_base model.drop_path_rate=0.3 (published 47.1). The published run trains the
scale and shift of the backbone's batch norm and uses a constant loss scale of 512; this recipe does neither.
"""

task = "detection"
seed = 0
epochs = 12
batch_size = 16
workers = None
precision = "float16"

# features from stride 8 on; 16 x 16 regions instead of 7 x 7, because the images are larger
model = dict(
    name="biformer_small", pretrained=True, out_indices=(1, 2, 3), regions=16, auto_pad=True, drop_path_rate=0.2
)
detector = dict(head="retinanet", normalize_features=True, frozen_batchnorm=True)

data = dict(name="coco", root="data/coco")
augment = [dict(type="RandomHorizontalFlip")]

optimizer = dict(opt="adamw", lr=1e-4, weight_decay=0.0001)
# warmup over the first 500 steps of 16 images
schedule = dict(sched="multistep", decay_milestones=[8, 11], decay_rate=0.1, warmup_epochs=0.0682, warmup_lr=1e-7)
