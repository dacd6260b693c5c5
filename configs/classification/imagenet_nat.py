"""NAT on ImageNet-1k from scratch, with the recipe of the authors.

The folder data/imagenet contains train/ and val/, each with one folder per class. data.root=... sets another folder,
data.name=wds data.classes=1000 reads shards. Settings and results are from the authors; we have not run this recipe.

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train classification/imagenet_nat
           model.name=nat_mini, nat_small or nat_base: the same recipe, with its own drop path rate
Hardware:  128 images per GPU. The script does not set the number of GPUs; 8 give 1024 as in Swin, whose recipe is used
Source:    Hassani et al., CVPR 2023 (arXiv:2204.07143);
           github.com/SHI-Labs/Neighborhood-Attention-Transformer, classification/configs/nat_tiny.yml
           and the defaults of classification/train.py
Published: top-1 81.8 nat_mini, 83.2 nat_tiny, 83.7 nat_small, 84.3 nat_base
"""

seed = 0
epochs = 310
batch_size = 1024

model = dict(name="nat_tiny")
data = dict(name="imagefolder", root="data/imagenet", input_size=(3, 224, 224), crop_pct=0.875, interpolation="bicubic")
workers = None

augment = dict(
    auto_augment="rand-m9-mstd0.5-inc1", interpolation="random", re_prob=0.25, re_mode="pixel", color_jitter=0.4
)
mixup = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5)
loss = dict(label_smoothing=0.1)

optimizer = dict(opt="adamw", lr=1e-3, weight_decay=0.05)
schedule = dict(sched="cosine", num_epochs=300, cooldown_epochs=10, warmup_epochs=20, warmup_lr=1e-6, min_lr=5e-6)
clip_grad = 5.0
precision = "float16"
