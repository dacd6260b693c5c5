"""OverLoCK on ImageNet-1k from scratch, with the recipe of the authors.

The folder data/imagenet contains train/ and val/, each with one folder per class. data.root=... sets another folder,
data.name=wds data.classes=1000 reads shards. Settings and results are from the authors; we have not run this recipe.

Command:   torchrun --nproc-per-node 8 -m attnzoo.tools.train classification/imagenet_overlock
           model.name=overlock_xt, overlock_s or overlock_b: the same recipe, with its own drop path rate
Hardware:  8 GPUs, 256 images each
Source:    Lou and Yu, CVPR 2025 (arXiv:2502.20087); github.com/LMMMEng/OverLoCK, scripts/train_t_model.sh
           and the defaults of train.py; --auto-lr sets the learning rate to 1e-3 for 1024 images, times 2
Published: top-1 82.7 overlock_xt, 84.2 overlock_t, 84.8 overlock_s, 85.1 overlock_b
"""

seed = 0
epochs = 310
batch_size = 2048

model = dict(name="overlock_t", aux_head=True)
data = dict(name="imagefolder", root="data/imagenet", input_size=(3, 224, 224), crop_pct=0.95, interpolation="bicubic")
workers = None

augment = dict(
    auto_augment="rand-m9-mstd0.5-inc1", interpolation="random", re_prob=0.25, re_mode="pixel", color_jitter=0.4
)
mixup = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5)
loss = dict(label_smoothing=0.1)
aux_loss_weight = 0.4

optimizer = dict(opt="adamw", lr=2e-3, weight_decay=0.05)
schedule = dict(
    sched="cosine",
    num_epochs=300,
    cooldown_epochs=10,
    warmup_epochs=5,
    warmup_lr=1e-6,
    min_lr=1e-5,
    step_on_epochs=True,
)
ema = dict(decay=0.9999)
sync_batchnorm = True
clip_grad = 5.0
precision = "float16"
