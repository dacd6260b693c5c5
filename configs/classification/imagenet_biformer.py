"""BiFormer on ImageNet-1k from scratch, with the recipe of the authors.

The folder data/imagenet contains train/ and val/, each with one folder per class. data.root=... sets another folder,
data.name=wds data.classes=1000 reads shards. Settings and results are from the authors; we have not run this recipe.

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train classification/imagenet_biformer
           model.name=biformer_tiny or biformer_base: the same recipe, with its own drop path rate; biformer_stl:
           batch_size=1024 optimizer.lr=1e-3
Hardware:  16 GPUs on two machines, 128 images each
Source:    Zhu et al., CVPR 2023 (arXiv:2303.08810); github.com/rayleizhu/BiFormer, scripts/train.sh and
           configs/train_args.yaml; the learning rate is that for 512 images, times 4
Published: top-1 81.4 biformer_tiny, 83.8 biformer_small, 84.3 biformer_base. The authors also
           averaged the weights (decay 0.99996), but evaluated the weights that were not averaged
"""

seed = 0
epochs = 300
batch_size = 2048
# repeated augmentation as in DeiT: each image three times
repeats = 3

model = dict(name="biformer_small")
data = dict(name="imagefolder", root="data/imagenet", input_size=(3, 224, 224), crop_pct=0.875, interpolation="bicubic")
workers = None

augment = dict(
    auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", re_prob=0.25, re_mode="pixel", color_jitter=0.4
)
mixup = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5)
loss = dict(label_smoothing=0.1)

optimizer = dict(opt="adamw", lr=2e-3, weight_decay=0.05)
schedule = dict(sched="cosine", warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5, step_on_epochs=True)
precision = "float16"
