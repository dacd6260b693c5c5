"""SHViT on ImageNet-1k from scratch, with the recipe of the authors.

The folder data/imagenet contains train/ and val/, each with one folder per class. data.root=... sets another folder,
data.name=wds data.classes=1000 reads shards. Settings and results are from the authors; we have not run this recipe.

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train classification/imagenet_shvit
           zoo_shvit_s1, s2, s3: data.input_size=3,224,224 optimizer.weight_decay=0.025, 0.032, 0.035
Hardware:  8 GPUs, 256 images each
Source:    Yun and Ro, CVPR 2024 (arXiv:2401.16456); github.com/ysj9909/SHViT, README.md and the defaults
           of main.py; the learning rate is that for 512 images, times 4
Published: top-1 72.8 zoo_shvit_s1, 75.2 zoo_shvit_s2, 77.4 zoo_shvit_s3, 79.4 zoo_shvit_s4. The authors
           also averaged the weights (decay 0.99996), but evaluated the weights that were not averaged
"""

seed = 0
epochs = 300
batch_size = 2048
# repeated augmentation as in DeiT: each image three times
repeats = 3

model = dict(name="zoo_shvit_s4")
data = dict(name="imagefolder", root="data/imagenet", input_size=(3, 256, 256), crop_pct=0.875, interpolation="bicubic")
workers = None

augment = dict(
    auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", re_prob=0.25, re_mode="pixel", color_jitter=0.4
)
mixup = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5)
loss = dict(label_smoothing=0.1)

optimizer = dict(opt="adamw", lr=4e-3, weight_decay=0.03)
schedule = dict(sched="cosine", warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5, step_on_epochs=True)
clip_grad = 0.02
clip_mode = "agc"
