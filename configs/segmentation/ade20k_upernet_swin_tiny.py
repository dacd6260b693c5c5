"""UPerNet on zoo_swin_tiny_patch4_window7_224, ADE20K, 160,000 steps.

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train segmentation/ade20k_upernet_swin_tiny data.root=ADE
Source:    Liu et al., arXiv:2103.14030;
           SwinTransformer/Swin-Transformer-Semantic-Segmentation, configs/swin
Hardware:  8 GPUs in the published run, 2 images each; we have not run this recipe
Published: mIoU 44.5 at one scale (by the authors)

The other sizes are published with 47.6 (small) and 48.1 (base). `classes.txt` in the folder of the data has the 150
names, one per line. The published run also has an auxiliary head, crops in which no class fills more than three
quarters, and validates whole images instead of windows.
"""

task = "segmentation"
seed = 0
# 160,000 steps
epochs = 127
batch_size = 16
workers = 4

model = dict(name="zoo_swin_tiny_patch4_window7_224", pretrained=True, drop_path_rate=0.3)
decoder = dict(name="upernet", channels=512)

data = dict(
    name="maskfolder", root="data/ADEChallengeData2016", class_map="classes.txt", first_label=1,
    input_size=(3, 512, 512), interpolation="bilinear", resize="cover",
)  # fmt: skip
augment = [
    dict(type="RandomResize", min_size=256, max_size=1024),
    dict(type="RandomHorizontalFlip"),
    dict(type="RandomPhotometricDistort"),
]

optimizer = dict(opt="adamw", lr=6e-5, weight_decay=0.01)
# falls linearly to 0, after a warmup over the first 1500 steps
schedule = dict(sched="poly", decay_rate=1.0, min_lr=0, warmup_epochs=1.19, warmup_lr=6e-11)
